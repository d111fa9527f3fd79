"""What every fake cloud is served by: HTTP and WebSocket on one port of this machine, or on memory streams.

It stands on h11 and trio-websocket directly, not on the engine's own sockets, so that a mistake there is not made at
both ends. A cloud is an object with an ``http`` and a ``websocket`` method; ``serving(cloud)`` runs it on TCP for
official clients (threads, asyncio), ``dialled(cloud, nursery)`` gives a :class:`engine.runtime.network.Network` whose
every connection ends in that cloud, in memory and on the virtual clock.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import h11
import trio
import trio.testing
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, wrap_server_stream
from wsproto.utilities import LocalProtocolError

from engine.runtime.network import Network

HEAD_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked for. ``path`` without the query; ``query``: every value of each key, in order."""

    method: str
    path: str
    query: Mapping[str, Sequence[str]]
    headers: Mapping[str, str]
    """Lower-case names; of a doubled one the last."""
    body: bytes = b""

    def one(self, key: str, default: str = "") -> str:
        """The first value of a query key."""
        return (self.query.get(key) or [default])[0]


@dataclass(frozen=True, slots=True)
class Response:
    """``body``: bytes at once, or an async iterable of pieces, sent chunked as they come."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | AsyncIterable[bytes] = b""


class Refuse(Exception):
    """Raised by ``websocket`` before it accepts: the upgrade is answered with this status."""

    def __init__(self, status: int, body: bytes = b"") -> None:
        super().__init__(status)
        self.status = status
        self.body = body


class Cloud:
    """Override what the vendor has. Counts what is open, so that a test can see both ends of each socket."""

    def __init__(self) -> None:
        self.sockets_open = 0
        self.sockets_ever = 0
        self.requests_open = 0
        self.requests: list[Request] = []
        """Every HTTP request and every upgrade, in order."""
        self.close_codes: list[int | None] = []
        """Of each socket that is over: the client's code, 1006 if it left without one, None if the cloud was first."""

    async def http(self, request: Request) -> Response:
        return Response(404, body=b'{"error": "no such path"}')

    def admits(self, request: Request) -> None:
        """Of an upgrade. Raises Refuse."""

    async def websocket(self, request: Request, socket: Peer) -> None:
        """Until either side is done; returning closes with 1000."""
        raise NotImplementedError


class Peer(Protocol):
    """The client at the other end, as trio-websocket's connection is."""

    async def get_message(self) -> str | bytes:
        """Raises trio_websocket.ConnectionClosed."""
        ...

    async def send_message(self, message: str | bytes) -> None: ...

    async def aclose(self, code: int = 1000, reason: str | None = None) -> None: ...


ServeSocket = Callable[[Cloud, Request, trio.abc.Stream, bytes], Awaitable[None]]
"""Answers the upgrade that was asked for, and serves it; the bytes are all that was read so far."""


async def serve_stream(cloud: Cloud, stream: trio.abc.Stream, serve_socket: ServeSocket | None = None) -> None:
    """One connection of a client, to its end. Whatever the client does, nothing is raised but Cancelled."""
    try:
        await _serve(cloud, stream, serve_socket or _serve_socket)
    except* (
        trio.BrokenResourceError,
        trio.ClosedResourceError,
        ConnectionClosed,
        h11.RemoteProtocolError,
        LocalProtocolError,  # a ping that crossed our close
    ):
        pass
    finally:
        with trio.CancelScope(deadline=trio.current_time() + 1, shield=True):
            await trio.aclose_forcefully(stream)


@dataclass(slots=True)
class Served:
    """A cloud on a port. ``host`` is ``127.0.0.1:PORT``."""

    cloud: Any
    host: str
    is_tls: bool = False

    @property
    def http(self) -> str:
        return f"{'https' if self.is_tls else 'http'}://{self.host}"

    @property
    def ws(self) -> str:
        return f"{'wss' if self.is_tls else 'ws'}://{self.host}"


@asynccontextmanager
async def serving(cloud: Cloud, ssl_context: ssl.SSLContext | None = None) -> AsyncIterator[Served]:
    """The cloud on a free port of this machine, until the block is left."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]

    async def serve(stream: trio.SocketStream) -> None:
        over: trio.abc.Stream = stream
        if ssl_context is not None:
            over = trio.SSLStream(stream, ssl_context, server_side=True, https_compatible=True)
        await serve_stream(cloud, over)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.serve_listeners, serve, listeners))
        try:
            yield Served(cloud, f"127.0.0.1:{port}", ssl_context is not None)
        finally:
            nursery.cancel_scope.cancel()


StreamPair = Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]]


def dialled(cloud: Cloud, nursery: trio.Nursery, pair: StreamPair = trio.testing.memory_stream_pair) -> Network:
    """A network that leads to this cloud alone, whatever the address, on memory streams or what ``pair`` makes. URLs
    must be ws:// and http://."""

    def dial(_host: str, _port: int) -> trio.abc.Stream:
        ours, theirs = pair()
        nursery.start_soon(serve_stream, cloud, theirs)
        return ours

    return Network(ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), dial=dial)


