"""SMS: what may stand in one, and how a long answer becomes several."""

from __future__ import annotations

import re
from typing import Final

MAX_CHARS: Final = 1600
"""Of one text: what Twilio takes, and Vonage too."""
MAX_PIECES: Final = 4
"""A longer answer is cut; nobody reads it on a phone."""

_CUT: Final = "…"
_NO_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]")
"""Control characters but tab and line feed, marks that turn the writing direction, halves of surrogates. Joiners stay:
emoji are made with them."""


def readable(text: str) -> str:
    """A text without what nobody can see, its line ends as line feeds."""
    return _NO_TEXT.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n")).strip()


def received(text: str) -> str:
    """A stranger's text, readable and at most ``MAX_CHARS`` long."""
    return readable(text[: 2 * MAX_CHARS])[:MAX_CHARS].rstrip()


def pieces(text: str) -> list[str]:
    """The text in pieces of at most ``MAX_CHARS``, cut between words; no more than ``MAX_PIECES``, of which the last
    one then ends in an ellipsis. None for a text of nothing."""
    rest = readable(text)
    parts: list[str] = []
    while len(rest) > MAX_CHARS and len(parts) < MAX_PIECES - 1:
        end = _last_break(rest, MAX_CHARS)
        parts.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    if len(rest) > MAX_CHARS:
        rest = rest[: _last_break(rest, MAX_CHARS - len(_CUT))].rstrip() + _CUT
    return [part for part in (*parts, rest) if part]


def _last_break(text: str, limit: int) -> int:
    """Where to cut so that at most ``limit`` characters stand before: behind a word, if one ends in the second half."""
    blanks = [match.start() for match in re.finditer(r"\s", text[: limit + 1])]
    return blanks[-1] if blanks and blanks[-1] > limit // 2 else limit
