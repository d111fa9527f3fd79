"""How a call of ours can fail."""

from __future__ import annotations

import orjson

from engine.errors import OffhookError

SHOWN_CHARS = 300
"""Of what a stranger's body says."""


class CallFailed(OffhookError):
    """The call did not come about: no answer, an answer that makes no sense, or no media socket."""


class CallRefused(CallFailed):
    """The engine answered, and declined. ``sentence`` is what the caller would hear; it may be empty."""

    def __init__(self, sentence: str) -> None:
        super().__init__(f"refused: {sentence}" if sentence else "refused")
        self.sentence = sentence


class WebhookRefused(CallFailed):
    """A webhook was answered with ``status``, not 200. The message holds what the body's ``error.message`` says, if it
    has one."""

    def __init__(self, path: str, status: int, body: bytes) -> None:
        why = _message_in(body)
        super().__init__(f"{path} answered HTTP {status}" + (f": {why}" if why else ""))
        self.status = status


class LineLost(OffhookError):
    """The engine ended the call while more was expected of it. The message says how it ended."""


class TooSlow(OffhookError):
    """Nothing of what was waited for was heard in time."""


def _message_in(body: bytes) -> str:
    try:
        answer = orjson.loads(body)
    except ValueError:
        return ""
    match answer:
        case {"error": {"message": str(message)}}:
            return "".join(filter(str.isprintable, message))[:SHOWN_CHARS]
    return ""
