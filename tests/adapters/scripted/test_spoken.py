"""Words, digits, yes and no."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.scripted.spoken import digits_of, mentions, number_of, plain, yes_or_no


def test_plain_text_is_the_same_however_the_recogniser_spells_it() -> None:
    assert plain("I'd like 10:30 a.m., good-bye!") == "i would like 10:30 am goodbye"
    assert plain("Good-by.") == plain("Goodbye") == plain("good bye")


@pytest.mark.parametrize("said", ["a checkup", "A check-up,", "two check ups", "check-ups please"])
def test_a_compound_is_found_in_one_word_or_two(said: str) -> None:
    assert mentions(plain(said), "check-up")


def test_a_word_inside_another_is_not_mentioned() -> None:
    assert not mentions(plain("I am booked into a bookshop"), "shop")
    assert mentions(plain("is it booked"), "book")


@pytest.mark.parametrize(
    ("said", "digits"),
    [
        ("oh two double five", "0255"),
        ("five, five, five, one, two, three, four", "5551234"),
        ("555-1234.", "5551234"),
        ("forty two seventeen", "4217"),
        ("1 2 3", "123"),
        ("my number is triple seven", "777"),
        ("no number here", ""),
    ],
)
def test_a_number_read_out_becomes_its_digits(said: str, digits: str) -> None:
    assert digits_of(plain(said)) == digits


@pytest.mark.parametrize(
    ("said", "number"),
    [("two hundred and five please", 205), ("12", 12), ("three thousand four hundred", 3400), ("none", None)],
)
def test_a_number_in_words_becomes_a_number(said: str, number: int | None) -> None:
    assert number_of(plain(said)) == number


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("Yes, please.", True),
        ("That's right", True),
        ("No, that is not right", False),
        ("I don't think so", False),
        ("1", True),
        ("2", False),
        ("Tuesday", None),
    ],
)
def test_yes_and_no(said: str, meant: bool | None) -> None:
    assert yes_or_no(plain(said)) is meant


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60))
def test_nothing_a_stranger_says_raises(text: str) -> None:
    said = plain(text)
    digits_of(said)
    number_of(said)
    yes_or_no(said)
    assert plain(said) == said
