"""ElevenLabs Agents over a WebSocket. What the agent is, and its audio formats, are set at the vendor.

Source: the vendor's API reference, the message types it publishes, and the official client.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from adapters.realtime.conversing import SocketRealtime, open_conversing
from adapters.realtime.elevenlabs_wire import ElevenLabsAgentsWire
from engine.events import CallInfo, Context, SessionInfo
from engine.ports import Owner
from engine.runtime.network import Network


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


class ElevenLabsAgentsVendor:
    """Implements ``engine.ports.RealtimeVendor``."""

    def __init__(self, config: ElevenLabsAgentsConfig, network: Network) -> None:
        self.name = config.name
        self.renew_after_s = config.renew_after_s
        self._config = config
        self._network = network

    def open(
        self, call: CallInfo, session: SessionInfo, context: Context, owner: Owner
    ) -> AbstractAsyncContextManager[SocketRealtime]:
        """See the port. The vendor takes no tools from us: those of the agent's own client tools that bear the names
        of ours are answered. Raises ModelFailed."""
        return open_conversing(
            self.name,
            self._network,
            call,
            session,
            lambda line: ElevenLabsAgentsWire(self._config, session, context, line),
        )
