"""What the engine itself asks of the provider's REST API about a call: to connect its caller to somebody else, to hang
up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import httpx
import structlog
import trio

from engine.calls.meters import CallMeters
from engine.errors import VendorError, Why
from engine.events import CallInfo, Transfer
from engine.observe.labels import VendorKind
from engine.observe.logs import mask_number
from engine.ports import Ability, Owner, ProviderControl, ResourceKind, WarmTransfer

log = structlog.get_logger()

TRANSFER_S: Final = 5.0
"""For the provider to connect a caller to somebody else."""
RING_S: Final = 25.0
"""For somebody to pick up a caller who is announced."""


class CallRest:
    """Of one call. Each request has a client of its own, which ``owner`` owns."""

    def __init__(
        self,
        provider: ProviderControl,
        call: CallInfo,
        owner: Owner,
        meters: CallMeters,
        *,
        new_http_client: Callable[[], httpx.AsyncClient],
        webhooks: Callable[[], str],
    ) -> None:
        """``webhooks``: the public address that our webhooks are below."""
        self.introduced = ""
        """The caller is being transferred: what whoever picks up is told."""
        self.failure: VendorError | None = None
        """Why the last thing that was asked was not done."""
        self._provider = provider
        self._call = call
        self._owner = owner
        self._meters = meters
        self._new_http_client = new_http_client
        self._webhooks = webhooks
        self._log = log.bind(call_id=call.call_id, provider=call.provider)

    async def transfer(self, wanted: Transfer) -> bool:
        """Connect the caller to somebody else in place of us; with a few words where there are any, and the provider
        can pass them on. False if that was not done, and ``failure`` and the log say why."""
        provider, call = self._provider, self._call
        if Ability.TRANSFER not in provider.abilities:
            what = "it cannot transfer calls as it is set up"
            self._failed("transfer_failed", VendorError(call.provider, what, why=Why.BAD_REQUEST))
            return False
        is_warm = bool(wanted.summary) and Ability.WARM_TRANSFER in provider.abilities
        self._log.info("transferring", target=mask_number(wanted.to), is_warm=is_warm)
        self.introduced = wanted.summary if is_warm else ""

        async def ask(client: httpx.AsyncClient) -> None:
            if is_warm:
                order = WarmTransfer(wanted.to, call.dialled, self._webhooks(), RING_S)
                await provider.introduce(call.call_id, order, client)
            else:
                await provider.transfer(call.call_id, wanted.to, call.dialled, client)

        is_done = await self._asked("transfer_failed", ask, TRANSFER_S)
        if not is_done:
            self.introduced = ""
        return is_done

    @property
    def hangs_up(self) -> bool:
        return Ability.HANG_UP in self._provider.abilities

    async def hang_up(self, within_s: float) -> None:
        """If the provider can be asked to."""
        provider, call_id = self._provider, self._call.call_id
        if self.hangs_up:
            await self._asked("hang_up_failed", lambda client: provider.hang_up(call_id, client), within_s)

    async def _asked(self, failed: str, ask: Callable[[httpx.AsyncClient], Awaitable[None]], within_s: float) -> bool:
        """False, and ``failed`` in the log, if it was not done."""
        name = self._call.provider
        opening = self._new_http_client()
        with trio.move_on_after(within_s) as asking:
            try:
                async with self._owner.own(
                    ResourceKind.HTTP_CLIENT, name, opening, is_closed=lambda client: client.is_closed
                ) as client:
                    began_at_s = trio.current_time()
                    with self._meters.asked(VendorKind.TELEPHONY, name, asking):
                        await ask(client)
                    self._meters.connected(VendorKind.TELEPHONY, name, trio.current_time() - began_at_s)
                    return True
            except VendorError as exc:
                self._failed(failed, exc)
                return False
        self._failed(failed, VendorError(name, "no answer in time", why=Why.TIMEOUT))
        return False

    def _failed(self, what: str, failure: VendorError) -> None:
        self.failure = failure
        self._log.warning(what, detail=str(failure))
