"""Sample rates: 16-bit audio from one rate to another, in C through audioop, without arrays of a foreign package.

A windowed-sinc polyphase filter. Each tap is one C pass over a whole piece, so that a piece of 20 ms costs tens of
microseconds and a second of speech a few milliseconds.
"""

from __future__ import annotations

import math
from array import array
from functools import cache

from engine.audio._audioop import audioop

HALF_WIDTH = 8
"""Zero crossings of the sinc on each side: 16 taps at the lower of the two rates, and a delay of 8 of its samples."""
KAISER_BETA = 6.0
"""Stop band at about 60 dB: below the noise of mu-law."""
ROLL_OFF = 0.9
"""Edge of the pass band in parts of the lower rate's Nyquist frequency: 3.6 kHz of 4."""

_HEADROOM = 2.0
"""The taps are written this much smaller, because audioop clips every partial sum and not only the last."""

Taps = tuple[tuple[int, float], ...]


class Resampler:
    """One stream from ``from_hz`` to ``to_hz``; keeps the filter's state between pieces.

    Whole frames of 20 ms come out as whole frames. What comes out lags by ``delay_s``, one millisecond when 8 kHz are
    involved.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        self._up, self._down, self._reach, self._phases = _design(from_hz, to_hz)
        self.delay_s = HALF_WIDTH / min(from_hz, to_hz)
        self._pending = bytes(2 * self._reach)
        """The samples that the filter still looks back at, then those that do not make a whole step yet."""

    def feed(self, pcm: bytes) -> bytes:
        """Signed 16-bit samples in, signed 16-bit samples out. Half a sample waits for its other half."""
        if self._up == self._down:
            return pcm
        data = self._pending + pcm
        steps = (len(data) // 2 - self._reach) // self._down
        if steps <= 0:
            self._pending = data
            return b""
        used = steps * self._down
        self._pending = data[2 * used :]
        # 32 bits wide: rounding happens once, at the end, and not at every tap.
        wide = array("i", audioop.lin2lin(data[: 2 * (self._reach + used)], 2, 4))
        out = array("h", bytes(2 * steps * self._up))
        for phase, taps in enumerate(self._phases):
            out[phase :: self._up] = array("h", self._filter(wide, taps, steps))
        return out.tobytes()

    def _filter(self, wide: array[int], taps: Taps, steps: int) -> bytes:
        span = (steps - 1) * self._down + 1
        total = bytes(4 * steps)
        for start, weight in taps:
            total = audioop.add(total, audioop.mul(wide[start : start + span : self._down], 4, weight), 4)
        return audioop.lin2lin(audioop.mul(total, 4, _HEADROOM), 4, 2)


def resample(pcm: bytes, from_hz: int, to_hz: int) -> bytes:
    """A whole recording at another rate: the same length in seconds, and without the delay of a stream."""
    if from_hz == to_hz:
        return pcm
    stream = Resampler(from_hz, to_hz)
    out = stream.feed(pcm + bytes(2 * math.ceil(from_hz * stream.delay_s) + 2 * from_hz // 1000))
    skip = round(to_hz * stream.delay_s)
    return out[2 * skip : 2 * (skip + len(pcm) // 2 * to_hz // from_hz)]


@cache
def _design(from_hz: int, to_hz: int) -> tuple[int, int, int, tuple[Taps, ...]]:
    """Up factor, down factor, samples of history, and for each output phase its taps (offset into the data, weight)."""
    common = math.gcd(from_hz, to_hz)
    up, down = to_hz // common, from_hz // common
    half = HALF_WIDTH * max(up, down)
    cutoff = ROLL_OFF / max(up, down)
    prototype = [_sinc(cutoff * n) * cutoff * _kaiser(n / half) for n in range(-half, half + 1)]
    reach = 2 * half // up + 1
    phases = []
    for phase in range(up):
        position, first = divmod(phase * down, up)
        branch = prototype[first::up]
        gain = 1 / (sum(branch) * _HEADROOM)  # every phase passes a constant unchanged
        phases.append(tuple((reach + position - k, weight * gain) for k, weight in enumerate(branch) if weight))
    return up, down, reach, tuple(phases)


def _sinc(x: float) -> float:
    return math.sin(math.pi * x) / (math.pi * x) if x else 1.0


def _kaiser(x: float) -> float:
    return _bessel(KAISER_BETA * math.sqrt(max(0.0, 1 - x * x))) / _bessel(KAISER_BETA)


def _bessel(x: float) -> float:
    """Modified Bessel function of the first kind, order 0: its series, to double precision for the small x here."""
    total = term = 1.0
    for k in range(1, 40):
        term *= (x / 2 / k) ** 2
        total += term
    return total
