"""Speech of a vendor on its way to a line: whole frames, in the line's format, from the first sound to the last."""

from __future__ import annotations

import math
from array import array
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.audio.convert import convert
from engine.audio.framing import Framer
from engine.audio.levels import is_silent
from engine.events import MULAW_8K, PCM16_8K, PCM16_16K, PCM16_24K, AudioFormat

FORMATS = [MULAW_8K, PCM16_8K, PCM16_16K, PCM16_24K]


def tone(duration_s: float, format: AudioFormat, hz: float = 440.0) -> bytes:  # noqa: A002 - the field's word
    count = round(format.rate_hz * duration_s)
    wave = (8000 * math.cos(2 * math.pi * hz * n / format.rate_hz) for n in range(count))
    pcm = AudioFormat(PCM16_8K.encoding, format.rate_hz)
    return convert(array("h", map(round, wave)).tobytes(), pcm, format)


def framed(audio: bytes, source: AudioFormat, line: AudioFormat) -> bytes:
    framer = Framer(source, line)
    return framer.feed(audio) + framer.finish()


@pytest.mark.parametrize("line", FORMATS)
@pytest.mark.parametrize("source", FORMATS)
def test_an_utterance_is_as_long_on_the_line_as_it_was(source: AudioFormat, line: AudioFormat) -> None:
    got = framed(tone(0.5, source), source, line)
    assert len(got) == 25 * line.frame_bytes
    last_ms = got[-(line.bytes_per_s // 1000) :]
    assert not is_silent(last_ms, line, below_dbfs=-20), "its last sound stayed in the filter"


@pytest.mark.parametrize("source", FORMATS)
def test_silence_in_front_is_gone_and_silence_inside_is_not(source: AudioFormat) -> None:
    sound = tone(0.1, source)
    got = framed(source.silence(0.3) + sound + source.silence(0.2) + sound, source, MULAW_8K)
    assert len(got) == 20 * MULAW_8K.frame_bytes
    assert not is_silent(got[: MULAW_8K.frame_bytes], MULAW_8K)


def test_nothing_but_silence_is_nothing() -> None:
    assert framed(PCM16_24K.silence(1.0), PCM16_24K, MULAW_8K) == b""
    assert framed(b"", PCM16_24K, MULAW_8K) == b""


def test_the_last_frame_is_filled_up() -> None:
    got = framed(tone(0.03, MULAW_8K), MULAW_8K, MULAW_8K)
    assert len(got) == 2 * MULAW_8K.frame_bytes
    assert got.endswith(b"\xff" * 80)


@pytest.mark.parametrize("line", FORMATS)
@pytest.mark.parametrize("source", FORMATS)
def test_pieces_may_be_single_bytes(source: AudioFormat, line: AudioFormat) -> None:
    audio = tone(0.05, source)
    framer = Framer(source, line)
    pieces = [framer.feed(audio[at : at + 1]) for at in range(len(audio))]
    assert b"".join(pieces) + framer.finish() == framed(audio, source, line)


@settings(max_examples=50, deadline=None)
@given(
    audio=st.binary(max_size=3000),
    cuts=st.lists(st.integers(0, 3000), max_size=8),
    source=st.sampled_from(FORMATS),
    line=st.sampled_from(FORMATS),
)
def test_where_the_pieces_are_cut_does_not_matter(
    audio: bytes, cuts: list[int], source: AudioFormat, line: AudioFormat
) -> None:
    edges = [0, *sorted(min(cut, len(audio)) for cut in cuts), len(audio)]
    framer = Framer(source, line)
    pieces = [framer.feed(audio[a:b]) for a, b in pairwise(edges)]
    assert all(len(piece) % line.frame_bytes == 0 for piece in pieces)
    assert b"".join(pieces) + framer.finish() == framed(audio, source, line)
