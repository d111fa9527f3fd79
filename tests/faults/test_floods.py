"""FAULTS E 55 and F 64: too many of something harmless."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from urllib.parse import urlsplit

import pytest
import trio
from trio.testing import MockClock

from tests.fakes.hostile import CLOSE, PING, RawPeer, frame
from tests.faults.bench import bench
from tests.faults.wires import MEDIA_PATHS, PROVIDERS

pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """So many more, and no others, can be opened by this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_e55_without_descriptors_live_calls_go_on_and_the_door_opens_again(autojump_clock: MockClock) -> None:
    """E 55: accept fails for a while: one log line for ten seconds of it, and then all is well."""
    async with (
        bench(witness=False, expected_errors=frozenset({"accept_failed"})) as b,
        b.live("twilio") as line,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(line.keep_talking)
        await trio.sleep(1.5)
        assert await line.ask("First.") == "Turn 1. You said First."
        url = urlsplit(b.rig.engine.url)
        with ExitStack() as strangers:
            knocking = [strangers.enter_context(trio.socket.socket()) for _ in range(60)]
            # What may still be opened lies above everything that is open now: the holes are filled first.
            highest = max(int(name) for name in os.listdir("/proc/self/fd"))
            filler = 0
            while filler < highest:
                filler = os.open("/dev/null", os.O_RDONLY)
                strangers.callback(os.close, filler)
            strangers.enter_context(descriptors_left(3))
            for stranger in knocking:
                await stranger.connect((url.hostname, url.port))
            assert await line.ask("Second.") == "Turn 2. You said Second."
            assert [event["is_exhausted"] for event in b.events("accept_failed")] == [True]
        await trio.sleep(1)
        status, _, _ = await b.http(b"GET /api/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert status == 200
        assert await line.ask("Third.") == "Turn 3. You said Third."
        nursery.cancel_scope.cancel()
        await line.send(*line.side.stop())
        assert await b.ended(line) == "caller_hangup"


async def test_f64_idle_sockets_and_pings_disturb_nobody(autojump_clock: MockClock) -> None:
    """F 64: 100 connections that say nothing, 80 media sockets that never start, 10,000 pings on a live call."""
    async with bench() as b, AsyncExitStack() as idle, trio.open_nursery() as nursery:
        for _ in range(100):
            await idle.enter_async_context(await b.connect())
        refused = 0
        for number in range(80):
            peer = RawPeer(await idle.enter_async_context(await b.connect()))
            head = await peer.upgrade(MEDIA_PATHS[PROVIDERS[number % 2]])
            refused += head.startswith(b"HTTP/1.1 503")
        assert refused == 80 - 32
        assert b.rig.value("handshake_failures_total", why="too_many") == refused
        await trio.sleep(8)  # until they have been closed, too
        assert b.rig.value("handshake_failures_total", why="timeout") == 100 + 32
        async with b.live("vonage") as line:
            nursery.start_soon(line.keep_talking)
            await trio.sleep(1)
            pings = frame(PING, b"x" * 8) * 300
            for _ in range(33):
                await line.peer.send(pings)
            assert await line.ask("Hello there.") == "Turn 1. You said Hello there."
            await line.peer.send(frame(CLOSE, b"\x03\xe8"))
            assert await b.ended(line) == "caller_hangup"
        with suppress(trio.BrokenResourceError):
            await idle.aclose()
        nursery.cancel_scope.cancel()
