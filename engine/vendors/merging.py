"""Words of one sound, heard in part by one recogniser and in part by the next, which was given the last of it again.
Pure."""

from __future__ import annotations

LEAST_CHARS = 2
"""Of a word that was broken off, to be known again."""


def merged(kept: str, text: str) -> str:
    """``kept`` and then ``text``, of which the beginning may repeat the end of ``kept``: each word once."""
    before, after = kept.split(), text.split()
    old, new = [_bare(word) for word in before], [_bare(word) for word in after]
    for count in range(min(len(old), len(new)), 0, -1):
        if old[-count:] == new[:count]:
            return " ".join([*before, *after[count:]])
    for count in range(min(len(old), len(new)) - 1, 0, -1):
        # The repetition begins in the middle of a word.
        if old[-count:] == new[1 : count + 1] and _ends_with(old[-count - 1 : -count], new[0]):
            return " ".join([*before, *after[count + 1 :]])
    for count in range(min(len(old), len(new)) - 1, -1, -1):
        # What was kept ends in the middle of a word.
        least = 1 if count else LEAST_CHARS
        is_repeated = old[len(old) - count - 1 : -1] == new[:count]
        if is_repeated and len(old[-1]) >= least and new[count].startswith(old[-1]):
            return " ".join([*before[:-1], *after[count:]])
    for count in range(min(len(old), len(new)) - 2, 0, -1):
        # Both.
        is_repeated = old[-count - 1 : -1] == new[1 : count + 1]
        if is_repeated and _ends_with(old[-count - 2 : -count - 1], new[0]) and new[count + 1].startswith(old[-1]):
            return " ".join([*before[:-1], *after[count + 1 :]])
    return " ".join([*before, *after])


def _bare(word: str) -> str:
    return "".join(filter(str.isalnum, word)).casefold()


def _ends_with(words: list[str], end: str) -> bool:
    return bool(words) and len(end) >= LEAST_CHARS and words[0].endswith(end)
