"""FAULTS G 67: the way of a call's media is reset, behind the fault proxy, or the engine is killed; and the provider
connects the call anew."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from engine.observe.timeline import What
from engine.phone.call import PhoneCall
from engine.phone.phone import SIDES, OpenLine, Phone, open_phone
from engine.phone.side import Answered, Callee
from engine.runtime.sockets import open_socket
from engine.settings import AgentSettings
from tests.fakes.clouds.elevenlabs_agents import ElevenLabsAgentsCloud
from tests.fakes.clouds.openai_realtime import OpenAIRealtimeCloud
from tests.fakes.fault_proxy import Faults, proxying
from tests.fakes.plain_speech import speak, words
from tests.fakes.vendors import STORY
from tests.faults.store_bench import Process, callers_words, processes, sessions_of
from tests.system.every_provider import callee_of, with_all_providers
from tests.system.rig import Rig, running_engine
from tests.system.session_rig import LINE, SECRET, Talk
from tests.system.test_whole_calls_of_other_talks import REALTIME, at_rest, engine_with

# httpx leaves generators behind when a stream is cut, as the synthesizer's is with the line.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")


@asynccontextmanager
async def phone_behind(rig: Rig, faults: Faults) -> AsyncIterator[Phone]:
    """A phone whose media takes a way with faults; its webhooks do not."""
    async with proxying("127.0.0.1", httpx.URL(rig.engine.url).port or 0, faults) as port:

        def dial(answered: Answered) -> AbstractAsyncContextManager[OpenLine]:
            return _dialled(answered, port)

        async with open_phone(dial) as phone:
            yield phone


@asynccontextmanager
async def _dialled(answered: Answered, port: int) -> AsyncIterator[OpenLine]:
    url = str(httpx.URL(answered.url).copy_with(port=port))
    headers = [(name.encode(), value.encode()) for name, value in answered.headers.items()]
    async with open_socket(url, headers=headers) as socket:
        yield OpenLine(socket)


@pytest.mark.parametrize("provider", ["twilio", "vonage"])
async def test_g67_a_caller_whose_line_is_reset_in_the_middle_of_an_answer_goes_on_with_it(
    provider: str, autojump_clock: MockClock
) -> None:
    faults = Faults()
    with capture_logs() as logged:
        async with (
            running_engine(configure=with_all_providers, max_calls=1) as rig,
            phone_behind(rig, faults) as phone,
        ):
            side = SIDES[provider](callee_of(rig, provider))
            async with phone.call(side) as call:
                assert words(await call.wait_for_reply(), call.format) == "Hello."
                before = await cut_off_in_mid_story(call, faults)
            async with phone.call(side, again=True) as call:
                after = words(await call.wait_for_reply(), call.format)
                assert_goes_on(before, after)
                assert "Turn 2" in await rig.say(call, "and then")
            await rig.quiet()
            assert set(rig.balance().values()) == {0}, rig.balance()
            assert_one_after_the_other(rig, logged)
    assert (faults.connections, faults.open) == (2, 0)


@pytest.mark.parametrize("kind", REALTIME)
async def test_g67_with_a_speech_to_speech_model_a_caller_goes_on_where_the_line_was_lost(
    kind: str, autojump_clock: MockClock
) -> None:
    agent = AgentSettings(realtime=(kind,), instructions="Be helpful.", phrases={"greeting": "Hello."})
    faults = Faults()
    with capture_logs() as logged:
        async with engine_with(kind, agent, max_calls=1) as (rig, cloud):
            assert isinstance(cloud, OpenAIRealtimeCloud | ElevenLabsAgentsCloud)
            cloud.manner.chars_per_s = 50.0
            async with phone_behind(rig, faults) as phone:
                side = SIDES["twilio"](callee_of(rig, "twilio"))
                async with phone.call(side) as call:
                    assert words(await call.wait_for_reply(), call.format) == "Hello."
                    before = await cut_off_in_mid_story(call, faults)
                async with phone.call(side, again=True) as call:
                    after = words(await call.wait_for_reply(), call.format)
                    assert_goes_on(before, after)
                    assert after.endswith("number 8 of the story.")
                    assert "Turn 2" in await rig.say(call, "and then")
            await at_rest(rig, cloud)
            assert cloud.faults == []
            assert cloud.sockets_ever == 2
            assert_one_after_the_other(rig, logged)
    assert (faults.connections, faults.open) == (2, 0)


async def cut_off_in_mid_story(call: PhoneCall, faults: Faults) -> str:
    """What was heard of it."""
    await call.say(speak("long story", call.format))
    await call.wait_until_heard()
    await trio.sleep(2.5)
    faults.cut()
    assert await call.wait_until_over() == "lost"
    return words(call.heard_audio, call.format)


def assert_goes_on(before: str, after: str) -> None:
    """Nothing of the story is left out, and no more than a sentence is told twice."""
    told, at = before.partition("long story. ")[2], STORY.index(after)
    assert STORY.startswith(told)
    assert len(told) - len("This is sentence number 1 of the story.") <= at <= len(told) + 1


def assert_one_after_the_other(rig: Rig, logged: Sequence[Mapping[str, object]]) -> None:
    """Nothing of the old line was left when the new one was taken, and both are one session."""
    order = [moment.what for moment in rig.moments if moment.what in (What.CALL_STARTED, What.CALL_RELEASED)]
    assert order == [What.CALL_STARTED, What.CALL_RELEASED] * 2
    ends = [moment.fields["cause"] for moment in rig.moments if moment.what is What.CALL_ENDED]
    assert ends[0] in ("provider_lost", "duplicate"), "the new socket may be there before the reset is"
    assert ends[1] == "caller_hangup"
    events = [line["event"] for line in logged]
    assert events.count("session_started") == events.count("session_ended") == 1


@pytest.mark.parametrize("provider", ["twilio", "vonage"])
async def test_g67_a_caller_of_an_engine_that_was_killed_goes_on_with_the_next_one(
    provider: str, tmp_path: Path
) -> None:
    """Whose session is the caller's by the number, which Vonage's news of a lost websocket does not tell."""
    process = Process(
        tmp_path / "engine",
        {"sessions": {"trusted_lines": [LINE]}},
        environ={"VONAGE_SIGNATURE_SECRET": SECRET},
    )
    caller = "+15005550167"
    side = SIDES[provider](Callee(process.url, caller=caller, dialled=LINE, secret=SECRET))
    async with processes(process), process.client() as client, open_phone() as phone:
        async with phone.call(side) as call:
            talk = Talk(call)
            await talk.hear()
            assert "Turn 1" in await talk.say("one violet elephant.")
            await until_stored(client, caller, ["one violet elephant."])
            process.kill()
            await call.wait_until_over()
        await process.start()
        async with phone.call(side, again=True) as call:
            talk = Talk(call)
            await talk.hear()
            assert "Turn 2" in await talk.say("one grey whale.")
        await until_stored(client, caller, ["one violet elephant.", "one grey whale."])


async def until_stored(client: httpx.AsyncClient, number: str, words: list[str]) -> None:
    async def found() -> list[str]:
        return [text for one in await sessions_of(client, number) for text in callers_words(one["messages"])]

    with trio.fail_after(20):
        while await found() != words:  # noqa: ASYNC110 - asked of another process
            await trio.sleep(0.05)
