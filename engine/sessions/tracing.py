"""What a session's trace tells: who was asked what, what came back, and whether what was shown was sound. Pure."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import msgspec

from engine.dialogue.context import ContextLimits
from engine.dialogue.history import Entry, TraceEvent, TraceWhat
from engine.dialogue.validator import Rule, has_second_opening, violations
from engine.events import Context, Message, Role
from engine.sessions.export import utc
from engine.storage.record import Stored


@dataclass(frozen=True, slots=True)
class Problem:
    """A rule that something in this session broke."""

    turn_id: str
    """Empty: it is of no single turn."""
    rule: str
    """One of :class:`Rule`."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request to a model. ``at`` in Unix seconds."""

    turn_id: str
    at: float
    session_id: str
    """As the request bore it."""
    agent: str
    vendor: str
    modality: str
    call_id: str
    shown: tuple[tuple[str, str], ...]
    """Role and text of each message."""
    answer: str | None = None
    """None: nothing is known to have come back."""
    status: str = ""
    """``ok``, ``error`` or ``cancelled``."""
    ms: float | None = None
    violations: tuple[str, ...] = ()
    """The rules that were found broken when it was made, and those found now."""
    knew: tuple[str, ...] | None = None
    """The turns within its window that whoever asked knew of, by id. None: that was not written down."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything about one session that a builder of agents wants to know."""

    session_id: str
    agent: str
    """Who handled the last turn."""
    created: int
    reused: int
    requests_by_agent: Mapping[str, int]
    requests_by_vendor: Mapping[str, int]
    session_ids: tuple[str, ...]
    """Those that requests bore: of one session there is one."""
    messages: int
    """Retained."""
    unreadable: int
    exchanges: tuple[Exchange, ...] = ()
    """Oldest first."""
    problems: tuple[Problem, ...] = ()
    moments: tuple[Moment, ...] = field(default=())
    """Trace and messages in one, oldest first."""

    @property
    def turns(self) -> int:
        """How many were looked at."""
        return len({exchange.turn_id for exchange in self.exchanges})

    @property
    def is_ok(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True)
class Moment:
    """One line of a timeline. ``at`` in Unix seconds."""

    at: float
    what: str
    """A :class:`TraceWhat`, or ``caller`` and ``agent`` for what was said."""
    turn_id: str = ""
    text: str = ""
    fields: Mapping[str, object] = field(default_factory=dict)


def examine(stored: Stored, traces: Sequence[TraceEvent], limits: ContextLimits) -> Report:
    """The report on a session, from what is stored of it.

    What was shown is compared with the messages as they were then; ``limits`` are those of the settings now. Of
    messages that are no longer retained nothing can be missed, nor of turns that another process held meanwhile.
    """
    session_id = stored.record.session_id
    ordered = sorted(traces, key=lambda event: event.at)
    began_at = _beginnings(stored, ordered)
    exchanges = tuple(_judged(one, stored, limits, began_at.get(one.call_id, one.at)) for one in _exchanges(ordered))
    asked = [event for event in ordered if event.what is TraceWhat.MODEL_ASKED]
    whats = Counter(event.what for event in ordered)
    ids = dict.fromkeys(_text(event, "session_id") for event in (*asked, *ordered))
    return Report(
        session_id,
        stored.record.agent,
        created=whats[TraceWhat.CREATED],
        reused=whats[TraceWhat.REUSED],
        requests_by_agent=Counter(one.agent for one in exchanges),
        requests_by_vendor=Counter(one.vendor for one in exchanges),
        session_ids=tuple(ids) or (session_id,),
        messages=len(stored.entries),
        unreadable=stored.unreadable,
        exchanges=exchanges,
        problems=tuple(_problems(stored, ordered, exchanges)),
        moments=tuple(timeline(stored, ordered)),
    )


def timeline(stored: Stored, traces: Iterable[TraceEvent]) -> list[Moment]:
    """The trace and what was said, in the order in which it happened."""
    moments = [_moment(event) for event in traces]
    moments += [
        Moment(
            entry.at,
            "caller" if entry.role is Role.CALLER else "agent",
            entry.turn_id,
            entry.text,
            {"agent": entry.agent, "modality": str(entry.modality)} | _marks(entry),
        )
        for entry in stored.entries
    ]
    return sorted(moments, key=lambda moment: moment.at)


def _moment(event: TraceEvent) -> Moment:
    rest = {name: value for name, value in event.fields.items() if name not in ("text", "turn_id", "session_id")}
    return Moment(event.at, str(event.what), _text(event, "turn_id"), _text(event, "text"), rest)


def _marks(entry: Entry) -> dict[str, object]:
    marks = {"opening": entry.is_opening, "interrupted": entry.interrupted, "edited": entry.edited_at is not None}
    return {name: True for name, is_so in marks.items() if is_so}


# --- for people and programs --------------------------------------------------------------------------------

