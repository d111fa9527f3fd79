"""Is what a model is shown complete, in order, well formed, and without a second opening?"""

from __future__ import annotations

from enum import StrEnum


class Rule(StrEnum):
    """What a context must be before a model is shown it; the name says what is wrong."""

    EMPTY = "empty"
    """There is nothing to answer."""
    LAST_NOT_CALLER = "last_not_caller"
    SECOND_OPENING = "second_opening"
    OUT_OF_ORDER = "out_of_order"
    MISSING = "missing"
    """A message of the window is not in it."""
    TOO_LONG = "too_long"
    MALFORMED = "malformed"
    """An empty message, or a role that is none."""
    OTHER_SESSION = "other_session"
