"""The tools of an agent, and their use in one call: checked, bounded, side by side, counted.

Whatever a tool does, the model gets a result for each call, at the latest when the tool's time is over; nothing but
Cancelled leaves here.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import structlog
import trio

from engine.errors import ToolFailed
from engine.events import Context, SessionInfo, ToolCall, ToolResult, ToolSpec
from engine.observe.labels import OTHER, ToolOutcome
from engine.observe.metrics import Metrics
from engine.ports import Acted, Action, CallControl, Tool, ToolScope, ToolSource
from engine.tools.schema import fault_in

log = structlog.get_logger()

MOST_ARGUMENT_CHARS: Final = 32 * 1024
CUT_NOTE: Final = "\n[cut here: the result was longer]"
REPEATED_NOTE: Final = "[called before in this turn with the same arguments; this is what came of it]\n"
NO_MORE: Final = "No more tools in this turn. Answer with what is known."


@dataclass(frozen=True, slots=True)
class ToolLimits:
    call_s: float = 5.0
    """For one call of a tool that has no deadline of its own."""
    calls_per_turn: int = 5
    result_bytes: int = 16 * 1024
    """Of a result, as UTF-8; what is longer is cut, and says so."""


@dataclass(frozen=True, slots=True)
class Round:
    """What came of the calls of one round."""

    results: tuple[ToolResult, ...]
    """One for each call, in the same order."""
    actions: tuple[Action, ...]
    """What is to be done, in that order."""
    is_refused: bool
    """None of them was made: the turn has had its calls."""


class Toolbox:
    """What one agent's model may call. Shared by its calls; keeps nothing of any."""

    def __init__(
        self,
        tools: Sequence[Tool],
        metrics: Metrics,
        *,
        sources: Sequence[ToolSource] = (),
        limits: ToolLimits = ToolLimits(),
    ) -> None:
        """Of two tools of one name the first one counts, and those of ``sources`` come last."""
        self._tools = tuple(tools)
        self._sources = tuple(sources)
        self.metrics = metrics
        self.limits = limits

    def offered(self, control: CallControl) -> tuple[ToolSpec, ...]:
        """What can be called here and now."""
        return tuple(tool.spec for tool in self.usable(control).values())

    def usable(self, control: CallControl) -> Mapping[str, Tool]:
        """By name."""
        abilities, found = control.abilities, dict[str, Tool]()
        for tool in (*self._tools, *(tool for source in self._sources for tool in source.tools)):
            if tool.needs is None or tool.needs in abilities:
                found.setdefault(tool.spec.name, tool)
        return found

    def use(self, session: SessionInfo, control: CallControl) -> ToolUse:
        """For one call, or one written turn."""
        return ToolUse(self, session, control)


