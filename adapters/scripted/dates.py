"""Dates and times as people say them on the telephone. Pure; "today" is an argument.

Reads what the usual words mean and gives None for the rest: better asked again than guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, time, timedelta

from adapters.scripted.spoken import TENS, UNITS, plain

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_ORDINAL_WORDS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh",
    "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth", "eighteenth", "nineteenth",
    "twentieth",
)  # fmt: skip
_ORDINALS = {word: value for value, word in enumerate(_ORDINAL_WORDS, 1)} | {"thirtieth": 30}

_MONTH = "|".join(MONTHS)
_WEEKDAY = "|".join(WEEKDAYS)
_NOT_THEN = re.compile(
    r"(?<!why )\b(?:not|cannot|instead of|rather than)(?: (?:want|like|do|come|make))?(?: it| that)?(?: on| for)? "
    rf"(?:next )?(?:{_WEEKDAY}|tomorrow|today)\b"
)
"""A day that is named to be ruled out: "I can't do Monday, Tuesday is better"."""
_OFFICE_HOURS = range(1, 7)
"""Without a.m. or p.m., one to six is meant in the afternoon."""


@dataclass(frozen=True, slots=True)
class When:
    day: date | None = None
    at: time | None = None


def read_when(text: str, today: date, *, bare_hour: bool = False) -> When:
    """The day and the time of day in what was said, each None if it was not said.

    ``bare_hour``: a lone number is an hour, because an hour was asked for.
    """
    said = _NOT_THEN.sub(" ", _numbered(plain(text)))
    day, rest = _take_day(said, today)
    return When(day, _read_time(rest, bare_hour=bare_hour))


def say_date(day: date) -> str:
    """As it is said: ``Tuesday, November 24th``."""
    ending = "th" if day.day in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(day.day % 10, "th")
    return f"{WEEKDAYS[day.weekday()].title()}, {MONTHS[day.month - 1].title()} {day.day}{ending}"


def say_time(at: time) -> str:
    """As it is said: ``10:30 AM``, ``3 PM``, ``noon``."""
    if at == time(12, 0):
        return "noon"
    minutes = f":{at.minute:02}" if at.minute else ""
    return f"{(at.hour - 1) % 12 + 1}{minutes} {'AM' if at.hour < 12 else 'PM'}"


# --- words to numbers ---------------------------------------------------------------------------------------


def _numbered(said: str) -> str:
    """Number words as figures: ``the twenty first of may at ten thirty`` is ``the 21th of may at 10 30``."""
    out: list[str] = []
    tens = 0
    for word in said.split():
        unit, ordinal = UNITS.get(word), _ORDINALS.get(word)
        if tens and (1 <= (unit or 0) <= 9 or 1 <= (ordinal or 0) <= 9):
            out[-1] = str(tens + unit) if unit else f"{tens + (ordinal or 0)}th"
        elif word in TENS or unit is not None:
            out.append(str(TENS.get(word, unit)))
        elif ordinal is not None:
            out.append(f"{ordinal}th")
        else:
            out.append(re.sub(r"^(\d{1,2})(?:st|nd|rd)$", r"\1th", word))
        tens = TENS.get(word, 0)
    # "a second" and "may" as a verb are rare where a date is asked for; "a" and "an" before a unit are one.
    return re.sub(r"\b(?:a|an) (?=day|week)", "1 ", " ".join(out))


# --- days ---------------------------------------------------------------------------------------------------


def _take_day(said: str, today: date) -> tuple[date | None, str]:
    """The day, and what was said without the words that told it."""
    for pattern, read in _DAYS:
        if found := pattern.search(said):
            return read(found, today), f"{said[: found.start()]} {said[found.end() :]}"
    return None, said


def _relative(found: re.Match[str], today: date) -> date:
    word = found.group()
    if word == "day after tomorrow":
        return today + timedelta(2)
    return today + timedelta(1 if word == "tomorrow" else 0)


def _in_days(found: re.Match[str], today: date) -> date:
    return today + timedelta(int(found["count"]) * (7 if found["unit"] == "week" else 1))


def _weekday(found: re.Match[str], today: date) -> date:
    """The coming one, today's in a week; with "next" that of the next week, which begins on Monday."""
    weekday = WEEKDAYS.index(found["day"])
    if found["before"] or found["after"]:
        return today + timedelta(7 - today.weekday() + weekday)
    return today + timedelta((weekday - today.weekday() - 1) % 7 + 1)


def _month_day(found: re.Match[str], today: date) -> date | None:
    month = MONTHS.index(found["month"]) + 1
    return _first_valid([(year, month, int(found["day"])) for year in (today.year, today.year + 1)], today)


