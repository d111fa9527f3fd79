"""What may be set of OpenAI Realtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class OpenAIRealtimeConfig:
    """``[vendors.NAME]`` of kind ``openai_realtime``."""

    key: str = field(repr=False)
    model: str
    """As the vendor names it."""
    name: str = "openai_realtime"
    """Metric label."""
    url: str = "wss://api.openai.com/v1/realtime"
    voice: str = "marin"
    speed: float = 1.0
    """0.25 to 1.5."""
    transcription_model: str = "gpt-transcribe"
    """Writes down what the caller says; empty: nobody does, and the session remembers no words of the caller."""
    language: str = ""
    """Of the caller, ISO 639-1; empty: the vendor finds out."""
    noise_reduction: str = "near_field"
    """``near_field``, ``far_field`` or empty."""
    turn_detection: str = "server_vad"
    """``server_vad`` or ``semantic_vad``."""
    eagerness: str = "auto"
    """Of ``semantic_vad``: ``low``, ``medium``, ``high`` or ``auto``."""
    voice_threshold: float = 0.5
    """Of ``server_vad``, 0 to 1."""
    silence_s: float = 0.5
    """Of ``server_vad``: silence that ends the caller's turn."""
    padding_s: float = 0.3
    """Of ``server_vad``: sound before the first that the model is given."""
    stops_itself: bool = True
    """The vendor stops a reply as soon as it hears the caller; else only when it is told that the caller cut in."""
    max_tokens: int | None = None
    """Of one reply; the vendor's own limit if not set."""
    renew_after_s: float = 3000.0
    """The vendor ends a session after 60 minutes."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Put into the session as it is, over everything else: ``reasoning``, ``truncation``, ``tracing``, ..."""
