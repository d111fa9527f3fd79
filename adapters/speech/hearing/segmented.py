"""The ear of one call: voice activity, then words, as early as the caller's silence allows."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import structlog
import trio

from adapters.speech.hearing.segments import RATE_HZ, Change, Hearing, Segmenter
from engine.audio.convert import Converter
from engine.errors import SpeechFailed
from engine.events import PCM16_8K, AudioFormat, Heard, SpeechStarted, SpeechStopped, TranscriberEvent

VENDOR = "moonshine"
LEAD_SAMPLES = RATE_HZ // 5
"""Audio given to the recogniser before the onset: the model of voice activity is late for soft consonants."""
LEAST_VOICED_FRAMES = 5
"""A segment with less voice in it, 0.16 s, holds no word."""
MAX_OWED = 4
"""Segments whose words have not been found yet. Beyond this the machine is too slow: the oldest is given up."""
MAX_EVENTS = 64
LONGEST_GAP_S = 0.5
"""A line that sends no audio for so long, beyond what makes a stop, suppresses silence: then it is silent."""
_STALL_S = 0.05
"""What our own loop may have kept waiting is read first."""
_SILENT_SAMPLES = RATE_HZ
"""While nobody speaks this much is kept, for the onset that has not been recognised as one yet."""

log = structlog.get_logger()


class Words(Protocol):
    async def find(self, request: Request) -> str:
        """The words in the request's audio. Waits for its turn; cancelled, it lets go at once."""
        ...


class Listener(Protocol):
    """Whoever wants to know of one call's speech. Called on the loop; must not wait."""

    def judged(self, probability: float, level: int) -> None:
        """The next frame's probability of speech, and the root mean square of its samples."""
        ...

    def skipped(self, samples: int) -> None:
        """Audio was dropped unjudged, because it came faster than it could be judged."""
        ...

    def failed(self) -> None:
        """No more probabilities will come."""
        ...


class Lane(Protocol):
    """One call's audio on its way to being judged."""

    dropped_samples: int

    def push(self, pcm: bytes) -> None:
        """16-bit samples at 8 kHz. Never waits."""
        ...


class Activity(Protocol):
    """Tells when the caller speaks: ``VoiceActivity``, or what is there without the embedded models."""

    def open_lane(self, listener: Listener) -> AbstractContextManager[Lane]: ...


@dataclass(eq=False, slots=True)
class Request:
    """A piece of audio to be recognised."""

    audio: bytes
    line: AudioFormat
    text: str | None = None
    """The result, once there is one."""
    is_owed: bool = False
    """The caller has stopped: a final Heard must come of it."""
    is_unwanted: bool = False
    """The caller went on. Read by the thread that computes."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def give_up(self) -> None:
        self.is_unwanted = True
        self.scope.cancel()


class Recording:
    """The line's own audio, as far back as it may still be needed. Positions are samples at 8 kHz since the start."""

    def __init__(self, line: AudioFormat) -> None:
        self._bytes_per_sample = line.bytes_per_s // RATE_HZ
        self._audio = bytearray()
        self._begins_at = 0

    @property
    def ends_at(self) -> int:
        return self._begins_at + len(self._audio) // self._bytes_per_sample

    def append(self, audio: bytes) -> None:
        self._audio += audio

    def forget_before(self, position: int) -> None:
        if position > self._begins_at:
            del self._audio[: (position - self._begins_at) * self._bytes_per_sample]
            self._begins_at = position

    def cut(self, start: int, end: int) -> bytes:
        """What is left of this stretch."""
        first = max(0, start - self._begins_at)
        return bytes(self._audio[first * self._bytes_per_sample : (end - self._begins_at) * self._bytes_per_sample])


