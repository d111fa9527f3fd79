"""The order of a call's ear: one final Heard for each SpeechStarted, whatever the caller and the machine do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from adapters.speech.hearing.segmented import MAX_OWED, EmbeddedTranscriber, Recording, Request
from adapters.speech.hearing.segments import DEFAULT_HEARING, FRAME_SAMPLES
from engine.errors import SpeechFailed
from engine.events import MULAW_8K, PCM16_16K, Heard, SpeechStarted, SpeechStopped, TranscriberEvent

FRAME = bytes([0x80]) * FRAME_SAMPLES
SPEECH, SILENCE = 0.95, 0.02


class Words:
    """Finds ``words 1``, ``words 2``, ... when it is let; ``gate`` closed, it thinks for ever."""

    def __init__(self, *, is_slow: bool = False) -> None:
        self.requests: list[Request] = []
        self.gate = trio.Event()
        self.fails = False
        if not is_slow:
            self.gate.set()

    async def find(self, request: Request) -> str:
        self.requests.append(request)
        number = len(self.requests)
        await trio.lowlevel.checkpoint()
        if self.fails:
            raise SpeechFailed("moonshine", "the model failed: RuntimeError")
        await self.gate.wait()
        return f"words {number}"


class Lane:
    dropped_samples = 0

    def push(self, pcm: bytes) -> None:
        """The test judges the frames itself."""


@asynccontextmanager
async def ear(words: Words) -> AsyncIterator[EmbeddedTranscriber]:
    transcriber = EmbeddedTranscriber(MULAW_8K, words, DEFAULT_HEARING)
    transcriber.attach(Lane())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transcriber.recognise)
        yield transcriber
        nursery.cancel_scope.cancel()
    transcriber.close()


async def hear(transcriber: EmbeddedTranscriber, frames: str, *, at_once: bool = False) -> None:
    """V is a frame of voice, anything else one of silence; the machine finds what it can in between."""
    for frame in frames:
        transcriber.send(FRAME)
        transcriber.judged(SPEECH if frame == "V" else SILENCE, 3000)
        if not at_once:
            await wait_all_tasks_blocked()


def drain(transcriber: EmbeddedTranscriber) -> list[TranscriberEvent]:
    events = []
    while True:
        try:
            events.append(transcriber._received.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            return events


async def receive_all(transcriber: EmbeddedTranscriber) -> None:
    """What has been queued, and then the end."""
    for _ in range(200):
        await transcriber.receive()


async def test_words_are_there_the_moment_the_caller_has_stopped() -> None:
    """They were found during the pause."""
    words = Words()
    async with ear(words) as transcriber:
        await hear(transcriber, "V" * 10 + "." * 12)
        started, stopped, heard = drain(transcriber)
    assert isinstance(started, SpeechStarted)
    assert isinstance(stopped, SpeechStopped)
    assert heard == Heard("words 1")
    assert len(words.requests) == 1


async def test_words_of_a_caller_who_goes_on_are_thrown_away() -> None:
    words = Words()
    async with ear(words) as transcriber:
        await hear(transcriber, "V" * 10 + "....." + "V" * 10 + "." * 12)
        events = drain(transcriber)
    assert [type(event) for event in events] == [SpeechStarted, SpeechStopped, Heard]
    assert events[-1] == Heard("words 2")
    assert len(words.requests[1].audio) > len(words.requests[0].audio) + 10 * FRAME_SAMPLES


async def test_a_guess_that_is_still_being_made_is_stopped() -> None:
    words = Words(is_slow=True)
    async with ear(words) as transcriber:
        await hear(transcriber, "V" * 10 + "....." + "V" * 3)
        assert words.requests[0].is_unwanted
        words.gate.set()
        await hear(transcriber, "." * 12)
        assert drain(transcriber)[-1] == Heard("words 2")


async def test_words_that_take_longer_than_the_pause_come_when_they_are_found() -> None:
    words = Words(is_slow=True)
    async with ear(words) as transcriber:
        await hear(transcriber, "V" * 10 + "." * 12)
        assert [type(event) for event in drain(transcriber)] == [SpeechStarted, SpeechStopped]
        words.gate.set()
        await wait_all_tasks_blocked()
        assert drain(transcriber) == [Heard("words 1")]


async def test_a_sound_too_short_for_a_word_is_heard_as_nothing() -> None:
    words = Words()
    async with ear(words) as transcriber:
        await hear(transcriber, "VVVV" + "." * 12)
        assert drain(transcriber)[-1] == Heard("")
    assert words.requests == []


async def test_a_machine_that_is_too_slow_owes_a_bounded_number_of_answers() -> None:
    words = Words(is_slow=True)
    async with ear(words) as transcriber:
        for _ in range(MAX_OWED + 3):
            await hear(transcriber, "V" * 8 + "." * 12)
        events = drain(transcriber)
        assert events.count(Heard("")) == transcriber.given_up == 3
        words.gate.set()
        await wait_all_tasks_blocked()
        assert len(drain(transcriber)) == MAX_OWED


async def test_a_recogniser_that_fails_says_so_and_not_in_the_middle_of_the_call() -> None:
    words = Words()
    words.fails = True
    async with ear(words) as transcriber:
        await hear(transcriber, "V" * 10 + "." * 12)
        with pytest.raises(SpeechFailed, match="moonshine"):
            await receive_all(transcriber)


async def test_times_are_those_of_the_sound_and_not_of_the_event(autojump_clock: MockClock) -> None:
    """To a frame of 32 ms, on the engine's clock."""
    async with ear(Words()) as transcriber:
        began = trio.current_time()
        for frame in "." * 20 + "V" * 20 + "." * 12:
            await trio.sleep(0.032)
            transcriber.send(FRAME)
            transcriber.judged(SPEECH if frame == "V" else SILENCE, 3000)
        await trio.sleep(0.1)
        started, stopped, _ = drain(transcriber)
    assert isinstance(started, SpeechStarted)
    assert isinstance(stopped, SpeechStopped)
    assert started.at_s - began == pytest.approx(20 * 0.032, abs=0.033)
    assert stopped.at_s - began == pytest.approx(40 * 0.032, abs=0.033)


