"""A call that one agent hands to another: the voice stays, the mind changes."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from engine.events import Context, HandOver, ReplyPart
from engine.observe.timeline import What
from tests.fakes.puppet import PuppetAgent
from tests.fakes.stage import stage


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
        assert on.texts(What.SAID)[1:] == ["One moment. You said a quote.", "You said thanks."]
        assert on.last(What.CALL_RELEASED)["opened"] == 5
        assert on.last(What.CALL_RELEASED)["left"] == 0
    assert len(desk.model.contexts) == 1
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
