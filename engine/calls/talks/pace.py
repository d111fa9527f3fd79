"""How often the caller's frames are looked for: each as it comes while somebody speaks, several at once in a silence.
Each look costs more than the frames it finds. Pure."""

from __future__ import annotations

from typing import Final

from engine.audio.levels import is_silent
from engine.events import FRAME_S, AudioFormat

TOGETHER_S: Final = 0.06
"""Between two looks in a silence. Less than jitter (``engine.audio.audio_clock.SLACK_S``), and about as long as the
pieces that recognisers are sent."""
QUIET_S: Final = 0.6
"""Such a silence begins so long after the last sound: until then a recogniser may be about to find that it was the
last."""


class Pace:
    """``heard`` tells of each frame whether the pace has changed."""

    def __init__(self, line: AudioFormat) -> None:
        self.every_s = 0.0
        self._line = line
        self._silence = line.silence(FRAME_S)
        self._quiet_bytes = int(QUIET_S * line.bytes_per_s)
        self._quiet = 0

    def heard(self, audio: bytes) -> bool:
        """True if ``every_s`` is another one now."""
        if audio != self._silence and not is_silent(audio, self._line):
            self._quiet = 0
            return self._change(0.0)
        self._quiet += len(audio)
        return self._quiet > self._quiet_bytes and self._change(TOGETHER_S)

    def _change(self, every_s: float) -> bool:
        has_changed, self.every_s = every_s != self.every_s, every_s
        return has_changed
