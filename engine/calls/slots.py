"""A live call's place among the others, and what may be asked of a call from outside through it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import trio

from engine.calls.returning import MOST_RETURNS, Left
from engine.errors import CallEnd, Cause, VendorError
from engine.ports import IncomingCall

_SENTENCES = {
    "capacity": "All our lines are busy at the moment. Please call again in a few minutes.",
    "rate_limit": "You have called very often in the last minute. Please try again a little later.",
    "draining": "We cannot take your call at the moment. Please call again in a few minutes.",
    "not_ready": "We cannot take your call just now. Please call again in a minute.",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call was not admitted: the ``reason`` label of ``offhook_calls_rejected_total``."""

    reason: str

    @property
    def sentence(self) -> str:
        """What the caller hears."""
        return _SENTENCES.get(self.reason, _SENTENCES["not_ready"])


@dataclass(frozen=True, slots=True)
class Over:
    """The call has ended, and its provider asks what is to become of the caller: nothing more than these words, if the
    call owes any, for it could not say them itself."""

    sentence: str = ""
    is_news: bool = False
    """The provider will ask: it has not been told by its REST API, and its caller has not hung up."""
    reason: ClassVar[str] = "over"


Say = Callable[[str, CallEnd | None], None]


@dataclass(eq=False, slots=True)
class Transferring:
    """Somebody outside wants the caller connected to somebody else; ``done`` once it is known whether that worked.
    ``failure``: what the provider did not do, where it was asked."""

    to: str
    summary: str = ""
    done: trio.Event = field(default_factory=trio.Event)
    is_connected: bool = False
    failure: VendorError | None = None


class NotAdmitted(Exception):
    """A media socket without a promise. ``why`` is static."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


_order = itertools.count()


@dataclass(eq=False, slots=True)
class Slot:
    """A live call's place. Whoever holds it gives it back with ``Release``, by identity."""

    provider: str
    call_id: str
    incoming: IncomingCall = field(default_factory=lambda: IncomingCall("", "", ""))
    end: CallEnd = field(default_factory=lambda: CallEnd(Cause.INTERNAL_ERROR, "cut off"))
    """The verdict as far as it is known."""
    gone: trio.Event = field(default_factory=trio.Event)
    order: int = field(default_factory=lambda: next(_order))
    predecessor: Slot | None = None
    """A live call with the same id, to be closed completely before this one starts."""
    goes_on: Left | None = None
    """What the last stream of this call has left, if it was lost."""
    left: Left | None = None
    """Set by the call when its line was lost."""
    over: Over | None = None
    """Set by the call when it has ended for good, before its media socket closes."""
    requested: CallEnd | None = None
    """Somebody outside wants the call to end with this verdict."""
    on_request: Callable[[CallEnd], None] | None = None
    """Set by the call: end with this verdict, at once but politely."""
    on_drain: Callable[[], None] | None = None
    """Set by the call: say goodbye, then end."""
    on_say: Say | None = None
    """Set by the call: say this when nothing else is being said; or at once, as its last words, with a verdict."""
    on_transfer: Callable[[Transferring], bool] | None = None
    """Set by the call: connect the caller to somebody else. False if it cannot be asked for now."""
    answers: Callable[[], str] = str
    """The name of the agent that talks now; empty until that is known."""
    began_at_s: float = 0.0
    """When it was admitted."""

    @property
    def may_return(self) -> bool:
        """Its line was lost, or it is being transferred, and its caller may be back."""
        return self.left is not None and self.left.times <= MOST_RETURNS

    def end_it(self, verdict: CallEnd) -> None:
        """Ask the call to end, whatever it is doing. The first request counts."""
        self.requested = self.requested or verdict
        if self.on_request is not None:
            self.on_request(self.requested)

    def say_it(self, text: str, then: CallEnd | None = None) -> bool:
        """Ask the call to say something, and with a verdict to end after it. False if it is too late for that."""
        if self.on_say is None or self.requested is not None:
            return False
        self.on_say(text, then)
        return True

    async def transfer_it(self, to: str, summary: str = "") -> bool:
        """Ask the call to connect its caller to somebody else; False if it cannot be asked to, or has ended meanwhile.
        Raises VendorError for what the provider did not do. The caller sets the deadline."""
        wanted = Transferring(to, summary)
        if self.on_transfer is None or self.requested is not None or not self.on_transfer(wanted):
            return False
        await wanted.done.wait()
        if wanted.failure is not None and not wanted.is_connected:
            raise wanted.failure
        return wanted.is_connected

    def drain_it(self) -> None:
        """Ask the call to say goodbye and end."""
        if self.on_drain is not None:
            self.on_drain()
        else:
            self.end_it(CallEnd(Cause.DRAIN))
