"""Whatever a vendor says in whatever order, what goes out keeps the port's promises."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.speech.hearing.utterances import LOST_S, LOST_WHILE_LOUD_S, WORDLESS_S, Utterances
from engine.audio.audio_clock import AudioClock
from engine.errors import BadMessage
from engine.events import Heard, SpeechStarted, SpeechStopped, TurnLikelyOver, TurnOver, TurnResumed
from tests.contract.ears import check


class Bench:
    def __init__(self, *, decides_turns: bool = True) -> None:
        self.now_s = 10.0
        clock = AudioClock()
        clock.sent(10.0, 10.0)
        self.utterances = Utterances(clock, lambda: self.now_s, decides_turns=decides_turns)

    def events(self) -> list[object]:
        return list(self.utterances.events)


def test_a_turn_from_its_first_sound_to_its_end() -> None:
    bench = Bench()
    told = bench.utterances
    told.start(8.0)
    told.interim("hello", 8.1, 8.5)
    told.interim("hello", 8.1, 8.5)
    told.likely_over()
    told.interim("hello there", 8.1, 9.0)
    told.likely_over()
    told.finish("Hello there.", 8.1, 9.0)
    assert bench.events() == [
        SpeechStarted(8.0),
        Heard("hello", is_final=False),
        TurnLikelyOver(),
        TurnResumed(),
        Heard("hello there", is_final=False),
        TurnLikelyOver(),
        SpeechStopped(9.0),
        Heard("Hello there."),
        TurnOver(),
    ]


def test_final_words_that_come_first_are_a_whole_segment() -> None:
    bench = Bench(decides_turns=False)
    bench.utterances.finish("yes", 7.0, 7.5)
    assert bench.events() == [SpeechStarted(7.0), SpeechStopped(7.5), Heard("yes")]


def test_the_end_of_nothing_is_nothing() -> None:
    bench = Bench()
    bench.utterances.finish("")
    bench.utterances.likely_over()
    bench.utterances.resumed()
    assert bench.events() == []


def test_a_sound_whose_words_never_come_is_closed_without_words() -> None:
    bench = Bench()
    bench.utterances.start(9.9)
    bench.now_s += WORDLESS_S - 0.1
    assert not bench.utterances.expire()
    bench.now_s += 0.2
    assert bench.utterances.expire()
    assert bench.events()[-1] == Heard("")
    assert not any(isinstance(event, TurnOver) for event in bench.events())


def test_words_that_are_never_said_to_be_final_are_taken_as_they_are() -> None:
    bench = Bench()
    bench.utterances.interim("my name is Ann", 8.0, 9.5)
    bench.now_s += LOST_S + 0.1
    assert bench.utterances.expire()
    assert bench.events()[-3:] == [SpeechStopped(9.5), Heard("my name is Ann"), TurnOver()]


def test_a_caller_who_goes_on_is_waited_for_much_longer() -> None:
    """There are vendors that say nothing new before a pause."""
    bench = Bench()
    bench.utterances.interim("once upon a time", 8.0, 9.5)
    while not bench.utterances.expire(is_loud=True):
        bench.now_s += 0.5
    assert bench.now_s == pytest.approx(10.0 + LOST_WHILE_LOUD_S, abs=1.1)
    assert bench.events()[-2:] == [Heard("once upon a time"), TurnOver()]


def test_nothing_is_heard_before_it_came() -> None:
    """The clock of audio may be early by a frame or two."""
    bench = Bench()
    bench.utterances.clock.sent(0.05, 10.0)
    bench.utterances.start(10.05)
    assert bench.events() == [SpeechStarted(10.0)]


def test_nobody_talks_for_a_megabyte() -> None:
    bench = Bench()
    for say in (bench.utterances.interim, bench.utterances.finish):
        with pytest.raises(BadMessage):
            say("x" * 1_000_000)
    assert bench.events() == []


POSITIONS = st.none() | st.floats(0.0, 20.0)
CALLS = st.one_of(
    st.tuples(st.just("start"), POSITIONS),
    st.tuples(st.just("interim"), st.sampled_from(["", "a", "a b", " "]), POSITIONS, POSITIONS),
    st.tuples(st.just("finish"), st.sampled_from(["", "a", "a b"]), POSITIONS, POSITIONS),
    st.tuples(st.just("likely_over")),
    st.tuples(st.just("resumed")),
    st.tuples(st.just("expire")),
)


@settings(max_examples=50)
@given(st.lists(CALLS, max_size=40), st.booleans())
def test_any_order_of_calls_keeps_the_promises(calls: list[tuple[object, ...]], decides_turns: bool) -> None:
    bench = Bench(decides_turns=decides_turns)
    for name, *arguments in calls:
        bench.now_s += 0.5
        getattr(bench.utterances, str(name))(*arguments)
    bench.now_s += 60.0
    bench.utterances.expire()
    likely = any(isinstance(event, TurnLikelyOver) for event in bench.events())
    said = [(bench.now_s, event) for event in bench.utterances.events]
    check(said, decides_turns=decides_turns or likely)
