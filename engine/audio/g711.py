"""G.711 mu-law to and from signed 16-bit samples, in C."""

from __future__ import annotations

from engine.audio._audioop import audioop


def mulaw_to_pcm16(mulaw: bytes) -> bytes:
    """Two bytes for every byte."""
    return audioop.ulaw2lin(mulaw, 2)


def pcm16_to_mulaw(pcm: bytes) -> bytes:
    """One byte for every two. Raises ``audioop.error`` for half a sample."""
    return audioop.lin2ulaw(pcm, 2)
