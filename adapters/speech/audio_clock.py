"""Where it stood before speech-to-speech models needed it as well: see :mod:`engine.audio.audio_clock`."""

from __future__ import annotations

from engine.audio.audio_clock import SLACK_S, AudioClock

__all__ = ["SLACK_S", "AudioClock"]
