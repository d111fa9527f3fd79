"""Speech with no account: every model of the process, and the ears and voices that its calls open.

Models compute in worker threads, at most ``worker_threads`` at once; whoever comes later waits, first come, first
served. Voice activity is apart from that: one actor for all calls (see :mod:`adapters.speech.embedded.voice_activity`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import trio

from adapters.speech.embedded import synthesizer as mouth
from adapters.speech.embedded.packages import require_packages
from adapters.speech.embedded.synthesizer import EmbeddedSynthesizer, phrase_of
from adapters.speech.hearing import segmented as ear
from adapters.speech.hearing.segmented import Request, open_transcriber
from adapters.speech.hearing.segments import DEFAULT_HEARING, FRAME_SAMPLES, RATE_HZ, Change, Hearing, Segmenter
from adapters.speech.pieces import split_text
from engine.audio.convert import convert
from engine.errors import SpeechFailed
from engine.events import PCM16_8K, AudioFormat, CallInfo
from engine.machine import usable_cores
from engine.ports import Owner, Synthesizer, Transcriber
from engine.runtime.phrases import Phrase, PhraseCache

if TYPE_CHECKING:
    # Imported when the models are loaded: numpy and onnxruntime are in an extra, and slow to import.
    from adapters.speech.embedded.recogniser import Recogniser
    from adapters.speech.embedded.voice import EmbeddedVoice
    from adapters.speech.embedded.voice_activity import SpeechModel, VoiceActivity

T = TypeVar("T")
_LEAD_SAMPLES = RATE_HZ // 5
THREADS_END_S = 3.0
"""Longer than any one piece of work: ten seconds of speech are recognised in half a second."""


@dataclass(frozen=True, slots=True)
class Models:
    recogniser: Recogniser
    voice: EmbeddedVoice
    activity: SpeechModel


def load_models() -> Models:
    """Everything, in this thread: two to three seconds. Raises SettingsError when a package is missing."""
    require_packages()
    from adapters.speech.embedded.recogniser import Recogniser  # noqa: PLC0415 - see TYPE_CHECKING above
    from adapters.speech.embedded.voice import EmbeddedVoice  # noqa: PLC0415
    from adapters.speech.embedded.voice_activity import SpeechModel  # noqa: PLC0415

    models = Models(Recogniser(), EmbeddedVoice(), SpeechModel())
    # The first pass of a model is several times slower than the next.
    models.recogniser.recognise(PCM16_8K.silence(1.0), PCM16_8K)
    return models


class EmbeddedSpeech:
    """One for the process, shared by its calls; keeps nothing of any of them but the phrases it was told to prepare.

    ``run`` it in a nursery that outlives the calls.
    """

    def __init__(
        self,
        models: Models,
        *,
        worker_threads: int = 0,
        hearing: Hearing = DEFAULT_HEARING,
        cache: PhraseCache | None = None,
    ) -> None:
        """``worker_threads`` 0 means one for each usable core. ``cache``: where prepared phrases are, if others have
        theirs there, too."""
        from adapters.speech.embedded.voice_activity import VoiceActivity  # noqa: PLC0415 - see TYPE_CHECKING above

        self._models = models
        self._hearing = hearing
        self._cache = PhraseCache() if cache is None else cache
        self.limiter = trio.CapacityLimiter(worker_threads or usable_cores())
        """Fair. A token stays taken until its thread has ended, even when its call no longer waits for it."""
        self.activity: VoiceActivity = VoiceActivity(models.activity)

    @classmethod
    async def load(
        cls, *, worker_threads: int = 0, hearing: Hearing = DEFAULT_HEARING, cache: PhraseCache | None = None
    ) -> EmbeddedSpeech:
        """Load every model in a thread. Raises SettingsError naming the extra when a package is missing."""
        models = await trio.to_thread.run_sync(load_models)
        return cls(models, worker_threads=worker_threads, hearing=hearing, cache=cache)

    async def run(self) -> None:
        """Listen for all calls, until cancelled; then wait a moment for the threads that calls have let go."""
        try:
            await self.activity.run()
        except trio.Cancelled:
            # An interpreter that ends under a computing thread aborts the process, whatever its exit code was to be.
            with trio.move_on_after(THREADS_END_S, shield=True):
                await self.threads_end()
            raise

    async def threads_end(self) -> None:
        """Until no thread computes for any call: every token can be had at once. They are given back."""
        holders = [object() for _ in range(int(self.limiter.total_tokens))]
        try:
            for holder in holders:
                await self.limiter.acquire_on_behalf_of(holder)
        finally:
            for holder in holders:
                if holder in self.limiter.statistics().borrowers:
                    self.limiter.release_on_behalf_of(holder)

    # --- calls ----------------------------------------------------------------------------------------------

    def open_transcriber(self, call: CallInfo) -> AbstractAsyncContextManager[Transcriber]:
        return open_transcriber(call.format, self, self.activity, self._hearing)

    def open_synthesizer(self, call: CallInfo) -> AbstractAsyncContextManager[Synthesizer]:
        return self._open_synthesizer(call.format)

    async def prepare(self, phrases: Iterable[str], line: AudioFormat) -> None:
        """Make the audio of fixed phrases beforehand, as long as there is room for it.

        Only for what is said to every caller alike, never for a text with a caller's affairs in it.
        """
        pieces = dict.fromkeys(piece for phrase in phrases for piece in split_text(phrase))
        for piece in pieces:
            phrase = phrase_of(piece, line)
            if phrase in self._cache:
                continue
            audio = await self.speak(piece, line)
            if audio and not self._cache.put(phrase, audio, for_good=True):
                return

    # --- threads --------------------------------------------------------------------------------------------

    async def render(self, text: str, line: AudioFormat, *, pitch: float = 1.0) -> bytes:
        """The text as one clip of whole frames. ``pitch`` 0.8 to 1.25 makes other voices of the one there is.

        Raises SpeechFailed.
        """
        return await self._in_thread(mouth.VENDOR, lambda: self._models.voice.speak(text, line, pitch))

    async def speak(self, text: str, line: AudioFormat) -> bytes:
        return await self.render(text, line)

    async def recognise(self, audio: bytes, line: AudioFormat) -> str:
        """The words in a whole recording of any length. Raises SpeechFailed."""
        return await self._in_thread(ear.VENDOR, lambda: transcribe(self._models, audio, line, self._hearing))

    async def find(self, request: Request) -> str:
        recognise = self._models.recogniser.recognise
        return await self._in_thread(
            ear.VENDOR, lambda: recognise(request.audio, request.line, lambda: request.is_unwanted)
        )

    async def _in_thread(self, vendor: str, work: Callable[[], T]) -> T:
        try:
            # Abandoned, not awaited: a call that has been hung up is let go at once. The limiter's token goes back
            # when the thread has ended.
            return await trio.to_thread.run_sync(work, limiter=self.limiter, abandon_on_cancel=True)
        except Exception as exc:  # foreign exceptions stop at the adapter
            raise SpeechFailed(vendor, f"the model failed: {type(exc).__name__}") from exc

    @asynccontextmanager
    async def _open_synthesizer(self, line: AudioFormat) -> AsyncIterator[EmbeddedSynthesizer]:
        synthesizer = EmbeddedSynthesizer(line, self, self._cache)
        try:
            yield synthesizer
        finally:
            synthesizer.close()


class EmbeddedTranscriberVendor:
    """Implements ``engine.ports.TranscriberVendor``."""

    name = ear.VENDOR

    def __init__(self, speech: EmbeddedSpeech) -> None:
        self._speech = speech

    def open(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Transcriber]:
        return self._speech.open_transcriber(call)


class EmbeddedSynthesizerVendor:
    """Implements ``engine.ports.SynthesizerVendor``."""

    name = mouth.VENDOR

    def __init__(self, speech: EmbeddedSpeech) -> None:
        self._speech = speech

    def phrase(self, text: str, line: AudioFormat) -> Phrase:
        """What it is called in the cache."""
        return phrase_of(text, line)

    def open(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Synthesizer]:
        return self._speech.open_synthesizer(call)


def transcribe(models: Models, audio: bytes, line: AudioFormat, hearing: Hearing = DEFAULT_HEARING) -> str:
    """The words in a whole recording, stretch by stretch, in this thread."""
    scale = line.bytes_per_s // RATE_HZ
    texts = []
    for start, end in _stretches(models.activity, convert(audio, line, PCM16_8K), hearing):
        texts.append(models.recogniser.recognise(audio[start * scale : end * scale], line))
    return " ".join(text for text in texts if text)


def _stretches(model: SpeechModel, pcm: bytes, hearing: Hearing) -> Iterable[tuple[int, int]]:
    from adapters.speech.embedded.voice_activity import level_of, new_memory  # noqa: PLC0415 - see TYPE_CHECKING above

    segmenter, memory = Segmenter(hearing), new_memory()
    context = bytes(64)
    ended_at = 0
    padded = pcm + PCM16_8K.silence(hearing.hangover_s + 0.2)
    for at in range(0, len(padded) - 2 * FRAME_SAMPLES, 2 * FRAME_SAMPLES):
        frame = padded[at : at + 2 * FRAME_SAMPLES]
        (probability,), (memory,) = model.judge([context + frame], [memory])
        context = frame[-64:]
        if segmenter.feed(probability, level_of(frame)) is Change.STOPPED:
            yield max(ended_at, segmenter.started_at - _LEAD_SAMPLES), segmenter.position
            ended_at = segmenter.voiced_until
