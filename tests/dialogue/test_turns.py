"""When the caller's turn is over."""

from __future__ import annotations

import math

import pytest

from engine.dialogue.turns import Endpointing, TurnTaker
from engine.events import Dtmf, Heard, SpeechStarted, SpeechStopped

WAITS = Endpointing(finished_s=0.4, unfinished_s=1.2, digits_s=2.0, lost_words_s=5.0)


def taker_after(text: str, *, stopped_at_s: float = 10.0) -> TurnTaker:
    turns = TurnTaker(WAITS)
    turns.on_speech(SpeechStarted(9.0))
    turns.on_speech(SpeechStopped(stopped_at_s))
    turns.on_speech(Heard(text))
    return turns


def test_a_finished_sentence_ends_the_turn_soon_after_its_last_sound() -> None:
    turns = taker_after("What are your opening hours?")
    assert turns.due_at_s() == 10.4
    turn = turns.take()
    assert turn is not None
    assert (turn.text, turn.ended_at_s) == ("What are your opening hours?", 10.0)


@pytest.mark.parametrize("text", ["I would like to", "My number is.", "It is for Anna and", "Tuesday,", "um"])
def test_words_that_look_unfinished_are_given_more_time(text: str) -> None:
    assert taker_after(text).due_at_s() == 11.2


def test_no_turn_is_due_while_the_caller_speaks() -> None:
    turns = taker_after("I would like an appointment.")
    turns.on_speech(SpeechStarted(10.2))
    assert turns.due_at_s() == math.inf


def test_speech_that_goes_on_after_a_pause_joins_the_turn() -> None:
    turns = taker_after("I would like to")
    turns.on_speech(SpeechStarted(10.8))
    turns.on_speech(SpeechStopped(12.0))
    turns.on_speech(Heard("book an appointment"))
    turn = turns.take()
    assert turn is not None
    assert turn.text == "I would like to book an appointment"


def test_a_sound_without_words_is_no_turn() -> None:
    turns = taker_after("")
    assert turns.due_at_s() == math.inf
    assert turns.take() is None


def test_words_that_never_come_are_not_waited_for_forever() -> None:
    turns = TurnTaker(WAITS)
    turns.on_speech(SpeechStarted(9.0))
    turns.on_speech(SpeechStopped(10.0))
    assert turns.due_at_s() == 15.0
    assert turns.take() is None
    assert turns.due_at_s() == math.inf


def test_keys_are_collected_until_the_hash_or_a_pause() -> None:
    turns = TurnTaker(WAITS)
    turns.on_digit(Dtmf("4"), 1.0)
    turns.on_digit(Dtmf("2"), 1.5)
    assert turns.due_at_s() == 3.5
    turns.on_digit(Dtmf("#"), 2.0)
    assert turns.due_at_s() == 2.0
    turn = turns.take()
    assert turn is not None
    assert turn.text == "42"


def test_an_interim_result_changes_nothing() -> None:
    turns = TurnTaker(WAITS)
    turns.on_speech(SpeechStarted(1.0))
    turns.on_speech(Heard("hel", is_final=False))
    assert turns.is_waiting_for_words
    assert turns.due_at_s() == math.inf
