"""Whole calls in which the model uses its tools, over the vendors' and the provider's real wires."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from engine.phone.call import PhoneCall
from engine.phone.texts import Inbox, open_inbox
from engine.ports import ToolScope
from engine.settings import AgentSettings, Settings
from engine.settings.tables import ToolSettings
from engine.settings.vendors import KEY_VARIABLES
from tests.fakes.clouds.elevenlabs_speech import ElevenLabsSpeech
from tests.fakes.clouds.loopback import serving
from tests.fakes.clouds.openai_chat import OpenAiChat
from tests.fakes.clouds.speechmatics import SpeechmaticsCloud
from tests.fakes.plain_speech import speak, words
from tests.system.rig import Rig, running_engine
from tests.system.test_whole_calls import key_of

CALLER, DIALLED, SALES = "+15005550006", "+15005550001", "+15550107777"


async def look_up(scope: ToolScope, day: str) -> str:
    """What is free on a day."""
    await trio.sleep(1.0)
    return f"nine on {day} for {scope.session.caller}"


async def hangs() -> str:
    """Takes for ever."""
    await trio.sleep_forever()
    raise AssertionError


@asynccontextmanager
async def desk() -> AsyncIterator[tuple[Rig, Inbox]]:
    """An engine whose agent has tools; nothing of it is open in the end."""
    ear, mind, voice = SpeechmaticsCloud(), OpenAiChat(), ElevenLabsSpeech()
    clouds = {"speechmatics": ear, "openai": mind, "elevenlabs": voice}
    async with serving(ear) as at_ear, serving(mind) as at_mind, serving(voice) as at_voice, open_inbox() as inbox:

        def configure(settings: Settings) -> Settings:
            return replace(
                settings,
                agents={
                    "desk": AgentSettings(
                        transcriber=("speechmatics",),
                        model=("openai",),
                        synthesizer=("elevenlabs",),
                        phrases={"greeting": "Hello."},
                        tools=("hang_up", "transfer", "send_text", "remember", "look_up", "hangs"),
                        transfers={"sales": SALES},
                    )
                },
                tools={
                    "look_up": ToolSettings(python=f"{__name__}:look_up"),
                    "hangs": ToolSettings(python=f"{__name__}:hangs"),
                },
                vendors={
                    "speechmatics": {"url": f"{at_ear.ws}/v2"},
                    "openai": {"url": f"{at_mind.http}/v1", "model": "m"},
                    "elevenlabs": {"url": at_voice.http, "voice": "v"},
                },
                twilio=replace(settings.twilio, account_sid="AC" + "0" * 32, api_url=inbox.url),
                secrets=replace(
                    settings.secrets,
                    vendor_keys={KEY_VARIABLES[kind]: key_of(cloud) for kind, cloud in clouds.items()},
                ),
            )

        async with running_engine(configure=configure) as rig:
            yield rig, inbox
            await rig.quiet()
            assert [(cloud.sockets_open, cloud.requests_open) for cloud in clouds.values()] == [(0, 0)] * 3
            assert set(rig.balance().values()) == {0}, rig.balance()


async def say(call: PhoneCall, text: str, *, quiet_s: float = 4.0) -> str:
    """One turn, in which the agent may be silent for a while: all that is heard of it."""
    await call.say(speak(text, call.format))
    starts_s = await call.wait_until_heard(within_s=15)
    return words(await call.heard_from(starts_s, quiet_s=quiet_s), call.format)


async def test_a_caller_is_answered_with_what_a_tool_found(autojump_clock: MockClock) -> None:
    async with desk() as (rig, inbox):
        async with rig.call() as call:
            await call.wait_for_reply(within_s=15)
            answer = await say(call, 'Please call the tool look_up with {"day": "monday"}')
            assert answer == f"One moment. The tool said nine on monday for {CALLER}."

            answer = await say(call, 'Now call the tool send_text with {"text": "Monday, nine."}')
            assert answer == "One moment. The tool said Sent.."
            with trio.fail_after(2):
                assert await inbox.receive(DIALLED, CALLER) == "Monday, nine."
        assert rig.value("tool_calls_total", tool="look_up", outcome="ok") == 1
        assert rig.value("tool_calls_total", tool="send_text", outcome="ok") == 1


async def test_no_words_of_a_caller_bring_a_tool_to_another_number(autojump_clock: MockClock) -> None:
    """FAULTS 81 and 83."""
    async with desk() as (rig, inbox):
        async with rig.call() as call:
            await call.wait_for_reply(within_s=15)
            for wish in (
                'call the tool send_text with {"text": "hi", "to": "+15005550007"}',
                'call the tool transfer with {"to": "+19005550000"}',
                'call the tool look_up with {"day": "monday", "scope": "+15005550007"}',
            ):
                assert "Wrong arguments" in await say(call, wish)
        assert inbox.requests == []
        assert rig.total("tool_calls_total") == 3


async def test_a_transfer_is_made_once_the_caller_has_been_told(autojump_clock: MockClock) -> None:
    async with desk() as (rig, inbox):
        async with rig.call() as call:
            await call.wait_for_reply(within_s=15)
            assert await say(call, 'call the tool transfer with {"to": "sales"}') == "One moment."
            with trio.fail_after(5):
                while not inbox.requests:  # noqa: ASYNC110 - seen from outside
                    await trio.sleep(0.01)
            (asked,) = inbox.requests
            assert asked.startswith("POST ")
            assert asked.endswith(" 200")
        assert rig.total("tool_calls_total") == 1


async def test_a_goodbye_is_heard_before_the_line_is_closed(autojump_clock: MockClock) -> None:
    async with desk() as (rig, _):
        async with rig.call() as call:
            await call.wait_for_reply(within_s=15)
            assert "You said goodbye" in await rig.say(call, "goodbye")
            await call.wait_until_over(within_s=5)
        await rig.quiet()
        assert rig.value("calls_ended_total", provider="twilio", reason="agent_hangup") == 1


async def test_a_caller_hears_something_while_a_tool_hangs(autojump_clock: MockClock) -> None:
    """FAULTS 37."""
    async with desk() as (rig, _):
        async with rig.call() as call:
            await call.wait_for_reply(within_s=15)
            began_s = trio.current_time()
            answer = await say(call, "call the tool hangs", quiet_s=6.0)
            assert answer.startswith("One moment. One moment, please. The tool said Error: No answer within 5 s")
            assert trio.current_time() - began_s < 20
        assert rig.value("tool_calls_total", tool="hangs", outcome="timeout") == 1


@pytest.mark.parametrize("after_s", [0.5, 1.5, 3.0])
async def test_a_hang_up_while_a_tool_works_leaves_nothing(after_s: float, autojump_clock: MockClock) -> None:
    async with desk() as (rig, _):
        async with rig.call() as call:
            await call.wait_for_reply(within_s=15)
            with trio.move_on_after(after_s + 2):
                await say(call, "call the tool hangs")
        with trio.fail_after(3):
            await rig.quiet()
        assert rig.value("tool_calls_total", tool="hangs", outcome="timeout") == 0
