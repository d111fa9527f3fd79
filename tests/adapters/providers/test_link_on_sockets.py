"""The line over the real WebSocket, both ends in memory: what the fake socket promises, the real one keeps."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from adapters.providers.link import Link, open_link
from adapters.providers.vonage.codec import VonageCodec
from engine.errors import ProtocolError, SlowPeer
from engine.events import PCM16_16K, Cleared, MarkPlayed, Stopped
from engine.runtime.sockets import Socket, SocketLimits, accept_socket, open_socket
from engine.runtime.ticker import Ticker

Clock = trio.testing.MockClock
PATIENT = SocketLimits(queue=8, unread_s=math.inf)
CONNECTED = '{"event":"websocket:connected","content-type":"audio/l16;rate=16000","call_id":"c1"}'


async def _read_head(stream: trio.abc.Stream) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await stream.receive_some(1)
    return head


@asynccontextmanager
async def vonage_call() -> AsyncIterator[tuple[Link, Socket, trio.abc.Stream]]:
    """The engine's line, and Vonage's end of its socket. The stream below that end is for rude peers."""
    engine_end, provider_end = trio.testing.lockstep_stream_pair()
    ticker = Ticker()
    ready = trio.Event()
    sockets: list[Socket] = []

    async def provider() -> None:
        async with open_socket("ws://engine/media/vonage", stream=provider_end, limits=PATIENT) as socket:
            sockets.append(socket)
            await socket.send(CONNECTED)
            ready.set()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ticker.run)
        nursery.start_soon(provider)
        head = await _read_head(engine_end)
        async with accept_socket(engine_end, head=head) as socket:
            codec = VonageCodec()
            assert codec.decode_start(str(await socket.receive()))
            await ready.wait()
            async with open_link(socket, codec, PCM16_16K, ticker=ticker) as link:
                yield link, sockets[0], provider_end
        nursery.cancel_scope.cancel()


async def test_audio_marks_and_clear_cross_the_socket_both_ways(autojump_clock: Clock) -> None:
    async with vonage_call() as (link, provider, _):
        await provider.send(bytes(640), '{"event":"websocket:cleared"}')
        assert await link.receive() == bytes(640)
        assert await link.receive() == Cleared()
        await link.play(b"\1" * 1280)
        link.mark("said")
        assert [await provider.receive() for _ in range(2)] == [b"\1" * 640] * 2
        notify = json.loads(await provider.receive())
        assert notify["action"] == "notify"
        await provider.send(json.dumps({"event": "websocket:notify", "payload": notify["payload"]}))
        assert await link.receive() == MarkPlayed("said")
        link.clear()
        assert await provider.receive() == '{"action":"clear"}'
        await link.ping()


async def test_a_clean_close_is_the_callers_hang_up(autojump_clock: Clock) -> None:
    async with vonage_call() as (link, provider, _):
        await provider.aclose()
        assert await link.receive() == Stopped()
        with pytest.raises(trio.EndOfChannel):
            await link.receive()


async def test_a_lost_socket_is_no_hang_up(autojump_clock: Clock) -> None:
    async with vonage_call() as (link, provider, _):
        provider.abort()
        with pytest.raises(trio.EndOfChannel):
            await link.receive()


async def test_bytes_that_are_no_websocket_break_the_protocol(autojump_clock: Clock) -> None:
    async with vonage_call() as (link, _, stream):
        await stream.send_all(b"\xff" * 64)
        with pytest.raises(ProtocolError):
            await link.receive()


async def test_a_provider_that_stops_reading_is_a_slow_peer_within_the_limits(autojump_clock: Clock) -> None:
    async with vonage_call() as (link, _, _), trio.open_nursery() as nursery:
        nursery.start_soon(link.play, bytes(32000 * 60))
        start = trio.current_time()
        with pytest.raises(SlowPeer):
            await link.receive()
        assert trio.current_time() - start < 8
        nursery.cancel_scope.cancel()
