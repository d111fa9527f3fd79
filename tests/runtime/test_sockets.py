"""Sockets of ours against each other, over memory streams and loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.testing import MockClock, memory_stream_pair

from engine.runtime.sockets import DEFAULT_LIMITS, Socket, SocketLimits, accept_socket, open_socket
from tests.fakes.hostile import read_head


@asynccontextmanager
async def connected(
    limits: SocketLimits = DEFAULT_LIMITS, client_limits: SocketLimits = DEFAULT_LIMITS
) -> AsyncIterator[tuple[Socket, Socket]]:
    """(server, client) over memory streams, both open."""
    near, far = memory_stream_pair()
    done = trio.Event()

    async with trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[Socket]) -> None:
            head, rest = await read_head(near)
            async with accept_socket(near, head=head, rest=rest, limits=limits) as server:
                task_status.started(server)
                await done.wait()

        clients: list[Socket] = []

        async def dial(task_status: trio.TaskStatus[Socket]) -> None:
            async with open_socket("ws://test/media?x=1", limits=client_limits, stream=far) as client:
                task_status.started(client)
                await done.wait()

        async def dialled() -> None:
            clients.append(await nursery.start(dial))

        async with trio.open_nursery() as opening:
            opening.start_soon(dialled)
            server: Socket = await nursery.start(serve)
        yield server, clients[0]
        done.set()


async def test_messages_cross_in_both_directions(autojump_clock: MockClock) -> None:
    async with connected() as (server, client):
        for text in ("", "hello", "x" * 125, "y" * 126, "z" * 65535, "é" * 100):
            await client.send(text)
            assert await server.receive() == text
            await server.send(text)
            assert await client.receive() == text
        await client.send(b"", b"\x00\xff", b"q" * 65536)
        assert [await server.receive() for _ in range(3)] == [b"", b"\x00\xff", b"q" * 65536]
        await server.ping()
        await client.ping()
