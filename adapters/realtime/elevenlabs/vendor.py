"""ElevenLabs Agents over a WebSocket. What the agent is, and its audio formats, are set at the vendor.

Source: the vendor's API reference, the message types it publishes, and the official client.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from adapters.realtime.conversing import SocketRealtime, open_conversing
from adapters.realtime.elevenlabs.config import ElevenLabsAgentsConfig
from adapters.realtime.elevenlabs.wire import ElevenLabsAgentsWire
from engine.events import CallInfo, Context, SessionInfo
from engine.ports import Owner
from engine.runtime.network import Network


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
