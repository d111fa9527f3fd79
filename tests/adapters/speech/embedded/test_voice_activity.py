"""One model, many calls: what it hears, and that no call hears another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from engine.events import PCM16_8K
from tests.adapters.speech.conftest import Say
from tests.adapters.speech.sounds import click, hiss, silence, tones

pytest.importorskip("onnxruntime", reason="needs the extra offhook[local]")

from adapters.speech.embedded.speech import Models
from adapters.speech.embedded.voice_activity import QUEUE_BYTES, VoiceActivity
from adapters.speech.hearing.segments import FRAME_SAMPLES, Segmenter

if TYPE_CHECKING:
    from adapters.speech.embedded.voice_activity import Lane


class Ear:
    """Keeps what it is told."""

    def __init__(self, *, is_broken: bool = False) -> None:
        self.probabilities: list[float] = []
        self.segmenter = Segmenter()
        self.skipped_samples = 0
        self.has_failed = False
        self._is_broken = is_broken
        self._heard_more = trio.Event()

    def judged(self, probability: float, level: int) -> None:
        if self._is_broken:
            raise ValueError("a mistake in one call")
        self.probabilities.append(round(probability, 4))
        self.segmenter.feed(probability, level)
        self._heard_more.set()

    async def hears(self, frames: int) -> None:
        """Until so many have been judged."""
        while len(self.probabilities) < frames:
            self._heard_more = trio.Event()
            await self._heard_more.wait()

    def skipped(self, samples: int) -> None:
        self.skipped_samples += samples

    def failed(self) -> None:
        self.has_failed = True


@contextmanager
def listening(activity: VoiceActivity, *ears: Ear) -> Iterator[list[Lane]]:
    with ExitStack() as stack:
        yield [stack.enter_context(activity.open_lane(ear)) for ear in ears]


async def hear(lanes: list[Lane], *sounds: bytes) -> None:
    """Each lane its sound, 20 ms at a time, side by side."""
    for at in range(0, max(map(len, sounds)), 320):
        for lane, sound in zip(lanes, sounds, strict=True):
            lane.push(sound[at : at + 320])
        await wait_all_tasks_blocked()


@pytest.fixture
def activity(models: Models, nursery: trio.Nursery) -> VoiceActivity:
    activity = VoiceActivity(models.activity, gather_s=0)
    nursery.start_soon(activity.run)
    return activity


async def test_speech_is_heard_and_its_end_too(activity: VoiceActivity, say: Say) -> None:
    ear = Ear()
    sentence = say("What are your opening hours?", PCM16_8K)
    with listening(activity, ear) as lanes:
        await hear(lanes, silence(0.5) + sentence)
        assert ear.segmenter.is_speech
        await hear(lanes, silence(0.6))
    assert not ear.segmenter.is_speech
    assert abs(ear.segmenter.started_at / 8000 - 0.5) < 0.15
    assert ear.segmenter.voiced_frames > 0.7 * len(sentence) / 2 / FRAME_SAMPLES


@pytest.mark.parametrize(
    "sound",
    [silence(1.5), hiss(1.5), silence(0.5) + click() + silence(0.5), tones(440, 480), tones(50)],
    ids=["silence", "hiss", "click", "ringing", "hum"],
)
async def test_a_sound_that_is_no_voice_is_no_speech(activity: VoiceActivity, sound: bytes) -> None:
    ear = Ear()
    with listening(activity, ear) as lanes:
        await hear(lanes, sound)
    assert ear.segmenter.voiced_frames == 0 or not ear.segmenter.is_speech


@pytest.mark.parametrize("inline_calls", [16, 0], ids=["on the loop", "in a thread"])
async def test_calls_in_one_batch_hear_only_themselves(
    models: Models, nursery: trio.Nursery, say: Say, inline_calls: int
) -> None:
    """Each call's probabilities are those it has alone."""
    sounds = [say("My name is John Smith.", PCM16_8K)[:16000], hiss(1.0), say("Goodbye.", PCM16_8K), silence(1.0)]
    alone = []
    for sound in sounds:
        activity = VoiceActivity(models.activity)
        ear = Ear()
        with listening(activity, ear) as lanes:
            async with trio.open_nursery() as inner:
                inner.start_soon(activity.run)
                await hear(lanes, sound)
                inner.cancel_scope.cancel()
        alone.append(ear.probabilities)

    together = VoiceActivity(models.activity, inline_calls=inline_calls, gather_s=0)
    nursery.start_soon(together.run)
    ears = [Ear() for _ in sounds]
    with listening(together, *ears) as lanes:
        await hear(lanes, *sounds)
        for ear, expected in zip(ears, alone, strict=True):
            await ear.hears(len(expected))
    for ear, expected in zip(ears, alone, strict=True):
        assert len(expected) > 10
        assert all(abs(a - b) < 0.01 for a, b in zip(ear.probabilities, expected, strict=True))


async def test_a_mistake_in_one_call_leaves_the_others_their_ears(
    activity: VoiceActivity, caplog: pytest.LogCaptureFixture
) -> None:
    broken, whole = Ear(is_broken=True), Ear()
    with listening(activity, broken, whole) as lanes:
        await hear(lanes, silence(0.2), silence(0.2))
    assert broken.has_failed
    assert len(whole.probabilities) == 6


def test_a_lane_that_is_not_served_keeps_the_newest_two_seconds(models: Models) -> None:
    ear = Ear()
    with listening(VoiceActivity(models.activity), ear) as (lane,):
        for _ in range(200):
            lane.push(silence(0.02))
        assert lane.dropped_samples == ear.skipped_samples
        assert 2.0 <= ear.skipped_samples / 8000 < 2.1
        assert len(lane._audio) <= QUEUE_BYTES


def test_a_closed_lane_is_forgotten(models: Models) -> None:
    activity = VoiceActivity(models.activity)
    with listening(activity, Ear(), Ear()):
        assert activity.lanes == 2
    assert activity.lanes == 0
