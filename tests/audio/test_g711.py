"""Mu-law against the table of ITU-T G.711 and through whole formats."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.audio.convert import Converter, convert
from engine.audio.g711 import mulaw_to_pcm16, pcm16_to_mulaw
from engine.events import MULAW_8K, PCM16_8K, PCM16_16K, PCM16_24K, AudioFormat


def sample(mulaw: int) -> int:
    return int.from_bytes(mulaw_to_pcm16(bytes([mulaw])), "little", signed=True)


def test_the_corners_of_the_table_decode_as_g711_says() -> None:
    """Segment ends of G.711 table 2, in 16 bits."""
    assert [sample(byte) for byte in (0x00, 0x80, 0x0F, 0x8F, 0x7F, 0xFF)] == [-32124, 32124, -16764, 16764, 0, 0]


def test_every_code_survives_decoding_and_encoding() -> None:
    """Minus zero alone comes back as plus zero."""
    codes = bytes(code for code in range(256) if code != 0x7F)
    assert pcm16_to_mulaw(mulaw_to_pcm16(codes)) == codes
    assert pcm16_to_mulaw(mulaw_to_pcm16(b"\x7f")) == b"\xff"


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=400))
def test_encoding_loses_less_than_a_step(audio: bytes) -> None:
    pcm = audio[: len(audio) // 2 * 2]
    back = mulaw_to_pcm16(pcm16_to_mulaw(pcm))
    for at in range(0, len(pcm), 2):
        before = int.from_bytes(pcm[at : at + 2], "little", signed=True)
        after = int.from_bytes(back[at : at + 2], "little", signed=True)
        assert abs(before - after) <= max((abs(before) + 132) // 32 + 4, abs(before) - 32124)


def test_equal_formats_pass_through_untouched() -> None:
    audio = bytes(range(160))
    assert Converter(MULAW_8K, MULAW_8K).feed(audio) is audio


@settings(max_examples=40, deadline=None)
@given(
    source=st.sampled_from([MULAW_8K, PCM16_8K, PCM16_16K, PCM16_24K]),
    target=st.sampled_from([MULAW_8K, PCM16_8K, PCM16_16K, PCM16_24K]),
    frames=st.integers(1, 12),
)
def test_frames_stay_whole_frames_in_every_format(source: AudioFormat, target: AudioFormat, frames: int) -> None:
    stream = Converter(source, target)
    for _ in range(frames):
        assert len(stream.feed(source.silence(0.02))) == target.frame_bytes
    assert convert(source.silence(0.5), source, target) == target.silence(0.5)
