"""Places in a vendor's audio, on the engine's clock."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.audio.audio_clock import SLACK_S, AudioClock

FRAME = 0.02


def steady(clock: AudioClock, from_s: float, seconds: float) -> float:
    """Frames of 20 ms as they are spoken, the first of them from ``from_s``; when the last had come."""
    for number in range(1, round(seconds / FRAME) + 1):
        clock.sent(FRAME, from_s + number * FRAME)
    return from_s + seconds


def test_audio_that_comes_as_it_is_spoken_has_the_time_it_was_spoken_at() -> None:
    clock = AudioClock()
    steady(clock, 100.0, 5.0)
    assert clock.position_s == pytest.approx(5.0)
    for place in (0.0, 1.23, 5.0):
        assert clock.time_of(place) == pytest.approx(100.0 + place)


def test_a_line_that_was_silent_for_a_while_has_a_gap() -> None:
    clock = AudioClock()
    end_s = steady(clock, 100.0, 1.0)
    steady(clock, end_s + 30.0, 1.0)
    assert clock.time_of(0.9) == pytest.approx(100.9)
    assert clock.time_of(1.5) == pytest.approx(131.5)


def test_what_was_held_up_and_comes_all_at_once_is_not_in_the_future() -> None:
    clock = AudioClock()
    steady(clock, 100.0, 1.0)
    for _ in range(10):
        clock.sent(FRAME, 101.2)  # held up, then all at once
    assert clock.time_of(1.1) <= 101.2 + SLACK_S
    assert clock.time_of(1.2) == pytest.approx(101.2, abs=0.06)
    assert clock.time_of(99.0) <= 101.2 + SLACK_S


def test_what_was_dropped_was_never_there() -> None:
    """The vendor counts only what it got: half a second is missing, two seconds before the end."""
    clock = AudioClock()
    steady(clock, 100.0, 10.0)
    clock.dropped(0.5, behind_s=2.0)
    assert clock.position_s == pytest.approx(9.5)
    assert clock.time_of(9.5) == pytest.approx(110.0)
    assert clock.time_of(8.0) == pytest.approx(108.5)
    assert clock.time_of(7.0) == pytest.approx(107.0)


@given(
    st.lists(
        st.tuples(st.sampled_from(["send", "wait", "drop"]), st.floats(0.0, 3.0)),
        max_size=60,
    )
)
def test_times_never_go_backwards_nor_beyond_now(steps: list[tuple[str, float]]) -> None:
    clock, now_s = AudioClock(), 50.0
    for step, amount in steps:
        if step == "send":
            now_s += amount
            clock.sent(amount, now_s)
        elif step == "wait":
            now_s += amount
        elif clock.position_s > 0:
            behind_s = min(amount, clock.position_s / 2)
            clock.dropped(min(0.5, clock.position_s - behind_s), behind_s)
    places = [clock.position_s * part / 20 for part in range(21)]
    times = [clock.time_of(place) for place in places]
    assert all(time <= now_s + SLACK_S + 1e-6 for time in times)
    assert all(later >= earlier - SLACK_S - 1e-6 for earlier, later in itertools.pairwise(times))
