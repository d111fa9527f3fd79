"""HTTP to vendors: what a read brings is one piece, connections are kept or closed, and times are kept."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import httpx
import pytest
import trio
import trio.testing

from engine.runtime.network import Network
from engine.runtime.transport import IDLE_S, MAX_CONNECTIONS, Body

Clock = trio.testing.MockClock
Answer = Callable[[trio.abc.Stream], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\n"
EMPTY = OK + b"Content-Length: 0\r\n\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
TIMES = httpx.Timeout(2.0, read=5.0, pool=1.0)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Server:
    """Answers each request in the same way; ``streams`` are the connections that it has got."""

    def __init__(self, nursery: trio.Nursery, answer: Answer | bytes) -> None:
        self.streams: list[trio.abc.Stream] = []
        self.hung_up = 0
        self._nursery = nursery
        self._answer = answer

    def dial(self, _host: str, _port: int) -> trio.abc.Stream:
        ours, theirs = trio.testing.memory_stream_pair()
        self.streams.append(ours)
        self._nursery.start_soon(self._serve, theirs)
        return ours

    async def _serve(self, stream: trio.abc.Stream) -> None:
        try:
            async with stream:
                while await stream.receive_some():
                    if isinstance(self._answer, bytes):
                        await stream.send_all(self._answer)
                    else:
                        await self._answer(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self.hung_up += 1


@asynccontextmanager
async def facing(answer: Answer | bytes) -> AsyncIterator[tuple[httpx.AsyncClient, Server]]:
    """A client and its server; when the client is closed, nothing is open any more."""
    async with trio.open_nursery() as nursery:
        server = Server(nursery, answer)
        network = Network(ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), dial=server.dial)
        async with network.client("http://vendor", timeout=TIMES) as client:
            yield client, server
        await trio.testing.wait_all_tasks_blocked()
        assert server.hung_up == len(server.streams)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("silent_s", "connections"), [(IDLE_S - 1, 1), (IDLE_S + 1, 2)])
async def test_a_connection_is_used_again_for_a_while(silent_s: float, connections: int, autojump_clock: Clock) -> None:
    async with facing(EMPTY) as (client, server):
        await client.get("/")
        await trio.sleep(silent_s)
        await client.post("/", content=b"two")
        assert len(server.streams) == connections


async def test_a_connection_that_the_vendor_has_closed_meanwhile_is_not_used() -> None:
    accepted = 0

    async def once(stream: trio.SocketStream) -> None:
        nonlocal accepted
        accepted += 1
        await stream.receive_some()
        await stream.send_all(EMPTY)

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, once, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        async with Network().client(f"http://127.0.0.1:{port}") as client:
            assert (await client.get("/")).status_code == 200
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert (await client.get("/")).status_code == 200
        nursery.cancel_scope.cancel()
    assert accepted == 2


async def test_what_comes_together_is_one_piece_and_more_comes_together_if_asked(autojump_clock: Clock) -> None:
    async def talk(stream: trio.abc.Stream) -> None:
        await stream.send_all(CHUNKED + chunk(b"a") + chunk(b"b"))
        for word in (b"c", b"d", b"e"):
            await trio.sleep(0.01)
            await stream.send_all(chunk(word))
        await stream.send_all(b"0\r\n\r\n")

    async with facing(talk) as (client, server):
        for gather_s, expected in ((0.0, [b"ab", b"c", b"d", b"e"]), (0.05, [b"ab", b"cde"])):
            pieces = []
            async with client.stream("GET", "/") as response:
                async for piece in response.aiter_raw():
                    pieces.append(piece)
                    body = response.extensions["body"]
                    assert isinstance(body, Body)
                    body.gather_s = gather_s
            assert pieces == expected
        assert len(server.streams) == 1


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nhi", "hi"),
        (OK + b"Content-Length: 2\r\nConnection: close\r\n\r\nhi", "hi"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", ""),
    ],
    ids=["after a continue", "and closes", "of no body"],
)
async def test_an_answer_is_read_as_it_is_meant(answer: bytes, text: str, autojump_clock: Clock) -> None:
    async with facing(answer) as (client, server):
        for _ in range(2):
            assert (await client.get("/")).text == text
        assert len(server.streams) == (2 if b"close" in answer else 1)


async def test_an_answer_without_a_length_ends_with_its_connection(autojump_clock: Clock) -> None:
    async def talk(stream: trio.abc.Stream) -> None:
        await stream.send_all(OK + b"\r\nall of it")
        await stream.aclose()

    async with facing(talk) as (client, _):
        assert (await client.get("/")).text == "all of it"


async def _nothing(_: trio.abc.Stream) -> None: ...


async def _close(stream: trio.abc.Stream) -> None:
    await stream.aclose()


async def _half(stream: trio.abc.Stream) -> None:
    await stream.send_all(CHUNKED + chunk(b"half"))
    await stream.aclose()


async def _half_and_stall(stream: trio.abc.Stream) -> None:
    await stream.send_all(CHUNKED + chunk(b"half"))


async def _read_into(pieces: list[bytes], client: httpx.AsyncClient) -> None:
    async with client.stream("GET", "/") as response:
        pieces += [piece async for piece in response.aiter_raw()]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (_nothing, httpx.ReadTimeout),
        (_close, httpx.RemoteProtocolError),
        (_half, httpx.RemoteProtocolError),
        (_half_and_stall, httpx.ReadTimeout),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", httpx.RemoteProtocolError),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", httpx.RemoteProtocolError),
        (OK + b"X: " + b"x" * 200_000, httpx.RemoteProtocolError),
        (CHUNKED + chunk(b"half") + b"zz\r\n", httpx.RemoteProtocolError),
    ],
    ids=["none", "closed", "half", "stalled", "no HTTP", "an upgrade", "a long head", "bad chunks"],
)
async def test_what_goes_wrong_closes_the_connection(
    answer: Answer | bytes, error: type[Exception], autojump_clock: Clock
) -> None:
    async with facing(answer) as (client, server):
        began_s = trio.current_time()
        pieces: list[bytes] = []
        with pytest.raises(error):
            await _read_into(pieces, client)
        assert trio.current_time() - began_s == (5.0 if error is httpx.ReadTimeout else 0.0)
        assert pieces in ([], [b"half"])
        await trio.testing.wait_all_tasks_blocked()
        assert server.hung_up == 1


@pytest.mark.parametrize("steps", range(1, 12))
async def test_a_request_that_is_cancelled_at_any_step_leaves_nothing(steps: int, autojump_clock: Clock) -> None:
    async with facing(CHUNKED + chunk(b"one")) as (client, server):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.get, "/")
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        # Its place is free again, and the server has seen the end of whatever was opened.
        server._answer = EMPTY
        assert (await client.get("/")).status_code == 200


async def test_an_answer_that_is_left_in_the_middle_frees_its_place_once(autojump_clock: Clock) -> None:
    async with facing(CHUNKED + chunk(b"one")) as (client, server):
        for _ in range(MAX_CONNECTIONS + 1):
            async with client.stream("GET", "/") as response:
                await response.aclose()
        assert server.hung_up >= MAX_CONNECTIONS
        server._answer = EMPTY
        held = [await client.send(client.build_request("GET", "/"), stream=True) for _ in range(MAX_CONNECTIONS)]
        with pytest.raises(httpx.PoolTimeout):
            await client.get("/")
        await held[0].aclose()
        assert (await client.get("/")).status_code == 200
        for response in held:
            await response.aclose()
