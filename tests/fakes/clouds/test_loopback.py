"""The server of the fake clouds, by our own client on both kinds of network."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import trio

from engine.errors import SpeechFailed, VendorError, Why
from engine.runtime.feed import Feeding
from engine.runtime.network import Network, failing
from tests.fakes.clouds.loopback import Cloud, Peer, Refuse, Request, Response, dialled, serving


class Parrot(Cloud):
    """Repeats what it hears, over either wire."""

    async def http(self, request: Request) -> Response:
        if request.path == "/slow":

            async def pieces() -> AsyncIterator[bytes]:
                for number in range(3):
                    await trio.sleep(0.01)
                    yield f"{number}".encode()

            return Response(body=pieces())
        return Response(body=request.body, headers={"x-path": request.path})

    def admits(self, request: Request) -> None:
        if request.headers.get("authorization") != "Token k":
            raise Refuse(401)

    async def websocket(self, request: Request, socket: Peer) -> None:
        while True:
            await socket.send_message(await socket.get_message())


async def _drive(network: Network, http: str, ws: str, cloud: Parrot) -> None:
    async with network.client(http) as client:
        assert (await client.post("/a", content=b"hello")).content == b"hello"
        assert (await client.get("/slow")).text == "012"
    with pytest.raises(SpeechFailed) as refusal, failing(SpeechFailed, "parrot"):
        async with network.feed(f"{ws}/s", {}):
            pass
    assert refusal.value.why is Why.AUTH
    async with network.feed(f"{ws}/s?a=1", {"authorization": "Token k"}, Feeding(piece_s=0.04)) as feed:
        feed.put("text")
        assert await feed.receive() == "text"
        feed.put_audio(b"a" * 160)
        feed.put_audio(b"b" * 160)
        assert await feed.receive() == b"a" * 160 + b"b" * 160
        feed.put_audio(b"c" * 160)
        feed.put("flush")
        assert [await feed.receive(), await feed.receive()] == [b"c" * 160, "flush"]
        assert cloud.sockets_open == 1
    assert feed.is_closed
    assert cloud.requests[-1].one("a") == "1"


async def test_clouds_on_memory_streams(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    cloud = Parrot()
    await _drive(dialled(cloud, nursery), "http://cloud", "ws://cloud", cloud)
    await trio.sleep(1)
    assert (cloud.sockets_open, cloud.requests_open) == (0, 0)


async def test_clouds_on_loopback() -> None:
    cloud = Parrot()
    async with serving(cloud) as served:
        await _drive(Network(), served.http, served.ws, cloud)


async def test_silence_is_filled_with_keep_alives(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    network = dialled(Parrot(), nursery)
    feeding = Feeding(keep_alive=lambda: "still here", keep_alive_s=4.0)
    async with network.feed("ws://cloud/s", {"authorization": "Token k"}, feeding) as feed:
        began = trio.current_time()
        assert await feed.receive() == "still here"
        assert 3.9 < trio.current_time() - began < 4.2


async def test_what_goes_wrong_on_the_way_is_the_adapters_own_error() -> None:
    async with Network().client("http://127.0.0.1:9") as client:
        with pytest.raises(VendorError) as failure, failing(SpeechFailed, "nobody"):
            await client.get("/")
    assert isinstance(failure.value, SpeechFailed)
    assert failure.value.why is Why.UNREACHABLE
    with pytest.raises(SpeechFailed) as late, failing(SpeechFailed, "nobody"):
        raise httpx.ReadTimeout("late")
    assert late.value.why is Why.TIMEOUT
