"""Sessions, messages and saves for the tests of the vault, the journal and the writer."""

from __future__ import annotations

from functools import cache

from engine.dialogue.history import Entry, TraceEvent, TraceWhat
from engine.events import Memory, Modality, Role
from engine.observe.metrics import Metrics
from engine.ports import RecordStore
from engine.storage.keyring import KeyRing
from engine.storage.record import Save, Scope, SessionRecord
from engine.storage.vault import Vault

NUMBER = "+15550100001"
OTHER = "+15550100002"
DAY_S = 86400.0
KEY_1 = "one:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
KEY_2 = "two:ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="


@cache
def unread_metrics() -> Metrics:
    """For tests that count nothing: making one takes 0.1 s."""
    return Metrics()


def a_vault(
    store: RecordStore, keys: str | KeyRing = "", *, metrics: Metrics | None = None, retention: int = 50
) -> Vault:
    ring = keys if isinstance(keys, KeyRing) else KeyRing.parse(keys)
    return Vault(store, ring, metrics or unread_metrics(), ttl_s=30 * DAY_S, retention=retention, now=lambda: 100.0)


def a_record(session_id: str = "s_1", *, number: str = NUMBER, at: float = 100.0, summary: str = "") -> SessionRecord:
    return SessionRecord(
        session_id,
        f"caller:{number}",
        Scope.CALLER,
        at,
        at,
        "desk",
        Modality.VOICE,
        number=number,
        memory=Memory(summary=summary),
        summary_at=at if summary else 0.0,
    )


def an_entry(entry_id: str, text: str = "", *, at: float = 100.0) -> Entry:
    return Entry(entry_id, f"t_{entry_id}", at, Role.CALLER, text or f"words of {entry_id}", "desk", Modality.VOICE)


def a_trace(at: float = 100.0, **fields: object) -> TraceEvent:
    return TraceEvent(at, TraceWhat.CREATED, dict(fields))


def a_save(
    entry_id: str, *, session_id: str = "s_1", number: str = NUMBER, version: int = 0, text: str = "", at: float = 100.0
) -> Save:
    return Save(
        a_record(session_id, number=number, at=at),
        version,
        (an_entry(entry_id, text, at=at),),
        (a_trace(at, e=entry_id),),
    )
