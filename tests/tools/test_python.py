"""A tool that is a Python callable: described by itself, run where it can do no harm."""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest
import trio
from trio.testing import MockClock

from engine.errors import SettingsError
from engine.events import HangUp, SessionInfo
from engine.ports import Acted, ToolScope
from engine.tools.python import PythonTool, python_tool
from tests.tools.scripted import NUMBER, SESSION, Control, box, call, context


class Size(enum.StrEnum):
    SMALL = "small"
    LARGE = "large"


def book(
    day: Annotated[str, "Of the week."],
    people: int,
    size: Size = Size.SMALL,
    at: str | None = None,
    extras: list[Literal["wine", "bread"]] = [],  # noqa: B006 - a default as people write it
) -> dict[str, Any]:
    """Book a table
    for the caller.

    More that the model need not know.
    """
    return {"day": day, "people": people, "size": size, "at": at, "extras": extras}


async def whoami(scope: ToolScope, who: SessionInfo, word: str) -> str:
    """Who calls."""
    await trio.lowlevel.checkpoint()
    return f"{scope.session.caller} {who.session_id} {word}"


async def ends() -> Acted:
    """Ends the call."""
    return Acted(HangUp(), "bye")


def nothing() -> None:
    """Says nothing."""


release = threading.Event()


def hangs() -> str:
    """Hangs."""
    release.wait(10)
    return "late"


def bare(x: int) -> int:
    return x


def odd(x: complex) -> str:
    """Takes what no model can give."""
    return str(x)


def starred(*x: int) -> str:
    """Takes anything."""
    return str(x)


def tool(function: Callable[..., Any], threads: int = 2, **options: Any) -> PythonTool:
    return python_tool(function.__name__, f"{__name__}:{function.__name__}", trio.CapacityLimiter(threads), **options)


async def run(tool: PythonTool, **arguments: Any) -> str:
    done = await box(tool).use(SESSION, Control()).run([call(tool.spec.name, **arguments)], context())
    return done.results[0].text


def test_the_signature_and_the_docstring_are_what_the_model_is_told() -> None:
    spec = tool(book).spec
    assert spec.description == "Book a table for the caller."
    assert spec.parameters == {
        "type": "object",
        "properties": {
            "day": {"type": "string", "description": "Of the week."},
            "people": {"type": "integer"},
            "size": {"enum": ["small", "large"]},
            "at": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "extras": {"type": "array", "items": {"enum": ["wine", "bread"]}},
        },
        "required": ["day", "people"],
        "additionalProperties": False,
    }


def test_the_settings_may_say_it_instead() -> None:
    spec = tool(odd, description="Does.", parameters={"type": "object", "properties": {"x": {"type": "number"}}}).spec
    assert (spec.description, spec.parameters["properties"]) == ("Does.", {"x": {"type": "number"}})


async def test_a_plain_function_runs_in_a_thread_and_an_async_one_here() -> None:
    assert await run(tool(book), day="monday", people=2) == (
        '{"day":"monday","people":2,"size":"small","at":null,"extras":[]}'
    )
    assert await run(tool(nothing)) == "Done."
    assert await run(tool(whoami), word="hello") == f"{NUMBER} s-1 hello"


async def test_the_scope_is_not_for_the_model_to_give() -> None:
    """FAULTS 81."""
    assert set(tool(whoami).spec.parameters["properties"]) == {"word"}
    assert "scope: not expected" in await run(tool(whoami), word="x", scope={"session": {"caller": "+15550100002"}})
    loose = tool(whoami, parameters={"type": "object", "properties": {}})
    assert await run(loose, word="x", who="+15550100002") == f"{NUMBER} s-1 x"


async def test_it_may_act() -> None:
    done = await box(tool(ends)).use(SESSION, Control()).run([call("ends")], context())
    assert done.actions == (HangUp(),)


async def test_threads_that_hang_are_let_go_of_and_bounded() -> None:
    one = tool(hangs, threads=1, timeout_s=0.05)
    try:
        began = time.monotonic()
        assert "No answer" in await run(one)
        assert "No answer" in await run(one)  # its only thread is still taken
        assert time.monotonic() - began < 5
        assert one.limiter.borrowed_tokens == 1
    finally:
        release.set()
    with trio.fail_after(5):
        while one.limiter.borrowed_tokens:  # noqa: ASYNC110 - a thread ends when it ends
            await trio.sleep(0.01)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("nowhere.at_all:f", "cannot be imported (ModuleNotFoundError"),
        (f"{__name__}:missing", "cannot be imported (AttributeError"),
        ("nonsense", "cannot be imported"),
        (f"{__name__}:NUMBER", "is not a function"),
        (f"{__name__}:bare", "has no docstring"),
        (f"{__name__}:odd", "takes as 'x' has no JSON Schema"),
        (f"{__name__}:starred", "takes 'x' not by its name"),
    ],
)
def test_a_callable_that_cannot_be_used_is_told_at_the_start(path: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        python_tool("x", path, trio.CapacityLimiter(1))
    assert says in str(caught.value)


async def test_an_async_one_that_hangs_is_cut_off(autojump_clock: MockClock) -> None:
    async def forever() -> str:
        await trio.sleep_forever()
        raise AssertionError

    made = PythonTool(tool(ends).spec, forever, trio.CapacityLimiter(1))
    assert "No answer within 5 s" in await run(made)
