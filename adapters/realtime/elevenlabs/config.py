"""What may be set of ElevenLabs Agents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ElevenLabsAgentsConfig:
    """``[vendors.NAME]`` of kind ``elevenlabs_agents``."""

    key: str = field(repr=False)
    agent: str
    """The agent's id at the vendor."""
    name: str = "elevenlabs_agents"
    """Metric label."""
    url: str = "wss://api.elevenlabs.io/v1/convai/conversation"
    overrides: tuple[str, ...] = ("prompt", "first_message")
    """What the agent's security settings allow to be overridden, of ``prompt``, ``first_message``, ``language`` and
    ``voice``; the vendor closes the connection over any other. Without ``first_message`` the agent's own opening is
    thrown away unless it is what the engine has it say."""
    first_message: str = ""
    """The opening of a new session, if the engine is to say these very words: the vendor makes them without its
    language model."""
    language: str = ""
    """ISO 639-1; the agent's own if empty."""
    voice: str = ""
    """The agent's own if empty."""
    history_variable: str = ""
    """The dynamic variable of the agent's prompt that holds what was said before; empty: it is told as an update of
    the context."""
    voice_threshold: float = 0.6
    """Of the vendor's ``vad_score``, 0 to 1, where the agent sends it: above it the caller speaks."""
    renew_after_s: float = 3000.0
    """The agent's own longest duration is set at the vendor; this must be below it."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Put into the first message as it is, over everything else: ``custom_llm_extra_body``, ..."""
