"""A vendor's model that says what the test tells it to, round by round, and tools that do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import trio

from engine.events import Context, Message, Modality, ModelPart, Role, SessionInfo, ToolCall, ToolSpec
from engine.observe.metrics import Metrics
from engine.ports import Ability, Acted, RawModel, ToolScope
from engine.tools.toolbox import Toolbox

NUMBER = "+15550100001"
SESSION = SessionInfo("s-1", "desk", Modality.VOICE, caller=NUMBER, dialled="+15550109999", call_id="CA1")
ALL = frozenset(Ability)
Round = Sequence[ModelPart | float | Exception]


def context(turn_id: str = "t-1", *messages: Message) -> Context:
    return Context(messages or (Message(Role.CALLER, "hello"),), "s-1", turn_id)


def call(name: str, call_id: str = "c1", /, **arguments: Any) -> ToolCall:
    return ToolCall(call_id, name, orjson.dumps(arguments).decode())


class ScriptedModel:
    """Implements RawModel. ``rounds`` are given one after the other; the last one again and again."""

    def __init__(self, *rounds: Round) -> None:
        self.is_closed = False
        self.shown: list[Context] = []
        self.open_replies = 0
        self._rounds = rounds

    @asynccontextmanager
    async def open_reply(self, context: Context) -> AsyncIterator[trio.abc.ReceiveChannel[ModelPart]]:
        parts = self._rounds[min(len(self.shown), len(self._rounds) - 1)]
        self.shown.append(context)
        self.open_replies += 1
        try:
            yield _Parts(parts)
        finally:
            self.open_replies -= 1


class _Parts(trio.abc.ReceiveChannel[ModelPart]):
    """Raises what the model fails with in its place, as the port says."""

    def __init__(self, parts: Round) -> None:
        self._left = iter(parts)

    async def receive(self) -> ModelPart:
        await trio.lowlevel.checkpoint()
        for part in self._left:
            if isinstance(part, Exception):
                raise part
            if not isinstance(part, float):
                return part
            await trio.sleep(part)
        raise trio.EndOfChannel

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def opening(model: ScriptedModel) -> AsyncIterator[RawModel]:
    try:
        yield model
    finally:
        model.is_closed = True


@dataclass
class Control:
    """Implements CallControl; remembers what it was asked."""

    abilities: frozenset[Ability] = ALL
    done: list[tuple[str, str]] = field(default_factory=list)
    gate: trio.Event | None = None
    failure: Exception | None = None

    async def send_text(self, text: str) -> None:
        if self.failure:
            raise self.failure
        self.done.append(("text", text))

    async def press(self, digits: str) -> None:
        self.done.append(("press", digits))

    async def certain(self) -> None:
        if self.gate is not None:
            await self.gate.wait()


Work = Callable[[Mapping[str, Any], ToolScope], Awaitable[str | Acted]]


@dataclass
class Puppet:
    """Implements Tool; remembers what it was called with."""

    name: str = "look_up"
    work: Work | None = None
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    needs: Ability | None = None
    most_per_call: int | None = None
    timeout_s: float | None = None
    label: str = "look_up"
    calls: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def spec(self) -> ToolSpec:
        return ToolSpec(self.name, "Looks something up.", self.parameters)

    async def run(self, arguments: Mapping[str, Any], scope: ToolScope) -> str | Acted:
        self.calls.append(arguments)
        return await self.work(arguments, scope) if self.work else f"found {len(self.calls)}"


def metrics() -> Metrics:
    return Metrics(tools=("look_up", "hang_up"))


def counted(metrics: Metrics, tool: str, outcome: str) -> float:
    value = metrics.registry.get_sample_value("offhook_tool_calls_total", {"tool": tool, "outcome": outcome})
    return value or 0.0


def box(*tools: Any, **options: Any) -> Toolbox:
    return Toolbox(tools, options.pop("metrics", None) or metrics(), **options)
