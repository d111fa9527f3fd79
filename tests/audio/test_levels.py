"""Levels in numbers a person can check."""

from __future__ import annotations

from array import array

from engine.audio.g711 import pcm16_to_mulaw
from engine.audio.levels import is_silent, rms
from engine.events import MULAW_8K, PCM16_8K


def test_a_constant_has_its_own_level() -> None:
    assert rms(array("h", [-1000] * 160).tobytes(), PCM16_8K) == 1000


def test_mu_law_is_measured_after_decoding() -> None:
    pcm = array("h", [8000, -8000] * 80).tobytes()
    assert abs(rms(pcm16_to_mulaw(pcm), MULAW_8K) / rms(pcm, PCM16_8K) - 1) < 0.03


def test_silence_is_silent_in_every_format_and_so_is_nothing() -> None:
    assert is_silent(MULAW_8K.silence(0.02), MULAW_8K)
    assert is_silent(PCM16_8K.silence(0.02), PCM16_8K)
    assert is_silent(b"", PCM16_8K)


def test_half_of_full_scale_is_six_decibels_down() -> None:
    half = array("h", [16384] * 160).tobytes()
    assert is_silent(half, PCM16_8K, below_dbfs=-6.01)
    assert not is_silent(half, PCM16_8K, below_dbfs=-6.03)
