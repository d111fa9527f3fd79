"""A call in two channels: each sound where it was heard."""

from __future__ import annotations

from array import array

import pytest

from engine.audio.g711 import pcm16_to_mulaw
from engine.audio.stereo import LATE_S, StereoTrack
from engine.events import MULAW_8K, PCM16_8K

TONE = array("h", [1000] * 160).tobytes()
QUIET = bytes(320)


def channels(pcm: bytes) -> tuple[array[int], array[int]]:
    samples = array("h", pcm)
    return samples[0::2], samples[1::2]


def starts(channel: array[int]) -> list[float]:
    """When sound begins, in seconds."""
    loud = [abs(sample) > 500 for sample in channel]
    return [at / 8000 for at, is_loud in enumerate(loud) if is_loud and (at == 0 or not loud[at - 1])]


def seconds(channel: array[int]) -> float:
    return sum(abs(sample) > 500 for sample in channel) / 8000


def call(until_s: float, track: StereoTrack, *, at: dict[float, str] | None = None) -> tuple[array[int], array[int]]:
    """Frames of silence from the caller, but for what happens: a tone of his, a second of the agent, or a clear."""
    taken = b""
    for number in range(round(until_s * 50)):
        now = round((number + 1) * 0.02, 2)
        match (at or {}).get(now):
            case "caller":
                track.heard(TONE, now)
            case "agent":
                track.heard(QUIET, now)
                track.played(TONE * 50, now)
            case "clear":
                track.heard(QUIET, now)
                track.cleared(now)
            case "gap":
                pass
            case _:
                track.heard(QUIET, now)
        taken += track.take(now)
    return channels(taken + track.take(until_s, is_end=True))


def test_each_is_on_a_channel_of_its_own_and_at_its_time() -> None:
    left, right = call(4.0, StereoTrack(PCM16_8K), at={1.02: "caller", 2.0: "agent"})
    assert starts(left) == [pytest.approx(1.0, abs=0.001)]
    assert starts(right) == [pytest.approx(2.0, abs=0.001)]
    assert len(left) == len(right) == 4 * 8000


def test_what_is_queued_behind_something_is_heard_behind_it() -> None:
    _, right = call(4.0, StereoTrack(PCM16_8K), at={1.0: "agent", 1.5: "agent"})
    assert starts(right) == [pytest.approx(1.0, abs=0.001)]
    assert seconds(right) == pytest.approx(2.0, abs=0.001)


def test_what_a_barge_in_cleared_was_not_heard() -> None:
    _, right = call(4.0, StereoTrack(PCM16_8K), at={1.0: "agent", 1.4: "clear", 3.0: "agent"})
    assert starts(right) == [pytest.approx(1.0, abs=0.001), pytest.approx(3.0, abs=0.001)]
    assert seconds(right) == pytest.approx(1.4, abs=0.001)


def test_frames_that_never_came_are_silence_and_move_nothing() -> None:
    gap = {round(1 + number * 0.02, 2): "gap" for number in range(25)}
    left, _ = call(4.0, StereoTrack(PCM16_8K), at={**gap, 3.02: "caller"})
    assert starts(left) == [pytest.approx(3.0, abs=0.03)]


def test_a_burst_of_late_frames_does_not_delay_what_comes_after() -> None:
    track = StereoTrack(PCM16_8K)
    for _ in range(100):
        track.heard(TONE, 1.0)
    left, _ = channels(track.take(1.0 + 2 * LATE_S, is_end=True))
    assert seconds(left) <= LATE_S + 0.05


def test_mu_law_is_recorded_as_what_it_sounds_like() -> None:
    track = StereoTrack(MULAW_8K)
    track.heard(pcm16_to_mulaw(TONE), 0.02)
    left, right = channels(track.take(0.02, is_end=True))
    assert left[0] == pytest.approx(1000, rel=0.05)
    assert set(right) == {0}
