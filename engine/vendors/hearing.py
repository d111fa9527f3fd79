"""The ear of a call that outlives its recognisers: connected anew in the middle of a word, or exchanged for another
vendor's, without a word lost or doubled."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import structlog
import trio

from engine.errors import SpeechFailed, VendorError, Why
from engine.events import CallInfo, Heard, SpeechStopped, TranscriberEvent
from engine.observe.labels import Reconnect, SpeechKind, VendorKind
from engine.ports import Owner, ResourceKind, Transcriber, TranscriberVendor
from engine.runtime.background import beside
from engine.vendors.around import Vendoring, reconnect_why
from engine.vendors.carrying import Carrying
from engine.vendors.held import Held, Opener
from engine.vendors.listening import Deafness, Unanswered
from engine.vendors.tries import Roster

log = structlog.get_logger()

MAX_EVENTS = 200
"""Told and not yet taken; then the recogniser waits."""
MINUTE_S = 60.0
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
        self._ear: Transcriber | None = None
        """None while there is none that hears."""
        self._carrying = Carrying()
        self._unanswered = Unanswered(call.format, self._policy.replay_s)
        self._deafness = Deafness(call.format, self._policy.hearing_s)
        self._stopped_at_s = -math.inf
        self._reconnects: deque[float] = deque()
        """To the current vendor, in the last minute."""
        self._waiting = trio.CancelScope()
        self._working = trio.CancelScope()
        self._events: deque[TranscriberEvent] = deque()
        self._changed = trio.Event()
        self._failure: VendorError | None = None
        self._sent_bytes = 0

    @property
    def is_closed(self) -> bool:
        return self._opener.is_closed

    @property
    def vendor(self) -> str:
        """See ``engine.ports.Backed``."""
        return self._roster.current.name

    def send(self, audio: bytes) -> None:
        now_s = trio.current_time()
        self._unanswered.add(now_s, audio)
        if self._ear is None:
            return  # it is played to the next one
        self._sent_bytes += len(audio)
        self._ear.send(audio)
        if self._deafness.sound(now_s, audio):
            self._waiting.deadline = min(self._waiting.deadline, self._deafness.due_at_s)

    async def receive(self) -> TranscriberEvent:
        while not self._events:
            if self._failure is not None:
                raise self._failure
            self._changed = trio.Event()
            await self._changed.wait()
        event = self._events.popleft()
        if len(self._events) == MAX_EVENTS - 1:
            self._look_up()
        return event

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
                self._failure = exc
                self._changed.set()

    async def close(self) -> None:
        self._ear = None
        self._working.cancel()
        self._count_audio()
        await self._opener.close()

    # --- one recogniser -------------------------------------------------------------------------------------

    async def _until_lost(self) -> VendorError:
        """Pass on what the recogniser says, until it is of no use any more: why."""
        while True:
            assert self._held is not None  # noqa: S101 - connected
            event: TranscriberEvent | None = None
            due_at_s = min(self._deafness.due_at_s, self._carrying.due_at_s)
            with trio.CancelScope(deadline=due_at_s) as self._waiting:
                if len(self._events) >= MAX_EVENTS:
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
        self._deafness.event()
        if isinstance(event, SpeechStopped):
            self._stopped_at_s = event.at_s
        self._tell(self._carrying.take(event))
        if isinstance(event, Heard) and event.is_final:
            self._unanswered.answered(self._stopped_at_s)
            self._count_audio()

    def _due(self) -> SpeechFailed | None:
        now_s = trio.current_time()
        self._tell(self._carrying.expire(now_s, decides_turns=self.decides_turns))
        if not self._deafness.is_deaf(now_s):
            return None
        vendor = self._roster.current.name
        failure = SpeechFailed(vendor, "heard nothing of a caller who spoke", why=Why.TIMEOUT)
        self._around.breakers.of(vendor, VendorKind.STT).failed(failure.why)
        if self._deafness.times == 1:
            self._tell(self._carrying.missed(now_s))
        self._unanswered.answered(now_s)  # it is asked for again
        return failure

    def _tell(self, events: Iterable[TranscriberEvent]) -> None:
        self._events.extend(events)
        self._changed.set()

    def _look_up(self) -> None:
        """There is something else to be seen than an event."""
        self._waiting.cancel()

    # --- the next one ---------------------------------------------------------------------------------------

    async def _reconnect(self, failure: VendorError) -> None:
        """Raises SpeechFailed when there is nobody left."""
        assert self._held is not None  # noqa: S101 - connected
        lost, self._ear = self._held, None
        why = reconnect_why(failure.why)
        self._count_audio()
        log.warning(
            "recogniser_lost", call_id=self._call.call_id, vendor=lost.vendor.name, why=str(why), detail=str(failure)
        )
        lost.cut()
        self._tell(self._carrying.lost(self._unanswered.since_s))
        await self._pause_or_leave(failure, why)
        held = await self._opener.open(within_s=self._policy.reconnect_s, is_live=True)
        if held.vendor is lost.vendor:
            self._around.reconnected(held.vendor.name, VendorKind.STT, why)
        else:
            self._reconnects.clear()
        self._hear_with(held)
        self._carrying.taken_over(trio.current_time(), self._policy.settle_s)

    async def _pause_or_leave(self, failure: VendorError, why: Reconnect) -> None:
        """A vendor that is lost again and again is left, or waited for a little longer each time."""
        now_s = trio.current_time()
        while self._reconnects and self._reconnects[0] <= now_s - MINUTE_S:
            self._reconnects.popleft()
        before = len(self._reconnects)
        self._reconnects.extend([now_s] * (DEAF_WEIGHT if why is Reconnect.SILENT else 1))
        if len(self._reconnects) > self._policy.reconnects or not failure.why.may_pass:
            self._roster.leave(failure)
            self._reconnects.clear()
        elif before:
            await trio.sleep(self._policy.pauses_s[min(before, len(self._policy.pauses_s)) - 1])

    def _hear_with(self, held: Held[TranscriberVendor, Transcriber]) -> None:
        self._held, self._ear = held, held.part
        self.decides_turns = held.part.decides_turns
        self._deafness.reset()
        for audio in self._unanswered.all():
            self._sent_bytes += len(audio)
            held.part.send(audio)

    def _count_audio(self) -> None:
        if self._held is not None and self._sent_bytes:
            counted = self._around.metrics.speech_audio_seconds_total
            counted.labels(vendor=self._held.vendor.name, kind=SpeechKind.STT).inc(
                self._sent_bytes / self._call.format.bytes_per_s
            )
            self._sent_bytes = 0


def _owned(vendor: TranscriberVendor, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Transcriber]:
    opening = vendor.open(call, owner)
    return owner.own(ResourceKind.SPEECH_CLIENT, vendor.name, opening, is_closed=lambda ear: ear.is_closed)
