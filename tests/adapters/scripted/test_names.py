"""What is a person's name, and what is not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.scripted.names import answered_name, corrected_name, stated_name


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("John Smith.", "John Smith"),
        ("john", "John"),
        ("My name is Peter Jones.", "Peter Jones"),
        ("Yes, it's Anna Miller, please.", "Anna Miller"),
        ("Well, I'm Will May.", "Will May"),
        ("It is O\u2019Brien.", "O'Brien"),
        ("Dr. Jones", "Dr Jones"),
        ("John F. Kennedy", "John F Kennedy"),
        ("My name is Peter Jones and I want to cancel.", "Peter Jones"),
        ("Peter Jones speaking.", "Peter Jones"),
        ("Peter Jones, Tuesday at ten", "Peter Jones"),
        ("Please put it under Doris Day.", "Doris Day"),
        ("José Núñez", "José Núñez"),
        ("April Noah Jones-Nolan", "April Noah Jones-Nolan"),
    ],
)
def test_a_name_is_found_in_the_answer(said: str, name: str) -> None:
    assert answered_name(said) == name


@pytest.mark.parametrize(
    "said",
    [
        "Yes please cancel it", "Tuesday", "no idea", "My number is 555 1234", "5551234", "Yes.", "Okay, great.",
        "No.", "I don't know", "I\u2019m not sure", "Goodbye", "What?", "Is it free?", "half past ten", "my name is",
        "A cleaning.", "never mind, I want to keep it", "Just a moment", "eleven", "R2D2", "...", "", "_",
        "one two three four five six",
    ],
)  # fmt: skip
def test_what_is_no_name_is_refused(said: str) -> None:
    assert answered_name(said) is None


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("My name is Peter Jones", "Peter Jones"),
        ("I want to cancel, my name's Peter Jones, on Monday", "Peter Jones"),
        ("My name is, Peter.", "Peter"),
        ("The name is wrong", None),
        ("What is your name?", None),
        ("I am Peter", None),
        ("It's urgent", None),
    ],
)
def test_only_what_is_called_a_name_is_one_unasked(said: str, name: str | None) -> None:
    assert stated_name(said) == name


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("No, Bob.", "Bob"),
        ("It's Bob Miller.", "Bob Miller"),
        ("No, the name is Bob", "Bob"),
        ("Sorry, it's Bob, not Tuesday", "Bob"),
        ("Bob", None),
        ("Yes", None),
        ("No, thank you.", None),
        ("No, stop.", None),
        ("No, later", None),
        ("no, earlier please", None),
        ("It's fine", None),
        ("It's a cleaning", None),
        ("It's Friday", None),
        ("That's it.", None),
        ("No, at eleven.", None),
    ],
)
def test_a_name_read_back_wrong_is_corrected(said: str, name: str | None) -> None:
    assert corrected_name(said) == name


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60))
def test_nothing_a_stranger_says_raises(text: str) -> None:
    for read in (answered_name, stated_name, corrected_name):
        assert read(text) != ""
        read(f"No, my name is {text}")
