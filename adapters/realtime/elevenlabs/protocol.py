"""What the conversations of ElevenLabs Agents have in common, spoken and written. Pure."""

from __future__ import annotations

from typing import Any

from adapters.realtime.elevenlabs.config import ElevenLabsAgentsConfig
from adapters.realtime.shown import instructions_of
from engine.errors import Why
from engine.events import AudioFormat, Context, Encoding

FORMATS = {
    "ulaw_8000": AudioFormat(Encoding.MULAW, 8000),
    **{f"pcm_{rate}": AudioFormat(Encoding.PCM16, rate) for rate in (8000, 16000, 22050, 24000, 44100, 48000)},
}
_WHY_CLOSED = {
    1002: Why.BAD_REQUEST,
    1003: Why.BAD_REQUEST,
    1008: Why.BAD_REQUEST,
    1011: Why.UNREACHABLE,
    3000: Why.AUTH,
    3003: Why.AUTH,
}
_WHY = {
    "override_error": Why.BAD_REQUEST,
    "auth_error": Why.AUTH,
    "quota_exceeded": Why.AUTH,
    "rate_limited": Why.RATE_LIMITED,
    "max_duration_exceeded": Why.CUT,
}


def overrides_of(config: ElevenLabsAgentsConfig, context: Context, *, first_message: str) -> dict[str, Any]:
    """What is asked of the agent that is not its own, as far as its settings allow."""
    agent: dict[str, Any] = {}
    if "prompt" in config.overrides and (instructions := instructions_of(context)):
        agent["prompt"] = {"prompt": instructions}
    if "first_message" in config.overrides:
        agent["first_message"] = first_message
    if "language" in config.overrides and config.language:
        agent["language"] = config.language
    overrides: dict[str, Any] = {"agent": agent} if agent else {}
    if "voice" in config.overrides and config.voice:
        overrides["tts"] = {"voice_id": config.voice}
    return overrides


def why_of_error(error: dict[str, Any]) -> Why | None:
    """What the vendor's ``error_event`` means, if it is known."""
    kind, code = error.get("error_type"), error.get("code")
    if isinstance(kind, str) and kind in _WHY:
        return _WHY[kind]
    return _WHY_CLOSED.get(code) if isinstance(code, int) else None


def why_closed(code: int | None) -> Why:
    """What this close code means."""
    return _WHY_CLOSED.get(code or 0, Why.CUT)
