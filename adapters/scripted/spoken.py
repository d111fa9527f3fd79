"""What people say, in a form that can be compared: words, numbers, digits, yes and no. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

_UNIT_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TEN_WORDS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
UNITS = {word: value for value, word in enumerate(_UNIT_WORDS)}
TENS = {word: 10 * value for value, word in enumerate(_TEN_WORDS, 2)}

_CONTRACTIONS = (
    (re.compile(r"\bto-(day|morrow)\b"), r"to\1"),
    (re.compile(r"\bgood[- ]bye?\b"), "goodbye"),
    (re.compile(r"\b([ap])\.\s?m\b\.?"), r"\1m"),
    (re.compile(r"\bo'clock\b"), "oclock"),
    (re.compile(r"\b(what|that|it|there|who|where|when|how|name|here)'s\b"), r"\1 is"),
    (re.compile(r"\b(i)'m\b"), r"\1 am"),
    (re.compile(r"\b(\w+)'re\b"), r"\1 are"),
    (re.compile(r"\b(\w+)'d\b"), r"\1 would"),
    (re.compile(r"\b(\w+)'ll\b"), r"\1 will"),
    (re.compile(r"\bcan't\b"), "cannot"),
    (re.compile(r"\bwon't\b"), "will not"),
    (re.compile(r"\b(\w+)n't\b"), r"\1 not"),
)
_NOT_WORDS = re.compile(r"[^a-z0-9: ]+|:(?!\d)|(?<!\d):")
_ENDINGS = r"(?:e?s|d|l?ed|l?ing)?"


def plain(text: str) -> str:
    """Lower-case words and numbers with single spaces: ``I'd like 10:30 a.m.!`` is ``i would like 10:30 am``."""
    text = text.lower().replace("\u2019", "'")
    for pattern, instead in _CONTRACTIONS:
        text = pattern.sub(instead, text)
    return " ".join(_NOT_WORDS.sub(" ", text.replace("'", "")).split())


def mentions(said: str, phrase: str) -> bool:
    """Whether plain text holds a phrase: its words together or apart ("check-up", "checkup"), the last in any form."""
    return bool(phrase) and _pattern(phrase).search(said) is not None


def mentions_any(said: str, phrases: Iterable[str]) -> bool:
    return any(mentions(said, phrase) for phrase in phrases)


@cache
def _pattern(phrase: str) -> re.Pattern[str]:
    return re.compile(rf"\b{' ?'.join(map(re.escape, plain(phrase).split()))}{_ENDINGS}\b")


# --- numbers ------------------------------------------------------------------------------------------------


def number_of(said: str) -> int | None:
    """The first whole number in plain text, in words or digits, below a million."""
    total = current = 0
    found = False
    for word in said.split():
        value = _small(word)
        if value is not None:
            current, found = current + value, True
        elif found and word == "hundred":
            current *= 100
        elif found and word == "thousand":
            total, current = current * 1000, 0
        elif found and word != "and":
            break
    return total + current if found else None


def _small(word: str) -> int | None:
    if word.isdecimal() and word.isascii() and len(word) < 7:
        return int(word)
    return UNITS.get(word, TENS.get(word))


_DIGIT_WORDS = UNITS | TENS | {"oh": 0, "o": 0}
_TIMES = {"double": 2, "triple": 3}


def digits_of(said: str) -> str:
    """All digits of plain text in order, as a telephone number is read out: ``oh two double five`` is ``0255``."""
    digits, times, tens = "", 1, False
    for word in said.split():
        if word in _TIMES:
            times = _TIMES[word]
            continue
        if word.isdecimal() and word.isascii():
            digits += word * times if len(word) == 1 else word
        elif word in _DIGIT_WORDS:
            value = _DIGIT_WORDS[word]
            digits = digits[:-1] + str(value) if tens and 0 < value < 10 else digits + str(value) * times
            tens = value in TENS.values()
            times = 1
            continue
        times, tens = 1, False
    return digits


def is_keys(text: str) -> bool:
    """Nothing but key presses: ``12`` or ``1 2``."""
    return bool(text.strip()) and all(character in "0123456789*# " for character in text)


# --- yes and no ---------------------------------------------------------------------------------------------

_NO = ("no", "nope", "nah", "not", "wrong", "do not", "never mind", "incorrect", "cancel that")
_YES = (
    "yes", "yeah", "yep", "yup", "sure", "correct", "right", "okay", "ok", "of course", "go ahead", "please do",
    "exactly", "fine", "perfect", "great", "absolutely", "definitely", "sounds good", "that works", "i do", "it is",
    "that is it",
)  # fmt: skip


def yes_or_no(said: str) -> bool | None:
    """None when it is neither. Of key presses 1 is yes and 2 is no."""
    if is_keys(said):
        return {"1": True, "2": False}.get(said.replace(" ", ""))
    if mentions_any(said, _NO):
        return False
    return True if mentions_any(said, _YES) else None
