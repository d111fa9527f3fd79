"""Sockets of synthesizers: when they are opened and given up, and what is held of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio
import trio.testing

from adapters.speech.speaking.socket_voice import QUEUE_MESSAGES
from adapters.speech.speaking.takes import HELD_S
from engine.errors import SpeechFailed, Why
from engine.runtime.network import Network
from tests.contract.synthesizers import KINDS, Bench, Kind, bench_of, heard, in_lockstep, kind_named
from tests.fakes.clouds.loopback import dialled, serving
from tests.fakes.clouds.voicebox import SpeechCloud, Voicebox
from tests.fakes.plain_speech import words

Clock = trio.testing.MockClock
SOCKETS = [kind for kind in KINDS if kind.is_socket]
every_socket = pytest.mark.parametrize("kind", SOCKETS, ids=str)
ONE_TEXT = kind_named("elevenlabs stream-input")
CONTEXTS = kind_named("elevenlabs multi-stream-input")
MINUTE = " ".join(f"This is sentence {number}." for number in range(75))


# --- sockets ----------------------------------------------------------------------------------------------------


async def test_the_next_socket_is_open_before_the_next_sentence(autojump_clock: Clock) -> None:
    """A socket of stream-input speaks one text; no sentence waits for a handshake, and one spare is all there is."""
    async with bench_of(ONE_TEXT) as bench:
        async with bench.synthesizer() as synthesizer:
            assert (bench.cloud.sockets_open, bench.cloud.sockets_ever) == (1, 1)
            for number in range(1, 5):
                async with synthesizer.open_speech("Hello there, this is a sentence.") as speech:
                    await speech.receive()
                    await trio.sleep(0.01)
                    assert (bench.cloud.sockets_open, bench.cloud.sockets_ever) == (2, number + 1)
                    async for _ in speech:
                        pass
                await trio.sleep(0.01)
                assert bench.cloud.sockets_open == 1
        await bench.all_closed()


async def test_a_barge_in_closes_the_socket_that_speaks(autojump_clock: Clock) -> None:
    async with bench_of(ONE_TEXT) as bench, bench.synthesizer() as synthesizer:
        async with synthesizer.open_speech(MINUTE) as speech:
            await speech.receive()
        await trio.sleep(1.0)
        assert bench.cloud.sockets_open == 1
        assert bench.cloud.cancelled == [MINUTE]


@every_socket
async def test_a_call_of_ten_silent_minutes_can_still_be_answered(kind: Kind, autojump_clock: Clock) -> None:
    """ElevenLabs is kept awake; where nothing keeps a socket awake, a new one is opened in time (fault 22)."""
    async with bench_of(kind) as bench:
        async with bench.synthesizer() as synthesizer:
            await heard(synthesizer, "Hello.")
            sockets = bench.cloud.sockets_ever
            await trio.sleep(600)
            assert words(await heard(synthesizer, "Are you still there?"), bench.line) == "Are you still there?"
            assert bench.cloud.sockets_ever - sockets <= 1
            if kind is CONTEXTS:
                assert bench.cloud.sockets_ever == 1
        await bench.all_closed()


@every_socket
async def test_a_socket_that_died_in_a_silence_is_replaced_without_a_word(kind: Kind, autojump_clock: Clock) -> None:
    async with bench_of(kind) as bench, bench.synthesizer() as synthesizer:
        bench.cloud.voicebox.idle_s = 5.0
        await heard(synthesizer, "Hello.")
        for _ in range(3):
            await trio.sleep(30)
            assert words(await heard(synthesizer, "Yes?"), bench.line) == "Yes?"


async def test_a_spare_that_could_not_be_opened_is_tried_again(autojump_clock: Clock) -> None:
    async with bench_of(ONE_TEXT) as bench, bench.synthesizer() as synthesizer:
        bench.cloud.voicebox.refuses = 503
        assert words(await heard(synthesizer, "One."), bench.line) == "One."
        with pytest.raises(SpeechFailed) as failure:
            await heard(synthesizer, "Two.")
        assert failure.value.why is Why.UNREACHABLE
        bench.cloud.voicebox.refuses = None
        assert words(await heard(synthesizer, "Three."), bench.line) == "Three."


@every_socket
async def test_a_handshake_that_hangs_is_given_up_in_three_seconds(kind: Kind, autojump_clock: Clock) -> None:
    def nowhere(cloud: SpeechCloud, nursery: trio.Nursery) -> Network:
        kept: list[trio.abc.Stream] = []

        def dial(_host: str, _port: int) -> trio.abc.Stream:
            ours, theirs = trio.testing.memory_stream_pair()
            kept.append(theirs)
            return ours

        return Network(dial=dial)

    async with bench_of(kind, network=nowhere) as bench:
        began = trio.current_time()
        with pytest.raises(SpeechFailed) as failure:
            async with bench.synthesizer():
                pass
        assert failure.value.why is Why.UNREACHABLE
        assert trio.current_time() - began == pytest.approx(3.0, abs=0.1)


async def test_leaving_does_not_wait_for_a_spare_that_hangs(autojump_clock: Clock) -> None:
    def network(cloud: SpeechCloud, nursery: trio.Nursery) -> Network:
        return dialled(cloud, nursery, pairs.pop)

    # The first connection leads somewhere; of the second, nobody holds the other end.
    pairs: list[tuple[trio.abc.Stream, trio.abc.Stream]] = [
        (trio.testing.memory_stream_pair()[0], _Mute()),
        trio.testing.memory_stream_pair(),
    ]
    async with bench_of(ONE_TEXT, network=network) as bench:
        async with bench.synthesizer() as synthesizer:
            assert words(await heard(synthesizer, "Hello."), bench.line) == "Hello."
            left_at = trio.current_time()
        assert trio.current_time() - left_at < 0.1
        assert synthesizer.is_closed


@every_socket
async def test_a_vendor_that_does_not_answer_a_close_has_one_second(kind: Kind, autojump_clock: Clock) -> None:
    made: list[Any] = []

    def pair() -> tuple[trio.abc.Stream, trio.abc.Stream]:
        made.append(trio.testing.memory_stream_pair())
        return made[-1][0], made[-1][1]

    async with bench_of(kind, network=lambda cloud, nursery: dialled(cloud, nursery, pair)) as bench:
        async with bench.synthesizer() as synthesizer:
            assert words(await heard(synthesizer, "Hello."), bench.line) == "Hello."
            await trio.sleep(2)
            for ours, _ in made:
                ours.send_stream.send_all_hook = trio.lowlevel.checkpoint  # nothing arrives there any more
            left_at = trio.current_time()
        assert trio.current_time() - left_at == pytest.approx(1.0, abs=0.1)
        assert synthesizer.is_closed


class _Mute(trio.abc.Stream):
    """The far end of a connection that nobody serves."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_the_same_over_sockets_of_this_machine(kind: Kind) -> None:
    cloud = kind.cloud()
    cloud.voicebox = Voicebox(speed=math.inf, first_audio_s=0.0)
    with trio.fail_after(10):
        async with serving(cloud) as served:
            bench = Bench(kind, Network(), cloud, kind.line, served.host)
            async with bench.synthesizer() as synthesizer:
                for number in range(3):
                    async with synthesizer.open_speech(MINUTE) as speech:
                        await speech.receive()
                    assert words(await heard(synthesizer, f"Number {number}."), bench.line) == f"Number {number}."
                assert words(await heard(synthesizer, MINUTE), bench.line) == MINUTE
            assert synthesizer.is_closed
            while cloud.sockets_open or cloud.requests_open:  # noqa: ASYNC110 - the cloud counts, it tells nobody
                await trio.sleep(0.01)
    assert cloud.faults == []


