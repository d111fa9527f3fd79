"""Sockets over loopback: what only a kernel does. The limits are short, because the clock is real."""

from __future__ import annotations

import os
import resource
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing

from engine.errors import SlowPeer
from engine.runtime.sockets import HandshakeFailed, Socket, SocketLimits, accept_socket, open_socket
from tests.fakes.hostile import CLOSE, TEXT, RawPeer, frame, read_head

LIMITS = SocketLimits(handshake_s=0.3, send_s=0.3, close_s=0.3, unread_s=0.3)


@asynccontextmanager
async def facing() -> AsyncIterator[tuple[Socket, RawPeer]]:
    """A server socket of ours on real TCP and a raw peer that has been let in; nothing of it is left open."""
    before = descriptors()
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    stream = await trio.open_tcp_stream(*listener.socket.getsockname()[:2])
    peer = RawPeer(stream)
    near = await listener.accept()
    await listener.aclose()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.upgrade)
        head, rest = await read_head(near)
        async with accept_socket(near, head=head, rest=rest, limits=LIMITS) as server:
            yield server, peer
    assert near.socket.fileno() == -1
    await stream.aclose()
    assert descriptors() == before


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


async def gone(server: Socket) -> None:
    with suppress(trio.EndOfChannel):
        while True:
            await server.receive()


async def test_a_call_and_its_polite_end() -> None:
    async with facing() as (server, peer):
        assert server.peer.startswith("127.0.0.1:")
        await peer.send(frame(TEXT, b"hello"))
        assert await server.receive() == "hello"
        await peer.send(frame(CLOSE, b"\x03\xe8"))
        await gone(server)
        assert server.close_code == 1000


async def test_a_socket_that_is_held_is_read_at_each_look_alone() -> None:
    async with facing() as (server, peer):
        assert server.hold(True)
        await peer.send(frame(TEXT, b"one"))
        assert await server.receive() == "one"  # the read that was under way
        await peer.send(frame(TEXT, b"two") + frame(TEXT, b"three"))
        with trio.move_on_after(0.1) as waiting:
            await server.receive()
        assert waiting.cancelled_caught
        server.look()
        assert [await server.receive(), await server.receive()] == ["two", "three"]
        server.look()  # nothing has come: it goes on waiting for the next one
        await peer.send(frame(TEXT, b"four"))
        assert not server.hold(False)
        assert await server.receive() == "four"


async def test_what_the_kernel_did_not_take_at_once_goes_out_before_anything_else() -> None:
    async with facing() as (server, peer):
        await trio.testing.wait_all_tasks_blocked(0.01)  # until the peer has read the answer to its upgrade
        written = 0
        while not server.owes:
            assert server.send_now("x" * 60_000)
            written += 60_004
        assert not server.send_now("refused")
        data = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.send, "last")
            while not data.endswith(b"last"):
                data += await peer.stream.receive_some(1_000_000)
        assert len(data) == written + len(b"..last")
        assert not server.owes


@pytest.mark.parametrize("is_looked_at", [True, False], ids=["by a look", "by closing it"])
async def test_the_end_of_a_socket_that_is_held_is_seen(is_looked_at: bool) -> None:
    async with facing() as (server, peer):
        assert server.hold(True)
        await peer.send(frame(TEXT, b"one"))
        assert await server.receive() == "one"
        await peer.send(frame(CLOSE, b"\x03\xe8"))
        await trio.sleep(0.05)
        if is_looked_at:
            server.look()
            await gone(server)
        else:
            await server.aclose()
        assert server.close_code == 1000


async def test_fault_4_a_reset_in_mid_frame_is_seen_at_once() -> None:
    async with facing() as (server, peer):
        await peer.send(frame(TEXT, b"x" * 200)[:80])
        assert isinstance(peer.stream, trio.SocketStream)
        peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.stream.socket.close()
        with trio.fail_after(5):
            await gone(server)
        assert server.close_code == 1006


async def test_fault_5_a_half_open_peer_holds_no_descriptor() -> None:
    async with facing() as (server, _peer):
        began = trio.current_time()
        await server.aclose()
        assert trio.current_time() - began < LIMITS.close_s + 3
        assert server.closed


async def test_fault_6_a_peer_that_never_reads_is_dropped_and_memory_stays_flat() -> None:
    async with facing() as (server, _peer):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(SlowPeer), trio.fail_after(5):  # noqa: PT012 - which of the sends it is depends on the kernel
            while True:
                await server.send(b"x" * 60_000)
        assert server.closed
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096


async def test_fault_9_a_peer_that_goes_on_sending_can_still_read_why_it_is_refused() -> None:
    async with facing() as (server, peer), trio.open_nursery() as nursery:

        async def pour() -> None:
            with suppress(trio.BrokenResourceError):
                await peer.send(frame(TEXT, claimed=8 << 20) + b"x" * 400_000)

        nursery.start_soon(pour)
        await gone(server)
        assert server.fault == 1009
        assert await peer.read_close() == 1009


async def test_a_client_connects_and_leaves_nothing() -> None:
    before = descriptors()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]

    async def echo(stream: trio.SocketStream) -> None:
        head, rest = await read_head(stream)
        async with accept_socket(stream, head=head, rest=rest, limits=LIMITS) as server:
            with suppress(trio.EndOfChannel):
                while True:
                    await server.send(await server.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, echo, listeners)
        for _ in range(5):
            async with open_socket(f"ws://127.0.0.1:{port}/x", limits=LIMITS) as client:
                await client.send("a", b"b")
                assert [await client.receive(), await client.receive()] == ["a", b"b"]
                await client.ping()
            assert client.closed
            assert client.close_code == 1000
        nursery.cancel_scope.cancel()
    assert descriptors() == before


async def test_pitfall_2_a_server_that_accepts_and_says_nothing_is_given_up() -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    before = descriptors()
    with pytest.raises(HandshakeFailed), trio.fail_after(1):
        await open_socket(f"ws://127.0.0.1:{port}/", limits=LIMITS).__aenter__()
    await listener.aclose()
    assert descriptors() == before - 1


async def test_a_port_where_nobody_listens_is_a_failed_handshake() -> None:
    with pytest.raises(HandshakeFailed, match="cannot connect"):
        await open_socket("ws://127.0.0.1:1/", limits=LIMITS).__aenter__()
