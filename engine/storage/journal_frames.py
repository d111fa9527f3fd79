"""How the journal's records stand in its file. Pure.

A frame is a mark (4 bytes), the length of its body, CRC-32 of length and body, and the body. One that is done with has
another mark, and zeros for a body.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

LIVE = b"\xffOJ1"
"""No text in UTF-8 holds it, so the next frame is found again behind a damaged one."""
DONE = b"\xffOJ0"

_HEADER = struct.Struct(">4sII")
HEADER_BYTES = _HEADER.size


@dataclass(slots=True)
class Scan:
    frames: list[tuple[int, int]] = field(default_factory=list)
    """Begin and end of each that is still to be done, in order."""
    damaged: list[tuple[int, int]] = field(default_factory=list)
    end: int = 0
    """Behind the last whole frame; what follows was torn."""


def framed(body: bytes) -> bytes:
    return _HEADER.pack(LIVE, len(body), _crc(body)) + body


def body_of(frame: bytes) -> bytes | None:
    """None for one that is damaged."""
    return frame[HEADER_BYTES:] if _frame_end(frame, 0) == len(frame) else None


def bodies_of(data: bytes) -> list[bytes]:
    """All that are whole."""
    return [data[start + HEADER_BYTES : end] for start, end in scan(data).frames]


def scan(data: bytes) -> Scan:
    found = Scan()
    position = 0
    while position < len(data):
        end = _frame_end(data, position)
        if end is None:
            following = _next_frame(data, position + 1)
            if following < 0:
                break
            found.damaged.append((position, following))
            position = following
            continue
        if data.startswith(LIVE, position):
            found.frames.append((position, end))
        position = found.end = end
    return found


def _frame_end(data: bytes, start: int) -> int | None:
    if len(data) - start < HEADER_BYTES:
        return None
    mark, length, crc = _HEADER.unpack_from(data, start)
    end = start + HEADER_BYTES + length
    if end > len(data) or mark not in (LIVE, DONE):
        return None
    body = data[start + HEADER_BYTES : end]
    is_whole = not any(body) if mark == DONE else crc == _crc(body)
    return end if is_whole else None


def _next_frame(data: bytes, start: int) -> int:
    while True:
        found = [at for at in (data.find(LIVE, start), data.find(DONE, start)) if at >= 0]
        if not found:
            return -1
        if _frame_end(data, min(found)) is not None:
            return min(found)
        start = min(found) + 1


def _crc(body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(len(body).to_bytes(4, "big")))
