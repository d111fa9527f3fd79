"""A synthesizer that plays what it has said before, from the cache of phrases (:mod:`engine.runtime.phrases`).

The cache is shared by calls, so what comes into it is chosen: short sentences without a digit in them, when they are
said in another call, too. What is said to one caller alone is not kept. What an agent says to all of its own accord is
put there beforehand (:mod:`engine.assembly.phrasebook`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import trio

from engine.events import AudioFormat, CallInfo
from engine.ports import Owner, Synthesizer, SynthesizerVendor
from engine.runtime.phrases import Phrase, PhraseCache, normal

LONGEST_S = 10.0
"""A longer speech is not kept: it is hardly said twice."""
LONGEST_CHARS = 150
"""The same of a text."""
PIECE_S = 0.5


@dataclass(frozen=True, slots=True)
class Keeping:
    """What of one voice is kept, and where."""

    cache: PhraseCache
    vendor: str
    voice: str
    """See :attr:`engine.runtime.phrases.Phrase.voice`."""

    def phrase(self, text: str, line: AudioFormat) -> Phrase:
        return Phrase(self.vendor, self.voice, line, normal(text))

    def keeps(self, phrase: Phrase, call_id: str) -> bool:
        """Asked once each time it is said."""
        if len(phrase.text) > LONGEST_CHARS or any(map(str.isdigit, phrase.text)):
            return False
        return self.cache.was_said_elsewhere(phrase, call_id)


def cached(synthesizer: Synthesizer, keeping: Keeping, call: CallInfo) -> Synthesizer:
    """The synthesizer of one call that plays what it knows and keeps what it learns: speeches that came whole, without
    an error, and were received to their end."""
    return _Cached(synthesizer, keeping, call)


class CachedVendor:
    """Implements ``engine.ports.SynthesizerVendor``: those of another one, with a cache before each."""

    def __init__(self, vendor: SynthesizerVendor, keeping: Keeping) -> None:
        self.name = vendor.name
        self._vendor = vendor
        self._keeping = keeping

    def phrase(self, text: str, line: AudioFormat) -> Phrase:
        """What it is called in the cache, in this voice."""
        return self._keeping.phrase(text, line)

    def open(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Synthesizer]:
        """Raises SpeechFailed."""
        return self._open(call, owner)

    @asynccontextmanager
    async def _open(self, call: CallInfo, owner: Owner) -> AsyncIterator[Synthesizer]:
        async with self._vendor.open(call, owner) as synthesizer:
            yield cached(synthesizer, self._keeping, call)


class _Cached:
    def __init__(self, inner: Synthesizer, keeping: Keeping, call: CallInfo) -> None:
        self._inner = inner
        self._keeping = keeping
        self._call_id = call.call_id
        self._line = call.format

    @property
    def is_closed(self) -> bool:
        return self._inner.is_closed

    @asynccontextmanager
    async def open_speech(self, text: str) -> AsyncIterator[trio.abc.ReceiveChannel[bytes]]:
        phrase = self._keeping.phrase(text, self._line)
        clip = self._keeping.cache.get(phrase)
        if clip is not None and not self._inner.is_closed:
            yield _Clip(clip, int(self._line.bytes_per_s * PIECE_S))
            return
        async with self._inner.open_speech(text) as speech:
            yield (
                _Recorded(speech, phrase, self._keeping.cache) if self._keeping.keeps(phrase, self._call_id) else speech
            )


class _Clip(trio.abc.ReceiveChannel[bytes]):
    def __init__(self, clip: bytes, piece_bytes: int) -> None:
        self._clip = clip
        self._piece_bytes = piece_bytes
        self._at = 0

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        piece = self._clip[self._at : self._at + self._piece_bytes]
        if not piece:
            raise trio.EndOfChannel
        self._at += len(piece)
        return piece

    async def aclose(self) -> None:
        self._at = len(self._clip)
        await trio.lowlevel.checkpoint()


class _Recorded(trio.abc.ReceiveChannel[bytes]):
    """Passes a speech on, and keeps it if its end is seen."""

    def __init__(self, speech: trio.abc.ReceiveChannel[bytes], phrase: Phrase, cache: PhraseCache) -> None:
        self._speech = speech
        self._phrase = phrase
        self._cache = cache
        self._heard: bytearray | None = bytearray()

    async def receive(self) -> bytes:
        try:
            piece = await self._speech.receive()
        except trio.EndOfChannel:
            if self._heard is not None:
                self._cache.put(self._phrase, bytes(self._heard))
                self._heard = None
            raise
        except Exception:
            self._heard = None
            raise
        if self._heard is not None:
            self._heard += piece
            if len(self._heard) > LONGEST_S * self._phrase.format.bytes_per_s:
                self._heard = None
        return piece

    async def aclose(self) -> None:
        self._heard = None
        await self._speech.aclose()
