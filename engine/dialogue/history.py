"""What a session remembers word for word: one entry for each say of either side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from engine.events import Memory, Message, Modality, Noted, Role


@dataclass(frozen=True, slots=True)
class Entry:
    """One message of a history. ``at`` in Unix seconds."""

    entry_id: str
    turn_id: str
    """Shared by the two sides of one turn."""
    at: float
    role: Role
    text: str
    agent: str
    """Who handled it (E4)."""
    modality: Modality
    call_id: str = ""
    interrupted: bool = False
    """The caller cut it off: ``text`` is what was heard of it."""
    is_opening: bool = False
    """The agent's greeting at the beginning of a session."""
    response_ms: int | None = None
    """Of an agent's: from the caller's last sound, or the text's arrival, to the answer."""
    original: str | None = None
    """What ``text`` was before it was edited first."""
    edited_at: float | None = None

    def as_message(self) -> Message:
        return Message(self.role, self.text, self.interrupted)


class TraceWhat(StrEnum):
    """What a moment in the life of a session tells; its ``fields`` in brackets. All have ``session_id``."""

    CREATED = "session_created"
    """[scope, modality, agent]"""
    REUSED = "session_reused"
    """A further call, or the first text after a while, goes on with it. [modality, agent, call_id, messages]"""
    MODEL_ASKED = "model_asked"
    """[turn_id, agent, vendor, modality, call_id, shown: [[role, text], ...], violations: [...], knew: the turns of
    those messages of the history that a model could have been shown, by id]"""
    MODEL_ANSWERED = "model_answered"
    """[turn_id, agent, vendor, text, status: ok, error or cancelled, ms]"""
    OPENING_SAID = "opening_said"
    """[agent, text, call_id]"""
    MODALITY_SWITCHED = "modality_switched"
    """[origin, target]"""
    CONTEXT_BRIDGED = "context_bridged"
    """[turn_id, modality]"""
    HANDED_OVER = "handed_over"
    """[origin, target]"""
    SUMMARISED = "summarised"
    """[messages]"""
    EDITED = "edited"
    """[entry_id]"""
    BRANCHED = "branched"
    """[from: session_id/entry_id]"""
    CALL_LEFT = "call_left"
    """[call_id]"""
    ENDED = "session_ended"
    """[reason]"""


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """A moment in the life of a session. ``at`` in Unix seconds."""

    at: float
    what: TraceWhat
    fields: dict[str, object] = field(default_factory=dict)
    """Plain JSON values."""


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """One turn of a session as it enters the history: never split, so that turns never interleave."""

    turn_id: str
    entries: tuple[Entry, ...]
    noted: tuple[tuple[str, Noted], ...] = ()
    """By agent, what it wants remembered."""
    trace: tuple[TraceEvent, ...] = ()
    line: str = ""
    """Whose line it came in on: the agent that would have answered there, had nobody handed over."""
    assignments: int = 0
    """Of the session, as it was known when the turn began."""


def remember(memory: Memory, agent: str, noted: Iterable[Noted]) -> Memory:
    """The memory with what the agent noted."""
    entities, states, items = dict(memory.entities), dict(memory.states), list(memory.items)
    for note in noted:
        entities |= note.entities
        items += [item for item in note.items if item not in items]
        if note.state is not None:
            states[agent] = note.state
    return Memory(
        memory.summary,
        {key: value for key, value in entities.items() if value},
        tuple(items),
        {key: value for key, value in states.items() if value},
    )
