"""Audio of what is said again and again: one cache for the process, whoever speaks, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from engine.events import AudioFormat

LIMIT_BYTES = 64 * 1024 * 1024
"""Two hours of mu-law."""
MAX_SEEN = 10_000
"""Sentences, by their hash, of which it is known that they were said once."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """One text in one voice."""

    vendor: str
    voice: str
    """Whatever else decides how it sounds: voice, model, language, speed."""
    format: AudioFormat
    text: str
    """As ``normal`` makes it."""


def normal(text: str) -> str:
    """Texts that sound alike: spaces do not count."""
    return " ".join(text.split())


class PhraseCache:
    """At most ``limit_bytes`` of audio. What was put there for good stays; of the rest, what was not asked for the
    longest gives way."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self.size_bytes = 0
        self.hits = 0
        self.misses = 0
        self._limit_bytes = limit_bytes
        self._for_good: dict[Phrase, bytes] = {}
        self._for_good_bytes = 0
        self._learned: OrderedDict[Phrase, bytes] = OrderedDict()
        self._seen: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._for_good) + len(self._learned)

    def __contains__(self, phrase: Phrase) -> bool:
        """It stays there."""
        return phrase in self._for_good

    def get(self, phrase: Phrase) -> bytes | None:
        """Whole frames, or None."""
        clip = self._for_good.get(phrase)
        if clip is None and (clip := self._learned.get(phrase)) is not None:
            self._learned.move_to_end(phrase)
        if clip is None:
            self.misses += 1
        else:
            self.hits += 1
        return clip

    def put(self, phrase: Phrase, clip: bytes, *, for_good: bool = False) -> bool:
        """False if there is no room for it: it is then made afresh every time."""
        room = self._limit_bytes - self._for_good_bytes
        if not clip or phrase in self._for_good or len(clip) > room:
            return phrase in self._for_good
        self.size_bytes += len(clip) - len(self._learned.pop(phrase, b""))
        if for_good:
            self._for_good[phrase] = clip
            self._for_good_bytes += len(clip)
        else:
            self._learned[phrase] = clip
        while self.size_bytes > self._limit_bytes:
            _, oldest = self._learned.popitem(last=False)
            self.size_bytes -= len(oldest)
        return True

    def was_said_elsewhere(self, phrase: Phrase, call_id: str) -> bool:
        """Whether it was asked about in another call before, as far as that is remembered."""
        mark, call = hash(phrase), hash(call_id)
        first = self._seen.setdefault(mark, call)
        self._seen.move_to_end(mark)
        if len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)
        return first != call
