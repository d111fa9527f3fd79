"""Key facts in plain words: codes, numbers, dates, times, amounts, names, negations. Pure.

A fact is a piece of the text, word for word. What is found depends on patterns alone, so some facts are missed and some
harmless words are taken for one: a summary that keeps a word too many is better than one without the order's number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum

from engine.dialogue.vocabulary import (
    CLAUSE_WORDS,
    DATE_WORDS,
    EMPTY_NOT,
    MONTHS,
    NEGATIONS,
    ORDINALS,
    STOP_WORDS,
    UNITS,
    WEEKDAYS,
    words,
)

LONGEST_CHARS = 60
"""A longer piece is no key fact."""
LONGEST_TEXT_CHARS = 2000
"""What is looked at of a text."""


class FactKind(IntEnum):
    """The more a fact is missed when it is gone, the smaller."""

    CODE = 1
    EMAIL = 2
    PHONE = 3
    NAME = 4
    DATE = 5
    TIME = 6
    AMOUNT = 7
    NOT = 8
    """What is not, or is not wanted."""
    PLACE = 9
    NUMBER = 10


@dataclass(frozen=True, slots=True)
class Fact:
    kind: FactKind
    text: str
    start: int
    """Where it begins in the text."""
    is_own: bool = False
    """Of a name: the speaker's own."""

    @property
    def end(self) -> int:
        return self.start + len(self.text)


def find_facts(text: str) -> list[Fact]:
    """In the order in which they are said, none inside another. The text has single spaces."""
    text = text[:LONGEST_TEXT_CHARS]
    words_said = _words_of(text)
    hints = _hints(text, words_said)
    said = _marks_and_words(text, words_said)
    taken = bytearray(len(text))
    found: list[Fact] = []
    for hint, find in _FINDERS:
        if hint not in hints:
            continue
        for fact in find(text, said):
            if len(fact.text) <= LONGEST_CHARS and not any(taken[fact.start : fact.end]):
                taken[fact.start : fact.end] = b"\1" * len(fact.text)
                found.append(fact)
    if _Hint.NOT in hints:
        denied = [fact for fact in _negations(text) if len(fact.text) <= LONGEST_CHARS]
        for fact in denied:
            taken[fact.start : fact.end] = b"\2" * len(fact.text)
        found = [fact for fact in found if not all(mark == 2 for mark in taken[fact.start : fact.end])] + denied
    return sorted(found, key=lambda fact: fact.start)


# --- what a text may hold -----------------------------------------------------------------------------------


class _Hint(Enum):
    """Seen at a glance: most of what is said holds none of it, and is searched no further."""

    AT = 1
    CAPITAL = 2
    DIGIT = 3
    NUMBER = 4
    DATE = 5
    NAME = 6
    NOT = 7
    TIME = 8
    SPOKEN = 9
    AMOUNT = 10


def _words_of(text: str) -> set[str]:
    """In small letters."""
    return set(_WORD.findall(text.lower().replace("\u2019", "'")))


def _marks_and_words(text: str, said: set[str]) -> set[str]:
    """The words, of those with an apostrophe the parts too, and which of the marks there are."""
    low = text.lower()
    parts = (word.split("'") for word in said if "'" in word)
    return said.union(*parts, (mark for mark in _MARKS if mark in low))


def _hints(text: str, said: set[str]) -> set[_Hint]:
    hints = {hint for hint, of_hint in _HINT_WORDS.items() if not said.isdisjoint(of_hint)}
    if "@" in text:
        hints.add(_Hint.AT)
    if _FIGURE.search(text):
        hints |= {_Hint.DIGIT, _Hint.NUMBER}
        if _ORDINAL_FIGURE.search(text):
            hints.add(_Hint.DATE)
    if _SYMBOL.search(text):
        hints.add(_Hint.AMOUNT)
    if _LATER_CAPITAL.search(text):
        hints.add(_Hint.CAPITAL)
    if _Hint.SPOKEN in hints:
        hints.add(_Hint.NUMBER)
    if _Hint.NUMBER in hints:
        hints.add(_Hint.TIME)
    return hints


_WORD = re.compile(r"[a-z']+")
_MARKS = (":", "-", "#", "$", "€", "£", "¥", "a.m", "p.m")
_FIGURE = re.compile(r"\d")
_ORDINAL_FIGURE = re.compile(r"\d(?:st|nd|rd|th)\b")
_SYMBOL = re.compile("[$€£¥%]")
_LATER_CAPITAL = re.compile(r"(?<=[\w,'\u2019] )[^\W\d_a-z][^\W\d_A-Z]")


