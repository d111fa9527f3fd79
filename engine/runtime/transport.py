"""HTTP/1.1 for httpx on Trio's streams: what one read brings of an answer goes on in one piece.

A language model's answer is a chunk of HTTP for each word. httpx's own transport reads each with a deadline of its own
and hands it on alone. Here the chunks of a read are joined (h11 does the protocol), and a :class:`Body` can be told to
let several come before it reads: each read costs more than the words in it.
"""

from __future__ import annotations

import math
import select
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

import h11
import httpx
import trio

from engine.runtime.connect import NotConnected, connect
from engine.runtime.wire import close_stream, socket_of, tune

READ_BYTES: Final = 64 * 1024
HEAD_BYTES: Final = 100 * 1024
"""Of an answer; longer ones are refused."""
MAX_CONNECTIONS: Final = 100
"""Of one client at once; further requests wait, as long as its pool's timeout allows."""
MAX_IDLE: Final = 20
IDLE_S: Final = 60.0
"""A connection is kept for the next request so long: a caller who thinks does not cost a new handshake."""

Dial = Callable[[str, int], trio.abc.Stream]
"""Host and port to a stream, for tests without sockets."""
_Origin = tuple[bytes, str, int]
_DEFAULT_PORTS: Final = {b"http": 80, b"https": 443}


class Transport(httpx.AsyncBaseTransport):
    """The connections of one client. An answer that was read to its end leaves its connection for the next request; one
    that is left before closes it at once, and so does whatever goes wrong.

    Times are those of the request: ``connect`` for name, TCP and TLS together, ``write`` for the whole request,
    ``read`` for each piece of the answer, ``pool`` for a place among ``MAX_CONNECTIONS``. The body of a request is held
    in memory. Raises httpx's exceptions. ``dial`` replaces TCP, and then there is no TLS.
    """

    def __init__(self, ssl_context: ssl.SSLContext, *, dial: Dial | None = None) -> None:
        self._ssl_context = ssl_context
        self._dial = dial
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._places = trio.Semaphore(MAX_CONNECTIONS)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        times = request.extensions.get("timeout", {})
        with _within(times, "pool", httpx.PoolTimeout):
            await self._places.acquire()
        connection: _Connection | None = None
        try:
            connection = self._take_idle(request.url) or await self._connect(request.url, times)
            return await connection.ask(request, times)
        except BaseException:
            if connection is None:
                self._places.release()
            else:
                connection.let_go()
            raise

    async def aclose(self) -> None:
        """Close all connections at once."""
        for connection in list(self._open):
            connection.let_go(is_over=True)
        self._open.clear()
        self._idle.clear()
        await trio.lowlevel.checkpoint()

    def _take_idle(self, url: httpx.URL) -> _Connection | None:
        origin = _origin_of(url)
        for connection in list(self._idle):
            if connection.has_expired:
                self._idle.remove(connection)
                self._forget(connection)
            elif connection.origin == origin:
                self._idle.remove(connection)
                return connection
        return None

    async def _connect(self, url: httpx.URL, times: Mapping[str, float | None]) -> _Connection:
        origin = _origin_of(url)
        with _within(times, "connect", httpx.ConnectTimeout):
            try:
                stream = await self._stream_to(origin)
            except NotConnected as exc:
                raise httpx.ConnectError(str(exc)) from exc
        connection = _Connection(stream, origin, self._returned)
        self._open.add(connection)
        return connection

    async def _stream_to(self, origin: _Origin) -> trio.abc.Stream:
        scheme, host, port = origin
        if self._dial is not None:
            await trio.lowlevel.checkpoint()
            return self._dial(host, port)
        stream = await connect(host, port, self._ssl_context if scheme == b"https" else None)
        tune(stream)
        return stream

    def _returned(self, connection: _Connection) -> None:
        """Its answer is over."""
        self._places.release()
        if connection.is_closed:
            self._open.discard(connection)
            return
        self._idle.append(connection)
        if len(self._idle) > MAX_IDLE:
            self._forget(self._idle.pop(0))

    def _forget(self, connection: _Connection) -> None:
        self._open.discard(connection)
        connection.close()


class Body(httpx.AsyncByteStream):
    """Of an answer; also ``response.extensions["body"]``."""

    def __init__(self, connection: _Connection, read_s: float) -> None:
        self.gather_s = 0.0
        """Let so much more of it come before each read; it does not count as the vendor's silence."""
        self._connection: _Connection | None = connection
        self._read_s = read_s

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._connection is not None and (piece := await self._connection.piece(self._read_s, self.gather_s)):
            return piece
        raise StopAsyncIteration

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.let_go()


