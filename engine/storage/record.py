"""What a session is, besides its messages (C3), and how two versions of it become one."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from engine.dialogue.history import Entry, TraceEvent, TraceWhat, TurnRecord, remember
from engine.events import Memory, Modality, Recollection, Role

_COUNTS = (
    "message_count",
    "turns",
    "calls",
    "texts",
    "responses",
    "response_s",
    "switches",
    "bridges",
    "handovers",
)
MAX_ITEMS = 50
MAX_ENTITIES = 100
MAX_TOPICS = 50


class Scope(StrEnum):
    """How far a session reaches; chosen per agent."""

    CALL = "call"
    """One call or stream (A1)."""
    CALLER = "caller"
    """Everything with one number (C1)."""


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """One session. Times in Unix seconds."""

    session_id: str
    key: str
    """What it is found by, such as ``caller:+15550100000`` or ``stream:default``."""
    scope: Scope
    started_at: float
    last_at: float
    agent: str
    """Who handled the last turn."""
    modality: Modality
    """Of the last turn."""
    line: str = ""
    """Whose line the last turn came in on: ``agent``, unless that one was handed over to."""
    number: str = ""
    """The caller's, in E.164: whom it belongs to. Empty if that is not known."""
    message_count: int = 0
    """All there ever were, also those no longer retained."""
    turns: int = 0
    """Of the caller."""
    calls: int = 0
    texts: int = 0
    responses: int = 0
    response_s: float = 0.0
    """Of all ``responses`` together."""
    switches: int = 0
    """How often the modality changed."""
    bridges: int = 0
    """How often a turn was shown what came over another modality."""
    handovers: int = 0
    assignments: int = 0
    """How often somebody outside said who goes on: a turn that began before the last time takes nothing of it back."""
    was_opened: bool = False
    """Its opening has been said."""
    memory: Memory = field(default_factory=Memory)
    summary_at: float = 0.0
    """When ``memory.summary`` was made."""
    topics: Mapping[str, int] = field(default_factory=dict)
    """What it was about, and how often."""
    parent: str = ""
    """The session and message that it branched from, as ``session_id/entry_id``."""
    ended_at: float | None = None
    end_reason: str = ""
    keep_s: float = 0.0
    """After its last turn, if not for as long as the settings say: what goes with its call is not kept much longer when
    the process dies in mid call."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A session as it was found."""

    record: SessionRecord
    version: int
    entries: tuple[Entry, ...]
    """The last of them, in order."""
    unreadable: int = 0
    """Messages that could not be decrypted or understood; they are left where they are."""


@dataclass(frozen=True, slots=True)
class Save:
    """One addition to a session."""

    record: SessionRecord
    version: int
    """What ``record`` was made from; 0 if it has never been stored."""
    entries: tuple[Entry, ...] = ()
    traces: tuple[TraceEvent, ...] = ()
    base: SessionRecord | None = None
    """The stored record that ``record`` was made from: what was counted since then is added to what others have
    counted. Without it the higher count holds."""


@dataclass(frozen=True, slots=True)
class Saved:
    record: SessionRecord
    """As it is stored: not the one given, if somebody else had changed it in between."""
    version: int
    was_merged: bool = False
    """Somebody else has written to the session: its history is to be read again."""


def new_session_id() -> str:
    return f"s_{uuid.uuid4().hex}"


