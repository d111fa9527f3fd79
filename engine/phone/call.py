"""A call of ours at an engine, seen from the provider: what the caller says, what reaches the caller's ear, and what
the engine does wrong."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from engine.audio.levels import is_silent
from engine.errors import SlowPeer
from engine.events import FRAME_S, AudioFormat
from engine.phone.ear import Ear, Gap
from engine.phone.errors import LineLost, TooSlow
from engine.phone.side import Clear, Command, Mark, Play, ProviderSide
from engine.runtime.sockets import Socket

MAX_UNSENT = 250
"""Messages an engine may be behind with reading: five seconds of audio."""
QUIET_S = 0.6
"""So much silence after sound, and the agent has finished speaking. Speech has softer parts than one would think."""
PAUSE_S = 0.3
"""Within one say there may be pauses up to this long."""
HANG_UP_S = 1.0
"""For the last messages to be written."""


SendNow = Callable[[str | bytes], bool]
"""Writes a message at once, whole; False when it cannot."""


def never(_message: str | bytes) -> bool:
    return False


@dataclass(slots=True)
class Said:
    """One say of the caller. Times are on Trio's clock."""

    first_sound_s: float = math.nan
    """When its first voiced frame was sent."""
    last_sound_s: float = math.nan
    interrupted: bool = False
    """The agent was audible when it began."""
    done: trio.Event = field(default_factory=trio.Event)


@dataclass(frozen=True, slots=True)
class Timing:
    """What one say of the caller led to; None for what did not happen."""

    response_s: float | None
    """From the last voiced frame sent to the first voiced frame of the answer played to the ear."""
    barge_in_stop_s: float | None
    """From the first voiced frame sent to the end of the last voiced frame of what was interrupted."""