# --- the server ----------------------------------------------------------------------------------------------


async def _serve(cloud: Cloud, stream: trio.abc.Stream, serve_socket: ServeSocket) -> None:
    rest: bytes | None = b""
    while rest is not None:
        head = bytearray(rest)
        while b"\r\n\r\n" not in head:
            data = await stream.receive_some(16 * 1024)
            if not data or len(head) > HEAD_BYTES:
                return
            head += data
        request, wants_socket = _request_of(bytes(head))
        if wants_socket:
            await serve_socket(cloud, request, stream, bytes(head))
            return
        rest = await _serve_http(cloud, stream, bytes(head))


def _request_of(head: bytes) -> tuple[Request, bool]:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(head)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    request = _as_request(event, b"")
    return request, request.headers.get("upgrade", "").lower() == "websocket"


def _as_request(event: h11.Request, body: bytes) -> Request:
    url = urlsplit(event.target.decode("ascii"))
    headers = {name.decode("ascii").lower(): value.decode("latin-1") for name, value in event.headers}
    return Request(event.method.decode("ascii"), url.path, parse_qs(url.query, keep_blank_values=True), headers, body)


async def _serve_http(cloud: Cloud, stream: trio.abc.Stream, received: bytes) -> bytes | None:
    """One request and its answer. Returns what was read past it; None if the connection is over."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(received)
    start: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                await stream.send_all(connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            connection.receive_data(bytes(await stream.receive_some(64 * 1024)))
        elif isinstance(event, h11.Request):
            start = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            break
        else:
            return None
    assert start is not None
    request = _as_request(start, bytes(body))
    cloud.requests.append(request)
    cloud.requests_open += 1
    try:
        await _answer(connection, stream, await cloud.http(request))
    finally:
        cloud.requests_open -= 1
    if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
        return None
    return connection.trailing_data[0]


async def _answer(connection: h11.Connection, stream: trio.abc.Stream, response: Response) -> None:
    async def send(event: Any) -> None:
        await stream.send_all(connection.send(event) or b"")

    headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in response.headers.items()]
    if isinstance(response.body, bytes):
        headers.append((b"content-length", str(len(response.body)).encode()))
        await send(h11.Response(status_code=response.status, headers=headers))
        if response.body:
            await send(h11.Data(data=response.body))
    else:
        headers.append((b"transfer-encoding", b"chunked"))
        await send(h11.Response(status_code=response.status, headers=headers))
        async for piece in response.body:
            await send(h11.Data(data=piece))
    await send(h11.EndOfMessage())


async def _serve_socket(cloud: Cloud, request: Request, stream: trio.abc.Stream, head: bytes) -> None:
    cloud.requests.append(request)
    async with trio.open_nursery() as nursery:
        asked: WebSocketRequest = await wrap_server_stream(nursery, _Replayed(stream, head))
        try:
            cloud.admits(request)
        except Refuse as refusal:
            await asked.reject(refusal.status, body=refusal.body or None)
            return
        wanted = asked.proposed_subprotocols
        socket: WebSocketConnection = await asked.accept(subprotocol=wanted[0] if wanted else None)
        cloud.sockets_open += 1
        cloud.sockets_ever += 1
        try:
            await cloud.websocket(request, socket)
        except ConnectionClosed:
            pass
        finally:
            cloud.sockets_open -= 1
            cloud.close_codes.append(None if socket.closed is None else int(socket.closed.code))
            with trio.CancelScope(deadline=trio.current_time() + 1, shield=True):
                await socket.aclose()
            nursery.cancel_scope.cancel()


class _Replayed(trio.abc.HalfCloseableStream):
    """A stream of which the beginning has been read already."""

    def __init__(self, stream: trio.abc.Stream, read: bytes) -> None:
        self._stream = stream
        self._read = read

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if not self._read:
            return bytes(await self._stream.receive_some(max_bytes))
        await trio.lowlevel.checkpoint()
        count = len(self._read) if max_bytes is None else max_bytes
        piece, self._read = self._read[:count], self._read[count:]
        return piece

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()
