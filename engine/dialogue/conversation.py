"""What was said in one conversation, as both sides heard it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from engine.events import Message, Role


class Conversation:
    """The history of one stream. Owned by its call, handed to nobody else, gone with it (A1).

    Keeps the last ``retention`` messages; a model is shown the last ``window`` of them.
    """

    def __init__(self, *, retention: int = 50, window: int = 50) -> None:
        self._messages: deque[Message] = deque(maxlen=retention)
        self._window = window

    def __len__(self) -> int:
        return len(self._messages)

    def context(self) -> Sequence[Message]:
        """What the model is shown: a copy, oldest first."""
        return tuple(self._messages)[-self._window :]

    def caller_said(self, text: str) -> None:
        """Words of the caller.

        Words that follow others without an answer between belong to one turn: the caller paused, was taken to be
        done, and went on before anything of the answer was heard.
        """
        last = self._messages[-1] if self._messages else None
        if last is not None and last.role is Role.CALLER:
            self._messages[-1] = Message(Role.CALLER, f"{last.text} {text}")
        else:
            self._messages.append(Message(Role.CALLER, text))

    def agent_was_heard(self, text: str, *, interrupted: bool = False) -> None:
        """What the caller heard of the agent; nothing, if nothing was heard."""
        if text:
            self._messages.append(Message(Role.AGENT, text, interrupted))