class PhoneCall:
    """Made by ``engine.phone.phone.Phone.call``. Times are on Trio's clock unless they say otherwise."""

    def __init__(self, side: ProviderSide, socket: Socket, *, record: bool = True, send_now: SendNow = never) -> None:
        self.side = side
        self.call_id = side.call_id
        self.format: AudioFormat = side.format
        self.ear = Ear(side.format, record=record)
        self.violations: Counter[str] = Counter()
        """What the engine sent that the provider does not take, and how often."""
        self.said: list[Said] = []
        self.answered_at_s = trio.current_time()
        """When the media socket had opened."""
        self.ended_at_s: float | None = None
        self.end = ""
        """Who ended the call and how, once it is over: ``caller``, ``dropped``, ``engine 1000``, ``lost``."""
        self.frames_sent = 0
        self.frames_late = 0
        """Frames that this side was more than a frame late with: its machine is too busy to judge anything."""
        self._socket = socket
        self._send_now = send_now
        self._is_writing = True
        self._silence = side.format.silence(FRAME_S)
        self._to_say: deque[bytes] = deque()
        self._saying: deque[Said] = deque()
        self._outbox: list[str | bytes] = list(side.opening())
        self._outbox_filled = trio.Event()
        self._outbox_filled.set()
        self._changed = trio.Event()
        self._over = trio.Event()
        self._hanging_up = False
        self._pressed_at_s = -math.inf
        self._written = trio.Event()

    # --- the caller -----------------------------------------------------------------------------------------

    async def say(self, audio: bytes) -> Said:
        """Speak, in the line's format; returns when the last frame has been sent. Raises LineLost."""
        said = self.start_saying(audio)
        await said.done.wait()
        self._check_line()
        return said

    def start_saying(self, audio: bytes) -> Said:
        """Speak, without waiting for the end of it."""
        self._check_line()
        size = self.format.frame_bytes
        frames = [audio[at : at + size] for at in range(0, len(audio), size)]
        frames[-1] += self._silence[len(frames[-1]) :]
        said = Said()
        self._to_say.extend(frames)
        self._to_say.append(b"")  # ends it
        self._saying.append(said)
        self.said.append(said)
        return said

    def press(self, digits: str) -> None:
        """Press keys. Never waits."""
        self._pressed_at_s = trio.current_time()
        self._send(*[self.side.dtmf(digit) for digit in digits])

    async def hang_up(self) -> None:
        """As a caller does: the provider says stop and closes the socket politely."""
        if self.is_over or self._hanging_up:
            return
        self._hanging_up = True
        self._send(*self.side.stop())
        with trio.move_on_after(HANG_UP_S):
            await self._written.wait()
        self._ended("caller")
        await self._socket.aclose()

    def drop(self) -> None:
        """Cut the line: a reset of the socket, no stop, no close."""
        self._ended("dropped")
        self._socket.abort()

    # --- what is heard --------------------------------------------------------------------------------------

    @property
    def heard(self) -> list[tuple[float, bytes]]:
        """What has been played to the caller so far: seconds since the call was answered, and the audio."""
        return [(start_s - self.answered_at_s, audio) for start_s, audio in self.ear.heard(trio.current_time())]

    @property
    def heard_audio(self) -> bytes:
        """The whole call as the caller heard it, silence included."""
        sound = bytearray()
        for start_s, audio in self.heard:
            missing_s = start_s - len(sound) / self.format.bytes_per_s
            sound += self.format.silence(max(0.0, missing_s) + 1e-6) + audio
        return bytes(sound)

    @property
    def last_said_s(self) -> float:
        """When the caller last said something or pressed a key; minus infinity if never."""
        return max(self._last_word_s(), self._pressed_at_s)

    @property
    def gaps(self) -> list[Gap]:
        return self.ear.gaps

    @property
    def is_over(self) -> bool:
        return self.ended_at_s is not None

    async def wait_until_heard(self, *, within_s: float = 10.0, after_s: float | None = None) -> float:
        """Until the next sound is played that came in after ``after_s``, by default after the caller's last word;
        when that was. Raises TooSlow, LineLost."""
        since_s = self.last_said_s if after_s is None else after_s
        with trio.move_on_after(within_s):
            while True:
                starts_s = self.ear.next_sound_s(since_s)
                if starts_s is not None and starts_s <= trio.current_time():
                    return starts_s
                self._check_line()
                await self._change_or(starts_s)
        raise TooSlow(f"nothing was heard within {within_s} s")

    async def wait_for_silence(self, quiet_s: float = QUIET_S, *, within_s: float = 60.0) -> float:
        """Until no sound has been played for ``quiet_s`` and none is queued; when the last one ended. A call in which
        nothing was played yet is silent, and so is one that is over. Raises TooSlow."""
        with trio.move_on_after(within_s):
            while True:
                last_s = self.ear.stretches[-1].end_s if self.ear.stretches else self.answered_at_s
                if trio.current_time() >= last_s + quiet_s or self.is_over:
                    return last_s
                await self._change_or(last_s + quiet_s)
        raise TooSlow(f"the agent did not fall silent within {within_s} s")

    async def wait_for_reply(self, *, within_s: float = 10.0, quiet_s: float = QUIET_S) -> bytes:
        """Until the answer to the caller's last word, or the greeting, has been heard whole: its audio, from its first
        sound. Raises TooSlow, LineLost."""
        return await self.heard_from(await self.wait_until_heard(within_s=within_s), quiet_s=quiet_s)

    async def heard_from(self, starts_s: float, *, quiet_s: float = QUIET_S) -> bytes:
        """Until the agent has fallen silent: what was heard since this instant. Raises TooSlow."""
        await self.wait_for_silence(quiet_s)
        return b"".join(
            audio[max(0, math.floor((starts_s - at_s) / FRAME_S + 1e-6)) * self.format.frame_bytes :]
            for at_s, audio in self.ear.heard(trio.current_time())
            if at_s + self.format.duration_s(audio) > starts_s
        )

    async def wait_until_over(self, *, within_s: float = 60.0) -> str:
        """Until the call has ended, whoever ended it: ``end``. Raises TooSlow."""
        with trio.move_on_after(within_s):
            await self._over.wait()
            return self.end
        raise TooSlow(f"the call went on for more than {within_s} s")

    def timing(self, said: Said) -> Timing:
        """Figures about one say of the caller, from what has been played so far."""
        if math.isnan(said.last_sound_s):  # cut off before it was said
            return Timing(None, None)
        now = trio.current_time()
        first_s = self.ear.next_sound_s(said.last_sound_s)
        response_s = first_s - said.last_sound_s if first_s is not None and first_s <= now else None
        return Timing(response_s, self._stop_s(said) if said.interrupted else None)

    # --- driven by the phone --------------------------------------------------------------------------------

    def tick(self, due_s: float) -> None:
        """Every 20 ms: one frame of the caller, and the marks that are due."""
        if self.is_over or self._hanging_up:
            return
        now = trio.current_time()
        marks = self.ear.due_marks(now)
        if marks:
            self._send(*map(self.side.mark_played, marks))
        if len(self._outbox) >= MAX_UNSENT:
            self.violations["the engine does not read: caller audio was lost"] += 1
            return
        self.frames_sent += 1
        self.frames_late += now - due_s > FRAME_S
        message = self.side.media(self._next_frame(now))
        if self._is_writing or self._outbox or not self._send_now(message):
            self._send(message)

    async def write(self) -> None:
        """The only task that sends."""
        try:
            while not self.is_over:
                await self._outbox_filled.wait()
                self._outbox_filled = trio.Event()
                messages, self._outbox = self._outbox, []
                if messages:
                    self._is_writing = True
                    await self._socket.send(*messages)
                    self._is_writing = False
                if self._hanging_up:
                    return
        except (trio.BrokenResourceError, SlowPeer):
            return  # the reader says how the call ended
        finally:
            self._written.set()

    async def read(self) -> None:
        """Until the socket is gone."""
        read, violation = self.side.read, self._violation
        try:
            while True:
                command = read(await self._socket.receive(), violation)
                if command is not None:
                    self._obey(command)
        except trio.EndOfChannel:
            code = self._socket.close_code
            self._ended("caller" if self._hanging_up else "lost" if code in {None, 1006} else f"engine {code}")

    # --- inside ---------------------------------------------------------------------------------------------

    def _next_frame(self, now: float) -> bytes:
        if not self._to_say:
            return self._silence
        frame = self._to_say.popleft()
        if not frame:
            self._saying.popleft().done.set()
            return self._next_frame(now)
        if not is_silent(frame, self.format):
            self._note_word(self._saying[0], now)
        return frame

    def _note_word(self, said: Said, now: float) -> None:
        if math.isnan(said.first_sound_s):
            said.first_sound_s = now
            said.interrupted = self.ear.sounds_at(now, within_s=PAUSE_S)
            self.ear.caller_spoke()
        said.last_sound_s = now

    def _obey(self, command: Command) -> None:
        now = trio.current_time()
        match command:
            case Play(audio):
                self._play(audio, now)
            case Mark(key):
                self.ear.mark(key)
                # At once when nothing is queued; else the next tick after it is due.
                self._send(*map(self.side.mark_played, self.ear.due_marks(now)))
            case Clear():
                self._send(*self.side.cleared(self.ear.clear(now)))
        self._changed.set()
        self._changed = trio.Event()

    def _play(self, audio: bytes, now: float) -> None:
        if len(audio) % self.format.sample_bytes:
            self.violations["audio of half a sample"] += 1
            return
        if self.ear.remaining_s(now) + self.format.duration_s(audio) > self.side.buffer_s + 1e-6:
            self.violations[f"31931: more than {self.side.buffer_s:.0f} s buffered: audio was lost"] += 1
            return
        self.ear.queue(audio, now)

    def _stop_s(self, said: Said) -> float | None:
        """How long what sounded at ``first_sound_s`` went on: to a clear, or to where it paused for good."""
        cleared_at_s = next((at_s for at_s in self.ear.cleared_at_s if at_s >= said.first_sound_s), math.inf)
        end_s = None
        for stretch in self.ear.stretches:
            if stretch.end_s <= said.first_sound_s:
                continue
            if stretch.arrived_s > cleared_at_s or (end_s is not None and stretch.start_s - end_s > PAUSE_S):
                break
            end_s = stretch.end_s
        return None if end_s is None or end_s > trio.current_time() else end_s - said.first_sound_s

    def _last_word_s(self) -> float:
        for said in reversed(self.said):
            if not math.isnan(said.last_sound_s):
                return said.last_sound_s
        return -math.inf

    def _violation(self, what: str) -> None:
        self.violations[what] += 1

    def _send(self, *messages: str | bytes) -> None:
        if messages:
            self._outbox.extend(messages)
            self._outbox_filled.set()

    async def _change_or(self, at_s: float | None) -> None:
        """Until something new comes in, or until this instant."""
        with trio.CancelScope(deadline=math.inf if at_s is None else at_s):
            await self._changed.wait()

    def _check_line(self) -> None:
        if self.is_over:
            raise LineLost(f"the call is over: {self.end}")

    def _ended(self, how: str) -> None:
        if self.is_over:
            return
        now = trio.current_time()
        self.ended_at_s, self.end = now, how
        self.ear.clear(now)
        self._over.set()
        self._changed.set()
        self._outbox_filled.set()
        for said in self._saying:
            said.done.set()
