"""FAULTS G 66, 67: a provider loses its media socket while the caller is there, and connects the call once more."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from engine.observe.timeline import What
from engine.phone.errors import CallRefused
from engine.phone.phone import SIDES
from engine.ports import Phrases
from engine.settings import Settings
from tests.fakes.plain_speech import speak, words
from tests.fakes.vendors import Behaviour
from tests.system.every_provider import callee_of, with_all_providers
from tests.system.rig import running_engine

# httpx leaves generators behind when a stream is cut, as the synthesizer's is with the line.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")


@pytest.mark.proves("reconnect")
@pytest.mark.parametrize("provider", SIDES)
async def test_a_caller_whose_line_was_lost_is_back_in_the_same_conversation(
    provider: str, autojump_clock: MockClock
) -> None:
    with capture_logs() as logged:
        async with running_engine(configure=with_all_providers, max_calls=1) as rig:
            side = SIDES[provider](callee_of(rig, provider))
            async with rig.phone.call(side) as call:
                assert words(await call.wait_for_reply(), call.format) == "Hello."
                await call.say(speak("long story", call.format))
                await call.wait_until_heard()
                await trio.sleep(1.0)
                call.drop()
            await rig.quiet()
            assert rig.total("resources_open") == 0, "what the lost line had is gone first"
            assert rig.engine.registry.is_full, "its place is kept"
            async with rig.phone.call(side, again=True) as call:
                rest = words(await call.wait_for_reply(), call.format)
                assert rest
                assert "Hello." not in rest
                assert "Turn 2" in await rig.say(call, "and then")
                await call.say(speak("goodbye", call.format))
                assert (await call.wait_until_over()).startswith("engine 1000")
            with pytest.raises(CallRefused) as caught:
                async with rig.phone.call(side, again=True):
                    pass
            assert not caught.value.sentence, "hung up on without a word"
            await rig.quiet()
            assert rig.count(What.CALL_STARTED) == 2
            assert not call.violations
            assert set(rig.balance().values()) == {0}, rig.balance()
    events = [line["event"] for line in logged]
    assert events.count("session_started") == events.count("session_ended") == 1


@pytest.mark.parametrize("provider", SIDES)
async def test_an_apology_that_no_voice_of_ours_could_say_is_said_by_the_provider(
    provider: str, autojump_clock: MockClock
) -> None:
    def with_dead_vendors(settings: Settings) -> Settings:
        desk = replace(settings.agents["desk"], options={"url": "http://127.0.0.1:1"})
        return with_all_providers(replace(settings, agents={"desk": desk}))

    async with running_engine(configure=with_dead_vendors) as rig:
        side = SIDES[provider](callee_of(rig, provider))
        async with rig.phone.call(side) as call:
            assert (await call.wait_until_over()).startswith("engine 1000")
            assert not call.heard_audio
            # The others of its parts may take longer to close than the provider to ask.
            with pytest.raises(CallRefused) as caught:
                async with rig.phone.call(side, again=True):
                    pass
            assert caught.value.sentence == Phrases("").apology
        await rig.quiet()
        assert rig.count(What.CALL_STARTED) == 1
        assert not rig.engine.registry.has_promises


async def test_a_provider_that_asks_after_a_caller_of_a_drained_engine_is_answered(autojump_clock: MockClock) -> None:
    """Else it would say that an application has failed, behind our goodbye."""
    async with running_engine(drain_s=1.0) as rig:
        side = SIDES["twilio"](callee_of(rig, "twilio"))
        async with rig.phone.call(side) as call:
            await call.wait_for_reply()
            rig.engine.stop()
            assert (await call.wait_until_over()) == "engine 1001"
            await rig.quiet()
            await trio.sleep(1.0)
            with pytest.raises(CallRefused):
                async with rig.phone.call(side, again=True):
                    pass


async def test_a_silent_agent_is_silent_when_the_caller_is_back(autojump_clock: MockClock) -> None:
    async with running_engine() as rig:
        side = SIDES["twilio"](callee_of(rig, "twilio"))
        async with rig.phone.call(side) as call:
            await call.wait_for_reply()
            assert "Turn 1" in await rig.say(call, "hello there")
            call.drop()
        await rig.quiet()
        async with rig.phone.call(side, again=True) as call:
            await trio.sleep(5.0)
            assert not call.heard_audio
            assert "Turn 2" in await rig.say(call, "are you there")


async def test_words_that_nobody_has_answered_are_answered_on_the_next_line(autojump_clock: MockClock) -> None:
    async with running_engine(behaviour=Behaviour(first_token_s=1.5)) as rig:
        side = SIDES["vonage"](callee_of(rig, "vonage"))
        async with rig.phone.call(side) as call:
            await call.wait_for_reply()
            await call.say(speak("hello there", call.format))
            await trio.sleep(1.0)
            call.drop()
        await rig.quiet()
        async with rig.phone.call(side, again=True) as call:
            assert "Turn 1" in words(await call.wait_for_reply(), call.format)


async def test_a_line_that_the_provider_gives_up_before_we_notice_is_closed_first(autojump_clock: MockClock) -> None:
    """Row 66: the second socket, with a valid token, while the first still lives."""
    async with running_engine(max_calls=1) as rig:
        side = SIDES["twilio"](callee_of(rig, "twilio"))
        async with rig.phone.call(side) as first:
            await first.wait_for_reply()
            assert "Turn 1" in await rig.say(first, "hello there")
            async with rig.phone.call(side, again=True) as second:
                assert await first.wait_until_over(within_s=1.0) == "engine 1008"
                assert "Turn 2" in await rig.say(second, "are you there")
                assert len(rig.engine.registry.live_slots()) == 1
                assert "Hello." not in words(second.heard_audio, second.format)


async def test_a_caller_who_does_not_come_back_gives_up_place_and_session(autojump_clock: MockClock) -> None:
    with capture_logs() as logged:
        async with running_engine(max_calls=1) as rig:
            async with rig.call() as call:
                await call.wait_for_reply()
                call.drop()
            await rig.quiet()
            assert rig.engine.registry.is_full
            await trio.sleep(10.1)
            assert not rig.engine.registry.is_full
            assert not any(line["event"] == "session_ended" for line in logged)
            await trio.sleep(6.0)
            assert any(line["event"] == "session_ended" for line in logged)


async def test_a_caller_who_has_hung_up_for_good_keeps_no_place(autojump_clock: MockClock) -> None:
    async with running_engine(max_calls=1) as rig:
        side = SIDES["twilio"](callee_of(rig, "twilio"))
        async with rig.phone.call(side, report_end=True) as call:
            await call.wait_for_reply()
            call.drop()
            await rig.quiet()
        assert not rig.engine.registry.is_full
