"""Is somebody speaking, by how loud it is: for when the embedded models are not installed. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from adapters.speech.hearing.segmented import Listener
from adapters.speech.hearing.segments import FRAME_SAMPLES
from engine.audio.levels import rms
from engine.events import PCM16_8K

_FRAME_BYTES = 2 * FRAME_SAMPLES
LEAST_LEVEL = 184
"""45 dB below full scale: nothing fainter is speech."""
STARTS_ABOVE = 3.2
"""Times the level of the line's noise, 10 dB: somebody speaks."""
GOES_ON_ABOVE = 2.0
_MAYBE = 0.4
"""A probability that lets speech go on and does not start it."""
_FALL = 0.3
_RISE = 1.005
"""How the idea of the noise follows what is heard, a frame of 32 ms: down at once, up twice in four seconds."""


class EnergyLane:
    """One call's audio, judged as it is pushed."""

    dropped_samples = 0

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._audio = bytearray()
        self._noise = LEAST_LEVEL / STARTS_ABOVE

    def push(self, pcm: bytes) -> None:
        """16-bit samples at 8 kHz."""
        self._audio += pcm
        while len(self._audio) >= _FRAME_BYTES:
            level = rms(bytes(self._audio[:_FRAME_BYTES]), PCM16_8K)
            del self._audio[:_FRAME_BYTES]
            self._listener.judged(self._probability(level), level)

    def _probability(self, level: int) -> float:
        if level < self._noise:
            self._noise += (level - self._noise) * _FALL
        else:
            self._noise *= _RISE
        noise = max(self._noise, LEAST_LEVEL / STARTS_ABOVE)
        if level > noise * STARTS_ABOVE:
            return 1.0
        return _MAYBE if level > noise * GOES_ON_ABOVE else 0.0


class EnergyActivity:
    """Implements ``adapters.speech.hearing.segmented.Activity``. Keeps nothing."""

    @contextmanager
    def open_lane(self, listener: Listener) -> Iterator[EnergyLane]:
        yield EnergyLane(listener)
