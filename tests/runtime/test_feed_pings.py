"""A peer that is gone is noticed, and one that is only read slowly is not taken for it."""

from __future__ import annotations

import ssl

import pytest
import trio
import trio.testing

from engine.runtime.network import Network
from engine.runtime.sockets import SocketLimits
from tests.fakes.clouds.loopback import Cloud, Peer, Request, serve_stream

Clock = trio.testing.MockClock


class Talker(Cloud):
    """Sends a hundred messages as fast as it can, or falls silent for good after the first."""

    def __init__(self, *, is_dead: bool = False) -> None:
        super().__init__()
        self._is_dead = is_dead

    async def websocket(self, request: Request, socket: Peer) -> None:
        for number in range(100):
            await socket.send_message(f"{number} " + "x" * 2000)
            if self._is_dead:
                await trio.sleep_forever()
        while True:
            await socket.get_message()


def lockstep(cloud: Cloud, nursery: trio.Nursery) -> Network:
    """As ``dialled``, but what is not read cannot be sent either."""

    def dial(_host: str, _port: int) -> trio.abc.Stream:
        ours, theirs = trio.testing.lockstep_stream_pair()
        nursery.start_soon(serve_stream, cloud, theirs)
        return ours

    return Network(ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), dial=dial)


async def test_a_vendor_that_is_read_slowly_is_not_gone(autojump_clock: Clock, nursery: trio.Nursery) -> None:
    """Its pong waits behind its messages for minutes."""
    limits = SocketLimits(queue=4, unread_s=float("inf"))
    async with lockstep(Talker(), nursery).feed("ws://cloud/s", {}, limits=limits) as feed:
        for number in range(100):
            await trio.sleep(7)
            assert str(await feed.receive()).startswith(f"{number} ")
        assert trio.current_time() > 600


async def test_a_vendor_that_answers_nothing_is_gone(autojump_clock: Clock) -> None:
    async with trio.open_nursery() as nursery:
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(serve_stream, Talker(is_dead=True), theirs)
        network = Network(ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), dial=lambda _host, _port: ours)
        async with network.feed("ws://cloud/s", {}) as feed:
            await feed.receive()
            ours.send_stream.send_all_hook = trio.lowlevel.checkpoint  # nothing arrives there any more
            began = trio.current_time()
            with pytest.raises(trio.EndOfChannel):
                await feed.receive()
            assert trio.current_time() - began == pytest.approx(25.0, abs=0.5)
        nursery.cancel_scope.cancel()
