"""Synthesizers over WebSockets: the one I/O class for every vendor's wire.

A :class:`SpeechWire` turns texts into messages and messages into audio, without I/O. A :class:`SocketSynthesizer`
drives wires over sockets, a task for each socket that reads as long as it lives: what comes of a speech that nobody
hears any more is thrown away at once, and what comes faster than it is heard is not read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import structlog
import trio

from adapters.speech.pieces import split_long
from adapters.speech.speaking.takes import Speech, Take
from engine.errors import BadMessage, SpeechFailed, Why
from engine.events import AudioFormat, CallInfo
from engine.runtime.background import beside
from engine.runtime.feed import Feed, Feeding, Message
from engine.runtime.network import VENDOR_LIMITS, Network, failing

log = structlog.get_logger()

QUEUE_MESSAGES = 8
"""Received and not yet looked at. A message may hold seconds of audio."""
MAX_BAD_MESSAGES = 20
"""Unusable messages in a row, before the socket is given up."""
PING_S = 20.0
LIMITS = replace(VENDOR_LIMITS, queue=QUEUE_MESSAGES)


@dataclass(frozen=True, slots=True)
class Over:
    """No more audio comes of the text that was asked for last. ``error``: why not all of it came."""

    error: SpeechFailed | None = None


class SpeechWire(Protocol):
    """What one vendor and we say to each other over one socket, one text at a time. Pure; made anew for each socket."""

    @property
    def is_spent(self) -> bool:
        """This socket takes no further text."""
        ...

    def greet(self) -> Sequence[Message]:
        """What is said first."""
        ...

    def speak(self, text: str) -> Sequence[Message]:
        """Ask for one text. Audio of any older one is void from now on."""
        ...

    def cancel(self) -> Sequence[Message]:
        """Nobody hears the text that was asked for last any more."""
        ...

    def keep_alive(self) -> Message | None:
        """What is said into a long silence, if anything."""
        ...

    def decode(self, message: Message) -> Sequence[bytes | Over]:
        """Audio of the text that was asked for last, and its end; nothing of all else. Raises BadMessage, and
        SpeechFailed for what ends the socket."""
        ...

    def ended(self, code: int) -> SpeechFailed | None:
        """The vendor has closed the socket with this code in the middle of a text: why, or None if that was its way of
        saying that all has been sent."""
        ...


@dataclass(frozen=True, slots=True)
class SocketVoice:
    """How one vendor speaks for one call."""

    vendor: str
    url: str
    headers: dict[str, str]
    wire: Callable[[], SpeechWire]
    source: AudioFormat
    """What the vendor sends."""
    max_chars: int
    """Longest text that it is asked for at once."""
    keep_alive_s: float | None = None
    """A wire's ``keep_alive`` is sent when nothing was written for so long."""
    ping_s: float = PING_S
    """Between WebSocket pings. None to a vendor that closes behind what it has sent: a write to a socket that is gone
    would lose what has not been read yet."""


@asynccontextmanager
async def open_synthesizer(voice: SocketVoice, network: Network, call: CallInfo) -> AsyncIterator[SocketSynthesizer]:
    """Connected when the block begins. Raises SpeechFailed. Leaving the block closes the sockets politely, within the
    second that a socket has for it; an exception or a cancel at once."""
    synthesizer: SocketSynthesizer | None = None
    try:
        async with beside() as nursery:
            synthesizer = SocketSynthesizer(voice, network, call, nursery)
            await synthesizer.connect()
            yield synthesizer
            await synthesizer.close()
    finally:
        if synthesizer is not None:
            synthesizer.give_up()


class SocketSynthesizer:
    """Implements ``engine.ports.Synthesizer``. One speech at a time.

    A socket that can take no further text (spent, closed by the vendor in the meantime, failed) is replaced: a spent
    one as soon as it is in use, so that the next sentence does not wait for a handshake; another when it is needed.
    """

    def __init__(self, voice: SocketVoice, network: Network, call: CallInfo, nursery: trio.Nursery) -> None:
        self._voice = voice
        self._network = network
        self._call = call
        self._nursery = nursery
        self._next: Connection | None = None
        self._connections: set[Connection] = set()
        self._has_ended = False
        self._is_speaking = False

    @property
    def is_closed(self) -> bool:
        return self._has_ended and all(connection.is_closed for connection in self._connections)

    @asynccontextmanager
    async def open_speech(self, text: str) -> AsyncIterator[trio.abc.ReceiveChannel[bytes]]:
        """See the port. Raises SpeechFailed if a new socket was needed and could not be had."""
        if self._is_speaking:
            raise RuntimeError("one speech at a time")
        if self._has_ended:
            raise SpeechFailed(self._voice.vendor, "the synthesizer is closed")
        self._is_speaking = True
        try:
            speech = Speech(split_long(text, self._voice.max_chars), self._ask)
            try:
                await speech.begin()
                yield speech
            finally:
                speech.close()
        finally:
            self._is_speaking = False

    async def connect(self) -> Connection:
        """A socket that takes a text: the one that is at hand, or a new one. Raises SpeechFailed."""
        connection = self._next
        if connection is None or not connection.is_usable:
            connection = self._open()
        await connection.settled.wait()
        if connection.failure is not None:
            self._next = None
            raise connection.failure
        return connection

    async def close(self) -> None:
        """Close all sockets politely."""
        self._has_ended = True
        for connection in self._connections:
            connection.end()
        for connection in list(self._connections):
            await connection.over.wait()

    def give_up(self) -> None:
        """No speech can begin any more."""
        self._has_ended = True

    async def _ask(self, text: str) -> Take:
        connection = await self.connect()
        take = connection.speak(text)
        if connection.is_spent:
            self._open()
        return take

    def _open(self) -> Connection:
        if self._next is not None:
            self._next.retire()
        self._connections = {connection for connection in self._connections if not connection.is_closed}
        connection = self._next = Connection(self._voice, self._network, self._call)
        self._connections.add(connection)
        self._nursery.start_soon(connection.run)
        return connection


