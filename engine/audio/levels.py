"""How loud audio is."""

from __future__ import annotations

from engine.audio._audioop import audioop
from engine.audio.g711 import mulaw_to_pcm16
from engine.events import AudioFormat, Encoding

FULL_SCALE = 32768
SILENT_BELOW_DBFS = -50.0
"""Line noise of a telephone lies below this, quiet speech above it."""


def rms(audio: bytes, format: AudioFormat) -> int:  # noqa: A002 - the field's word
    """Root mean square of the samples, 0 to 32768; 0 for no audio."""
    return audioop.rms(mulaw_to_pcm16(audio) if format.encoding is Encoding.MULAW else audio, 2)


def is_silent(
    audio: bytes,
    format: AudioFormat,  # noqa: A002 - the field's word
    below_dbfs: float = SILENT_BELOW_DBFS,
) -> bool:
    return rms(audio, format) < FULL_SCALE * 10 ** (below_dbfs / 20)