# --- pieces of patterns ---------------------------------------------------------------------------------------


def _any_of(words: str) -> str:
    return f"(?:{'|'.join(words.split())})"


_UNIT = _any_of(UNITS)
_UNIT_WORDS = words(UNITS)
_IN_WORDS = rf"{_UNIT}(?:(?:[ -]| and )(?:{_UNIT}|hundred|thousand|million)\b){{0,6}}"
_NUMBER = rf"(?:\d+(?:[.,]\d+)*|{_IN_WORDS})"
_ORDINAL = rf"(?:\d{{1,2}}(?:st|nd|rd|th)|(?:twenty|thirty)[ -]{_any_of(ORDINALS)}|{_any_of(ORDINALS)})"
_MONTH = rf"{_any_of(MONTHS)}\b"
_DAY = _any_of(WEEKDAYS)
_DIGIT = rf"(?:\d|{_any_of(' '.join(UNITS.split()[:10]))}|oh|double|triple)"
_LABELS = (
    "order invoice ticket case reference ref booking account policy customer serial model part product item tracking "
    "confirmation room flat apartment gate flight train size category chapter heading code permit licence license "
    "passport form claim contract sku"
)
_LABEL = _any_of(_LABELS)
_AMOUNTS = (
    "dollars? pounds? euros? cents? pence usd eur gbp francs? yen rupees? percent "
    "kg kilos? grams? km metres? meters? miles? cm mm inch(?:es)? litres? liters? hours? minutes? days? weeks? months? "
    "years?"
)
_OF_WHAT = _any_of(_AMOUNTS)


# --- what is found by its form ------------------------------------------------------------------------------


_Find = Callable[[str, set[str]], Iterator[Fact]]
"""Of a text, and the words and marks that are in it."""


