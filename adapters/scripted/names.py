"""A person's name in what a caller said. Pure.

Nothing tells a name from another word for sure: words that make up sentences, weekdays and numbers are taken for no
name, all others for one where a name was asked for.
"""

from __future__ import annotations

import re

from adapters.scripted.dates import WEEKDAYS
from adapters.scripted.spoken import TENS, UNITS

LONGEST_NAME_WORDS = 5
LONGEST_CORRECTION_WORDS = 3

_SENTENCE_WORDS = """
    i you we they me him her us them my your our their his its it this that these those the there here some any
    is are am was were be been have has had does did would could should shall cannot not
    of at on in to for from with without by about into until before after than
    and or but because if then when what who where why how which
    yes yeah yep yup no nope nah never none nothing nobody okay ok sure right correct wrong incorrect
    exactly absolutely definitely maybe perhaps please thanks thank sorry pardon um uh er hmm
    hello hi hey bye goodbye help want need know think remember forget mean cancel book move repeat keep leave speak
    talk say said call tell told take make give put wait stop come change hang mind get got spelled
    idea name number appointment booking time today tomorrow tonight morning afternoon evening noon midday midnight
    week clue way minute moment again really already just still also too very only another next last different same
    later earlier oclock
"""
# Not "will", "may", "can", "an", "do", "so" and "he": people are called that, and a sentence has others of these words.
_NO_NAMES = frozenset([*_SENTENCE_WORDS.split(), *WEEKDAYS, *UNITS, *TENS, "first", "second", "third"])
_CONTRACTED = re.compile(r"(?:n't|'(?:m|re|d|ll|ve|s))$")

_FILLERS = (
    r"(?:(?:yes|yeah|yep|yup|no|nope|okay|ok|sure|right|fine|good|great|perfect|well|um|uh|oh|so|hi|hello|hey|sorry|"
    r"actually|certainly|of course|please)\b[\s,.!]*)"
)
_IT_IS = (
    r"(?:(?:(?:my|the)\s+(?:(?:full|first|last)\s+)?)?name(?:\s+is|'s)|it\s+is|it's|this\s+is|that\s+is|that's|"
    r"(?:it|that)\s+(?:would|should)\s+be|i\s+am|i'm|(?:you\s+can\s+)?call\s+me|(?:put\s+(?:it|me)\s+)?under|"
    r"make\s+(?:it|that)|for)\b[\s,:]*"
)
_LEAD_IN = re.compile(rf"\s*{_FILLERS}*(?:{_IT_IS})?", re.IGNORECASE)
_CORRECTION = re.compile(
    rf"\s*(?:(?:(?:no|nope|sorry|wrong|actually)\b[\s,.!]*)+(?:{_IT_IS})?|{_IT_IS})", re.IGNORECASE
)
_TAIL = re.compile(r"[\s,.]+(?:and|but|not|please|speaking|here|calling|thanks|thank you|with)\b.*", re.IGNORECASE)
_NAMED = re.compile(r"\bname(?:\s+is|'s)\b[\s,:]*(?P<rest>[^.,;:!?]*)", re.IGNORECASE)
_TITLE_DOT = re.compile(r"\b(dr|mr|mrs|ms|st|[a-z])\.(?=\s)", re.IGNORECASE)
_WORD = re.compile(r"\w[\w'-]*")


def answered_name(text: str) -> str | None:
    """The answer to "what is your name?"; None if it is none."""
    text = _straight(text)
    if "?" in text:
        return None
    if named := stated_name(text):
        return named
    rest = _LEAD_IN.sub("", text, count=1)
    first, comma, _ = rest.partition(",")
    if name := _whole(rest, LONGEST_NAME_WORDS):
        return name
    return _whole(first, LONGEST_NAME_WORDS) if comma and " " in first.strip() else None


def stated_name(text: str) -> str | None:
    """What follows "my name is", wherever it is said."""
    found = _NAMED.search(_straight(text))
    if found is None:
        return None
    words: list[str] = []
    for word in _WORD.findall(found["rest"]):
        if not _may_be_name(word):
            break
        words.append(word)
    return _said(words) if 1 <= len(words) <= LONGEST_NAME_WORDS else None


def corrected_name(text: str) -> str | None:
    """``No, Bob`` and ``It's Bob Miller``: a name in capital letters, for a name that was read back."""
    text = _straight(text)
    found = _CORRECTION.match(text)
    if found is None or "?" in text:
        return None
    name = _whole(text[found.end() :], LONGEST_CORRECTION_WORDS)
    return name if name and name in " ".join(_WORD.findall(text)) else None


def _straight(text: str) -> str:
    return _TITLE_DOT.sub(r"\1", text.replace("\u2019", "'"))


def _whole(text: str, most_words: int) -> str | None:
    """None if there is anything in it that no name has."""
    words = _WORD.findall(_TAIL.sub("", text))
    if not 1 <= len(words) <= most_words or words[0] in ("a", "A") or not all(map(_may_be_name, words)):
        return None
    return _said(words)


def _may_be_name(word: str) -> bool:
    return not (
        word.lower() in _NO_NAMES or _CONTRACTED.search(word.lower()) or any(c.isdecimal() or c == "_" for c in word)
    )


def _said(words: list[str]) -> str:
    return " ".join(word[0].upper() + word[1:] for word in words)
