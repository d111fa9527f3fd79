"""The ear of a call that outlives its recognisers: connected anew in the middle of a word, or exchanged for another
vendor's, without a word lost or doubled."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio

from engine.errors import SpeechFailed, VendorError, Why
from engine.events import CallInfo, Heard, SpeechStarted, SpeechStopped, TranscriberEvent, TurnOver
from engine.observe.labels import VendorKind
from engine.ports import Owner, ResourceKind, Transcriber, TranscriberVendor
from engine.runtime.background import beside
from engine.vendors.around import Vendoring
from engine.vendors.carrying import Carrying
from engine.vendors.held import Held, Opener
from engine.vendors.lasting import LEAD_S, CallerAudio, Succession, Told
from engine.vendors.listening import PAUSE_S, THINKING_S, WAIT_S
from engine.vendors.tries import Roster

MAX_SOUNDS = 20
"""Whose words are awaited."""
MAX_EVENTS = 200
"""Told and not yet taken; then the recogniser waits."""
BEHIND_S = 1.0
"""Of what was said last, interim words may not know yet."""
SETTLE_LEAST_S = 0.5
"""However long the caller has waited already."""
DEAF_WEIGHT = 2
"""A recogniser that has gone deaf counts as so many that were cut off."""


@asynccontextmanager
async def open_transcriber(
    vendors: Sequence[TranscriberVendor], call: CallInfo, owner: Owner, around: Vendoring
) -> AsyncIterator[Hearing]:
    """A recogniser of the first of these vendors that can be had, and then whatever it takes to go on hearing. Each
    connection is in the owner's ledger under its vendor. Raises SpeechFailed. Leaving the block closes politely."""
    async with beside() as nursery:
        hearing = Hearing(vendors, call, owner, around, nursery)
        await hearing.connect()
        nursery.start_soon(hearing.run)
        yield hearing
        await hearing.close()


