"""Where a sentence that broke off is taken up again."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.vendors.seam import Pace, rest_of

TEXT = "We could do Tuesday at 10:30, or Wednesday at noon."


def known(text: str = "A sentence of some forty letters in all.", seconds: float = 2.0) -> Pace:
    pace = Pace()
    pace.measure(text, seconds)
    return pace


@pytest.mark.parametrize(
    ("seconds", "rest"),
    [
        (0.0, TEXT),
        (0.1, TEXT),
        (0.6, "do Tuesday at 10:30, or Wednesday at noon."),
        (2.0, "10:30, or Wednesday at noon."),
        (9.0, "noon."),
    ],
)
def test_a_sentence_goes_on_with_the_word_that_was_certainly_begun(seconds: float, rest: str) -> None:
    assert rest_of(TEXT, seconds, known()) == rest


def test_digits_take_as_long_as_their_words() -> None:
    assert rest_of("Call 5550199 now, please.", 1.5, known()) == "5550199 now, please."


def test_the_slowest_that_a_voice_was_is_what_counts_and_short_words_say_nothing() -> None:
    pace = known()
    fast = pace.least
    pace.measure("Yes.", 2.0)
    pace.measure("A sentence of some forty letters in all.", 1.0)
    assert pace.least == fast
    pace.measure("A sentence of some forty letters in all.", 3.0)
    assert pace.least < fast


@settings(max_examples=40, deadline=None)
@given(st.text(st.sampled_from("ab 1,."), max_size=60), st.floats(0.5, 1.0), st.floats(8.0, 30.0), st.floats(0, 1))
def test_no_word_is_lost_whatever_the_pace_varies_by(text: str, slower: float, per_s: float, share: float) -> None:
    """A voice that reads this sentence up to a tenth slower than any before, cut off anywhere in it."""
    measured = "a" * 40
    pace = known(measured, len(measured) / per_s)
    cut = int(share * len(text))
    weight = sum(5.0 if char.isdigit() else 1.0 for char in text[:cut])
    seconds = weight / (per_s * max(0.9, slower))
    said_before = text[: len(text) - len(rest_of(text, seconds * 0.999, pace))]
    assert text[:cut].startswith(said_before.rstrip())