class ToolUse:
    """The tools in one call of the telephone, or in one written turn."""

    def __init__(self, toolbox: Toolbox, session: SessionInfo, control: CallControl) -> None:
        self._toolbox = toolbox
        self._session = session
        self._control = control
        self._counts = Counter[str]()
        """By tool, how often it was called."""
        self._called = 0
        """In this turn. What was called in it, by name and arguments:"""
        self._jobs: dict[_Key, _Job] = {}

    @property
    def offered(self) -> tuple[ToolSpec, ...]:
        return self._toolbox.offered(self._control)

    def begin_turn(self) -> None:
        """A turn of the caller: calls are counted anew, and may be made again."""
        self._called = 0
        self._jobs.clear()

    async def run(self, calls: Sequence[ToolCall], context: Context) -> Round:
        """Make these calls side by side. ``context`` is what the model was shown. Nothing is called before it is
        certain that the turn is to be answered.

        What has been called before in the turn with the same arguments is not called again: neither by a model that
        goes in circles, nor when an answer is thought of anew because the caller went on."""
        await self._control.certain()
        usable = self._toolbox.usable(self._control)
        scope = ToolScope(self._session, self._control, context)
        jobs: list[_Job] = []
        async with trio.open_nursery() as nursery:
            for call in calls:
                job, is_new = self._job(call, usable)
                jobs.append(job)
                if is_new:
                    nursery.start_soon(self._run, job, scope)
        for job in jobs:
            await job.is_over.wait()  # of another round that runs beside this one
        actions = {id(job): job.action for job in jobs if job.action is not None}
        return Round(
            tuple(job.result(call, self._toolbox.limits) for call, job in zip(calls, jobs, strict=True)),
            tuple(actions.values()),
            is_refused=all(job.text == NO_MORE for job in jobs),
        )

    def _job(self, call: ToolCall, usable: Mapping[str, Tool]) -> tuple[_Job, bool]:
        """What is to be done for a call; and whether that is to be begun."""
        limits, tool = self._toolbox.limits, usable.get(call.name)
        self._called += 1
        if self._called > limits.calls_per_turn:
            return self._refused(tool, ToolOutcome.LIMIT, NO_MORE), False
        if tool is None:
            there_are = f"there are: {', '.join(usable)}" if usable else "there are none"
            return self._refused(tool, ToolOutcome.UNKNOWN, f"There is no such tool; {there_are}."), False
        arguments, fault = _read(call.arguments, tool.spec)
        if fault:
            return self._refused(tool, ToolOutcome.BAD_ARGUMENTS, f"Wrong arguments: {fault}."), False
        key: _Key = (call.name, orjson.dumps(arguments, option=orjson.OPT_SORT_KEYS))
        if (job := self._jobs.get(key)) is not None:
            job.repeats += 1
            self._count(tool, ToolOutcome.REPEATED, 0.0)
            return job, False
        if tool.most_per_call is not None and self._counts[call.name] >= tool.most_per_call:
            return self._refused(tool, ToolOutcome.LIMIT, "Not again in this conversation."), False
        self._counts[call.name] += 1
        job = self._jobs[key] = _Job(tool, arguments, key)
        return job, True

    def _refused(self, tool: Tool | None, outcome: ToolOutcome, text: str) -> _Job:
        self._count(tool, outcome, 0.0)
        job = _Job(tool)
        job.fail(text)
        return job

    async def _run(self, job: _Job, scope: ToolScope) -> None:
        assert job.tool is not None  # noqa: S101 - of calls that are begun
        timeout_s = job.tool.timeout_s or self._toolbox.limits.call_s
        began_at_s, outcome = trio.current_time(), ToolOutcome.CANCELLED
        try:
            with trio.move_on_after(timeout_s) as patience:
                job.take(await job.tool.run(job.arguments, scope))
                outcome = ToolOutcome.OK
            if patience.cancelled_caught:
                outcome = ToolOutcome.TIMEOUT
                job.fail(f"No answer within {timeout_s:g} s; whether it was done is not known.")
        except ToolFailed as exc:
            outcome = ToolOutcome.ERROR
            job.fail(str(exc))
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - the edge to somebody else's code
            outcome = ToolOutcome.ERROR
            job.fail("It failed.")
            # What an exception says may be what the caller said.
            log.warning("tool_raised", tool=job.tool.spec.name, error=type(exc).__name__, where=_where(exc))
        finally:
            if outcome is ToolOutcome.CANCELLED:  # what came of it nobody knows: it may be called again
                job.fail("It was interrupted.")
                if self._jobs.get(job.key) is job:
                    del self._jobs[job.key]
            self._count(job.tool, outcome, trio.current_time() - began_at_s)

    def _count(self, tool: Tool | None, outcome: ToolOutcome, took_s: float) -> None:
        metrics, label = self._toolbox.metrics, tool.label if tool else OTHER
        metrics.tool_calls_total.labels(tool=label, outcome=outcome).inc()
        if outcome in _RAN:
            metrics.tool_duration_seconds.labels(tool=label).observe(took_s)
        log.info(
            "tool_called",
            session_id=self._session.session_id,
            call_id=self._session.call_id,
            tool=tool.spec.name if tool else OTHER,
            outcome=str(outcome),
            ms=round(took_s * 1000, 1),
        )


_Key = tuple[str, bytes]
"""Name and arguments of a call."""
_RAN: Final = frozenset({ToolOutcome.OK, ToolOutcome.ERROR, ToolOutcome.TIMEOUT, ToolOutcome.CANCELLED})


@dataclass(slots=True, eq=False)
class _Job:
    """One thing to be done, for one or several equal calls."""

    tool: Tool | None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    key: _Key = ("", b"")
    text: str = ""
    is_error: bool = False
    is_over: trio.Event = field(default_factory=trio.Event)
    action: Action | None = None
    repeats: int = 0

    def take(self, answer: str | Acted) -> None:
        if isinstance(answer, Acted):
            self.action, answer = answer.action, answer.text
        self.text = answer
        self.is_over.set()

    def fail(self, text: str) -> None:
        self.text, self.is_error = text, True
        self.is_over.set()

    def result(self, call: ToolCall, limits: ToolLimits) -> ToolResult:
        note = REPEATED_NOTE if self.repeats else ""
        return ToolResult(call.call_id, capped(note + self.text, limits.result_bytes), self.is_error)


def capped(text: str, most_bytes: int) -> str:
    """The text, or its beginning and a note, in at most so many bytes of UTF-8."""
    data = text[: most_bytes + 1].encode("utf-8", "replace")  # a character has a byte or more
    if len(data) <= most_bytes:
        return data.decode()
    return data[: max(0, most_bytes - len(CUT_NOTE))].decode("utf-8", "ignore") + CUT_NOTE


def _read(text: str, spec: ToolSpec) -> tuple[dict[str, Any], str]:
    """The arguments of a call, and what is wrong with them."""
    if len(text) > MOST_ARGUMENT_CHARS:
        return {}, "too long"
    try:
        arguments = orjson.loads(text) if text.strip() else {}
    except ValueError:
        return {}, "no JSON"
    if arguments is None:  # some models say so where there are none
        arguments = {}
    if not isinstance(arguments, dict):
        return {}, "expected an object"
    return arguments, fault_in(arguments, spec.parameters)


def _where(exc: BaseException) -> str:
    """The innermost line that raised it."""
    frames = traceback.extract_tb(exc.__traceback__, limit=-1)
    return f"{frames[0].filename.rpartition('/')[2]}:{frames[0].lineno}" if frames else ""
