"""Calls over HTTP: make one, list the live ones, reach into one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, cast

import structlog
import trio
from msgspec import UNSET
from starlette.responses import Response

from engine.calls.outbound.dialing import Dialing
from engine.calls.outbound.dials import DialFault, Dialled, DialRefused, Wanted
from engine.calls.outbound.tolls import why_not_to
from engine.calls.registry import Registry
from engine.calls.slots import Slot
from engine.errors import CallEnd, Cause, StoreDown, VendorError, Why
from engine.observe.masking import mask_number
from engine.settings import Settings
from engine.settings.providers import lacking_to_transfer
from engine.web import shapes
from engine.web.answers import JSON, Denied, json, retry_after
from engine.web.gate import Gate
from engine.web.keys import Scope
from engine.web.operations import Asked, Guarded, Inputs, Operation
from engine.web.shapes import CallPath, CallView, DialBody, DoneReply, HangUpBody, Nothing, SayBody, TransferBody

log = structlog.get_logger()

PATH = "/calls/{call_id}"
TRANSFER_S: Final = 6.5
AUDIT_S: Final = 1.0
"""For the audit to be written; what was done is done, and in the log."""
_STATUS: Final[Mapping[DialFault, int]] = {
    DialFault.DISABLED: 403,
    DialFault.NOT_ALLOWED: 403,
    DialFault.NO_SENDER: 403,
    DialFault.NO_AGENT: 404,
    DialFault.NOT_ABLE: 503,
    DialFault.CONFLICT: 409,
    DialFault.RATE_LIMIT: 429,
    DialFault.TOO_MANY: 429,
    DialFault.NO_ROOM: 503,
}

_HINTS: Final[Mapping[Why, str]] = {
    Why.AUTH: ": it does not take our keys, or the account may not do this",
    Why.RATE_LIMITED: ": it is asked too often",
}
"""What an error means that a status alone does not tell everybody."""

Note = Callable[[str, str, str, str], Awaitable[None]]
"""Who did what to the call with which number, and how, for the audit log. Raises StoreDown."""
State = Literal["queued", "ringing", "answered", "machine", "completed", "busy", "no_answer", "failed"]
Dials = Asked[Nothing, Nothing, DialBody]


@dataclass(frozen=True, slots=True)
class CallDesk:
    """What calls over HTTP go by. ``note`` writes to the audit log."""

    registry: Registry
    dialing: Dialing
    settings: Settings
    note: Note


def call_operations(desk: CallDesk, gate: Gate) -> list[Operation]:
    its = _Calls(desk)
    op = Guarded(gate, Scope.CALLS).operation
    return [
        op(
            "GET",
            "/calls",
            "calls",
            summary="The calls that live now, and those we make that nobody has answered yet",
            inputs=Inputs(Nothing, Nothing, Nothing),
            answer=its.live,
            replies={JSON: shapes.CallsReply},
        ),
        op(
            "POST",
            "/calls",
            "dial",
            summary="Make a call",
            inputs=Inputs(Nothing, Nothing, DialBody, headers=shapes.OnceHeaders),
            answer=its.dial,
            replies={JSON: CallView},
            status=201,
            refusals=frozenset({404, 409, 502}),
            description="Only to numbers that `[outbound]` of the settings allows. What becomes of the call is told by "
            "`GET /calls/{call_id}`, and its end by the event `dial.ended`.",
        ),
        op(
            "GET",
            PATH,
            "call",
            summary="A live call, or one that we made",
            inputs=Inputs(CallPath, Nothing, Nothing),
            answer=its.one,
            replies={JSON: CallView},
        ),
        op(
            "POST",
            f"{PATH}/hangup",
            "hangup",
            summary="End a call, perhaps with last words",
            inputs=Inputs(CallPath, Nothing, HangUpBody, body_is_required=False),
            answer=its.hang_up,
            replies={JSON: DoneReply},
            refusals=frozenset({409, 502}),
        ),
        op(
            "POST",
            f"{PATH}/say",
            "say",
            summary="Have the agent say something",
            inputs=Inputs(CallPath, Nothing, SayBody),
            answer=its.say,
            replies={JSON: DoneReply},
            refusals=frozenset({409}),
            description="It is said when nothing else is being said.",
        ),
        op(
            "POST",
            f"{PATH}/transfer",
            "transfer",
            summary="Connect the caller to somebody else",
            inputs=Inputs(CallPath, Nothing, TransferBody),
            answer=its.transfer,
            replies={JSON: DoneReply},
            refusals=frozenset({409, 502}),
        ),
    ]


@dataclass(frozen=True, slots=True)
class _Calls:
    desk: CallDesk

    async def live(self, asked: Asked[Nothing, Nothing, Nothing]) -> Response:
        slots = sorted(self.desk.registry.live_slots(), key=lambda slot: slot.order)
        unanswered = [dial for dial in self.desk.dialing.under_way() if not dial.was_joined]
        views = [_of_slot(slot, self._dial_of(slot)) for slot in slots]
        return json(shapes.CallsReply(views + [_of_dial(dial) for dial in unanswered]))

    async def dial(self, asked: Dials) -> Response:
        body, key = asked.body, cast("shapes.OnceHeaders", asked.headers).key
        wanted = Wanted(
            to=body.to,
            sender=body.sender or "",
            agent=body.agent or "",
            provider=body.provider or "",
            detects_machine=None if body.detect_machine is UNSET else body.detect_machine,
            voicemail=None if body.voicemail is UNSET else body.voicemail,
            parameters=body.parameters,
        )
        try:
            dial = await self.desk.dialing.dial(wanted, by=asked.by, key=key or "")
        except DialRefused as refusal:
            status = _STATUS[refusal.fault]
            headers = retry_after(refusal.wait_s) if status in (429, 503) else None
            raise Denied(status, str(refusal), str(refusal.fault), headers=headers) from None
        except VendorError as exc:
            raise _not_done(exc) from None
        if not dial.is_audited:
            dial.is_audited = True
            await self._note(asked.by, "call_dial", dial.to, dial.dial_id)
        return json(_of_dial(dial), 201)

    async def one(self, asked: Asked[CallPath, Nothing, Nothing]) -> Response:
        dial, slot = self._find(asked.path.call_id)
        return json(_of_slot(slot, dial) if slot is not None else _of_dial(cast("Dialled", dial)))

    async def hang_up(self, asked: Asked[CallPath, Nothing, HangUpBody]) -> Response:
        dial, slot = self._find(asked.path.call_id)
        if slot is None:
            await self._stop_ringing(dial, asked)
        elif asked.body.say is UNSET:
            slot.end_it(CallEnd(Cause.ADMIN, "hung up over the API"))
        elif not slot.say_it(asked.body.say, CallEnd(Cause.ADMIN, "hung up over the API")):
            raise Denied(409, "The call is ending already.")
        await self._note_of(asked, "call_hangup", dial, slot)
        return json(DoneReply(asked.path.call_id, "ending"))

    async def say(self, asked: Asked[CallPath, Nothing, SayBody]) -> Response:
        dial, slot = self._live(asked.path.call_id)
        if not slot.say_it(asked.body.text):
            raise Denied(409, "The call is ending already.")
        await self._note_of(asked, "call_say", dial, slot)
        return json(DoneReply(asked.path.call_id, "said"))

    async def transfer(self, asked: Asked[CallPath, Nothing, TransferBody]) -> Response:
        dial, slot = self._live(asked.path.call_id)
        to = self._destination(slot, asked.body.to.strip())
        is_connected = False
        with trio.move_on_after(TRANSFER_S) as asking:
            try:
                is_connected = await slot.transfer_it(to)
            except VendorError as exc:
                raise self._not_connected(slot.provider, exc) from None
        if asking.cancelled_caught:
            raise self._not_connected(slot.provider, VendorError(slot.provider, "no answer in time"))
        if not is_connected:
            raise Denied(409, "The call has just begun, is ending, or is being transferred already.")
        await self._note_of(asked, "call_transfer", dial, slot)
        return json(DoneReply(asked.path.call_id, "transferred"))

    def _not_connected(self, provider: str, exc: VendorError) -> Denied:
        if lacking := lacking_to_transfer(self.desk.settings, provider):
            what = f"{provider} cannot transfer calls: set {' and '.join(lacking)} and start again."
            return Denied(503, what, "not_able")
        message = f"The caller could not be connected; the call goes on, unless it has ended. {_told(exc)}"
        return Denied(502, message, "not_connected")

    def _destination(self, slot: Slot, to: str) -> str:
        """Raises Denied."""
        settings = self.desk.settings
        agent = settings.agents.get(slot.answers())
        names = agent.transfers if agent is not None else {}
        if to in names:
            return names[to]
        if not to.startswith("+"):
            known = ", ".join(sorted(names)) or "none"
            raise Denied(403, f"to: the agent has no such transfer; there are: {known}", "not_allowed", field="to")
        if not settings.outbound.enabled:
            raise Denied(403, "No calls are made here: outbound.enabled is false.", "outbound_disabled", field="to")
        if why := why_not_to(to, settings.outbound):
            raise Denied(403, why, "not_allowed", field="to")
        return to

    async def _stop_ringing(self, dial: Dialled | None, asked: Asked[CallPath, Nothing, HangUpBody]) -> None:
        """Raises Denied, trio.TooSlowError."""
        if dial is None or dial.is_over:
            raise Denied(409, "The call is over.")
        try:
            await self.desk.dialing.hang_up(dial)
        except VendorError as exc:
            raise _not_done(exc) from None

    def _live(self, call_id: str) -> tuple[Dialled | None, Slot]:
        """Raises Denied."""
        dial, slot = self._find(call_id)
        if slot is None:
            raise Denied(409, "Nobody is connected: the call has not been answered, or is over.")
        return dial, slot

    def _find(self, call_id: str) -> tuple[Dialled | None, Slot | None]:
        """By either id. Raises Denied."""
        dial = self.desk.dialing.find(call_id)
        if dial is not None:
            return dial, dial.slot
        slot = next((slot for slot in self.desk.registry.live_slots() if slot.call_id == call_id), None)
        if slot is None:
            raise Denied(404, "There is no such call now.")
        return self._dial_of(slot), slot

    def _dial_of(self, slot: Slot) -> Dialled | None:
        return self.desk.dialing.of_slot(slot) if slot.incoming.dial else None

    async def _note_of(
        self,
        asked: Asked[CallPath, Nothing, HangUpBody]
        | Asked[CallPath, Nothing, SayBody]
        | Asked[CallPath, Nothing, TransferBody],
        action: str,
        dial: Dialled | None,
        slot: Slot | None,
    ) -> None:
        number = slot.incoming.caller if slot is not None else dial.to if dial is not None else ""
        await self._note(asked.by, action, number, asked.path.call_id)

    async def _note(self, by: str, action: str, number: str, detail: str) -> None:
        """What was done cannot be undone for want of a store: then the log alone tells."""
        log.info("call_controlled", by=by, action=action, about=detail)
        try:
            with trio.fail_after(AUDIT_S):
                await self.desk.note(by, action, number, detail)
        except (StoreDown, trio.TooSlowError) as exc:
            log.warning("not_audited", by=by, action=action, error=type(exc).__name__)


def _not_done(exc: VendorError) -> Denied:
    """Whoever may reach into calls is told what their provider answered: it is static words and a status."""
    log.warning("provider_failed", provider=exc.vendor, detail=str(exc))
    return Denied(502, f"The provider did not do it: {_told(exc)}")


def _told(exc: VendorError) -> str:
    return f"{exc}{_HINTS.get(exc.why, '')}."


def _of_slot(slot: Slot, dial: Dialled | None) -> CallView:
    seconds = round(trio.current_time() - slot.began_at_s, 1)
    return CallView(
        id=dial.dial_id if dial is not None else slot.call_id,
        call_id=slot.call_id,
        provider=slot.provider,
        agent=slot.answers(),
        caller=mask_number(slot.incoming.caller),
        direction="outbound" if slot.incoming.is_outbound else "inbound",
        state=cast("State", str(dial.state)) if dial is not None else "answered",
        is_live=True,
        answered_by=dial.answered_by if dial is not None else "",
        seconds=seconds,
    )


def _of_dial(dial: Dialled) -> CallView:
    return CallView(
        id=dial.dial_id,
        call_id=dial.call_id,
        provider=dial.provider,
        agent=dial.agent,
        caller=mask_number(dial.to),
        direction="outbound",
        state=cast("State", str(dial.state)),
        is_live=False,
        answered_by=dial.answered_by,
        seconds=round(max(0.0, trio.current_time() - dial.made_at_s), 1),
    )
