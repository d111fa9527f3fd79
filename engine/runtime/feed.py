"""A WebSocket to a vendor: what is put never waits, one task writes, silences are filled with keep-alives."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from engine.errors import SlowPeer
from engine.runtime.background import beside
from engine.runtime.sockets import Socket

Message = str | bytes
MAX_MESSAGES = 1000
"""Waiting to be written, audio apart. A vendor that is so far behind is given up."""
PONG_S = 5.0


@dataclass(frozen=True, slots=True)
class Feeding:
    """How audio and silence go to one vendor."""

    encode_audio: Callable[[bytes], Message] = bytes
    bytes_per_s: float = 8000.0
    """Of the audio that is put."""
    piece_s: float = 0.06
    """Audio is gathered into messages of this length: messages are what costs."""
    queue_s: float = 2.0
    """Audio that waits to be written; beyond it the oldest is dropped."""
    keep_alive: Callable[[], Message | None] | None = None
    keep_alive_s: float = 4.0
    """When nothing was written for so long, what ``keep_alive`` then gives is, if anything."""
    ping_s: float = 20.0
    """Between WebSocket pings; a peer is gone that neither answers within five seconds nor sends anything."""


class Feed:
    """``put`` and ``put_audio`` from any task, ``receive`` from one."""

    def __init__(self, socket: Socket, feeding: Feeding) -> None:
        self.dropped_s = 0.0
        """Audio that was never written, because the vendor did not read."""
        self.dropped = 0
        """And in how many messages."""
        self._socket = socket
        self._feeding = feeding
        self._waiting: deque[tuple[Message, float]] = deque()
        self._waiting_s = 0.0
        self._gathered = bytearray()
        self._piece_bytes = max(1, int(feeding.piece_s * feeding.bytes_per_s))
        self._changed = trio.Event()
        self._all_written = trio.Event()
        self._is_awaited = False
        self._is_idle = False
        """The writer has nothing to write: whoever puts something may write it at once."""
        self._written_at_s = trio.current_time()
        self._received = 0

    @classmethod
    @asynccontextmanager
    async def over(cls, socket: Socket, feeding: Feeding) -> AsyncIterator[Feed]:
        feed = cls(socket, feeding)
        async with beside(feed._write, feed._ping):
            yield feed

    @property
    def is_closed(self) -> bool:
        """The descriptor is gone."""
        return self._socket.closed

    @property
    def close_code(self) -> int | None:
        """As :attr:`Socket.close_code`."""
        return self._socket.close_code

    @property
    def waiting_s(self) -> float:
        """Audio that was put and is not written yet."""
        return self._waiting_s + len(self._gathered) / self._feeding.bytes_per_s

    def put(self, *messages: Message) -> None:
        """Queue these, behind all audio put before. A vendor that does not read loses its socket."""
        self._flush()
        if len(self._waiting) + len(messages) > MAX_MESSAGES:
            self._socket.abort()
            return
        if messages:
            self._waiting.extend((message, 0.0) for message in messages)
            self._something_waits()

    def put_audio(self, audio: bytes) -> None:
        """Queue audio; it is written once there is a whole piece of it, with what has come by then."""
        self._gathered += audio
        if len(self._gathered) >= self._piece_bytes:
            self._flush()

    async def receive(self) -> Message:
        """The next message. Raises trio.EndOfChannel when the socket is gone, however it went."""
        self._is_awaited = True
        try:
            return await self._socket.receive()
        finally:
            self._is_awaited = False
            self._received += 1

    async def drain(self) -> None:
        """Until all that was put has been written, or the socket is gone. The caller sets the deadline."""
        await self._all_written.wait()

    def _flush(self) -> None:
        if not self._gathered:
            return
        audio = bytes(self._gathered)
        self._gathered.clear()
        seconds = len(audio) / self._feeding.bytes_per_s
        self._waiting.append((self._feeding.encode_audio(audio), seconds))
        self._waiting_s += seconds
        while self._waiting_s > self._feeding.queue_s:
            self._drop_oldest()
        self._something_waits()

    def _something_waits(self) -> None:
        if self._is_idle and self._write_now():
            return
        if self._all_written.is_set():
            self._all_written = trio.Event()
        self._changed.set()

    def _write_now(self) -> bool:
        """Without a task switch. False if not all of it is on its way."""
        if not self._socket.send_now(*(message for message, _ in self._waiting)):
            return False
        self._has_written()
        return not self._socket.owes

    def _has_written(self) -> None:
        self._waiting.clear()
        self._waiting_s = 0.0
        self._written_at_s = trio.current_time()

    def _drop_oldest(self) -> None:
        index = next(i for i, (_, seconds) in enumerate(self._waiting) if seconds)
        seconds = self._waiting[index][1]
        del self._waiting[index]
        self._waiting_s -= seconds
        self.dropped_s += seconds
        self.dropped += 1

    async def _write(self) -> None:
        try:
            while True:
                if not self._waiting and not self._socket.owes:
                    await self._idle()
                    continue
                messages = [message for message, _ in self._waiting]
                self._has_written()
                await self._socket.send(*messages)
        except (SlowPeer, trio.BrokenResourceError):
            self._socket.abort()  # whoever receives is told
        finally:
            self._is_idle = False
            self._all_written.set()

    async def _idle(self) -> None:
        """Until something waits; or a keep-alive does, because nothing else was written for so long."""
        self._changed = trio.Event()
        self._all_written.set()
        keep_alive = self._feeding.keep_alive
        due_at_s = self._written_at_s + self._feeding.keep_alive_s if keep_alive else math.inf
        self._is_idle = True
        with trio.move_on_at(due_at_s):
            await self._changed.wait()
        self._is_idle = False
        now_s = trio.current_time()
        if keep_alive is None or self._waiting or now_s < self._written_at_s + self._feeding.keep_alive_s:
            return
        self._written_at_s = now_s
        if (message := keep_alive()) is not None:
            self._flush()  # less than a piece came before the silence
            self._waiting.append((message, 0.0))

    async def _ping(self) -> None:
        while True:
            await trio.sleep(self._feeding.ping_s)
            received = self._received
            with trio.move_on_after(PONG_S) as waiting:
                try:
                    await self._socket.ping()
                except trio.EndOfChannel:
                    return
            # Of a vendor that sends faster than it is heard, the pong may be behind much that nobody has taken yet.
            if waiting.cancelled_caught and self._is_awaited and received == self._received:
                self._socket.abort()
                return
