"""What the caller heard of an answer that was cut off."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_SENTENCE_END: Final = re.compile(r"[.!?]\s+")


@dataclass(slots=True)
class Spoken:
    """One sentence of an answer and how much audio of it has been queued so far."""

    text: str
    audio_s: float = 0.0
    is_whole: bool = False
    """All of its audio has been queued: ``audio_s`` is its length."""


CHARS_PER_S = 15.0
"""Speaking rate assumed for a sentence whose audio has not all come yet."""


def heard_text(spoken: Sequence[Spoken], heard_s: float) -> str:
    """The words among ``spoken`` that fall into the first ``heard_s`` seconds of it, whole words only."""
    parts = []
    for sentence in spoken:
        if heard_s <= 0:
            break
        length_s = _length_s(sentence)
        parts.append(sentence.text if heard_s >= length_s - 0.05 else _first_words(sentence.text, heard_s / length_s))
        heard_s -= length_s
    return " ".join(part for part in parts if part)


def unheard(spoken: Sequence[Spoken], heard_s: float) -> list[str]:
    """The sentences not heard to their end: what to say again when it was no interruption after all."""
    rest = []
    for sentence in spoken:
        length_s = _length_s(sentence)
        if heard_s < length_s - 0.05:
            rest.append(sentence.text)
        heard_s -= length_s
    return rest


def rest(spoken: Sequence[Spoken], heard_s: float) -> list[str]:
    """As ``unheard``, without the whole sentences at the head of the first that have been heard."""
    left = unheard(spoken, heard_s)
    heard = heard_text(spoken, heard_s)
    if not left or not heard:
        return left
    whole = " ".join(one.text for one in spoken)
    starts_at = max((end.end() for end in _SENTENCE_END.finditer(whole[: len(heard) + 1])), default=0)
    before = len(whole) - len(" ".join(left))
    return [left[0][max(0, starts_at - before) :], *left[1:]]


def _length_s(sentence: Spoken) -> float:
    if sentence.is_whole:
        return sentence.audio_s
    return max(sentence.audio_s, len(sentence.text) / CHARS_PER_S)


def _first_words(text: str, fraction: float) -> str:
    chars = int(len(text) * fraction)
    if chars >= len(text):
        return text
    # A word counts as heard when its end was.
    return text[:chars].rpartition(" ")[0] if not text[chars].isspace() else text[:chars].rstrip()
