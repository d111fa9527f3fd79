"""What a model is shown of a session: the last messages, cut to size, and what is known besides them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Shortening(StrEnum):
    """How a context was made to fit."""

    DROPPED = "dropped"
    """Older messages were left out."""
    CUT = "cut"
    """A message was longer than a model is shown."""
    SUMMARISED = "summarised"
    """Older messages were left out, and a summary stands for them."""


class ContextFormat(StrEnum):
    MESSAGES = "messages"
    """One by one."""
    TEXT = "text"
    """As one text."""
    SUMMARY = "summary"
    """A summary, and the last words."""


@dataclass(frozen=True, slots=True)
class ContextLimits:
    window: int = 10
    """Messages."""
    max_chars: int = 200
    """Of each message."""
    format: ContextFormat = ContextFormat.MESSAGES
