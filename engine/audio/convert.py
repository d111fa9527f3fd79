"""From one :class:`~engine.events.AudioFormat` to another."""

from __future__ import annotations

import math

from engine.audio.g711 import mulaw_to_pcm16, pcm16_to_mulaw
from engine.audio.resample import Resampler, resample
from engine.events import AudioFormat, Encoding


class Converter:
    """One stream of audio, piece by piece; equal formats pass through untouched."""

    def __init__(self, source: AudioFormat, target: AudioFormat) -> None:
        self.source = source
        self.target = target
        self._resampler = Resampler(source.rate_hz, target.rate_hz) if source.rate_hz != target.rate_hz else None
        self.delay_s = 0.0 if self._resampler is None else self._resampler.delay_s
        """How far what comes out lags behind what goes in: its first samples are silence of this length, and
        :meth:`flush` gives its last."""

    def feed(self, audio: bytes) -> bytes:
        """Audio in the source's format; what comes out has the same length in seconds, to a sample."""
        if self.source == self.target:
            return audio
        pcm = mulaw_to_pcm16(audio) if self.source.encoding is Encoding.MULAW else audio
        if self._resampler is not None:
            pcm = self._resampler.feed(pcm)
        return pcm16_to_mulaw(pcm) if self.target.encoding is Encoding.MULAW else pcm

    def flush(self) -> bytes:
        """What is still under way in the filter, at the end of a stream."""
        if self._resampler is None:
            return b""
        zero = b"\xff" if self.source.encoding is Encoding.MULAW else b"\0\0"
        return self.feed(zero * math.ceil(self.source.rate_hz * self.delay_s))


def convert(audio: bytes, source: AudioFormat, target: AudioFormat) -> bytes:
    """A whole recording in another format."""
    if source == target:
        return audio
    pcm = mulaw_to_pcm16(audio) if source.encoding is Encoding.MULAW else audio
    pcm = resample(pcm, source.rate_hz, target.rate_hz)
    return pcm16_to_mulaw(pcm) if target.encoding is Encoding.MULAW else pcm
