"""A speech on its way to the line: what a vendor has sent of it, and who waits for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import trio

from engine.audio.framing import Framer
from engine.errors import SpeechFailed
from engine.events import AudioFormat

HELD_S = 2.0
"""Audio made ready and not yet taken. Beyond it the vendor is not read."""
PIECE_S = 0.5
"""Longest piece handed out: little to throw away when the caller interrupts."""


class Take:
    """The audio of one text on its way from the task that reads to whoever receives."""

    def __init__(self, source: AudioFormat, line: AudioFormat, on_cancel: Callable[[Take], None] | None = None) -> None:
        self._framer = Framer(source, line)
        self._slice_bytes = int(source.bytes_per_s * PIECE_S)
        self._line = line
        self._on_cancel = on_cancel
        self._pieces: deque[bytes] = deque()
        self._held_s = 0.0
        self._is_over = False
        self._error: SpeechFailed | None = None
        self._changed = trio.lowlevel.ParkingLot()
        self._taken = trio.lowlevel.ParkingLot()

    async def put(self, audio: bytes) -> None:
        """Waits while enough is held, unless nobody wants it any more."""
        for at in range(0, len(audio), self._slice_bytes):
            while self._held_s >= HELD_S and not self._is_over:
                await self._taken.park()
            if self._is_over:
                return
            self._hold(self._framer.feed(audio[at : at + self._slice_bytes]))

    def finish(self, error: SpeechFailed | None) -> None:
        """No more comes. What is held can still be taken."""
        if not self._is_over:
            self._hold(self._framer.finish())
            self._is_over = True
            self._error = error
            self._changed.unpark_all()

    async def get(self) -> bytes:
        """Raises trio.EndOfChannel after the last piece, SpeechFailed."""
        while not self._pieces:
            if self._is_over:
                await trio.lowlevel.checkpoint()
                raise self._error or trio.EndOfChannel
            await self._changed.park()
        await trio.lowlevel.checkpoint_if_cancelled()
        piece = self._pieces.popleft()
        self._held_s -= self._line.duration_s(piece)
        self._taken.unpark_all()
        return piece

    def cancel(self) -> None:
        """Nobody receives any more."""
        self._is_over = True
        self._pieces.clear()
        if self._on_cancel is not None:
            self._on_cancel(self)
        self._taken.unpark_all()

    def _hold(self, frames: bytes) -> None:
        if frames:
            self._pieces.append(frames)
            self._held_s += self._line.duration_s(frames)
            self._changed.unpark_all()


class Speech(trio.abc.ReceiveChannel[bytes]):
    """What ``open_speech`` gives: the pieces of one text, each asked for when the one before has been heard out."""

    def __init__(self, texts: Sequence[str], ask: Callable[[str], Awaitable[Take]]) -> None:
        self._texts = deque(texts)
        self._ask = ask
        self._take: Take | None = None
        self._is_closed = False

    async def begin(self) -> None:
        """Ask for the next piece, if there is one. Raises SpeechFailed."""
        if self._texts:
            self._take = await self._ask(self._texts[0])  # which may be cancelled, and asked again
            self._texts.popleft()

    async def receive(self) -> bytes:
        """Half a second or less. Raises trio.EndOfChannel after the last word, SpeechFailed."""
        if self._is_closed:
            raise trio.ClosedResourceError
        while True:
            if self._take is None:
                await self.begin()
            if self._take is None:
                await trio.lowlevel.checkpoint()
                raise trio.EndOfChannel
            try:
                return await self._take.get()
            except trio.EndOfChannel:
                self._take = None

    def close(self) -> None:
        """Whatever has not been received is not wanted any more. Never waits."""
        self._is_closed = True
        self._texts.clear()
        if self._take is not None:
            self._take.cancel()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()
