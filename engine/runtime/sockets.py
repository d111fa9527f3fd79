"""WebSockets, server and client side: a small interface over trio-websocket in which its pitfalls are handled once.

One task receives and one task sends. Whatever a peer does (silence, resets, garbage, not reading, never answering a
close), the socket is gone within the times of :class:`SocketLimits`, and nothing is raised but what is named here.
Compression is never negotiated.
"""

from __future__ import annotations

import itertools
import ssl
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import structlog
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection
from wsproto import ConnectionType
from wsproto.connection import ConnectionState
from wsproto.events import Ping
from wsproto.utilities import LocalProtocolError

from engine.errors import OffhookError
from engine.runtime.connect import NotConnected, connect
from engine.runtime.frames import LeanConnection
from engine.runtime.wire import Inbox, Take, Wire, peer_of, tune

log = structlog.get_logger()

RECEIVE_BYTES = 16 * 1024
Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class SocketLimits:
    message_bytes: int = 64 * 1024
    """A longer message is refused with 1009, as soon as its length is known."""
    queue: int = 128
    """Messages received and not yet taken. When it is full nothing more is read (pings go unanswered, a close unseen)
    until the consumer has taken some. One network read may exceed it by what it holds (16 KiB)."""
    unread_s: float = 2.0
    """How long a full queue waits for its consumer before the socket is aborted. ``math.inf`` for a vendor that
    speaks faster than it is heard: there the full queue is the back-pressure."""
    handshake_s: float = 5.0
    """Connecting, TLS and the upgrade together."""
    send_s: float = 2.0
    """How long a send may make no progress (16 KiB count as some)."""
    close_s: float = 1.0
    """How long the peer may take over the close handshake."""


DEFAULT_LIMITS = SocketLimits()


class HandshakeFailed(OffhookError):
    """The socket did not open. ``status`` is the HTTP status of a server that refused the upgrade."""

    def __init__(self, what: str, status: int | None = None) -> None:
        super().__init__(what if status is None else f"{what}: HTTP {status}")
        self.status = status