class JudgingLane(Lane):
    """Everything pushed is judged at once: zeros are silence, all else is voice."""

    def __init__(self, transcriber: EmbeddedTranscriber) -> None:
        self._transcriber = transcriber
        self._pcm = b""

    def push(self, pcm: bytes) -> None:
        self._pcm += pcm
        while len(self._pcm) >= 2 * FRAME_SAMPLES:
            frame, self._pcm = self._pcm[: 2 * FRAME_SAMPLES], self._pcm[2 * FRAME_SAMPLES :]
            self._transcriber.judged(SPEECH if any(frame) else SILENCE, 3000)


async def test_a_line_that_sends_nothing_in_silence_ends_the_speech(autojump_clock: MockClock) -> None:
    """Some lines suppress silence. The stop keeps the time of the last voice."""
    async with ear(Words()) as transcriber, trio.open_nursery() as nursery:
        transcriber.attach(JudgingLane(transcriber))
        nursery.start_soon(transcriber.fill_gaps)
        for _ in range(2):
            for _ in range(30):
                await trio.sleep(0.032)
                transcriber.send(FRAME)
            silent_since = trio.current_time()
            with trio.fail_after(1):
                events = [await transcriber.receive() for _ in range(3)]
            assert [type(event) for event in events] == [SpeechStarted, SpeechStopped, Heard]
            assert isinstance(events[1], SpeechStopped)
            assert events[1].at_s == pytest.approx(silent_since, abs=0.04)
            assert 0.7 < trio.current_time() - silent_since < 0.95
            await trio.sleep(5)
            assert drain(transcriber) == []
        nursery.cancel_scope.cancel()


async def test_a_short_gap_in_the_audio_ends_nothing(autojump_clock: MockClock) -> None:
    async with ear(Words()) as transcriber, trio.open_nursery() as nursery:
        transcriber.attach(JudgingLane(transcriber))
        nursery.start_soon(transcriber.fill_gaps)
        for _ in range(4):
            for _ in range(15):
                transcriber.send(FRAME)
                await trio.sleep(0.032)
            await trio.sleep(0.6)
        assert [type(event) for event in drain(transcriber)] == [SpeechStarted]
        nursery.cancel_scope.cancel()


async def test_nobody_listens_any_more_and_nothing_grows() -> None:
    """Whoever comes back to such a transcriber is told."""
    async with ear(Words()) as transcriber:
        for _ in range(40):
            await hear(transcriber, "V" * 8 + "." * 12)
        with pytest.raises(SpeechFailed):
            await receive_all(transcriber)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("V."), st.integers(1, 14)), max_size=14),
    st.lists(st.booleans(), min_size=14, max_size=14),
)
def test_each_start_gets_exactly_one_final_answer(stretches: list[tuple[str, int]], is_slow: list[bool]) -> None:
    """In every rhythm of voice and silence, with a machine that is now fast, now stuck."""

    async def call() -> None:
        words = Words()
        async with ear(words) as transcriber:
            for (sound, length), stuck in zip(stretches, is_slow, strict=False):
                if stuck:
                    words.gate = trio.Event()
                else:
                    words.gate.set()
                await hear(transcriber, sound * length)
                words.gate.set()
            await hear(transcriber, "." * 12)
            kinds = [type(event) for event in drain(transcriber)]
        starts = kinds.count(SpeechStarted)
        assert kinds.count(SpeechStopped) == kinds.count(Heard) == starts
        for number in range(len(kinds)):
            assert kinds[: number + 1].count(Heard) <= kinds[: number + 1].count(SpeechStopped)

    trio.run(call)


def test_a_recording_keeps_only_what_may_be_needed() -> None:
    recording = Recording(PCM16_16K)
    recording.append(bytes(range(200)) * 2)
    assert recording.ends_at == 100
    recording.forget_before(20)
    assert recording.cut(0, 25) == bytes(range(80, 100))
    assert recording.cut(98, 100) == bytes(range(192, 200))
    assert recording.ends_at == 100
