"""OpenAI Realtime, the generally available form, over a WebSocket.

Source: the OpenAI API reference and the official client's types.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from adapters.realtime.conversing import SocketRealtime, open_conversing
from adapters.realtime.openai.config import OpenAIRealtimeConfig
from adapters.realtime.openai.wire import OpenAIRealtimeWire
from engine.events import CallInfo, Context, SessionInfo
from engine.ports import Owner
from engine.runtime.network import Network


class OpenAIRealtimeVendor:
    """Implements ``engine.ports.RealtimeVendor``."""

    def __init__(self, config: OpenAIRealtimeConfig, network: Network) -> None:
        self.name = config.name
        self.renew_after_s = config.renew_after_s
        self._config = config
        self._network = network

    def open(
        self, call: CallInfo, session: SessionInfo, context: Context, owner: Owner
    ) -> AbstractAsyncContextManager[SocketRealtime]:
        """See the port. Raises ModelFailed."""
        return open_conversing(
            self.name, self._network, call, session, lambda line: OpenAIRealtimeWire(self._config, context, line)
        )
