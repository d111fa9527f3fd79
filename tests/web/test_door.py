"""The front on memory streams, in virtual time: HTTP at its edges, upgrades, and what may not be held."""

from __future__ import annotations

import pytest
import structlog
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, lockstep_stream_pair, wait_all_tasks_blocked

from engine.runtime.sockets import Socket
from engine.web.door import Door
from engine.web.limits import DoorLimits, pending_for
from tests.fakes.hostile import CLOSE, TEXT, RawPeer, frame, upgrade_request
from tests.web.support import FakeSwitchboard, ask, front, raw

UPGRADE = upgrade_request("/media/twilio")
POST = b"POST /voice HTTP/1.1\r\nHost: x\r\n"
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


# --- HTTP ---------------------------------------------------------------------------------------------------


async def test_a_connection_serves_many_requests(autojump_clock: MockClock) -> None:
    async with front() as at, at.connect() as stream:
        for _ in range(3):
            assert (await ask(stream, "GET", "/healthz")).body == b"ok"
            await trio.sleep(10)
        assert at.door.open_connections == 1
        await trio.sleep(6)
        assert at.door.open_connections == 0


async def test_pipelined_requests_are_answered_in_order(autojump_clock: MockClock) -> None:
    async with front() as at:
        answer = await raw(
            at.connect(), GET + b"\r\n" + GET.replace(b"/healthz", b"/nothing") + b"Connection: close\r\n\r\n"
        )
        assert answer.index(b" 200 ") < answer.index(b" 404 ")


