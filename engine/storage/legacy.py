"""Sessions of an older program, found in the store's own table (E2), become sessions of ours, and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol, runtime_checkable

import structlog

from engine.dialogue.history import Entry
from engine.events import Memory, Modality, Role
from engine.ports import Conflict, MessageRow, Outcome, SessionRow, Written
from engine.storage.identity import caller_key, e164, stream_key
from engine.storage.record import Scope, SessionRecord
from engine.storage.vault import Vault

log = structlog.get_logger()

PAGE = 100

_KNOWN = {"session_id", "user_id", "last_agent", "last_query", "context"}
_ROLES = {
    "user": Role.CALLER,
    "human": Role.CALLER,
    "customer": Role.CALLER,
    "caller": Role.CALLER,
    "assistant": Role.AGENT,
    "agent": Role.AGENT,
    "ai": Role.AGENT,
    "bot": Role.AGENT,
    "system": Role.SYSTEM,
}
_TIMES = ("timestamp", "at", "time", "created_at")
"""What a message may call its time."""
_OF_TIME = ("time", "_at", "date", "activity", "created")
"""Parts of the names of columns that hold times."""


@runtime_checkable
class LegacyStore(Protocol):
    """A record store that may hold such rows."""

    async def legacy(self, *, after: str = "", limit: int = 100) -> list[Mapping[str, str]]:
        """Rows that have not been adopted yet, column to text, by their ``session_id``."""
        ...

    async def adopt(
        self, session_id: str, row: SessionRow, messages: Sequence[MessageRow], *, blank: bool = False
    ) -> Outcome:
        """Take one over; ``blank`` empties its old columns. Conflict: the key is another session's."""
        ...


async def adopt_all(store: LegacyStore, vault: Vault, region: str, *, now: float) -> int:
    """Adopt every row there is, each for a whole TTL from ``now`` (Unix seconds) on. Returns how many. To be run before
    calls are taken; run again after a break it goes on. Raises StoreDown.

    A row whose ``user_id`` is a phone number (as read in ``region``) becomes that caller's session, or if there is one
    already, another one of theirs; any other row is found under its ``session_id`` as a stream. With encryption the
    old columns are emptied.
    """
    count, after = 0, ""
    while rows := await store.legacy(after=after, limit=PAGE):
        for row in rows:
            count += await _adopt(store, vault, row, region, now)
        after = rows[-1]["session_id"]
    if count:
        log.info("legacy_sessions_adopted", count=count)
    return count


async def _adopt(store: LegacyStore, vault: Vault, old: Mapping[str, str], region: str, now: float) -> bool:
    record, entries = converted(old, region, now)
    session_id = record.session_id
    for key in dict.fromkeys((record.key, stream_key(session_id), f"legacy:{session_id}")):
        head, messages = await vault.rows(replace(record, key=key), entries, expires_from=now)
        outcome = await store.adopt(session_id, head, messages, blank=vault.is_encrypting)
        if not isinstance(outcome, Conflict):
            return isinstance(outcome, Written)
    return False


def converted(old: Mapping[str, str], region: str, now: float) -> tuple[SessionRecord, tuple[Entry, ...]]:
    """The session that a row stands for, and its messages. Columns that nobody knows become entities."""
    session_id, user = old["session_id"], old.get("user_id", "")
    number = e164(user, region)
    rest = {name: value for name, value in old.items() if name not in _KNOWN and value}
    named = {name: value for name, value in rest.items() if any(part in name for part in _OF_TIME)}
    times = {name: at for name, value in named.items() if (at := _time(value)) is not None}
    started_at, last_at = min(times.values(), default=now), max(times.values(), default=now)
    entities = {name: value for name, value in rest.items() if name not in times}
    if user and not number:
        entities["user_id"] = user
    agent = old.get("last_agent", "")
    said, is_understood = _said(old.get("context", ""))
    entries = [
        _entry(item, f"{session_id}-{i}", last_at - (len(said) - i) / 1000, agent) for i, item in enumerate(said)
    ]
    query = old.get("last_query", "")
    if query and query not in [entry.text for entry in entries if entry.role is Role.CALLER][-1:]:
        asked = {"role": "user", "content": query}
        entries.append(_entry(asked, f"{session_id}-query", last_at, agent))
    record = SessionRecord(
        session_id=session_id,
        key=caller_key(number) if number else stream_key(session_id),
        scope=Scope.CALLER if number else Scope.CALL,
        started_at=started_at,
        last_at=last_at,
        agent=agent,
        modality=Modality.TEXT,
        number=number,
        message_count=len(entries),
        turns=sum(entry.role is Role.CALLER for entry in entries),
        texts=sum(entry.role is Role.CALLER for entry in entries),
        memory=Memory(summary="" if is_understood else old["context"], entities=entities),
    )
    return record, tuple(entries)


def _said(context: str) -> tuple[list[dict[str, Any]], bool]:
    """What of it are messages, and whether that is all of it."""
    if not context.strip():
        return [], True
    try:
        items = json.loads(context)
    except (ValueError, RecursionError):
        return [], False
    if not isinstance(items, list) or not all(_is_message(item) for item in items):
        return [], False
    return items, all(item.keys() <= {"role", "content", "agent", *_TIMES} for item in items)


def _is_message(item: object) -> bool:
    return isinstance(item, dict) and isinstance(item.get("content"), str) and str(item.get("role")).lower() in _ROLES


def _entry(item: Mapping[str, Any], entry_id: str, at: float, agent: str) -> Entry:
    times = [time for name in _TIMES if (time := _time(str(item.get(name, "")))) is not None]
    return Entry(
        entry_id=entry_id,
        turn_id=entry_id,
        at=times[0] if times else at,
        role=_ROLES[item["role"].lower()],
        text=item["content"],
        agent=str(item.get("agent") or agent),
        modality=Modality.TEXT,
    )


def _time(text: str) -> float | None:
    """Unix seconds of an ISO date and time, or of a number of seconds or milliseconds."""
    try:
        at = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text.strip())
            at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            return None
    if at > 1e11:
        at /= 1000
    return at if 0 < at < 1e11 else None
