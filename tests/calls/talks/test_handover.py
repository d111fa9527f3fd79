"""A call that one agent hands to another: the voice stays, the mind changes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from engine.calls.talks.conversing import TOOK_OVER
from engine.dialogue.context import ContextLimits
from engine.events import CallInfo, Context, HandOver, Modality, ReplyOver, ReplyPart, ReplyStarted, ToolCall
from engine.observe.metrics import Metrics
from engine.observe.timeline import What
from engine.sessions.call_session import CallSession, LoneSeat
from engine.sessions.showing import Showing
from engine.storage.record import Scope, SessionRecord
from tests.fakes.puppet import PuppetAgent, PuppetRealtimeAgent
from tests.fakes.stage import stage

GREETING = "Hello, this is the desk."
GREETING_S = len(GREETING) * 0.06


def to_sales(context: Context) -> list[ReplyPart | float | Exception]:
    return ["One moment. ", HandOver("sales")]


async def test_the_next_agent_answers_the_same_words_and_all_that_follow(autojump_clock: MockClock) -> None:
    desk, sales = PuppetAgent(to_sales, name="desk"), PuppetAgent(name="sales")
    async with stage(desk, sales) as on:
        async with on.call():
            await trio.sleep(3)
            desk.transcriber.hears("a quote")
            await trio.sleep(4)
            desk.transcriber.hears("thanks")
            await trio.sleep(4)
            context = sales.model.contexts[-1]
            assert (context.agent, [message.text for message in context][-3:]) == (
                "sales",
                ["a quote", "One moment. You said a quote.", "thanks"],
            )
            assert [slot.answers() for slot in on.supervisor.registry.live_slots()] == ["sales"]
        assert on.texts(What.SAID)[1:] == ["One moment. You said a quote.", "You said thanks."]
        assert on.last(What.CALL_RELEASED)["opened"] == 5
        assert on.last(What.CALL_RELEASED)["left"] == 0
    assert len(desk.model.contexts) == 1
    assert desk.open_parts == sales.open_parts == 0


async def test_whoever_answered_when_the_line_was_lost_answers_on_the_next_one(autojump_clock: MockClock) -> None:
    desk, sales = PuppetAgent(to_sales, name="desk"), PuppetAgent(name="sales")
    async with stage(desk, sales) as on:
        async with on.call("CA1") as caller:
            await trio.sleep(3)
            desk.transcriber.hears("a quote")
            await trio.sleep(4)
            caller.socket.abort()
            await caller.gone.wait()
        async with on.call("CA1"):
            await trio.sleep(3)
            sales.transcriber.hears("thanks")
            await trio.sleep(4)
    assert [len(agent.model.contexts) for agent in (desk, sales)] == [1, 1]
    assert desk.open_parts == sales.open_parts == 0


async def test_a_hand_over_to_nobody_ends_the_call_as_a_failure_of_the_model(autojump_clock: MockClock) -> None:
    desk = PuppetAgent(to_sales, name="desk", has_clips=True)
    async with stage(desk) as on:
        async with on.call() as caller:
            await trio.sleep(3)
            desk.transcriber.hears("a quote")
            await on.over(caller)
        assert on.last(What.CALL_ENDED)["cause"] == "llm_failed"
    assert desk.open_parts == 0


async def test_agents_that_hand_over_to_and_fro_do_not_do_so_for_ever(autojump_clock: MockClock) -> None:
    desk = PuppetAgent(lambda _: [HandOver("sales")], name="desk", has_clips=True)
    sales = PuppetAgent(lambda _: [HandOver("desk")], name="sales")
    async with stage(desk, sales, model_failures=0) as on:
        async with on.call() as caller:
            await trio.sleep(3)
            desk.transcriber.hears("a quote")
            await on.over(caller)
        assert on.last(What.CALL_ENDED)["cause"] == "llm_failed"
        assert on.last(What.CALL_RELEASED)["opened"] == 5  # each mind once, however often it comes back
    assert desk.open_parts == sales.open_parts == 0


async def test_the_next_agent_has_its_own_patience(autojump_clock: MockClock) -> None:
    class Thinker(PuppetAgent):
        patience_s = 23.0

    desk = PuppetAgent(lambda _: [HandOver("thinker")], name="desk")
    thinker = Thinker(lambda _: [25.0, "There you are."], name="thinker")
    async with stage(desk, thinker) as on, on.call():
        for text in ("a quote", "and another"):
            await trio.sleep(3)
            desk.transcriber.hears(text)
            await trio.sleep(29)
            assert on.texts(What.SAID)[-1] == "There you are."


# --- to an agent that hears, thinks and speaks in another way ----------------------------------------------------


class Seat(LoneSeat):
    """Somebody outside may hand it over."""

    def hand_over(self, agent: str) -> None:
        self.record = replace(self.record, agent=agent, assignments=self.record.assignments + 1)


@asynccontextmanager
async def seated(seat: Seat, call: CallInfo, metrics: Metrics) -> AsyncIterator[CallSession]:
    session = CallSession(seat, call, Showing(metrics, ContextLimits(), keeps_trace=False), time.time)
    yield session
    session.close()


def new_seat() -> Seat:
    return Seat(SessionRecord("s1", "stream:1", Scope.CALL, 0.0, 0.0, "desk", Modality.VOICE))


def who_said(seat: Seat) -> list[tuple[str, str]]:
    return [(entry.agent, entry.text) for entry in seat.entries]


class RealtimeDesk(PuppetRealtimeAgent):
    """Hands over to sales when its model says so."""

    def __init__(self, **knobs: Any) -> None:
        super().__init__(name="desk", outcomes={"hand_over": [HandOver("sales")]}, **knobs)

    def hears_and_hands_over(self, words: str, says: str = "I connect you.") -> None:
        self.realtime.hears(words)
        reply_id = self.realtime.begins(says) if says else "r9"
        if not says:
            self.realtime.tells(ReplyStarted(reply_id))
        self.realtime.tells(ToolCall("c1", "hand_over", "{}"), ReplyOver(reply_id))


async def test_a_speech_to_speech_agent_hands_over_to_another_which_opens_while_the_first_is_heard(
    autojump_clock: MockClock,
) -> None:
    desk, sales, seat = RealtimeDesk(), PuppetRealtimeAgent(name="sales", open_s=0.5), new_seat()
    async with stage(desk, sales, open_session=partial(seated, seat)) as on:
        async with on.call() as caller:
            await trio.sleep(3)
            desk.hears_and_hands_over("a quote")
            await trio.sleep(0.3)
            assert (desk.open_parts, sales.open_parts) == (1, 0)
            await trio.sleep(0.4)
            assert (desk.open_parts, sales.open_parts) == (1, 1)  # both in the ledger, and the first is heard still
            assert who_said(seat) == [("desk", GREETING)]
            shown = ["a quote", "I connect you."]
            assert [message.text for message in sales.realtime.context()][-2:] == shown
            await trio.sleep(0.4)
            assert desk.open_parts == 0
            assert [message.text for message in sales.realtime.context()][-2:] == shown
            assert sales.realtime.was_told == [TOOK_OVER]
            assert desk.realtime.results == []
            sales.realtime.replies("What would you like?")
            await trio.sleep(3)
            sales.realtime.hears("a car")
            sales.realtime.replies("We have cars.")
            await trio.sleep(3)
        assert who_said(seat) == [
            ("desk", GREETING),
            ("desk", "a quote"),
            ("desk", "I connect you."),
            ("sales", "What would you like?"),
            ("sales", "a car"),
            ("sales", "We have cars."),
        ]
        assert on.count(What.FILLER) == 0
        assert on.last(What.CALL_RELEASED) == {"opened": 3, "left": 0, "released_ms": pytest.approx(0, abs=50)}
        assert caller.clears == []
    assert desk.open_parts == sales.open_parts == 0


async def test_a_speech_to_speech_agent_hands_over_to_a_pipeline_and_back(autojump_clock: MockClock) -> None:
    def answer(context: Context) -> list[ReplyPart | float | Exception]:
        answers: dict[str, list[ReplyPart | float | Exception]] = {
            TOOK_OVER: ["What would you like?"],
            "two cars": ["We have cars."],
            "back": ["Gladly.", HandOver("desk")],
        }
        return answers[context[-1].text]

    desk, sales, seat = RealtimeDesk(), PuppetAgent(answer, name="sales", open_s=0.3), new_seat()
    async with stage(desk, sales, open_session=partial(seated, seat)) as on:
        async with on.call():
            await trio.sleep(3)
            desk.hears_and_hands_over("a quote")
            await trio.sleep(5)
            sales.transcriber.hears("two cars")
            await trio.sleep(4)
            sales.transcriber.hears("back")
            await trio.sleep(2)
            assert (desk.open_parts, sales.open_parts) == (1, 0)
            assert desk.realtime.was_told == [TOOK_OVER]
            desk.realtime.replies("Here I am.")
            await trio.sleep(2)
        assert who_said(seat)[3:] == [
            ("sales", "What would you like?"),
            ("sales", "two cars"),
            ("sales", "We have cars."),
            ("sales", "back"),
            ("sales", "Gladly."),
            ("desk", "Here I am."),
        ]
        assert on.last(What.CALL_RELEASED)["left"] == 0


async def test_what_the_caller_says_meanwhile_is_answered_by_the_next_agent(autojump_clock: MockClock) -> None:
    desk, sales = RealtimeDesk(), PuppetRealtimeAgent(name="sales", open_s=1.5)
    async with stage(desk, sales) as on, on.call():
        await trio.sleep(3)
        desk.hears_and_hands_over("a quote", says="")
        await trio.sleep(1)
        desk.realtime.hears("for two cars")
        desk.realtime.replies("Two cars it is.")  # too late
        await trio.sleep(2)
        assert sales.realtime.was_told == ["for two cars"]
        assert on.texts(What.HEARD) == ["a quote", "for two cars"]
        assert on.texts(What.SAID) == [GREETING]


@pytest.mark.parametrize("sales", [None, PuppetRealtimeAgent(name="sales", open_fails=True)])
async def test_a_hand_over_that_cannot_be_done_is_told_to_the_model_which_goes_on(
    sales: PuppetRealtimeAgent | None, autojump_clock: MockClock
) -> None:
    desk = RealtimeDesk()
    async with stage(desk, *filter(None, [sales])) as on, on.call() as caller:
        await trio.sleep(3)
        desk.hears_and_hands_over("a quote")
        await trio.sleep(2)
        assert [result.is_error for result in desk.realtime.results] == [True]
        desk.realtime.replies("I can do that myself.")
        await trio.sleep(3)
        assert on.texts(What.SAID)[1:] == ["I connect you.", "I can do that myself."]
        assert not caller.gone.is_set()


async def test_agents_that_hand_over_to_and_fro_at_once_are_stopped(autojump_clock: MockClock) -> None:
    class Back(PuppetRealtimeAgent):
        def __init__(self, name: str, to: str) -> None:
            super().__init__(name=name, outcomes={"hand_over": [HandOver(to)]})

    desk, sales = Back("desk", "sales"), Back("sales", "desk")
    async with stage(desk, sales) as on, on.call() as caller:
        await trio.sleep(3)
        desk.realtime.hears("a quote")
        for agent in (desk, sales, desk, sales):
            agent.realtime.tells(ReplyStarted("r9"), ToolCall("c1", "hand_over", "{}"), ReplyOver("r9"))
            await trio.sleep(0.5)
        assert [result.is_error for result in sales.realtime.results] == [True]
        assert (desk.open_parts, sales.open_parts) == (0, 1)
        assert not caller.gone.is_set()


@pytest.mark.parametrize(
    "desk", [PuppetAgent(name="desk"), PuppetRealtimeAgent(name="desk")], ids=["pipeline", "realtime"]
)
@pytest.mark.parametrize(
    "sales", [PuppetAgent(name="sales"), PuppetRealtimeAgent(name="sales")], ids=["pipeline", "realtime"]
)
async def test_a_session_that_is_handed_over_from_outside_is_the_next_agents_from_the_next_turn_on(
    desk: PuppetAgent, sales: PuppetAgent, autojump_clock: MockClock
) -> None:
    seat = new_seat()
    async with stage(desk, sales, open_session=partial(seated, seat)) as on, on.call():
        await trio.sleep(2)
        seat.hand_over("desk")
        await trio.sleep(1)
        assert (desk.open_parts, sales.open_parts) == (1 if isinstance(desk, PuppetRealtimeAgent) else 3, 0)
        seat.hand_over("sales")
        await trio.sleep(3)
        assert on.texts(What.SAID) == [GREETING]  # nobody speaks for it
        ear = sales if isinstance(desk, PuppetRealtimeAgent) else desk
        (ear.realtime if isinstance(ear, PuppetRealtimeAgent) else ear.transcriber).hears("good morning")
        await trio.sleep(1.5)
        if isinstance(sales, PuppetRealtimeAgent):
            sales.realtime.replies("You said good morning.")
        await trio.sleep(3)
        assert who_said(seat)[-1] == ("sales", "You said good morning.")
        assert on.texts(What.HEARD) == ["good morning"]