class _Connection:
    """One stream and the request on it."""

    def __init__(self, stream: trio.abc.Stream, origin: _Origin, on_return: Callable[[_Connection], None]) -> None:
        self.origin = origin
        self.is_closed = False
        self._stream = stream
        self._on_return = on_return
        self._protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)
        self._is_used = True
        self._idle_since_s = 0.0

    @property
    def has_expired(self) -> bool:
        """Idle for too long, or closed by the vendor: it would be readable."""
        if trio.current_time() >= self._idle_since_s + IDLE_S:
            return True
        transport = socket_of(self._stream)
        if transport is None:
            return False
        poll = select.poll()
        poll.register(transport.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    async def ask(self, request: httpx.Request, times: Mapping[str, float | None]) -> httpx.Response:
        """Raises httpx's exceptions; then the connection is to be let go."""
        self._is_used = True
        data = await self._encoded(request)
        # It may have answered and closed before all was sent: the read will tell.
        gone = suppress(trio.BrokenResourceError, trio.ClosedResourceError)
        with _within(times, "write", httpx.WriteTimeout), gone:
            await self._stream.send_all(data)
        read_s = _seconds(times, "read")
        with _as_httpx():
            head = await self._head(read_s)
        body = Body(self, read_s)
        extensions = {"http_version": b"HTTP/" + head.http_version, "reason_phrase": head.reason, "body": body}
        return httpx.Response(head.status_code, headers=list(head.headers), stream=body, extensions=extensions)

    async def piece(self, read_s: float, gather_s: float) -> bytes:
        """What has come of the body; nothing at its end. Raises httpx's exceptions."""
        with _as_httpx():
            while not (piece := self._buffered()) and self._protocol.their_state is h11.SEND_BODY:
                if gather_s:
                    await trio.sleep(gather_s)
                await self._read(read_s)
        if not piece and self._protocol.their_state is h11.ERROR:
            raise httpx.RemoteProtocolError("not HTTP behind what was read")
        return piece

    def _buffered(self) -> bytes:
        """What has been read of the body."""
        pieces: list[bytes] = []
        while self._protocol.their_state is h11.SEND_BODY:
            try:
                event = self._protocol.next_event()
            except h11.RemoteProtocolError:
                if pieces:
                    break  # they are passed on before
                raise
            if isinstance(event, h11.Data):
                pieces.append(event.data)
            elif event is h11.NEED_DATA:
                break
        return b"".join(pieces)

    def let_go(self, *, is_over: bool = False) -> None:
        """Its answer is not read any further. The connection stays open if the answer was whole and more may follow."""
        if not self._is_used:
            if is_over:
                self.close()
            return
        self._is_used = False
        protocol = self._protocol
        if not is_over and not self.is_closed and protocol.our_state is protocol.their_state is h11.DONE:
            protocol.start_next_cycle()
            self._idle_since_s = trio.current_time()
        else:
            self.close()
        self._on_return(self)

    def close(self) -> None:
        """At once. Idempotent."""
        if not self.is_closed:
            self.is_closed = True
            close_stream(self._stream)

    async def _encoded(self, request: httpx.Request) -> bytes:
        send = self._protocol.send
        try:
            head = h11.Request(method=request.method, target=request.url.raw_path, headers=request.headers.raw)
            parts = [send(head)]
            assert isinstance(request.stream, httpx.AsyncByteStream)  # noqa: S101 - of an AsyncClient
            parts += [send(h11.Data(data=piece)) async for piece in request.stream]
            parts.append(send(h11.EndOfMessage()))
        except h11.LocalProtocolError as exc:
            raise httpx.LocalProtocolError(str(exc)) from exc
        return b"".join(part for part in parts if part)

    async def _head(self, read_s: float) -> h11.Response:
        while True:
            event = self._protocol.next_event()
            if event is h11.NEED_DATA:
                await self._read(read_s)
            elif isinstance(event, h11.Response):
                return event
            elif not isinstance(event, h11.InformationalResponse) or event.status_code == 101:
                raise httpx.RemoteProtocolError("no answer")

    async def _read(self, read_s: float) -> None:
        with trio.move_on_after(read_s) as waiting:
            data = await self._stream.receive_some(READ_BYTES)
        if waiting.cancelled_caught:
            raise httpx.ReadTimeout("no data")
        if not data and self._protocol.their_state is h11.SEND_RESPONSE:
            raise httpx.RemoteProtocolError("disconnected without an answer")
        self._protocol.receive_data(bytes(data))


def _origin_of(url: httpx.URL) -> _Origin:
    return url.raw_scheme, url.raw_host.decode("ascii"), url.port or _DEFAULT_PORTS[url.raw_scheme]


def _seconds(times: Mapping[str, float | None], what: str) -> float:
    seconds = times.get(what)
    return math.inf if seconds is None else seconds


@contextmanager
def _within(times: Mapping[str, float | None], what: str, error: type[httpx.TimeoutException]) -> Iterator[None]:
    with trio.move_on_after(_seconds(times, what)) as waiting:
        yield
    if waiting.cancelled_caught:
        raise error(what)


@contextmanager
def _as_httpx() -> Iterator[None]:
    try:
        yield
    except h11.RemoteProtocolError as exc:
        raise httpx.RemoteProtocolError(str(exc)) from exc
    except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
        raise httpx.ReadError(type(exc).__name__) from exc
