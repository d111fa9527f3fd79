"""What a script is made of: checked, frozen values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property


class SlotType(StrEnum):
    TEXT = "text"
    """Anything, word for word."""
    NAME = "name"
    """A person's name; "my name is" is left out."""
    DATE = "date"
    TIME = "time"
    NUMBER = "number"
    PHONE = "phone"
    CODE = "code"
    """A number read out digit by digit, or written with letters: ``4711``, ``SKU-4471``. Unasked it is taken behind the
    slot's name: "case 4711"."""
    CHOICE = "choice"
    YES_NO = "yes_no"


@dataclass(frozen=True, slots=True)
class Condition:
    """A slot is asked for only if another one has one of these values."""

    slot: str
    values: Sequence[str]

    def holds(self, values: Mapping[str, str]) -> bool:
        return values.get(self.slot) in self.values


@dataclass(frozen=True, slots=True)
class Slot:
    """One thing the agent asks for."""

    name: str
    type: SlotType
    prompt: str
    reprompt: str
    """Said when the answer was not understood."""
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """For ``choice``: what it is called, and what else people call it. Key 1 is the first."""
    refused: str = ""
    """Said when the value was understood and cannot be had."""
    closed_on: Sequence[str] = ()
    """For ``date``: weekdays that cannot be had."""
    earliest: str = ""
    latest: str = ""
    """For ``time``: ``9:00``; inclusive."""
    when: Condition | None = None
    remember: bool = False
    """Known from before it is not asked for again, and shows in the confirmation."""
    recall: Sequence[str] = ()
    """Questions of a caller that ask for the value: "what is my name"."""
    recalled: str = ""
    """The answer to them."""


@dataclass(frozen=True, slots=True)
class Case:
    """The value of a derived name, if each of these slots has one of these values."""

    when: Mapping[str, Sequence[str]]
    value: str

    def holds(self, values: Mapping[str, str]) -> bool:
        return all(values.get(slot) in allowed for slot, allowed in self.when.items())


@dataclass(frozen=True, slots=True)
class Derived:
    """What follows from the slots' values: the first case that holds."""

    name: str
    cases: Sequence[Case]
    otherwise: str
    recall: Sequence[str] = ()
    recalled: str = ""

    def value(self, values: Mapping[str, str]) -> str:
        return next((case.value for case in self.cases if case.holds(values)), self.otherwise)


@dataclass(frozen=True)
class Intent:
    """One thing callers want."""

    name: str
    answer: str
    """Said at once, or when all slots are filled and confirmed; ``{slot}`` stands for its value."""
    keywords: Sequence[str] = ()
    examples: Sequence[str] = ()
    opening: str = ""
    """Said once, before the first question."""
    slots: Sequence[Slot] = ()
    confirm: str = ""
    """A question to be answered with yes; empty asks nothing."""
    declined: str = ""
    """Said after a no."""
    hang_up: bool = False
    """The call ends after the answer."""
    hand_over: str = ""
    """The agent that goes on from here, after ``answer``."""
    small_talk: bool = False
    """No errand: "try again" does not mean it."""
    answers_by: str = ""
    """The choice slot whose value picks the answer out of ``answers``."""
    answers: Mapping[str, str] = field(default_factory=dict)
    derived: Sequence[Derived] = ()
    fact: str = ""
    """What to remember once it is done, a sentence."""
    preference: str = ""
    """What it shows of the caller's likes, a sentence."""
    forgets: Sequence[str] = ()
    """What is known no longer once it is done."""

    @cached_property
    def named(self) -> tuple[Slot | Derived, ...]:
        return (*self.slots, *self.derived)

    @cached_property
    def slot_names(self) -> frozenset[str]:
        return frozenset(slot.name for slot in self.slots)

    def asked(self, values: Mapping[str, str]) -> list[Slot]:
        """The slots that these values ask for, in order."""
        return [slot for slot in self.slots if slot.when is None or slot.when.holds(values)]

    def whole(self, values: Mapping[str, str]) -> dict[str, str]:
        """The values that count, and what follows from them."""
        own = {slot.name: values[slot.name] for slot in self.asked(values) if slot.name in values}
        return own | {item.name: item.value(own) for item in self.derived}

    def answer_to(self, values: Mapping[str, str]) -> str:
        return self.answers.get(values.get(self.answers_by, ""), self.answer)


@dataclass(frozen=True, slots=True)
class Lines:
    """What the agent says when no intent says it."""

    help: str
    unclear: str
    anything_else: str
    give_up: str
    """Last words to a caller who cannot be understood at all."""
    fallback: str
    """The intent that takes over after ``patience`` utterances in a row that were not understood: a message."""
    farewell: str
    """The intent of "no, that is all"."""
    patience: int = 2
    ask: str = "How can I help you?"
    """Said to a "yes" or "okay" when nothing was asked."""
    handover: str = "I am sorry, I still did not get that."
    """Said before the fallback takes over."""
    no_keys: str = "Please say it, keys do not work here."
    """Said before the question, when keys were pressed that mean nothing to it."""
    go_on: str = "Let us go on."
    """Said before the question, when a form goes on that was begun earlier."""
    nothing_again: str = "There is nothing yet that I could do again."
    history: str = "This is what we talked about."
    no_history: str = "We have not talked about anything yet."
    unfinished: str = "That is not finished yet."
    noted: str = "So far I have noted:"
    """Said before what was answered in a form that is not complete."""
    known: str = "This is what I know:"
    unknown: str = "I do not know that yet."
