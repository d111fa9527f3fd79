"""What a model says a second time is left out; what it says anew is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.models.continuing import Continuing


def run(said: str, *pieces: str, is_exact: bool = False) -> str:
    continuing = Continuing(said, is_exact=is_exact)
    return "".join([*map(continuing.feed, pieces), continuing.end()])


@pytest.mark.parametrize(
    ("said", "answer", "rest"),
    [
        ("", "Hello.", "Hello."),
        ("Hello there. ", "Hello there. How are you?", "How are you?"),
        ("Hello there.", "Hello there. How are you?", " How are you?"),
        ("Hello there", "hello, there! How are you?", "! How are you?"),
        ("Your appoint", "Your appointment is on Monday", "ment is on Monday"),
        ("Your appointment is on Monday at", "is on Monday at nine.", " nine."),
        ("Your appointment is", "on Monday", " on Monday"),
        ("Your appointment is ", "on Monday", "on Monday"),
        ("Your appointment is", ", as you know, on Monday", ", as you know, on Monday"),
        ("It is. It is", "it is what it is.", " it is what it is."),
        ("We have red, and we have", "we have blue", " we have blue"),
        ("Hello there.", "Hello, friend.", " Hello, friend."),
        ("Hello there. I am", "Hello there.", ""),
        ("Straße in Köln ", "STRASSE in Köln 5", "5"),
        ("…", "Hello.", " Hello."),
    ],
)
def test_the_rest_is_what_was_not_said(said: str, answer: str, rest: str) -> None:
    assert run(said, answer) == rest
    assert run(said, *answer) == rest


def test_what_goes_on_exactly_keeps_its_spaces() -> None:
    assert run("Your appoint", "ment is", is_exact=True) == "ment is"


def test_nothing_is_held_back_that_cannot_be_a_repetition() -> None:
    continuing = Continuing("Hello there. How")
    assert continuing.feed("W") == " W"
    assert continuing.feed("e") == "e"


@given(st.text(max_size=60), st.text(max_size=60), st.integers(1, 9))
def test_an_answer_told_again_in_full_loses_no_word_of_its_rest(said: str, rest: str, size: int) -> None:
    answer = said + rest
    pieces = [answer[at : at + size] for at in range(0, len(answer), size)]
    heard = run(said, *pieces)
    assert answer.endswith(heard.removeprefix(" ")) or heard.removeprefix(" ") == ""
    assert sum(map(str.isalnum, heard)) >= sum(map(str.isalnum, rest)) - 2 * len(said)
