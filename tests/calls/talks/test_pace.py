"""How often a caller's frames are looked for."""

from __future__ import annotations

import pytest

from engine.calls.talks.pace import QUIET_S, TOGETHER_S, Pace
from engine.events import FRAME_S, MULAW_8K, PCM16_16K, AudioFormat
from tests.fakes.plain_speech import noise

LINES = pytest.mark.parametrize("line", [MULAW_8K, PCM16_16K], ids=["mulaw", "pcm16"])


def after(pace: Pace, line: AudioFormat, *, silence_s: float) -> list[float]:
    """The paces that a silence brings about, and after how long."""
    frames = round(silence_s / FRAME_S)
    return [round(number * FRAME_S, 2) for number in range(1, frames + 1) if pace.heard(line.silence(FRAME_S))]


@LINES
def test_frames_are_read_together_once_the_caller_has_been_silent_for_a_while(line: AudioFormat) -> None:
    pace = Pace(line)
    assert after(pace, line, silence_s=3.0) == [round(QUIET_S + FRAME_S, 2)]
    assert pace.every_s == TOGETHER_S


@LINES
def test_the_first_sound_ends_that_and_a_short_pause_does_not_bring_it_back(line: AudioFormat) -> None:
    pace = Pace(line)
    after(pace, line, silence_s=2.0)
    assert pace.heard(noise(FRAME_S, line))
    assert pace.every_s == 0.0
    assert not pace.heard(noise(FRAME_S, line))
    assert after(pace, line, silence_s=QUIET_S) == []
    assert not pace.heard(noise(FRAME_S, line))
    assert pace.every_s == 0.0
