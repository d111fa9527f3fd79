"""What reaches the ear, and when: the buffer of a provider, emptied at the speed of the line."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.events import MULAW_8K
from engine.phone.ear import Ear
from tests.fakes.plain_speech import noise

SECOND = noise(1.0, MULAW_8K)


def heard_s(ear: Ear, now: float) -> float:
    return sum(MULAW_8K.duration_s(audio) for _, audio in ear.heard(now))


def test_audio_is_played_in_order_at_the_speed_of_the_line() -> None:
    ear = Ear(MULAW_8K)
    ear.queue(SECOND, 10.0)
    ear.queue(SECOND, 10.1)

    assert [start_s for start_s, _ in ear.heard(13.0)] == [10.0, 11.0]
    assert heard_s(ear, 11.5) == pytest.approx(1.5)
    assert ear.remaining_s(11.5) == pytest.approx(0.5)


def test_a_mark_is_due_when_everything_before_it_has_been_played_and_at_once_when_there_is_nothing() -> None:
    ear = Ear(MULAW_8K)
    ear.mark("first")
    assert ear.due_marks(5.0) == ["first"]

    ear.queue(SECOND, 5.0)
    ear.mark("second")
    ear.queue(SECOND, 5.0)
    ear.mark("third")
    assert ear.due_marks(5.99) == []
    assert ear.due_marks(6.0) == ["second"]
    assert ear.due_marks(7.0) == ["third"]


def test_clear_drops_what_has_not_begun_and_gives_the_pending_marks() -> None:
    ear = Ear(MULAW_8K)
    ear.queue(SECOND * 5, 0.0)
    ear.mark("end")

    assert ear.clear(1.005) == ["end"]
    assert heard_s(ear, 10.0) == pytest.approx(1.02)
    assert ear.stretches[-1].end_s == pytest.approx(1.02)
    assert ear.due_marks(10.0) == []


def test_a_gap_is_counted_inside_a_say_and_not_between_two() -> None:
    ear = Ear(MULAW_8K)
    ear.queue(SECOND, 0.0)
    ear.queue(SECOND, 1.1)  # 100 ms late
    ear.queue(SECOND, 2.105)  # 5 ms late: inaudible
    ear.queue(SECOND, 9.0)  # something new
    ear.clear(9.5)
    ear.queue(SECOND, 9.6)  # after a clear
    ear.caller_spoke()
    ear.queue(SECOND, 10.7)  # an answer

    assert [(gap.at_s, round(gap.length_s, 3)) for gap in ear.gaps] == [(1.0, 0.1)]


def test_an_answer_is_what_came_in_after_the_callers_last_sound() -> None:
    ear = Ear(MULAW_8K)
    ear.queue(SECOND, 0.0)
    ear.queue(MULAW_8K.silence(0.1) + SECOND, 0.5)

    assert ear.next_sound_s(0.2) == pytest.approx(1.1)
    assert ear.next_sound_s(0.6) is None


def test_without_recording_old_audio_is_forgotten_and_clear_is_as_exact() -> None:
    ear = Ear(MULAW_8K, record=False)
    for second in range(100):
        ear.queue(SECOND, float(second))
    assert len(ear._pieces) <= 2
    ear.clear(99.505)
    assert ear.stretches[-1].end_s == pytest.approx(99.52)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("qcm"), st.floats(0.0, 2.0), st.integers(1, 100)), max_size=30))
def test_no_more_is_heard_than_time_has_passed_and_nothing_twice(
    steps: list[tuple[str, float, int]],
) -> None:
    ear, now, queued_s, heard_before_s = Ear(MULAW_8K), 0.0, 0.0, 0.0
    for what, wait_s, frames in steps:
        now += wait_s
        if what == "q":
            ear.queue(noise(frames * 0.02, MULAW_8K), now)
            queued_s += frames * 0.02
        elif what == "c":
            ear.clear(now)
        else:
            ear.mark("m")
        heard_now_s = heard_s(ear, now)
        assert heard_before_s <= heard_now_s + 1e-6 <= min(now, queued_s) + 0.02 + 1e-5
        heard_before_s = heard_now_s
    ends_s = [(piece.start_s, piece.start_s + MULAW_8K.duration_s(piece.audio)) for piece in ear._pieces]
    assert all(end_s <= start_s + 1e-6 for (_, end_s), (start_s, _) in pairwise(ends_s))
