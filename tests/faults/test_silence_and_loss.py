"""FAULTS A 1-8: peers that say nothing, go away, or do not read."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock

from tests.fakes.hostile import frame
from tests.fakes.plain_speech import frames_of, speak
from tests.faults.bench import bench
from tests.faults.breaking import install
from tests.faults.wires import PROVIDERS, wired

# The fake synthesizer's HTTP stream, cut off: httpx leaves its generators to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")

providers = pytest.mark.parametrize("provider", PROVIDERS)


async def test_a1_a_peer_that_never_finishes_its_head_is_closed_after_five_seconds(autojump_clock: MockClock) -> None:
    """A 1: nothing at all, and one byte every 300 ms."""
    async with bench() as b:
        async with await b.connect() as silent, await b.connect() as dripping:
            began_s = trio.current_time()
            gone: list[float] = []

            async def drip() -> None:
                for byte in b"GET /media/twilio HTTP/1.1\r\nX: " + b"a" * 100:
                    try:
                        await dripping.send_all(bytes([byte]))
                    except trio.BrokenResourceError:
                        return
                    await trio.sleep(0.3)

            async def wait(stream: trio.SocketStream) -> None:
                with suppress(trio.BrokenResourceError):
                    assert await stream.receive_some() == b""
                gone.append(trio.current_time() - began_s)

            async with trio.open_nursery() as nursery:
                for stream in (silent, dripping):
                    nursery.start_soon(wait, stream)
                nursery.start_soon(drip)
        assert all(4.9 < after_s < 5.1 for after_s in gone), gone
        assert b.rig.value("handshake_failures_total", why="timeout") == 2


@providers
async def test_a2_a_socket_that_never_starts_is_closed_with_1008(provider: str, autojump_clock: MockClock) -> None:
    """A 2: upgraded, perhaps connected, never a start; its slot expires with its token."""
    async with bench(provider, max_calls=2, token_s=8.0) as b:
        async with b.line(provider) as line:
            began_s = trio.current_time()
            await b.token(provider, line.call_id)
            assert b.rig.engine.registry.is_full
            if provider == "twilio":
                await line.send('{"event":"connected","protocol":"Call","version":"1.0.0"}')
            await line.over.wait()
            assert line.code == 1008
            assert 4.9 < line.over_at_s - began_s < 5.1
        await trio.sleep(3.2)
        assert not b.rig.engine.registry.is_full
        assert b.opened() == 2  # the witness's
        assert b.rig.value("calls_rejected_total", provider=provider, reason="bad_start") == 1


@pytest.mark.parametrize(("provider", "answers_pings"), [("twilio", True), ("vonage", False)])
async def test_a3_a_line_without_media_is_pinged_and_then_given_up(
    provider: str, answers_pings: bool, autojump_clock: MockClock
) -> None:
    """A 3: media stop, TCP stays: ping at 10 s, end at 15 s."""
    async with bench(provider) as b, b.live(provider) as line:
        line.answers_pings = line.answers_close = answers_pings
        await line.send_audio(line.format.silence(0.1))
        began_s = trio.current_time()
        await line.over.wait()
        assert await b.ended(line) == "media_timeout"
        pings = [at_s - began_s for at_s, what in line.log if what == "ping"]
        assert any(10.0 <= at_s <= 10.6 for at_s in pings)
        assert 15.0 <= b.released_at(line.call_id) - began_s <= 17.0


@providers
async def test_a4_a_connection_that_breaks_is_noticed_at_once(provider: str, autojump_clock: MockClock) -> None:
    """A 4: FIN without a close frame, RST, and both in the middle of a frame."""
    async with bench(provider) as b:
        for how in ("fin", "fin in mid frame", "reset", "reset in mid frame", "fin in mid header"):
            async with b.live(provider) as line:
                await line.send_audio(line.format.silence(0.3), at_pace=True)
                whole = wired(line.media(line.format.silence(0.02)))
                if "mid" in how:
                    await line.peer.stream.send_all(whole[: 3 if "header" in how else 100])
                await trio.sleep(0.2)
                began_s = trio.current_time()
                if how.startswith("reset"):
                    line.peer.reset()
                else:
                    await line.peer.stream.send_eof()  # type: ignore[attr-defined]  # a TCP stream
                assert await b.ended(line) == "provider_lost", how
                assert b.released_at(line.call_id) - began_s < 1.0, how
                ended = next(e for e in b.events("call_ended") if e["call_id"] == line.call_id)
                assert ended["seconds"] < 0.7, how


@providers
async def test_a5_a_peer_that_says_goodbye_and_stays_is_closed_all_the_same(
    provider: str, autojump_clock: MockClock
) -> None:
    """A 5: stop, or a close frame, and then nothing: neither an answer to our close nor a FIN."""
    async with bench(provider) as b, b.live(provider) as line:
        line.answers_close = False
        await line.send_audio(line.format.silence(0.1))
        await trio.sleep(0.5)
        began_s = trio.current_time()
        if provider == "twilio":
            await line.send(*line.side.stop())
        else:
            await line.peer.send(frame(8, b"\x03\xe8"))
        assert await b.ended(line) == "caller_hangup"
        assert b.released_at(line.call_id) - began_s <= 1.1
        await line.over.wait()
        assert line.over_at_s - began_s <= 1.1
        assert b.rig.total("resources_leaked_total") == 0


@pytest.mark.parametrize("reads_for_s", [0.0, 1.0])
@providers
async def test_a6_a_peer_that_does_not_read_is_a_slow_peer_however_much_its_kernel_takes_in(
    provider: str, reads_for_s: float, autojump_clock: MockClock
) -> None:
    """A 6: with buffers as large as the kernel likes; from the start, or after it had read for a while."""
    async with bench(provider) as b, b.live(provider, reads_for_s=reads_for_s) as line, trio.open_nursery() as nursery:
        nursery.start_soon(line.keep_talking)
        await trio.sleep(1.5)
        said = speak("Tell me a long story.", line.format)
        await line.send(*(line.media(frame) for frame in frames_of(said, line.format)))
        asked_at_s = trio.current_time()
        assert await b.ended(line) == "slow_peer"
        assert b.released_at(line.call_id) - asked_at_s < 5.0
        nursery.cancel_scope.cancel()


@providers
async def test_a6_a_peer_whose_kernel_takes_little_is_a_slow_peer(provider: str, autojump_clock: MockClock) -> None:
    """A 6: the agent talks into a full socket: at most two seconds more, then the call is over."""
    async with bench(provider) as b, b.live(provider, receive_bytes=4096) as line, trio.open_nursery() as nursery:
        nursery.start_soon(line.keep_talking)
        assert await b.ended(line) == "slow_peer"
        nursery.cancel_scope.cancel()


@providers
async def test_a7_a_hang_up_is_noticed_while_every_vendor_hangs(provider: str, autojump_clock: MockClock) -> None:
    """A 7: neither recogniser nor model nor synthesizer answers, one after the other; the reader reads on."""
    async with bench(provider) as b:
        for place in ("transcriber opens", "model opens", "synthesizer.open_speech", "speech.receive"):
            install(b, place, None)
            async with b.live(provider) as line:
                await line.send_audio(line.format.silence(0.5), at_pace=True)
                began_s = trio.current_time()
                await line.send(*line.side.stop())
                await line.peer.send(frame(8, b"\x03\xe8"))
                assert await b.ended(line) == "caller_hangup"
                ended = next(e for e in b.events("call_ended") if e["call_id"] == line.call_id)
                assert ended["seconds"] < 0.65
                assert b.released_at(line.call_id) - began_s < 1.1


@providers
async def test_a8_barge_ins_at_any_moment_never_tear_a_frame(provider: str, autojump_clock: MockClock) -> None:
    """A 8: an answer is cut off again and again, by keys at odd moments; every frame that comes is whole."""
    async with bench(provider) as b, b.live(provider) as line:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.keep_talking)
            await trio.sleep(1.0)
            for number in range(12):
                await line.send(line.side.dtmf("#"), line.side.dtmf("5"), line.side.dtmf("#"))
                await trio.sleep(0.113 * (number % 5 + 1))
            nursery.cancel_scope.cancel()
        await line.send(*line.side.stop())
        await line.peer.send(frame(8, b"\x03\xe8"))
        assert await b.ended(line) == "caller_hangup"
        assert not line.is_torn
        assert not line.violations
