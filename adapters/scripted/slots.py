"""The value of a slot in what a caller said. Pure; "today" is an argument."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, time

from adapters.scripted.dates import WEEKDAYS, read_when, say_date, say_time
from adapters.scripted.names import answered_name, corrected_name, stated_name
from adapters.scripted.parts import Slot, SlotType
from adapters.scripted.spoken import digits_of, is_keys, mentions_any, number_of, plain, yes_or_no

LEAST_DIGITS = 6
"""Fewer are no telephone number."""
_WRITTEN_CODE = re.compile(r"\b(?:[A-Za-z]{1,8}-?)?\d{2,}[\w-]*")
_OWN_NUMBER = re.compile(r"\b(?:number|phone|telephone|mobile|reach me|call me)\b")


@dataclass(frozen=True, slots=True)
class Value:
    """What was understood, as the agent says it back."""

    said: str
    is_refused: bool = False
    """Understood, and cannot be had."""


def read_slot(slot: Slot, text: str, today: date, *, asked: bool = True) -> Value | None:
    """None if the text does not hold such a value.

    ``asked``: the caller answers the question for this slot. Otherwise the value must show by itself what it is ("my
    name is"); plain numbers and free text never do.
    """
    if slot.type in (SlotType.DATE, SlotType.TIME):
        return _when(slot, text, today, asked=asked)
    if slot.type is SlotType.CHOICE:
        return _choice(slot, text, asked=asked)
    if slot.type is SlotType.NAME:
        return _name(text, asked=asked)
    if slot.type is SlotType.PHONE:
        return _phone(text, asked=asked)
    if slot.type is SlotType.CODE:
        return _code(slot, text, asked=asked)
    return _READERS[slot.type](text) if asked else None


def read_correction(slot: Slot, text: str) -> Value | None:
    """Of a value that was read back to the caller: ``No, Bob``."""
    name = corrected_name(text) if slot.type is SlotType.NAME else None
    return Value(name) if name else None


def _when(slot: Slot, text: str, today: date, *, asked: bool) -> Value | None:
    when = read_when(text, today, bare_hour=asked and slot.type is SlotType.TIME)
    if slot.type is SlotType.DATE:
        if when.day is None:
            return None
        return Value(say_date(when.day), is_refused=WEEKDAYS[when.day.weekday()] in slot.closed_on)
    return None if when.at is None else Value(say_time(when.at), is_refused=not _is_open(slot, when.at))


def _is_open(slot: Slot, at: time) -> bool:
    earliest, latest = (_clock(text) for text in (slot.earliest, slot.latest))
    return (earliest is None or at >= earliest) and (latest is None or at <= latest)


def _clock(text: str) -> time | None:
    """``9:00`` or ``17:30`` of a script: 24 hours, so no afternoon is guessed."""
    hour, _, minute = text.partition(":")
    return time(int(hour), int(minute)) if minute else None


def _choice(slot: Slot, text: str, *, asked: bool) -> Value | None:
    if asked and is_keys(text):
        key = int(digits_of(plain(text)) or 0)
        return Value(list(slot.choices)[key - 1]) if 1 <= key <= len(slot.choices) else None
    said = plain(text)
    names = (name for name, others in slot.choices.items() if mentions_any(said, (name, *others)))
    return next(map(Value, names), None)


def _name(text: str, *, asked: bool) -> Value | None:
    name = answered_name(text) if asked else stated_name(text)
    return Value(name) if name else None


def _read_out(digits: str) -> str:
    """In groups of three and a last of up to four, each digit for itself: it is said, not shown."""
    groups = []
    while len(digits) > 4:
        groups.append(digits[:3])
        digits = digits[3:]
    return ", ".join(" ".join(group) for group in [*groups, digits])


def _phone(text: str, *, asked: bool) -> Value | None:
    said = plain(text)
    if not (asked or is_keys(text) or _OWN_NUMBER.search(said)):
        return None
    digits = digits_of(said)
    return Value(_read_out(digits)) if len(digits) >= LEAST_DIGITS else None


def _code(slot: Slot, text: str, *, asked: bool) -> Value | None:
    if not asked:
        label = rf"\b{re.escape(slot.name)}(?: number| no)?(?: is)?[ .:#]+"
        found = re.search(label, text, re.IGNORECASE)
        text = text[found.end() :] if found else ""
        first = plain(text).split()[:1]
        if not first or not (digits_of(first[0]) or _WRITTEN_CODE.match(text)):
            return None
    written = _WRITTEN_CODE.search(text)
    said = plain(text)
    is_number = not {"hundred", "thousand"}.isdisjoint(said.split())
    code = written.group().upper() if written else str(number_of(said) or "") if is_number else digits_of(said)
    return Value(code) if code else None


def _number(text: str) -> Value | None:
    number = number_of(plain(text))
    return None if number is None else Value(str(number))


def _yes_no(text: str) -> Value | None:
    answer = yes_or_no(plain(text))
    return None if answer is None else Value("yes" if answer else "no")


def _text(text: str) -> Value | None:
    return Value(text.strip().rstrip(".")) if plain(text) else None


_READERS: Mapping[SlotType, Callable[[str], Value | None]] = {
    SlotType.TEXT: _text,
    SlotType.NUMBER: _number,
    SlotType.YES_NO: _yes_no,
}
