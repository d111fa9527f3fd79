"""What a stranger's connection may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DoorLimits:
    head_s: float = 5.0
    """For a whole request head, from the connection's first moment or, later, the request's first byte."""
    head_bytes: int = 16 * 1024
    headers: int = 100
    body_s: float = 5.0
    body_bytes: int = 64 * 1024
    answer_s: float = 8.0
    """For the application to have answered. Webhooks keep a shorter limit of their own."""
    write_s: float = 5.0
    """How long writing an answer may make no progress (16 KiB count as some)."""
    idle_s: float = 15.0
    """Between two requests of a connection."""
    connections: int = 2000
    pending: int = 32
    """Media sockets that are open but no call yet; at least a tenth of the capacity is sensible."""


def pending_for(capacity: int) -> int:
    """The media sockets that may wait for their start message."""
    return max(32, capacity // 10)
