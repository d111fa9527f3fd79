"""Where recordings of calls are kept."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from engine.errors import OffhookError


class RecordingFailed(OffhookError):
    """It could not be kept. ``why`` is a metric label: ``full``, ``refused``, ``unreachable`` or ``error``."""

    def __init__(self, why: str, detail: str = "") -> None:
        super().__init__(detail or why)
        self.why = why


class RecordingSink(Protocol):
    """One recording that is being written. Memory is bounded, whatever its length."""

    async def write(self, pcm: bytes) -> None:
        """Signed 16-bit stereo behind what there is. Raises RecordingFailed; it is of no more use then."""
        ...


class RecordingStore(Protocol):
    """Keeps WAV files, those of one person in one folder."""

    name: str
    """``directory`` or ``s3``."""

    def open(self, folder: str, name: str, rate_hz: int) -> AbstractAsyncContextManager[RecordingSink]:
        """A new recording, ``name`` without its ending; both of them are letters, digits, ``_`` and ``-``. Left in
        peace, it is finished; an exception of the block removes what cannot be used. Raises RecordingFailed."""
        ...

    async def erase(self, folder: str) -> int:
        """Everything in the folder; how many there were. Raises RecordingFailed."""
        ...
