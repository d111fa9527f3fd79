"""The header of a WAV file: signed 16-bit stereo."""

from __future__ import annotations

import struct
from typing import Final

HEADER_BYTES: Final = 44
FRAME_BYTES: Final = 4
"""One sample of either channel."""
MAX_DATA_BYTES: Final = 0xFFFFFFFF - HEADER_BYTES
"""More cannot be said in the header: 37 hours at 8 kHz."""


def header(rate_hz: int, data_bytes: int) -> bytes:
    data = min(data_bytes, MAX_DATA_BYTES)
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        data + HEADER_BYTES - 8,
        b"WAVE",
        b"fmt ",
        16,
        1,
        2,
        rate_hz,
        rate_hz * FRAME_BYTES,
        FRAME_BYTES,
        16,
        b"data",
        data,
    )
