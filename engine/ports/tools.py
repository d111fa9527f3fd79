"""What a model may call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.events import Context, HandOver, HangUp, Noted, SessionInfo, ToolCall, ToolResult, ToolSpec, Transfer
from engine.ports.control import CallControl
from engine.ports.telephony import Ability

Action = HangUp | Transfer | HandOver | Noted
"""What a tool may do to the conversation."""


@dataclass(frozen=True, slots=True)
class Acted:
    """A tool's result that is also an action: the model is told ``text``."""

    action: Action
    text: str


@dataclass(frozen=True, slots=True)
class ToolScope:
    """Whose call a tool is called for. Who the caller is, a tool knows from here, never from its arguments."""

    session: SessionInfo
    control: CallControl
    context: Context
    """What the model was shown."""


class Tool(Protocol):
    """Shared by all calls; keeps nothing of any."""

    @property
    def spec(self) -> ToolSpec: ...

    @property
    def label(self) -> str:
        """Metric label, from a closed set: the name of its table in the settings, or its own if it is built in."""
        ...

    @property
    def needs(self) -> Ability | None:
        """It is offered only where this can be done."""
        ...

    @property
    def most_per_call(self) -> int | None:
        """How often it may be called in one call; None: as often as the turns allow."""
        ...

    @property
    def timeout_s(self) -> float | None:
        """Its own deadline; None: that of all tools."""
        ...

    async def run(self, arguments: Mapping[str, Any], scope: ToolScope) -> str | Acted:
        """``arguments`` are as the spec's schema says. What it returns is shown to the model. Raises ToolFailed with
        words for the model; whatever else it raises is logged, and the model learns only that it failed. The caller
        sets the deadline."""
        ...


class ToolSource(Protocol):
    """Tools that come and go, such as those of a server."""

    @property
    def tools(self) -> Sequence[Tool]:
        """Those that are known now."""
        ...


class ToolRound(Protocol):
    """What came of some calls."""

    @property
    def results(self) -> Sequence[ToolResult]:
        """One for each call, in the same order."""
        ...

    @property
    def actions(self) -> Sequence[Action]:
        """What is to be done, in that order."""
        ...


class CallTools(Protocol):
    """The tools of one agent in one call."""

    def begin_turn(self) -> None:
        """A turn of the caller: calls are counted anew, and may be made again."""
        ...

    async def run(self, calls: Sequence[ToolCall], context: Context) -> ToolRound:
        """Make these calls side by side. ``context`` is what the model was shown. Whatever goes wrong is in the
        results; each tool has its deadline."""
        ...
