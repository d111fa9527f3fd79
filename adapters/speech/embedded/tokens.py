"""The recogniser's vocabulary: token numbers to text."""

from __future__ import annotations

from collections.abc import Iterable

START, END = 1, 2
FIRST_WORD = 3
"""Numbers below this are marks, not text."""
_SPACE = "\u2581"


class Vocabulary:
    """Read from ``tokenizer.bin``: byte strings in the order of their numbers, each behind its length."""

    def __init__(self, table: bytes) -> None:
        """Raises ValueError for a table that ends inside an entry."""
        self._entries = list(_entries(table))

    def __len__(self) -> int:
        return len(self._entries)

    def text(self, tokens: Iterable[int]) -> str:
        """Marks and unknown numbers are left out, broken characters replaced."""
        known = range(FIRST_WORD, len(self._entries))
        raw = b"".join(self._entries[token] for token in tokens if token in known)
        return raw.decode("utf-8", errors="replace").replace(_SPACE, " ").strip()


def _entries(table: bytes) -> Iterable[bytes]:
    at = 0
    while at < len(table):
        length = table[at]
        at += 1
        if length >= 128:
            if at == len(table):
                raise ValueError("tokenizer.bin ends inside a length")
            length = table[at] * 128 + length - 128
            at += 1
        if at + length > len(table):
            raise ValueError("tokenizer.bin ends inside an entry")
        yield table[at : at + length]
        at += length
