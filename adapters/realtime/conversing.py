"""A speech-to-speech model behind a WebSocket: one I/O class for every vendor's wire.

A task reads the socket as long as it lives, so that a barge-in is seen while a minute of reply waits to be heard. What
waits is bounded (``adapters.realtime.lanes``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

import structlog
import trio

from adapters.realtime.lanes import Lanes
from engine.audio.audio_clock import AudioClock
from engine.errors import BadMessage, ModelFailed, Why
from engine.events import FRAME_S, AudioFormat, CallInfo, RealtimeEvent, ReplyStarted, SessionInfo, ToolResult
from engine.runtime.background import beside
from engine.runtime.feed import Feed, Feeding, Message
from engine.runtime.network import VENDOR_LIMITS, Network, failing

LIMITS = replace(VENDOR_LIMITS, message_bytes=16 * 1024 * 1024, queue=16, close_s=0.5)
"""A message may hold a whole reply; it is looked at as soon as it is there."""
PIECE_S = 0.04
GAP_S = 0.5
"""A line that sends nothing for so long while the caller speaks is silent, and the vendor is told so: it counts time by
the audio it gets."""
MAX_PIECE_S = 0.1
"""A long stretch, such as what is sent again after a reconnect, goes in pieces."""
MAX_JUNK = 20
"""Messages in a row that make no sense: it is not the service that was meant."""

log = structlog.get_logger()


@dataclass(slots=True)
class Line:
    """What a wire works with: where its events go, what it wants sent, and when the audio came in."""

    format: AudioFormat
    lanes: Lanes
    clock: AudioClock
    now: Callable[[], float]
    outbox: deque[Message] = field(default_factory=deque)
    """To be sent, in order."""


class Wire(Protocol):
    """One connection's protocol, without I/O. Made with a :class:`Line`."""

    url: str
    headers: dict[str, str]
    is_ready: bool
    """It hears."""
    errors: int
    """What the vendor called an error and went on."""

    @property
    def is_hearing(self) -> bool:
        """The caller is speaking."""
        ...

    @property
    def due_at_s(self) -> float:
        """When ``expire`` is to be called."""
        ...

    def greet(self) -> None:
        """To be sent first goes into the outbox."""
        ...

    def audio(self, audio: bytes) -> Message:
        """Audio of the line as the vendor wants it."""
        ...

    def receive(self, message: Message) -> None:
        """Raises BadMessage, after which the next message is as good as any; ModelFailed if this is the end."""
        ...

    def expire(self) -> None: ...

    def say(self, text: str) -> None: ...

    def told(self, text: str) -> None: ...

    def interrupt(self, reply_id: str, heard_s: float) -> None:
        """``reply_id``: the one that is heard."""
        ...

    def heard_on(self, text: str) -> None: ...

    def tool_results(self, results: Sequence[ToolResult]) -> None: ...

    def why_closed(self, code: int | None) -> Why:
        """What this close code means."""
        ...


