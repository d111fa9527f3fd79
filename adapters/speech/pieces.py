"""Text in pieces: short enough that the first is soon audible, or no longer than a vendor takes."""

from __future__ import annotations

import re

LONGEST_CHARS = 120
"""A sentence longer than this, eight seconds of speech, is cut at a comma."""
_LEAST_CHARS = 40
"""A clause shorter than this stays with the next: cut speech loses its melody."""

_ABBREVIATIONS = frozenset(["dr", "mr", "mrs", "ms", "prof", "st", "vs", "no", "approx", "e.g", "i.e", "a.m", "p.m"])
_SENTENCE_END = re.compile(r"[.!?…]+[\"')\]]*\s+|\n+")
_CLAUSE_END = re.compile(r"[,;:—]\s+")


def split_text(text: str) -> list[str]:
    """Sentences, the long ones in clauses; each without space around it, none empty."""
    return [piece for sentence in _sentences(text) for piece in _clauses(sentence)]


def _sentences(text: str) -> list[str]:
    sentences, start = [], 0
    for end in _SENTENCE_END.finditer(text):
        if _is_abbreviation(text[start : end.start()], end.group()):
            continue
        sentences.append(text[start : end.end()].strip())
        start = end.end()
    return [sentence for sentence in [*sentences, text[start:].strip()] if sentence]


def _is_abbreviation(before: str, end: str) -> bool:
    word = before.rsplit(None, 1)[-1:] or [""]
    return end.strip() == "." and word[0].lower() in _ABBREVIATIONS


def _clauses(sentence: str) -> list[str]:
    if len(sentence) <= LONGEST_CHARS:
        return [sentence]
    clauses, start = [], 0
    for end in _CLAUSE_END.finditer(sentence):
        if end.end() - start >= _LEAST_CHARS and len(sentence) - end.end() >= _LEAST_CHARS:
            clauses.append(sentence[start : end.end()].strip())
            start = end.end()
    return [*clauses, sentence[start:].strip()]


def split_long(text: str, limit_chars: int) -> list[str]:
    """The text in as few pieces as a vendor takes at once: cut between sentences, else between clauses, words, or
    anywhere at all. What holds no letter and no digit is left out: a vendor has nothing to say to it."""
    pieces: list[str] = []
    for part in _at_most(text, limit_chars):
        if pieces and len(pieces[-1]) + 1 + len(part) <= limit_chars:
            pieces[-1] += f" {part}"
        else:
            pieces.append(part)
    return [piece for piece in pieces if any(map(str.isalnum, piece))]


def _at_most(text: str, limit_chars: int) -> list[str]:
    text = text.strip()
    if not text or len(text) <= limit_chars:
        return [text] if text else []
    parts = split_text(text)
    if len(parts) == 1:
        parts = text.split()
    if len(parts) == 1:
        return [text[at : at + limit_chars] for at in range(0, len(text), limit_chars)]
    return [piece for part in parts for piece in _at_most(part, limit_chars)]
