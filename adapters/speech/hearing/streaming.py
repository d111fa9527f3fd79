"""A recogniser behind a WebSocket: one I/O class for every vendor's wire."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

import structlog
import trio

from adapters.speech.hearing.utterances import LOST_S, Utterances
from engine.audio.audio_clock import AudioClock
from engine.audio.levels import is_silent
from engine.errors import BadMessage, SpeechFailed, Why
from engine.events import FRAME_S, AudioFormat, CallInfo, TranscriberEvent
from engine.runtime.feed import Feed, Feeding, Message
from engine.runtime.network import Network, failing
from engine.runtime.sockets import SocketLimits

LIMITS = SocketLimits(message_bytes=4 * 1024 * 1024, queue=256, unread_s=float("inf"), handshake_s=3.0, close_s=0.2)
END_S = 0.3
"""For what was sent to be written and the vendor to say that it is done; then ``close_s`` for the socket."""
GAP_S = 0.5
"""A line that sends nothing for so long while the caller speaks is silent, and the vendor is told so."""
UNACKNOWLEDGED_S = 2.0
"""A vendor that acknowledges audio gets no more while it is so far behind."""
QUEUE_S = 2.0
"""Audio that is kept for it; beyond that the oldest is dropped."""
MAX_PIECE_S = 0.1
"""A long stretch, such as what is sent again after a reconnect, goes in pieces that every vendor takes."""
RECENT_S = 1.0
"""Of audio that is looked at for sound when words are overdue."""
MAX_JUNK = 20
"""Messages in a row that make no sense: it is not the service that was meant."""

log = structlog.get_logger()


class Wire(Protocol):
    """One connection's protocol, without I/O. What the vendor says of the caller's speech goes to the ``Utterances``
    that it was made with."""

    url: str
    headers: dict[str, str]
    feeding: Feeding
    is_ready: bool
    """The vendor takes audio."""
    is_over: bool
    """The vendor has said its last word, after ``farewell``."""

    def greeting(self) -> Sequence[Message]:
        """To be sent first."""
        ...

    def receive(self, message: Message) -> None:
        """Raises BadMessage, after which the next message is as good as any; SpeechFailed if the vendor gives up."""
        ...

    def gave_up(self) -> None:
        """The open segment was finished without the vendor's word for it: what still comes of it is void."""
        ...

    def backlog_s(self, dropped: int) -> float:
        """Audio sent and not acknowledged, without so many messages that were never written; 0 where vendors do not
        acknowledge."""
        ...

    def farewell(self, dropped: int) -> Sequence[Message]:
        """To be sent last; so many messages of audio were never written."""
        ...

    def why_closed(self, code: int | None) -> Why:
        """What this close code means."""
        ...


MakeWire = Callable[[Utterances], Wire]


