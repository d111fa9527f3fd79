"""Text in pieces of any size to sentences that can be spoken."""

from __future__ import annotations

import re

_ABBREVIATIONS = frozenset(
    ["dr", "mr", "mrs", "ms", "prof", "st", "vs", "etc", "approx", "e.g", "i.e", "a.m", "p.m", "jr", "sr"]
)
_END = re.compile(r"[.!?…]+[\"')\]]*(?=\s)|[。！？]|\n+")  # noqa: RUF001 - full-width stops end sentences too
MAX_CHARS = 300
"""A sentence longer than this is cut at its last comma or space, so that its speech can start."""


class SentenceSplitter:
    """``feed`` pieces, take the sentences that are complete; ``flush`` gives the rest."""

    def __init__(self) -> None:
        self._text = ""

    def feed(self, piece: str) -> list[str]:
        self._text += piece
        sentences, at = [], 0
        while (cut := _first_cut(self._text, at)) is not None:
            if sentence := self._text[at:cut].strip():
                sentences.append(sentence)
            at = cut
        self._text = self._text[at:]
        return sentences

    def flush(self) -> list[str]:
        rest, self._text = self._text.strip(), ""
        return [rest] if rest else []


def whole_sentences(text: str) -> int:
    """How much of the text is whole sentences, with the space behind the last one: a place to go on from."""
    end = 0
    while (cut := _first_cut(text, end)) is not None:
        end = cut
    return len(text) - len(text[end:].lstrip()) if end else 0


def _first_cut(text: str, start: int) -> int | None:
    """Where the sentence that begins at ``start`` ends. No further is looked than it may be long: a model may send a
    whole book at once."""
    stop = start + MAX_CHARS
    for match in _END.finditer(text, start, stop + 1):
        if not _is_abbreviation(text[start : match.start()], match):
            return match.end()
    if len(text) <= stop:
        return None
    pause = max(text.rfind(mark, start, stop) for mark in (", ", "; ", ": "))
    return (pause + 1) or (text.rfind(" ", start, stop) + 1) or stop


def _is_abbreviation(before: str, end: re.Match[str]) -> bool:
    if not end.group().startswith("."):
        return False
    word = before.rsplit(None, 1)[-1:] or [""]
    bare = word[0].lower().lstrip("(\"'")
    return bare in _ABBREVIATIONS or (len(bare) == 1 and bare.isalpha() and bare not in "aio")
