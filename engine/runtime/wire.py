"""What lies under a WebSocket of ours: the bounded inbox it fills, and the byte stream with deadlines and an end."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence

import trio

from engine.errors import SlowPeer
from engine.runtime.frames import LeanConnection

PIECE_BYTES = 16 * 1024
"""What counts as progress of a send."""
DRAIN_BYTES = 1024 * 1024
"""What is still read, and thrown away, of a peer that we refuse while it sends."""
DRAIN_S = 0.25
USER_TIMEOUT_MS = 15_000
"""How long TCP may wait for an acknowledgement; a peer whose network died is otherwise held for 15 minutes."""


Take = Callable[[Sequence[str | bytes]], None]
"""Told what was read, as it comes. Neither waits nor raises."""


class Inbox:
    """Messages received and not yet taken: one reader puts, one task takes, or all is poured into a function."""

    def __init__(self, queue: int, unread_s: float) -> None:
        self.ended = False
        self._queue = queue
        self._unread_s = unread_s
        self._messages: deque[str | bytes] = deque()
        self._pour_into: Take | None = None
        self._changed = trio.lowlevel.ParkingLot()
        self._space = trio.lowlevel.ParkingLot()
        self._ponged = b""

    # --- a Sink ---

    def messages(self, messages: Sequence[str | bytes]) -> None:
        if self.ended:
            return
        if self._pour_into is not None:
            self._pour_into(messages)
        else:
            self._messages.extend(messages)
            self._changed.unpark_all()

    def pong(self, payload: bytes) -> None:
        # Payloads count upwards and have one length, so a later pong answers the earlier pings too.
        if len(payload) == 8 and payload > self._ponged:
            self._ponged = payload
            self._changed.unpark_all()

    def end(self, *, discard: bool = False) -> None:
        self.ended = True
        if discard:
            self._messages.clear()
        self._changed.unpark_all()
        self._space.unpark_all()

    # --- the consumer's and the reader's side ---

    async def take(self) -> str | bytes:
        """Raises trio.EndOfChannel after the last message."""
        if self._messages:
            await trio.lowlevel.checkpoint_if_cancelled()
        while not self._messages:
            if self.ended:
                await trio.lowlevel.checkpoint()
                raise trio.EndOfChannel
            await self._changed.park()
        message = self._messages.popleft()
        if len(self._messages) == self._queue - 1:
            self._space.unpark_all()
        return message

    async def pour(self, take: Take) -> None:
        """Hand on what is there, and then all as it is read, until cancelled. Raises trio.EndOfChannel at the end."""
        if self._messages:
            waiting = tuple(self._messages)
            self._messages.clear()
            self._space.unpark_all()
            take(waiting)
        self._pour_into = take
        try:
            while not self.ended:
                await self._changed.park()
        finally:
            self._pour_into = None
        await trio.lowlevel.checkpoint()
        raise trio.EndOfChannel

    async def pong_for(self, payload: bytes) -> None:
        """Raises trio.EndOfChannel when none can come any more."""
        while self._ponged < payload:
            if self.ended:
                raise trio.EndOfChannel
            await self._changed.park()

    @property
    def full(self) -> bool:
        return len(self._messages) >= self._queue and not self.ended

    async def space(self) -> bool:
        """Wait for the consumer to make room; False when it took nothing for too long."""
        while self.full:
            held = len(self._messages)
            with trio.move_on_after(self._unread_s) as waiting:
                await self._space.park()
            if waiting.cancelled_caught and len(self._messages) >= held:
                return False
        return True


class Wire(trio.abc.Stream):
    """The byte stream below one WebSocket, as trio-websocket sees it.

    Gives the bytes that were read before it (``head``, then ``rest`` once ``opened`` is set), holds one writer at a
    time to a deadline, and aborts when a write was cut short. ``stream`` is the transport; the wire owns it.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        inbox: Inbox,
        codec: LeanConnection,
        *,
        send_s: float,
        head: bytes = b"",
        rest: bytes = b"",
    ) -> None:
        self.stream = stream
        self.opened = trio.Event()
        self.slow = False
        self._inbox = inbox
        self._codec = codec
        self._send_s = send_s
        self._head = head
        self._rest = rest
        self._lock = trio.StrictFIFOLock()
        self._gone = False
        self._draining = False
        self._closed = trio.Event()
        self._plain = stream.socket if isinstance(stream, trio.SocketStream) else None
        """The socket of a plain TCP stream, for the short cuts of the hot path."""
        self._owed = b""
        """Of a frame that the kernel did not take whole: it goes out before anything else does."""
        self._is_held = False
        self._unread = b""
        """Read by a look, and for the reader."""
        self._has_more = False
        self._looks = trio.lowlevel.ParkingLot()

    @property
    def is_gone(self) -> bool:
        """Closed from here: what ``closed`` finds out from the system, at less cost."""
        return self._gone

    @property
    def closed(self) -> bool:
        transport = socket_of(self.stream)
        return self._gone if transport is None else transport.fileno() == -1

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._head or self._rest:
            return await self._replay()
        while True:
            if self._inbox.full and not await self._inbox.space():
                self.abort()
            if self._codec.fault is not None:
                await self.aclose()
            if self._codec.fault is not None or self._codec.peer_code is not None:
                return b""  # nothing of worth follows; the reader ends here, its answer to the close sent
            data = await self._next(max_bytes or PIECE_BYTES)
            if not data:
                return b""
            # Messages go on from here; what is returned costs as much again in trio-websocket.
            if rest := self._codec.take(data):
                return rest

    async def _next(self, max_bytes: int) -> bytes:
        if self._gone:
            raise trio.ClosedResourceError
        if self._plain is None:
            return bytes(await self.stream.receive_some(max_bytes))
        if self._is_held and not self._unread and not self._has_more:
            await self._looks.park()
        if self._unread:
            await trio.lowlevel.checkpoint()
            unread, self._unread = self._unread, b""
            return unread
        if self._gone:
            raise trio.ClosedResourceError
        data = await _read_when_readable(self._plain, max_bytes)
        self._has_more = len(data) == max_bytes
        return data

    def hold(self, is_held: bool) -> bool:
        """Read at each ``look`` alone. Returns whether it does."""
        self._is_held = is_held and self._plain is not None
        if not self._is_held:
            self._looks.unpark_all()
        return self._is_held

    def look(self) -> None:
        """Read what has come, and hand on its messages here and now; the reader is woken for all else. Of a silent line
        one read has it all; of whoever sends more the rest is read as usual."""
        if not self._looks or self._plain is None or self._gone:
            return  # not held, or the reader has still something to do
        if self._inbox.full:
            self._looks.unpark_all()
            return
        try:
            data = os.read(self._plain.fileno(), PIECE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # which the reader finds out for itself
        self._unread = self._codec.take(data)
        self._has_more = not data or len(data) == PIECE_BYTES
        if self._unread or self._has_more:
            self._looks.unpark_all()

    async def _replay(self) -> bytes:
        if self._head:
            replayed, self._head = self._head, b""
        else:
            await self.opened.wait()
            replayed, self._rest = self._rest, b""
        return replayed

    async def write(self, data: bytes) -> None:
        """Raises SlowPeer when nothing moves for ``send_s``, trio.BrokenResourceError when the stream is gone; either
        way, and when cancelled in mid-write, it is closed."""
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()
        try:
            if self._gone:
                raise trio.BrokenResourceError
            if self._owed:
                data, self._owed = self._owed + data, b""
            if len(data) <= PIECE_BYTES:
                await self._write_piece(data)
            else:
                for at in range(0, len(data), PIECE_BYTES):
                    await self._write_piece(data[at : at + PIECE_BYTES])
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.abort()
            raise trio.BrokenResourceError from None
        except BaseException:
            self.abort()
            raise
        finally:
            self._lock.release()

    @property
    def owes(self) -> bool:
        """A ``write``, of nothing if need be, is wanted."""
        return bool(self._owed)

    def write_now(self, data: bytes) -> bool:
        """Give it to the kernel at once. False, and nothing has been done, where that cannot be: while something else
        is written or owed, over TLS and in memory. What the kernel did not take is owed."""
        if self._plain is None or self._gone or self._owed or self._lock.locked():
            return False
        try:
            self._owed = _write_what_fits(self._plain, data)
        except trio.BrokenResourceError:
            self.abort()
        return True

    async def _write_piece(self, piece: bytes) -> None:
        if self._plain is not None:
            piece = _write_what_fits(self._plain, piece)
            if not piece:
                return
        with trio.move_on_after(self._send_s) as waiting:
            await self.stream.send_all(piece)
        if waiting.cancelled_caught:
            self.slow = True
            raise SlowPeer("the peer does not read")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self.write(bytes(data))
        except SlowPeer:
            raise trio.BrokenResourceError from None  # all that trio-websocket understands

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close in order, so that what was sent last arrives; whatever happens, the stream is gone afterwards."""
        try:
            if self._codec.fault is not None and not self._gone:
                await self._drain()
        finally:
            self.close()
        await trio.lowlevel.checkpoint()

    async def wait_closed(self) -> None:
        await self._closed.wait()

    async def _drain(self) -> None:
        if self._draining:
            await self._closed.wait()
            return
        self._draining = True
        await drain(self.stream)

    def close(self) -> None:
        """Close at once; what the kernel has taken is still sent."""
        if not self._gone:
            self._gone = True
            self._closed.set()
            close_stream(self.stream)
            self._looks.unpark_all()
        self._inbox.end()

    def abort(self) -> None:
        """Close at once; TCP drops what is unsent and tells the peer by a reset."""
        if not self._gone:
            abort_stream(self.stream)
        self.close()


async def _read_when_readable(transport: trio.socket.SocketType, max_bytes: int) -> bytes:
    """What ``SocketStream.receive_some`` does, in the order that fits a line on which nothing has come yet: wait, then
    read, instead of a read that fails, a wait and a read."""
    while True:
        await trio.lowlevel.wait_readable(transport)
        try:
            return os.read(transport.fileno(), max_bytes)
        except BlockingIOError:
            continue
        except OSError as exc:
            raise trio.BrokenResourceError from exc


def _write_what_fits(transport: trio.socket.SocketType, data: bytes) -> bytes:
    """Give the kernel what it takes at once, which is nearly always all; the rest is returned."""
    try:
        return data[os.write(transport.fileno(), data) :]
    except BlockingIOError:
        return data
    except OSError as exc:
        raise trio.BrokenResourceError from exc


def close_stream(stream: object) -> None:
    """Close a transport synchronously: a socket, TLS over one, or a memory stream."""
    inner = getattr(stream, "transport_stream", None)
    if inner is not None:
        close_stream(inner)
    elif isinstance(stream, trio.SocketStream):
        stream.socket.close()
    elif isinstance(stream, trio.StapledStream):
        close_stream(stream.send_stream)
        close_stream(stream.receive_stream)
    else:
        close = getattr(stream, "close", None)
        if close is None:
            raise TypeError(f"{type(stream).__name__} has no close()")
        close()


def abort_stream(stream: trio.abc.Stream) -> None:
    """Close at once; TCP drops what is unsent and sends a reset."""
    transport = socket_of(stream)
    if transport is not None:
        with contextlib.suppress(OSError):
            transport.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    close_stream(stream)


async def drain(stream: trio.abc.Stream) -> None:
    """Before closing on a peer that may still be sending: closing with bytes unread makes TCP reset, and the reset may
    overtake the words that say why."""
    with trio.move_on_after(DRAIN_S), contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        if isinstance(stream, trio.abc.HalfCloseableStream):
            await stream.send_eof()
        drained = 0
        while drained < DRAIN_BYTES and (data := await stream.receive_some(65536)):
            drained += len(data)


def tune(stream: trio.abc.Stream) -> None:
    """Small writes at once, and a dead network noticed."""
    transport = socket_of(stream)
    if transport is None or transport.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with contextlib.suppress(OSError):
        transport.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            transport.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)


def peer_of(stream: trio.abc.Stream) -> str:
    """``address:port`` of the other end, or empty."""
    host, port = endpoints(stream)[1]
    return f"{host}:{port}" if host else ""


def endpoints(stream: trio.abc.Stream) -> tuple[tuple[str, int], tuple[str, int]]:
    """Address and port of our end and of the other; empty and 0 where there are none."""
    transport = socket_of(stream)
    nowhere = ("", 0)
    if transport is None or transport.family not in (socket.AF_INET, socket.AF_INET6):
        return nowhere, nowhere
    try:
        here, there = transport.getsockname(), transport.getpeername()
    except OSError:  # the peer has left already
        return nowhere, nowhere
    return (here[0], here[1]), (there[0], there[1])


def socket_of(stream: object) -> trio.socket.SocketType | None:
    while not isinstance(stream, trio.SocketStream):
        stream = getattr(stream, "transport_stream", None)
        if stream is None:
            return None
    return stream.socket
