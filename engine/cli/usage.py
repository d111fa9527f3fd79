"""How a command can have been called wrongly."""

from __future__ import annotations

from engine.errors import OffhookError


class NotThere(OffhookError):
    """What the command was given is not there, or is nothing of the kind. The message says what was expected."""