class StreamingTranscriber:
    """Implements ``engine.ports.Transcriber``; made by :func:`open_hearing`. Reads its socket in ``receive`` alone, so
    that a listener who does not come back holds up the vendor and nothing grows."""

    def __init__(self, vendor: str, line: AudioFormat, feed: Feed, wire: Wire, utterances: Utterances) -> None:
        self.decides_turns = utterances.decides_turns
        self.junk = 0
        """Messages that made no sense."""
        self._vendor = vendor
        self._line = line
        self._feed = feed
        self._wire = wire
        self._utterances = utterances
        self._clock = utterances.clock
        self._held: deque[tuple[bytes, float]] = deque()
        """Audio that waits for the vendor to catch up, and when it came."""
        self._held_bytes = 0
        self._bytes_per_s = line.bytes_per_s
        self._max_held_bytes = int(QUEUE_S * line.bytes_per_s)
        self._max_piece_bytes = int(MAX_PIECE_S / FRAME_S) * line.frame_bytes
        self._held_lost_s = 0.0
        self._lost_s = 0.0
        """Of what was put, as the clock knows."""
        self._last_audio_s = trio.current_time()
        self._recent = bytearray()
        self._recent_bytes = int(RECENT_S * line.bytes_per_s)
        self._junk_in_a_row = 0
        self._failure: SpeechFailed | None = None
        self._is_ending = False

    @property
    def is_closed(self) -> bool:
        return self._feed.is_closed

    @property
    def dropped_s(self) -> float:
        """Audio that was put and never written, because the vendor did not read."""
        return self._feed.dropped_s + self._held_lost_s

    def send(self, audio: bytes) -> None:
        if not audio or self._is_ending:
            return
        if len(audio) > self._max_piece_bytes:
            for at in range(0, len(audio), self._max_piece_bytes):
                self.send(audio[at : at + self._max_piece_bytes])
            return
        self._last_audio_s = now_s = trio.current_time()
        self._recent += audio
        if len(self._recent) > self._recent_bytes:
            del self._recent[: -self._recent_bytes]
        if self._held or self._wire.backlog_s(self._feed.dropped) > UNACKNOWLEDGED_S:
            self._hold(audio, now_s)
        else:
            self._put(audio, now_s)

    async def receive(self) -> TranscriberEvent:
        """Raises SpeechFailed when no more words can come."""
        events = self._utterances.events
        while not events:
            if self._failure is not None:
                raise self._failure
            await self._listen()
        return events.popleft()

    async def greet(self) -> None:
        """Until the vendor takes audio. Raises SpeechFailed. The caller sets the deadline."""
        self._feed.put(*self._wire.greeting())
        while not self._wire.is_ready:
            self._take(await self._next())
            if self._failure is not None:
                raise self._failure

    async def end(self) -> None:
        """Tell the vendor that no more audio comes, and wait for it a little."""
        self._is_ending = True
        self._feed.put()
        self._feed.put(*self._wire.farewell(self._feed.dropped))
        with trio.move_on_after(END_S):
            await self._feed.drain()
            while not self._wire.is_over and self._failure is None:
                self._take(await self._next())
                self._utterances.events.clear()

    # --- from the vendor ------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """One message of the vendor, or what is due without one."""
        utterances = self._utterances
        message: Message | None = None
        gap_at_s = self._last_audio_s + GAP_S if utterances.is_open else float("inf")
        with trio.move_on_at(min(utterances.due_at_s, gap_at_s)) as waiting:
            message = await self._next()
        if message is not None:
            self._take(message)
        elif waiting.cancelled_caught:
            self._fill_gap()
            if utterances.expire(is_loud=self._is_loud()):
                self._wire.gave_up()

    def _is_loud(self) -> bool:
        """The line has sent some sound just now."""
        if trio.current_time() >= self._last_audio_s + GAP_S:
            return False
        recent, size = bytes(self._recent), self._line.frame_bytes
        return any(not is_silent(recent[at : at + size], self._line) for at in range(0, len(recent), size))

    async def _next(self) -> Message | None:
        """None if the socket is gone, and then ``_failure`` says why."""
        try:
            return await self._feed.receive()
        except trio.EndOfChannel:
            why = self._wire.why_closed(self._feed.close_code)
            self._failure = SpeechFailed(self._vendor, f"closed the connection ({self._feed.close_code})", why=why)
            return None

    def _take(self, message: Message | None) -> None:
        if message is None:
            return
        try:
            self._wire.receive(message)
            self._junk_in_a_row = 0
        except BadMessage as exc:
            self.junk += 1
            self._junk_in_a_row += 1
            log.debug("vendor message dropped", vendor=self._vendor, kind=exc.kind)
            if self._junk_in_a_row >= MAX_JUNK:
                self._failure = SpeechFailed(self._vendor, "sends nothing that makes sense", why=Why.NONSENSE)
        except SpeechFailed as exc:
            self._failure = exc
        if self._held:
            self._release()

    # --- to the vendor --------------------------------------------------------------------------------------

    def _put(self, audio: bytes, came_at_s: float) -> None:
        feed, clock = self._feed, self._clock
        clock.sent(len(audio) / self._bytes_per_s, came_at_s)
        feed.put_audio(audio)
        if feed.dropped_s != self._lost_s:
            clock.dropped(feed.dropped_s - self._lost_s, feed.waiting_s)
            self._lost_s = feed.dropped_s

    def _hold(self, audio: bytes, came_at_s: float) -> None:
        self._held.append((audio, came_at_s))
        self._held_bytes += len(audio)
        while self._held_bytes > self._max_held_bytes:
            dropped, _ = self._held.popleft()
            self._held_bytes -= len(dropped)
            self._held_lost_s += len(dropped) / self._line.bytes_per_s

    def _release(self) -> None:
        while self._held and self._wire.backlog_s(self._feed.dropped) <= UNACKNOWLEDGED_S:
            audio, came_at_s = self._held.popleft()
            self._held_bytes -= len(audio)
            self._put(audio, came_at_s)

    def _fill_gap(self) -> None:
        now_s = trio.current_time()
        if self._utterances.is_open and now_s >= self._last_audio_s + GAP_S:
            self.send(self._line.silence(GAP_S))


@asynccontextmanager
async def open_hearing(
    vendor: str,
    network: Network,
    call: CallInfo,
    make_wire: MakeWire,
    *,
    decides_turns: bool,
    lost_s: float = LOST_S,
) -> AsyncIterator[StreamingTranscriber]:
    """One connection, ready. Left without an exception it ends politely, in at most half a second; else at once.

    ``lost_s``: words that have not changed for so long are final, whether or not the vendor says so. Raises
    SpeechFailed. The caller sets the deadline for opening.
    """
    utterances = Utterances(AudioClock(), trio.current_time, decides_turns=decides_turns, lost_s=lost_s)
    wire = make_wire(utterances)
    async with AsyncExitStack() as stack:
        with failing(SpeechFailed, vendor):
            feed = await stack.enter_async_context(network.feed(wire.url, wire.headers, wire.feeding, limits=LIMITS))
        transcriber = StreamingTranscriber(vendor, call.format, feed, wire, utterances)
        await transcriber.greet()
        log.debug("recogniser connected", call_id=call.call_id, vendor=vendor)
        yield transcriber
        await transcriber.end()
