"""How a call of ours can fail."""

from __future__ import annotations

from engine.errors import OffhookError


class CallFailed(OffhookError):
    """The call did not come about: no answer, an answer that makes no sense, or no media socket."""


class CallRefused(CallFailed):
    """The engine answered, and declined. ``sentence`` is what the caller would hear; it may be empty."""

    def __init__(self, sentence: str) -> None:
        super().__init__(f"refused: {sentence}" if sentence else "refused")
        self.sentence = sentence


class LineLost(OffhookError):
    """The engine ended the call while more was expected of it. The message says how it ended."""


class TooSlow(OffhookError):
    """Nothing of what was waited for was heard in time."""
