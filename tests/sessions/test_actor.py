"""A session actor that meets a bug: what was said is kept, or counted as lost."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from engine.errors import StoreDown
from engine.events import Context, Noted, ReplyPart
from engine.storage.identity import caller_key
from tests.fakes.flaky_store import FlakyStore
from tests.fakes.puppet import PuppetAgent
from tests.sessions.rig import ADA, house

UNUSABLE: Any = None


def slowly(context: Context) -> list[ReplyPart | float | Exception]:
    return [1.0, "yes"]


async def test_turns_told_to_a_session_that_meets_a_bug_are_all_kept(autojump_clock: MockClock) -> None:
    """An agent notes what no session can remember."""
    async with house(PuppetAgent(slowly)) as rig, rig.call() as call:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.sms, "a text")
            await trio.sleep(0.5)
            for words in ("one", "two", "three"):
                call.caller_said(words)
                if words == "two":
                    call.note(Noted(entities=UNUSABLE))
                call.agent_was_heard("yes")
        call.caller_said("four")
        shown = [message.text for message in call.context(PuppetAgent()) if message.role != "system"]
        assert shown == ["one", "yes", "two", "yes", "three", "yes", "a text", "yes", "four"]
        call.agent_was_heard("yes")
        assert await rig.stored(caller_key(ADA)) == [*shown, "yes"]
        assert rig.value("store_lost_total") == 0
        assert rig.value("sessions_active", scope="caller") == 1


async def test_a_written_turn_on_which_a_session_chokes_is_refused_and_not_kept_half(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(lambda _: [Noted(entities=UNUSABLE), "yes"])
    async with house(agent) as rig:
        with pytest.raises(StoreDown):
            await rig.sms("hello")
        assert await rig.stored(caller_key(ADA)) == []
        rig.agents["desk"] = PuppetAgent(lambda context: [f"{len(context)}"])
        assert await rig.sms("again") == "1"
        assert await rig.stored(caller_key(ADA)) == ["again", "1"]


async def test_turns_that_a_session_has_no_time_for_any_more_are_counted(autojump_clock: MockClock) -> None:
    store = FlakyStore()
    async with house(store=store) as rig, rig.call() as call:
        store.hangs = True
        for words in ("one", "two", "three"):
            call.caller_said(words)
            call.agent_was_heard("yes")
        await trio.sleep(1)
    assert rig.value("store_lost_total") == 2  # the first one is with the writer