def with_turn(record: SessionRecord, turn: TurnRecord) -> SessionRecord:
    """The session once this turn has entered its history."""
    memory = record.memory
    for agent, noted in turn.noted:
        memory = _bounded(remember(memory, agent, [noted]))
    whats = [event.what for event in turn.trace]
    responses = [entry.response_ms for entry in turn.entries if entry.response_ms is not None]
    of_caller = [entry for entry in turn.entries if entry.role is Role.CALLER]
    last = turn.entries[-1] if turn.entries else None
    is_current = turn.assignments >= record.assignments
    return replace(
        record,
        memory=memory,
        bridges=record.bridges + whats.count(TraceWhat.CONTEXT_BRIDGED),
        handovers=record.handovers + whats.count(TraceWhat.HANDED_OVER),
        message_count=record.message_count + len(turn.entries),
        responses=record.responses + len(responses),
        response_s=record.response_s + sum(responses) / 1000,
        last_at=last.at if last else record.last_at,
        agent=last.agent if last and is_current else record.agent,
        line=turn.line if last else record.line,
        modality=last.modality if last else record.modality,
        turns=record.turns + len(of_caller),
        texts=record.texts + sum(entry.modality is not Modality.VOICE for entry in of_caller),
        was_opened=record.was_opened or any(entry.is_opening for entry in turn.entries),
    )


def with_recollection(record: SessionRecord, made: Recollection, upto: float) -> SessionRecord:
    """The session once its agent has gone through what was said, up to this time."""
    known, topics = record.memory, dict(record.topics)
    for topic in made.topics:
        topics[topic] = topics.get(topic, 0) + 1
    memory = replace(
        known,
        summary=made.summary,
        # What an agent noted itself is surer than what was gathered from words.
        entities=dict(made.entities) | dict(known.entities),
        items=tuple(dict.fromkeys((*known.items, *made.items))),
    )
    most = dict(sorted(topics.items(), key=lambda item: -item[1])[:MAX_TOPICS])
    return replace(record, memory=_bounded(memory), summary_at=upto, topics=most)


def uncounted(record: SessionRecord) -> SessionRecord:
    """The same, before anything was counted: what a record that was never stored was made from."""
    nothing: dict[str, Any] = dict.fromkeys(_COUNTS, 0)
    return replace(record, **nothing)


def merged(theirs: SessionRecord, ours: SessionRecord, base: SessionRecord | None = None) -> SessionRecord:
    """Two writers on one session: nothing that either learnt is lost; of two values for one thing the newer counts.
    The identity is theirs, which is the stored one. ``base``: what ours was made from, see ``Save.base``."""
    older, newer = (ours, theirs) if theirs.last_at > ours.last_at else (theirs, ours)
    assigned = newer
    if theirs.assignments != ours.assignments:
        assigned = theirs if theirs.assignments > ours.assignments else ours
    with_summary = theirs if theirs.summary_at >= ours.summary_at else ours
    items = dict.fromkeys((*older.memory.items, *newer.memory.items))
    memory = Memory(
        summary=with_summary.memory.summary,
        entities=dict(older.memory.entities) | dict(newer.memory.entities),
        items=tuple(items),
        states=dict(older.memory.states) | dict(newer.memory.states),
    )
    counts: dict[str, Any] = {name: _count(name, theirs, ours, base) for name in _COUNTS}
    topics = {
        word: max(theirs.topics.get(word, 0), ours.topics.get(word, 0)) for word in {*theirs.topics, *ours.topics}
    }
    return replace(
        newer,
        session_id=theirs.session_id,
        key=theirs.key,
        number=theirs.number,
        started_at=min(theirs.started_at, ours.started_at),
        agent=assigned.agent,
        assignments=assigned.assignments,
        was_opened=theirs.was_opened or ours.was_opened,
        memory=_bounded(memory),
        summary_at=with_summary.summary_at,
        topics=topics,
        parent=theirs.parent,
        ended_at=ours.ended_at or theirs.ended_at,
        end_reason=ours.end_reason or theirs.end_reason,
        **counts,
    )


def _count(name: str, theirs: SessionRecord, ours: SessionRecord, base: SessionRecord | None) -> Any:
    their_count, our_count = getattr(theirs, name), getattr(ours, name)
    if base is None:
        return max(their_count, our_count)
    return their_count + max(0, our_count - getattr(base, name))


def _bounded(memory: Memory) -> Memory:
    """The newest of everything, as much as a session may carry."""
    entities = dict(list(memory.entities.items())[-MAX_ENTITIES:])
    return replace(memory, entities=entities, items=memory.items[-MAX_ITEMS:])
