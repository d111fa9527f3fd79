"""What an agent says of its own accord, as ready audio: heard even when every vendor is silent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import structlog
import trio

from engine.errors import VendorError
from engine.events import AudioFormat, CallInfo
from engine.ports import SynthesizerVendor
from engine.runtime.book import Book
from engine.runtime.ledger import Ledger

log = structlog.get_logger()

PHRASE_S = 8.0
"""For one phrase to be made."""
MAX_BYTES = 32 * 1024 * 1024


class Phrasebook:
    """Phrases of one agent. ``voices``: who speaks, the agent's own first; a further one is asked where the one before
    failed, and is better than silence."""

    def __init__(self, agent: str, voices: Sequence[SynthesizerVendor], book: Book) -> None:
        self._agent = agent
        self._voices = voices
        self._book = book
        self._clips: dict[tuple[str, AudioFormat], bytes] = {}
        self._bytes = 0

    def clip(self, text: str, line: AudioFormat) -> bytes | None:
        return self._clips.get((text, line))

    async def prepare(self, texts: Iterable[str], lines: Iterable[AudioFormat]) -> list[str]:
        """Make what is not there yet. Returns what could not be made."""
        wanted, missing = [text for text in dict.fromkeys(texts) if text], dict[str, None]()
        for line in lines:
            left = [text for text in wanted if (text, line) not in self._clips]
            for voice in self._voices:
                if left and self._bytes < MAX_BYTES:
                    left = await self._spoken(voice, left, line)
            missing |= dict.fromkeys(left)
        return list(missing)

    async def _spoken(self, voice: SynthesizerVendor, texts: Sequence[str], line: AudioFormat) -> list[str]:
        """Have one voice say them all. Returns what it did not say."""
        left = list(texts)
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
                            self._clips[text, line] = audio
                            self._bytes += len(audio)
                            left.remove(text)
        except (VendorError, trio.TooSlowError) as exc:
            log.warning(
                "phrases_not_prepared",
                agent=self._agent,
                vendor=voice.name,
                audio=f"{line.encoding}/{line.rate_hz}",
                left=len(left),
                detail=str(exc),
            )
        finally:
            ledger.settle()
        return left
