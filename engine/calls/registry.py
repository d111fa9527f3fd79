"""The registry: an actor that alone knows which calls live, and who may still come.

A slot is promised at the webhook, by a token, and taken at the media socket. Promised and taken ones together never
exceed the capacity, however many ask at once.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from engine.calls.returning import Left
from engine.calls.slots import NotAdmitted, Over, Refusal, Slot
from engine.observe.labels import CallDirection
from engine.observe.metrics import Metrics
from engine.ports import IncomingCall
from engine.runtime.mailbox import Answer, Mailbox

ANSWER_WITHIN_S = 2.0
"""The actor only computes; an answer that takes longer means that it is gone."""
REPLAY_S = 300.0
"""How long the answer to a signed webhook is remembered, so that the same request gets the same answer."""
REPLAYS_KEPT = 4096
ASKED_S = 2.0
"""In which a provider asks what is to become of a caller whose call we have ended."""
ENDED_KEPT = 4096
"""Ids of ended calls that are remembered: their providers' last news is expected."""


@dataclass(slots=True)
class Promise:
    """A slot that a webhook has handed out."""

    provider: str
    call: IncomingCall
    token: str
    expires_at_s: float


@dataclass(slots=True)
class Lost:
    """A call whose line was lost: it keeps its place for a while."""

    call: IncomingCall
    left: Left
    until_s: float


@dataclass(frozen=True, slots=True)
class Hold:
    """A place for a call that we make, before anybody answers it."""

    within_s: float
    answer: Answer[str | Refusal]


@dataclass(frozen=True, slots=True)
class LetGo:
    held: str


@dataclass(frozen=True, slots=True)
class Reserve:
    provider: str
    call: IncomingCall
    replay_key: str
    answer: Answer[str | Refusal | Over]


@dataclass(frozen=True, slots=True)
class Claim:
    slot: Slot
    token: str
    answer: Answer[None]