class EmbeddedTranscriber:
    """Implements ``engine.ports.Transcriber``; made by :func:`open_transcriber`.

    Recognising starts while the caller may still go on, at the first pause, so that the words are usually there when
    the caller has stopped. If they do go on, that work is thrown away.
    """

    decides_turns = False

    def __init__(self, line: AudioFormat, words: Words, hearing: Hearing) -> None:
        self.is_closed = False
        self.given_up = 0
        """Segments whose words were not found in time."""
        self._line = line
        self._words = words
        self._lane: Lane | None = None
        self._failure: SpeechFailed | None = None
        self._to_lane = Converter(line, PCM16_8K)
        self._recording = Recording(line)
        self._segmenter = Segmenter(hearing)
        self._longest_gap_s = hearing.hangover_s + LONGEST_GAP_S
        self._longest_samples = int((hearing.longest_s + 1) * RATE_HZ)
        self._last_audio_at_s = trio.current_time()
        self._guess: Request | None = None
        """Made at a pause that may turn out not to be the end."""
        self._requests: deque[Request] = deque()
        self._something_to_do = trio.Event()
        self._speaks = trio.Event()
        self._events, self._received = trio.open_memory_channel[TranscriberEvent](MAX_EVENTS)

    @property
    def dropped_s(self) -> float:
        """Seconds of audio dropped because they came faster than they could be judged."""
        return self._lane.dropped_samples / RATE_HZ if self._lane is not None else 0.0

    def attach(self, lane: Lane) -> None:
        self._lane = lane

    def send(self, audio: bytes) -> None:
        if self._lane is None or self.is_closed:
            return
        self._last_audio_at_s = trio.current_time()
        self._recording.append(audio)
        self._lane.push(self._to_lane.feed(audio))

    async def receive(self) -> TranscriberEvent:
        """Raises SpeechFailed when no more words can come."""
        try:
            return await self._received.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise self._failure or SpeechFailed(VENDOR, "the recogniser has stopped") from None

    def close(self) -> None:
        """Idempotent. Threads that compute for this call are told to stop."""
        self.is_closed = True
        for request in self._requests:
            request.give_up()
        self._requests.clear()
        self._events.close()
        self._received.close()

    # --- voice activity -> segments (the Listener of a lane) ------------------------------------------------

    def judged(self, probability: float, level: int) -> None:
        segmenter = self._segmenter
        change = segmenter.feed(probability, level)
        if change is not None:
            self._on_change(change)
        elif not segmenter.is_speech:
            self._recording.forget_before(segmenter.position - _SILENT_SAMPLES)

    def skipped(self, samples: int) -> None:
        self._segmenter.skip(samples)
        self._recording.forget_before(self._segmenter.position - self._longest_samples)

    def failed(self) -> None:
        self._events.close()

    def _on_change(self, change: Change) -> None:
        match change:
            case Change.STARTED:
                self._speaks.set()
                self._emit(SpeechStarted(self._time_of(self._segmenter.started_at)))
            case Change.PAUSED:
                self._guess = self._request()
            case Change.RESUMED:
                self._drop_guess()
            case Change.STOPPED:
                self._stopped()

    def _stopped(self) -> None:
        self._emit(SpeechStopped(self._time_of(self._segmenter.voiced_until)))
        request, self._guess = self._guess or self._request(), None
        request.is_owed = True
        if request.text is not None:
            self._emit(Heard(request.text))
        self._recording.forget_before(self._segmenter.voiced_until)
        while sum(waiting.is_owed for waiting in self._requests) > MAX_OWED:
            self._give_up(next(waiting for waiting in self._requests if waiting.is_owed))

    def _request(self) -> Request:
        """Ask for the words of the speech so far; at once if there are none to be found."""
        segmenter = self._segmenter
        audio = self._recording.cut(segmenter.started_at - LEAD_SAMPLES, segmenter.position)
        request = Request(audio, self._line)
        if segmenter.voiced_frames < LEAST_VOICED_FRAMES:
            request.text = ""
        else:
            self._requests.append(request)
            self._something_to_do.set()
        return request

    def _drop_guess(self) -> None:
        if self._guess is not None:
            self._guess.give_up()
            if self._guess in self._requests:
                self._requests.remove(self._guess)
            self._guess = None

    def _give_up(self, request: Request) -> None:
        self._requests.remove(request)
        self.given_up += 1
        request.text = ""
        request.give_up()
        self._emit(Heard(""))

    def _time_of(self, position: int) -> float:
        """When the sample at this position came in, on the engine's clock."""
        return self._last_audio_at_s - (self._recording.ends_at - position) / RATE_HZ

    def _emit(self, event: TranscriberEvent) -> None:
        try:
            self._events.send_nowait(event)
        except trio.WouldBlock:  # nobody listens any more: say so, rather than grow
            self._events.close()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    # --- a line that sends nothing while the caller is silent -----------------------------------------------

    async def fill_gaps(self) -> None:
        """End the speech of a caller whose line has stopped sending, by hearing the silence it did not send."""
        while True:
            self._speaks = trio.Event()
            if not self._segmenter.is_speech:
                await self._speaks.wait()
            while self._segmenter.is_speech:
                seen = self._last_audio_at_s
                await trio.sleep_until(seen + self._longest_gap_s)
                await trio.sleep(_STALL_S)
                if self._last_audio_at_s == seen:
                    self.send(self._line.silence(trio.current_time() - seen))

    # --- segments -> words ----------------------------------------------------------------------------------

    async def recognise(self) -> None:
        """The call's one task: one piece at a time, so that a talkative caller takes nobody's turn."""
        try:
            while True:
                while not self._requests:
                    self._something_to_do = trio.Event()
                    await self._something_to_do.wait()
                await self._answer(self._requests[0])
        except SpeechFailed as exc:
            log.warning("recognising failed", what=str(exc))
            self._failure = exc
        finally:
            self._events.close()  # and so `receive` says that no more words can come

    async def _answer(self, request: Request) -> None:
        with request.scope:
            text = await self._words.find(request)
            if request.is_unwanted:
                return
            self._requests.remove(request)
            request.text = text
            if request.is_owed:
                self._emit(Heard(text))


@asynccontextmanager
async def open_transcriber(
    line: AudioFormat,
    words: Words,
    activity: Activity,
    hearing: Hearing,
) -> AsyncIterator[EmbeddedTranscriber]:
    """Leaving the block is immediate: what a thread still computes for it is told to stop, and not waited for."""
    transcriber = EmbeddedTranscriber(line, words, hearing)
    try:
        with activity.open_lane(transcriber) as lane:
            transcriber.attach(lane)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(transcriber.recognise)
                nursery.start_soon(transcriber.fill_gaps)
                yield transcriber
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        only = _one_of(group)
        raise only from only.__cause__
    finally:
        transcriber.close()


def _one_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What the block raised leaves as it is. Our tasks and the block are cancelled together: one Cancelled says it, as
    if there were no tasks."""
    cancelled, rest = group.split(trio.Cancelled)
    if cancelled is not None and rest is not None:
        return group
    only: BaseException = group
    while isinstance(only, BaseExceptionGroup):
        if rest is not None and len(only.exceptions) > 1:
            return group
        only = only.exceptions[0]
    return only
