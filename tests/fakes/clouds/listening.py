"""What the fake recognisers share: an ear for plain speech, and a server that misbehaves on demand."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import trio

from engine.audio.levels import is_silent
from engine.events import FRAME_S, AudioFormat
from tests.fakes.clouds.loopback import Cloud, Peer, Refuse, Request
from tests.fakes.plain_speech import Reader, is_speech

Message = str | bytes


@dataclass(frozen=True, slots=True)
class Sound:
    """What an ear makes of the audio. Times are seconds of audio."""

    kind: str
    """``voice`` (a sound began), ``words`` (more of them), ``pause``, ``resumed``, ``over``."""
    text: str
    """All words since the sound began."""
    begins_s: float
    ends_s: float
    """Of the last sound."""
    at_s: float
    """Where the audio is now."""

    def words(self) -> list[tuple[str, float, float]]:
        """Each word, spread evenly over the sound."""
        words = self.text.split()
        each = (self.ends_s - self.begins_s) / max(1, len(words))
        starts = [self.begins_s + number * each for number in range(len(words))]
        return [(word, round(at, 3), round(at + each, 3)) for word, at in zip(words, starts, strict=True)]


@dataclass(frozen=True, slots=True)
class Acuity:
    """Times of an ear, in seconds of audio."""

    onset_s: float = 0.1
    interim_s: float = 0.2
    pause_s: float = 0.2
    endpoint_s: float = 0.4


class Ear:
    """Hears plain speech in a stream of audio. Pure."""

    def __init__(self, line: AudioFormat, acuity: Acuity) -> None:
        self._line = line
        self._acuity = acuity
        self._rest = b""
        self._frames = 0
        self._voiced = 0
        self._quiet = 0
        self._begins = self._ends = 0
        self._has_paused = False
        self._reader = Reader(line)
        self._told = ""

    @property
    def heard_s(self) -> float:
        return round(self._frames * FRAME_S, 3)

    def feed(self, audio: bytes) -> list[Sound]:
        audio = self._rest + audio
        size = self._line.frame_bytes
        whole = len(audio) // size * size
        self._rest = audio[whole:]
        sounds: list[Sound] = []
        for at in range(0, whole, size):
            frame = audio[at : at + size]
            self._frames += 1
            if is_speech(frame) or not is_silent(frame, self._line):
                self._hear_sound(frame, sounds)
            elif self._voiced:
                self._hear_silence(sounds)
        return sounds

    def finish(self) -> list[Sound]:
        """The stream has ended: whatever is open is over."""
        return self._over() if self._voiced else []

    def _hear_sound(self, frame: bytes, sounds: list[Sound]) -> None:
        if self._voiced == 0:
            self._begins = self._frames - 1
        if self._has_paused:
            sounds.append(self._sound("resumed"))
        self._has_paused = False
        self._voiced += 1
        self._quiet = 0
        self._ends = self._frames
        self._reader.feed_frame(frame)
        if self._voiced == self._count(self._acuity.onset_s):
            sounds.append(self._sound("voice"))
        elif self._voiced % self._count(self._acuity.interim_s) == 0:
            self._tell(sounds)

    def _hear_silence(self, sounds: list[Sound]) -> None:
        self._quiet += 1
        if self._quiet == self._count(self._acuity.pause_s):
            self._tell(sounds)
            self._has_paused = True
            sounds.append(self._sound("pause"))
        if self._quiet == self._count(self._acuity.endpoint_s):
            sounds.extend(self._over())

    def _over(self) -> list[Sound]:
        over = [self._sound("over")]
        self._voiced = self._quiet = 0
        self._has_paused = False
        self._reader, self._told = Reader(self._line), ""
        return over

    def _tell(self, sounds: list[Sound]) -> None:
        if self._reader.text.strip() != self._told:
            self._told = self._reader.text.strip()
            sounds.append(self._sound("words"))

    def _sound(self, kind: str) -> Sound:
        begins_s, ends_s = round(self._begins * FRAME_S, 3), round(self._ends * FRAME_S, 3)
        return Sound(kind, self._reader.text.strip(), begins_s, ends_s, self.heard_s)

    @staticmethod
    def _count(seconds: float) -> int:
        return max(1, round(seconds / FRAME_S))


class Broken(Exception):
    """The client broke the protocol: it is told so as the vendor tells, and the socket is closed."""

    def __init__(self, fault: str, code: int, *messages: Message) -> None:
        super().__init__(fault)
        self.fault = fault
        self.code = code
        self.messages = messages


@dataclass(slots=True)
class Manners:
    """How a fake recogniser behaves; may be changed at any time."""

    refuses: int = 0
    """HTTP status at the upgrade."""
    page: bytes = b""
    """The body of that."""
    is_silent_at_start: bool = False
    """It accepts, and says nothing."""
    stalls: bool = False
    """It hears, and says nothing more."""
    is_deaf: bool = False
    """It reads no further message."""
    never_ends: bool = False
    """It does not answer the polite end."""
    delay_s: float = 0.0
    """Before each answer."""
    closes_after_s: float | None = None
    """Of audio: the socket is closed with ``closes_with`` then, after ``last_words``."""
    closes_with: int = 1011
    last_words: Sequence[Message] = ()
    twist: Callable[[list[Message]], Iterable[Message]] | None = None
    """What is sent, instead of these messages."""


@dataclass(slots=True)
class Told:
    """What one client said, for tests to look at."""

    audio_s: float = 0.0
    audio_messages: int = 0
    longest_s: float = 0.0
    """Of one message of audio."""
    texts: list[dict[str, Any]] = field(default_factory=list)
    ended_politely: bool = False


class Session:
    """One connection: what the vendor makes of each message. Without I/O; each vendor has its own."""

    idle_s: float = float("inf")
    """Closed when nothing came for so long."""

    def __init__(self, line: AudioFormat, acuity: Acuity) -> None:
        self.line = line
        self.ear = Ear(line, acuity)
        self.told = Told()
        self.socket: Peer | None = None
        """For a test that has something to say itself."""
        self.is_over = False

    def opened(self) -> list[Message]:
        return []

    def on_text(self, said: dict[str, Any]) -> list[Message]:
        """Raises Broken."""
        raise NotImplementedError

    def on_sound(self, sound: Sound) -> list[Message]:
        raise NotImplementedError

    def acknowledge(self) -> list[Message]:
        """After each message of audio."""
        return []

    def idled(self) -> Broken:
        return Broken("idle", 1011)

    def received(self, message: Message) -> list[Message]:
        """Raises Broken."""
        if isinstance(message, bytes):
            return self.on_audio(message)
        try:
            said = orjson.loads(message)
        except orjson.JSONDecodeError:
            raise Broken("not JSON", 1003) from None
        if not isinstance(said, dict):
            raise Broken("no object", 1003)
        self.told.texts.append(said)
        return self.on_text(said)

    def on_audio(self, audio: bytes) -> list[Message]:
        seconds = self.line.duration_s(audio)
        self.told.audio_s += seconds
        self.told.audio_messages += 1
        self.told.longest_s = max(self.told.longest_s, seconds)
        return [*self.acknowledge(), *self.on_sounds(self.ear.feed(audio))]

    def on_sounds(self, sounds: list[Sound]) -> list[Message]:
        return [message for sound in sounds for message in self.on_sound(sound)]


class ListeningCloud(Cloud):
    """A recogniser behind a WebSocket. ``faults``: what clients did wrong, in static words."""

    def __init__(self, *, key: str = "k", acuity: Acuity | None = None) -> None:
        super().__init__()
        self.key = key
        self.acuity = acuity or Acuity()
        self.manners = Manners()
        self.faults: list[str] = []
        self.sessions: deque[Session] = deque(maxlen=1000)

    def check(self, request: Request) -> None:
        """Raises Refuse."""
        raise NotImplementedError

    def session(self, request: Request) -> Session:
        """Raises Broken."""
        raise NotImplementedError

    def admits(self, request: Request) -> None:
        if self.manners.refuses:
            raise Refuse(self.manners.refuses, self.manners.page)
        self.check(request)

    def refuse(self, status: int, fault: str, body: bytes = b"") -> Refuse:
        self.faults.append(fault)
        return Refuse(status, body)

    async def websocket(self, request: Request, socket: Peer) -> None:
        try:
            session = self.session(request)
            self.sessions.append(session)
            session.socket = socket
            while self.manners.is_silent_at_start:
                await socket.get_message()
            await self._send(socket, session.opened())
            await self._converse(session, socket)
        except Broken as broken:
            self.faults.append(broken.fault)
            await self._send(socket, list(broken.messages))
            await socket.aclose(broken.code)

    async def _converse(self, session: Session, socket: Peer) -> None:
        while not session.is_over:
            while self.manners.is_deaf:  # noqa: ASYNC110 - a switch that tests turn at any time
                await trio.sleep(0.1)
            message: Message | None = None
            with trio.move_on_after(session.idle_s):
                message = await socket.get_message()
            if message is None:
                raise session.idled()
            answers = session.received(message)
            while session.is_over and self.manners.never_ends:
                await socket.get_message()
            if self.manners.delay_s:
                await trio.sleep(self.manners.delay_s)
            if not self.manners.stalls:
                await self._send(socket, answers)
            limit_s = self.manners.closes_after_s
            if limit_s is not None and session.told.audio_s >= limit_s:
                await self._send(socket, list(self.manners.last_words))
                await socket.aclose(self.manners.closes_with)
                return

    async def _send(self, socket: Peer, messages: list[Message]) -> None:
        twist = self.manners.twist
        for message in twist(messages) if twist else messages:
            await socket.send_message(message)


def packed(message: dict[str, Any]) -> Message:
    return orjson.dumps(message).decode()