class Hearing:
    """Implements ``engine.ports.Transcriber``."""

    def __init__(
        self,
        vendors: Sequence[TranscriberVendor],
        call: CallInfo,
        owner: Owner,
        around: Vendoring,
        nursery: trio.Nursery,
    ) -> None:
        self.decides_turns = False
        """Of the recogniser that hears now."""
        self._call = call
        self._around = around
        self._policy = around.policy
        self._roster = Roster(vendors, VendorKind.STT, around, SpeechFailed, call_id=call.call_id)
        self._opener: Opener[TranscriberVendor, Transcriber] = Opener(
            self._roster, nursery, lambda vendor: _owned(vendor, call, owner), on_gone=self._look_up
        )
        self._held: Held[TranscriberVendor, Transcriber] | None = None
        self._succession = Succession(self._roster, self._opener)
        self._audio = CallerAudio(call.format, self._policy, around.metrics)
        self._carrying = Carrying()
        self._started: deque[float] = deque(maxlen=MAX_SOUNDS)
        """Of the sounds whose words are still to come, when those that are not known begin; and when those of them that
        are over ended:"""
        self._stopped: deque[float] = deque(maxlen=MAX_SOUNDS)
        self._told_at_s = -math.inf
        """When the recogniser of now said something last, or began to hear."""
        self._waiting = trio.CancelScope()
        self._working = trio.CancelScope()
        self._told: Told[TranscriberEvent] = Told(MAX_EVENTS, self._look_up)

    @property
    def is_closed(self) -> bool:
        return self._opener.is_closed

    @property
    def vendor(self) -> str:
        """See ``engine.ports.Backed``."""
        return self._roster.current.name

    @property
    def unheard_since_s(self) -> float:
        """See ``engine.ports.Overhearing``."""
        audio, carrying, voice = self._audio, self._carrying, self._audio.voice
        if audio.is_lost or carrying.is_carried:
            return self._last_sound_s if carrying.is_open or voice.is_clear else math.inf
        if carrying.is_going_on:
            return max(self._last_sound_s, self._told_at_s) + THINKING_S
        return voice.until_s if audio.deafness.is_likely else math.inf

    def send(self, audio: bytes) -> None:
        if self._audio.send(audio):
            self._waiting.deadline = min(self._waiting.deadline, self._audio.deafness.due_at_s)

    async def receive(self) -> TranscriberEvent:
        return await self._told.receive()

    async def connect(self) -> None:
        """Raises SpeechFailed."""
        self._hear_with(await self._opener.open(within_s=self._policy.open_s))

    async def run(self) -> None:
        """Until closed, or until nobody is left who could hear, which ``receive`` tells."""
        with self._working:
            try:
                while True:
                    await self._reconnect(await self._until_lost())
            except VendorError as exc:
                self._told.fail(exc)

    async def close(self) -> None:
        self._working.cancel()
        self._audio.take_away()
        await self._opener.close()

    # --- one recogniser -------------------------------------------------------------------------------------

    async def _until_lost(self) -> VendorError:
        """Pass on what the recogniser says, until it is of no use any more: why."""
        while True:
            assert self._held is not None  # noqa: S101 - connected
            event: TranscriberEvent | None = None
            due_at_s = min(self._audio.deafness.due_at_s, self._carrying.due_at_s, self._stuck_at_s)
            with trio.CancelScope(deadline=due_at_s) as self._waiting:
                if self._told.is_full:
                    await trio.sleep_forever()  # until some have been taken
                elif not self._held.gone.is_set():
                    try:
                        event = await self._held.part.receive()
                    except SpeechFailed as exc:
                        return exc
            if event is not None:
                self._take(event)
            elif self._held.gone.is_set():
                vendor = self._held.vendor.name
                return self._held.failure or SpeechFailed(vendor, "went away", why=Why.CUT)
            elif (failure := self._due()) is not None:
                return failure

    def _take(self, event: TranscriberEvent) -> None:
        self._audio.deafness.event()
        self._told_at_s = trio.current_time()
        self._told.tell(self._carrying.take(event))
        unanswered = self._audio.unanswered
        match event:
            case SpeechStarted(at_s):
                self._started.append(at_s - LEAD_S)
                unanswered.hold(self._started[0])
            case SpeechStopped(at_s):
                self._stopped.append(at_s)
            case Heard(text, False) if text and self._started:
                self._started[0] = trio.current_time() - BEHIND_S
                unanswered.hold(self._started[0])
            case Heard(_, True):
                if self._started:
                    self._started.popleft()
                if self._stopped:
                    unanswered.answered(self._stopped.popleft())
                unanswered.hold(self._started[0] if self._started else math.inf)
                self._audio.voice.forget()
                self._audio.count()
            case TurnOver():  # whatever words there were have come
                self._forget_sounds()

    def _forget_sounds(self) -> None:
        self._started.clear()
        self._stopped.clear()
        self._audio.voice.forget()
        self._audio.unanswered.hold(math.inf)

    @property
    def _last_sound_s(self) -> float:
        """Of the caller."""
        began_at_s = self._carrying.began_at_s if self._carrying.is_open else -math.inf
        return max(self._audio.voice.until_s, began_at_s)

    @property
    def _stuck_at_s(self) -> float:
        """A recogniser that heard the caller begin to speak must say more until then, if the caller does not."""
        return max(self._last_sound_s, self._told_at_s) + WAIT_S if self._carrying.is_going_on else math.inf

    def _due(self) -> SpeechFailed | None:
        now_s, deafness, was_open = trio.current_time(), self._audio.deafness, self._carrying.is_open
        self._carrying.wait_until(self._audio.voice.until_s + SETTLE_LEAST_S)  # while the caller goes on
        self._told.tell(self._carrying.expire(now_s, decides_turns=self.decides_turns))
        if was_open and not self._carrying.is_open:
            self._forget_sounds()
        is_stuck = now_s >= self._stuck_at_s
        if not (deafness.is_deaf(now_s) or is_stuck):
            return None
        vendor = self._roster.current.name
        failure = SpeechFailed(vendor, "heard nothing of a caller who spoke", why=Why.TIMEOUT)
        self._around.breakers.of(vendor, VendorKind.STT).failed(failure.why)
        if is_stuck or deafness.times == 1:
            self._told.tell(self._carrying.missed(now_s))
        self._audio.unanswered.answered(now_s)  # it is asked for again
        self._audio.voice.forget()
        return failure

    def _look_up(self) -> None:
        """There is something else to be seen than an event."""
        self._waiting.cancel()

    # --- the next one ---------------------------------------------------------------------------------------

    async def _reconnect(self, failure: VendorError) -> None:
        """Raises SpeechFailed when there is nobody left."""
        assert self._held is not None  # noqa: S101 - connected
        audio, carrying, voice = self._audio, self._carrying, self._audio.voice
        audio.take_away()
        if not carrying.is_open and voice.until_s < trio.current_time() - PAUSE_S:
            voice.forget()  # that was no words to a recogniser that heard it
        self._told.tell(carrying.lost(audio.unanswered.since_s))
        weight = DEAF_WEIGHT if failure.why is Why.TIMEOUT else 1
        held = await self._succession.after(self._held, failure, weight=weight)
        if voice.is_clear and audio.deafness.times <= 1:  # else the line is noisy
            self._told.tell(carrying.overheard(voice.began_at_s))
        elif not carrying.is_open:
            audio.unanswered.hold(math.inf)
        self._hear_with(held)
        await audio.catch_up()
        now_s = self._told_at_s = trio.current_time()
        settle_s = min(self._policy.settle_s, max(SETTLE_LEAST_S, self._last_sound_s + WAIT_S - now_s))
        carrying.taken_over(now_s + settle_s, is_voice=voice.is_clear)

    def _hear_with(self, held: Held[TranscriberVendor, Transcriber]) -> None:
        self._held = held
        self.decides_turns = held.part.decides_turns
        self._audio.give_to(held.part, held.vendor.name, self._audio.unanswered.all())
        self._started.clear()
        self._stopped.clear()


def _owned(vendor: TranscriberVendor, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Transcriber]:
    opening = vendor.open(call, owner)
    return owner.own(ResourceKind.SPEECH_CLIENT, vendor.name, opening, is_closed=lambda ear: ear.is_closed)
