"""Sessions that another process adds to, resets or erases while this one has them in memory."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from adapters.stores.memory import MemoryStore
from engine.events import MULAW_8K, CallInfo, Context, ReplyPart
from engine.ports import Found
from engine.sessions.history import History
from engine.storage.identity import caller_key, stream_key
from tests.fakes.flaky_store import FlakyStore
from tests.fakes.puppet import PuppetAgent
from tests.sessions.rig import ADA, Clock, house


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


async def test_a_text_long_after_an_erasure_by_another_process_is_kept(autojump_clock: MockClock) -> None:
    async with house(PuppetAgent(shows)) as rig:
        await rig.sms("my canary")
        await rig.vault.erase(ADA, rig.sessions.now())
        await trio.sleep(5.0)
        assert await rig.sms("what was it?") == "what was it?"
        assert await rig.stored(caller_key(ADA)) == ["what was it?", "what was it?"]


async def test_a_call_is_not_welcomed_back_to_what_another_process_has_erased(autojump_clock: MockClock) -> None:
    agent = PuppetAgent()
    async with house(agent) as rig:
        await rig.sms("my canary")
        await rig.vault.erase(ADA, rig.sessions.now())
        await trio.sleep(5.0)
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
        await trio.sleep(5.0)
        assert await here.sms("three") == "one|one|two|one|one|two|three"


async def test_a_line_that_is_no_number_makes_no_other_line_trusted(autojump_clock: MockClock) -> None:
    async with house(trusted_lines=("12345",)) as rig:
        await rig.sms("my canary")
        call = CallInfo("twilio", "CA1", "MZ1", MULAW_8K, "desk", ADA, "anonymous")
        async with rig.sessions.joined(call) as seat:
            assert not seat.is_returning


async def test_a_session_that_is_stored_no_more_cannot_be_handed_over(autojump_clock: MockClock) -> None:
    async with house() as rig:
        first = await rig.sessions.turn("hello")
        assert await rig.vault.remove(first.session_id)
        assert not await rig.sessions.hand_over(first.session_id, "desk")


class StallingStore(FlakyStore):
    """Told to, it gives no session any more; all else goes on."""

    stalls = False

    async def get(self, session_id: str, *, last: int) -> Found | None:
        if self.stalls:
            await trio.sleep_forever()
        return await super().get(session_id, last=last)


class SlowStore(FlakyStore):
    async def _before(self) -> None:
        await trio.sleep(1.0)


async def test_a_session_handed_over_while_it_is_opened_is_one(autojump_clock: MockClock) -> None:
    store = MemoryStore(now=Clock())
    async with house(store=store) as rig:
        first = await rig.sessions.turn("hello")
    for lead_s in (0.0, 0.5, 1.5, 2.5):
        async with house(store=SlowStore(store)) as rig, trio.open_nursery() as nursery:
            nursery.start_soon(rig.sessions.hand_over, first.session_id, "desk")
            await trio.sleep(lead_s)
            assert (await rig.sessions.turn("again")).session_id == first.session_id
            assert rig.value("sessions_active", scope="call") == 1


async def test_texts_in_two_processes_take_turns_with_nothing_missed_lost_or_doubled(
    autojump_clock: MockClock,
) -> None:
    last = PuppetAgent(lambda context: [f"after {context[-2].text}" if len(context) > 1 else "first"])
    async with house(last) as here, house(last, store=here.store) as there:
        said: list[str] = []
        for number in range(4):
            for process in (here, there):
                said.append(f"{number}")
                said.append(await process.sms(said[-1]))
                assert said[-1] == (f"after {said[-3]}" if len(said) > 2 else "first")
        assert await here.stored(caller_key(ADA)) == said


async def test_what_nobody_else_has_changed_is_not_read_again(autojump_clock: MockClock) -> None:
    async with house(PuppetAgent(shows)) as rig:
        await rig.sms("one")
        store = rig.store
        assert isinstance(store, MemoryStore)
        reads: list[int] = []
        get = store.get

        async def counted(session_id: str, *, last: int) -> Found | None:
            reads.append(last)
            return await get(session_id, last=last)

        store.get = counted  # type: ignore[method-assign]  # to see what is asked for
        await rig.sms("two")
        assert reads == [0]


async def test_a_text_waits_no_longer_than_a_call_for_news_of_its_session(autojump_clock: MockClock) -> None:
    store = StallingStore(MemoryStore(now=Clock()))
    async with house(PuppetAgent(shows), store=store) as rig:
        await rig.sms("one")
        store.stalls = True
        began_at_s = trio.current_time()
        assert await rig.sms("two") == "one|one|two"
        assert trio.current_time() - began_at_s < 0.5
        assert len(await rig.stored(caller_key(ADA))) == 4


async def test_a_call_is_shown_what_another_process_has_just_added(autojump_clock: MockClock) -> None:
    agent = PuppetAgent()
    async with house(agent) as here, house(PuppetAgent(), store=here.store) as there:
        await here.sms("one")
        await there.sms("two")
        async with here.call() as call:
            call.caller_said("three")
            shown = [message.text for message in call.context(agent)]
            assert shown == ["one", "You said one.", "two", "You said two.", "three"]


async def test_calls_of_one_number_in_two_processes_are_sound_though_neither_has_read_the_others_turns(
    autojump_clock: MockClock,
) -> None:
    agent = PuppetAgent()
    async with house(agent) as here, house(agent, store=here.store) as there:
        await here.sms("a text")
        async with here.call() as one, there.call(stream_id="MZ2") as two:
            for turn in range(3):
                for call in (one, two):
                    call.caller_said(f"question {turn}")
                    call.context(agent)
                    call.agent_was_heard(f"answer {turn}")
                    await trio.sleep(1)
            await here.stored(caller_key(ADA))
            await there.stored(caller_key(ADA))
        history = History(here.vault, here.sessions, now=here.sessions.now)
        (stored,) = await history.of_number(ADA)
        report = await history.validate(stored.record.session_id)
        assert report is not None
        assert (report.problems, report.turns) == ((), 7)
