"""Sockets of ours against each other and against bad peers, over memory streams in virtual time."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio
from trio.abc import Stream
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked
from wsproto.utilities import generate_accept_token

from engine.errors import SlowPeer
from engine.runtime.sockets import DEFAULT_LIMITS, HandshakeFailed, Socket, SocketLimits, accept_socket, open_socket
from tests.fakes.hostile import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, RawPeer, frame, read_head


@asynccontextmanager
async def serving(stream: Stream, limits: SocketLimits = DEFAULT_LIMITS) -> AsyncIterator[Socket]:
    head, rest = await read_head(stream)
    async with accept_socket(stream, head=head, rest=rest, limits=limits) as socket:
        yield socket


@asynccontextmanager
async def connected(
    limits: SocketLimits = DEFAULT_LIMITS, client_limits: SocketLimits = DEFAULT_LIMITS
) -> AsyncIterator[tuple[Socket, Socket]]:
    """(server, client) over memory streams, both open."""
    near, far = memory_stream_pair()
    done = trio.Event()

    async def hold(opening: AbstractAsyncContextManager[Socket], *, task_status: trio.TaskStatus[Socket]) -> None:
        async with opening as socket:
            task_status.started(socket)
            await done.wait()

    async with trio.open_nursery() as nursery:
        sockets: dict[str, Socket] = {}

        async def start(name: str, opening: AbstractAsyncContextManager[Socket]) -> None:
            sockets[name] = await nursery.start(hold, opening)

        async with trio.open_nursery() as both:
            both.start_soon(start, "server", serving(near, limits))
            both.start_soon(start, "client", open_socket("ws://test/media?x=1", limits=client_limits, stream=far))
        yield sockets["server"], sockets["client"]
        done.set()


@asynccontextmanager
async def facing(limits: SocketLimits = DEFAULT_LIMITS) -> AsyncIterator[tuple[Socket, RawPeer]]:
    """A server socket of ours, and a raw peer that has been let in."""
    near, far = memory_stream_pair()
    peer = RawPeer(far)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.upgrade)
        async with serving(near, limits) as socket:
            await wait_all_tasks_blocked()
            yield socket, peer


async def gone(socket: Socket) -> None:
    """Returns when the socket has ended; takes nothing from it but its end."""
    with contextlib.suppress(trio.EndOfChannel):
        while True:
            await socket.receive()


# --- between two of ours ------------------------------------------------------------------------------------


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


async def test_both_ends_close_politely_and_say_their_code(autojump_clock: MockClock) -> None:
    async with connected() as (server, client):
        await server.aclose(1001, "drain")
        assert server.closed
        await gone(client)
        assert client.close_code == 1001
        await client.aclose()
        await client.aclose()
        assert client.closed
        with pytest.raises(trio.BrokenResourceError):
            await client.send("late")
        with pytest.raises(trio.EndOfChannel):
            await client.ping()
    assert trio.current_time() < 1


async def test_what_was_sent_before_a_close_is_still_received(autojump_clock: MockClock) -> None:
    async with connected() as (server, client):
        await client.send("one", "two")
        await client.aclose()
        assert [await server.receive(), await server.receive()] == ["one", "two"]
        await gone(server)
        assert server.close_code == 1000


async def test_an_abort_is_at_once_and_the_peer_sees_1006(autojump_clock: MockClock) -> None:
    async with connected() as (server, client):
        client.abort()
        assert client.closed
        await gone(server)
        assert server.close_code == 1006


async def test_an_error_in_the_block_leaves_it_unwrapped_and_the_socket_closed(autojump_clock: MockClock) -> None:
    near, far = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(RawPeer(far).upgrade)
        with pytest.raises(KeyError) as raised:
            async with serving(near) as socket:
                raise KeyError("mine")
    assert raised.type is KeyError
    assert socket.closed


async def test_being_cancelled_in_the_block_closes_at_once(autojump_clock: MockClock) -> None:
    near, far = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(RawPeer(far).upgrade)
        with trio.move_on_after(3) as scope:
            async with serving(near) as socket:
                await trio.sleep_forever()
    assert scope.cancelled_caught
    assert socket.closed
    assert trio.current_time() == pytest.approx(3)


# --- pitfalls of the stack ----------------------------------------------------------------------------------


async def test_pitfall_1_a_ping_that_crosses_our_close_raises_nowhere(autojump_clock: MockClock) -> None:
    async with facing() as (socket, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(socket.aclose)
            await wait_all_tasks_blocked()
            await peer.send(frame(PING, b"x"), frame(TEXT, b"late"))
            await peer.send(frame(CLOSE, b"\x03\xe8"))
        assert await peer.read_close() == 1000
        assert socket.close_code == 1000


@pytest.mark.parametrize("garbage", [b"\x00" * 40, b"\xff" * 40, b"GET / HTTP/1.1\r\n\r\n", bytes(range(64))])
async def test_pitfall_1_garbage_ends_the_socket_and_nothing_else(garbage: bytes, autojump_clock: MockClock) -> None:
    async with facing() as (socket, peer):
        await peer.send(garbage)
        await gone(socket)
        assert await peer.read_close() == 1002
        assert socket.fault == 1002


async def test_pitfall_2_a_server_that_ignores_the_upgrade_is_given_up(autojump_clock: MockClock) -> None:
    _near, far = memory_stream_pair()
    with pytest.raises(HandshakeFailed):
        async with open_socket("ws://test/", stream=far):
            pytest.fail("opened")
    assert trio.current_time() == pytest.approx(DEFAULT_LIMITS.handshake_s)


async def test_pitfall_2_a_deadline_of_the_handshake_is_lifted_once_open(autojump_clock: MockClock) -> None:
    async with connected() as (server, client):
        await trio.sleep(10 * DEFAULT_LIMITS.handshake_s)
        await client.send("still here")
        assert await server.receive() == "still here"


async def test_pitfall_4_a_busy_consumer_does_not_keep_pings_or_a_close_from_being_seen(
    autojump_clock: MockClock,
) -> None:
    async with facing() as (socket, peer):
        await peer.send(*[frame(TEXT, b"%d" % n) for n in range(50)], frame(PING, b"p"))
        assert await peer.read_frame() == (PONG, b"p")
        await peer.send(frame(CLOSE, b"\x03\xe8"))
        assert await peer.read_close() == 1000
        assert [await socket.receive() for _ in range(50)] == [str(n) for n in range(50)]
        await gone(socket)


async def test_pitfall_5_a_send_cancelled_in_mid_write_ends_the_socket(autojump_clock: MockClock) -> None:
    near, far = lockstep_stream_pair()
    peer = RawPeer(far)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.upgrade)
        async with serving(near) as socket:
            with trio.move_on_after(0.5):
                await socket.send("x" * 1000)
            assert socket.closed
            with pytest.raises(trio.BrokenResourceError):
                await socket.send("y")
        assert not socket.slow


async def test_pitfall_5_a_send_cancelled_before_it_writes_leaves_the_socket_whole(autojump_clock: MockClock) -> None:
    async with facing() as (socket, peer):
        with trio.CancelScope() as scope:
            scope.cancel()
            await socket.send("never")
        await socket.send("after")
        assert await peer.read_frame() == (TEXT, b"after")


async def test_pitfall_6_a_ping_ends_when_the_peer_leaves(autojump_clock: MockClock) -> None:
    async with facing() as (socket, peer), trio.open_nursery() as nursery:

        async def leave() -> None:
            assert await peer.read_frame() == (PING, bytes(8))
            await wait_all_tasks_blocked()
            await peer.stream.aclose()

        nursery.start_soon(leave)
        with pytest.raises(trio.EndOfChannel):
            await socket.ping()


async def test_pitfall_7_a_slow_close_does_not_replace_the_error_of_the_block(autojump_clock: MockClock) -> None:
    near, far = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(RawPeer(far).upgrade)
        with trio.move_on_after(0.5), pytest.raises(KeyError):
            async with serving(near):
                raise KeyError("the reason")


async def test_pitfall_9_a_peer_that_never_answers_the_close_is_dropped_in_a_second(autojump_clock: MockClock) -> None:
    async with facing() as (socket, peer):
        await socket.aclose(1008)
        assert socket.closed
        assert trio.current_time() == pytest.approx(DEFAULT_LIMITS.close_s)
        assert await peer.read_close() == 1008


async def test_pitfall_9_a_client_that_never_finishes_its_handshake_is_dropped(autojump_clock: MockClock) -> None:
    near, _far = memory_stream_pair()
    with pytest.raises(HandshakeFailed):
        async with accept_socket(near, head=b"GET / HTTP/1.1\r\nHost: x\r\n"):
            pytest.fail("accepted")
    assert trio.current_time() == pytest.approx(DEFAULT_LIMITS.handshake_s)


# --- FAULTS A -----------------------------------------------------------------------------------------------


async def test_fault_4_an_end_without_a_close_frame_is_seen_at_once(autojump_clock: MockClock) -> None:
    async with facing() as (socket, peer):
        await peer.send(frame(TEXT, b"x" * 100)[:50])
        await peer.stream.aclose()
        await gone(socket)
        assert socket.closed
        assert socket.close_code == 1006
        assert trio.current_time() < 0.1


async def test_fault_6_a_peer_that_never_reads_is_given_up_after_two_seconds(autojump_clock: MockClock) -> None:
    near, far = lockstep_stream_pair()
    peer = RawPeer(far)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.upgrade)
        async with serving(near) as socket:
            began = trio.current_time()
            with pytest.raises(SlowPeer):
                await socket.send(b"x" * 60_000)
            assert trio.current_time() - began == pytest.approx(DEFAULT_LIMITS.send_s)
            assert socket.closed
            assert socket.slow
            await gone(socket)


async def test_fault_6_a_slow_peer_that_makes_progress_is_kept(autojump_clock: MockClock) -> None:
    near, far = lockstep_stream_pair()
    peer = RawPeer(far)

    async def read_slowly() -> None:
        await peer.upgrade()
        for _ in range(4):
            await trio.sleep(1.5)
            await far.receive_some(16 * 1024)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_slowly)
        async with serving(near) as socket:
            await socket.send(b"x" * 60_000)
            assert trio.current_time() > 5
            socket.abort()


async def test_fault_6_pongs_that_are_never_read_end_the_socket(autojump_clock: MockClock) -> None:
    near, far = lockstep_stream_pair()
    peer = RawPeer(far)

    async def flood() -> None:
        await peer.upgrade()
        with contextlib.suppress(trio.BrokenResourceError):
            while True:
                await peer.send(frame(PING, b"x" * 100))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        async with serving(near) as socket:
            await gone(socket)
            assert socket.slow
            assert trio.current_time() == pytest.approx(DEFAULT_LIMITS.send_s)


async def test_fault_8_all_frames_are_whole_whatever_is_cancelled(autojump_clock: MockClock) -> None:
    for after in range(1, 30):
        near, far = lockstep_stream_pair()
        peer = RawPeer(far)

        async def read(peer: RawPeer = peer) -> None:
            await peer.upgrade()
            try:
                while (read := await peer.read_frame()) is not None:
                    assert read == (TEXT, b"m" * 300)
                    await trio.sleep(0.01)
            except ValueError:
                pass  # torn by the end of the stream, and by nothing else: no frame follows it

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            async with serving(near) as socket:
                while not socket.closed:
                    with trio.move_on_after(after * 0.001):
                        try:
                            await socket.send("m" * 300)
                        except trio.BrokenResourceError:
                            break
                    if trio.current_time() > after:
                        break
                socket.abort()


OVERSIZE = [
    pytest.param(frame(TEXT, b"x" * 70_000), id="a long text"),
    pytest.param(frame(BINARY, claimed=1 << 40), id="a claimed terabyte"),
    pytest.param(frame(TEXT, claimed=65_537), id="one byte over"),
    pytest.param(frame(TEXT, b"x" * 40_000, fin=False) + frame(CONTINUATION, b"x" * 40_000), id="fragments"),
    pytest.param(frame(BINARY, b"", fin=False) + frame(CONTINUATION, claimed=1 << 33, fin=False), id="huge fragment"),
]


@pytest.mark.parametrize("data", OVERSIZE)
async def test_fault_9_what_is_too_long_is_refused_when_its_length_is_known(
    data: bytes, autojump_clock: MockClock
) -> None:
    async with facing() as (socket, peer):
        await peer.send(data)
        await gone(socket)
        assert await peer.read_close() == 1009
        assert socket.fault == 1009
        await peer.send(b"what was on its way")  # thrown away: a reset might overtake the close frame
        assert trio.current_time() < 1


async def test_fault_9_compression_is_not_negotiated(autojump_clock: MockClock) -> None:
    near, far = memory_stream_pair()
    peer = RawPeer(far)
    answers: list[bytes] = []

    async def ask() -> None:
        answers.append(await peer.upgrade(extra="Sec-WebSocket-Extensions: permessage-deflate\r\n"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        async with serving(near) as socket:
            await wait_all_tasks_blocked()
            assert b"extensions" not in answers[0].lower()
            await peer.send(frame(TEXT, b"x", rsv=4))
            await gone(socket)
            assert socket.fault == 1002


STRICT = [
    pytest.param(frame(TEXT, b"x", masked=False), 1002, id="unmasked"),
    pytest.param(frame(TEXT, b"x", rsv=1), 1002, id="reserved bit"),
    pytest.param(frame(3, b"x"), 1002, id="unknown opcode"),
    pytest.param(frame(PING, b"x" * 126), 1002, id="long ping"),
    pytest.param(frame(PING, b"x", fin=False), 1002, id="fragmented ping"),
    pytest.param(frame(TEXT, b"x" * 10, form=16), 1002, id="length in too many bytes"),
    pytest.param(frame(TEXT, b"x" * 200, form=64), 1002, id="length in far too many bytes"),
    pytest.param(frame(CONTINUATION, b"x"), 1002, id="continuation of nothing"),
    pytest.param(frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002, id="text inside a message"),
    pytest.param(frame(TEXT, b"\xff\xfe"), 1007, id="bad UTF-8"),
    pytest.param(frame(TEXT, b"\xc3"), 1007, id="half a character"),
    pytest.param(frame(TEXT, b"\xc3", fin=False) + frame(CONTINUATION, b"x"), 1007, id="bad UTF-8 in fragments"),
    pytest.param(frame(CLOSE, b"x"), 1002, id="close of one byte"),
    pytest.param(frame(CLOSE, b"\x03\xed"), 1002, id="close with a forbidden code"),
    pytest.param(frame(CLOSE, b"\x03\xe8\xff"), 1007, id="close with a bad reason"),
]


@pytest.mark.parametrize(("data", "code"), STRICT)
@pytest.mark.parametrize("drip", [False, True], ids=["at once", "byte by byte"])
async def test_fault_10_a_broken_frame_is_answered_with_its_code(
    data: bytes, code: int, drip: bool, autojump_clock: MockClock
) -> None:
    async with facing() as (socket, peer):
        await peer.send(frame(TEXT, b"before"))
        for piece in [data[at : at + 1] for at in range(len(data))] if drip else [data]:
            await peer.send(piece)
            await wait_all_tasks_blocked()
        assert await socket.receive() == "before"
        await gone(socket)
        assert await peer.read_close() == code
        assert socket.fault == code
        await peer.reads_end()
        await trio.sleep(0.3)  # what it still sends is thrown away for so long, so that it can read why
        assert socket.closed


async def test_fragments_with_pings_between_make_one_message(autojump_clock: MockClock) -> None:
    async with facing() as (socket, peer):
        text = "zwölf Boxkämpfer"
        data = text.encode()
        parts = [frame(TEXT, data[:3], fin=False), frame(PING, b"1"), frame(CONTINUATION, b"", fin=False)]
        await peer.send(*parts, frame(CONTINUATION, data[3:]), frame(BINARY, b"next"))
        assert await socket.receive() == text
        assert await socket.receive() == b"next"
        assert await peer.read_frame() == (PONG, b"1")


async def test_a_consumer_that_takes_nothing_loses_the_socket(autojump_clock: MockClock) -> None:
    limits = SocketLimits(queue=10)
    async with facing(limits) as (socket, peer):
        for _ in range(5):
            await peer.send(*[frame(BINARY, b"x" * 1000) for _ in range(20)])
        await trio.sleep(limits.unread_s + 0.1)
        assert socket.closed
        await gone(socket)


async def test_a_full_queue_can_be_back_pressure(autojump_clock: MockClock) -> None:
    limits = SocketLimits(queue=2, unread_s=math.inf)
    async with facing(limits) as (socket, peer):
        await peer.send(*[frame(BINARY, b"%03d" % n + b"x" * 10_000) for n in range(20)])
        await trio.sleep(60)
        taken = [await socket.receive() for _ in range(20)]
        assert [message[:3] for message in taken] == [b"%03d" % n for n in range(20)]


async def test_a_server_that_refuses_is_reported_with_its_status(autojump_clock: MockClock) -> None:
    near, far = memory_stream_pair()

    async def refuse() -> None:
        await read_head(near)
        await near.send_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 5\r\n\r\nsorry")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(refuse)
        with pytest.raises(HandshakeFailed) as raised:
            async with open_socket("ws://test/", stream=far):
                pytest.fail("opened")
    assert raised.value.status == 401


async def test_frames_that_come_with_the_answer_to_the_upgrade_are_received(autojump_clock: MockClock) -> None:
    near, far = memory_stream_pair()

    async def answer() -> None:
        head, _ = await read_head(near)
        assert b"Host: test:81\r\n" in head
        assert b"authorization: Token x\r\n" in head
        assert head.startswith(b"GET /listen?model=a HTTP/1.1\r\n")
        key = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
        token = generate_accept_token(key.partition(b":")[2].strip())
        accept = b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: " + token
        await near.send_all(accept + b"\r\n\r\n" + frame(TEXT, b"early", masked=False))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        async with open_socket(
            "ws://test:81/listen?model=a", headers=[(b"authorization", b"Token x")], stream=far
        ) as s:
            assert await s.receive() == "early"
            s.abort()
