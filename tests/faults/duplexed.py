"""Whole calls on a speech-to-speech vendor's real adapter and its fake cloud, behind a proxy with faults."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from adapters.realtime.elevenlabs.config import ElevenLabsAgentsConfig
from adapters.realtime.elevenlabs.vendor import ElevenLabsAgentsVendor
from adapters.realtime.openai.config import OpenAIRealtimeConfig
from adapters.realtime.openai.vendor import OpenAIRealtimeVendor
from engine.events import CallInfo, Context, SessionInfo
from engine.ports import CallControl, CallTools, Mode, Owner, RealtimeModel
from engine.runtime.network import Network
from engine.vendors.realtime import open_realtime
from tests.fakes.clouds.elevenlabs_agents import ElevenLabsAgentsCloud
from tests.fakes.clouds.loopback import Cloud
from tests.fakes.clouds.openai_realtime import OpenAIRealtimeCloud
from tests.fakes.puppet import PuppetTools
from tests.fakes.stage import stage
from tests.faults.vendored import Agent, World, ground

REALTIME_CLOUDS: Mapping[str, type[Cloud]] = {
    "openai_realtime": OpenAIRealtimeCloud,
    "elevenlabs_agents": ElevenLabsAgentsCloud,
}


class DuplexAgent(Agent):
    """Implements ``engine.ports.RealtimeAgent``, on one vendor."""

    mode = Mode.REALTIME

    def __init__(self, vendor: Any, around: Any) -> None:
        super().__init__([vendor], [vendor], [vendor], around, has_clips=True)
        self._vendor = vendor

    def open_realtime(
        self,
        call: CallInfo,
        session: SessionInfo,
        context: Callable[[], Context],
        owner: Owner,
        control: CallControl,
    ) -> AbstractAsyncContextManager[RealtimeModel]:
        return open_realtime([self._vendor], call, session, context, owner, self._around)

    def use_tools(self, session: SessionInfo, control: CallControl) -> CallTools:
        return PuppetTools({})


@asynccontextmanager
async def duplex_world(kind: str, *, renew_after_s: float = 3000.0, **limits: Any) -> AsyncIterator[World]:
    """Its one vendor is ``souls[0]``. Left, nothing may be open."""

    def make(network: Network) -> Any:
        if kind == "openai_realtime":
            openai = OpenAIRealtimeConfig("k", model="m", url="ws://g/v1/realtime", renew_after_s=renew_after_s)
            return OpenAIRealtimeVendor(openai, network)
        url = "ws://h/v1/convai/conversation"
        elevenlabs = ElevenLabsAgentsConfig("k", agent="agent_1", url=url, renew_after_s=renew_after_s)
        return ElevenLabsAgentsVendor(elevenlabs, network)

    limits = {"silence_s": 1000.0, "no_progress_s": 1000.0, **limits}
    async with ground(**limits) as (around, behind):
        soul = behind(REALTIME_CLOUDS[kind](), make)
        agent = DuplexAgent(soul.vendor, around)
        async with stage(agent, metrics=around.metrics, **limits) as on:
            made = World(on, around, souls=[soul])
            yield made
            await made.at_rest()
