"""Frames that come out of order, put in order. No waiting but for the next frames: a gap is given up after a few."""

from __future__ import annotations

from typing import Final

WINDOW: Final = 4
"""Frames held back for one that is missing: 80 ms."""

FIRST: Final = 1
"""The number that a stream begins with."""

FAR: Final = 256
"""A number this far from the expected one begins a new count."""


class Reorder:
    """One stream's frames by their number."""

    __slots__ = ("_held", "_next", "given_up")

    def __init__(self) -> None:
        self.given_up = 0
        """How often frames that did not come were no longer waited for."""
        self._next = -1
        self._held: dict[int, bytes] = {}

    def put(self, number: int, audio: bytes) -> bytes | None:
        """What can be heard now, in order: this frame and what waited for it, or nothing yet. A repeat, and a frame
        that was given up, is nothing too."""
        if self._next < 0:
            self._next = FIRST if FIRST < number <= FIRST + WINDOW else number  # what comes first may be overtaken, too
        if number == self._next and not self._held:
            self._next += 1
            return audio
        ahead = number - self._next
        if not -FAR < ahead < FAR:
            self._next = number + 1
            return self._all_held() + audio
        if ahead < 0:
            return None
        self._held.setdefault(number, audio)
        if len(self._held) > WINDOW:
            self._next = min(self._held)
            self.given_up += 1
        return self._in_order()

    def _in_order(self) -> bytes | None:
        audio = b""
        while (frame := self._held.pop(self._next, None)) is not None:
            audio += frame
            self._next += 1
        return audio or None

    def _all_held(self) -> bytes:
        audio = b"".join(self._held[number] for number in sorted(self._held))
        self._held.clear()
        return audio
