"""Sessions in this process's memory: gone when it ends. For trying out, and the reference of the other stores."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import trio

from engine.ports import (
    Append,
    AuditRow,
    Conflict,
    Found,
    Gone,
    MessageRow,
    Outcome,
    Rekey,
    Remove,
    Replace,
    SessionRow,
    TraceRow,
    Write,
    Written,
)

_WORD = re.compile(r"\w+")


@asynccontextmanager
async def open_memory(*, now: Callable[[], float] = time.time) -> AsyncIterator[MemoryStore]:
    yield MemoryStore(now)


@dataclass(slots=True)
class _Session:
    row: SessionRow
    messages: dict[str, MessageRow] = field(default_factory=dict)
    """By id, in the order in which they were written."""
    traces: list[TraceRow] = field(default_factory=list)


class MemoryStore:
    """A RecordStore that never fails. ``now`` gives Unix seconds."""

    backend = "memory"
    has_full_text = True
    connections_in_use = 0

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._sessions: dict[str, _Session] = {}
        self._ids: dict[str, str] = {}
        """By key."""
        self._erased_at: dict[str, float] = {}
        self._meta: dict[str, bytes] = {}
        self._audit: list[AuditRow] = []

    # Each operation lets others run first, and is then done in one step.

    async def find(self, key: str, *, last: int) -> Found | None:
        await trio.lowlevel.checkpoint()
        session = self._with_key(key)
        return _found(session, last) if session else None

    async def get(self, session_id: str, *, last: int) -> Found | None:
        await trio.lowlevel.checkpoint()
        session = self._there(session_id)
        return _found(session, last) if session else None

    async def of_subject(self, subject: str) -> list[SessionRow]:
        await trio.lowlevel.checkpoint()
        rows = [session.row for session in self._live() if session.row.subject == subject] if subject else []
        return sorted(rows, key=lambda row: (row.started_at, row.session_id))

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        await trio.lowlevel.checkpoint()
        return [self._write(write) for write in writes]

    async def traces(self, session_id: str) -> list[TraceRow]:
        await trio.lowlevel.checkpoint()
        session = self._there(session_id)
        return list(session.traces) if session else []

    async def search(self, words: str, *, session_id: str = "", limit: int = 50) -> list[tuple[str, MessageRow]]:
        await trio.lowlevel.checkpoint()
        wanted = _words(words)
        hits = [
            (session.row.session_id, message)
            for session in self._live()
            if session_id in ("", session.row.session_id)
            for message in reversed(session.messages.values())
            if wanted and wanted <= _words(message.text)
        ]
        return sorted(hits, key=lambda hit: -hit[1].at)[: max(limit, 0)]

    async def scan(self, after: str = "", *, limit: int = 100) -> list[SessionRow]:
        await trio.lowlevel.checkpoint()
        rows = [session.row for session in self._live() if session.row.session_id > after]
        return sorted(rows, key=lambda row: row.session_id)[: max(limit, 0)]

    async def erase(self, subject: str, at: float) -> int:
        await trio.lowlevel.checkpoint()
        if not subject:
            return 0
        self._erased_at[subject] = max(at, self._erased_at.get(subject, at))
        there = sum(session.row.subject == subject for session in self._live())
        for session in [session for session in self._sessions.values() if session.row.subject == subject]:
            self._drop(session)
        return there

    async def erased_at(self, subject: str) -> float:
        await trio.lowlevel.checkpoint()
        return self._erased_at.get(subject, 0.0)

    async def purge(self, now: float) -> int:
        await trio.lowlevel.checkpoint()
        expired = [session for session in self._sessions.values() if session.row.expires_at <= now]
        for session in expired:
            self._drop(session)
        return len(expired)

    async def meta(self, name: str, default: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        return self._meta.setdefault(name, default)

    async def set_meta(self, name: str, value: bytes, *, was: bytes) -> bool:
        await trio.lowlevel.checkpoint()
        if self._meta.get(name) != was:
            return False
        self._meta[name] = value
        return True

    async def add_audit(self, row: AuditRow) -> None:
        await trio.lowlevel.checkpoint()
        self._audit.append(row)

    async def audit(self, *, limit: int = 100) -> list[AuditRow]:
        await trio.lowlevel.checkpoint()
        return self._audit[::-1][: max(limit, 0)]

    async def exchange_audit(self, bodies: Mapping[bytes, bytes]) -> int:
        await trio.lowlevel.checkpoint()
        changed = [place for place, row in enumerate(self._audit) if row.body in bodies]
        for place in changed:
            row = self._audit[place]
            self._audit[place] = replace(row, body=bodies[row.body])
        return len(changed)

    # --- writing --------------------------------------------------------------------------------------------

    def _write(self, write: Write) -> Outcome:
        match write:
            case Append():
                return self._append(write)
            case Replace():
                return self._replace(write)
            case Rekey():
                return self._rekey(write)
            case Remove():
                return self._remove(write)

    def _append(self, write: Append) -> Outcome:
        head = write.head
        session = self._there(head.session_id)
        if session and session.row.version != head.version:
            return Conflict(session.row)
        if not session and (head.version > 0 or self._is_erased(head)):
            return Gone()
        holder = self._with_key(head.key)
        if holder and holder is not session:
            return Conflict(holder.row)
        if not session:
            self._drop(self._sessions.get(head.session_id))
            session = self._sessions[head.session_id] = _Session(head)
        self._change(session, replace(head, version=head.version + 1))
        for message in write.messages:
            session.messages.setdefault(message.message_id, message)
        for message_id in list(session.messages)[: -write.retention or None]:
            del session.messages[message_id]
        session.traces += write.traces
        del session.traces[: -write.traces_kept or None]
        return Written(session.row.version)

    def _replace(self, write: Replace) -> Outcome:
        session = self._there(write.session_id)
        old = session.messages.get(write.message.message_id) if session else None
        if not session or not old or old.body != write.was:
            return Gone()
        session.messages[old.message_id] = replace(write.message, at=old.at)
        return self._change(session, replace(session.row, version=session.row.version + 1))

    def _rekey(self, write: Rekey) -> Outcome:
        session = self._there(write.session_id)
        if not session or self._with_key(write.key) not in (None, session):
            return Gone()
        return self._change(session, replace(session.row, key=write.key, version=session.row.version + 1))

    def _remove(self, write: Remove) -> Outcome:
        session = self._there(write.session_id)
        if not session:
            return Gone()
        self._drop(session)
        return Written(session.row.version)

    def _change(self, session: _Session, row: SessionRow) -> Written:
        holder = self._sessions.get(self._ids.get(row.key, ""))
        if holder is not session:
            self._drop(holder)  # expired
        self._ids.pop(session.row.key, None)
        self._ids[row.key] = row.session_id
        session.row = row
        return Written(row.version)

    # --- what is there --------------------------------------------------------------------------------------

    def _live(self) -> Iterator[_Session]:
        now = self._now()
        return (session for session in self._sessions.values() if session.row.expires_at > now)

    def _there(self, session_id: str) -> _Session | None:
        session = self._sessions.get(session_id)
        return session if session and session.row.expires_at > self._now() else None

    def _with_key(self, key: str) -> _Session | None:
        return self._there(self._ids.get(key, ""))

    def _is_erased(self, head: SessionRow) -> bool:
        return self._erased_at.get(head.subject, float("-inf")) >= head.started_at

    def _drop(self, session: _Session | None) -> None:
        if session:
            del self._sessions[session.row.session_id]
            self._ids.pop(session.row.key, None)


def _found(session: _Session, last: int) -> Found:
    messages = tuple(session.messages.values())
    return Found(session.row, messages[max(len(messages) - last, 0) :])


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.casefold()))
