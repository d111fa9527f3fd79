"""Calls that we make: who may be called, one call for one key, and what becomes of each."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import httpx
import structlog
import trio

from engine.calls.outbound.dials import STATE_OF, DialFault, Dialled, DialRefused, DialState, Wanted
from engine.calls.outbound.once import Asked, OnceTable
from engine.calls.outbound.tolls import why_not_to
from engine.calls.registry import Registry
from engine.calls.returning import RETURN_S
from engine.calls.slots import Refusal, Slot
from engine.errors import CallEnd, Cause, VendorError, Why
from engine.observe.labels import DialOutcome, WebhookEvent
from engine.observe.masking import mask_number
from engine.observe.metrics import Metrics
from engine.ports import Ability, CallStatus, Dial, IncomingCall, Provider, WebhookKind
from engine.runtime.mailbox import MailboxClosed, MailboxFull
from engine.runtime.rates import RateLimiter
from engine.settings import Settings
from engine.settings.providers import lacking_to_dial
from engine.settings.tables import digits_of

log = structlog.get_logger()

ASK_S: Final = 5.0
"""For the provider to take a call."""
SLACK_S: Final = 30.0
"""After the ringing, for the provider to say that nobody answered, or for its media to come."""
KEPT: Final = 1000
"""Dials that can be asked for, the last ones."""
LOOK_S: Final = 1.0
_DUNNO: Final = frozenset({Why.TIMEOUT, Why.CUT})
"""Failures after which the call may be under way all the same."""

Tell = Callable[[WebhookEvent, str, str, Mapping[str, object]], None]


class Dialing:
    """``run`` it in a task beside the registry. ``base_url`` tells under which address providers reach us."""

    def __init__(
        self,
        registry: Registry,
        providers: Mapping[str, Provider],
        settings: Settings,
        metrics: Metrics,
        new_http_client: Callable[[], httpx.AsyncClient],
        *,
        base_url: Callable[[], str],
        tell: Tell = lambda *_: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._providers = providers
        self._settings = settings
        self._outbound = settings.outbound
        self._metrics = metrics
        self._new_http_client = new_http_client
        self._base_url = base_url
        self._tell = tell
        self._now = now
        self._limiter = RateLimiter(settings.outbound.calls_per_minute)
        self._once: OnceTable[Dialled] = OnceTable()
        self._dials: OrderedDict[str, Dialled] = OrderedDict()
        self._preparing = 0
        """Those that wait for a place."""

    # --- asked by people ------------------------------------------------------------------------------------

    async def dial(self, wanted: Wanted, *, by: str = "", key: str = "") -> Dialled:
        """Make a call. The same ``key`` of the same ``by`` makes no second one: it gets the first one's answer, for a
        day, in this process.

        Raises DialRefused when nothing was dialled, and VendorError when the provider did not take it.
        """
        dial = await (self._once_for((by, key), wanted) if key else self._make(wanted, None))
        if dial.failure is not None:
            raise dial.failure
        return dial

    def find(self, dial_id: str) -> Dialled | None:
        return self._dials.get(dial_id)

    def under_way(self) -> list[Dialled]:
        """Those that have not ended, the oldest first."""
        return [dial for dial in self._dials.values() if not dial.is_over]

    def of_slot(self, slot: Slot) -> Dialled | None:
        return next((one for one in self._dials.values() if one.held == slot.incoming.dial), None)

    async def hang_up(self, dial: Dialled) -> None:
        """Before it is answered. Raises VendorError, trio.TooSlowError."""
        provider = self._providers[dial.provider]
        if dial.call_id and Ability.HANG_UP in provider.control.abilities:
            with trio.fail_after(ASK_S):
                async with self._new_http_client() as client:
                    await provider.control.hang_up(dial.call_id, client)
        self._finish(dial, DialState.NO_ANSWER)

    async def settle(self) -> None:
        """Nobody will be there to answer for them any more: what still rings is hung up. At most ``ASK_S``."""
        with trio.move_on_after(ASK_S):
            async with trio.open_nursery() as nursery:
                for dial in self.under_way():
                    if not dial.is_connected:
                        nursery.start_soon(self._drop, dial)

    async def forget(self, number: str) -> None:
        """Of the calls to this number only their ids and their ends stay known."""
        for dial in self._dials.values():
            if dial.to == number:
                dial.forget()

    async def run(self) -> None:
        """Give up what nobody answers and no provider tells of, until cancelled."""
        while True:
            await trio.sleep(LOOK_S)
            now = trio.current_time()
            for dial in self.under_way():
                if dial.slot is None and now >= dial.until_s:
                    self._finish(dial, _given_up(dial))

    # --- told by the provider, and by the call --------------------------------------------------------------

    def recognise(self, provider: str, call: IncomingCall, token: str) -> IncomingCall | None:
        """A call that was answered, with its held place; None if we have not made it, or it is over."""
        dial = self._of_token(provider, token)
        if dial is None or dial.is_over or (dial.is_connected and dial.call_id != call.call_id):
            return None
        if dial.to and call.caller and digits_of(call.caller) != digits_of(dial.to):
            return None
        dial.call_id, dial.is_connected = call.call_id, True
        dial.until_s = trio.current_time() + self._settings.limits.token_s + SLACK_S
        dial.reach(DialState.ANSWERED)
        self._note_who(dial, call.answered_by)
        return replace(
            call,
            caller=dial.to or call.caller,
            dialled=dial.sender,
            parameters={**call.parameters, **dial.parameters},
            attestation="",
            is_outbound=True,
            dial=dial.held,
            agent=dial.agent,
        )

    def on_status(self, provider: str, status: CallStatus, token: str) -> None:
        """News of any call; of those that we do not make it is of no interest here."""
        dial = self._of_token(provider, token) if token else self._of_call(provider, status.call_id)
        if dial is None or dial.is_over:
            return
        dial.call_id = dial.call_id or status.call_id
        if dial.call_id != status.call_id and dial.is_connected:
            return  # of another leg
        state = STATE_OF.get(status.status, DialState.QUEUED)
        if not status.is_over:
            dial.reach(state)
            self._note_who(dial, status.answered_by)
        elif dial.slot is None:
            self._finish(dial, state)
        # Else its call ends by this very news, and the dial with it.

    def joined(self, slot: Slot) -> None:
        """It has its place; nothing of it is open yet."""
        dial = self.of_slot(slot)
        if dial is not None:
            dial.slot, dial.was_joined = slot, True
            if dial.answered_by == "machine":
                self._meet_machine(dial)

    def left(self, slot: Slot) -> None:
        dial = self.of_slot(slot)
        if dial is not None and dial.slot is slot:
            dial.slot = None
            if slot.may_return:
                dial.until_s = trio.current_time() + RETURN_S + self._settings.limits.token_s
            else:
                self._finish(dial, DialState.COMPLETED)

    # --- making one -----------------------------------------------------------------------------------------

    async def _once_for(self, key: tuple[str, str], wanted: Wanted) -> Dialled:
        while (asked := self._once.find(key)) is not None:
            if not self._once.is_same(asked, wanted):
                raise DialRefused(DialFault.CONFLICT, "This Idempotency-Key was used for something else.")
            await asked.done.wait()
            if asked.result is not None:
                return asked.result
            await trio.lowlevel.checkpoint()
        asked = self._once.begin(key, wanted)
        try:
            return await self._make(wanted, asked)
        finally:
            if asked.result is None:
                self._once.give_up(key, asked)
            asked.done.set()

    async def _make(self, wanted: Wanted, asked: Asked[Dialled] | None) -> Dialled:
        try:
            dial = await self._prepare(wanted)
        except DialRefused as refusal:
            name = wanted.provider or self._outbound.numbers.get(wanted.sender, "other")
            self._metrics.dials_total.labels(provider=name, outcome=DialOutcome.REFUSED).inc()
            log.warning("dial_refused", reason=str(refusal.fault), to=mask_number(wanted.to))
            raise
        # From here on there may be a call: whoever asks again with the key is told of this one.
        if asked is not None:
            asked.result = dial
        self._keep(dial)
        log.info("dialling", dial_id=dial.dial_id, provider=dial.provider, agent=dial.agent, to=mask_number(dial.to))
        await self._ask(dial)
        return dial

    async def _prepare(self, wanted: Wanted) -> Dialled:
        """Everything that may be in the way is asked first, and a place is held last. Raises DialRefused."""
        outbound = self._outbound
        if not outbound.enabled:
            raise DialRefused(DialFault.DISABLED, "No calls are made here: outbound.enabled is false.")
        sender, provider = self._way(wanted)
        if why := why_not_to(wanted.to, outbound):
            raise DialRefused(DialFault.NOT_ALLOWED, why)
        if wanted.agent and wanted.agent not in self._settings.agents:
            known = ", ".join(self._settings.agents)
            raise DialRefused(DialFault.NO_AGENT, f"agent: there is no such agent; there are: {known}")
        detects = outbound.detect_machine if wanted.detects_machine is None else wanted.detects_machine
        self._check_abilities(provider, detects=detects)
        if len(self.under_way()) + self._preparing >= outbound.max_calls:
            raise DialRefused(DialFault.TOO_MANY, "As many calls as outbound.max_calls allows are under way.", 5.0)
        if not self._limiter.allows("all"):
            message = "More calls a minute than outbound.calls_per_minute allows."
            raise DialRefused(DialFault.RATE_LIMIT, message, self._limiter.wait_s("all"))
        return Dialled(
            dial_id=f"d_{secrets.token_hex(16)}",
            token=secrets.token_urlsafe(24),
            held=await self._hold(),
            to=wanted.to,
            sender=sender,
            provider=provider,
            agent=wanted.agent or self._settings.agent_for(sender),
            detects_machine=detects,
            voicemail=outbound.voicemail if wanted.voicemail is None else wanted.voicemail,
            parameters=dict(wanted.parameters),
            made_at=self._now(),
            made_at_s=trio.current_time(),
            until_s=trio.current_time() + outbound.ring_s + SLACK_S,
        )

    def _way(self, wanted: Wanted) -> tuple[str, str]:
        """Our number, and its provider. Raises DialRefused."""
        for number, provider in self._outbound.numbers.items():
            if wanted.sender in ("", number) and wanted.provider in ("", provider):
                if provider in self._providers:
                    return number, provider
                raise self._not_configured(provider)
        raise DialRefused(DialFault.NO_SENDER, "from, provider: there is no such number of ours in outbound.numbers.")

    def _check_abilities(self, provider: str, *, detects: bool) -> None:
        abilities = self._providers[provider].control.abilities
        if Ability.DIAL not in abilities:
            raise self._not_configured(provider)
        if detects and Ability.DETECT_MACHINE not in abilities:
            raise DialRefused(DialFault.NOT_ABLE, f"{provider} does not tell machines from people.")

    def _not_configured(self, provider: str) -> DialRefused:
        lacking = " and ".join(lacking_to_dial(self._settings, provider)) or "other keys"
        what = f"{provider} cannot make calls: set {lacking} in the environment and start again."
        return DialRefused(DialFault.NOT_ABLE, what)

    async def _hold(self) -> str:
        self._preparing += 1
        try:
            held = await self._registry.hold(self._outbound.ring_s + SLACK_S)
        except (MailboxClosed, MailboxFull, trio.TooSlowError):
            held = Refusal("not_ready")
        finally:
            self._preparing -= 1
        if isinstance(held, Refusal):
            raise DialRefused(DialFault.NO_ROOM, f"No call can be made at the moment: {held.reason}.", 5.0)
        return held

    async def _ask(self, dial: Dialled) -> None:
        provider = self._providers[dial.provider]
        order = Dial(
            dial.to,
            dial.sender,
            self._address(provider, WebhookKind.CALL, dial.token),
            self._address(provider, WebhookKind.STATUS, dial.token),
            self._outbound.ring_s,
            dial.detects_machine,
        )
        try:
            with trio.move_on_after(ASK_S) as asking:
                async with self._new_http_client() as client:
                    dial.call_id = await provider.control.dial(order, client) or dial.call_id
        except VendorError as exc:
            log.warning("dial_failed", dial_id=dial.dial_id, provider=dial.provider, detail=str(exc))
            if exc.why not in _DUNNO:
                dial.failure = exc
                self._finish(dial, DialState.FAILED)
        if asking.cancelled_caught:
            log.warning("dial_failed", dial_id=dial.dial_id, provider=dial.provider, detail="no answer in time")

    def _address(self, provider: Provider, kind: WebhookKind, token: str) -> str:
        path = next(path for path, (of_kind, _) in provider.webhooks.items() if of_kind is kind)
        return f"{self._base_url()}{path}?dial={token}"

    # --- what becomes of it ---------------------------------------------------------------------------------

    def _keep(self, dial: Dialled) -> None:
        self._dials[dial.dial_id] = dial
        if len(self._dials) > KEPT:
            oldest = next((one for one in self._dials.values() if one.is_over), None)
            if oldest is not None:
                del self._dials[oldest.dial_id]

    def _note_who(self, dial: Dialled, answered_by: str) -> None:
        if not answered_by or dial.answered_by:
            return
        dial.answered_by = answered_by
        log.info("answered_by", dial_id=dial.dial_id, who=answered_by)
        if answered_by == "machine":
            dial.reach(DialState.MACHINE)
            if dial.slot is not None:
                self._meet_machine(dial)

    def _meet_machine(self, dial: Dialled) -> None:
        """Nobody talks to it: it is left a word, or hung up on."""
        slot = dial.slot
        if slot is None:
            return
        if dial.voicemail:
            slot.say_it(dial.voicemail, CallEnd(Cause.AGENT_HANGUP, "left on an answering machine"))
        else:
            slot.end_it(CallEnd(Cause.AGENT_HANGUP, "an answering machine"))

    async def _drop(self, dial: Dialled) -> None:
        try:
            await self.hang_up(dial)
        except (VendorError, trio.TooSlowError) as exc:
            log.warning("dial_not_hung_up", dial_id=dial.dial_id, error=type(exc).__name__)
            self._finish(dial, DialState.FAILED)

    def _finish(self, dial: Dialled, state: DialState) -> None:
        """The first end counts."""
        if dial.is_over:
            return
        is_machine = dial.state is DialState.MACHINE and state is DialState.COMPLETED
        dial.state = DialState.MACHINE if is_machine else state
        dial.ended_at = self._now()
        self._registry.let_go(dial.held)
        self._metrics.dials_total.labels(provider=dial.provider, outcome=str(dial.state)).inc()
        seconds = round(dial.ended_at - dial.made_at, 3)
        log.info("dial_ended", dial_id=dial.dial_id, call_id=dial.call_id, state=str(dial.state), seconds=seconds)
        fields = {
            "dial_id": dial.dial_id,
            "call_id": dial.call_id,
            "provider": dial.provider,
            "agent": dial.agent,
            "state": str(dial.state),
            "answered_by": dial.answered_by,
            "seconds": seconds,
        }
        self._tell(WebhookEvent.DIAL_ENDED, "", dial.to, fields)
        dial.voicemail, dial.parameters = "", {}

    def _of_token(self, provider: str, token: str) -> Dialled | None:
        found = (one for one in self._dials.values() if secrets.compare_digest(one.token.encode(), token.encode()))
        dial = next(found, None)
        return dial if dial is not None and dial.provider == provider else None

    def _of_call(self, provider: str, call_id: str) -> Dialled | None:
        return next((one for one in self.under_way() if (one.provider, one.call_id) == (provider, call_id)), None)


def _given_up(dial: Dialled) -> DialState:
    """What it comes to when nothing more is heard of it."""
    if dial.was_joined:
        return DialState.COMPLETED
    return DialState.FAILED if dial.state in (DialState.ANSWERED, DialState.MACHINE) else DialState.NO_ANSWER
