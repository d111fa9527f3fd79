"""Probabilities to starts, pauses and stops; one letter a frame of 32 ms: V voice, . silence, f faint voice."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.speech.hearing.segments import FRAME_SAMPLES, Change, Hearing, Segmenter

LOUD, FAINT = 5000, 50


def changes(frames: str, segmenter: Segmenter | None = None) -> list[tuple[int, Change]]:
    """What changed, and at which frame."""
    segmenter = segmenter or Segmenter()
    heard = []
    for number, frame in enumerate(frames):
        change = segmenter.feed(0.05 if frame == "." else 0.9, FAINT if frame == "f" else LOUD)
        if change is not None:
            heard.append((number, change))
    return heard


@pytest.mark.parametrize("frames", ["V......", "VV.....", "VVV....", "V..V..V..V..VV..", ".V.....VV...."])
def test_clicks_are_no_speech(frames: str) -> None:
    assert changes(frames) == []


def test_speech_starts_after_an_eighth_of_a_second_and_says_since_when() -> None:
    segmenter = Segmenter()
    assert changes("..VVVV", segmenter) == [(5, Change.STARTED)]
    assert segmenter.started_at == 2 * FRAME_SAMPLES


def test_one_quiet_frame_in_the_onset_is_a_consonant() -> None:
    segmenter = Segmenter()
    assert changes("V.VVV", segmenter) == [(4, Change.STARTED)]
    assert segmenter.started_at == 0


def test_speech_pauses_then_stops_and_says_where_its_sound_ended() -> None:
    segmenter = Segmenter()
    frames = "VVVVVV" + "." * 12
    assert changes(frames, segmenter) == [(3, Change.STARTED), (9, Change.PAUSED), (14, Change.STOPPED)]
    assert segmenter.voiced_until == 6 * FRAME_SAMPLES
    assert segmenter.voiced_frames == 6


def test_speech_after_a_pause_goes_on() -> None:
    assert [change for _, change in changes("VVVV....VVV" + "." * 12)] == [
        Change.STARTED,
        Change.PAUSED,
        Change.RESUMED,
        Change.PAUSED,
        Change.STOPPED,
    ]


def test_what_is_35_db_fainter_than_the_speech_is_its_echo() -> None:
    assert [change for _, change in changes("VVVVVV" + "f" * 9)][-1] is Change.STOPPED


def test_a_quiet_speaker_is_heard_all_the_same() -> None:
    """Faint is measured against the speech itself, never against a full scale."""
    segmenter = Segmenter()
    heard = [segmenter.feed(0.9, FAINT) for _ in range(20)]
    assert [change for change in heard if change] == [Change.STARTED]


def test_endless_speech_is_cut_and_starts_again() -> None:
    segmenter = Segmenter(Hearing(longest_s=1.0))
    kinds = [change for _, change in changes("V" * 80, segmenter)]
    assert kinds == [Change.STARTED, Change.STOPPED, Change.STARTED, Change.STOPPED, Change.STARTED]


def test_audio_that_was_never_judged_still_counts_as_time() -> None:
    segmenter = Segmenter()
    segmenter.skip(8000)
    changes("VVVV", segmenter)
    assert segmenter.started_at == 8000


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 32768)), max_size=120))
def test_starts_and_stops_alternate_whatever_is_heard(frames: list[tuple[float, int]]) -> None:
    segmenter = Segmenter(Hearing(longest_s=1.0))
    is_speech = is_pause = False
    for probability, level in frames:
        match segmenter.feed(probability, level):
            case Change.STARTED:
                assert not is_speech
                is_speech, is_pause = True, False
            case Change.PAUSED:
                assert is_speech
                assert not is_pause
                is_pause = True
            case Change.RESUMED:
                assert is_pause
                is_pause = False
            case Change.STOPPED:
                assert is_speech
                is_speech = False
        assert segmenter.is_speech is is_speech
        assert segmenter.started_at <= segmenter.position
