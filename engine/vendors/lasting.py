"""What an ear and a speech-to-speech model have in common: one stream to the call, over as many connections as it
takes. The caller's audio goes to whoever hears now, events come from there, and a connection that is lost has a
successor."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

import structlog
import trio

from engine.audio.levels import is_silent
from engine.errors import VendorError
from engine.events import AudioFormat
from engine.observe.labels import SpeechKind
from engine.observe.metrics import Metrics
from engine.vendors.around import reconnect_why
from engine.vendors.held import Held, Opener
from engine.vendors.listening import Deafness, Unanswered, Voice
from engine.vendors.policy import Policy
from engine.vendors.tries import Named, Roster

log = structlog.get_logger()

MINUTE_S = 60.0
AT_ONCE_S = 2.0
"""Of audio that is replayed, what an ear takes at one go; of the rest, ``STEP_S`` every ``STEP_PAUSE_S``."""
STEP_S = 0.5
STEP_PAUSE_S = 0.05
LEAD_S = 0.3
"""Before what is taken for the beginning of a sound, it begins."""

E = TypeVar("E")
T = TypeVar("T")
V = TypeVar("V", bound=Named)


class Hears(Protocol):
    def send(self, audio: bytes) -> None: ...


class CallerAudio:
    """The caller's audio on its way to whoever hears now, counted as given to that vendor. ``unanswered``: the newest
    of it, for the next one; ``deafness``: whether it is heard; ``voice``: what we can tell of it ourselves."""

    def __init__(self, line: AudioFormat, policy: Policy, metrics: Metrics) -> None:
        self.unanswered = Unanswered(line, policy.replay_s, policy.replay_most_s)
        self.deafness = Deafness(policy.hearing_s)
        self.voice = Voice()
        self._line = line
        self._metrics = metrics
        self._ear: Hears | None = None
        self._backlog: deque[bytes] = deque()
        """What the one who hears now has still to be given before anything new."""
        self._vendor = ""
        self._sent_bytes = 0

    @property
    def is_lost(self) -> bool:
        """Nobody hears."""
        return self._ear is None

    def send(self, audio: bytes) -> bool:
        """True if ``deafness.due_at_s`` has changed. While nobody hears, it is kept for whoever will."""
        now_s = trio.current_time()
        is_voiced, seconds = not is_silent(audio, self._line), self._line.duration_s(audio)
        if is_voiced:
            self.voice.sound(now_s, seconds)
        if self._ear is None and is_voiced:
            self.unanswered.hold_too(self.voice.began_at_s - LEAD_S)
        self.unanswered.add(now_s, audio)
        if self._ear is None:
            return False
        if self._backlog:
            self._backlog.append(audio)
        else:
            self._sent_bytes += len(audio)
            self._ear.send(audio)
        return is_voiced and self.deafness.sound(now_s, seconds)

    def give_to(self, ear: Hears, vendor: str, replayed: Iterable[bytes]) -> None:
        """From now on this one hears, ``replayed`` first; what is more of that than ``AT_ONCE_S``, by ``catch_up``."""
        self.take_away()
        self._ear, self._vendor = ear, vendor
        self.deafness.reset()
        self._backlog.extend(replayed)
        self._give_backlog(AT_ONCE_S)

    async def catch_up(self) -> None:
        """Until whoever hears now has been given what was replayed, ten times as fast as it was spoken."""
        while self._backlog:
            await trio.sleep(STEP_PAUSE_S)
            self._give_backlog(STEP_S)

    def take_away(self) -> None:
        """Nobody hears for now."""
        self.count()
        self._ear = None
        self._backlog.clear()

    def count(self) -> None:
        """What was given since it was counted last. Not asked for each frame."""
        if self._sent_bytes:
            given = self._metrics.speech_audio_seconds_total.labels(vendor=self._vendor, kind=SpeechKind.STT)
            given.inc(self._sent_bytes / self._line.bytes_per_s)
            self._sent_bytes = 0

    def _give_backlog(self, seconds: float) -> None:
        while self._backlog and seconds > 0 and self._ear is not None:
            audio = self._backlog.popleft()
            seconds -= self._line.duration_s(audio)
            self._sent_bytes += len(audio)
            self._ear.send(audio)


class Told(Generic[E]):
    """Events for the call that it has not received; the vendor waits while there are ``room`` of them."""

    def __init__(self, room: int, on_room: Callable[[], None]) -> None:
        """``on_room``: is called when there is room again."""
        self._room = room
        self._on_room = on_room
        self._events: deque[E] = deque()
        self._changed = trio.Event()
        self._failure: VendorError | None = None

    @property
    def is_full(self) -> bool:
        return len(self._events) >= self._room

    def tell(self, events: Iterable[E]) -> None:
        self._events.extend(events)
        self._changed.set()

    def fail(self, failure: VendorError) -> None:
        """Nothing comes any more: behind the last event ``receive`` raises this."""
        self._failure = failure
        self._changed.set()

    async def receive(self) -> E:
        while not self._events:
            if self._failure is not None:
                raise self._failure
            self._changed = trio.Event()
            await self._changed.wait()
        event = self._events.popleft()
        if len(self._events) == self._room - 1:
            self._on_room()
        return event


class Succession(Generic[V, T]):
    """Who comes after a connection that was lost in the middle of a call. A vendor that is lost again and again is
    waited for a little longer each time, and left when that happens too often in a minute."""

    def __init__(self, roster: Roster[V], opener: Opener[V, T]) -> None:
        self._roster = roster
        self._opener = opener
        self._policy = roster.around.policy
        self._losses: deque[float] = deque()
        """Of the current vendor, in the last minute."""

    async def after(self, lost: Held[V, T], failure: VendorError, *, weight: int = 1) -> Held[V, T]:
        """The next connection; ``lost`` is cut. ``weight``: it counts as so many losses. Raises VendorError when there
        is nobody left."""
        why = reconnect_why(failure.why)
        kind, vendor = self._roster.kind, lost.vendor.name
        log.warning(
            "connection_lost", kind=str(kind), vendor=vendor, why=str(why), detail=str(failure), **self._roster.ids
        )
        lost.cut()
        await self._pause_or_leave(failure, weight)
        held = await self._opener.open(within_s=self._policy.reconnect_s, is_live=True)
        if held.vendor is lost.vendor:
            self._roster.around.reconnected(vendor, kind, why)
        else:
            self._losses.clear()
        return held

    async def _pause_or_leave(self, failure: VendorError, weight: int) -> None:
        now_s, pauses_s = trio.current_time(), self._policy.pauses_s
        while self._losses and self._losses[0] <= now_s - MINUTE_S:
            self._losses.popleft()
        before = len(self._losses)
        self._losses.extend([now_s] * weight)
        if len(self._losses) > self._policy.reconnects or not failure.why.may_pass:
            self._roster.leave(failure)
            self._losses.clear()
        elif before:
            await trio.sleep(pauses_s[min(before, len(pauses_s)) - 1])