class Connection:
    """One socket of a synthesizer and the task that reads it."""

    def __init__(self, voice: SocketVoice, network: Network, call: CallInfo) -> None:
        self.settled = trio.Event()
        """It is open, or has failed."""
        self.over = trio.Event()
        """Its task has ended."""
        self.failure: SpeechFailed | None = None
        self._voice = voice
        self._network = network
        self._call = call
        self._wire = voice.wire()
        self._feed: Feed | None = None
        self._take: Take | None = None
        self._bad_messages = 0
        self._is_retired = False
        self._opening = trio.CancelScope()
        self._reading = trio.CancelScope()

    @property
    def is_closed(self) -> bool:
        return self.over.is_set() and (self._feed is None or self._feed.is_closed)

    @property
    def is_spent(self) -> bool:
        return self._wire.is_spent

    @property
    def is_usable(self) -> bool:
        """It takes a text, or soon will."""
        if self.failure is not None or self.over.is_set() or self._reading.cancel_called or self._takes_no_more:
            return False
        return self._feed is None or self._feed.close_code is None

    @property
    def _takes_no_more(self) -> bool:
        return self._is_retired or self._wire.is_spent

    def speak(self, text: str) -> Take:
        """Only while it is usable and settled."""
        take = self._take = Take(self._voice.source, self._call.format, self.cancel)
        self._put(self._wire.speak(text))
        return take

    def cancel(self, take: Take) -> None:
        """What still comes of it is thrown away. Never waits."""
        if take is not self._take:
            return
        self._take = None
        self._put(self._wire.cancel())
        if self._takes_no_more:
            self.end()

    def retire(self) -> None:
        """Another socket has taken its place: close politely once nobody hears it. Never waits."""
        self._is_retired = True
        if self._take is None:
            self.end()

    def end(self) -> None:
        """Close politely, in its own task. Never waits."""
        if self.settled.is_set():
            self._reading.cancel()
        else:
            self._opening.cancel()

    async def run(self) -> None:
        voice = self._voice
        keeps_alive = voice.keep_alive_s is not None
        feeding = Feeding(
            keep_alive=self._wire.keep_alive if keeps_alive else None,
            keep_alive_s=voice.keep_alive_s or 0.0,
            ping_s=voice.ping_s,
        )
        try:
            with self._opening, failing(SpeechFailed, voice.vendor):
                async with self._network.feed(voice.url, voice.headers, feeding, limits=LIMITS) as feed:
                    self._feed = feed
                    self._put(self._wire.greet())
                    self.settled.set()
                    log.debug("synthesizer connected", vendor=voice.vendor, call_id=self._call.call_id)
                    with self._reading:
                        await self._read_or_fail(feed)
        except SpeechFailed as exc:
            self._fail(exc)
        finally:
            if not self.settled.is_set():
                self.failure = self.failure or SpeechFailed(voice.vendor, "given up while connecting", why=Why.CUT)
            self.settled.set()
            self.over.set()

    async def _read_or_fail(self, feed: Feed) -> None:
        """A failure is told at once, and not when the socket has closed."""
        try:
            with failing(SpeechFailed, self._voice.vendor):
                await self._read(feed)
        except SpeechFailed as exc:
            self._fail(exc)

    async def _read(self, feed: Feed) -> None:
        while True:
            try:
                message = await feed.receive()
            except trio.EndOfChannel:
                self._has_closed(feed.close_code or 1006)
                return
            try:
                parts = self._wire.decode(message)
            except BadMessage as exc:
                self._count_bad(exc)
                continue
            for part in parts:
                self._bad_messages = 0
                await self._pass_on(part)
            if self._take is None and self._takes_no_more:
                return

    async def _pass_on(self, part: bytes | Over) -> None:
        if isinstance(part, Over):
            self._finish(part.error)
        elif self._take is not None:
            await self._take.put(part)

    def _put(self, messages: Sequence[Message]) -> None:
        if self._feed is not None and messages:
            self._feed.put(*messages)

    def _has_closed(self, code: int) -> None:
        if self._take is not None:
            self._finish(self._wire.ended(code))
        log.debug("synthesizer closed by the vendor", vendor=self._voice.vendor, code=code, call_id=self._call.call_id)

    def _count_bad(self, exc: BadMessage) -> None:
        self._bad_messages += 1
        log.debug("unusable message of a synthesizer", vendor=self._voice.vendor, kind=exc.kind)
        if self._bad_messages > MAX_BAD_MESSAGES:
            raise SpeechFailed(self._voice.vendor, "nothing but garbage", why=Why.NONSENSE) from exc

    def _finish(self, error: SpeechFailed | None) -> None:
        if self._take is not None:
            self._take.finish(error)
            self._take = None

    def _fail(self, error: SpeechFailed) -> None:
        self.failure = error
        self._finish(error)
