"""Sounds without words, in 16-bit samples at 8 kHz; deterministic."""

from __future__ import annotations

import math
import random
from array import array

RATE_HZ = 8000


def tones(*frequencies_hz: float, seconds: float = 1.0, level: int = 6000) -> bytes:
    """Steady tones together: 697 and 1209 Hz are the key 1."""
    steps = [2 * math.pi * hz / RATE_HZ for hz in frequencies_hz]
    wave = (sum(level * math.sin(step * n) for step in steps) for n in range(int(RATE_HZ * seconds)))
    return array("h", (int(value) for value in wave)).tobytes()


def hiss(seconds: float = 1.0, level: int = 600) -> bytes:
    source = random.Random(0)
    return array("h", (int(source.gauss(0, level)) for _ in range(int(RATE_HZ * seconds)))).tobytes()


def click() -> bytes:
    """A loud tick of two milliseconds."""
    return array("h", [20000, -20000] * 8).tobytes()


def silence(seconds: float) -> bytes:
    return bytes(2 * int(RATE_HZ * seconds))
