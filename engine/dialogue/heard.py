"""What the caller heard of an answer that was cut off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