async def test_head_is_answered_without_a_body(autojump_clock: MockClock) -> None:
    async with front() as at:
        answer = await raw(at.connect(), GET.replace(b"GET", b"HEAD") + b"Connection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b"\r\n\r\n")


async def test_who_waits_for_100_continue_is_told_to_go_on(autojump_clock: MockClock) -> None:
    async with front() as at:
        stream = at.connect()
        await stream.send_all(
            b"POST /voice HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        )
        assert (await stream.receive_some(1000)).startswith(b"HTTP/1.1 100 ")
        await stream.send_all(b"{}")
        assert (await stream.receive_some(1000)).startswith(b"HTTP/1.1 403")


BAD = [
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400, id="TLS on a plain port"),
    pytest.param(b"GET /healthz HTTP/1.1\r\n\r\n", 400, id="no Host"),
    pytest.param(b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="a proxy's target"),
    pytest.param(GET + b"X-A: " + b"x" * 20_000 + b"\r\n\r\n", 431, id="a huge head"),
    pytest.param(GET + b"".join(b"X-%d: y\r\n" % n for n in range(120)) + b"\r\n", 431, id="many headers"),
    pytest.param(
        POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        id="CL and TE",
    ),
    pytest.param(POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400, id="CL x2"),
    pytest.param(POST + b"Content-Length: 99999999\r\n\r\n", 413, id="a claimed 100 MB"),
    pytest.param(
        POST + b"Transfer-Encoding: chunked\r\n\r\n" + (b"4000\r\n" + b"x" * 16384 + b"\r\n") * 5,
        413,
        id="endless chunks",
    ),
    pytest.param(POST + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nxx", 415, id="gzip"),
    pytest.param(POST + b"Transfer-Encoding: gzip\r\n\r\n", 501, id="unknown coding"),
    pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, id="bad chunk"),
    pytest.param(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n", 400, id="NUL in a header"),
]


@pytest.mark.parametrize(("data", "status"), BAD)
async def test_fault_78_a_malformed_request_is_refused_early(
    data: bytes, status: int, autojump_clock: MockClock
) -> None:
    async with front() as at:
        answer = await raw(at.connect(), data)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert b'{"error":{"code":"' in answer
        assert trio.current_time() < 1
        await trio.sleep(1)
        assert at.door.open_connections == 0
        assert sum(at.count("handshake_failures_total", why=why) for why in ("bad_request", "too_large")) == 1


async def test_fault_78_an_unknown_method_is_405(autojump_clock: MockClock) -> None:
    async with front() as at:
        for method in ("DELETE", "BREW", "TRACE"):
            reply = await at.ask(method, "/voice")
            assert (reply.status, reply.code) == (405, "method_not_allowed")


async def test_fault_1_silence_is_closed_after_five_seconds(autojump_clock: MockClock) -> None:
    async with front() as at:
        assert await raw(at.connect()) == b""
        assert trio.current_time() == pytest.approx(5)
        await wait_all_tasks_blocked()
        assert at.door.open_connections == 0
        assert at.count("handshake_failures_total", why="timeout") == 1


async def test_fault_1_a_dripping_head_is_closed_after_five_seconds(autojump_clock: MockClock) -> None:
    async with front() as at:
        stream = at.connect()
        with pytest.raises(trio.BrokenResourceError):  # noqa: PT012 - which byte it is does not matter
            for byte in GET * 10:
                await stream.send_all(bytes((byte,)))
                await trio.sleep(0.3)
        assert trio.current_time() == pytest.approx(5, abs=0.5)


async def test_a_body_that_does_not_come_is_408(autojump_clock: MockClock) -> None:
    async with front() as at:
        answer = await raw(at.connect(), POST + b"Content-Length: 9\r\n\r\nabc")
        assert answer.startswith(b"HTTP/1.1 408")
        assert trio.current_time() == pytest.approx(5)


async def test_who_does_not_read_his_answer_is_closed(autojump_clock: MockClock) -> None:
    async with front() as at:
        near, far = lockstep_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(at.door.handle, near)
            await far.send_all(GET + b"\r\n")
            began = trio.current_time()
            await wait_all_tasks_blocked()
        assert trio.current_time() - began == pytest.approx(DoorLimits().write_s)


async def test_an_application_that_never_answers_is_503(autojump_clock: MockClock) -> None:
    async def forever(_scope: object, _receive: object, _send: object) -> None:
        await trio.sleep_forever()

    async with front() as at:
        near = at.connect()
        door = Door(forever, {}, at.metrics)
        at.door.handle = door.handle  # type: ignore[method-assign]  # the same front with another application
        assert (await raw(at.connect(), GET + b"\r\n")).startswith(b"HTTP/1.1 503")
        assert trio.current_time() == pytest.approx(DoorLimits().answer_s)
        await near.aclose()


async def test_connections_beyond_the_cap_are_closed_and_the_rest_go_on(autojump_clock: MockClock) -> None:
    async with front(limits=DoorLimits(connections=3)) as at:
        held = [at.connect() for _ in range(3)]
        await wait_all_tasks_blocked()
        assert await raw(at.connect(), GET + b"\r\n") == b""
        assert (await ask(held[0], "GET", "/healthz")).status == 200
        assert at.count("handshake_failures_total", why="too_many") == 1


# --- upgrades -----------------------------------------------------------------------------------------------


async def test_a_media_socket_becomes_a_call_and_leaves_nothing(autojump_clock: MockClock) -> None:
    switchboard = FakeSwitchboard(tokens={"key": "token-0"})
    async with front(switchboard) as at:
        peer = await at.dial()
        assert at.door.pending == 1
        await peer.send(frame(TEXT, b"token-0"), frame(TEXT, b"hello"))
        assert await peer.read_frame() == (TEXT, b"hello")
        assert (switchboard.live, at.door.pending, at.door.media_sockets) == (["token-0"], 0, 1)
        await peer.send(frame(CLOSE, b"\x03\xe8"))
        assert await peer.read_close() == 1000
        await wait_all_tasks_blocked()
        assert (at.door.open_connections, at.door.media_sockets, switchboard.live) == (0, 0, [])


async def test_frames_sent_before_the_upgrade_is_answered_are_not_lost(autojump_clock: MockClock) -> None:
    async with front(FakeSwitchboard(tokens={"key": "token-0"})) as at:
        peer = RawPeer(at.connect())
        await peer.send(upgrade_request("/media/twilio"), frame(TEXT, b"token-0"), frame(TEXT, b"early"))
        answer = await peer.stream.receive_some(4096)
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert await peer.read_frame() == (TEXT, b"early")


async def test_fault_2_a_socket_that_never_starts_is_closed_with_1008(autojump_clock: MockClock) -> None:
    async with front() as at:
        peer = await at.dial()
        assert await peer.read_close() == 1008
        assert trio.current_time() == pytest.approx(5)
        await trio.sleep(1.1)
        assert (at.door.media_sockets, at.door.open_connections) == (0, 0)


UPGRADES = [
    pytest.param(upgrade_request("/media/nobody"), 404, id="unknown path"),
    pytest.param(upgrade_request("/voice"), 405, id="a path of HTTP, answered as HTTP"),
    pytest.param(b"GET /media/twilio HTTP/1.1\r\nHost: x\r\n\r\n", 426, id="no upgrade"),
    pytest.param(UPGRADE.replace(b"Version: 13", b"Version: 8"), 426, id="old version"),
    pytest.param(UPGRADE.replace(b"dGhl", b""), 400, id="short key"),
    pytest.param(UPGRADE.replace(b"dGhl", b"d\xe9h"), 400, id="bad key"),
    pytest.param(UPGRADE.replace(b"Connection: Upgrade", b"Connection: close"), 400, id="no token"),
    pytest.param(upgrade_request("/media/twilio", extra="Content-Length: 5\r\n"), 400, id="with a body"),
]


@pytest.mark.parametrize(("data", "status"), UPGRADES)
async def test_an_upgrade_that_cannot_be_is_refused(data: bytes, status: int, autojump_clock: MockClock) -> None:
    async with front() as at:
        answer = await raw(at.connect(), data)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert at.door.media_sockets == 0


async def test_pending_sockets_are_bounded_and_calls_are_not_counted(autojump_clock: MockClock) -> None:
    switchboard = FakeSwitchboard(tokens={str(n): f"token-{n}" for n in range(3)})
    async with front(switchboard, limits=DoorLimits(pending=2)) as at:
        for n in range(3):
            call = await at.dial()
            await call.send(frame(TEXT, b"token-%d" % n))
            await wait_all_tasks_blocked()
        await at.dial()
        await at.dial()
        answer = await raw(at.connect(), upgrade_request("/media/twilio"))
        assert answer.startswith(b"HTTP/1.1 503")
        await trio.sleep(7)
        await at.dial()
        assert len(switchboard.live) == 3
    assert pending_for(10) == 32
    assert pending_for(1000) == 100


async def test_a_handler_that_fails_ends_its_own_connection_only(autojump_clock: MockClock) -> None:
    async def serve(socket: Socket) -> None:
        if await socket.receive() == "fail":
            raise RuntimeError("mine")
        await socket.send("fine")

    async with front() as at:
        at.door._media["/media/twilio"] = serve
        bad, good = await at.dial(), await at.dial()
        with structlog.testing.capture_logs() as logs:
            await bad.send(frame(TEXT, b"fail"))
            await bad.reads_end()
            await wait_all_tasks_blocked()
        assert [line["event"] for line in logs] == ["connection_failed"]
        await good.send(frame(TEXT, b"x"))
        assert await good.read_frame() == (TEXT, b"fine")


async def test_cancelling_the_front_ends_every_connection_at_once(autojump_clock: MockClock) -> None:
    async with front(FakeSwitchboard(tokens={"k": "token-0"})) as at:
        peer = await at.dial()
        await peer.send(frame(TEXT, b"token-0"))
        await wait_all_tasks_blocked()
        began = trio.current_time()
    assert trio.current_time() == began
    assert (at.door.open_connections, at.door.media_sockets, at.switchboard.live) == (0, 0, [])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), prefix=st.sampled_from([b"", GET, POST + b""]))
def test_any_bytes_get_an_answer_or_an_end_and_no_error_line(data: bytes, prefix: bytes) -> None:
    async def main() -> None:
        async with front() as at:
            with structlog.testing.capture_logs() as logs:
                answer = await raw(at.connect(), prefix + data)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
            assert [line for line in logs if line["log_level"] == "error"] == []
            await trio.sleep(20)
            assert at.door.open_connections == 0

    trio.run(main, clock=MockClock(autojump_threshold=0))
