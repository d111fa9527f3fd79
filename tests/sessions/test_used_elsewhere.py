"""Sessions that another process adds to, resets or erases while this one has them in memory."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from engine.events import MULAW_8K, CallInfo, Context, ReplyPart
from engine.sessions.actor import READ_AGAIN_S
from engine.sessions.identity import caller_key, stream_key
from tests.fakes.puppet import PuppetAgent
from tests.sessions.rig import ADA, house


def shows(context: Context) -> list[ReplyPart | float | Exception]:
    return ["|".join(message.text for message in context if message.role != "system")]


async def test_a_text_to_a_session_that_is_stored_no_more_is_answered_without_it_and_kept(
    autojump_clock: MockClock,
) -> None:
    async with house(PuppetAgent(shows)) as rig:
        first = await rig.sessions.turn("my canary")
        assert await rig.vault.remove(first.session_id)
        second = await rig.sessions.turn("what was it?")
        third = await rig.sessions.turn("and now?")
        assert (second.text, third.text) == ("what was it?", "what was it?|what was it?|and now?")
        assert first.session_id != second.session_id == third.session_id
        assert await rig.stored(stream_key("default")) == ["what was it?", second.text, "and now?", third.text]


async def test_texts_after_an_erasure_by_another_process_are_kept(autojump_clock: MockClock) -> None:
    async with house(PuppetAgent(shows)) as rig:
        await rig.sms("my canary")
        await rig.vault.erase(ADA, rig.sessions.now())
        await trio.sleep(0.01)
        assert await rig.sms("what was it?") == "what was it?"
        assert await rig.sms("and now?") == "what was it?|what was it?|and now?"
        assert len(await rig.stored(caller_key(ADA))) == 4


async def test_a_call_is_not_welcomed_back_to_what_another_process_has_erased(autojump_clock: MockClock) -> None:
    agent = PuppetAgent()
    async with house(agent) as rig:
        await rig.sms("my canary")
        await rig.vault.erase(ADA, rig.sessions.now())
        await trio.sleep(READ_AGAIN_S)
        async with rig.call() as call:
            assert not call.is_returning
            call.caller_said("what was it?")
            assert [message.text for message in call.context(agent)] == ["what was it?"]
        assert await rig.stored(caller_key(ADA)) == ["what was it?"]


async def test_a_session_unused_for_a_while_is_shown_with_what_another_process_has_added(
    autojump_clock: MockClock,
) -> None:
    async with house(PuppetAgent(shows)) as here, house(PuppetAgent(shows), store=here.store) as there:
        await here.sms("one")
        await there.sms("two")
        await trio.sleep(READ_AGAIN_S)
        assert await here.sms("three") == "one|one|two|one|one|two|three"


async def test_a_line_that_is_no_number_makes_no_other_line_trusted(autojump_clock: MockClock) -> None:
    async with house(trusted_lines=("12345",)) as rig:
        await rig.sms("my canary")
        call = CallInfo("twilio", "CA1", "MZ1", MULAW_8K, "desk", ADA, "anonymous")
        async with rig.sessions.joined(call) as seat:
            assert not seat.is_returning
