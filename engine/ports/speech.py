"""The ear and the voice of one call."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

import trio

from engine.events import TranscriberEvent


class Transcriber(Protocol):
    """The ear of one call."""

    @property
    def is_closed(self) -> bool:
        """Asked after its block was left: nothing it held is open any more."""
        ...

    def send(self, audio: bytes) -> None:
        """Caller audio in the line's format, as it came (20 ms). Queues at most 2 s, then drops the oldest."""
        ...

    async def receive(self) -> TranscriberEvent:
        """Raises SpeechFailed when no more words can come."""
        ...


class Synthesizer(Protocol):
    """The voice of one call."""

    @property
    def is_closed(self) -> bool:
        """Asked after its block was left: nothing it held is open any more."""
        ...

    def open_speech(self, text: str) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[bytes]]:
        """The text as audio in the line's format, in order, pieces of whole 20 ms frames as they are ready, without
        leading silence. The channel raises SpeechFailed when the vendor fails."""
        ...
