"""The front: HTTP and WebSocket on one port, each connection behind an edge of its own."""

from __future__ import annotations

import base64
import binascii
import errno
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from urllib.parse import unquote

import h11
import structlog
import trio
from starlette.types import ASGIApp

from engine.observe.labels import HandshakeFailure
from engine.observe.metrics import Metrics
from engine.runtime.sockets import DEFAULT_LIMITS, HandshakeFailed, Socket, SocketLimits, accept_socket
from engine.runtime.wire import abort_stream, close_stream, drain, endpoints, tune
from engine.web.asgi import Gone, HttpConnection, Refused, header
from engine.web.limits import DoorLimits

log = structlog.get_logger()

MediaHandler = Callable[[Socket], Awaitable[None]]

ACCEPT_PAUSE_S = 0.1
ACCEPT_LOG_S = 10.0
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_WHY = {413: HandshakeFailure.TOO_LARGE, 431: HandshakeFailure.TOO_LARGE, 408: HandshakeFailure.TIMEOUT}


class Door:
    """Answers HTTP through ``app`` and hands the WebSockets of ``media`` (exact path to handler) over.

    ``live_calls`` counts the calls under way: media sockets beyond those are pending. Counts are open to be read.
    """

    def __init__(
        self,
        app: ASGIApp,
        media: Mapping[str, MediaHandler],
        metrics: Metrics,
        limits: DoorLimits | None = None,
        *,
        live_calls: Callable[[], int] = lambda: 0,
        socket_limits: SocketLimits = DEFAULT_LIMITS,
    ) -> None:
        self.open_connections = 0
        self.media_sockets = 0
        self._app = app
        self._media = dict(media)
        self._metrics = metrics
        self._limits = limits or DoorLimits()
        self._live_calls = live_calls
        self._socket_limits = socket_limits
        self._accept_log_at_s = -math.inf

    @property
    def pending(self) -> int:
        """Media sockets that are open and no call yet."""
        return max(0, self.media_sockets - self._live_calls())

    async def serve(
        self,
        listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept until cancelled, which ends every connection. The listeners are closed then."""
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                nursery.start_soon(self._accept, listener, nursery)
            task_status.started()

    async def _accept(self, listener: trio.abc.Listener[trio.abc.Stream], connections: trio.Nursery) -> None:
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as exc:
                    self._note_accept(exc)
                    await trio.sleep(ACCEPT_PAUSE_S)  # what is missing comes back when connections end
                else:
                    connections.start_soon(self.handle, stream)

    def _note_accept(self, exc: OSError) -> None:
        now = trio.current_time()
        if now - self._accept_log_at_s >= ACCEPT_LOG_S:
            self._accept_log_at_s = now
            why = errno.errorcode.get(exc.errno or 0, "unknown")
            log.error(
                "accept_failed", error=why, is_exhausted=exc.errno in _EXHAUSTED, connections=self.open_connections
            )

    async def handle(self, stream: trio.abc.Stream) -> None:
        """One connection, to its end; nothing but cancellation leaves. The stream is closed."""
        self.open_connections += 1
        try:
            if self.open_connections > self._limits.connections:
                self._count(HandshakeFailure.TOO_MANY)
                abort_stream(stream)
                return
            tune(stream)
            await self._converse(stream)
        except* Exception as group:
            log.error("connection_failed", exc_info=group)
        finally:
            close_stream(stream)
            self.open_connections -= 1

    async def _converse(self, stream: trio.abc.Stream) -> None:
        here, there = endpoints(stream)
        http = HttpConnection(stream, self._limits, there, here)
        try:
            while (request := await http.read_head()) is not None:
                handler = self._media.get(_path(request))
                if handler is not None:
                    await self._upgrade(stream, request, http.rest(), handler)
                    return
                if not await http.answer(request, self._app):
                    await drain(stream)
                    return
        except Gone as gone:
            self._count(HandshakeFailure.TIMEOUT if gone.is_late else HandshakeFailure.CLOSED)
            abort_stream(stream)
        except Refused as refused:
            self._count(_WHY.get(refused.status, HandshakeFailure.BAD_REQUEST))
            try:
                await http.refuse(refused)
                await drain(stream)
            except Gone:
                abort_stream(stream)

    async def _upgrade(self, stream: trio.abc.Stream, request: h11.Request, rest: bytes, handler: MediaHandler) -> None:
        _check_upgrade(request)
        if self.pending >= self._limits.pending:
            self._count(HandshakeFailure.TOO_MANY)
            raise Refused(503, headers=[(b"retry-after", b"1")])
        try:
            async with (
                self._counted(),
                accept_socket(stream, head=_head(request), rest=rest, limits=self._socket_limits) as socket,
            ):
                await handler(socket)
        except HandshakeFailed:
            self._count(HandshakeFailure.PROTOCOL)

    @asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        self.media_sockets += 1
        try:
            yield
        finally:
            self.media_sockets -= 1

    def _count(self, why: HandshakeFailure) -> None:
        self._metrics.handshake_failures_total.labels(why=why).inc()


def _path(request: h11.Request) -> str:
    return unquote(request.target.partition(b"?")[0].decode("ascii"))


def _tokens(request: h11.Request, name: bytes) -> list[bytes]:
    return [
        token.strip().lower() for key, value in request.headers if key == name for token in bytes(value).split(b",")
    ]


def _wants_websocket(request: h11.Request) -> bool:
    return b"websocket" in _tokens(request, b"upgrade")


def _check_upgrade(request: h11.Request) -> None:
    """Raises Refused."""
    if not _wants_websocket(request) or header(request, b"sec-websocket-version") != b"13":
        raise Refused(426, headers=[(b"upgrade", b"websocket"), (b"sec-websocket-version", b"13")])
    if request.method != b"GET" or b"upgrade" not in _tokens(request, b"connection"):
        raise Refused(400, "The upgrade request is malformed.")
    if header(request, b"content-length") not in (b"", b"0") or header(request, b"transfer-encoding"):
        raise Refused(400, "An upgrade request has no body.")
    try:
        key = base64.b64decode(header(request, b"sec-websocket-key"), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != 16:
        raise Refused(400, "Sec-WebSocket-Key is malformed.")


def _head(request: h11.Request) -> bytes:
    """The head once more, in the one spelling that is left once h11 has read it."""
    lines = [b"GET " + request.target + b" HTTP/1.1", *(bytes(n) + b": " + bytes(v) for n, v in request.headers)]
    return b"\r\n".join([*lines, b"", b""])