class Socket:
    """An open WebSocket; made by :func:`accept_socket` and :func:`open_socket`."""

    def __init__(
        self, wire: Wire, inbox: Inbox, codec: LeanConnection, connection: WebSocketConnection, limits: SocketLimits
    ) -> None:
        self.peer = peer_of(wire.stream)
        """Address of the other end, for the log; empty on a memory stream."""
        self._wire = wire
        self._inbox = inbox
        self._codec = codec
        self._connection = connection
        self._limits = limits
        self._closing = False
        self._payloads = itertools.count()

    @property
    def closed(self) -> bool:
        """The descriptor is gone."""
        return self._wire.closed

    @property
    def close_code(self) -> int | None:
        """The code of the peer's close frame (1005: it named none), 1006 if it left without one, None while open."""
        if self._codec.peer_code is not None:
            return self._codec.peer_code
        return 1006 if self._inbox.ended else None

    @property
    def fault(self) -> int | None:
        """The code under which the peer's bytes were refused: 1002, 1007, 1009."""
        return self._codec.fault

    @property
    def slow(self) -> bool:
        """The peer was given up because it did not read."""
        return self._wire.slow

    async def receive(self) -> str | bytes:
        """The next message; what came before a close is still delivered. Raises trio.EndOfChannel when the socket is
        gone, however it went."""
        return await self._inbox.take()

    async def pour(self, take: Take) -> None:
        """Instead of ``receive``: hand all messages to ``take`` until cancelled, each read's at once, in the task that
        reads; it neither waits nor raises. Raises trio.EndOfChannel when the socket is gone."""
        await self._inbox.pour(take)

    async def send(self, *messages: str | bytes) -> None:
        """Write these messages, in one piece. Raises SlowPeer when the peer does not read, and then the socket is
        aborted; trio.BrokenResourceError when it is gone. Cancelled in mid-write, it aborts the socket: half a frame
        must not be followed by another."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_open()
        await self._wire.write(self._frames(messages))

    def send_now(self, *messages: str | bytes) -> bool:
        """Write these without waiting. False, and nothing has been done, where that cannot be: then ``send`` is the
        way. While the socket ``owes`` some of them, a ``send``, of nothing if need be, has to follow."""
        if not self._is_open:
            return False
        return self._wire.write_now(self._frames(messages))

    @property
    def owes(self) -> bool:
        """Of ``send_now``: the kernel has not taken everything."""
        return self._wire.owes

    def hold(self, is_held: bool) -> bool:
        """While held, what has come is read at each ``look``, which costs less than reading each message as it comes;
        a close is seen so much later, too. Returns whether it is held: TLS and memory streams never are."""
        return self._wire.hold(is_held)

    def look(self) -> None:
        """Of a socket that is held."""
        self._wire.look()

    async def ping(self) -> None:
        """Returns on the pong. Raises trio.EndOfChannel when the socket is gone. The caller sets the deadline."""
        payload = next(self._payloads).to_bytes(8, "big")  # counts up: the inbox compares them
        try:
            self._check_open()
            await self._wire.write(self._codec.send(Ping(payload=payload)))
        except (trio.BrokenResourceError, OffhookError):
            raise trio.EndOfChannel from None
        await self._inbox.pong_for(payload)

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        """Close politely: close frame, the peer's answer, within ``close_s``; then by force. Idempotent; cancelled, it
        closes at once."""
        if self._closing or self.closed:
            self.abort()
            return
        self._closing = True
        self._wire.hold(False)
        self._inbox.end(discard=True)
        try:
            with trio.move_on_after(self._limits.close_s):
                await self._connection.aclose(code, reason or None)
                if self._codec.peer_code is not None or self._codec.fault is not None:
                    await self._wire.wait_closed()  # by the reader, once it has answered the peer
                else:
                    await self._wire.aclose()
        except (LocalProtocolError, trio.BrokenResourceError):
            pass  # it broke meanwhile
        finally:
            self.abort()

    def abort(self) -> None:
        """Close at once, without waiting or a close frame; a TCP peer sees a reset."""
        self._inbox.end(discard=True)
        self._wire.abort()

    def _frames(self, messages: Sequence[str | bytes]) -> bytes:
        encode = self._codec.encode
        return encode(messages[0]) if len(messages) == 1 else b"".join(map(encode, messages))

    @property
    def _is_open(self) -> bool:
        return not (self._closing or self._wire.is_gone) and self._codec.state is ConnectionState.OPEN

    def _check_open(self) -> None:
        if not self._is_open:
            raise trio.BrokenResourceError


def accept_socket(
    stream: trio.abc.Stream,
    *,
    head: bytes,
    rest: bytes = b"",
    headers: Headers = (),
    limits: SocketLimits = DEFAULT_LIMITS,
) -> AbstractAsyncContextManager[Socket]:
    """Answer the upgrade request in ``head`` (read before, up to its blank line; ``rest`` is what was read past it) and
    own the stream from then on. Raises HandshakeFailed, after which the stream is closed."""
    return _Running(_Server(stream, head, rest, tuple(headers)), limits)


def open_socket(
    url: str,
    *,
    headers: Headers = (),
    limits: SocketLimits = DEFAULT_LIMITS,
    stream: trio.abc.Stream | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> AbstractAsyncContextManager[Socket]:
    """Connect to a ws:// or wss:// address; ``stream`` is used as it is instead of TCP and TLS. Connecting and the
    handshake share ``handshake_s``. Raises HandshakeFailed. Pass the process's ``ssl_context``: a new one is costly."""
    return _Running(_Client(url, tuple(headers), stream, ssl_context), limits)