# --- back-pressure ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_what_comes_faster_than_it_is_heard_stays_with_the_vendor(kind: Kind, autojump_clock: Clock) -> None:
    """Fault 27; and when it is heard at last, at the pace of the line, nothing is missing."""
    async with bench_of(kind, network=in_lockstep) as bench:
        bench.cloud.voicebox = Voicebox(speed=math.inf, first_audio_s=0.0)
        async with bench.synthesizer() as synthesizer, synthesizer.open_speech(MINUTE) as speech:
            audio = await speech.receive()
            await trio.sleep(30)
            piece_s = bench.cloud.voicebox.piece_s
            # Held ready, waiting in the socket's queue, and one on its way at each end.
            assert bench.cloud.audio_sent_s < HELD_S + (QUEUE_MESSAGES + 3) * piece_s + 1.5
            async for piece in speech:
                await trio.sleep(bench.line.duration_s(piece))
                audio += piece
        assert words(audio, bench.line) == MINUTE
        assert bench.line.duration_s(audio) > 60


@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_a_barge_in_is_not_held_up_by_what_was_not_read(kind: Kind, autojump_clock: Clock) -> None:
    async with bench_of(kind, network=in_lockstep) as bench:
        bench.cloud.voicebox = Voicebox(speed=math.inf, first_audio_s=0.0, late_pieces=1000)
        async with bench.synthesizer() as synthesizer:
            async with synthesizer.open_speech(MINUTE) as speech:
                await speech.receive()
                await trio.sleep(30)
            began = trio.current_time()
            assert words(await heard(synthesizer, "Yes?"), bench.line) == "Yes?"
            assert trio.current_time() - began < 0.5
        await bench.all_closed()


@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_a_call_that_is_cut_off_while_audio_is_held_leaves_nothing(kind: Kind, autojump_clock: Clock) -> None:
    """Not even a generator half run, which the garbage collector would find and tell of."""
    async with bench_of(kind, network=in_lockstep) as bench:
        bench.cloud.voicebox = Voicebox(speed=math.inf, first_audio_s=0.0)
        with trio.CancelScope() as call:
            async with bench.synthesizer() as synthesizer, synthesizer.open_speech(MINUTE) as speech:
                await speech.receive()
                await trio.sleep(30)
                call.cancel()
                await trio.sleep(1)
        await bench.all_closed()


@every_socket
async def test_a_close_behind_held_audio_is_noticed_when_that_is_heard(kind: Kind, autojump_clock: Clock) -> None:
    async with bench_of(kind) as bench, bench.synthesizer() as synthesizer:
        bench.cloud.voicebox = Voicebox(speed=math.inf, first_audio_s=0.0, dies_after=50, close_code=1001)
        async with synthesizer.open_speech(MINUTE) as speech:
            await trio.sleep(5)
            audio = b""
            with pytest.raises(SpeechFailed) as failure:  # noqa: PT012 - the loop is what fails
                while True:
                    audio += await speech.receive()
        assert failure.value.why is Why.CUT
        assert bench.line.duration_s(audio) == pytest.approx(10.0)


async def test_what_came_before_the_socket_was_gone_is_heard_however_late(autojump_clock: Clock) -> None:
    """stream-input sends all it has, closes, and is gone, long before the last word is heard."""
    async with bench_of(ONE_TEXT) as bench, bench.synthesizer() as synthesizer:
        bench.cloud.voicebox = Voicebox(speed=math.inf, first_audio_s=0.0)
        async with synthesizer.open_speech(MINUTE) as speech:
            audio = await speech.receive()
            await trio.sleep(60)
            async for piece in speech:
                audio += piece
        assert words(audio, bench.line) == MINUTE
