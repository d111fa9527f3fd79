"""Synthesised speech as a line carries it: the line's format, whole frames, no silence in front."""

from __future__ import annotations

from engine.audio.convert import Converter
from engine.audio.levels import is_silent
from engine.events import FRAME_S, AudioFormat


class Framer:
    """One utterance, piece by piece, from ``source`` to ``line``.

    Pieces may be cut anywhere, inside a sample too. Frames of silence are dropped until the first sound: a vendor's
    lead-in of a tenth of a second is a tenth of a second that the caller waits.
    """

    def __init__(self, source: AudioFormat, line: AudioFormat) -> None:
        self.trimmed_s = 0.0
        """Silence that was dropped in front."""
        self._source = source
        self._line = line
        self._converter = Converter(source, line)
        self._skip = round(line.rate_hz * self._converter.delay_s) * line.sample_bytes
        self._half = b""
        self._rest = b""
        self._has_begun = False

    def feed(self, audio: bytes) -> bytes:
        """Whole frames, perhaps none."""
        if self._half:
            audio = self._half + audio
            self._half = b""
        if len(audio) % self._source.sample_bytes:
            audio, self._half = audio[:-1], audio[-1:]
        return self._frames(self._converter.feed(audio))

    def finish(self) -> bytes:
        """What is left, filled up with silence to a whole frame."""
        frames = self._frames(self._converter.flush())
        if not self._rest:
            return frames
        missing = self._line.silence(FRAME_S)[len(self._rest) :]
        return frames + self._frames(missing)

    def _frames(self, audio: bytes) -> bytes:
        if self._skip:
            audio, self._skip = audio[self._skip :], max(0, self._skip - len(audio))
        if self._rest:
            audio = self._rest + audio
        size = self._line.frame_bytes
        whole = len(audio) // size * size
        self._rest = audio[whole:]
        start = 0
        if not self._has_begun:
            while start < whole and is_silent(audio[start : start + size], self._line):
                start += size
            self.trimmed_s += self._line.duration_s(audio[:start])
            self._has_begun = start < whole
        return audio[start:whole]