def _day_of_month(found: re.Match[str], today: date) -> date | None:
    months = [divmod(today.year * 12 + today.month - 1 + ahead, 12) for ahead in range(3)]
    return _first_valid([(year, month + 1, int(found["day"])) for year, month in months], today)


def _first_valid(candidates: list[tuple[int, int, int]], today: date) -> date | None:
    """The first that exists and is not past."""
    for year, month, number in candidates:
        try:
            day = date(year, month, number)
        except ValueError:
            continue
        if day >= today:
            return day
    return None


_DAYS = (
    (re.compile(r"\bday after tomorrow\b|\btomorrow\b|\btoday\b"), _relative),
    (re.compile(r"\bin (?P<count>\d{1,2}) (?P<unit>day|week)s?\b"), _in_days),
    (re.compile(rf"\b(?P<day>\d{{1,2}})(?:th)? (?:day )?(?:of )?(?P<month>{_MONTH})\b"), _month_day),
    (re.compile(rf"\b(?P<month>{_MONTH}) (?:the )?(?P<day>\d{{1,2}})(?:th)?\b"), _month_day),
    (re.compile(rf"\b(?P<before>next )?(?P<day>{_WEEKDAY})(?P<after> (?:of )?next week)?\b"), _weekday),
    (re.compile(r"\b(?:the )?(?P<day>\d{1,2})th\b"), _day_of_month),
)


# --- times of day -------------------------------------------------------------------------------------------

_HALF_OF_DAY = r"(?P<half> ?am| ?pm|(?: oclock)?(?: in the)? (?:morning|afternoon|evening)| tonight)?"
_OCLOCK = r"(?P<oclock> oclock)?"
_MARKED = r"(?:at|around|about|for|from|by) "


def _read_time(said: str, *, bare_hour: bool) -> time | None:
    for pattern, read in _TIMES:
        for found in pattern.finditer(said):
            if (at := read(found, said)) is not None:
                return at
    lone = re.search(r"\b(?P<hour>\d{1,2})\b", said) if bare_hour else None
    return _hour(lone, said) if lone else None


def _fixed(found: re.Match[str], said: str) -> time | None:
    return time(0 if found.group() == "midnight" else 12)


def _relative_to_hour(found: re.Match[str], said: str) -> time | None:
    minutes = {"half": 30, "1 quarter": 15, "quarter": 15, "a quarter": 15}.get(found["part"])
    minutes = int(found["part"].split()[0]) if minutes is None else minutes
    at = _hour(found, said)
    if at is None or minutes >= 60:
        return None
    total = at.hour * 60 + (minutes if found["side"] != "to" else -minutes)
    return time(total // 60 % 24, total % 60)


def _hour(found: re.Match[str], said: str) -> time | None:
    groups = found.groupdict()
    hour, minute = int(groups["hour"]), int(groups.get("minute") or 0)
    half = groups.get("half") or ""
    if hour > 23 or minute > 59:
        return None
    if hour > 12:
        return time(hour, minute)
    is_afternoon = re.search(r"pm|afternoon|evening|tonight", half or said)
    is_morning = re.search(r"am|morning", half) or (not half and re.search(r"\bmorning\b", said))
    if is_afternoon or (not is_morning and hour in _OFFICE_HOURS):
        return time(hour % 12 + 12, minute)
    return time(hour % 12 if is_morning else hour, minute)


_TIMES = (
    (re.compile(r"\bnoon\b|\bmidday\b|\bmidnight\b"), _fixed),
    (
        re.compile(
            rf"\b(?P<part>half|(?:a |1 )?quarter|\d{{1,2}}(?: minutes?)?) (?P<side>past|after|to) (?P<hour>\d{{1,2}})\b"
            rf"{_OCLOCK}{_HALF_OF_DAY}"
        ),
        _relative_to_hour,
    ),
    (re.compile(rf"\b(?P<hour>\d{{1,2}}):(?P<minute>\d\d)\b{_HALF_OF_DAY}"), _hour),
    (re.compile(rf"\b(?P<hour>\d{{1,2}}) (?P<minute>[0-5]\d)\b{_HALF_OF_DAY}"), _hour),
    (re.compile(rf"\b(?:{_MARKED})?(?P<hour>\d{{1,2}})(?P<half> ?am\b| ?pm\b)"), _hour),
    (re.compile(rf"\b(?P<hour>\d{{1,2}}) oclock\b{_HALF_OF_DAY}"), _hour),
    (re.compile(r"\b(?P<hour>\d{1,2})(?P<half> in the (?:morning|afternoon|evening)| tonight)"), _hour),
    (re.compile(rf"\b{_MARKED}(?P<hour>\d{{1,2}})(?P<minute>[0-5]\d)?\b"), _hour),
)
