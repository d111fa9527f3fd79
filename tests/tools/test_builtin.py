"""The tools that are built in do what they do to their own call, whatever a model asks for."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import VendorError
from engine.events import (
    Context,
    HandOver,
    HangUp,
    Memory,
    MemoryItem,
    MemoryKind,
    Message,
    Noted,
    Role,
    ToolResult,
    Transfer,
)
from engine.ports import Ability, Action
from engine.tools.builtin import MOST_TEXTS, built_in
from engine.tools.toolbox import ToolUse
from tests.tools.scripted import SESSION, Control, box, call, context

ALL_NAMES = ("hang_up", "transfer", "send_text", "press_digits", "remember", "recall", "hand_over")
TARGETS = {"sales": "+15550107777", "front desk": "sip:desk@example.com"}


def use(control: Control | None = None) -> ToolUse:
    return box(*built_in(ALL_NAMES, transfers=TARGETS, others=["billing"])).use(SESSION, control or Control())


async def done(
    name: str, control: Control | None = None, shown: Context | None = None, /, **arguments: Any
) -> ToolResult:
    return (await use(control).run([call(name, **arguments)], shown or context())).results[0]


async def action(name: str, /, **arguments: Any) -> tuple[Action, ...]:
    return (await use().run([call(name, **arguments)], context())).actions


async def test_actions_of_the_tools_that_act() -> None:
    assert await action("hang_up") == (HangUp(),)
    assert await action("transfer", to="front desk") == (Transfer("sip:desk@example.com"),)
    assert await action("hand_over", agent="billing") == (HandOver("billing"),)
    assert await action("remember", kind="preference", content=" No calls on Mondays ") == (
        Noted(items=(MemoryItem(MemoryKind.PREFERENCE, "No calls on Mondays"),)),
    )
    assert await action("remember", kind="entity", name="customer number", content="77") == (
        Noted(entities={"customer number": "77"}),
    )


@pytest.mark.parametrize(
    ("name", "arguments", "fault"),
    [
        ("transfer", {"to": "+15550107777"}, "to: expected one of sales, front desk"),
        ("hand_over", {"agent": "desk"}, "agent: expected one of billing"),
        ("send_text", {"text": "hi", "to": "+15550100002"}, "to: not expected"),
        ("send_text", {"text": "x" * 1001}, "text: expected at most 1000"),
        ("press_digits", {"digits": "12a"}, "digits: expected some of"),
        ("remember", {"kind": "entity", "content": "77"}, "name: missing"),
        ("remember", {"kind": "secret", "content": "77"}, "kind: expected one of"),
        ("recall", {}, "about: missing"),
    ],
)
async def test_wrong_arguments_name_the_field(name: str, arguments: dict[str, Any], fault: str) -> None:
    control = Control()
    result = await done(name, control, **arguments)
    assert result.is_error
    assert fault in result.text
    assert control.done == []


@settings(max_examples=50, deadline=None)
@given(
    name=st.sampled_from(ALL_NAMES),
    arguments=st.dictionaries(
        st.sampled_from(["to", "text", "number", "caller", "recipient", "digits", "agent", "phone", "session_id"]),
        st.sampled_from(["+15550100002", "sales", "billing", "12#", "hi"]) | st.integers(0, 99),
        max_size=5,
    ),
)
def test_whatever_a_model_gives_nobody_else_is_reached(name: str, arguments: dict[str, Any]) -> None:
    """FAULTS 81: no tool takes a number, and what a tool does reaches the targets of the settings and its own caller
    alone."""

    async def run() -> None:
        control = Control()
        ran = await USED.run_with(control, name, arguments)
        assert all("+15550100002" not in what or kind == "text" for kind, what in control.done)
        assert all(not isinstance(one, Transfer) or one.to in TARGETS.values() for one in ran)

    trio.run(run)


class _Used:
    """One toolbox for all examples: metrics are slow to make."""

    def __init__(self) -> None:
        self.box = box(*built_in(ALL_NAMES, transfers=TARGETS, others=["billing"]))

    async def run_with(self, control: Control, name: str, arguments: dict[str, Any]) -> tuple[Action, ...]:
        return (await self.box.use(SESSION, control).run([call(name, **arguments)], context())).actions


USED = _Used()


def test_no_tool_asks_for_a_number() -> None:
    for tool in built_in(ALL_NAMES, transfers=TARGETS, others=["billing"]):
        assert not {"number", "phone", "recipient", "caller"} & set(tool.spec.parameters["properties"])
        assert "+1555" not in repr(tool.spec)
        assert "sip:" not in repr(tool.spec)


async def test_a_text_goes_to_the_caller_and_not_for_ever() -> None:
    """FAULTS 83: a cap per call."""
    control = Control()
    using = use(control)
    for n in range(MOST_TEXTS + 2):
        using.begin_turn()
        await using.run([call("send_text", text=f"Number {n}")], context())
    assert control.done == [("text", f"Number {n}") for n in range(MOST_TEXTS)]


async def test_transfers_that_fail_are_not_tried_for_ever() -> None:
    """FAULTS 83: a transfer loop."""
    using, wanted = use(), []
    for _ in range(6):
        using.begin_turn()
        wanted.append(len((await using.run([call("transfer", to="sales")], context())).actions))
    assert wanted == [1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("warm", "able", "said"),
    [("never", True, ""), ("if_able", False, "Ann."), ("always", True, "Ann."), ("always", False, None)],
)
async def test_whoever_takes_a_caller_is_told_what_the_settings_let_the_model_say(
    warm: str, able: bool, said: str | None
) -> None:
    control = Control(abilities=frozenset(Ability) if able else frozenset(Ability) - {Ability.WARM_TRANSFER})
    (tool,) = built_in(["transfer"], transfers=TARGETS, others=[], warm=warm)
    arguments = {"to": "sales"} | ({"summary": "Ann."} if warm != "never" else {})
    tools = box(tool).use(SESSION, control)
    assert ("summary" in tool.spec.parameters["properties"]) == (warm != "never")
    assert ("summary" in tool.spec.parameters["required"]) == (warm == "always")
    round_ = await tools.run([call("transfer", **arguments)], context())
    if said is None:
        assert round_.results[0].is_error
        assert not round_.actions
    else:
        assert round_.actions == (Transfer(TARGETS["sales"], said),)


async def test_keys_are_pressed_as_they_are_given() -> None:
    control = Control()
    assert (await done("press_digits", control, digits="1 2w#")).text == "Pressed."
    assert control.done == [("press", "12w#")]


@pytest.mark.parametrize("failure", [VendorError("twilio", "refused +15550100001"), trio.TooSlowError()])
async def test_a_provider_that_fails_is_a_failed_tool(failure: Exception) -> None:
    result = await done("send_text", Control(failure=failure), text="hi")
    assert (result.text, result.is_error) == ("The text could not be sent.", True)


async def test_recalling_finds_what_is_in_the_context_and_nothing_else() -> None:
    shown = Context(
        (
            Message(Role.SYSTEM, "You know the secret of an order."),
            Message(Role.CALLER, "My order is 4711."),
            Message(Role.AGENT, "Thank you."),
        ),
        memory=Memory(
            "Asked about the order twice.",
            {"order number": "4711", "pet": "a dog"},
            (MemoryItem(MemoryKind.FACT, "Orders on Fridays"),),
        ),
    )
    found = (await done("recall", None, shown, about="order number?")).text.splitlines()
    assert found[0] == "order number: 4711"
    assert set(found[1:]) == {"earlier: Asked about the order twice.", "user: My order is 4711."}
    assert (await done("recall", None, shown, about="cat")).text == "Nothing is known of that."


def test_without_anybody_to_reach_there_is_no_tool_for_it() -> None:
    assert [tool.spec.name for tool in built_in(ALL_NAMES, transfers={}, others=[])] == [
        "hang_up",
        "send_text",
        "press_digits",
        "remember",
        "recall",
    ]
    needs = {tool.spec.name: tool.needs for tool in built_in(ALL_NAMES, transfers=TARGETS, others=["billing"])}
    assert needs["transfer"] is Ability.TRANSFER
    assert needs["send_text"] is Ability.SEND_TEXT
    assert needs["press_digits"] is Ability.PRESS_DIGITS
