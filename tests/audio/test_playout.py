"""What the caller has heard, by arithmetic: checked by hand and against a slow, obvious model."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from engine.audio.playout import GIVE_UP_S, MAX_MARKS, PlayoutClock


def test_audio_plays_from_the_moment_it_is_queued() -> None:
    clock = PlayoutClock()
    clock.queue(1.0, now=100.0)
    assert clock.heard(100.4) == pytest.approx(0.4)
    assert clock.remaining(100.4) == pytest.approx(0.6)
    assert clock.heard(105.0) == 1.0


def test_a_pause_between_two_pieces_is_not_counted_as_heard() -> None:
    clock = PlayoutClock()
    clock.queue(1.0, now=0.0)
    clock.queue(1.0, now=5.0)
    assert clock.heard(5.5) == pytest.approx(1.5)


def test_what_a_clear_drops_is_never_counted() -> None:
    clock = PlayoutClock()
    clock.queue(10.0, now=0.0)
    clock.clear(now=2.0)
    assert clock.remaining(2.0) == 0
    assert clock.heard(60.0) == pytest.approx(2.0)
    clock.queue(1.0, now=60.0)
    assert clock.heard(70.0) == pytest.approx(3.0)


def test_a_mark_confirms_all_that_was_queued_before_it_and_nothing_more() -> None:
    clock = PlayoutClock()
    clock.queue(2.0, now=0.0)
    clock.mark("m", now=0.0)
    clock.queue(2.0, now=0.0)
    assert clock.confirm("m", now=1.0)
    assert clock.heard(1.0) == pytest.approx(2.0)
    assert clock.remaining(1.0) == pytest.approx(2.0)


def test_a_late_mark_never_moves_the_clock_back() -> None:
    clock = PlayoutClock()
    clock.queue(1.0, now=0.0)
    clock.mark("m", now=0.0)
    clock.queue(1.0, now=0.0)
    assert clock.heard(1.8) == pytest.approx(1.8)
    assert clock.confirm("m", now=1.8)
    assert clock.heard(1.8) == pytest.approx(1.8)


def test_a_mark_from_before_a_clear_confirms_nothing() -> None:
    clock = PlayoutClock()
    clock.queue(5.0, now=0.0)
    clock.mark("m", now=0.0)
    clock.clear(now=1.0)
    assert not clock.waits_for_marks
    assert not clock.confirm("m", now=1.1)
    assert clock.heard(1.1) == pytest.approx(1.0)


def test_an_unknown_mark_confirms_nothing() -> None:
    clock = PlayoutClock()
    clock.queue(5.0, now=0.0)
    assert not clock.confirm("never sent", now=1.0)
    assert clock.heard(1.0) == pytest.approx(1.0)


def test_a_missing_mark_is_given_up_two_seconds_after_its_audio() -> None:
    clock = PlayoutClock()
    clock.queue(3.0, now=10.0)
    clock.mark("m", now=10.0)
    assert clock.overdue(13.0 + GIVE_UP_S - 0.001) is None
    assert clock.overdue(13.0 + GIVE_UP_S) == "m"
    assert clock.overdue(99.0) is None
    assert not clock.confirm("m", now=99.0)


def test_ten_thousand_marks_are_not_all_waited_for() -> None:
    clock = PlayoutClock()
    for number in range(10_000):
        clock.mark(str(number), now=0.0)
    assert not clock.confirm(str(9_999 - MAX_MARKS), now=0.0)
    assert clock.confirm("9999", now=0.0)


def test_a_clock_that_seems_to_run_backwards_changes_nothing() -> None:
    clock = PlayoutClock()
    clock.queue(5.0, now=10.0)
    assert clock.heard(12.0) == pytest.approx(2.0)
    assert clock.heard(11.0) == pytest.approx(2.0)
    assert clock.heard(13.0) == pytest.approx(3.0)


class Playing(RuleBasedStateMachine):
    """The clock against a model that plays frame by frame: whole milliseconds, a list of what waits."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = PlayoutClock()
        self.now_ms = 0
        self.heard_ms = 0
        self.waiting_ms = 0
        self.marks: list[tuple[str, int]] = []  # name, audio that must be heard before it
        self.names = 0
        self.shown_s = 0.0

    @property
    def now(self) -> float:
        return self.now_ms / 1000

    @rule(ms=st.integers(0, 5000))
    def time_passes(self, ms: int) -> None:
        self.now_ms += ms
        played = min(ms, self.waiting_ms)
        self.waiting_ms -= played
        self.heard_ms += played

    @rule(ms=st.integers(0, 3000))
    def audio_is_queued(self, ms: int) -> None:
        self.clock.queue(ms / 1000, self.now)
        self.waiting_ms += ms

    @rule()
    def all_is_cleared(self) -> None:
        self.clock.clear(self.now)
        self.waiting_ms = 0
        self.marks.clear()

    @rule()
    def a_mark_is_sent(self) -> None:
        self.names += 1
        self.clock.mark(str(self.names), self.now)
        self.marks.append((str(self.names), self.heard_ms + self.waiting_ms))

    @rule()
    def the_next_mark_comes_back(self) -> None:
        if not self.marks:
            return
        name, position_ms = self.marks.pop(0)
        assert self.clock.confirm(name, self.now)
        ahead = max(0, position_ms - self.heard_ms)
        self.heard_ms += ahead
        self.waiting_ms -= ahead

    @rule(name=st.text(max_size=3))
    def a_stale_or_invented_mark_comes(self, name: str) -> None:
        assert not self.clock.confirm(f"?{name}", self.now)

    @invariant()
    def both_agree(self) -> None:
        assert self.clock.heard(self.now) == pytest.approx(self.heard_ms / 1000, abs=1e-6)
        assert self.clock.remaining(self.now) == pytest.approx(self.waiting_ms / 1000, abs=1e-6)

    @invariant()
    def what_was_heard_only_grows(self) -> None:
        heard = self.clock.heard(self.now)
        assert heard >= self.shown_s
        self.shown_s = heard


TestPlaying = Playing.TestCase
TestPlaying.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
