"""The ear and the voice of one call."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

import trio

from engine.events import CallInfo, TranscriberEvent
from engine.ports.ownership import Owner


class Transcriber(Protocol):
    """The ear of one call."""

    @property
    def is_closed(self) -> bool:
        """Asked after its block was left: nothing it held is open any more."""
        ...

    @property
    def decides_turns(self) -> bool:
        """It tells by ``TurnOver`` when the caller's turn is over, and should be waited for."""
        ...

    def send(self, audio: bytes) -> None:
        """Caller audio in the line's format, as it came: a frame of 20 ms or a few together. Queues at most 2 s,
        then drops the oldest."""
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


class TranscriberVendor(Protocol):
    """A recogniser of the settings. Shared by all calls; keeps nothing of any."""

    name: str
    """Metric label, and the vendor in the ledger."""

    def open(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Transcriber]:
        """One connection, tried once; it is ready when the block begins. Raises SpeechFailed. The caller sets the
        deadline, and enters the transcriber itself into the ledger; ``owner`` is for what lies beneath it."""
        ...


class SynthesizerVendor(Protocol):
    """A synthesizer of the settings: a vendor and one of its voices. Shared by all calls; keeps nothing of any."""

    name: str

    def open(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Synthesizer]:
        """As :meth:`TranscriberVendor.open`."""
        ...
