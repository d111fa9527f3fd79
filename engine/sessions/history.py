"""What can be done with the history of sessions: read, search, export, edit, branch, look at its trace (E6, D5)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from engine.dialogue.context import ContextLimits
from engine.dialogue.history import Entry, TraceEvent, TraceWhat
from engine.errors import Busy
from engine.events import Memory, Role
from engine.sessions.export import as_json, as_markdown
from engine.sessions.tracing import Report, examine
from engine.storage.codec import AuditEvent
from engine.storage.identity import stream_key
from engine.storage.record import Save, Saved, Scope, SessionRecord, Stored, new_session_id
from engine.storage.vault import Vault

MAX_HITS = 100
MAX_WORDS_CHARS = 200
"""Of what is searched for; the rest is ignored."""
MAX_TEXT_CHARS = 4000
"""Of an edited message."""
ALL = 10_000
"""More messages than a session may retain."""
EDIT_AGAIN = 3
"""So often an edit is tried when somebody else edits the same message."""
EDITED = "message_edited"
BRANCHED = "session_branched"
_USUAL = ContextLimits()


class LiveSessions(Protocol):
    """The sessions in use, as their history sees them."""

    def changed(self, session_id: str) -> None:
        """What is stored of it was changed by other hands. Never waits."""
        ...


@dataclass(frozen=True, slots=True)
class Hit:
    session_id: str
    entry: Entry


@dataclass(frozen=True, slots=True)
class SearchResult:
    hits: tuple[Hit, ...]
    """Newest first."""
    is_complete: bool
    """Everything was looked through."""


class History:
    """None: there is no such session, or no such message in it. Everything raises StoreDown.

    ``limits`` are what contexts are held against; ``by`` is who asks, for the audit.
    """

    def __init__(
        self,
        vault: Vault,
        live: LiveSessions,
        limits: ContextLimits = _USUAL,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._vault = vault
        self._live = live
        self._limits = limits
        self._now = now

    async def session(self, session_id: str) -> Stored | None:
        """With all its messages."""
        return await self._vault.get(session_id, last=ALL)

    async def of_number(self, number: str) -> list[Stored]:
        """All sessions of a number in E.164 with all their messages, oldest first."""
        return await self._vault.of_number(number)

    async def search(self, words: str, *, session_id: str = "", limit: int = 50) -> SearchResult:
        """Messages that hold all the words, whatever their case. None are found for no words."""
        words = words[:MAX_WORDS_CHARS].strip()
        if not words:
            return SearchResult((), is_complete=True)
        limit = max(1, min(limit, MAX_HITS))
        found = await self._vault.search(words, session_id=session_id, limit=limit)
        return SearchResult(tuple(Hit(*hit) for hit in found.hits[:limit]), found.is_complete)

    async def export(self, session_id: str, format: Literal["json", "markdown"]) -> str | None:  # noqa: A002 - the field's word
        """The session as a document, the caller's number masked."""
        stored = await self.session(session_id)
        if stored is None:
            return None
        return as_json(stored) if format == "json" else as_markdown(stored)

    async def edit(self, session_id: str, entry_id: str, text: str, by: str) -> Entry | None:
        """Exchange the words of a message; its first ones stay beside it.

        Raises ValueError for a text that is empty or longer than 4000 characters, Busy when others keep editing the
        same message.
        """
        text = text.strip()
        if not 0 < len(text) <= MAX_TEXT_CHARS:
            raise ValueError(f"text: expected 1 to {MAX_TEXT_CHARS} characters besides blanks")
        for attempt in range(EDIT_AGAIN):
            stored = await self.session(session_id)
            was = _entry_of(stored, entry_id)
            if stored is None or was is None:
                return None
            if was.text == text:
                return was
            if attempt == 0:
                await self._audit(stored.record, EDITED, by, f"{session_id}/{entry_id}")
            original = was.text if was.original is None else was.original
            entry = replace(was, text=text, original=original, edited_at=self._now())
            if await self._vault.replace(session_id, entry, was):
                await self._tell_of_edit(session_id, entry_id)
                return entry
        raise Busy

    async def branch(self, session_id: str, entry_id: str, by: str) -> SessionRecord | None:
        """A new session that goes on after this message: written turns with its id as their stream belong to it.

        What is known comes along; a summary only if it was made of nothing later, an agent's state only if nothing
        was said later. None also if the caller is being erased.
        """
        stored = await self.session(session_id)
        entry = _entry_of(stored, entry_id)
        if stored is None or entry is None:
            return None
        kept = stored.entries[: stored.entries.index(entry) + 1]
        record = self._branched(stored, kept)
        await self._audit(record, BRANCHED, by, f"{record.parent} as {record.session_id}")
        saved = await self._vault.write([self._beginning(record, kept), self._farewell(stored, record)])
        if not isinstance(saved[0], Saved):
            return None
        self._live.changed(session_id)
        return saved[0].record

    async def trace(self, session_id: str) -> list[TraceEvent] | None:
        """Oldest first."""
        if await self._vault.get(session_id, last=1) is None:
            return None
        return await self._vault.traces(session_id)

    async def validate(self, session_id: str) -> Report | None:
        """Whether what models were shown was complete, in order and well formed, and the opening said once."""
        stored = await self.session(session_id)
        if stored is None:
            return None
        return examine(stored, await self._vault.traces(session_id), self._limits)

    # --- editing --------------------------------------------------------------------------------------------

    async def _tell_of_edit(self, session_id: str, entry_id: str) -> None:
        try:
            stored = await self._vault.get(session_id, last=1)
            if stored is not None:
                event = self._event(TraceWhat.EDITED, session_id, entry_id=entry_id)
                await self._vault.write([Save(stored.record, stored.version, traces=(event,))])
        finally:
            self._live.changed(session_id)

    # --- branching ------------------------------------------------------------------------------------------

    def _branched(self, stored: Stored, kept: tuple[Entry, ...]) -> SessionRecord:
        origin, last, at = stored.record, kept[-1], self._now()
        is_whole = len(kept) == len(stored.entries)
        session_id = new_session_id()
        return SessionRecord(
            session_id,
            stream_key(session_id),
            Scope.CALL,
            at,
            at,
            last.agent,
            last.modality,
            number=origin.number,
            message_count=len(kept),
            turns=sum(entry.role is Role.CALLER for entry in kept),
            was_opened=origin.was_opened or any(entry.is_opening for entry in kept),
            memory=_known_at(origin, last, is_whole=is_whole),
            summary_at=origin.summary_at if origin.summary_at <= last.at else 0.0,
            topics=origin.topics,
            parent=f"{origin.session_id}/{last.entry_id}",
        )

    def _beginning(self, record: SessionRecord, kept: tuple[Entry, ...]) -> Save:
        created = self._event(
            TraceWhat.CREATED,
            record.session_id,
            scope=str(record.scope),
            modality=str(record.modality),
            agent=record.agent,
        )
        return Save(record, 0, kept, (created, self._event(TraceWhat.BRANCHED, record.session_id, **_from(record))))

    def _farewell(self, stored: Stored, branch: SessionRecord) -> Save:
        """The session that was branched from knows of it, too."""
        event = self._event(TraceWhat.BRANCHED, stored.record.session_id, to=branch.session_id, **_from(branch))
        return Save(stored.record, stored.version, traces=(event,))

    def _event(self, what: TraceWhat, session_id: str, **fields: object) -> TraceEvent:
        return TraceEvent(self._now(), what, {"session_id": session_id, **fields})

    async def _audit(self, record: SessionRecord, action: str, by: str, detail: str) -> None:
        """Before it is done: what fails afterwards has been tried, and nothing is done that is not written down."""
        subject = self._vault.fingerprint(record.number)
        await self._vault.audit(AuditEvent(self._now(), by, action, subject, "asked", detail))


def _entry_of(stored: Stored | None, entry_id: str) -> Entry | None:
    entries = stored.entries if stored else ()
    return next((entry for entry in entries if entry.entry_id == entry_id), None)


def _known_at(record: SessionRecord, last: Entry, *, is_whole: bool) -> Memory:
    memory = record.memory
    return Memory(
        memory.summary if record.summary_at <= last.at else "",
        memory.entities,
        memory.items,
        memory.states if is_whole else {},
    )


def _from(record: SessionRecord) -> dict[str, object]:
    return {"from": record.parent}
