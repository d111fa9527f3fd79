"""Whole calls over the vendors' real wires: a caller heard, understood and answered, and nothing of it left."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from trio.testing import MockClock

from engine.phone.phone import SIDES
from engine.settings import AgentSettings, Settings
from engine.settings.vendors import KEY_VARIABLES
from tests.fakes.clouds.anthropic_messages import AnthropicMessages
from tests.fakes.clouds.cartesia import Cartesia
from tests.fakes.clouds.elevenlabs_speech import ElevenLabsSpeech
from tests.fakes.clouds.flux import FluxCloud
from tests.fakes.clouds.loopback import Cloud, serving
from tests.fakes.clouds.openai_chat import OpenAiChat
from tests.fakes.clouds.speechmatics import SpeechmaticsCloud
from tests.fakes.clouds.voicebox import SpeechCloud
from tests.fakes.plain_speech import words
from tests.system.every_provider import callee_of, with_all_providers
from tests.system.rig import Rig, running_engine


@dataclass(frozen=True)
class Trio:
    """Who hears, thinks and speaks, each by its kind."""

    ear: tuple[str, type[Cloud], str]
    """Kind, its fake, and the path of its URL."""
    mind: tuple[str, type[Cloud], str]
    voice: tuple[str, type[Cloud], str]

    def __str__(self) -> str:
        return "+".join((self.ear[0], self.mind[0], self.voice[0]))


SPEECHMATICS_OPENAI_ELEVENLABS = Trio(
    ("speechmatics", SpeechmaticsCloud, "/v2"), ("openai", OpenAiChat, "/v1"), ("elevenlabs", ElevenLabsSpeech, "")
)
FLUX_ANTHROPIC_CARTESIA = Trio(
    ("deepgram_flux", FluxCloud, "/v2/listen"),
    ("anthropic", AnthropicMessages, ""),
    ("cartesia", Cartesia, "/tts/websocket"),
)
SOCKETS = ("speechmatics", "deepgram_flux", "cartesia")


@asynccontextmanager
async def engine_with(trio_of: Trio, **limits: Any) -> AsyncIterator[tuple[Rig, Mapping[str, Cloud]]]:
    async with AsyncExitStack() as stack:
        clouds: dict[str, Cloud] = {}
        vendors: dict[str, dict[str, Any]] = {}
        for kind, cloud, path in (trio_of.ear, trio_of.mind, trio_of.voice):
            clouds[kind] = cloud()
            served = await stack.enter_async_context(serving(clouds[kind]))
            vendors[kind] = {"url": (served.ws if kind in SOCKETS else served.http) + path}
        vendors[trio_of.mind[0]]["model"] = "m"
        vendors[trio_of.voice[0]]["voice"] = "v"

        def configure(settings: Settings) -> Settings:
            agent = AgentSettings(
                transcriber=(trio_of.ear[0],),
                model=(trio_of.mind[0],),
                synthesizer=(trio_of.voice[0],),
                instructions="Be helpful.",
                phrases={"greeting": "Hello."},
            )
            keys = {KEY_VARIABLES[kind]: key_of(cloud) for kind, cloud in clouds.items()}
            settings = with_all_providers(settings)
            return replace(
                settings,
                agents={"desk": agent},
                vendors=vendors,
                secrets=replace(settings.secrets, vendor_keys=keys),
            )

        rig = await stack.enter_async_context(running_engine(configure=configure, **limits))
        yield rig, clouds


def key_of(cloud: Cloud) -> str:
    """The one that it takes."""
    return str(cloud.voicebox.key if isinstance(cloud, SpeechCloud) else vars(cloud)["key"])


@pytest.mark.proves("whole call")
@pytest.mark.proves("ours")
@pytest.mark.parametrize("provider", ["twilio", "vonage", "telnyx", "plivo"])
@pytest.mark.parametrize("trio_of", [SPEECHMATICS_OPENAI_ELEVENLABS, FLUX_ANTHROPIC_CARTESIA], ids=str)
async def test_a_caller_is_heard_and_answered(trio_of: Trio, provider: str, autojump_clock: MockClock) -> None:
    async with engine_with(trio_of) as (rig, clouds):
        async with rig.phone.call(SIDES[provider](callee_of(rig, provider))) as call:
            assert words(await call.wait_for_reply(within_s=15), call.format) == "Hello."
            assert "My name is canaryAda" in await rig.say(call, "My name is canaryAda.")
            assert "canaryAda" in await rig.say(call, "What is my name?")
        await rig.quiet()
        assert {kind: (cloud.sockets_open, cloud.requests_open) for kind, cloud in clouds.items()} == dict.fromkeys(
            clouds, (0, 0)
        )
        assert set(rig.balance().values()) == {0}, rig.balance()
