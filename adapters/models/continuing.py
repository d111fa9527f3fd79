"""An answer that goes on from what was said before a failure: what the model says of it a second time is left out.
Pure."""

from __future__ import annotations

from collections.abc import Iterator

FEWEST_CHARS = 12
"""Letters and digits of the end of what was said that are taken for a repetition; fewer may well be said twice."""
MOST_HELD_CHARS = 20_000


class Continuing:
    """Fed with the pieces of an answer, gives the pieces to be said.

    ``said`` is what was said already. An answer that begins with all of it, or with its last words, is taken from
    there on; only letters and digits are compared. ``is_exact``: the vendor goes on from the very character, so that
    its spaces are to be trusted.
    """

    def __init__(self, said: str, *, is_exact: bool = False) -> None:
        self._said = said
        self._is_exact = is_exact
        self._old = "".join(_letters(said))
        self._alive = _starts(said, self._old)  # where in `old` the answer may have begun to repeat
        self._held = ""
        self._count = 0  # letters and digits compared
        self._looked_at = 0  # characters of `held`
        self._best: int | None = None  # behind what is repeated in `held`, as far as is known
        self._tail = ""  # of what was said, behind its last letter: left out if it comes again
        self._is_cutting_tail = False
        self._is_settled = not said.strip()

    def feed(self, text: str) -> str:
        """What of this, and of what was held back, is to be said now."""
        if self._is_cutting_tail:
            return self._without_tail(text)
        if self._is_settled:
            return text
        self._held += text
        self._compare()
        if self._alive and len(self._held) < MOST_HELD_CHARS:
            return ""
        return self._settle()

    def end(self) -> str:
        """The answer is over: what was held back of it."""
        return "" if self._is_settled else self._settle(is_over=True)

    def _compare(self) -> None:
        while self._alive and self._looked_at < len(self._held):
            char = self._held[self._looked_at]
            self._looked_at += 1
            for letter in _letters(char):
                self._alive = [start for start in self._alive if self._old[start + self._count] == letter]
                self._count += 1
                done = [start for start in self._alive if start + self._count == len(self._old)]
                if done:
                    self._best = self._looked_at
                    self._alive = [start for start in self._alive if start not in done]

    def _settle(self, *, is_over: bool = False) -> str:
        """Nothing more can be repeated."""
        self._is_settled = True
        held, self._held = self._held, ""
        if self._best is None:
            repeats_a_part = is_over and bool(self._alive) and self._count > 0
            return "" if repeats_a_part else self._joined(held)
        self._tail = self._said[len(self._said.rstrip()) - _tail_length(self._said.rstrip()) :]
        self._is_cutting_tail = True
        return self._without_tail(held[self._best :])

    def _without_tail(self, text: str) -> str:
        while text and self._tail:
            place = self._tail.find(text[0])
            if text[0].isalnum() or place < 0:
                self._tail = ""
            else:
                self._tail = self._tail[place + 1 :]
                text = text[1:]
        self._is_cutting_tail = bool(self._tail)
        return text

    def _joined(self, text: str) -> str:
        needs_space = not self._is_exact and self._said[-1:].strip() and text[:1].isalnum()
        return f" {text}" if needs_space else text


def _letters(text: str) -> Iterator[str]:
    for char in text:
        if char.isalnum():
            yield from char.casefold()


def _tail_length(text: str) -> int:
    """Characters behind the last letter or digit."""
    return next((place for place, char in enumerate(reversed(text)) if char.isalnum()), len(text))


def _starts(said: str, old: str) -> list[int]:
    """Where a repetition may begin: with everything, or with any of its words that leaves enough to be sure."""
    starts, count, before = [0] if old else [], 0, ""
    for char in said:
        if char.isalnum() and not before.isalnum() and count and len(old) - count >= FEWEST_CHARS:
            starts.append(count)
        count += sum(1 for _ in _letters(char))
        before = char
    return starts
