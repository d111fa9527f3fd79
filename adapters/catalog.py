"""Name in the settings to adapter: the one place that knows every adapter there is.

Modules of vendors are imported when they are asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, cast

from adapters.scripted.script import Script, load_script
from engine.errors import SettingsError
from engine.ports import Agent


class Role(StrEnum):
    """What a vendor does for an agent: the key in ``[agents.NAME]``."""

    TRANSCRIBER = "transcriber"
    SYNTHESIZER = "synthesizer"
    MODEL = "model"
    REALTIME = "realtime"


KINDS: Mapping[Role, Mapping[str, tuple[str, str, str]]] = {
    Role.TRANSCRIBER: {
        "speechmatics": ("speech.hearing.speechmatics", "SpeechmaticsConfig", "SpeechmaticsTranscriberVendor"),
        "deepgram": ("speech.hearing.deepgram", "DeepgramConfig", "DeepgramTranscriberVendor"),
        "deepgram_flux": ("speech.hearing.flux", "FluxConfig", "FluxTranscriberVendor"),
        "scribe": ("speech.hearing.scribe", "ScribeConfig", "ScribeTranscriberVendor"),
        "assemblyai": ("speech.hearing.assemblyai", "AssemblyAIConfig", "AssemblyAITranscriberVendor"),
        "openai_transcription": ("speech.hearing.openai", "OpenAITranscriberConfig", "OpenAITranscriberVendor"),
    },
    Role.SYNTHESIZER: {
        "elevenlabs": ("speech.speaking.elevenlabs", "ElevenLabsConfig", "ElevenLabsSynthesizerVendor"),
        "cartesia": ("speech.speaking.cartesia", "CartesiaConfig", "CartesiaSynthesizerVendor"),
        "deepgram_aura": ("speech.speaking.aura", "AuraConfig", "AuraSynthesizerVendor"),
        "speechmatics_speech": (
            "speech.speaking.speechmatics",
            "SpeechmaticsSpeechConfig",
            "SpeechmaticsSynthesizerVendor",
        ),
        "openai_speech": ("speech.speaking.openai", "OpenAISpeechConfig", "OpenAISynthesizerVendor"),
    },
    Role.MODEL: {
        "openai": ("models.openai_chat", "OpenAiChatConfig", "OpenAiChatModelVendor"),
        "compatible": ("models.openai_chat", "OpenAiChatConfig", "OpenAiChatModelVendor"),
        "openai_responses": ("models.openai_responses", "OpenAiResponsesConfig", "OpenAiResponsesModelVendor"),
        "anthropic": ("models.anthropic", "AnthropicConfig", "AnthropicModelVendor"),
        "program": ("models.program", "ProgramConfig", "ProgramModelVendor"),
        "elevenlabs_agents": (
            "realtime.elevenlabs.chat",
            "ElevenLabsAgentsConfig",
            "ElevenLabsAgentsChatVendor",
        ),
        "elevenlabs_agents_http": (
            "realtime.elevenlabs.http",
            "ElevenLabsAgentsHttpConfig",
            "ElevenLabsAgentsHttpVendor",
        ),
    },
    Role.REALTIME: {
        "openai_realtime": ("realtime.openai.vendor", "OpenAIRealtimeConfig", "OpenAIRealtimeVendor"),
        "elevenlabs_agents": ("realtime.elevenlabs.vendor", "ElevenLabsAgentsConfig", "ElevenLabsAgentsVendor"),
    },
}
"""Role, kind, and where it is: a module of ``adapters``, its configuration and its vendor."""
SEGMENTED = frozenset({"openai_transcription"})
"""Transcribers that are given one sound of the caller at a time: their vendors are made of ``(configuration, network,
activity)``, which tells when the caller speaks, or None."""


def find_kind(role: Role, kind: str) -> tuple[type[Any], Any]:
    """The configuration's class, and what makes a vendor of ``(configuration, network)``, see ``SEGMENTED``. Raises
    KeyError for a kind that has no such role."""
    module_name, config, vendor = KINDS[role][kind]
    module = importlib.import_module(f"adapters.{module_name}")
    return getattr(module, config), getattr(module, vendor)


def agent_script(script: str) -> Script:
    """A script that ships with Offhook, by name, or a TOML file's. Raises SettingsError naming its key at fault."""
    return load_script(script)


def agent_from_factory(name: str, factory: str, options: Mapping[str, Any]) -> Agent:
    """An agent of somebody else's: ``package.module:function``, called with the agent's name and its options.

    Raises SettingsError.
    """
    module_name, _, function_name = factory.partition(":")
    try:
        make = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as exc:
        raise SettingsError(f"agents.{name}.factory: {factory!r} cannot be imported ({exc})") from None
    return cast(Agent, make(name, options))
