"""The vault: sessions in, sealed rows out. The only user of the record store.

What a store sees of a session are times, and names that tell nothing: its key and its number are there as HMAC-SHA256
under an index key that only this program can open. All else is in bodies sealed by the key ring, each under the identity
of its place: a head under its number's fingerprint and session id, a message under session and message id, a trace under
its session. Without keys the bodies are plain JSON, and messages can be searched by the store.

A head that does not open is put aside under another key when a caller asks for it, so that the caller gets a fresh
session; nothing of it is deleted. Once the missing key is back, ``reencrypt`` opens it again, and gives it its old key back
if no newer session has taken it; ``of_number``, and so export and deletion, find it in either case.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import structlog
import trio

from engine.dialogue.history import Entry, TraceEvent
from engine.errors import StoreDown
from engine.observe.labels import StoreOp
from engine.observe.metrics import Metrics
from engine.ports import (
    Append,
    AuditRow,
    Conflict,
    Found,
    Gone,
    MessageRow,
    Outcome,
    RecordStore,
    Rekey,
    Remove,
    Replace,
    SessionRow,
    TraceRow,
    Written,
)
from engine.sessions.codec import AUDITS, ENTRIES, RECORDS, TRACES, AuditEvent, clean
from engine.sessions.keyring import KeyRing, Unreadable
from engine.sessions.record import Save, Saved, SessionRecord, Stored, merged

log = structlog.get_logger()

MAX_ROUNDS = 8
MAX_SCANNED = 2000
SCAN_S = 5.0
PAGE = 100

_INDEX_KEY = "index_key"
_MAX_LOGGED = 1000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SearchResult:
    hits: tuple[tuple[str, Entry], ...]
    """Session ids and messages, newest first."""
    is_complete: bool
    """False: there was more to look through than the bound allows."""


@dataclass(slots=True)
class Reencrypted:
    """How far a re-encryption has come; of a finished one, what it did."""

    sessions: int = 0
    """Looked at."""
    heads: int = 0
    messages: int = 0
    traces: int = 0
    """Sealed with the first key, all three."""
    restored: int = 0
    """Sessions put aside as unreadable that open again, and have their old key back."""
    aside: int = 0
    """Sessions that open again, whose old key a newer one has by now: found by their number only."""
    unreadable: int = 0
    """Heads, messages and traces that no key opens; left as they are."""
    audits_left: int = 0
    """Entries of the audit under another key: they stay so, and need it for as long as they shall be read."""


class Vault:
    """Everything raises StoreDown when the store does not do its part within ``operation_s``, or when its index key does
    not open with the keys there are. It opens the store by itself when first used, so the engine starts without one."""

    def __init__(
        self,
        store: RecordStore,
        keys: KeyRing,
        metrics: Metrics,
        *,
        ttl_s: float,
        retention: int,
        traces_kept: int = 500,
        operation_s: float = 5.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._keys = keys
        self._metrics = metrics
        self._ttl_s = ttl_s
        self._retention = retention
        self._traces_kept = traces_kept
        self._operation_s = operation_s
        self._now = now
        self._index_key = b""
        self._logged: dict[str, None] = {}

    async def open(self) -> None:
        """Get the store's index key, or give it one."""

    def fingerprint(self, number: str) -> str:
        """A number in E.164 as it stands in the store and the audit; empty for none. Raises StoreDown before the
        first ``open``."""
        return ""

    # --- one session ----------------------------------------------------------------------------------------

    async def load(self, key: str, *, last: int) -> Stored | None:
        """The session with this key. None also for one that does not open: it is put aside."""

    async def get(self, session_id: str, *, last: int) -> Stored | None:
        """None also for one that does not open."""

    async def write(self, saves: Sequence[Save]) -> list[Saved | None]:
        """All of them in as few transactions as it takes, in order; None for a session that was erased, or has expired.

        Where somebody else was quicker the two are merged, and ours goes on under the id of theirs. Raises StoreDown;
        some of the saves may be stored then, and saved again they are still there once.
        """
        return []

    async def remove(self, session_id: str) -> bool:
        """It is gone, with everything. False if it was not there."""
        return False

    async def retire(self, session_id: str) -> bool:
        """It gives up its key, and is kept as history; its number still finds it. False if it is not there."""
        return False

    async def replace(self, session_id: str, entry: Entry, was: Entry) -> bool:
        """Exchange one message. False if it is not there any more, or not ``was`` any more."""
        return False

    async def traces(self, session_id: str) -> list[TraceEvent]:
        """In order, each once."""
        return []

    # --- many -----------------------------------------------------------------------------------------------

    async def of_number(self, number: str) -> list[Stored]:
        """All that there is of a number in E.164, with all messages, oldest first."""
        return []

    async def erase(self, number: str, at: float) -> int:
        """Everything of a number in E.164, also what is still on its way from before ``at`` (Unix seconds). Returns how
        many sessions there were."""
        return 0

    async def sessions(self, after: str = "", *, limit: int = 100) -> list[Stored]:
        """Heads without messages, by id, from the first one after ``after``. Fewer than ``limit``: there are no more."""
        return []

    async def search(self, words: str, *, session_id: str = "", limit: int = 50) -> SearchResult:
        """Messages that hold all the words, whatever their case; in one session if one is named. By the store's index
        where it has one and nothing is sealed, else by reading, within bounds."""
        return SearchResult((), is_complete=True)

    async def purge(self, now: float) -> int:
        """Let go of what has expired. Returns how many sessions."""
        return 0

    # --- audit ----------------------------------------------------------------------------------------------

    async def audit(self, event: AuditEvent) -> None:
        """Kept for good. No number in it: ``fingerprint`` makes its subject."""

    async def audits(self, limit: int = 100) -> list[AuditEvent]:
        """Newest first."""
        return []

    # --- keys -----------------------------------------------------------------------------------------------

    async def reencrypt(self, on_progress: Callable[[Reencrypted], None] = lambda _: None) -> Reencrypted:
        """Seal with the first key all that is not under it. Beside a running engine, and again after a break; what was
        put aside as unreadable and opens now is put back."""
        return Reencrypted()
