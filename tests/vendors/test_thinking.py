"""A mind that outlives its models."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from engine.errors import ModelFailed, Why
from engine.events import Context, Exchange, HangUp, Message, ModelPart, Role, ToolCall, ToolResult, Usage
from engine.vendors.thinking import Thinking, open_model, shortened
from tests.vendors.puppets import SESSION, House, MindVendor, context, failed

ASKED = context("Hello, this is the desk.", "What is open?")


def fails(why: Why = Why.UNREACHABLE, after_s: float | None = None) -> Exception:
    return failed(why, of=ModelFailed, after_s=after_s)


@asynccontextmanager
async def thinking(house: House, *vendors: MindVendor) -> AsyncIterator[Thinking]:
    async with open_model(vendors, SESSION, house.ledger, house.around) as mind:
        yield mind
    assert mind.is_closed
    assert house.book.open == []
    assert [vendor.replies_open + vendor.open_now for vendor in vendors] == [0] * len(vendors)


async def answer(mind: Thinking, asked: Context = ASKED) -> list[ModelPart]:
    async with mind.open_reply(asked) as reply:
        return [part async for part in reply]


async def until_failure(reply: trio.abc.ReceiveChannel[ModelPart]) -> list[ModelPart]:
    """What came before it."""
    parts: list[ModelPart] = []
    try:
        while True:
            parts.append(await reply.receive())
    except ModelFailed:
        return parts


def text_of(parts: list[Any]) -> str:
    return "".join(part for part in parts if isinstance(part, str))


async def test_an_answer_comes_in_whole_sentences_and_its_cost_is_counted(autojump_clock: MockClock) -> None:
    house = House()
    one = MindVendor("one", ["We are", " open. Un", 0.1, "til nine", ". Al", "ways", Usage(120, 9)])
    async with thinking(house, one) as mind:
        assert await answer(mind) == ["", "We are open. ", "Until nine. ", "Always"]
    assert house.requests("one", "llm") == {"ok": 1}
    assert house.value("llm_tokens_total", vendor="one", type="input") == 120
    assert house.value("llm_tokens_total", vendor="one", type="output") == 9


async def test_the_first_word_is_told_when_it_comes(autojump_clock: MockClock) -> None:
    one = MindVendor("one", [0.5, "We are", 2.0, " open."])
    async with thinking(House(), one) as mind, mind.open_reply(ASKED) as reply:
        began_s = trio.current_time()
        assert await reply.receive() == ""
        assert trio.current_time() - began_s == pytest.approx(0.5)


@pytest.mark.parametrize("why", [Why.UNREACHABLE, Why.FAILED, Why.NONSENSE, Why.CUT, Why.RATE_LIMITED])
async def test_what_may_pass_is_asked_again(why: Why, autojump_clock: MockClock) -> None:
    house, one = House(), MindVendor("one", [fails(why)], [fails(why)], ["Yes."])
    async with thinking(house, one) as mind:
        assert text_of(await answer(mind)) == "Yes."
    gaps = [later - earlier for earlier, later in zip(one.asked_at_s, one.asked_at_s[1:], strict=False)]
    assert gaps == pytest.approx([0.25, 0.75])
    assert house.requests("one", "llm") == {"ok": 1, "error": 2}


async def test_a_vendor_that_asks_to_be_waited_for_is_as_long_as_there_is_time(autojump_clock: MockClock) -> None:
    one = MindVendor("one", [fails(Why.RATE_LIMITED, 2.5)], ["Yes."], [fails(Why.RATE_LIMITED, 20.0)])
    async with thinking(House(), one) as mind:
        assert text_of(await answer(mind)) == "Yes."
        assert one.asked_at_s[1] - one.asked_at_s[0] == pytest.approx(2.5)
        began_s = trio.current_time()
        with pytest.raises(ModelFailed):
            await answer(mind)
        assert trio.current_time() == began_s


@pytest.mark.parametrize("why", [Why.AUTH, Why.BAD_REQUEST, Why.FILTERED])
async def test_what_does_not_pass_is_asked_of_the_next_one_at_once(why: Why, autojump_clock: MockClock) -> None:
    house, one, two = House(), MindVendor("one", [fails(why)]), MindVendor("two")
    async with thinking(house, one, two) as mind:
        assert text_of(await answer(mind)) == "All is well."
        assert two.asked_at_s == one.asked_at_s
    assert house.value("vendor_failovers_total", kind="llm", vendor="one") == 1
    one, two = MindVendor("one", [fails(why)]), MindVendor("two")
    async with thinking(House(), one) as mind:
        with pytest.raises(ModelFailed):
            await answer(mind)
    assert len(one.contexts) == 1


async def test_a_model_that_says_nothing_for_four_seconds_is_asked_again(autojump_clock: MockClock) -> None:
    house, one = House(), MindVendor("one", [math.inf], ["Yes."])
    async with thinking(house, one) as mind:
        began_s = trio.current_time()
        assert text_of(await answer(mind)) == "Yes."
        assert trio.current_time() - began_s == pytest.approx(4.25)
    assert house.requests("one", "llm") == {"ok": 1, "timeout": 1}


async def test_no_answer_at_all_is_told_within_six_seconds(autojump_clock: MockClock) -> None:
    one, two = MindVendor("one", [math.inf], [math.inf]), MindVendor("two", [math.inf])
    for vendors in ((one,), (MindVendor("one", [math.inf]), two)):
        async with thinking(House(), *vendors) as mind:
            began_s = trio.current_time()
            with pytest.raises(ModelFailed, match="in time"):
                await answer(mind)
            assert trio.current_time() - began_s <= 6.0


@pytest.mark.parametrize("call_id", ["CA1", ""], ids=["call", "text"])
async def test_a_failure_is_told_with_the_call_if_there_is_one_and_the_session(
    call_id: str, autojump_clock: MockClock
) -> None:
    house, one, two = House(), MindVendor("one", [fails(Why.AUTH)]), MindVendor("two")
    session = replace(SESSION, call_id=call_id)
    with capture_logs() as lines:
        async with open_model((one, two), session, house.ledger, house.around) as mind:
            await answer(mind)
    told = [line for line in lines if line["event"] in ("vendor_failed", "vendor_failover")]
    assert [line.get("call_id", "") for line in told] == [call_id] * 2
    assert [line["session_id"] for line in told] == [session.session_id] * 2


class Thinker(MindVendor):
    """Takes its time."""

    patience_s = 30.0


async def test_a_patient_vendor_is_waited_for_as_long_as_it_says_and_no_longer(autojump_clock: MockClock) -> None:
    house, one = House(), Thinker("one", [29.0, "We are", 29.0, " open."], [math.inf], ["One. ", math.inf])
    async with thinking(house, one) as mind:
        assert text_of(await answer(mind)) == "We are open."
        began_s = trio.current_time()
        with pytest.raises(ModelFailed, match="gave no answer in time"):
            await answer(mind)
        assert trio.current_time() - began_s == pytest.approx(30.0)
        with pytest.raises(ModelFailed, match="stopped in the middle"):
            await answer(mind)
    assert house.requests("one", "llm") == {"ok": 1, "timeout": 2}


async def test_a_patient_vendor_that_has_had_its_time_by_its_own_clock_is_not_asked_again(
    autojump_clock: MockClock,
) -> None:
    one = Thinker("one", [28.0, fails(Why.TIMEOUT)], [fails(Why.UNREACHABLE)], ["Yes."])
    async with thinking(House(), one) as mind:
        with pytest.raises(ModelFailed):
            await answer(mind)
        assert len(one.asked_at_s) == 1
        assert text_of(await answer(mind)) == "Yes."  # what fails at once still is


async def test_whoever_takes_over_from_a_patient_vendor_has_the_usual_time(autojump_clock: MockClock) -> None:
    one, two = Thinker("one", [math.inf]), MindVendor("two", [3.0, "Yes."], [math.inf])
    async with thinking(House(), one, two) as mind:
        assert text_of(await answer(mind)) == "Yes."
        assert two.asked_at_s[0] - one.asked_at_s[0] == pytest.approx(30.0)
    two, one = MindVendor("two", [math.inf]), Thinker("one", [29.0, "Yes."])
    async with thinking(House(), two, one) as mind:
        assert text_of(await answer(mind)) == "Yes."
        assert one.asked_at_s[0] - two.asked_at_s[0] == pytest.approx(4.0)


@pytest.mark.parametrize("end", [math.inf, fails(Why.CUT), fails(Why.FAILED)], ids=["stalls", "cut", "error"])
async def test_an_answer_that_breaks_off_is_gone_on_with_from_its_last_whole_sentence(
    end: float | Exception, autojump_clock: MockClock
) -> None:
    house, one = House(), MindVendor("one", ["We are open. Until ni", end], ["Until nine."])
    async with thinking(house, one) as mind:
        began_s = trio.current_time()
        assert text_of(await answer(mind)) == "We are open. Until nine."
        assert trio.current_time() - began_s <= 3.3
    assert [context.said for context in one.contexts] == ["", "We are open. "]


async def test_the_rest_of_an_answer_is_given_up_six_seconds_after_its_last_sentence(
    autojump_clock: MockClock,
) -> None:
    """Who has been waited for since is part of the same silence, however many they were."""
    one, two = MindVendor("one", [1.0, "Well, yes. ", 2.0, "And ", math.inf]), MindVendor("two", [math.inf])
    async with thinking(House(), one, two) as mind, mind.open_reply(ASKED) as reply:
        began_s = trio.current_time()
        assert text_of(await until_failure(reply)) == "Well, yes. "
        assert trio.current_time() - began_s == pytest.approx(1.0 + 6.0)
    assert len(two.contexts) == 1


async def test_what_is_whole_is_given_before_the_failure_is_told(autojump_clock: MockClock) -> None:
    one = MindVendor("one")
    one.usual = ["One. Two", fails(Why.CUT)]
    async with thinking(House(), one) as mind, mind.open_reply(ASKED) as reply:
        heard = await until_failure(reply)
    assert text_of(heard) == "One. " * 3
    assert len(one.contexts) == 3


async def test_the_second_model_goes_on_and_stays_for_the_call(autojump_clock: MockClock) -> None:
    house = House()
    one, two = MindVendor("one", ["We are open. Un", math.inf]), MindVendor("two", ["Until nine."])
    async with thinking(house, one, two) as mind:
        assert text_of(await answer(mind)) == "We are open. Until nine."
        assert text_of(await answer(mind)) == "All is well."
        assert len(one.contexts) == 1
        assert house.book.open == [("llm_connection", "one"), ("llm_connection", "two")]
    assert two.contexts[0].said == "We are open. "


async def test_a_call_of_a_tool_is_made_once_however_often_it_is_asked_for(autojump_clock: MockClock) -> None:
    call = ToolCall("t1", "look", "{}")
    one = MindVendor("one", ["Let me see. ", call, fails(Why.CUT)], [call])
    async with thinking(House(), one) as mind:
        assert await answer(mind) == ["", "Let me see. ", call]


async def test_what_was_done_is_not_done_again(autojump_clock: MockClock) -> None:
    one = MindVendor("one", ["Goodbye.", HangUp(), fails(Why.CUT)])
    async with thinking(House(), one) as mind, mind.open_reply(ASKED) as reply:
        parts = await until_failure(reply)
    assert parts == ["", "Goodbye.", HangUp()]
    assert len(one.contexts) == 1


async def test_whoever_hangs_up_on_an_answer_that_said_so_has_heard_all_of_it(autojump_clock: MockClock) -> None:
    house, one = House(), MindVendor("one", ["Goodbye.", HangUp(), 2.0])
    async with thinking(house, one) as mind, mind.open_reply(ASKED) as reply:
        async for part in reply:
            if isinstance(part, HangUp):
                break
    assert house.requests("one", "llm") == {"ok": 1}


async def test_an_answer_that_nobody_waits_for_is_given_up_at_once(autojump_clock: MockClock) -> None:
    house, one = House(), MindVendor("one", ["One. Two.", math.inf])
    async with thinking(house, one) as mind:
        async with mind.open_reply(ASKED) as reply:
            await reply.receive()
        assert one.replies_open == 0
    assert house.requests("one", "llm") == {"cancelled": 1}


async def test_a_listener_who_takes_long_is_not_the_models_fault(autojump_clock: MockClock) -> None:
    one = MindVendor("one", [f"Number {number}. " for number in range(200)])
    async with thinking(House(), one) as mind, mind.open_reply(ASKED) as reply:
        text = ""
        async for part in reply:
            text += str(part)
            await trio.sleep(4)
    assert text.count("Number") == 200
    assert len(one.contexts) == 1


# --- too long -------------------------------------------------------------------------------------------------


async def test_a_context_that_is_too_long_is_halved_once(autojump_clock: MockClock) -> None:
    house, one = (
        House(),
        MindVendor("one", [fails(Why.TOO_LONG)], ["Yes."], [fails(Why.TOO_LONG)], [fails(Why.TOO_LONG)]),
    )
    known = Message(Role.SYSTEM, "Known: a name.")
    asked = context("Hello.", "one", "two", "three", "four", "five")
    asked = Context((known, *asked.messages))
    async with thinking(house, one) as mind:
        assert text_of(await answer(mind, asked)) == "Yes."
        assert one.asked_at_s[0] == one.asked_at_s[1]
        assert [message.text for message in one.contexts[1]] == ["Known: a name.", "three", "four", "five"]
        with pytest.raises(ModelFailed):
            await answer(mind, asked)
    assert len(one.contexts) == 4
    assert house.value("context_truncations_total", how="dropped") == 2


def test_what_tools_have_said_is_cut_where_nothing_else_can_be() -> None:
    only = context("What is open?")
    assert shortened(only) is None
    exchange = Exchange("", (ToolCall("t1", "look", "{}"),), (ToolResult("t1", "x" * 5000),))
    shorter = shortened(Context(only.messages, exchanges=(exchange,)))
    assert shorter is not None
    assert len(shorter.exchanges[0].results[0].text) == 1000
    assert shorter.messages == only.messages


# --- for all calls --------------------------------------------------------------------------------------------


async def test_a_hundred_calls_do_not_wait_one_after_the_other_for_a_model_that_is_down(
    autojump_clock: MockClock,
) -> None:
    house, one, two = House(), MindVendor("one"), MindVendor("two")
    one.usual = [math.inf]
    waits: list[float] = []

    async def call() -> None:
        async with open_model((one, two), SESSION, house.ledger, house.around) as mind:
            began_s = trio.current_time()
            assert text_of(await answer(mind)) == "All is well."
            waits.append(trio.current_time() - began_s)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(call)
    assert waits == pytest.approx([4.0] * 5)
    waits.clear()
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(call)
    assert waits == pytest.approx([0.0] * 100)
    assert len(one.contexts) == 5
    await trio.sleep(15)
    one.usual = ["I am back."]
    async with open_model((one, two), SESSION, house.ledger, house.around) as mind:
        assert text_of(await answer(mind)) == "I am back."
    assert house.value("vendor_breaker_state", vendor="one", kind="llm", state="closed") == 1


async def test_a_call_that_ends_while_it_asks_for_all_leaves_that_to_the_next(autojump_clock: MockClock) -> None:
    house, one = House(), MindVendor("one", [fails(Why.AUTH)], [math.inf], ["Yes."])
    async with thinking(house, one) as mind:
        with pytest.raises(ModelFailed):
            await answer(mind)
        await trio.sleep(15)
        with trio.move_on_after(1):
            await answer(mind)
        assert text_of(await answer(mind)) == "Yes."


async def test_an_only_model_that_is_not_asked_fails_at_once(autojump_clock: MockClock) -> None:
    house, one = House(), MindVendor("one", [fails(Why.AUTH)])
    async with thinking(house, one) as mind:
        for _ in range(2):
            began_s = trio.current_time()
            with pytest.raises(ModelFailed):
                await answer(mind)
            assert trio.current_time() == began_s
    assert len(one.contexts) == 1


async def test_a_vendor_is_not_taken_for_another_one_of_the_same_name(autojump_clock: MockClock) -> None:
    one, other = MindVendor("same", [fails(Why.TOO_LONG)] * 2), MindVendor("same", ["Yes."])
    async with thinking(House(), one, other) as mind:
        assert text_of(await answer(mind, context("What is open?"))) == "Yes."
    assert len(other.asked_at_s) == 1