WIDTH = 100
_INDENT = " " * 32
_MAX_LINES = 6
"""Of one text; the JSON has all of it."""


def as_dict(report: Report) -> dict[str, Any]:
    """The report as plain JSON values."""
    fields: dict[str, Any] = msgspec.to_builtins(report)
    return {"is_ok": report.is_ok, "turns": report.turns} | fields


def as_text(report: Report) -> str:
    """The report for a terminal, 100 columns wide, times in UTC: a head, the timeline, the verdict."""
    lines = [*_head(report), ""]
    day = ""
    for moment in report.moments:
        date, _, time = utc(moment.at).partition(" ")
        if date != day:
            day = date
            lines.append(date)
        lines += _lines_of(moment, f"{time}.{int(moment.at % 1 * 1000):03}" if time else "")
    return "\n".join([*lines, "", *_verdict(report)]) + "\n"


def _head(report: Report) -> list[str]:
    def counts(of: Mapping[str, int]) -> str:
        return ", ".join(f"{name or '?'} {count}" for name, count in of.items()) or "none"

    rows = {
        "session": report.session_id,
        "agent": report.agent,
        "created, reused": f"{report.created}, {report.reused}",
        "requests by agent": counts(report.requests_by_agent),
        "requests by vendor": counts(report.requests_by_vendor),
        "session ids seen": ", ".join(report.session_ids),
        "messages kept": f"{report.messages}" + (f" and {report.unreadable} unreadable" if report.unreadable else ""),
    }
    return [line for name, value in rows.items() for line in _wrapped(f"{name:<20}", value, " " * 20)]


def _lines_of(moment: Moment, time: str) -> list[str]:
    shown = _pairs(moment.fields.get("shown"))
    rest = {
        name: value
        for name, value in moment.fields.items()
        if name not in ("shown", "knew") and value not in ("", [], None)
    }
    said = " ".join(f"{name}={_short(value)}" for name, value in rest.items())
    lines = _wrapped(f"{time:<13}{moment.what:<19}", said or "-", _INDENT)
    for role, text in shown:
        lines += _wrapped(f"{_INDENT}< {role}: ", text, _INDENT + "    ")
    if moment.text:
        lines += _wrapped(f"{_INDENT}> ", moment.text, _INDENT + "    ")
    return lines


def _verdict(report: Report) -> list[str]:
    if report.is_ok:
        return [f"ok: {report.turns} turns, each shown a complete context, in order and well formed; one opening"]
    lines = [f"not ok: {len(report.problems)} problems"]
    for problem in report.problems:
        of = f"turn {problem.turn_id}" if problem.turn_id else "session"
        lines += _wrapped(f"  {of}: ", " - ".join(part for part in (problem.rule, problem.detail) if part), "    ")
    return lines


def _short(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)


def _wrapped(first: str, text: str, indent: str) -> list[str]:
    """A stranger's words neither steer a terminal nor fill it."""
    plain = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    lines = textwrap.wrap(
        plain, WIDTH, initial_indent=first, subsequent_indent=indent, max_lines=_MAX_LINES, placeholder=" […]"
    )
    return lines or [first.rstrip()]


# --- exchanges ----------------------------------------------------------------------------------------------


def _exchanges(traces: Iterable[TraceEvent]) -> list[Exchange]:
    """What was asked, with what came back for it."""
    found: list[Exchange] = []
    open_at: dict[tuple[str, str], int] = {}
    for event in traces:
        of = (_text(event, "turn_id"), _text(event, "agent"))
        if event.what is TraceWhat.MODEL_ASKED:
            open_at[of] = len(found)
            found.append(_asked(event))
        elif event.what is TraceWhat.MODEL_ANSWERED and of in open_at:
            at = open_at.pop(of)
            ms = event.fields.get("ms")
            found[at] = replace(
                found[at],
                answer=_text(event, "text"),
                status=_text(event, "status"),
                ms=float(ms) if isinstance(ms, int | float) else None,
            )
    return found


def _asked(event: TraceEvent) -> Exchange:
    violated, knew = event.fields.get("violations"), event.fields.get("knew")
    return Exchange(
        _text(event, "turn_id"),
        event.at,
        _text(event, "session_id"),
        _text(event, "agent"),
        _text(event, "vendor"),
        _text(event, "modality"),
        _text(event, "call_id"),
        _pairs(event.fields.get("shown")),
        violations=tuple(map(str, violated)) if isinstance(violated, list | tuple) else (),
        knew=tuple(map(str, knew)) if isinstance(knew, list | tuple) else None,
    )


def _pairs(shown: object) -> tuple[tuple[str, str], ...]:
    pairs = shown if isinstance(shown, list | tuple) else ()
    return tuple((str(pair[0]), str(pair[1])) for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2)


def _text(event: TraceEvent, name: str) -> str:
    value = event.fields.get(name, "")
    return value if isinstance(value, str) else ""


# --- judging ------------------------------------------------------------------------------------------------


