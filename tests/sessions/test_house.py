"""Sessions as calls and texts use them."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from adapters.stores.memory import MemoryStore
from engine.dialogue import context
from engine.dialogue.recollection import key_facts
from engine.errors import Busy, ModelFailed, StoreDown, Why
from engine.events import Context, HandOver, HangUp, MemoryItem, MemoryKind, Noted, ReplyPart, SessionInfo
from engine.ports import CallControl, IncomingText, LanguageModel, Owner
from engine.storage.identity import caller_key, stream_key
from engine.vendors.around import Vendoring
from engine.vendors.breaker import Breakers
from engine.vendors.thinking import open_model
from tests.fakes.puppet import PuppetAgent
from tests.fakes.stage import stage
from tests.sessions.rig import ADA, BOB, LINE, Clock, house
from tests.vendors.puppets import MindVendor


def shows(context: Context) -> list[ReplyPart | float | Exception]:
    """A chat model that answers with what it was shown."""
    return ["|".join(message.text for message in context)]


def echoes(context: Context) -> list[ReplyPart | float | Exception]:
    return [f"You said {context[-1].text}."]


async def test_turns_of_one_stream_see_each_other_and_no_other_streams(autojump_clock: MockClock) -> None:
    async with house(PuppetAgent(shows)) as rig:
        first = await rig.sessions.turn("one", stream_id="a")
        other = await rig.sessions.turn("two", stream_id="b")
        second = await rig.sessions.turn("three", stream_id="a")
    assert (first.text, other.text, second.text) == ("one", "two", "one|one|three")
    assert first.session_id == second.session_id != other.session_id
    assert first.turn_id != second.turn_id


async def test_a_turn_is_in_the_store_when_it_is_answered(autojump_clock: MockClock) -> None:
    async with house() as rig:
        await rig.sessions.turn("hello")
        found = await rig.vault.load(stream_key("default"), last=10)
        assert found is not None
        assert [entry.text for entry in found.entries] == ["hello", "You said hello."]
        assert found.record.turns == 1


async def test_a_second_call_of_a_caller_is_greeted_as_returning_and_shown_the_first(
    autojump_clock: MockClock,
) -> None:
    agent = PuppetAgent()
    async with house(agent) as rig:
        async with rig.call(stream_id="MZ1") as call:
            first_id = call.session_id
            assert call.opening(agent.phrases) == agent.phrases.greeting
            call.agent_was_heard(agent.phrases.greeting, is_opening=True)
            call.caller_said("I am Ada")
            call.agent_was_heard("Hello Ada.")
        async with rig.call(stream_id="MZ2") as call:
            assert call.session_id == first_id
            assert call.opening(agent.phrases) == agent.phrases.returning
            call.agent_was_heard(agent.phrases.returning, is_opening=True)
            call.caller_said("who am I?")
            context = call.context(agent)
        said = [message.text for message in context if message.role != "system"]
        assert said == [
            agent.phrases.greeting,
            "I am Ada",
            "Hello Ada.",
            agent.phrases.returning,
            "who am I?",
        ]
        assert context.is_returning
        assert len(await rig.stored(caller_key(ADA))) == 5
    assert rig.value("context_violations_total", rule="second_opening") == 0


async def test_other_callers_are_strangers(autojump_clock: MockClock) -> None:
    agent = PuppetAgent()
    async with house(agent) as rig:
        async with rig.call(ADA, "MZ1") as one, rig.call(BOB, "MZ2") as two:
            one.caller_said("canary")
            one.agent_was_heard("yes")
            two.caller_said("hello")
            assert [message.text for message in two.context(agent)] == ["hello"]
        assert await rig.stored(caller_key(BOB)) == ["hello"]


async def test_what_was_said_is_shown_even_before_the_session_has_taken_it(autojump_clock: MockClock) -> None:
    agent = PuppetAgent()
    async with house(agent) as rig, rig.call() as call:
        call.caller_said("one")
        call.agent_was_heard("two")
        call.caller_said("three")
        assert [message.text for message in call.context(agent)] == ["one", "two", "three"]
        await rig.sessions.settle()
        assert [message.text for message in call.context(agent)] == ["one", "two", "three"]


async def test_a_call_of_the_scope_call_leaves_nothing(autojump_clock: MockClock) -> None:
    async with house(scope="call") as rig:
        async with rig.call() as call:
            call.caller_said("hello")
            call.agent_was_heard("yes")
            assert await rig.stored(stream_key("MZ1")) == ["hello", "yes"]
        await rig.sessions.settle()
        assert await rig.stored(stream_key("MZ1")) == []
        assert await rig.vault.of_number(ADA) == []
        async with rig.call() as call:
            assert not call.is_returning


async def test_a_call_of_the_scope_call_is_kept_as_history_if_the_settings_say_so(
    autojump_clock: MockClock,
) -> None:
    async with house(scope="call", keep_calls=True) as rig:
        async with rig.call() as call:
            call.caller_said("I am Ada Miller")
            call.agent_was_heard("yes")
        await rig.sessions.settle()
        assert await rig.stored(stream_key("MZ1")) == []  # nobody goes on with it
        (kept,) = await rig.vault.of_number(ADA)
        assert [entry.text for entry in kept.entries] == ["I am Ada Miller", "yes"]
        assert kept.record.end_reason == "call_over"
        assert "Ada Miller" in kept.record.memory.summary
        async with rig.call() as call:
            assert not call.is_returning


async def test_a_number_that_nobody_vouches_for_gets_no_memory_and_adds_none(autojump_clock: MockClock) -> None:
    agent = PuppetAgent()
    async with house(agent) as rig:
        async with rig.call(stream_id="MZ1") as call:
            call.caller_said("my canary")
            call.agent_was_heard("yes")
        async with rig.call(stream_id="MZ2", attestation="C") as call:
            assert not call.is_returning
            call.caller_said("what did I say?")
            assert [message.text for message in call.context(agent)] == ["what did I say?"]
        assert await rig.stored(caller_key(ADA)) == ["my canary", "yes"]
    assert rig.value("untrusted_callers_total") == 1


async def test_a_trusted_line_vouches_for_its_callers(autojump_clock: MockClock) -> None:
    async with house(trusted_lines=("(555) 010-0000",)) as rig:
        async with rig.call(attestation="") as call:
            call.caller_said("hello")
        async with rig.call(attestation="", stream_id="MZ2") as call:
            assert call.is_returning


@pytest.mark.parametrize("number", ["", "anonymous", "+266696687", "sip:a@b", "client:x", "0000"])
async def test_withheld_numbers_share_nothing(number: str, autojump_clock: MockClock) -> None:
    async with house() as rig:
        async with rig.call(number, "MZ1") as call:
            call.caller_said("hello")
        async with rig.call(number, "MZ2") as call:
            assert not call.is_returning
        await rig.sessions.text("twilio", IncomingText("SM1", number, LINE, "one"))
        answer = await rig.sessions.text("twilio", IncomingText("SM2", number, LINE, "two"))
        assert answer.text == "You said two."
        second = await rig.vault.get(answer.session_id, last=10)
        assert second is not None
        assert [entry.text for entry in second.entries] == ["two", "You said two."]


async def test_a_text_after_a_call_is_answered_in_its_context_and_the_reverse(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(shows)
    async with house(agent) as rig:
        async with rig.call() as call:
            call.caller_said("my name is Ada")
            call.agent_was_heard("Hello Ada")
        assert (await rig.sms("who am I?")).endswith("my name is Ada|Hello Ada|who am I?")
        async with rig.call(stream_id="MZ2") as call:
            call.caller_said("and now?")
            texts = [message.text for message in call.context(agent)]
            assert "who am I?" in texts
            call.agent_was_heard("Ada")
        await rig.sessions.settle()
        (stored,) = await rig.vault.of_number(ADA)
    assert (stored.record.calls, stored.record.texts, stored.record.switches) == (2, 1, 2)
    assert stored.record.bridges == 2
    assert rig.value("modality_switches_total", origin="voice", target="sms") == 1
    assert rig.value("modality_switches_total", origin="sms", target="voice") == 1
    assert rig.value("context_bridges_total", modality="sms") == 1
    assert rig.events().count("session.modality_switched") == 2
    assert rig.events().count("session.context_bridged") == 2
    assert rig.events()[0] == "session.started"


async def test_a_text_during_a_call_joins_its_session(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(shows)
    async with house(agent) as rig, rig.call() as call:
        call.caller_said("one")
        call.agent_was_heard("two")
        assert (await rig.sms("three")).endswith("one|two|three")
        call.caller_said("four")
        assert [message.text for message in call.context(agent)][-4:-1] == ["two", "three", "one|two|three"]
        await rig.sessions.turn("five", stream_id="MZ1")  # and so does a turn on its stream
        assert "five" in [message.text for message in call.context(agent)]


async def test_a_turn_of_a_call_and_a_text_never_interleave(autojump_clock: MockClock) -> None:
    async with house(PuppetAgent(lambda _: [5.0, "late"])) as rig:
        async with rig.call() as call, trio.open_nursery() as nursery:
            nursery.start_soon(rig.sms, "texted")
            await trio.sleep(1)
            call.caller_said("spoken")
            await trio.sleep(10)
            call.agent_was_heard("heard")
        assert await rig.stored(caller_key(ADA)) == ["texted", "late", "spoken", "heard"]


async def test_a_reset_stream_begins_anew(autojump_clock: MockClock) -> None:
    async with house(PuppetAgent(shows)) as rig:
        first = await rig.sessions.turn("one", stream_id="a")
        assert await rig.sessions.reset("a")
        again = await rig.sessions.turn("two", stream_id="a")
        assert again.text == "two"
        assert again.session_id != first.session_id
        assert await rig.vault.get(first.session_id, last=10) is None
        assert not await rig.sessions.reset("never there")


async def test_a_reset_in_a_live_call_clears_what_it_knows_and_the_call_goes_on(autojump_clock: MockClock) -> None:
    agent = PuppetAgent()
    async with house(agent, scope="call") as rig, rig.call() as call:
        call.caller_said("one")
        call.agent_was_heard("two")
        assert await rig.sessions.reset("MZ1")
        call.caller_said("three")
        assert [message.text for message in call.context(agent)] == ["three"]


async def test_an_erased_caller_is_forgotten_in_the_live_call_and_nothing_is_written_back(
    autojump_clock: MockClock,
) -> None:
    agent = PuppetAgent()
    async with house(agent) as rig:
        async with rig.call() as call:
            call.caller_said("my canary")
            call.agent_was_heard("yes")
            call.caller_said("half a")
            await rig.sessions.forget(ADA)
            await rig.vault.erase(ADA, rig.sessions.now())
            call.caller_said("and now?")
            assert [message.text for message in call.context(agent)] == ["and now?"]
            call.agent_was_heard("still here")
        await rig.sessions.settle()
        await rig.writer.flush()
        assert await rig.vault.of_number(ADA) == []
        assert await rig.stored(caller_key(ADA)) == []
        async with rig.call(stream_id="MZ2") as call:
            assert not call.is_returning


async def test_agents_hand_a_session_to_one_another_and_each_message_keeps_its_own(
    autojump_clock: MockClock,
) -> None:
    desk = PuppetAgent(lambda context: ["One moment.", HandOver("sales")], name="desk")
    sales = PuppetAgent(shows, name="sales")
    async with house(desk, sales) as rig:
        answer = await rig.sessions.turn("a quote, please")
        assert (answer.text, answer.agent) == ("One moment. a quote, please", "sales")
        assert (await rig.sessions.turn("and?")).agent == "sales"
        found = await rig.vault.load(stream_key("default"), last=10)
        assert found is not None
        assert [entry.agent for entry in found.entries] == ["desk", "sales", "sales", "sales"]
        assert found.record.handovers == 1
        assert await rig.sessions.hand_over(answer.session_id, "desk")
        assert (await rig.sessions.turn("back?")).text.startswith("One moment.")
        assert not await rig.sessions.hand_over("s_unknown", "desk")


async def test_two_agents_that_hand_over_to_and_fro_for_ever_are_stopped(autojump_clock: MockClock) -> None:
    desk = PuppetAgent(lambda _: [HandOver("sales")], name="desk")
    sales = PuppetAgent(lambda _: [HandOver("desk")], name="sales")
    async with house(desk, sales) as rig:
        with pytest.raises(ModelFailed):
            await rig.sessions.turn("hello")
        assert await rig.stored(stream_key("default")) == []


async def test_what_an_agent_notes_is_there_the_next_time(autojump_clock: MockClock) -> None:
    likes = MemoryItem(MemoryKind.PREFERENCE, "mornings", 0.8)

    def notes(context: Context) -> list[ReplyPart | float | Exception]:
        if context.memory.entities:
            return [f"{context.memory.entities['name']} {context.memory.states['desk']}"]
        return [Noted({"name": "Ada"}, (likes,), "booking"), "noted", HangUp()]

    async with house(PuppetAgent(notes)) as rig:
        assert (await rig.sessions.turn("one")).is_over
        assert (await rig.sessions.turn("two")).text == "Ada booking"
        found = await rig.vault.load(stream_key("default"), last=10)
        assert found is not None
        assert found.record.memory.items == (likes,)


async def test_a_text_that_cannot_be_answered_leaves_nothing(autojump_clock: MockClock) -> None:
    async with house(PuppetAgent(lambda _: [ModelFailed("puppet", "gone")])) as rig:
        with pytest.raises(ModelFailed):
            await rig.sessions.turn("hello")
        assert await rig.stored(stream_key("default")) == []
    async with house(PuppetAgent(lambda _: [60.0, "late"]), turn_s=10.0) as rig:
        with pytest.raises(trio.TooSlowError):
            await rig.sessions.turn("hello")


async def test_more_texts_at_once_than_can_wait_are_refused(autojump_clock: MockClock) -> None:
    refused = 0

    async def ask() -> None:
        nonlocal refused
        try:
            await rig.sessions.turn("hello")
        except Busy:
            refused += 1

    async with house(PuppetAgent(lambda _: [1.0, "late"])) as rig, trio.open_nursery() as nursery:
        await rig.sessions.turn("first")
        for _ in range(20):
            nursery.start_soon(ask)
    assert 10 <= refused <= 12


async def test_a_session_that_nobody_uses_leaves_the_memory_and_comes_back_from_the_store(
    autojump_clock: MockClock,
) -> None:
    async with house(PuppetAgent(shows), idle_s=60.0) as rig:
        first = await rig.sessions.turn("one")
        await trio.sleep(30)
        assert rig.value("sessions_active", scope="call") == 1
        await trio.sleep(60)
        assert rig.value("sessions_active", scope="call") == 0
        second = await rig.sessions.turn("two")
        assert second.text == "one|one|two"
        assert second.session_id == first.session_id
        assert rig.events() == ["session.started"]  # it never ended
        await trio.sleep(120)
        assert await rig.sessions.reset("default")
        assert rig.events() == ["session.started", "session.ended"]
        assert dict(rig.told[-1][3]) == {"reason": "reset", "turns": 2}


async def test_a_summary_is_made_in_the_background_once_the_call_is_over(autojump_clock: MockClock) -> None:
    async with house() as rig:
        async with rig.call() as call:
            call.caller_said("I need a new passport on Tuesday")
            call.agent_was_heard("yes")
        await trio.sleep(1)
        await rig.sessions.settle()
        (stored,) = await rig.vault.of_number(ADA)
        assert "passport" in stored.record.memory.summary
        assert rig.value("summaries_total", status="ok") == 1


async def test_a_summary_is_made_when_the_window_overflows(autojump_clock: MockClock) -> None:
    async with house() as rig:
        for number in range(8):
            await rig.sessions.turn(f"My order number is 4400{number}.")
        await trio.sleep(1)
        await rig.sessions.settle()
        found = await rig.vault.load(stream_key("default"), last=50)
        assert found is not None
        assert "44000" in found.record.memory.summary


async def test_what_is_out_of_sight_in_the_next_turns_is_looked_through_in_a_thread(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_turns, ahead = list[str](), list[str]()
    loop = threading.get_ident()

    def find(text: str) -> list[str]:
        (in_turns if threading.get_ident() == loop else ahead).append(text)
        return key_facts(text)

    monkeypatch.setattr(context, "key_facts", find)
    async with house() as rig:
        for number in range(10):
            await rig.sessions.turn(f"My order number is 4400{number}." + " And so on." * (30 if number == 1 else 0))
            await trio.testing.wait_all_tasks_blocked()
            while rig.aside.borrowed_tokens:  # one is at work, on the clock of the wall
                await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
    assert len(in_turns) < len(ahead)
    assert {"My order number is 44000.", "My order number is 44004."} <= set(ahead)


async def test_only_the_last_messages_are_retained(autojump_clock: MockClock) -> None:
    async with house(retention=6) as rig:
        for number in range(5):
            await rig.sessions.turn(f"t{number}")
        texts = await rig.stored(stream_key("default"))
        assert texts == ["t2", "You said t2.", "t3", "You said t3.", "t4", "You said t4."]
        found = await rig.vault.load(stream_key("default"), last=50)
        assert found is not None
        assert found.record.message_count == 10


async def test_each_turn_is_traced_with_what_was_shown_and_what_came_back(autojump_clock: MockClock) -> None:
    async with house() as rig:
        answer = await rig.sessions.turn("hello")
        traces = await rig.vault.traces(answer.session_id)
    whats = [str(event.what) for event in traces]
    assert whats == ["session_created", "model_asked", "model_answered"]
    asked, answered = traces[1], traces[2]
    assert asked.fields["shown"] == [["user", "hello"]]
    assert answered.fields["text"] == "You said hello."
    assert {event.fields["session_id"] for event in traces} == {answer.session_id}
    assert asked.fields["turn_id"] == answered.fields["turn_id"] == answer.turn_id


async def test_a_trace_names_the_vendor_that_answered_in_a_text_and_in_a_call(autojump_clock: MockClock) -> None:
    class TwoModels(PuppetAgent):
        """The first of its vendors is down."""

        @asynccontextmanager
        async def open_model(
            self, session: SessionInfo, owner: Owner, control: CallControl
        ) -> AsyncIterator[LanguageModel]:
            around = Vendoring(rig.metrics, Breakers(rig.metrics))
            down = MindVendor("one", [ModelFailed("one", "no", why=Why.AUTH)])
            async with open_model([down, MindVendor("two")], session, owner, around) as model:
                yield cast("LanguageModel", model)  # it calls no tools

    agent = TwoModels()
    async with (
        house(agent, keep_calls=True) as rig,
        stage(agent, open_session=lambda call, _: rig.sessions.joined(call)) as on,
    ):
        await rig.sessions.turn("hello")
        async with on.call():
            for _ in range(2):
                await trio.sleep(4)
                agent.transcriber.hears("hello")
            await trio.sleep(4)
        await rig.sessions.settle()
        await rig.writer.flush()
        rows = sorted(await rig.store.scan(), key=lambda row: row.last_at)
        traced = [event for row in rows for event in await rig.vault.traces(row.session_id)]
    vendors = [(str(event.what), event.fields["vendor"]) for event in traced if "vendor" in event.fields]
    in_the_text, in_the_call = vendors[:2], vendors[2:]
    assert in_the_text == [("model_asked", "custom"), ("model_answered", "two")]
    first, second = in_the_call[:2], in_the_call[2:]
    assert first == [("model_asked", "one"), ("model_answered", "two")]
    assert second == [("model_asked", "two"), ("model_answered", "two")]


async def test_whoever_answers_in_place_of_an_agent_that_is_no_more_stands_beside_the_message(
    autojump_clock: MockClock,
) -> None:
    store = MemoryStore(now=Clock())
    async with house(PuppetAgent(echoes, name="old"), store=store) as rig:
        assert (await rig.sms("one"), (await rig.sessions.turn("two")).agent) == ("You said one.", "old")
    async with house(PuppetAgent(echoes, name="new"), store=store) as rig:
        assert (await rig.sessions.turn("three")).agent == "new"
        found = await rig.vault.load(stream_key("default"), last=10)
    assert found is not None
    assert [entry.agent for entry in found.entries] == ["old", "old", "new", "new"]


async def test_a_text_is_answered_by_the_agent_of_its_line_unless_that_one_handed_over(
    autojump_clock: MockClock,
) -> None:
    desk = PuppetAgent(lambda context: [HandOver("sales")] if "quote" in context[-1].text else ["desk"], name="desk")
    sales, clinic = PuppetAgent(lambda _: ["sales"], name="sales"), PuppetAgent(lambda _: ["clinic"], name="clinic")
    other_line = "+15550100009"
    async with house(desk, sales, clinic, lines={other_line: "clinic"}) as rig:

        async def ask(text: str, line: str = LINE) -> str:
            return (await rig.sessions.text("twilio", IncomingText(f"SM-{text}", ADA, line, text))).text

        assert await ask("hello") == "desk"
        assert await ask("a quote") == "sales"
        assert await ask("and then?") == "sales"
        assert await ask("an appointment", other_line) == "clinic"
        assert await ask("on Tuesday", other_line) == "clinic"
        assert await ask("back again") == "desk"
        assert rig.value("session_handovers_total") == 1
        async with rig.call(agent="clinic") as call:
            call.caller_said("hello")
            call.agent_was_heard("yes")
        assert await ask("after the call", other_line) == "clinic"


async def test_two_engines_count_what_the_other_has_counted_too(autojump_clock: MockClock) -> None:
    store = MemoryStore(now=Clock())
    async with house(store=store) as one, house(store=store) as two:
        async with one.call(stream_id="MZ1") as first, two.call(stream_id="MZ2") as second:
            for call, rig in ((first, one), (second, two), (first, one)):
                call.caller_said("hello")
                call.agent_was_heard("yes", response_ms=500)
                await rig.sessions.settle()
            await one.sms("a text")
            await two.sms("another")
        for rig in (one, two):
            await rig.sessions.settle()
        (stored,) = await one.vault.of_number(ADA)
    record = stored.record
    assert (record.calls, record.texts, record.turns, record.message_count) == (2, 2, 5, 10)
    assert record.response_s == pytest.approx(1.5, abs=0.1)
    assert [entry.text for entry in stored.entries].count("hello") == 3


async def test_a_call_of_the_scope_call_is_not_kept_long_when_the_process_dies_in_it(autojump_clock: MockClock) -> None:
    async with house(scope="call") as rig, rig.call() as call:
        call.caller_said("hello")
        call.agent_was_heard("yes")
        await rig.sessions.settle()
        found = await rig.store.of_subject(rig.vault.fingerprint(ADA))
        assert 7200 < found[0].expires_at - found[0].last_at < 86_400
        await rig.sessions.turn("one", stream_id="a text's stream lasts")
        (row,) = [row for row in await rig.store.scan() if row.session_id != call.session_id]
        assert row.expires_at - row.last_at == 30 * 86_400


async def test_once_nobody_writes_any_more_texts_are_refused_and_calls_go_on(autojump_clock: MockClock) -> None:
    async with house() as rig, rig.call() as call:
        rig.writer.abandon()
        with pytest.raises(StoreDown):
            await rig.sessions.turn("hello")
        call.caller_said("hello")
        call.agent_was_heard("yes")
        await rig.sessions.settle()
        assert rig.value("store_lost_total") == 2
