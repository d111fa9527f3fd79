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
        sentences = []
        while (cut := _first_cut(self._text)) is not None:
            sentence, self._text = self._text[:cut].strip(), self._text[cut:]
            if sentence:
                sentences.append(sentence)
        return sentences

    def flush(self) -> list[str]:
        rest, self._text = self._text.strip(), ""
        return [rest] if rest else []


def whole_sentences(text: str) -> int:
    """How much of the text is whole sentences, with the space behind the last one: a place to go on from."""
    end = 0
    while (cut := _first_cut(text[end:])) is not None:
        end += cut
    return len(text) - len(text[end:].lstrip()) if end else 0


def _first_cut(text: str) -> int | None:
    for match in _END.finditer(text):
        if not _is_abbreviation(text, match):
            return match.end()
    if len(text) > MAX_CHARS:
        head = text[:MAX_CHARS]
        return (max(head.rfind(", "), head.rfind("; "), head.rfind(": ")) + 1) or (head.rfind(" ") + 1) or MAX_CHARS
    return None


def _is_abbreviation(text: str, end: re.Match[str]) -> bool:
    if not end.group().startswith("."):
        return False
    word = text[: end.start()].rsplit(None, 1)[-1:] or [""]
    bare = word[0].lower().lstrip("(\"'")
    return bare in _ABBREVIATIONS or (len(bare) == 1 and bare.isalpha() and bare not in "aio")
