"""A desk in memory: small, and keeping the rules of :mod:`engine.web.desk`. Its agent repeats what it hears."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import trio

from engine.dialogue.history import Entry, TraceEvent, TraceWhat
from engine.events import Memory, MemoryItem, MemoryKind, Modality, Role
from engine.ports import IncomingText
from engine.sessions.answers import TurnAnswer
from engine.storage.identity import caller_key, e164, stream_key
from engine.storage.record import Scope, SessionRecord, Stored
from engine.web.desk import Desk

AT = 1_700_000_000.0
CALLER = "+15550100000"
FAREWELL = "Goodbye"


@dataclass(frozen=True)
class FakeHit:
    session_id: str
    entry: Entry


@dataclass(frozen=True)
class FakeResult:
    hits: Sequence[FakeHit]
    is_complete: bool = True


@dataclass(frozen=True)
class FakeProblem:
    turn_id: str
    rule: str
    detail: str = ""


@dataclass(frozen=True)
class FakeReport:
    turns: int
    problems: Sequence[FakeProblem] = ()


@dataclass(frozen=True)
class FakeAuditEvent:
    at: float
    by: str
    what: str
    subject: str
    outcome: str = "done"
    detail: str = ""


@dataclass
class FakeDesk:
    """Sessions, history and privacy in one. ``fails`` is raised by whatever is asked next, every time; ``stalls_s`` is
    how long a turn takes."""

    agents: tuple[str, ...] = ("desk", "sales")
    fails: Exception | None = None
    stalls_s: float = 0.0
    stored: dict[str, Stored] = field(default_factory=dict)
    events: list[FakeAuditEvent] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    """What came to the agents, in order."""
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def as_desk(self) -> Desk:
        return Desk(self, self, _Privacy(self), "US")

    # --- sessions ---

    async def turn(self, text: str, *, stream_id: str = "default", agent: str = "") -> TurnAnswer:
        return await self._answer(stream_key(stream_id), text, Modality.TEXT, agent)

    async def text(self, provider: str, incoming: IncomingText) -> TurnAnswer:
        number = e164(incoming.sender, "US")
        key = caller_key(number) if number else f"text:{incoming.text_id}"
        return await self._answer(key, incoming.text, Modality.SMS, "", number)

    async def reset(self, stream_id: str) -> bool:
        await self._check()
        found = self._of_key(stream_key(stream_id))
        if found is not None:
            del self.stored[found.record.session_id]
        return found is not None

    async def hand_over(self, session_id: str, agent: str) -> bool:
        await self._check()
        found = self.stored.get(session_id)
        if found is None:
            return False
        record = replace(found.record, agent=agent, handovers=found.record.handovers + 1)
        self.stored[session_id] = replace(found, record=record)
        return True

    async def _answer(self, key: str, text: str, modality: Modality, agent: str, number: str = "") -> TurnAnswer:
        await self._check()
        self.asked.append(text)
        await trio.sleep(self.stalls_s)
        found = self._of_key(key) or self.begin(key, number, modality)
        name = agent or found.record.agent
        turn_id = f"t_{next(self._ids)}"
        said = f"You said: {text}"
        entries = (
            self._entry(turn_id, Role.CALLER, text, name, modality),
            self._entry(turn_id, Role.AGENT, said, name, modality),
        )
        record = replace(
            found.record, agent=name, turns=found.record.turns + 1, message_count=found.record.message_count + 2
        )
        self.stored[record.session_id] = replace(found, record=record, entries=(*found.entries, *entries)[-50:])
        return TurnAnswer(record.session_id, turn_id, said, name, is_over=FAREWELL in text)

    def _entry(self, turn_id: str, role: Role, text: str, agent: str, modality: Modality) -> Entry:
        response_ms = 120 if role is Role.AGENT else None
        return Entry(f"m_{next(self._ids)}", turn_id, AT, role, text, agent, modality, response_ms=response_ms)

    def begin(self, key: str, number: str = "", modality: Modality = Modality.TEXT) -> Stored:
        scope = Scope.CALLER if number else Scope.CALL
        memory = Memory("Asked for a table.", {"day": "Monday"}, (MemoryItem(MemoryKind.FACT, "has a dog", 0.5),))
        record = SessionRecord(
            f"s_{next(self._ids)}", key, scope, AT, AT, self.agents[0], modality, number=number, memory=memory
        )
        self.stored[record.session_id] = Stored(record, 1, ())
        return self.stored[record.session_id]

    def _of_key(self, key: str) -> Stored | None:
        return next((one for one in self.stored.values() if one.record.key == key), None)

    async def _check(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.fails is not None:
            raise self.fails

    # --- history ---

    async def session(self, session_id: str) -> Stored | None:
        await self._check()
        return self.stored.get(session_id)

    async def of_number(self, number: str) -> list[Stored]:
        await self._check()
        return [one for one in self.stored.values() if one.record.number == number]

    async def search(self, words: str, *, session_id: str = "", limit: int) -> FakeResult:
        await self._check()
        hits = [
            FakeHit(one.record.session_id, entry)
            for one in self.stored.values()
            if session_id in ("", one.record.session_id)
            for entry in one.entries
            if all(word in entry.text.casefold() for word in words.casefold().split())
        ]
        return FakeResult(hits[::-1][:limit], len(hits) <= limit)

    async def export(self, session_id: str, format: Literal["json", "markdown"]) -> str | None:  # noqa: A002 - the port's word
        await self._check()
        found = self.stored.get(session_id)
        if found is None:
            return None
        texts = [entry.text for entry in found.entries]
        return json.dumps({"messages": texts}) if format == "json" else "\n".join(f"> {text}" for text in texts)

    async def edit(self, session_id: str, entry_id: str, text: str, by: str) -> Entry | None:
        await self._check()
        found = self.stored.get(session_id)
        was = next((entry for entry in found.entries if entry.entry_id == entry_id), None) if found else None
        if found is None or was is None:
            return None
        edited = replace(was, text=text, original=was.original or was.text, edited_at=AT + 1)
        entries = tuple(edited if entry is was else entry for entry in found.entries)
        self.stored[session_id] = replace(found, entries=entries)
        self.events.append(FakeAuditEvent(AT, by, "edit", session_id))
        return edited

    async def branch(self, session_id: str, entry_id: str, by: str) -> SessionRecord | None:
        await self._check()
        found = self.stored.get(session_id)
        ids = [entry.entry_id for entry in found.entries] if found else []
        if found is None or entry_id not in ids:
            return None
        new = self.begin(f"branch:{next(self._ids)}")
        record = replace(new.record, parent=f"{session_id}/{entry_id}")
        self.stored[record.session_id] = Stored(record, 1, found.entries[: ids.index(entry_id) + 1])
        return record

    async def trace(self, session_id: str) -> list[TraceEvent] | None:
        await self._check()
        return [TraceEvent(AT, TraceWhat.CREATED, {"scope": "call"})] if session_id in self.stored else None

    async def validate(self, session_id: str) -> FakeReport | None:
        await self._check()
        found = self.stored.get(session_id)
        return FakeReport(found.record.turns, (FakeProblem("t_1", "empty"),)) if found else None


@dataclass
class _Privacy:
    desk: FakeDesk

    async def export(self, number: str, by: str) -> Mapping[str, object]:
        found = await self.desk.of_number(number)
        self.desk.events.append(FakeAuditEvent(AT, by, "export", "f1"))
        return {"version": 1, "number": number, "sessions": [one.record.session_id for one in found]}

    async def delete(self, number: str, by: str) -> int:
        found = await self.desk.of_number(number)
        for one in found:
            del self.desk.stored[one.record.session_id]
        self.desk.events.append(FakeAuditEvent(AT, by, "delete", "f1"))
        return len(found)

    async def audit(self, limit: int) -> Sequence[FakeAuditEvent]:
        await self.desk._check()
        return self.desk.events[::-1][:limit]
