"""Calls beside one another, calls that end while the store is down, and what a short history must not lose."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from tests.fakes.flaky_store import FlakyStore
from tests.fakes.puppet import PuppetAgent
from tests.sessions.rig import house


async def test_two_calls_of_a_caller_at_once_hear_the_opening_once(autojump_clock: MockClock) -> None:
    agent = PuppetAgent()
    async with house(agent) as rig, rig.call(stream_id="MZ1") as one, rig.call(stream_id="MZ2") as two:
        assert one.session_id == two.session_id
        assert [call.opening(agent.phrases) for call in (one, two)] == [agent.phrases.greeting, agent.phrases.returning]


async def test_what_falls_out_of_a_history_shorter_than_the_window_is_in_the_summary(
    autojump_clock: MockClock,
) -> None:
    async with house(retention=6, window=10) as rig:
        for words in ("My name is Ada Lovelace.", "My code is QX-77.", "I am at home.", "I like tea.", "I like tea."):
            answer = await rig.sessions.turn(words)
        await rig.sessions.settle()
        await rig.writer.flush()
        found = await rig.vault.get(answer.session_id, last=100)
    assert found is not None
    assert len(found.entries) == 6
    assert "Ada Lovelace" in found.record.memory.summary


async def test_a_call_of_the_scope_call_that_ends_while_the_store_is_down_leaves_nothing_once_it_is_back(
    autojump_clock: MockClock,
) -> None:
    store = FlakyStore()
    async with house(scope="call", store=store) as rig:
        async with rig.call() as call:
            call.caller_said("my canary")
            call.agent_was_heard("yes")
            session_id = call.session_id
            await rig.sessions.settle()
            store.fails = "error"
        await trio.sleep(60)
        store.fails = ""
        assert await rig.vault.get(session_id, last=10) is not None
        await trio.sleep(60)
        assert await rig.vault.get(session_id, last=10) is None
