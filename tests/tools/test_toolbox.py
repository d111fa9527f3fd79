"""Whatever a tool does, the model gets a result in time, and the call goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import structlog
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from engine.errors import ToolFailed
from engine.events import HangUp, Noted, SessionInfo, ToolCall
from engine.ports import Ability, Acted, ToolScope
from engine.tools.toolbox import CUT_NOTE, NO_MORE, ToolLimits, capped
from tests.tools.scripted import ALL, NUMBER, SESSION, Control, Puppet, box, call, context, counted, metrics

FOR_ALL = box(Puppet())


async def hangs(_: Mapping[str, Any], __: ToolScope) -> str:
    await trio.sleep_forever()
    raise AssertionError


async def test_a_tool_that_hangs_is_given_up_after_five_seconds(autojump_clock: MockClock) -> None:
    seen = metrics()
    began_s = trio.current_time()
    done = await box(Puppet(work=hangs), metrics=seen).use(SESSION, Control()).run([call("look_up")], context())
    assert trio.current_time() - began_s == 5.0
    assert done.results[0].is_error
    assert "No answer within 5 s" in done.results[0].text
    assert counted(seen, "look_up", "timeout") == 1


async def test_a_tool_may_have_a_deadline_of_its_own(autojump_clock: MockClock) -> None:
    began_s = trio.current_time()
    await box(Puppet(work=hangs, timeout_s=1.5)).use(SESSION, Control()).run([call("look_up")], context())
    assert trio.current_time() - began_s == 1.5


@pytest.mark.parametrize("exc", [RuntimeError, RecursionError, SystemExit, MemoryError])
async def test_a_tool_that_raises_has_failed_and_no_more(exc: type[BaseException]) -> None:
    async def raises(_: Mapping[str, Any], __: ToolScope) -> str:
        raise exc("canary")

    with structlog.testing.capture_logs() as logs:
        done = await box(Puppet(work=raises)).use(SESSION, Control()).run([call("look_up")], context())
    assert (done.results[0].text, done.results[0].is_error) == ("It failed.", True)
    assert "canary" not in repr(logs)
    assert [entry["error"] for entry in logs if entry["event"] == "tool_raised"] == [exc.__name__]


async def test_what_a_tool_says_of_its_failure_is_told_to_the_model() -> None:
    async def fails(_: Mapping[str, Any], __: ToolScope) -> str:
        raise ToolFailed("There is no such order.")

    done = await box(Puppet(work=fails)).use(SESSION, Control()).run([call("look_up")], context())
    assert (done.results[0].text, done.results[0].is_error) == ("There is no such order.", True)


async def test_a_nursery_of_a_tool_that_runs_out_of_time_leaves_no_error(autojump_clock: MockClock) -> None:
    async def several(_: Mapping[str, Any], __: ToolScope) -> str:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()

    done = await box(Puppet(work=several)).use(SESSION, Control()).run([call("look_up")], context())
    assert "No answer" in done.results[0].text


async def test_of_ten_megabytes_the_model_is_shown_16_kib() -> None:
    async def wordy(_: Mapping[str, Any], __: ToolScope) -> str:
        return "ä" * 5_000_000

    done = await box(Puppet(work=wordy)).use(SESSION, Control()).run([call("look_up")], context())
    text = done.results[0].text
    assert len(text.encode()) <= 16 * 1024
    assert text.endswith(CUT_NOTE)
    assert text.removesuffix(CUT_NOTE) == "ä" * ((16 * 1024 - len(CUT_NOTE)) // 2)


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=200), most=st.integers(len(CUT_NOTE), 120))
def test_a_capped_text_is_valid_and_never_longer(text: str, most: int) -> None:
    shown = capped(text, most)
    assert len(shown.encode()) <= most
    assert shown == text or (shown.endswith(CUT_NOTE) and text.startswith(shown.removesuffix(CUT_NOTE)))


def test_half_a_surrogate_is_no_reason_to_fail() -> None:
    assert capped("a\ud800", 100) == "a?"


async def test_calls_of_one_round_run_side_by_side(autojump_clock: MockClock) -> None:
    async def slow(arguments: Mapping[str, Any], _: ToolScope) -> str:
        await trio.sleep(arguments["s"])
        return f"after {arguments['s']}"

    began_s = trio.current_time()
    calls = [call("look_up", "a", s=3), call("look_up", "b", s=1), call("look_up", "c", s=2)]
    done = await box(Puppet(work=slow)).use(SESSION, Control()).run(calls, context())
    assert trio.current_time() - began_s == 3.0
    assert [(one.call_id, one.text) for one in done.results] == [("a", "after 3"), ("b", "after 1"), ("c", "after 2")]


async def test_a_turn_has_five_calls_and_the_next_turn_five_more() -> None:
    seen, tool = metrics(), Puppet()
    use = box(tool, metrics=seen).use(SESSION, Control())
    for turn in (1, 2):
        use.begin_turn()
        calls = [call("look_up", f"c{n}", n=n) for n in range(7)]
        done = await use.run(calls, context())
        assert [one.is_error for one in done.results] == [False] * 5 + [True] * 2
        assert done.results[6].text == NO_MORE
        assert not done.is_refused
        assert (await use.run(calls, context())).is_refused
        assert len(tool.calls) == 5 * turn
    assert counted(seen, "look_up", "limit") == 2 * (2 + 7)


async def test_the_same_call_is_made_once_in_a_turn() -> None:
    seen, tool = metrics(), Puppet()
    use = box(tool, metrics=seen).use(SESSION, Control())
    both = await use.run([call("look_up", "a", x=1, y=2), call("look_up", "b", y=2, x=1)], context())
    again = await use.run([call("look_up", "c", x=1, y=2), call("look_up", "d", x=2)], context())
    assert len(tool.calls) == 2
    assert ["found 1" in one.text for one in (*both.results, again.results[0])] == [True] * 3
    assert "before" in again.results[0].text
    assert counted(seen, "look_up", "repeated") == 2


async def test_an_action_that_is_asked_for_again_is_still_wanted() -> None:
    async def acts(_: Mapping[str, Any], __: ToolScope) -> Acted:
        return Acted(HangUp(), "will do")

    use = box(Puppet(work=acts)).use(SESSION, Control())
    assert (await use.run([call("look_up"), call("look_up", "c2")], context())).actions == (HangUp(),)
    assert (await use.run([call("look_up", "c3")], context())).actions == (HangUp(),)


async def test_a_call_that_was_interrupted_may_be_made_again(autojump_clock: MockClock) -> None:
    async def slow(_: Mapping[str, Any], __: ToolScope) -> str:
        await trio.sleep(2)
        return "there"

    seen, tool = metrics(), Puppet(work=slow)
    use = box(tool, metrics=seen).use(SESSION, Control())
    with trio.move_on_after(1):
        await use.run([call("look_up")], context())
    assert (await use.run([call("look_up")], context())).results[0].text == "there"
    assert counted(seen, "look_up", "cancelled") == 1


async def test_a_tool_has_its_number_of_calls_in_one_conversation() -> None:
    tool = Puppet(most_per_call=2)
    use = box(tool).use(SESSION, Control())
    for n in range(4):
        use.begin_turn()
        done = await use.run([call("look_up", n=n)], context())
        assert done.results[0].is_error is (n >= 2)
    assert len(tool.calls) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("{", "no JSON"),
        ("[1]", "expected an object"),
        ('{"day": 3}', "day: expected string"),
        ("", "day: missing"),
        ("[" * 100_000, "too long"),
        ("[" * 30_000, "no JSON"),
        ('{"day": "' + "x" * 40_000 + '"}', "too long"),
    ],
)
async def test_wrong_arguments_come_back_to_the_model(arguments: str, says: str) -> None:
    tool = Puppet(parameters={"type": "object", "properties": {"day": {"type": "string"}}, "required": ["day"]})
    done = await box(tool).use(SESSION, Control()).run([ToolCall("c", "look_up", arguments)], context())
    assert done.results[0].is_error
    assert says in done.results[0].text
    assert tool.calls == []


@pytest.mark.parametrize("arguments", ["", "  ", "null", "{}"])
async def test_no_arguments_may_be_said_in_several_ways(arguments: str) -> None:
    done = await box(Puppet()).use(SESSION, Control()).run([ToolCall("c", "look_up", arguments)], context())
    assert not done.results[0].is_error


@settings(max_examples=40, deadline=None)
@given(name=st.text(max_size=20), arguments=st.text(max_size=60))
def test_whatever_a_model_calls_it_gets_a_result(name: str, arguments: str) -> None:
    async def run() -> None:
        done = await FOR_ALL.use(SESSION, Control()).run([ToolCall("c", name, arguments)], context())
        assert len(done.results) == 1

    trio.run(run)


async def test_a_tool_that_there_is_not_is_named_nowhere_but_to_the_model() -> None:
    seen = metrics()
    with structlog.testing.capture_logs() as logs:
        done = await box(Puppet(), metrics=seen).use(SESSION, Control()).run([call("canary")], context())
    assert done.results[0].text == "There is no such tool; there are: look_up."
    assert "canary" not in repr(logs)
    assert counted(seen, "other", "unknown") == 1


async def test_only_what_can_be_done_is_offered_and_can_be_called() -> None:
    tools = box(Puppet("look_up"), Puppet("leave", needs=Ability.TRANSFER))
    able, unable = Control(ALL), Control(frozenset())
    assert [spec.name for spec in tools.offered(able)] == ["look_up", "leave"]
    assert [spec.name for spec in tools.offered(unable)] == ["look_up"]
    assert (await tools.use(SESSION, unable).run([call("leave")], context())).results[0].is_error


async def test_tools_of_a_source_come_and_go() -> None:
    class Source:
        tools: tuple[Puppet, ...] = ()

    source = Source()
    tools = box(Puppet(), sources=[source])
    assert [spec.name for spec in tools.offered(Control())] == ["look_up"]
    source.tools = (Puppet("shop_price"), Puppet("look_up"))
    assert [spec.name for spec in tools.offered(Control())] == ["look_up", "shop_price"]


async def test_nothing_is_called_before_it_is_certain(autojump_clock: MockClock) -> None:
    control, tool = Control(gate=trio.Event()), Puppet()
    use = box(tool).use(SESSION, control)
    with trio.move_on_after(1):
        await use.run([call("look_up")], context())
    assert tool.calls == []
    assert control.gate is not None
    control.gate.set()
    await use.run([call("look_up")], context())
    assert len(tool.calls) == 1


async def test_the_log_has_a_line_for_each_call_without_its_arguments() -> None:
    with structlog.testing.capture_logs() as logs:
        await box(Puppet()).use(SESSION, Control()).run([call("look_up", day="canary")], context())
    (line,) = [entry for entry in logs if entry["event"] == "tool_called"]
    assert {key: line[key] for key in ("session_id", "call_id", "tool", "outcome")} == {
        "session_id": "s-1",
        "call_id": "CA1",
        "tool": "look_up",
        "outcome": "ok",
    }
    assert line["ms"] >= 0
    assert "canary" not in repr(logs)
    assert NUMBER not in repr(logs)


async def test_a_tool_knows_whose_call_it_is() -> None:
    scopes: list[tuple[SessionInfo, str]] = []

    async def asks(_: Mapping[str, Any], scope: ToolScope) -> Acted:
        scopes.append((scope.session, scope.context.turn_id))
        return Acted(Noted(state="x"), "noted")

    done = await box(Puppet(work=asks)).use(SESSION, Control()).run([call("look_up")], context("t-9"))
    assert scopes == [(SESSION, "t-9")]
    assert done.actions == (Noted(state="x"),)


async def test_limits_are_the_toolboxs_own() -> None:
    limits = ToolLimits(call_s=1, calls_per_turn=1, result_bytes=50)

    async def wordy(_: Mapping[str, Any], __: ToolScope) -> str:
        return "x" * 60

    done = await box(Puppet(work=wordy), limits=limits).use(SESSION, Control()).run([call("look_up")] * 2, context())
    assert [len(one.text) for one in done.results] == [50, min(len(NO_MORE), 50)]
