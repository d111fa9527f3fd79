"""Where a sentence is taken up again that broke off in the middle. Pure.

How long a voice had spoken is known, which word it was at is not. The rule: another try, in whatever voice, begins
with the last word that has certainly been begun, by the slowest pace at which the first voice was ever heard, or, of
one that has not been heard yet, at which any speaks. So no word is lost; what is heard twice is what the pace may be
faster by, a tenth to a third of what had been said, and so less than a clause.
"""

from __future__ import annotations

SLOWEST = 11.0
"""Letters a second, where nothing is known of a voice yet: slow ones make 12, most 15."""
MARGIN = 0.9
"""Of a pace that was measured: another sentence may be slower."""
LEAST_WEIGHT = 20.0
"""A shorter sentence says nothing of the pace."""
_DIGIT, _SIGN = 5.0, 6.0
"""Letters that stand for one when it is read out."""
_SILENT = frozenset(" \t\n.,;:!?'\"-()[]…")


class Pace:
    """How fast one voice reads, in letters a second."""

    def __init__(self) -> None:
        self._slowest = 0.0

    @property
    def least(self) -> float:
        return self._slowest * MARGIN or SLOWEST

    def measure(self, text: str, seconds: float) -> None:
        """It took so long for all of this text."""
        weight = sum(map(_weight, text))
        if seconds > 0 and weight >= LEAST_WEIGHT:
            pace = weight / seconds
            self._slowest = min(self._slowest, pace) if self._slowest else pace


def rest_of(text: str, seconds: float, pace: Pace) -> str:
    """What of a text is to be said still, after a voice of this pace has spoken for so long; all of it for 0 s."""
    left, word = seconds * pace.least, 0
    for at, char in enumerate(text):
        if char.isspace():
            word = at + 1
        left -= _weight(char)
        if left < 0:
            return text[word:]
    return text[word:]


def _weight(char: str) -> float:
    if char.isdigit():
        return _DIGIT
    return 1.0 if char.isalpha() or char in _SILENT else _SIGN
