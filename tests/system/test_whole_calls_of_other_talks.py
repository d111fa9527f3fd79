"""Whole calls with speech-to-speech vendors over their real wires, and with a provider that hears and speaks itself:
a caller heard, understood and answered, and nothing of it left."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from hashlib import sha1
from hmac import digest
from typing import Any
from urllib.parse import urlencode
from xml.etree import ElementTree as ET

import httpx
import pytest
import trio
from trio.testing import MockClock

from engine.observe.timeline import What
from engine.phone.phone import SIDES
from engine.runtime.sockets import open_socket
from engine.settings import AgentSettings, Settings
from engine.settings.vendors import KEY_VARIABLES
from tests.fakes.clouds.anthropic_messages import AnthropicMessages
from tests.fakes.clouds.elevenlabs_agents import ElevenLabsAgentsCloud
from tests.fakes.clouds.loopback import Cloud, serving
from tests.fakes.clouds.openai_chat import OpenAiChat
from tests.fakes.clouds.openai_realtime import OpenAIRealtimeCloud
from tests.fakes.clouds.thinking import ModelCloud
from tests.fakes.plain_speech import speak, words
from tests.fakes.relay_caller import RelayCaller
from tests.system.every_provider import callee_of, with_all_providers
from tests.system.rig import SECRET, Rig, running_engine

CLOUDS: dict[str, tuple[type[Cloud], dict[str, Any]]] = {
    "openai_realtime": (OpenAIRealtimeCloud, {"model": "m"}),
    "elevenlabs_agents": (ElevenLabsAgentsCloud, {"agent": "agent_1"}),
    "openai": (OpenAiChat, {"model": "m"}),
    "anthropic": (AnthropicMessages, {"model": "m"}),
}
PATHS = {
    "openai_realtime": "/v1/realtime",
    "elevenlabs_agents": "/v1/convai/conversation",
    "openai": "/v1",
    "anthropic": "",
}


REALTIME = ("openai_realtime", "elevenlabs_agents")
CALL_IT = "call the tool hang_up"
COUGH = b"\x10" * 4000
"""Half a second of mu-law that holds no words."""


@asynccontextmanager
async def engine_with(kind: str, agent: AgentSettings, **limits: Any) -> AsyncIterator[tuple[Rig, Cloud]]:
    """An engine whose one agent is served by a fake of this kind."""
    async with engine_of({"desk": agent}, (kind,), **limits) as (rig, (cloud,)):
        yield rig, cloud


@asynccontextmanager
async def engine_of(
    agents: Mapping[str, AgentSettings], kinds: Sequence[str], **limits: Any
) -> AsyncIterator[tuple[Rig, list[Cloud]]]:
    """An engine with these agents, served by fakes of these kinds. The first answers."""
    async with AsyncExitStack() as stack:
        clouds = [CLOUDS[kind][0]() for kind in kinds]
        vendors, keys = {}, {}
        for kind, cloud in zip(kinds, clouds, strict=True):
            served = await stack.enter_async_context(serving(cloud))
            url = (served.http if isinstance(cloud, ModelCloud) else served.ws) + PATHS[kind]
            vendors[kind] = {"url": url, **CLOUDS[kind][1]}
            keys[KEY_VARIABLES[kind]] = str(vars(cloud)["key"])

        def configure(settings: Settings) -> Settings:
            settings = with_all_providers(settings)
            secrets = replace(settings.secrets, vendor_keys=keys)
            vonage = replace(settings.vonage, rate_hz=24000)  # plain speech does not survive resampling
            return replace(settings, vonage=vonage, agents=dict(agents), vendors=vendors, secrets=secrets)

        rig = await stack.enter_async_context(running_engine(configure=configure, **limits))
        yield rig, clouds


async def at_rest(rig: Rig, cloud: Cloud) -> None:
    await rig.quiet()
    with trio.fail_after(2):
        while cloud.sockets_open or cloud.requests_open:  # noqa: ASYNC110 - seen from outside
            await trio.sleep(0.01)
    assert set(rig.balance().values()) == {0}, rig.balance()


@pytest.mark.proves("whole call")
@pytest.mark.parametrize("provider", ["twilio", "vonage", "telnyx", "plivo"])
@pytest.mark.parametrize("kind", ["openai_realtime", "elevenlabs_agents"])
async def test_a_speech_to_speech_model_answers(kind: str, provider: str, autojump_clock: MockClock) -> None:
    agent = AgentSettings(realtime=(kind,), instructions="Be helpful.", phrases={"greeting": "Hello."})
    async with engine_with(kind, agent) as (rig, cloud):
        if isinstance(cloud, ElevenLabsAgentsCloud) and provider == "vonage":
            cloud.manner.hears = cloud.manner.speaks = "pcm_24000"
        async with rig.phone.call(SIDES[provider](callee_of(rig, provider))) as call:
            assert words(await call.wait_for_reply(within_s=15), call.format) == "Hello."
            assert "My name is canaryAda" in await rig.say(call, "My name is canaryAda.")
            assert "canaryAda" in await rig.say(call, "What is my name?")
        await at_rest(rig, cloud)
        assert [moment.fields["text"] for moment in rig.moments if moment.what is What.HEARD] == [
            "My name is canaryAda.",
            "What is my name?",
        ]
        assert vars(cloud)["faults"] == []
        assert rig.count(What.RESOURCE_OPENED) == 3  # the provider's socket, the seat at the session, the model


@pytest.mark.proves("whole call", provider="twilio")
@pytest.mark.proves("ours", adapter="conversation-relay")
@pytest.mark.parametrize("combination", [f"conversation-relay+{model}" for model in ("openai", "anthropic")])
async def test_a_provider_hears_and_speaks_what_a_model_answers(combination: str, autojump_clock: MockClock) -> None:
    model = combination.partition("+")[2]
    agent = AgentSettings(relay=True, model=(model,), instructions="Be helpful.", phrases={"greeting": "Hello."})
    async with engine_with(model, agent) as (rig, cloud):
        async with dialled_relay(rig) as caller:
            await trio.sleep(1)
            assert caller.said == ["Hello."]
            await caller.says("My name is canaryAda.")
            await trio.sleep(8)
            assert "My name is canaryAda" in caller.said[-1]
            await caller.says("What is my name?")
            await trio.sleep(8)
            assert "canaryAda" in caller.said[-1]
        await at_rest(rig, cloud)


@pytest.mark.proves("reconnect", adapter="conversation-relay")
async def test_a_relayed_caller_whose_socket_was_lost_goes_on(autojump_clock: MockClock) -> None:
    agent = AgentSettings(relay=True, model=("openai",), instructions="Be helpful.", phrases={"greeting": "Hello."})
    async with engine_with("openai", agent) as (rig, cloud):
        async with dialled_relay(rig) as caller:
            await trio.sleep(1)
            await caller.says("My name is canaryAda.")
            await trio.sleep(8)
            caller.socket.abort()
            await caller.gone.wait()
        await rig.quiet()
        async with dialled_relay(rig, "/voice?again=1") as caller:
            await trio.sleep(1)
            assert caller.said == []
            await caller.says("What is my name?")
            await trio.sleep(8)
            assert "canaryAda" in caller.said[-1]
        await at_rest(rig, cloud)


@asynccontextmanager
async def dialled_relay(rig: Rig, path: str = "/voice") -> AsyncIterator[RelayCaller]:
    """A call as Twilio makes one: webhook, document, socket."""
    call_id, url = "CA" + "7" * 32, f"{rig.engine.url}{path}"
    form = {"CallSid": call_id, "AccountSid": "AC" + "0" * 32, "From": "+15005550006", "To": "+15005550001"}
    signed = url + "".join(name + form[name] for name in sorted(form))
    signature = b64encode(digest(SECRET.encode(), signed.encode(), sha1)).decode()
    headers = {"x-twilio-signature": signature, "content-type": "application/x-www-form-urlencoded"}
    async with httpx.AsyncClient() as client:
        answer = await client.post(url, content=urlencode(form), headers=headers)
    relay = ET.fromstring(answer.text).find("Connect/ConversationRelay")
    parameter = relay.find("Parameter") if relay is not None else None
    assert relay is not None, answer.text
    assert parameter is not None, answer.text
    async with open_socket(relay.attrib["url"]) as socket, trio.open_nursery() as nursery:
        caller = RelayCaller(socket, call_id)
        nursery.start_soon(caller.listen)
        await caller.start(parameter.attrib["value"])
        yield caller
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", ["openai_realtime", "elevenlabs_agents"])
async def test_a_barge_in_silences_the_model_which_knows_what_was_heard(kind: str, autojump_clock: MockClock) -> None:
    agent = AgentSettings(realtime=(kind,), instructions="Be helpful.", phrases={"greeting": "Hello."})
    async with engine_with(kind, agent) as (rig, cloud):
        async with rig.phone.call(SIDES["twilio"](callee_of(rig, "twilio"))) as call:
            await call.wait_for_reply(within_s=15)
            await call.say(speak("Tell me a story.", call.format))
            await call.wait_until_heard(within_s=10)
            await trio.sleep(3)
            said = call.start_saying(speak("Stop it please.", call.format))
            await said.done.wait()
            answer = words(await call.wait_for_reply(within_s=15), call.format)
            assert "You said Stop it please" in answer
            stop_s = call.timing(said).barge_in_stop_s
            assert stop_s is not None
            assert stop_s < 0.4
        await at_rest(rig, cloud)
        cut = [moment.fields for moment in rig.moments if moment.what is What.SAID and moment.fields["interrupted"]]
        assert len(cut) == 1
        assert str(cut[0]["text"]).startswith("Turn 1. You said Tell me a story.")
        assert vars(cloud)["faults"] == []


@pytest.mark.parametrize("kind", ["openai_realtime", "elevenlabs_agents"])
async def test_a_speech_to_speech_model_hangs_up_after_its_goodbye(kind: str, autojump_clock: MockClock) -> None:
    agent = AgentSettings(realtime=(kind,), instructions="Be helpful.", phrases={"greeting": "Hello."})
    async with engine_with(kind, agent) as (rig, cloud):
        async with rig.phone.call(SIDES["twilio"](callee_of(rig, "twilio"))) as call:
            await call.wait_for_reply(within_s=15)
            # What ElevenLabs' agent may call is set there, and the fake's calls what it is told to.
            text, said = ("goodbye", "You said goodbye") if kind == "openai_realtime" else (CALL_IT, "The tool said")
            assert said in await rig.say(call, text)
            await call.wait_until_over(within_s=5)
        await at_rest(rig, cloud)
        assert [moment.fields["reason"] for moment in rig.moments if moment.what is What.CALL_ENDED] == ["agent_hangup"]
        assert rig.value("tool_calls_total", tool="hang_up", outcome="ok") == 1


@pytest.mark.parametrize("kind", ["openai_realtime", "elevenlabs_agents"])
async def test_a_cough_does_not_cost_the_caller_the_rest_of_an_answer(kind: str, autojump_clock: MockClock) -> None:
    agent = AgentSettings(realtime=(kind,), instructions="Be helpful.", phrases={"greeting": "Hello."})
    async with engine_with(kind, agent) as (rig, cloud):
        assert isinstance(cloud, OpenAIRealtimeCloud | ElevenLabsAgentsCloud)
        cloud.manner.speed = 100.0  # the reply is whole when the caller coughs into it
        if isinstance(cloud, ElevenLabsAgentsCloud):
            cloud.manner.scores = True
        async with rig.phone.call(SIDES["twilio"](callee_of(rig, "twilio"))) as call:
            await call.wait_for_reply(within_s=15)
            await call.say(speak("Tell me a story.", call.format))
            await call.wait_until_heard(within_s=10)
            await trio.sleep(3)
            await call.say(COUGH)
            await trio.sleep(25)
        await at_rest(rig, cloud)
        said = [moment.fields for moment in rig.moments if moment.what is What.SAID]
        said = [fields for fields in said if "story" in str(fields["text"])]
        assert [fields["interrupted"] for fields in said] == [True, False]
        assert " ".join(str(fields["text"]) for fields in said).endswith("sentence number 8 of the story.")
        assert rig.value("barge_ins_total", kind="false") == 1
        assert vars(cloud)["faults"] == []


@pytest.mark.parametrize("kinds", [REALTIME, REALTIME[::-1]], ids="-".join)
async def test_an_agent_hands_over_to_one_that_another_vendor_hears_thinks_and_speaks_for(
    kinds: tuple[str, str], autojump_clock: MockClock
) -> None:
    desk = AgentSettings(realtime=(kinds[0],), tools=("hand_over",), phrases={"greeting": "Hello."})
    agents = {"desk": desk, "sales": AgentSettings(realtime=(kinds[1],))}
    async with engine_of(agents, kinds) as (rig, clouds):
        async with rig.phone.call(SIDES["twilio"](callee_of(rig, "twilio"))) as call:
            assert words(await call.wait_for_reply(within_s=15), call.format) == "Hello."
            await call.say(speak('call the tool hand_over with {"agent": "sales"}', call.format))
            await trio.sleep(8)
            with trio.fail_after(5):
                while clouds[0].sockets_open:  # noqa: ASYNC110 - seen from outside
                    await trio.sleep(0.01)
            assert "canaryAda" in await rig.say(call, "My name is canaryAda.")
        for cloud in clouds:
            await at_rest(rig, cloud)
            assert vars(cloud)["faults"] == []
        assert rig.value("tool_calls_total", tool="hand_over", outcome="ok") == 1
