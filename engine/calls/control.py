"""What the tools of an agent may do to its call, over the provider's REST API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import httpx
import trio

from engine.calls.gate import Gate
from engine.calls.meters import CallMeters
from engine.errors import VendorError, Why
from engine.events import CallInfo
from engine.observe.labels import VendorKind
from engine.ports import Ability, Owner, Provider, ResourceKind

CONTROL_S: Final = 5.0
"""For the provider to do what it is asked."""


class LiveControl:
    """Implements ``engine.ports.CallControl`` for one call. ``number`` tells the caller's number in E.164, or nothing
    where there is none, or none any more: texts go there and nowhere else."""

    def __init__(
        self,
        provider: Provider,
        call: CallInfo,
        owner: Owner,
        meters: CallMeters,
        *,
        new_http_client: Callable[[], httpx.AsyncClient],
        number: Callable[[], str],
    ) -> None:
        self._provider = provider
        self._call = call
        self._owner = owner
        self._meters = meters
        self._new_http_client = new_http_client
        self._number = number
        self._gate = Gate()

    @property
    def abilities(self) -> frozenset[Ability]:
        abilities = self._provider.control.abilities
        return abilities if self._number() and self._call.dialled else abilities - {Ability.SEND_TEXT}

    async def send_text(self, text: str) -> None:
        """From the number that was dialled. Raises VendorError, trio.TooSlowError."""
        number = self._number()
        if not number:
            raise VendorError(self._call.provider, "the caller has no number", why=Why.BAD_REQUEST)
        async with self._client() as client:
            await self._provider.control.send_text(self._call.dialled, number, text, client)

    async def press(self, digits: str) -> None:
        async with self._client() as client:
            await self._provider.control.press(self._call.call_id, digits, client)

    def thinking(self, gate: Gate) -> None:
        """An answer is being thought of: it is certain once its gate is open."""
        self._gate = gate

    async def certain(self) -> None:
        await self._gate.wait()

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client for one request, in the call's ledger; the block is timed, and counted as asked of the provider."""
        name = self._call.provider
        opening = self._new_http_client()
        with trio.fail_after(CONTROL_S) as asking:
            async with self._owner.own(
                ResourceKind.HTTP_CLIENT, name, opening, is_closed=lambda client: client.is_closed
            ) as client:
                with self._meters.asked(VendorKind.TELEPHONY, name, asking):
                    yield client
