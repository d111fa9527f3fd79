"""The mind of one call."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

import trio

from engine.events import Context, ReplyPart


class LanguageModel(Protocol):
    """The mind of one call."""

    @property
    def is_closed(self) -> bool:
        """Asked after its block was left: nothing it held is open any more."""
        ...

    def open_reply(self, context: Context) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[ReplyPart]]:
        """The answer to the last message of the context. The channel raises ModelFailed."""
        ...
