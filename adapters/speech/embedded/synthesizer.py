"""The voice of one call: text to audio in threads, and fixed phrases from a cache."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import trio

from adapters.speech.pieces import split_text
from engine.errors import SpeechFailed
from engine.events import AudioFormat
from engine.runtime.phrases import Phrase, PhraseCache, normal

VENDOR = "hibari"
PIECE_FRAMES = 25
"""Half a second: few messages, and little to throw away when the caller interrupts."""


class Mouth(Protocol):
    async def speak(self, text: str, line: AudioFormat) -> bytes:
        """One piece of text as whole frames. Waits for its turn; cancelled, it lets go at once. Raises SpeechFailed."""
        ...


def phrase_of(text: str, line: AudioFormat) -> Phrase:
    """What a text in this voice is called in the cache."""
    return Phrase(VENDOR, "", line, normal(text))


class EmbeddedSynthesizer:
    """Implements ``engine.ports.Synthesizer``. Holds nothing between two speeches."""

    def __init__(self, line: AudioFormat, mouth: Mouth, cache: PhraseCache) -> None:
        self.is_closed = False
        self._line = line
        self._mouth = mouth
        self._cache = cache

    def open_speech(self, text: str) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[bytes]]:
        """Speaks a piece of the text when the one before has been taken: the line holds two seconds of audio, and a
        piece takes a tenth of one."""
        return self._open(text)

    def close(self) -> None:
        self.is_closed = True

    @asynccontextmanager
    async def _open(self, text: str) -> AsyncIterator[trio.abc.ReceiveChannel[bytes]]:
        if self.is_closed:
            raise SpeechFailed(VENDOR, "the synthesizer is closed")
        async with Speech(split_text(text), self._line, self._mouth, self._cache) as speech:
            yield speech


class Speech(trio.abc.ReceiveChannel[bytes]):
    """One text on its way to the line. No task of its own: whoever receives waits for the thread."""

    def __init__(
        self,
        pieces: Iterable[str],
        line: AudioFormat,
        mouth: Mouth,
        cache: PhraseCache,
    ) -> None:
        self._texts = deque(pieces)
        self._audio: deque[bytes] = deque()
        self._line = line
        self._mouth = mouth
        self._cache = cache
        self._is_closed = False

    async def receive(self) -> bytes:
        """Half a second or less. Raises trio.EndOfChannel after the last word, SpeechFailed."""
        if self._is_closed:
            raise trio.ClosedResourceError
        while not self._audio:
            if not self._texts:
                raise trio.EndOfChannel
            self._audio.extend(self._cut(await self._speak(self._texts.popleft())))
        await trio.lowlevel.checkpoint_if_cancelled()
        return self._audio.popleft()

    async def aclose(self) -> None:
        self._is_closed = True
        self._texts.clear()
        self._audio.clear()
        await trio.lowlevel.checkpoint()

    async def _speak(self, piece: str) -> bytes:
        cached = self._cache.get(phrase_of(piece, self._line))
        return cached if cached is not None else await self._mouth.speak(piece, self._line)

    def _cut(self, audio: bytes) -> Iterable[bytes]:
        size = PIECE_FRAMES * self._line.frame_bytes
        return (audio[at : at + size] for at in range(0, len(audio), size))
