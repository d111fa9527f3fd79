"""What becomes of a group of appends, decided from the rows as they are: no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from engine.ports import Append, Conflict, Gone, Outcome, SessionRow, Write, Written

MAX_GROUP = 200
"""Appends whose rows are read with one statement."""


@dataclass(slots=True)
class Known:
    """What the store holds of the sessions in question. ``planned`` changes it as it goes."""

    by_id: dict[str, SessionRow]
    by_key: dict[str, SessionRow]
    unadopted: set[str]
    """Ids of an older program's rows."""
    erased: dict[str, float]
    """Subject to when."""


@dataclass(slots=True)
class Plan:
    outcomes: list[Outcome] = field(default_factory=list)
    doomed: list[str] = field(default_factory=list)
    """Ids of sessions that have expired and are in the way."""
    moved: list[str] = field(default_factory=list)
    """Ids of those updated that give up their key for another."""
    updates: list[SessionRow] = field(default_factory=list)
    inserts: list[SessionRow] = field(default_factory=list)
    written: list[Append] = field(default_factory=list)


def groups(writes: Iterable[Write]) -> Iterable[list[Append] | Write]:
    """The same writes in the same order: appends in lists in which no session and no key occurs twice, so that they can
    be done all at once; the others as they are."""
    group: list[Append] = []
    seen: set[tuple[str, str]] = set()
    for write in writes:
        names: set[tuple[str, str]] = set()
        if isinstance(write, Append):
            names = {("id", write.head.session_id), ("key", write.head.key)}
        if group and (not names or names & seen or len(group) == MAX_GROUP):
            yield group
            group, seen = [], set()
        if isinstance(write, Append):
            group.append(write)
            seen |= names
        else:
            yield write
    if group:
        yield group


def planned(appends: Sequence[Append], known: Known, now: float) -> Plan:
    """For appends of which no two have a session or a key in common."""
    plan = Plan()
    for append in appends:
        plan.outcomes.append(_one(append, known, now, plan))
    return plan


def _one(append: Append, known: Known, now: float, plan: Plan) -> Outcome:
    head = append.head
    current, holder = known.by_id.get(head.session_id), known.by_key.get(head.key)
    is_there = current is not None and current.expires_at > now
    if current is not None and is_there and current.version != head.version:
        return Conflict(current)
    if not is_there and head.version > 0:
        return Gone()
    if not is_there and head.subject and known.erased.get(head.subject, float("-inf")) >= head.started_at:
        return Gone()
    if holder is not None and holder.session_id != head.session_id and holder.expires_at > now:
        return Conflict(holder)
    if holder is not None and holder.session_id != head.session_id:
        _doom(holder, known, plan)
    if current is not None and not is_there:
        _doom(current, known, plan)
    row = replace(head, version=head.version + 1)
    if current is not None and is_there and current.key != head.key:
        plan.moved.append(head.session_id)
        known.by_key.pop(current.key, None)
    (plan.updates if is_there or head.session_id in known.unadopted else plan.inserts).append(row)
    known.by_id[head.session_id] = known.by_key[head.key] = row
    plan.written.append(append)
    return Written(row.version)


def _doom(row: SessionRow, known: Known, plan: Plan) -> None:
    plan.doomed.append(row.session_id)
    known.by_id.pop(row.session_id, None)
    known.by_key.pop(row.key, None)
