"""What is said again and again is synthesised once: a cache of whole speeches, and a synthesizer that plays from it.

A cache is shared by calls, so what comes into it is chosen: phrases that were declared beforehand, the first time they
are said, and other short sentences without a digit in them when they are said in another call, too. What is said to
one caller alone is not kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import trio

from engine.events import AudioFormat, CallInfo
from engine.ports import Owner, Synthesizer, SynthesizerVendor

LIMIT_BYTES = 32 * 1024 * 1024
"""An hour of mu-law."""
LONGEST_S = 10.0
"""A longer speech is not kept: it is hardly said twice."""
LONGEST_CHARS = 150
"""The same of a text, if it was not declared."""
MAX_SEEN = 10_000
"""Sentences, by their hash, of which it is known that they were said once."""
PIECE_S = 0.5


@dataclass(frozen=True, slots=True)
class Phrase:
    """One text in one voice."""

    vendor: str
    voice: str
    """Whatever else decides how it sounds: voice, model, language, speed."""
    format: AudioFormat
    text: str


class PhraseCache:
    """Audio of phrases, at most ``limit_bytes`` of it; the one that was not asked for the longest gives way."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self.size_bytes = 0
        self.hits = 0
        self.misses = 0
        self._limit_bytes = limit_bytes
        self._clips: OrderedDict[Phrase, bytes] = OrderedDict()
        self._seen: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._clips)

    def get(self, phrase: Phrase) -> bytes | None:
        """Whole frames, or None."""
        clip = self._clips.get(phrase)
        if clip is None:
            self.misses += 1
            return None
        self.hits += 1
        self._clips.move_to_end(phrase)
        return clip

    def put(self, phrase: Phrase, clip: bytes) -> None:
        """What is larger than the whole cache is not kept."""
        if not clip or len(clip) > self._limit_bytes:
            return
        self.size_bytes += len(clip) - len(self._clips.pop(phrase, b""))
        self._clips[phrase] = clip
        while self.size_bytes > self._limit_bytes:
            _, oldest = self._clips.popitem(last=False)
            self.size_bytes -= len(oldest)

    def was_said_elsewhere(self, phrase: Phrase, call_id: str) -> bool:
        """Whether it was asked about in another call before, as far as that is remembered."""
        mark, call = hash(phrase), hash(call_id)
        first = self._seen.setdefault(mark, call)
        self._seen.move_to_end(mark)
        if len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)
        return first != call


@dataclass(frozen=True, slots=True)
class Keeping:
    """What of one voice is kept, and where."""

    cache: PhraseCache
    vendor: str
    voice: str
    """See :attr:`Phrase.voice`."""
    declared: Collection[str] = frozenset()
    """Phrases that are said to every caller alike."""

    def phrase(self, text: str, line: AudioFormat) -> Phrase:
        return Phrase(self.vendor, self.voice, line, normal(text))

    def keeps(self, phrase: Phrase, call_id: str) -> bool:
        """Asked once each time it is said."""
        if phrase.text in map(normal, self.declared):
            return True
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

    def open(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Synthesizer]:
        """Raises SpeechFailed."""
        return self._open(call, owner)

    @asynccontextmanager
    async def _open(self, call: CallInfo, owner: Owner) -> AsyncIterator[Synthesizer]:
        async with self._vendor.open(call, owner) as synthesizer:
            yield cached(synthesizer, self._keeping, call)


def normal(text: str) -> str:
    """Texts that sound alike: spaces do not count."""
    return " ".join(text.split())


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
