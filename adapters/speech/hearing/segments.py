"""When the caller speaks: the probabilities of a voice-activity model to starts, pauses and stops. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

RATE_HZ = 8000
FRAME_SAMPLES = 256
FRAME_S = FRAME_SAMPLES / RATE_HZ
"""32 ms: what the model judges at a time."""


@dataclass(frozen=True, slots=True)
class Hearing:
    """What counts as speech. Lengths are rounded to frames of 32 ms."""

    onset_s: float = 0.13
    """Speech must last this long before it counts: a click or a cough is no barge-in."""
    pause_s: float = 0.13
    """After this much silence the words so far are worth recognising, in case the caller has finished."""
    hangover_s: float = 0.3
    """After this much the caller has stopped."""
    longest_s: float = 10.0
    """Speech without a pause is cut here, so that recognising it does not take seconds."""
    start_probability: float = 0.5
    keep_probability: float = 0.35
    """Once speaking, less is enough to go on."""
    faint: float = 56.0
    """What is so many times weaker than the loudest of the speech, 35 dB, is no more of it. The model alone hears a
    voice for 0.1 to 0.2 s after its end; on a noisy line nothing is as faint, and the model decides."""


DEFAULT_HEARING = Hearing()


class Change(Enum):
    STARTED = "started"
    PAUSED = "paused"
    """Perhaps the end; STOPPED or RESUMED follows."""
    RESUMED = "resumed"
    STOPPED = "stopped"
    """With or without a PAUSED before it."""


class Segmenter:
    """Positions are samples at 8 kHz since the call began."""

    def __init__(self, hearing: Hearing = DEFAULT_HEARING) -> None:
        self._hearing = hearing
        self._onset_frames = _frames(hearing.onset_s)
        self._pause_frames = _frames(hearing.pause_s)
        self._hangover_frames = max(_frames(hearing.hangover_s), self._pause_frames + 1)
        self._quiet_frames = 0
        self._is_onset = False
        self.position = 0
        """Where the last frame judged ends."""
        self.is_speech = False
        self.started_at = 0
        """Where the speech begins, or what may become speech."""
        self.voiced_until = 0
        """Where its last voiced frame ends."""
        self.voiced_frames = 0
        """How many of its frames held voice; these three stand until the next onset."""
        self._loudest = 0

    def feed(self, probability: float, level: int) -> Change | None:
        """The next frame's probability of speech, 0 to 1, and the root mean square of its samples."""
        self.position += FRAME_SAMPLES
        if not self.is_speech:
            return self._while_silent(probability, level)
        self._loudest = max(self._loudest, level)
        return self._while_speaking(0.0 if level * self._hearing.faint < self._loudest else probability)

    def skip(self, samples: int) -> None:
        """This much audio was never judged."""
        self.position += samples

    def _while_silent(self, probability: float, level: int) -> Change | None:
        if probability >= self._hearing.start_probability:
            if not self._is_onset:
                self._is_onset = True
                self.started_at = self.position - FRAME_SAMPLES
                self.voiced_frames = self._loudest = 0
            self._loudest = max(self._loudest, level)
            self._voiced()
        elif self._is_onset:
            self._quiet_frames += 1
            self._is_onset = self._quiet_frames < 2  # one quiet frame is a stop consonant, two make it a click
        if not self._is_onset or self.voiced_frames < self._onset_frames:
            return None
        self._is_onset, self.is_speech = False, True
        return Change.STARTED

    def _while_speaking(self, probability: float) -> Change | None:
        change = self._judge(probability)
        if change is not Change.STOPPED and self.position - self.started_at >= self._hearing.longest_s * RATE_HZ:
            change = Change.STOPPED
        if change is Change.STOPPED:
            self.is_speech = False
        return change

    def _judge(self, probability: float) -> Change | None:
        has_paused = self._quiet_frames >= self._pause_frames
        if probability >= (self._hearing.start_probability if has_paused else self._hearing.keep_probability):
            self._voiced()
            return Change.RESUMED if has_paused else None
        self._quiet_frames += 1
        if self._quiet_frames == self._hangover_frames:
            return Change.STOPPED
        return Change.PAUSED if self._quiet_frames == self._pause_frames else None

    def _voiced(self) -> None:
        self.voiced_frames += 1
        self._quiet_frames = 0
        self.voiced_until = self.position


def _frames(seconds: float) -> int:
    return max(1, round(seconds / FRAME_S))