@dataclass(frozen=True, slots=True)
class _Server:
    stream: trio.abc.Stream
    head: bytes
    rest: bytes
    headers: Headers
    kind = ConnectionType.SERVER

    async def connect(self) -> trio.abc.Stream:
        return self.stream

    def names(self) -> dict[str, Any]:
        return {}

    async def shake(self, connection: WebSocketConnection) -> None:
        request = await connection._get_request()
        await request.accept(extra_headers=list(self.headers))


@dataclass(frozen=True, slots=True)
class _Client:
    url: str
    headers: Headers
    stream: trio.abc.Stream | None
    ssl_context: ssl.SSLContext | None
    kind = ConnectionType.CLIENT
    head = b""
    rest = b""

    async def connect(self) -> trio.abc.Stream:
        if self.stream is not None:
            return self.stream
        url = urlsplit(self.url)
        if url.scheme != "wss":
            return await connect(url.hostname or "", url.port or 80, None)
        return await connect(url.hostname or "", url.port or 443, self.ssl_context or ssl.create_default_context())

    def names(self) -> dict[str, Any]:
        url = urlsplit(self.url)
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        return {"host": url.netloc.rpartition("@")[2], "path": path, "client_extra_headers": list(self.headers)}

    async def shake(self, connection: WebSocketConnection) -> None:
        await connection._open_handshake.wait()


class _Running:
    """One socket and its reader, in a nursery of their own. A class and not a generator, so that what the block raises
    leaves as it is and not wrapped in the nursery's group."""

    def __init__(self, side: _Server | _Client, limits: SocketLimits) -> None:
        self._side = side
        self._limits = limits

    async def __aenter__(self) -> Socket:
        side, limits = self._side, self._limits
        with trio.move_on_after(limits.handshake_s) as opening:
            try:
                stream = await side.connect()
            except NotConnected as exc:
                raise HandshakeFailed(f"cannot connect to {exc}") from exc
        if opening.cancelled_caught:
            raise HandshakeFailed("no connection in time")
        tune(stream)
        inbox = Inbox(limits.queue, limits.unread_s)
        codec = LeanConnection(side.kind, inbox, limits.message_bytes)
        wire = Wire(stream, inbox, codec, send_s=limits.send_s, head=side.head, rest=side.rest)
        # The public entrances of trio-websocket take no ws_connection, so its parts are driven here: the constructor,
        # _reader_task, _get_request and _open_handshake. The dependency is pinned to the exact version for it.
        connection = WebSocketConnection(
            wire,
            codec,
            message_queue_size=1,  # unused: data messages go to the inbox
            max_message_size=limits.message_bytes,
            receive_buffer_size=RECEIVE_BYTES,
            **side.names(),
        )
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        self._socket = Socket(wire, inbox, codec, connection, limits)
        try:
            shaking = trio.CancelScope(deadline=opening.deadline)
            self._nursery.start_soon(_read, connection, wire, shaking)
            with shaking:
                await side.shake(connection)
                wire.opened.set()
            if shaking.cancelled_caught or codec.state is ConnectionState.CONNECTING:
                raise HandshakeFailed("the handshake failed", codec.rejected)
        except BaseException as exc:
            self._socket.abort()
            await self.__aexit__(type(exc), exc, None)
            if isinstance(exc, trio.BrokenResourceError | LocalProtocolError | ConnectionClosed):
                raise HandshakeFailed("the handshake failed", codec.rejected) from None
            raise
        return self._socket

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool:
        try:
            await self._socket.aclose()
        except trio.Cancelled:
            if exc is None:
                raise
        finally:
            self._nursery.cancel_scope.cancel()
            await self._manager.__aexit__(None, None, None)
        return False


async def _read(connection: WebSocketConnection, wire: Wire, shaking: trio.CancelScope) -> None:
    """trio-websocket's reader behind an edge: whatever it raises over a stranger's bytes ends this socket alone."""
    try:
        await connection._reader_task()
    except Exception as exc:  # noqa: BLE001 - the edge of a stranger's bytes
        log.debug("websocket reader ended", error=type(exc).__name__)
    finally:
        shaking.cancel()
        wire.close()
