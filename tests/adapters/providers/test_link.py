"""The line of a call: pacing, clearing, marks, slow and rude peers, and a cancel at every step."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import trio
import trio.testing

from adapters.providers.link import AHEAD_S, MAX_BAD_MESSAGES, Link, open_link
from adapters.providers.twilio.codec import TwilioCodec
from adapters.providers.vonage.codec import VonageCodec
from engine.errors import ProtocolError, SlowPeer
from engine.events import MULAW_8K, PCM16_16K, Cleared, Dtmf, MarkPlayed, Stopped
from engine.ports import Codec, ProviderLink
from engine.runtime.ticker import Ticker
from tests.fakes.provider_peer import FakeSocket

Clock = trio.testing.MockClock


def started_twilio() -> TwilioCodec:
    codec = TwilioCodec()
    start = {
        "event": "start",
        "sequenceNumber": "1",
        "streamSid": "MZ1",
        "start": {
            "streamSid": "MZ1",
            "callSid": "CA1",
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        },
    }
    assert codec.decode_start(json.dumps(start))
    return codec


def started_vonage() -> VonageCodec:
    codec = VonageCodec()
    assert codec.decode_start('{"event":"websocket:connected","content-type":"audio/l16;rate=16000","call_id":"c1"}')
    return codec


@asynccontextmanager
async def line(socket: FakeSocket, codec: Codec, on_bad: Callable[[str], None] = lambda _: None) -> AsyncIterator[Link]:
    ticker = Ticker()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ticker.run)
        audio_format = MULAW_8K if isinstance(codec, TwilioCodec) else PCM16_16K
        try:
            async with open_link(socket, codec, audio_format, ticker=ticker, on_bad=on_bad) as link:
                yield link
        finally:
            nursery.cancel_scope.cancel()
    assert len(ticker) == 0, "the line is still on the beat"


def texts(socket: FakeSocket) -> list[dict[str, object]]:
    return [json.loads(message) for _, message in socket.received if isinstance(message, str)]


def events_of(socket: FakeSocket) -> list[str]:
    return [str(text.get("event") or text.get("action")) for text in texts(socket)]


def twilio_audio(socket: FakeSocket) -> bytes:
    parts = []
    for text in texts(socket):
        media = text.get("media")
        if isinstance(media, dict):
            parts.append(base64.b64decode(media["payload"]))
    return b"".join(parts)


def mulaw(seconds: float) -> bytes:
    return bytes(number % 251 for number in range(round(seconds * 8000)))


def pcm(seconds: float) -> bytes:
    return bytes(number % 251 for number in range(round(seconds * 32000)))


# --- playing to a provider that buffers -------------------------------------------------------------------------


async def test_a_link_is_a_provider_link(autojump_clock: Clock) -> None:
    async with line(FakeSocket(), started_twilio()) as link:
        as_port: ProviderLink = link
        await as_port.ping()


async def test_audio_arrives_whole_in_order_and_in_large_pieces(autojump_clock: Clock) -> None:
    socket = FakeSocket()
    async with line(socket, started_twilio()) as link:
        await link.play(mulaw(5.0))
        await trio.sleep(5)
        assert link.heard_s() == pytest.approx(5.0)
    assert twilio_audio(socket) == mulaw(5.0)
    assert len(socket.received) <= 10


async def test_play_waits_while_the_line_is_two_seconds_ahead(autojump_clock: Clock) -> None:
    async with line(FakeSocket(), started_twilio()) as link:
        start = trio.current_time()
        await link.play(mulaw(2.0))
        assert trio.current_time() == start
        await link.play(mulaw(1.0))
        assert trio.current_time() - start == pytest.approx(1.0, abs=0.02)
        assert link.remaining_s() <= AHEAD_S + 1e-6


async def test_small_pieces_are_gathered_while_the_provider_has_enough(autojump_clock: Clock) -> None:
    socket = FakeSocket()
    async with line(socket, started_twilio()) as link:
        for number in range(100):
            await link.play(mulaw(2.0)[number * 160 : (number + 1) * 160])
            await trio.testing.wait_all_tasks_blocked()
        link.mark("end")
        await trio.sleep(3)
    assert twilio_audio(socket) == mulaw(2.0)
    assert events_of(socket).count("media") <= 20
    assert events_of(socket)[-1] == "mark"


async def test_gathered_audio_is_sent_before_the_provider_runs_dry(autojump_clock: Clock) -> None:
    socket = FakeSocket()
    async with line(socket, started_twilio()) as link:
        await link.play(mulaw(0.4))
        await trio.testing.wait_all_tasks_blocked()
        await link.play(mulaw(0.1))
        start = trio.current_time()
        await trio.sleep(5)
    at, _ = socket.received[-1]
    assert len(socket.received) == 2
    assert 0.1 <= at - start < 0.4


async def test_a_mark_takes_along_what_was_held_back(autojump_clock: Clock) -> None:
    socket = FakeSocket()
    async with line(socket, started_twilio()) as link:
        await link.play(mulaw(1.0))
        await trio.testing.wait_all_tasks_blocked()
        await link.play(mulaw(0.1))
        await trio.testing.wait_all_tasks_blocked()
        assert "mark" not in events_of(socket)
        held_back = len(twilio_audio(socket))
        link.mark("said")
        await trio.testing.wait_all_tasks_blocked()
        assert held_back == 8000
        assert len(twilio_audio(socket)) == 8800
        assert events_of(socket)[-1] == "mark"


# --- playing to a provider that wants the pace of the line -------------------------------------------------------


async def test_a_paced_line_keeps_frames_whole_and_the_lead_between_100_and_200_ms(autojump_clock: Clock) -> None:
    socket = FakeSocket()
    async with line(socket, started_vonage()) as link:
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.play, pcm(30.0))
            await trio.sleep(29)
            while_playing = list(socket.received)
        await trio.sleep(2)
    frames = [message for _, message in socket.received]
    assert all(isinstance(frame, bytes) and len(frame) == 640 for frame in frames)
    assert b"".join(frame for frame in frames if isinstance(frame, bytes)) == pcm(30.0)
    sent_by_write = _after_each_write(socket, while_playing, start)
    assert all(lead <= 0.2 + 1e-6 for _, lead in sent_by_write)
    before_each_write = [lead - (at - earlier_at) for (earlier_at, lead), (at, _) in pairwise(sent_by_write)]
    assert min(before_each_write) >= 0.1 - 1e-6
    assert set(socket.writes[1:-1]) <= {4, 5}, "several frames go out in one write"


def _after_each_write(
    socket: FakeSocket, received: list[tuple[float, str | bytes]], start: float
) -> list[tuple[float, float]]:
    """When each write came, and how far the line was ahead of the ear after it."""
    leads: dict[float, float] = {}
    for count, (at, _) in enumerate(received, 1):
        leads[at] = count * 0.02 - (at - start)
    return list(leads.items())


async def test_two_minutes_of_playing_do_not_drift(autojump_clock: Clock) -> None:
    socket = FakeSocket()
    async with line(socket, started_vonage()) as link:
        start = trio.current_time()
        for _ in range(120):
            await link.play(bytes(32000))
        await trio.sleep(link.remaining_s())
        assert trio.current_time() - start == pytest.approx(120, abs=0.001)
        assert link.heard_s() == pytest.approx(120)
    assert len(socket.received) == 6_000
    last_at, _ = socket.received[-1]
    assert 0.1 <= 120 - (last_at - start) <= 0.2 + 1e-6


async def test_after_a_stop_of_the_process_no_burst_goes_out(mock_clock: Clock) -> None:
    socket = FakeSocket()
    async with line(socket, started_vonage()) as link:
        await link.play(pcm(2.0))
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(10)
        await trio.testing.wait_all_tasks_blocked()
        assert len(socket.received) == 20, "the lead again, and no more"


async def test_the_last_frame_is_filled_up_with_silence(autojump_clock: Clock) -> None:
    socket = FakeSocket()
    async with line(socket, started_vonage()) as link:
        await link.play(b"\1" * 641)
        await trio.sleep(1)
    assert [message for _, message in socket.received] == [b"\1" * 640, b"\1" + bytes(639)]


# --- clear and marks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [started_twilio, started_vonage])
async def test_clear_goes_first_and_drops_what_was_queued(start: Callable[[], Codec], autojump_clock: Clock) -> None:
    socket = FakeSocket()
    async with line(socket, start()) as link:
        await link.play(bytes(link.format.bytes_per_s * 2))
        await trio.sleep(0.5)
        socket.received.clear()
        link.clear()
        assert link.remaining_s() == 0
        await link.play(bytes(link.format.frame_bytes))
        await trio.sleep(3)
        assert link.heard_s() == pytest.approx(0.52)
    first = socket.received[0][1]
    assert isinstance(first, str)
    assert "clear" in first
    assert len(socket.received) == 2


async def test_clear_drops_the_rest_of_a_play_that_waits(autojump_clock: Clock) -> None:
    socket = FakeSocket()
    async with line(socket, started_twilio()) as link, trio.open_nursery() as nursery:
        start = trio.current_time()

        @nursery.start_soon
        async def play() -> None:
            await link.play(mulaw(60.0))
            assert trio.current_time() - start == pytest.approx(1.2)

        await trio.sleep(1.2)
        link.clear()
        await trio.sleep(60)
        assert link.heard_s() == pytest.approx(1.2)
    assert events_of(socket)[-1] == "clear"


async def test_a_mark_is_played_when_its_echo_comes(autojump_clock: Clock) -> None:
    socket = FakeSocket()
    async with line(socket, started_twilio()) as link:
        await link.play(mulaw(1.0))
        link.mark("said")
        await trio.sleep(0.9)
        socket.say(json.dumps(texts(socket)[-1]))
        assert await link.receive() == MarkPlayed("said")
        assert link.heard_s() == pytest.approx(1.0), "the provider knows better"


async def test_a_provider_that_plays_faster_than_we_thought_is_not_left_dry(autojump_clock: Clock) -> None:
    socket = FakeSocket()
    async with line(socket, started_vonage()) as link, trio.open_nursery() as nursery:
        await link.play(pcm(0.1))
        link.mark("said")
        nursery.start_soon(link.play, pcm(1.0))
        await trio.testing.wait_all_tasks_blocked()
        sent = len(socket.received)
        assert sent == 11, "the lead and the mark"
        mark = next(message for _, message in socket.received if isinstance(message, str))
        socket.say(json.dumps({"event": "websocket:notify", "payload": json.loads(mark)["payload"]}))
        assert await link.receive() == MarkPlayed("said")
        await trio.sleep(0.03)
        assert len(socket.received) >= sent + 5


async def test_the_echo_of_a_cleared_mark_is_not_taken_for_a_new_one_of_the_same_name(autojump_clock: Clock) -> None:
    socket = FakeSocket()
    async with line(socket, started_twilio()) as link:
        await link.play(mulaw(2.0))
        link.mark("end")
        await trio.testing.wait_all_tasks_blocked()
        stale = json.dumps(texts(socket)[-1])
        link.clear()
        await link.play(mulaw(2.0))
        link.mark("end")
        await trio.testing.wait_all_tasks_blocked()
        fresh = json.dumps(texts(socket)[-1])
        socket.say(stale)
        with trio.move_on_after(1.0) as waiting:
            await link.receive()
        assert waiting.cancelled_caught
        assert link.heard_s() == pytest.approx(1.0)
        socket.say(fresh)
        assert await link.receive() == MarkPlayed("end")
        assert link.heard_s() == pytest.approx(2.0)


async def test_a_mark_that_never_comes_back_is_given_up(autojump_clock: Clock) -> None:
    socket = FakeSocket()
    async with line(socket, started_vonage()) as link, trio.open_nursery() as nursery:
        await link.play(pcm(1.0))
        link.mark("said")

        @nursery.start_soon
        async def speak() -> None:
            while True:
                socket.say(bytes(640))
                await trio.sleep(0.02)

        start = trio.current_time()
        while not isinstance(event := await link.receive(), MarkPlayed):
            pass
        assert event == MarkPlayed("said")
        assert trio.current_time() - start == pytest.approx(3.0, abs=0.25)
        nursery.cancel_scope.cancel()


async def test_thousands_of_invented_marks_say_nothing(autojump_clock: Clock) -> None:
    socket = FakeSocket()
    async with line(socket, started_twilio()) as link:
        await link.play(mulaw(2.0))
        socket.say(
            *(json.dumps({"event": "mark", "streamSid": "MZ1", "mark": {"name": str(n)}}) for n in range(10_000))
        )
        socket.say('{"event":"dtmf","streamSid":"MZ1","dtmf":{"digit":"5"}}')
        assert await link.receive() == Dtmf("5")
        assert link.heard_s() == pytest.approx(0.0)


# --- receiving --------------------------------------------------------------------------------------------------


async def test_caller_audio_and_events_come_as_they_are(autojump_clock: Clock) -> None:
    socket = FakeSocket()
    socket.say(bytes(640), '{"event":"websocket:cleared"}', '{"event":"websocket:dtmf","digit":"#"}')
    async with line(socket, started_vonage()) as link:
        assert [await link.receive() for _ in range(3)] == [bytes(640), Cleared(), Dtmf("#")]


async def test_twenty_bad_messages_are_survived_and_counted_and_one_more_is_not(autojump_clock: Clock) -> None:
    socket, kinds = FakeSocket(), list[str]()
    socket.say(*["junk"] * MAX_BAD_MESSAGES, bytes(640), b"odd")
    async with line(socket, started_vonage(), kinds.append) as link:
        assert await link.receive() == bytes(640)
        assert kinds == ["json"] * MAX_BAD_MESSAGES
        with pytest.raises(ProtocolError):
            await link.receive()


async def test_what_is_read_together_is_delivered_together(autojump_clock: Clock) -> None:
    socket, taken = FakeSocket(), list[object]()
    first, second, third = (bytes([number]) * 640 for number in range(3))
    socket.say(first, second, '{"event":"websocket:dtmf","digit":"#"}', "junk", third)
    async with line(socket, started_vonage()) as link:
        with trio.move_on_after(1):
            await link.deliver(taken.append)
        assert taken == [first + second, Dtmf("#"), third]
        socket.say(first)
        assert await link.receive() == first  # whoever asks again is told again
        socket.close(1000)
        await link.deliver(taken.append)  # the caller has hung up
        assert len(taken) == 3


async def test_a_delivery_ends_with_the_callers_hang_up(autojump_clock: Clock) -> None:
    socket, taken = FakeSocket(), list[object]()
    stop = '{"event":"stop","streamSid":"MZ1","stop":{}}'
    async with line(socket, started_twilio()) as link:
        socket.say(stop, stop)
        await link.deliver(taken.append)
    assert not taken


async def test_what_goes_wrong_in_a_delivery_comes_out_of_it(autojump_clock: Clock) -> None:
    socket = FakeSocket()
    async with line(socket, started_vonage()) as link:
        socket.say(bytes(640), bytes(640))
        with pytest.raises(ZeroDivisionError):
            await link.deliver(lambda _: print(1 // 0))
        socket.say(*["junk"] * (MAX_BAD_MESSAGES + 1))
        with pytest.raises(ProtocolError):
            await link.deliver(lambda _: None)


async def test_a_clean_close_is_a_hang_up_where_the_provider_means_it_so(autojump_clock: Clock) -> None:
    socket = FakeSocket()
    async with line(socket, started_vonage()) as link:
        socket.close(1000)
        assert await link.receive() == Stopped()
        with pytest.raises(trio.EndOfChannel):
            await link.receive()


@pytest.mark.parametrize(("start", "code"), [(started_vonage, 1006), (started_vonage, 1011), (started_twilio, 1000)])
async def test_any_other_close_is_a_loss(start: Callable[[], Codec], code: int, autojump_clock: Clock) -> None:
    socket = FakeSocket()
    async with line(socket, start()) as link:
        socket.close(code)
        with pytest.raises(trio.EndOfChannel):
            await link.receive()


async def test_a_peer_whose_bytes_were_no_websocket_has_broken_the_protocol(autojump_clock: Clock) -> None:
    socket = FakeSocket()
    async with line(socket, started_twilio()) as link:
        socket.fault = 1002
        socket.close(1006)
        with pytest.raises(ProtocolError):
            await link.receive()


async def test_a_peer_that_stops_reading_is_told_to_the_reader_within_the_send_limit(autojump_clock: Clock) -> None:
    socket = FakeSocket()
    async with line(socket, started_twilio()) as link, trio.open_nursery() as nursery:
        socket.stall()
        nursery.start_soon(link.play, mulaw(60.0))
        start = trio.current_time()
        with pytest.raises(SlowPeer):
            await link.receive()
        assert trio.current_time() - start == pytest.approx(2.0, abs=0.2)
        assert link.remaining_s() <= AHEAD_S + 1e-6, "and no more than that was held in memory"
        nursery.cancel_scope.cancel()


async def test_playing_on_a_lost_socket_ends_nothing_by_itself(autojump_clock: Clock) -> None:
    socket = FakeSocket()
    async with line(socket, started_twilio()) as link:
        socket.close(1006)
        with trio.move_on_after(30) as waiting:
            await link.play(mulaw(60.0))
        assert waiting.cancelled_caught
        with pytest.raises(trio.EndOfChannel):
            await link.receive()


# --- leaving ----------------------------------------------------------------------------------------------------


async def test_nothing_is_sent_after_the_block(autojump_clock: Clock) -> None:
    socket = FakeSocket()
    async with line(socket, started_vonage()) as link:
        await link.play(pcm(2.0))
        await trio.sleep(0.3)
    sent = len(socket.received)
    link.clear()
    link.mark("late")
    await trio.sleep(5)
    assert len(socket.received) == sent
    assert not socket.closed, "the socket is its owner's to close"


async def test_leaving_politely_finishes_the_write_under_way(autojump_clock: Clock) -> None:
    socket = FakeSocket()
    async with trio.open_nursery() as nursery, line(socket, started_twilio()) as link:
        socket.stall()
        await link.play(mulaw(0.5))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(_read_again_after, 0.1, socket)
    assert twilio_audio(socket) == mulaw(0.5)
    assert not socket.torn


async def _read_again_after(seconds: float, socket: FakeSocket) -> None:
    await trio.sleep(seconds)
    socket.read_again()


async def test_leaving_politely_does_not_wait_for_a_peer_that_never_reads(autojump_clock: Clock) -> None:
    socket = FakeSocket()
    async with line(socket, started_twilio()) as link:
        socket.stall()
        await link.play(mulaw(0.5))
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
    assert trio.current_time() - start <= 0.31
    assert socket.torn
    assert socket.closed


async def test_an_exception_of_the_block_comes_out_as_it_is(autojump_clock: Clock) -> None:
    with pytest.raises(LookupError, match="of the block"):
        await _fail_in_a_block()


async def _fail_in_a_block() -> None:
    async with open_link(FakeSocket(), started_twilio(), MULAW_8K, ticker=Ticker()) as link:
        await link.play(mulaw(1.0))
        raise LookupError("of the block")


# --- a cancel at every step ---------------------------------------------------------------------------------------


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope when its task has taken so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.scope = trio.CancelScope()
        self.task: trio.lowlevel.Task | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.step -= 1
            if self.step == 0:
                self.scope.cancel()


@pytest.mark.parametrize("start", [started_twilio, started_vonage])
async def test_a_play_cancelled_at_any_step_leaves_the_wire_whole(
    start: Callable[[], Codec], autojump_clock: Clock
) -> None:
    for step in range(1, 40):
        codec, socket = start(), FakeSocket()
        cancel = CancelAtStep(step)
        trio.lowlevel.add_instrument(cancel)
        try:
            async with line(socket, codec) as link, trio.open_nursery() as nursery:
                nursery.start_soon(_play_under, cancel, link)
                await trio.sleep(8)
                link.clear()
                await link.play(link.format.silence(1.0))
                await trio.sleep(2)
        finally:
            trio.lowlevel.remove_instrument(cancel)
        assert not socket.torn
        assert not socket.closed
        _assert_whole(socket)
        if not cancel.scope.cancelled_caught:
            return  # every step has had its turn
    raise AssertionError("more steps than expected")


async def _play_under(cancel: CancelAtStep, link: Link) -> None:
    cancel.task = trio.lowlevel.current_task()
    with cancel.scope:
        for _ in range(5):
            await link.play(link.format.silence(1.0))
    cancel.task = None


def _assert_whole(socket: FakeSocket) -> None:
    for _, message in socket.received:
        if isinstance(message, bytes):
            assert len(message) == 640
        else:
            json.loads(message)


class HeldSocket(FakeSocket):
    """One that is read at each look alone, if it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.is_held = False
        self.looks: list[float] = []

    def hold(self, is_held: bool) -> bool:
        self.is_held = is_held
        return is_held

    def look(self) -> None:
        self.looks.append(round(trio.current_time() - self.began_at_s, 2))

    began_at_s = 0.0


async def test_a_slow_pace_looks_on_the_shared_beat_and_ends_with_the_line(
    autojump_clock: trio.testing.MockClock,
) -> None:
    socket, ticker = HeldSocket(), Ticker()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ticker.run)
        async with open_link(socket, started_twilio(), MULAW_8K, ticker=ticker) as link:
            link.pace(0.06)
            socket.began_at_s = trio.current_time()
            await trio.sleep(0.19)
            assert socket.looks == [0.02, 0.08, 0.14]
            link.pace(0.0)
            assert not socket.is_held
            await trio.sleep(0.19)
            assert len(socket.looks) == 3
            link.pace(0.06)
        assert not socket.is_held
        assert len(ticker) == 0
        link.pace(0.06)
        assert not socket.is_held
        nursery.cancel_scope.cancel()