SETTLED_S = 120.0
"""What was over for so long when a call began, or a text came, had been stored: it must be known."""


def _beginnings(stored: Stored, traces: Iterable[TraceEvent]) -> dict[str, float]:
    """When each call was first seen in this session."""
    seen = [(call_id, event.at) for event in traces if (call_id := _text(event, "call_id"))]
    seen += [(entry.call_id, entry.at) for entry in stored.entries if entry.call_id]
    return dict(sorted(seen, key=lambda one: one[1], reverse=True))


def _judged(exchange: Exchange, stored: Stored, limits: ContextLimits, began_at: float) -> Exchange:
    """With the rules that it broke by what is stored, besides those found when it was made."""
    found = set(exchange.violations)
    roles = [role for role, _ in exchange.shown]
    if any(role not in set(Role) for role in roles):
        found.add(Rule.MALFORMED)
    else:
        found |= {str(rule) for rule in _violations(exchange, stored, limits, began_at)}
    order = [*Rule]
    return replace(
        exchange, violations=tuple(sorted(found, key=lambda rule: order.index(Rule(rule)) if rule in order else 99))
    )


def _violations(exchange: Exchange, stored: Stored, limits: ContextLimits, began_at: float) -> list[Rule]:
    messages = tuple(Message(Role(role), text) for role, text in exchange.shown)
    before = _before(exchange, stored.entries, began_at)
    newest = Entry("", "", exchange.at, Role.CALLER, messages[-1].text if messages else "", "", stored.record.modality)
    context = Context(messages, session_id=exchange.session_id)
    rules = violations(context, (*before, newest), limits, stored.record.session_id)
    # What is shown and not stored may have been retained then, or edited more than once since.
    is_other = exchange.session_id != stored.record.session_id
    return [rule for rule in rules if rule is not Rule.OTHER_SESSION or is_other]


def _before(exchange: Exchange, entries: Sequence[Entry], began_at: float) -> list[Entry]:
    """The history when this was asked, as it read then: the turns that were over, none of them in part."""
    before: list[Entry] = []
    for turn_id, turn in groupby(entries, key=lambda entry: entry.turn_id):
        if turn_id == exchange.turn_id:
            break
        whole = list(turn)
        over_at = max(entry.at for entry in whole)
        if over_at <= exchange.at and not (over_at > began_at - SETTLED_S and _is_elsewhere(whole, exchange)):
            before += [_as_of(entry, exchange.at) for entry in whole]
    return before


def _is_elsewhere(turn: Sequence[Entry], exchange: Exchange) -> bool:
    """Not of the same call, nor known to whoever asked: another process held it, and had not stored it, or this one had
    not read it yet."""
    is_known = exchange.knew is None or turn[0].turn_id in exchange.knew
    return not is_known and not (exchange.call_id and turn[0].call_id == exchange.call_id)


def _as_of(entry: Entry, at: float) -> Entry:
    if entry.original is None or entry.edited_at is None or entry.edited_at <= at:
        return entry
    return replace(entry, text=entry.original)


def _problems(stored: Stored, traces: Sequence[TraceEvent], exchanges: Iterable[Exchange]) -> list[Problem]:
    session_id = stored.record.session_id
    problems = [Problem(one.turn_id, rule) for one in exchanges for rule in one.violations]
    strangers = {id_ for event in traces if (id_ := _text(event, "session_id")) not in ("", session_id)}
    problems += [Problem("", Rule.OTHER_SESSION, f"the trace bears the id {id_}") for id_ in sorted(strangers)]
    return problems + _second_openings(stored, traces)


def _second_openings(stored: Stored, traces: Sequence[TraceEvent]) -> list[Problem]:
    """The opening said again: as an opening, or by a model as its answer."""
    problems = []
    if has_second_opening((), stored.entries):
        problems.append(Problem("", Rule.SECOND_OPENING, "said twice in the history"))
    opening = _opening(stored, traces)
    again = {
        TraceWhat.OPENING_SAID: "the opening was said again",
        TraceWhat.MODEL_ANSWERED: "the model answered with the opening",
    }
    said = [event for event in traces if opening and event.what in again and _text(event, "text") == opening]
    first = next((event for event in said if event.what is TraceWhat.OPENING_SAID), None)
    problems += [
        Problem(_text(event, "turn_id"), Rule.SECOND_OPENING, again[event.what]) for event in said if event is not first
    ]
    return problems


def _opening(stored: Stored, traces: Sequence[TraceEvent]) -> str:
    """Whoever comes back is welcomed with other words: the opening is the first of all, if that is still to be seen."""
    of_history = next((entry.text for entry in stored.entries if entry.is_opening), "")
    if of_history or stored.record.parent or not any(event.what is TraceWhat.CREATED for event in traces):
        return of_history
    return next((_text(event, "text") for event in traces if event.what is TraceWhat.OPENING_SAID), "")
