"""Sample rates: tones keep their pitch and level, and what does not fit is gone rather than folded back."""

from __future__ import annotations

import math
from array import array
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.audio.levels import rms
from engine.audio.resample import Resampler, resample
from engine.events import PCM16_8K

RATES = [(24000, 8000), (24000, 16000), (16000, 8000), (8000, 16000), (8000, 24000)]


def tone(hz: float, rate_hz: int, duration_s: float = 0.5) -> bytes:
    wave = (10000 * math.sin(2 * math.pi * hz * n / rate_hz) for n in range(int(rate_hz * duration_s)))
    return array("h", map(round, wave)).tobytes()


@pytest.mark.parametrize(("from_hz", "to_hz"), RATES)
def test_a_tone_comes_out_as_the_same_tone(from_hz: int, to_hz: int) -> None:
    """Sample by sample against the tone made at the other rate: pitch, level and position in one."""
    got = array("h", resample(tone(1000, from_hz), from_hz, to_hz))
    wanted = array("h", tone(1000, to_hz))
    assert len(got) == len(wanted)
    inner = slice(100, -100)
    assert max(abs(a - b) for a, b in zip(got[inner], wanted[inner], strict=True)) <= 10


@pytest.mark.parametrize("hz", [4800, 6000, 7500])
def test_what_8_khz_cannot_carry_is_removed(hz: int) -> None:
    """Without a filter, 6 kHz would come back as 2 kHz, in the middle of speech."""
    level = rms(resample(tone(hz, 24000), 24000, 8000)[400:-400], PCM16_8K)
    assert level < 10000 / math.sqrt(2) / 300  # 50 dB down


@settings(max_examples=40, deadline=None)
@given(
    audio=st.binary(max_size=1500),
    cuts=st.lists(st.integers(0, 1500), max_size=6),
    rates=st.sampled_from(RATES),
)
def test_the_pieces_do_not_matter(audio: bytes, cuts: list[int], rates: tuple[int, int]) -> None:
    """Cut anywhere, inside a sample too, a stream gives what it gives in one piece."""
    edges = [0, *sorted(min(cut, len(audio)) for cut in cuts), len(audio)]
    pieces = [audio[a:b] for a, b in pairwise(edges)]
    stream = Resampler(*rates)
    assert b"".join(map(stream.feed, pieces)) == Resampler(*rates).feed(audio)


def test_a_full_scale_square_wave_does_not_wrap_round() -> None:
    square = array("h", ([32767] * 40 + [-32768] * 40) * 20).tobytes()
    out = array("h", resample(square, 8000, 16000))
    assert max(out) > 30000
    assert all(sample >= 0 for sample in out[20:60])