@dataclass(frozen=True, slots=True)
class Release:
    slot: Slot


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The provider says that a promised call is over before its media came."""

    provider: str
    call_id: str


RegistryMessage = Hold | LetGo | Reserve | Claim | Release | Withdraw


class Registry:
    """``run`` it in a task that outlives the calls. All else may be called from any task."""

    def __init__(self, *, capacity: int, metrics: Metrics, token_s: float = 60.0) -> None:
        self.capacity = capacity
        self._token_s = token_s
        self._metrics = metrics
        depth = metrics.actor_mailbox_depth.labels(actor="registry")
        self._mailbox: Mailbox[RegistryMessage] = Mailbox("registry", on_depth=depth.set)
        self._slots: set[Slot] = set()
        self._live: dict[tuple[str, str], Slot] = {}
        self._promises: dict[str, Promise] = {}
        self._held: dict[str, float] = {}
        """Places for calls that we make, and until when."""
        self._replays: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._lost: dict[tuple[str, str], Lost] = {}
        self._ended: OrderedDict[tuple[str, str], Over | None] = OrderedDict()
        """The last calls; None: their line was lost."""
        self._to_be_asked: dict[tuple[str, str], float] = {}
        """About calls that have ended just now, and until when."""
        self._was_full = False
        self._empty = trio.Event()
        self.refusing = ""
        """A reason to refuse every new call (``draining``, ``not_ready``), or empty."""
        metrics.calls_capacity.set(capacity)

    # --- asked by others ------------------------------------------------------------------------------------

    async def reserve(self, provider: str, call: IncomingCall, replay_key: str = "") -> str | Refusal | Over:
        """A media token for this call, or why there is none. The very same signed request gets the same token again.

        A call that lives, or has lost its line within ``RETURN_S``, has its place already. ``Over``: it is a call that
        comes back though it has ended.
        """
        return await self._mailbox.ask(
            lambda answer: Reserve(provider, call, replay_key, answer), within_s=ANSWER_WITHIN_S
        )

    async def hold(self, within_s: float) -> str | Refusal:
        """A place for a call that we make, or why there is none. It is kept for ``within_s``, or until the call is
        answered: an ``IncomingCall`` with it as its ``dial`` is admitted whatever else has come."""
        return await self._mailbox.ask(lambda answer: Hold(within_s, answer), within_s=ANSWER_WITHIN_S)

    def let_go(self, held: str) -> None:
        """Nobody will answer. Never waits; twice is fine."""
        self._mailbox.tell(LetGo(held))

    @asynccontextmanager
    async def admitted(self, provider: str, call_id: str, token: str) -> AsyncIterator[Slot]:
        """The slot that ``token`` promised, held until the block is left. Raises NotAdmitted.

        ``slot.predecessor`` is a live call with the same id: close it before opening anything.
        """
        slot = Slot(provider, call_id)
        # The try opens before the question is asked: cancelled while waiting, we may already be in the table.
        try:
            await self._mailbox.ask(lambda answer: Claim(slot, token, answer), within_s=ANSWER_WITHIN_S)
            yield slot
        finally:
            slot.gone.set()
            self._mailbox.tell(Release(slot))
            if self._mailbox.is_closed:
                self._release(slot)

    def withdraw(self, provider: str, call_id: str) -> None:
        """Give back what was promised to a call that has ended before its media came. Never waits."""
        self._mailbox.tell(Withdraw(provider, call_id))

    def live_calls(self) -> list[str]:
        """The providers' ids of the calls that live now."""
        return [slot.call_id for slot in self._live.values()]

    def live_slots(self) -> list[Slot]:
        return list(self._live.values())

    def find(self, provider: str, call_id: str) -> Slot | None:
        return self._live.get((provider, call_id))

    def whisper(self, provider: str, call_id: str) -> str:
        """What whoever takes over this call's caller is told; empty: nothing."""
        lost = self._lost.get((provider, call_id))
        return lost.left.whisper if lost is not None else ""

    def has_ended(self, provider: str, call_id: str) -> bool:
        """It was live not long ago."""
        return (provider, call_id) in self._ended

    @property
    def has_promises(self) -> bool:
        """A webhook was answered whose media socket has not come yet, or a line was lost that may come back."""
        self._expire()
        return bool(self._promises or self._lost)

    @property
    def will_be_asked(self) -> bool:
        """A provider is about to ask what is to become of a caller; without an answer it would say that we failed."""
        self._expire()
        return bool(self._to_be_asked)

    @property
    def is_full(self) -> bool:
        self._expire()
        return self._taken() >= self.capacity

    async def wait_empty(self) -> None:
        """Until no call lives."""
        while self._slots:
            if self._empty.is_set():  # else somebody waits on it already
                self._empty = trio.Event()
            await self._empty.wait()

    def abandon(self) -> None:
        """The actor is not started again: nobody new is let in, and live calls let go of their slots by themselves."""
        self._mailbox.close()
        self._promises.clear()
        self._lost.clear()
        self._held.clear()
        self._rebuild()

    # --- the actor ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the mailbox until cancelled. Awaits nothing but the next message. State is rebuilt from the live
        slots, so that starting again after a crash loses no call."""
        self._rebuild()
        async for message in self._mailbox:
            match message:
                case Hold(answer=answer) | Reserve(answer=answer) | Claim(answer=answer):
                    try:
                        self._handle(message)
                    except NotAdmitted as refusal:
                        answer.fail(refusal)
                    except Exception as exc:
                        answer.fail(exc)
                        raise
                case _:
                    self._handle(message)

    def _handle(self, message: RegistryMessage) -> None:
        match message:
            case Hold(within_s, answer):
                answer.give(self._hold(within_s))
            case LetGo(held):
                self._held.pop(held, None)
            case Reserve(provider, call, replay_key, answer):
                answer.give(self._reserve(provider, call, replay_key))
            case Claim(slot, token, answer):
                self._claim(slot, token)
                answer.give(None)
            case Release(slot):
                self._release(slot)
            case Withdraw(provider, call_id):
                self._drop_promises(provider, call_id)
                self._lost.pop((provider, call_id), None)
                self._to_be_asked.pop((provider, call_id), None)
        self._note_fullness()

    def _hold(self, within_s: float) -> str | Refusal:
        self._expire()
        if self.refusing:
            return Refusal(self.refusing)
        if self._taken() >= self.capacity:
            return Refusal("capacity")
        held = secrets.token_urlsafe(24)
        self._held[held] = trio.current_time() + within_s
        return held

    def _reserve(self, provider: str, call: IncomingCall, replay_key: str) -> str | Refusal | Over:
        self._expire()
        remembered = self._replays.get(replay_key) if replay_key else None
        if remembered is not None:
            return remembered[1]
        key = (provider, call.call_id)
        lost, live = self._lost.get(key), self._live.get(key)
        if call.was_answered:
            self._lost.pop(key, None)
            return Over()
        over = live.over if live is not None else self._ended.get(key)
        if call.is_back and lost is None and over is not None:
            self._to_be_asked.pop(key, None)
            return over
        is_kept = lost is not None or (live is not None and call.is_back)
        is_held = bool(call.dial) and self._held.pop(call.dial, None) is not None
        if self.refusing and not (is_held or is_kept):
            return Refusal(self.refusing)
        is_known = (
            is_held
            or is_kept
            or live is not None
            or any((p.provider, p.call.call_id) == key for p in self._promises.values())
        )
        if not is_known and self._taken() >= self.capacity:
            return Refusal("capacity")
        self._drop_promises(*key)  # a newer webhook of the same call makes the older token void
        now = trio.current_time()
        token = secrets.token_urlsafe(24)
        if lost is not None:
            call, lost.until_s = lost.call, now + self._token_s
        elif live is not None and call.is_back:
            call = live.incoming
        self._promises[token] = Promise(provider, call, token, now + self._token_s)
        if replay_key:
            self._replays[replay_key] = (now + REPLAY_S, token)
            if len(self._replays) > REPLAYS_KEPT:
                self._replays.popitem(last=False)
        return token

    def _claim(self, slot: Slot, token: str) -> None:
        self._expire()
        promise = self._promises.get(token)
        if promise is None:
            raise NotAdmitted("unknown, used or expired token")
        if (promise.provider, promise.call.call_id) != (slot.provider, slot.call_id):
            raise NotAdmitted("token of another call")
        del self._promises[token]
        key = (slot.provider, slot.call_id)
        slot.incoming = promise.call
        slot.began_at_s = trio.current_time()
        slot.predecessor = self._live.get(key)
        lost = self._lost.pop(key, None)
        slot.goes_on = lost.left if lost is not None else None
        self._slots.add(slot)
        self._live[key] = slot
        direction = _direction(slot)
        self._metrics.calls_started_total.labels(provider=slot.provider, direction=direction).inc()
        self._metrics.calls_active.labels(provider=slot.provider, direction=direction).inc()

    def _release(self, slot: Slot) -> None:
        if slot not in self._slots:  # never admitted, or released before
            return
        self._slots.remove(slot)
        key = (slot.provider, slot.call_id)
        if self._live.get(key) is slot:
            del self._live[key]
            if slot.may_return and slot.left is not None:
                self._lost[key] = Lost(slot.incoming, slot.left, trio.current_time() + slot.left.keep_s)
        self._ended[key] = None if slot.may_return else slot.over or Over()
        if slot.over is not None and slot.over.is_news:
            self._to_be_asked[key] = trio.current_time() + ASKED_S
        if len(self._ended) > ENDED_KEPT:
            self._ended.popitem(last=False)
        self._metrics.calls_active.labels(provider=slot.provider, direction=_direction(slot)).dec()
        self._metrics.calls_ended_total.labels(provider=slot.provider, reason=str(slot.end.reason)).inc()
        if not self._slots:
            self._empty.set()

    def _drop_promises(self, provider: str, call_id: str) -> None:
        for token, promise in list(self._promises.items()):
            if (promise.provider, promise.call.call_id) == (provider, call_id):
                del self._promises[token]

    def _taken(self) -> int:
        """Distinct calls that live, are promised or may come back: a call and its replacement are one."""
        promised = {(promise.provider, promise.call.call_id) for promise in self._promises.values()}
        return len(self._live.keys() | self._lost.keys() | promised) + len(self._held)

    def _expire(self) -> None:
        now = trio.current_time()
        # Both are in order of their expiry: the first that is still good ends the search.
        for token in list(self._promises):
            if self._promises[token].expires_at_s > now:
                break
            del self._promises[token]
        for key in [key for key, lost in self._lost.items() if lost.until_s <= now]:
            del self._lost[key]
        for held in [held for held, until_s in self._held.items() if until_s <= now]:
            del self._held[held]
        for key in [key for key, until_s in self._to_be_asked.items() if until_s <= now]:
            del self._to_be_asked[key]
        while self._replays and next(iter(self._replays.values()))[0] <= now:
            self._replays.popitem(last=False)

    def _note_fullness(self) -> None:
        taken = self._taken()
        self._metrics.utilization_ratio.set(taken / self.capacity)
        if taken >= self.capacity and not self._was_full:
            self._metrics.full_transitions_total.labels(cause="calls").inc()
        self._was_full = taken >= self.capacity

    def _rebuild(self) -> None:
        """The table from the slots whose calls have not gone: the calls themselves are the truth."""
        for slot in [slot for slot in self._slots if slot.gone.is_set()]:
            self._release(slot)
        in_order = sorted(self._slots, key=lambda slot: slot.order)
        self._live = {(slot.provider, slot.call_id): slot for slot in in_order}


def _direction(slot: Slot) -> CallDirection:
    return CallDirection.OUTBOUND if slot.incoming.is_outbound else CallDirection.INBOUND