class SocketRealtime:
    """Implements ``engine.ports.RealtimeModel``; made by :func:`open_conversing`."""

    def __init__(self, vendor: str, line: Line, feed: Feed, wire: Wire) -> None:
        self.junk = 0
        """Messages that made no sense."""
        self._vendor = vendor
        self._line = line
        self._feed = feed
        self._wire = wire
        self._lost_s = 0.0
        """Of what was sent, as the clock knows."""
        self._last_audio_s = trio.current_time()
        self._max_piece_bytes = int(MAX_PIECE_S / FRAME_S) * line.format.frame_bytes
        self._junk_in_a_row = 0
        self._current = ""
        """The reply that was given last."""
        self._failure: ModelFailed | None = None
        self._something = trio.Event()
        self._waiting = trio.CancelScope()
        """Of the reader, for a message: no longer than until something is due."""

    @property
    def is_closed(self) -> bool:
        return self._feed.is_closed

    @property
    def errors(self) -> int:
        """What the vendor called an error and went on."""
        return self._wire.errors

    @property
    def dropped_s(self) -> float:
        """Caller audio that was never written, because the vendor did not read."""
        return self._feed.dropped_s

    def send(self, audio: bytes) -> None:
        self._last_audio_s = trio.current_time()
        for at in range(0, len(audio), self._max_piece_bytes):
            self._put_audio(audio[at : at + self._max_piece_bytes])

    async def receive(self) -> RealtimeEvent:
        """Raises ModelFailed when nothing more can come."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while (event := self._line.lanes.take()) is None:
            if self._failure is not None:
                raise self._failure
            self._something = trio.Event()
            await self._something.wait()
        if isinstance(event, ReplyStarted):
            self._current = event.reply_id
        return event

    def say(self, text: str) -> None:
        if text.strip():
            self._do(lambda: self._wire.say(text.strip()))
            self._flush()

    def told(self, text: str) -> None:
        if text.strip():
            self._do(lambda: self._wire.told(text.strip()))
            self._flush()

    def interrupt(self, heard_s: float) -> None:
        self._do(lambda: self._wire.interrupt(self._current, heard_s))
        self._flush()

    def heard_on(self, text: str) -> None:
        if text.strip():
            self._do(lambda: self._wire.heard_on(text.strip()))
            self._flush()

    def tool_results(self, results: Sequence[ToolResult]) -> None:
        self._do(lambda: self._wire.tool_results(results))
        self._flush()

    async def greet(self) -> None:
        """Until the vendor hears. Raises ModelFailed. The caller sets the deadline."""
        self._wire.greet()
        self._flush()
        while not self._wire.is_ready:
            await self._read()
            if self._failure is not None:
                raise self._failure

    async def run(self) -> None:
        """Read until nothing more can come."""
        while self._failure is None:
            await self._read()
        self._something.set()

    async def _read(self) -> None:
        """One message, or what is due without one."""
        message: Message | None = None
        wire = self._wire
        gap_at_s = self._last_audio_s + GAP_S if wire.is_hearing else float("inf")
        waiting = self._waiting = trio.CancelScope(deadline=min(wire.due_at_s, gap_at_s))
        with waiting:
            try:
                message = await self._feed.receive()
            except trio.EndOfChannel:
                code = self._feed.close_code
                self._failure = ModelFailed(self._vendor, f"closed the connection ({code})", why=wire.why_closed(code))
                return
        if message is not None:
            self._take(message)
        elif waiting.cancelled_caught:
            self._fill_gap()
            self._do(wire.expire)
        self._flush()

    def _take(self, message: Message) -> None:
        try:
            self._do(lambda: self._wire.receive(message))
            self._junk_in_a_row = 0
        except BadMessage as exc:
            self.junk += 1
            self._junk_in_a_row += 1
            log.debug("vendor message dropped", vendor=self._vendor, kind=exc.kind)
            if self._junk_in_a_row >= MAX_JUNK:
                self._failure = ModelFailed(self._vendor, "sends nothing that makes sense", why=Why.NONSENSE)

    def _do(self, step: Callable[[], None]) -> None:
        try:
            step()
        except ModelFailed as exc:
            self._failure = exc

    def _flush(self) -> None:
        outbox = self._line.outbox
        if outbox:
            self._feed.put(*outbox)
            outbox.clear()
        self._something.set()
        self._waiting.deadline = min(self._waiting.deadline, self._wire.due_at_s)

    def _put_audio(self, audio: bytes) -> None:
        feed, clock = self._feed, self._line.clock
        clock.sent(self._line.format.duration_s(audio), trio.current_time())
        feed.put_audio(audio)
        if feed.dropped_s != self._lost_s:
            clock.dropped(feed.dropped_s - self._lost_s, feed.waiting_s)
            self._lost_s = feed.dropped_s

    def _fill_gap(self) -> None:
        if self._wire.is_hearing and trio.current_time() >= self._last_audio_s + GAP_S:
            self.send(self._line.format.silence(GAP_S))


@asynccontextmanager
async def open_conversing(
    vendor: str,
    network: Network,
    call: CallInfo,
    session: SessionInfo,
    make_wire: Callable[[Line], Wire],
) -> AsyncIterator[SocketRealtime]:
    """One connection that hears. Left without an exception it closes politely, in at most half a second; else at once.
    Raises ModelFailed. The caller sets the deadline for opening."""
    line = Line(call.format, Lanes(vendor, call.format), AudioClock(), trio.current_time)
    wire = make_wire(line)
    feeding = Feeding(wire.audio, call.format.bytes_per_s, PIECE_S)
    log.debug("realtime_connecting", vendor=vendor, session_id=session.session_id, call_id=call.call_id)
    async with AsyncExitStack() as stack:
        with failing(ModelFailed, vendor):
            feed = await stack.enter_async_context(network.feed(wire.url, wire.headers, feeding, limits=LIMITS))
        model = SocketRealtime(vendor, line, feed, wire)
        await model.greet()
        log.debug("realtime_connected", vendor=vendor, session_id=session.session_id, call_id=call.call_id)
        async with beside(model.run):
            yield model
