"""What an agent says of its own accord, as ready audio: heard even when every vendor is silent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import structlog
import trio

from engine.errors import VendorError
from engine.events import AudioFormat, CallInfo
from engine.ports import SynthesizerVendor
from engine.runtime.book import Book
from engine.runtime.ledger import Ledger
from engine.runtime.phrases import Phrase, PhraseCache

log = structlog.get_logger()

PHRASE_S = 8.0
"""For one phrase to be made."""


class KeptVoice(SynthesizerVendor, Protocol):
    """A synthesizer whose speeches have a name in the cache."""

    def phrase(self, text: str, line: AudioFormat) -> Phrase: ...


class Phrasebook:
    """Phrases of one agent, kept for good in the cache of the process. ``voices``: who speaks, the agent's own first; a
    further one is asked where the one before failed, and is better than silence."""

    def __init__(self, agent: str, voices: Sequence[KeptVoice], cache: PhraseCache, book: Book) -> None:
        self._agent = agent
        self._voices = voices
        self._cache = cache
        self._book = book
        self._phrases: dict[tuple[str, AudioFormat], Phrase] = {}
        """What was said, by whichever voice."""

    def clip(self, text: str, line: AudioFormat) -> bytes | None:
        phrase = self._phrases.get((text, line))
        return self._cache.get(phrase) if phrase is not None else None

    async def prepare(self, texts: Iterable[str], lines: Iterable[AudioFormat]) -> list[str]:
        """Make what is not there yet, as long as there is room for it. Returns what could not be made."""
        wanted, missing = [text for text in dict.fromkeys(texts) if text], dict[str, None]()
        for line in lines:
            left = [text for text in wanted if (text, line) not in self._phrases]
            for voice in self._voices:
                left = await self._spoken(voice, self._not_known(voice, left, line), line)
            missing |= dict.fromkeys(left)
        return list(missing)

    def _not_known(self, voice: KeptVoice, texts: Sequence[str], line: AudioFormat) -> list[str]:
        """Without those that another agent of this voice says, too."""
        for text in texts:
            if (phrase := voice.phrase(text, line)) in self._cache:
                self._phrases[text, line] = phrase
        return [text for text in texts if (text, line) not in self._phrases]

    async def _spoken(self, voice: KeptVoice, texts: Sequence[str], line: AudioFormat) -> list[str]:
        """Have one voice say them all. Returns what it did not say."""
        left = list(texts)
        if not left:
            return left
        ledger = Ledger(f"phrases of {self._agent}", self._book)
        call = CallInfo("", ledger.call_id, "", line, self._agent)
        try:
            with trio.fail_after(PHRASE_S) as patience:
                async with voice.open(call, ledger) as synthesizer:
                    for text in texts:
                        patience.deadline = trio.current_time() + PHRASE_S
                        async with synthesizer.open_speech(text) as speech:
                            audio = b"".join([piece async for piece in speech])
                        if audio:
                            left.remove(text)
                            self._phrases[text, line] = phrase = voice.phrase(text, line)
                            if not self._cache.put(phrase, audio, for_good=True):
                                log.warning("phrase_not_kept", agent=self._agent, bytes=len(audio))
        except (VendorError, trio.TooSlowError) as exc:
            log.warning("phrases_not_prepared", agent=self._agent, vendor=voice.name, left=len(left), detail=str(exc))
        finally:
            ledger.settle()
        return left
