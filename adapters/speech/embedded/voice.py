"""Audio from words: hibari, in the thread that calls it; one :class:`EmbeddedVoice` serves all threads at once."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.audio.convert import Converter
from engine.events import FRAME_S, PCM16_24K, AudioFormat

_GAIN = 1.6
"""The model speaks at about -12 dBFS in its peaks; a telephone line carries more."""
_AUDIBLE = 0.01
_LEAD_S = 0.01
"""Kept before the first audible sample, so that a soft consonant is not cut."""
_TAIL_S = 0.12
"""Kept after the last: the breath between two sentences."""
_WARM_UP = "Hello there, xylophonist."
"""With a word that is in no dictionary, so that the part that reads such words is loaded too."""
_SEED = 0
"""The noise in the voice: fixed, so that equal texts give equal audio."""

Floats = npt.NDArray[np.float32]


class EmbeddedVoice:
    def __init__(self) -> None:
        """Loads and speaks once: half a second to a second."""
        hibari: Any = import_module("hibari")  # it has no types
        self._model = hibari.Hibari(threads=1)
        self._model(_WARM_UP, seed=_SEED)

    def speak(self, text: str, line: AudioFormat, pitch: float = 1.0) -> bytes:
        """The text as whole 20 ms frames, without the silence around it; empty for a text without words.

        ``pitch`` above 1 is a higher voice at the same pace.
        """
        if not any(map(str.isalnum, text)):
            return b""  # the model would make a faint noise of its punctuation
        samples: Floats = self._model(text, speed=1 / pitch, seed=_SEED)
        samples = _trimmed(_repitched(samples, pitch))
        pcm = (np.clip(samples * _GAIN, -1, 1) * 32767).astype("<i2").tobytes()
        return whole_frames(Converter(PCM16_24K, line).feed(pcm + bytes(6)), line)


def whole_frames(audio: bytes, line: AudioFormat) -> bytes:
    """Padded with silence to whole frames."""
    missing = -len(audio) % line.frame_bytes
    return audio + line.silence(FRAME_S)[:missing]


def _trimmed(samples: Floats) -> Floats:
    audible = np.flatnonzero(np.abs(samples) > _AUDIBLE)
    if audible.size == 0:
        return samples[:0]
    rate = PCM16_24K.rate_hz
    return samples[max(0, audible[0] - int(_LEAD_S * rate)) : audible[-1] + int(_TAIL_S * rate)]


def _repitched(samples: Floats, pitch: float) -> Floats:
    if pitch == 1.0:
        return samples
    at = np.arange(0, samples.size - 1, pitch)
    bent: Floats = np.interp(at, np.arange(samples.size), samples).astype(np.float32)
    return bent
