"""A vendor's model with tools: what is said, what is called, what it is shown of that, and what is done at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from engine.errors import ModelFailed, Why
from engine.events import Context, HandOver, HangUp, Noted, ReplyPart, ToolResult, Transfer, Usage
from engine.ports import Ability, Acted, LanguageModel, ToolScope
from engine.tools.builtin import built_in
from engine.tools.toolbox import NO_MORE, Toolbox
from engine.tools.using import tool_using
from tests.tools.scripted import SESSION, Control, Puppet, ScriptedModel, box, call, context, metrics, opening

TRANSFERS = {"sales": "+15550107777"}


def desk(control: Control | None = None) -> Toolbox:
    names = ("hang_up", "transfer", "hand_over", "remember")
    return Toolbox(built_in(names, transfers=TRANSFERS, others=["billing"]), metrics())


async def answer(
    model: ScriptedModel, toolbox: Toolbox, control: Control | None = None, shown: Context | None = None
) -> list[ReplyPart]:
    """Everything that comes of one turn, up to what ends an answer, as whoever speaks it takes it."""
    async with tool_using(opening(model), toolbox, SESSION, control or Control()) as mind:
        parts = await once(mind, shown)
    assert mind.is_closed
    assert model.open_replies == 0
    return parts


async def once(mind: LanguageModel, shown: Context | None = None) -> list[ReplyPart]:
    parts: list[ReplyPart] = []
    async with mind.open_reply(shown or context()) as channel:
        async for part in channel:
            parts.append(part)
            if isinstance(part, HangUp | Transfer | HandOver):
                break
    return parts


async def test_a_model_that_calls_nothing_is_heard_as_it_is() -> None:
    model = ScriptedModel(["Good ", "morning.", Noted(state="x"), Usage(1, 2)])
    assert await answer(model, desk()) == ["Good ", "morning.", Noted(state="x")]


async def test_a_model_is_shown_its_tools_and_then_what_came_of_them() -> None:
    model = ScriptedModel(["Let me look.", call("look_up", day="monday"), Usage(1, 2)], ["Nine ", "o'clock."])
    assert "".join(map(str, await answer(model, box(Puppet())))) == "Let me look.\nNine o'clock."
    first, second = model.shown
    assert [spec.name for spec in first.tools] == [spec.name for spec in second.tools] == ["look_up"]
    assert first.exchanges == ()
    (exchange,) = second.exchanges
    assert exchange.said == "Let me look."
    assert exchange.calls == (call("look_up", day="monday"),)
    assert exchange.results == (ToolResult("c1", "found 1"),)
    assert second.messages == first.messages


async def test_what_it_says_with_a_call_is_heard_while_the_tool_works(autojump_clock: MockClock) -> None:
    async def slow(_: Mapping[str, Any], __: ToolScope) -> str:
        await trio.sleep(3)
        return "nine"

    heard: list[tuple[float, ReplyPart]] = []
    model = ScriptedModel(["One moment", call("look_up")], ["Nine."])
    async with tool_using(opening(model), box(Puppet(work=slow)), SESSION, Control()) as mind:
        began_s = trio.current_time()
        async with mind.open_reply(context()) as channel:
            heard.extend([(trio.current_time() - began_s, part) async for part in channel])
    assert heard == [(0, "One moment"), (0, "\n"), (3, "Nine.")]


async def test_several_rounds_add_up() -> None:
    model = ScriptedModel([call("look_up", n=1), call("look_up", "c2", n=2)], [call("look_up", n=3)], ["Done."])
    tool = Puppet()
    assert await answer(model, box(tool)) == ["Done."]
    assert [len(shown.exchanges) for shown in model.shown] == [0, 1, 2]
    assert sorted(one["n"] for one in tool.calls) == [1, 2, 3]


async def test_a_goodbye_that_comes_with_hanging_up_is_said_first_and_ends_it() -> None:
    model = ScriptedModel(["Goodbye!", call("hang_up")], ["never asked"])
    assert await answer(model, desk()) == ["Goodbye!", "\n", HangUp()]
    assert len(model.shown) == 1


async def test_a_model_that_hangs_up_without_a_word_is_asked_for_one() -> None:
    model = ScriptedModel([call("hang_up")], ["Goodbye!", call("hang_up", "c2")], ["never asked"])
    assert await answer(model, desk()) == ["Goodbye!", "\n", HangUp()]
    assert len(model.shown) == 2


async def test_nothing_more_is_called_with_a_farewell() -> None:
    tool = Puppet()
    tools = Toolbox([tool, *built_in(["hang_up"], transfers={}, others=[])], metrics())
    model = ScriptedModel([call("hang_up")], ["Goodbye!", call("look_up")], ["never asked"])
    assert await answer(model, tools) == ["Goodbye!", "\n", HangUp()]
    assert tool.calls == []


async def test_a_word_before_an_earlier_call_is_no_goodbye() -> None:
    tools = Toolbox([Puppet(), *built_in(["hang_up"], transfers={}, others=[])], metrics())
    model = ScriptedModel(["One moment.", call("look_up")], [call("hang_up")], ["Goodbye!"])
    assert await answer(model, tools) == ["One moment.", "\n", "Goodbye!", HangUp()]


async def test_a_farewell_that_fails_keeps_nobody_on_the_line() -> None:
    model = ScriptedModel([call("hang_up")], [ModelFailed("v", "cut", why=Why.CUT)])
    assert await answer(model, desk()) == [HangUp()]


async def test_a_transfer_goes_to_the_number_of_the_settings() -> None:
    model = ScriptedModel(["I connect you.", call("transfer", to="sales")])
    assert await answer(model, desk()) == ["I connect you.", "\n", Transfer("+15550107777")]


async def test_a_number_is_no_target_of_a_transfer() -> None:
    model = ScriptedModel([call("transfer", to="+19005550000")], ["I cannot do that."])
    assert await answer(model, desk()) == ["I cannot do that."]
    assert "expected one of sales" in model.shown[1].exchanges[0].results[0].text


async def test_handing_over_needs_no_word_and_no_further_round() -> None:
    model = ScriptedModel([call("hand_over", agent="billing")], ["never asked"])
    assert await answer(model, desk()) == [HandOver("billing")]
    assert len(model.shown) == 1


async def test_of_two_endings_the_first_one_counts() -> None:
    model = ScriptedModel(["Bye.", call("transfer", to="sales"), call("hang_up", "c2")])
    assert await answer(model, desk()) == ["Bye.", "\n", Transfer("+15550107777")]


async def test_what_is_remembered_goes_on_its_way_at_once() -> None:
    model = ScriptedModel([call("remember", kind="fact", content="Has a dog")], ["Noted."])
    parts = await answer(model, desk())
    assert [type(part) for part in parts] == [Noted, str]


async def test_a_model_that_goes_in_circles_comes_to_an_end() -> None:
    tool = Puppet()
    model = ScriptedModel([call("look_up")])
    assert await answer(model, box(tool)) == []
    assert len(tool.calls) == 1
    assert len(model.shown) == 7  # five calls, of which four are known; two that are refused
    assert model.shown[-1].exchanges[-1].results[0].text == NO_MORE


async def test_a_turn_that_is_answered_anew_has_no_more_calls_than_one() -> None:
    tool = Puppet()
    model = ScriptedModel([call("look_up", n=1)], [call("look_up", n=2)], ["Yes."], [call("look_up", n=1)], ["Yes."])
    async with tool_using(opening(model), box(tool), SESSION, Control()) as mind:
        await once(mind, context("t-1"))
        assert await once(mind, context("t-1")) == ["Yes."]
        assert len(tool.calls) == 2
        await once(mind, context("t-2"))


async def test_a_failure_is_raised_by_the_channel_after_what_was_said() -> None:
    model = ScriptedModel(["One. ", ModelFailed("vendor", "cut", why=Why.CUT)])
    using = tool_using(opening(model), desk(), SESSION, Control())
    async with using as mind, mind.open_reply(context()) as channel:
        assert await channel.receive() == "One. "
        with pytest.raises(ModelFailed) as caught:
            await channel.receive()
    assert caught.value.why is Why.CUT


async def test_a_failure_of_a_later_round_is_one_of_the_answer() -> None:
    model = ScriptedModel([call("look_up")], [ModelFailed("vendor", "refused", why=Why.AUTH)])
    with pytest.raises(ModelFailed):
        await answer(model, box(Puppet()))


async def test_tools_that_cannot_be_used_here_are_not_offered() -> None:
    model = ScriptedModel(["Hello."])
    await answer(model, desk(), Control(frozenset()))
    assert [spec.name for spec in model.shown[0].tools] == ["hang_up", "hand_over", "remember"]
    model = ScriptedModel(["Hello."])
    await answer(model, desk(), Control(frozenset({Ability.TRANSFER})))
    assert "transfer" in [spec.name for spec in model.shown[0].tools]


async def test_a_draft_calls_nothing_until_it_is_an_answer(autojump_clock: MockClock) -> None:
    control, tool = Control(gate=trio.Event()), Puppet()
    assert control.gate is not None
    model = ScriptedModel(["Let me look.", call("look_up")], ["Nine."])
    async with tool_using(opening(model), box(tool), SESSION, control) as mind:
        with trio.move_on_after(1):
            await once(mind)
        assert tool.calls == []
        control.gate.set()
        model.shown.clear()
        assert (await once(mind))[-1] == "Nine."
    assert len(tool.calls) == 1


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.1])
async def test_an_answer_that_is_cut_off_anywhere_leaves_nothing(after_s: float, autojump_clock: MockClock) -> None:
    async def slow(_: Mapping[str, Any], __: ToolScope) -> str:
        await trio.sleep(0.2)
        return "nine"

    model = ScriptedModel([0.2, "Let me look.", 0.2, call("look_up")], [0.2, "Nine.", 0.2, "Bye."])
    async with tool_using(opening(model), box(Puppet(work=slow)), SESSION, Control()) as mind:
        with trio.move_on_after(after_s) as scope:
            await once(mind)
        assert scope.cancelled_caught is (after_s < 1.0)
        assert model.open_replies == 0


async def test_whoever_has_heard_enough_may_leave(autojump_clock: MockClock) -> None:
    model = ScriptedModel(["One. ", "Two. ", "Three."])
    async with tool_using(opening(model), desk(), SESSION, Control()) as mind:
        for _ in range(3):
            async with mind.open_reply(context()) as channel:
                assert await channel.receive() == "One. "
            model.shown.clear()
    assert model.open_replies == 0


async def test_a_tool_in_a_loop_with_itself_is_stopped(autojump_clock: MockClock) -> None:
    """A tool that wants itself called again, in words, and a model that believes it."""

    async def again(arguments: Mapping[str, Any], _: ToolScope) -> Acted:
        return Acted(Noted(), f"Call me again with n={arguments['n'] + 1}.")

    tool = Puppet(work=again)
    model = ScriptedModel(*[[call("look_up", n=n)] for n in range(50)])
    await answer(model, box(tool))
    assert len(tool.calls) == 5
    assert len(model.shown) == 7