def _compiled(form: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """And for a text in which no number is said in words: these are many to try at each place."""
    in_figures = form.replace(f"|{_IN_WORDS}", "").replace(f"{_IN_WORDS}|", "")
    return re.compile(form, re.IGNORECASE), re.compile(in_figures, re.IGNORECASE)


def _by_form(kind: FactKind, *patterns: str | tuple[str, str]) -> _Find:
    """A pattern may stand behind words and marks of which it needs one: to ask for them costs less than to search."""
    compiled: list[tuple[frozenset[str], re.Pattern[str], re.Pattern[str]]] = []
    for pattern in patterns:
        needed, form = pattern if isinstance(pattern, tuple) else ("", pattern)
        compiled.append((words(needed), *_compiled(form)))

    def find(text: str, said: set[str]) -> Iterator[Fact]:
        is_in_figures = said.isdisjoint(_UNIT_WORDS)
        for needed, form, in_figures in compiled:
            if needed and said.isdisjoint(needed):
                continue
            for found in (in_figures if is_in_figures else form).finditer(text):
                yield Fact(kind, found.group(), found.start())

    return find


_emails = _by_form(FactKind.EMAIL, r"\b[\w.+-]{1,40}@[\w-]{1,40}(?:\.[\w-]{1,20}){1,4}\b")
_dates_in_figures = _by_form(FactKind.DATE, r"\b\d{4}-\d\d-\d\d\b", r"\b\d{1,2}[./]\d{1,2}[./](?:\d{4}|\d\d)\b")
_amounts = _by_form(
    FactKind.AMOUNT,
    ("$ € £ ¥", r"[$€£¥] ?\d+(?:[.,]\d+)*(?: ?(?:k|thousand|million)\b)?"),
    rf"\b{_NUMBER} ?(?:%|{_OF_WHAT}\b)",
)
_phones = _by_form(
    FactKind.PHONE,
    r"(?<![\w.])\+?\(?\d(?:(?:[ ().-]|, ){0,2}\d){6,14}\b",
)
_spoken_phones = _by_form(
    FactKind.PHONE,
    rf"\b{_DIGIT}(?:(?:,? |-){_DIGIT}\b){{5,14}}",
)
_codes = _by_form(
    FactKind.CODE,
    (_LABELS, rf"\b{_LABEL}(?: (?:number|no|code|id|is))*\.?:? ?#? ?(?=[\w./-]*\d)\w+(?:[-./]\w+)*"),
    r"\b[a-z]{1,8}-?\d[\w-]*\b",
    ("-", r"\b[a-z]{2,8}(?:-[a-z]{1,8})?-\w*\d[\w-]*\b"),
    r"\b\d+(?-i:[A-Z])[a-z0-9]*\d\w*\b",
    ("#", r"#\d+\b"),
)
_spoken_codes = _by_form(
    FactKind.CODE, (_LABELS, rf"\b{_LABEL} (?:number|code|id)(?: is)?:? {_DIGIT}(?:,? {_DIGIT}\b)+")
)
_dates = _by_form(
    FactKind.DATE,
    (
        MONTHS,
        rf"\b(?:(?:next |this |on )?{_DAY},? (?:the )?)?(?:{_ORDINAL}|\d{{1,2}}) (?:of )?{_MONTH}(?:,? \d{{4}})?",
    ),
    (MONTHS, rf"\b(?:(?:next |this )?{_DAY},? )?{_MONTH} (?:the )?(?:{_ORDINAL}|\d{{1,2}})\b(?!:)(?:,? \d{{4}})?"),
    (
        "the",
        rf"\bthe {_ORDINAL}(?= |[.,!?]|$)(?! (?:time|one|thing|floor|party|person|question|visit|consultation))",
    ),
    (
        f"{WEEKDAYS} {WEEKDAYS.replace('y', 'ys')}",
        rf"\b(?:next |last |every |this )?{_DAY}s?\b(?: (?:of )?next week)?",
    ),
    ("tomorrow yesterday next", r"\b(?:the day after tomorrow|tomorrow|yesterday|next (?:week|month|year))\b"),
    ("in", r"\bin \w{1,9} (?:days?|weeks?|months?)\b"),
)
_OF_DAY = r"(?: (?:in the )?(?:morning|afternoon|evening)| tonight)"
_AT = _any_of("at around by from until till before after")
_times = _by_form(
    FactKind.TIME,
    (":", rf"\b\d{{1,2}}:\d\d(?: ?[ap]\.?m\b)?{_OF_DAY}?"),
    ("am pm a.m p.m", rf"\b{_NUMBER} ?(?:[ap]m\b|[ap]\.m\b)"),
    ("past to", rf"\b(?:half|(?:a )?quarter|{_NUMBER}) (?:past|to) (?:{_UNIT}|\d{{1,2}})\b{_OF_DAY}?"),
    ("o'clock oclock", rf"\b(?:{_UNIT}|\d{{1,2}}) o'?clock\b{_OF_DAY}?"),
    ("morning afternoon evening tonight", rf"\b(?:{_IN_WORDS}|\d{{1,2}}){_OF_DAY}\b"),
    (
        "at around by from until till before after",
        rf"\b{_AT} (?!one (?!thirty|fifteen))(?:{_IN_WORDS}|\d{{1,2}})\b(?! (?-i:[A-Z])|[\w.,]?\d)",
    ),
    ("noon midday midnight", r"\b(?:noon|midday|midnight)\b"),
)
_STREET = _any_of("Street Road Avenue Lane Square Drive Way Close Court Place St Rd Ave")
_places = _by_form(FactKind.PLACE, rf"\b\d{{1,5}}[a-z]? (?:(?-i:[A-Z])[\w'-]+ ){{1,3}}(?-i:{_STREET})\b")


def _numbers(text: str, said: set[str]) -> Iterator[Fact]:
    """And what there are so many of."""
    counted, in_figures = _COUNTED
    for found in (in_figures if said.isdisjoint(_UNIT_WORDS) else counted).finditer(text):
        number, thing = found["number"], found["thing"] or ""
        if number.lower() in ("one", "zero"):
            continue
        is_noun = thing and thing.strip().lower() not in STOP_WORDS
        yield Fact(FactKind.NUMBER, number + thing if is_noun else number, found.start())


_COUNTED = _compiled(rf"\b(?P<number>{_NUMBER})\b(?P<thing> [a-z][a-z-]*)?")


# --- names --------------------------------------------------------------------------------------------------

_CAPITAL = r"[A-ZÀ-ÖØ-Þ][\w'\u2019-]*"
_OWN_NAME = re.compile(
    r"\b(?:my (?:(?:full|first|last) )?name(?:'s| is)(?: actually)?|i am called|they call me)[ ,:]+", re.IGNORECASE
)
_I_AM = re.compile(rf"\b(?:[Ii]'m|[Ii] am|[Tt]his is) (?={_CAPITAL})")
_PROPER = re.compile(
    rf"(?<![\w@.-])(?:(?:Dr|Mrs?|Ms|Prof)\.? )?{_CAPITAL}(?:(?: (?:de|da|van|von|der|den|la|le))? {_CAPITAL})*"
)
_NAME_WORD = re.compile(r"[^\W\d_][\w'\u2019-]*")
MOST_NAME_WORDS = 4


def _own_names(text: str, _: set[str]) -> Iterator[Fact]:
    for said in _OWN_NAME.finditer(text):
        yield from _name_at(text, said.end())
    for said in _I_AM.finditer(text):
        # "This is" may be anybody's words of anything: only two names in a row are taken.
        fact = next(_name_at(text, said.end(), only_capitals=True), None)
        if fact and (" " in fact.text or not said.group().lower().startswith("this")):
            yield fact


def _name_at(text: str, start: int, *, only_capitals: bool = False) -> Iterator[Fact]:
    end = position = start
    for _ in range(MOST_NAME_WORDS):
        word = _NAME_WORD.match(text, position)
        if word is None or word.group().lower() in STOP_WORDS or (only_capitals and not word.group()[0].isupper()):
            break
        end = word.end()
        if text[end : end + 1] != " ":
            break
        position = end + 1
    if end > start:
        yield Fact(FactKind.NAME, text[start:end], start, is_own=True)


def _proper_names(text: str, _: set[str]) -> Iterator[Fact]:
    """Words in capital letters where no sentence begins; none in a text that has nothing else."""
    if sum(map(str.isupper, text)) > sum(map(str.islower, text)):
        return
    for found in _PROPER.finditer(text):
        parts, start = found.group().split(" "), found.start()
        begins = text[:start].rstrip(" \"'(")[-1:] in ("", ".", "!", "?", "…", ":", "\n", ";")
        while parts and _is_common(parts[0]):
            start += len(parts.pop(0)) + 1
            begins = False
        while parts and (_is_common(parts[-1]) or parts[-1].islower()):
            parts.pop()
        if len(parts) > 1 or (parts and not begins):
            yield Fact(FactKind.NAME, " ".join(parts), start)


def _is_common(word: str) -> bool:
    low = word.lower().replace("\u2019", "'")
    return low in STOP_WORDS or low in DATE_WORDS or low.split("'")[0] == "i"


# --- negations ----------------------------------------------------------------------------------------------

_NOT = re.compile(
    r"\b(?:no longer|not|never|cannot|without|except|neither|no"
    r"|(?:do|does|did|is|are|was|were|wo|ca|could|should|would|have|has|must)n['\u2019]t)\b"
    r"(?P<what>(?: [\w'\u2019:-]+){1,5})",
    re.IGNORECASE,
)


def _negations(text: str) -> Iterator[Fact]:
    for found in _NOT.finditer(text):
        kept: list[str] = []
        for word in found["what"].split():
            if word.lower() in CLAUSE_WORDS:
                break
            kept.append(word)
        while kept and kept[-1].lower() in ("a", "an", "the", "to", "of", "in", "on", "at", "for", "my", "with", "is"):
            kept.pop()
        if kept and kept[0].lower() not in EMPTY_NOT:
            first = text[found.start() : found.start("what")]
            yield Fact(FactKind.NOT, f"{first} {' '.join(kept)}", found.start())


_FINDERS: tuple[tuple[_Hint, _Find], ...] = (
    (_Hint.AT, _emails),
    (_Hint.DIGIT, _dates_in_figures),
    (_Hint.NAME, _own_names),
    (_Hint.AMOUNT, _amounts),
    (_Hint.DIGIT, _places),
    (_Hint.DIGIT, _phones),
    (_Hint.SPOKEN, _spoken_phones),
    (_Hint.DIGIT, _codes),
    (_Hint.SPOKEN, _spoken_codes),
    (_Hint.DATE, _dates),
    (_Hint.TIME, _times),
    (_Hint.CAPITAL, _proper_names),
    (_Hint.NUMBER, _numbers),
)
"""The first to find something keeps it."""
_HINT_WORDS = {
    _Hint.SPOKEN: words(f"{UNITS} oh double triple"),
    _Hint.AMOUNT: words(_AMOUNTS.replace("?", "")) | words(_AMOUNTS.replace("s?", "").replace("(?:es)?", "")),
    _Hint.DATE: words(f"{MONTHS} {WEEKDAYS} {ORDINALS} tomorrow yesterday week weeks month months year day days")
    | {f"{day}s" for day in WEEKDAYS.split()},
    _Hint.TIME: words("noon midday midnight"),
    _Hint.NAME: words("name name's i'm am this they"),
    _Hint.NOT: NEGATIONS,
}
