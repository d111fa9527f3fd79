"""Sessions that somebody outside hands to another agent while they are in use."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from engine.dialogue.history import Entry
from engine.events import Context, ReplyPart
from engine.observe.timeline import What
from engine.storage.identity import stream_key
from tests.fakes.puppet import PuppetAgent
from tests.fakes.stage import stage
from tests.sessions.rig import Rig, house


def slowly(context: Context) -> list[ReplyPart | float | Exception]:
    return [1.0, f"You said {context[-1].text}."]


async def entries(rig: Rig, session_id: str) -> list[Entry]:
    await rig.sessions.settle()
    await rig.writer.flush()
    found = await rig.vault.get(session_id, last=100)
    assert found is not None
    return list(found.entries)


async def agent_of(rig: Rig, session_id: str) -> str:
    await rig.sessions.settle()
    await rig.writer.flush()
    found = await rig.vault.get(session_id, last=0)
    assert found is not None
    return found.record.agent


async def test_a_live_call_goes_on_with_the_agent_that_its_session_was_handed_to(autojump_clock: MockClock) -> None:
    desk, sales = PuppetAgent(slowly, name="desk"), PuppetAgent(name="sales")
    async with (
        house(desk, sales, scope="call", keep_calls=True) as rig,
        stage(desk, sales, open_session=lambda call, _: rig.sessions.joined(call)) as on,
    ):
        async with on.call():
            await trio.sleep(3)
            (row,) = await rig.store.scan()
            desk.transcriber.hears("one")
            await trio.sleep(1)  # desk thinks
            assert await rig.sessions.hand_over(row.session_id, "sales")
            await trio.sleep(4)
            assert await agent_of(rig, row.session_id) == "sales"
            desk.transcriber.hears("two")
            await trio.sleep(4)
            desk.transcriber.hears("three")
            await trio.sleep(4)
            assert await agent_of(rig, row.session_id) == "sales"
            assert [message.text for message in sales.model.contexts[0]][-2:] == ["You said one.", "two"]
        assert on.last(What.CALL_RELEASED)["left"] == 0
        spoken = [(entry.agent, entry.text) for entry in await entries(rig, row.session_id) if "You" in entry.text]
        assert spoken == [("desk", "You said one."), ("sales", "You said two."), ("sales", "You said three.")]
        assert rig.value("session_handovers_total") == 1
    assert desk.open_parts == sales.open_parts == 0


async def test_a_hand_over_by_another_process_reaches_a_live_call(autojump_clock: MockClock) -> None:
    desk, sales = PuppetAgent(name="desk"), PuppetAgent(name="sales")
    async with house(desk, sales) as here, house(desk, sales, store=here.store) as there, here.call() as call:
        call.caller_said("one")
        call.agent_was_heard("yes")
        await here.sessions.settle()
        assert await there.sessions.hand_over(call.session_id, "sales")
        call.caller_said("two")
        call.agent_was_heard("yes")
        assert await agent_of(here, call.session_id) == "sales"
        assert call.successor == "sales"
        call.follow()
        call.caller_said("three")
        call.agent_was_heard("yes")
        assert [entry.agent for entry in await entries(here, call.session_id)] == ["desk"] * 4 + ["sales"] * 2
        assert await agent_of(here, call.session_id) == "sales"
        assert not call.successor


async def test_an_answer_that_was_under_way_takes_no_hand_over_back(autojump_clock: MockClock) -> None:
    desk, sales = PuppetAgent(slowly, name="desk"), PuppetAgent(name="sales")
    async with house(desk, sales) as rig:
        session_id = (await rig.sessions.turn("one")).session_id
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.sessions.turn, "two")
            await trio.sleep(0.5)
            assert await rig.sessions.hand_over(session_id, "sales")
        assert await agent_of(rig, session_id) == "sales"
        assert (await rig.sessions.turn("three")).agent == "sales"
        assert len(await rig.stored(stream_key("default"))) == 6


async def test_a_conversation_begun_anew_during_a_call_can_be_handed_over_again(autojump_clock: MockClock) -> None:
    desk, sales = PuppetAgent(name="desk"), PuppetAgent(name="sales")
    async with house(desk, sales) as rig, rig.call() as call:
        call.caller_said("one")
        call.agent_was_heard("yes")
        await rig.sessions.settle()
        assert await rig.sessions.hand_over(call.session_id, "sales")
        call.follow()
        assert await rig.sessions.reset("MZ1")
        assert await rig.sessions.hand_over(call.session_id, "desk")
        assert call.successor == "desk"
