"""What counts as the answer that was wanted."""

from __future__ import annotations

import pytest

from engine.converse.judge import faults, holds
from engine.converse.report import Exchange
from engine.converse.script import Turn
from engine.events import Memory, MemoryItem, MemoryKind, Modality


def exchange(answer: str = "On Tuesday, at half past ten.", memory: Memory | None = None) -> Exchange:
    return Exchange(
        1, Modality.TEXT, "When?", answer=answer, agent="desk", memory=memory or Memory(), shown=[("user", "I am Anna")]
    )


@pytest.mark.parametrize(
    ("wanted", "is_there"),
    [
        ("tuesday at half", True),
        ("half-past", True),
        ("Tues", False),
        ("ten half", False),
        ("/tues.*TEN/", True),
        ("/monday/", False),
        ("/", False),
    ],
)
def test_words_must_be_whole_and_in_order_and_patterns_are_searched(wanted: str, is_there: bool) -> None:
    assert holds("On Tuesday, at half past ten.", wanted) is is_there


def test_every_fault_is_told() -> None:
    turn = Turn(say="When?", expect=("Tuesday", "Monday"), expect_not="half past", agent="sales")
    assert list(faults(turn, exchange())) == [
        "'Monday' is not in the answer",
        "'half past' is in the answer",
        "answered by desk, expected sales",
    ]
    assert list(faults(Turn(say="When?"), exchange(""))) == ["no answer"]


def test_the_greeting_is_judged_too() -> None:
    turn = Turn(say="When?", greeting="welcome back", greeting_not="how can I help")
    answered = exchange()
    answered.greeting = "Hello. How can I help you?"
    assert list(faults(turn, answered)) == [
        "'welcome back' is not in the greeting",
        "'how can I help' is in the greeting",
    ]


@pytest.mark.parametrize("wanted", ["Anna", "seven", "tea", "check-up"])
def test_remembered_is_what_the_model_was_shown_or_what_the_memory_holds(wanted: str) -> None:
    memory = Memory("Wants a check-up.", {"day": "the seventh"}, (MemoryItem(MemoryKind.FACT, "drinks tea"),))
    found = list(faults(Turn(say="?", remembers=wanted), exchange(memory=memory)))
    assert found == ([] if wanted != "seven" else ["'seven' is not remembered"])


def test_an_entity_is_remembered_under_its_name() -> None:
    turn = Turn(say="?", remembers={"name": "Anna", "day": "Tuesday", "time": "ten"})
    memory = Memory(entities={"name": "Anna Miller", "day": "Monday"})
    assert list(faults(turn, exchange(memory=memory))) == [
        "day is remembered as 'Monday', expected 'Tuesday'",
        "time is not remembered",
    ]
