"""The vault: sessions in, sealed rows out. The only user of the record store.

What a store sees of a session are times, and names that tell nothing: its key and its number are there as HMAC-SHA256
under an index key of its own, which is sealed as well. All else is in bodies sealed by the key ring, each under the
identity of its place: a head under its number's fingerprint and session id, a message under session and message id, a
trace under its session. Without keys the bodies are plain JSON, and messages can be searched by the store.

A head that does not open is put aside under another key when a caller asks for it, so that the caller gets a fresh
session; nothing of it is deleted. Once the missing key is back, ``reencrypt`` gives the session its old key again if no
newer one has taken it; ``of_number`` and ``erase`` find it in either case.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from engine.dialogue.history import Entry, TraceEvent
from engine.errors import StoreDown
from engine.observe.labels import StoreOp
from engine.observe.metrics import Metrics
from engine.ports import Append, Conflict, Found, Lost, MessageRow, RecordStore, Remove, Replace, SessionRow, Written
from engine.storage import merging, searching
from engine.storage.codec import AuditEvent
from engine.storage.keyring import KeyRing, Unreadable
from engine.storage.merging import Kept
from engine.storage.record import Save, Saved, SessionRecord, Stored
from engine.storage.reencrypting import Reencrypted, reencrypt
from engine.storage.sealing import retired_key
from engine.storage.searching import SearchResult
from engine.storage.shelf import Shelf

__all__ = ["AuditEvent", "Reencrypted", "SearchResult", "Vault"]

ALL = 1_000_000
"""Messages of one session: more than any retention allows."""
LONG_S = 60.0
"""For what goes through a whole store: erasing and purging."""
MAX_ATTEMPTS = 8
"""At changing what somebody else is changing too."""


class Vault:
    """Everything raises StoreDown when the store does not do its part within ``operation_s`` (erasing and purging
    have a minute), or when its index key does not open with the keys there are. It opens the store when first used: the
    engine starts without one."""

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
        self._shelf = Shelf(store, keys, metrics, ttl_s=ttl_s, operation_s=operation_s)
        self._kept = Kept(retention, traces_kept)
        self._now = now

    async def open(self) -> None:
        """Get the store's index key, or give it one."""
        await self._shelf.open()

    @property
    def lacks_keys(self) -> bool:
        """The store is sealed with a key that is not among ours, as far as has been tried."""
        return self._shelf.lacks_keys

    def fingerprint(self, number: str) -> str:
        """A number in E.164 as it stands in the store and the audit; empty for none. Raises StoreDown before the
        first ``open``."""
        return self._shelf.sealing.subject(number)

    # --- one session ----------------------------------------------------------------------------------------

    async def load(self, key: str, *, last: int) -> Stored | None:
        """The session with this key. None also for one that does not open: it is put aside."""
        sealing = await self._shelf.open()
        with self._shelf.watched(StoreOp.LOAD):
            found = await self._shelf.store.find(sealing.key(key), last=last)
        if found is None:
            return None
        try:
            return self._stored(found, sealing.record_under(key, found.row))
        except Unreadable as exc:
            self._shelf.unreadable(found.row.session_id, exc)
            await merging.quarantine(self._shelf, found.row.session_id)
            return None

    async def get(self, session_id: str, *, last: int) -> Stored | None:
        """None also for one that does not open."""
        found = await self._get(session_id, last)
        record = self._shelf.record(found.row) if found else None
        return self._stored(found, record) if found and record else None

    async def version(self, session_id: str) -> int:
        """Of what is stored; 0 if it is not there. Nothing is opened for it."""
        found = await self._get(session_id, 0)
        return found.row.version if found else 0

    async def write(self, saves: Sequence[Save]) -> list[Saved | Lost | None]:
        """All of them in as few transactions as it takes, in order; None for a session that was erased, or has expired,
        Lost for one that the store has let go of by itself.

        Where somebody else was quicker the two are merged, and ours goes on under the id of theirs. Raises StoreDown;
        some of the saves may be stored then, and saved again they are still there once.
        """
        return await merging.write(self._shelf, saves, self._kept)

    async def remove(self, session_id: str) -> bool:
        """It is gone, with everything. False if it was not there."""
        with self._shelf.watched(StoreOp.ERASE):
            (outcome,) = await self._shelf.store.write([Remove(session_id)])
        return isinstance(outcome, Written)

    async def retire(self, session_id: str) -> bool:
        """It gives up its key, and is kept as history; its number still finds it. False if it is not there."""
        found = await self._get(session_id, 0)
        row = found.row if found else None
        for _ in range(MAX_ATTEMPTS):
            if row is None:
                return False
            record = self._shelf.record(row)
            if record is None:
                await merging.quarantine(self._shelf, session_id)
                return True
            head = self._shelf.sealing.head(replace(record, key=retired_key(session_id)), row.version)
            with self._shelf.watched(StoreOp.WRITE):
                (outcome,) = await self._shelf.store.write([self._append(head)])
            if isinstance(outcome, Written):
                return True
            row = outcome.current if isinstance(outcome, Conflict) else None
        raise StoreDown("error", "too many write to one session at once")

    async def replace(self, session_id: str, entry: Entry, was: Entry) -> bool:
        """Exchange one message. False if it is not there any more, or not ``was`` any more."""
        for _ in range(MAX_ATTEMPTS):
            found = await self._get(session_id, ALL)
            body = self._body_of(found, was) if found else None
            if body is None:
                return False
            message = self._shelf.sealing.message(session_id, replace(entry, entry_id=was.entry_id))
            with self._shelf.watched(StoreOp.WRITE):
                (outcome,) = await self._shelf.store.write([Replace(session_id, message, body)])
            if isinstance(outcome, Written):
                return True
        return False

    async def traces(self, session_id: str) -> list[TraceEvent]:
        """In order, each once."""
        sealing = await self._shelf.open()
        with self._shelf.watched(StoreOp.LOAD):
            rows = await self._shelf.store.traces(session_id)
        events: list[TraceEvent] = []
        for row in rows:
            try:
                event = sealing.event(session_id, row)
            except Unreadable as exc:
                self._shelf.unreadable(session_id, exc)
                continue
            # A write that was done, but not known to be, is done again: rows have no id to tell by.
            if event not in events[-self._kept.traces :]:
                events.append(event)
        return events

    # --- many -----------------------------------------------------------------------------------------------

    async def of_number(self, number: str) -> list[Stored]:
        """All that there is of a number in E.164, with all messages, oldest first."""
        sealing = await self._shelf.open()
        with self._shelf.watched(StoreOp.LOAD):
            rows = await self._shelf.store.of_subject(sealing.subject(number))
        there = [await self.get(row.session_id, last=ALL) for row in rows]
        return [stored for stored in there if stored is not None]

    async def erase(self, number: str, at: float) -> int:
        """Everything of a number in E.164, and what is still on its way of a session begun by ``at`` (Unix seconds).
        Returns how many sessions there were."""
        sealing = await self._shelf.open()
        with self._shelf.watched(StoreOp.ERASE, at_least_s=LONG_S):
            return await self._shelf.store.erase(sealing.subject(number), at)

    async def was_erased(self, number: str, since: float) -> bool:
        """A number in E.164 was erased at this time (Unix seconds) or later. False for none."""
        if not number:
            return False
        sealing = await self._shelf.open()
        with self._shelf.watched(StoreOp.LOAD):
            return await self._shelf.store.erased_at(sealing.subject(number)) >= since

    async def sessions(self, after: str = "", *, limit: int = 100) -> list[Stored]:
        """Heads without messages, by id, after ``after``. Fewer than ``limit``: there are no more."""
        await self._shelf.open()
        heads: list[Stored] = []
        while len(heads) < limit:
            wanted = limit - len(heads)
            with self._shelf.watched(StoreOp.SCAN):
                rows = await self._shelf.store.scan(after, limit=wanted)
            records = [(row, self._shelf.record(row)) for row in rows]
            heads += [Stored(record, row.version, ()) for row, record in records if record]
            if len(rows) < wanted:
                break
            after = rows[-1].session_id
        return heads

    async def search(self, words: str, *, session_id: str = "", limit: int = 50) -> SearchResult:
        """Messages that hold all the words, whatever their case; in one session if one is named. By the store's index
        where it has one and nothing is sealed, else by reading, within bounds."""
        return await searching.search(self._shelf, words, session_id=session_id, limit=limit, last=ALL)

    async def purge(self, now: float | None = None) -> int:
        """Let go of what has expired by ``now`` (Unix seconds). Returns how many sessions."""
        with self._shelf.watched(StoreOp.ERASE, at_least_s=LONG_S):
            return await self._shelf.store.purge(self._now() if now is None else now)

    # --- audit ----------------------------------------------------------------------------------------------

    async def audit(self, event: AuditEvent) -> None:
        """Kept for good. No number in it: ``fingerprint`` makes its subject."""
        sealing = await self._shelf.open()
        with self._shelf.watched(StoreOp.OTHER):
            await self._shelf.store.add_audit(sealing.audit(event))

    async def audits(self, limit: int = 100) -> list[AuditEvent]:
        """Newest first."""
        sealing = await self._shelf.open()
        with self._shelf.watched(StoreOp.OTHER):
            rows = await self._shelf.store.audit(limit=limit)
        events = []
        for row in rows:
            try:
                events.append(sealing.audited(row))
            except Unreadable as exc:
                self._shelf.unreadable("audit", exc)
        return events

    # --- rows that others write -----------------------------------------------------------------------------

    @property
    def is_encrypting(self) -> bool:
        return self._shelf.keys.is_encrypting

    async def rows(
        self, record: SessionRecord, entries: Sequence[Entry], *, expires_from: float
    ) -> tuple[SessionRow, list[MessageRow]]:
        """A session that has never been stored, as it will be: for a store that takes it over from elsewhere. It is
        kept for a whole TTL from ``expires_from`` (Unix seconds) on."""
        sealing = await self._shelf.open()
        head = sealing.head(record, 0)
        expires_at = head.expires_at - record.last_at + expires_from
        messages = [sealing.message(record.session_id, entry) for entry in entries]
        return replace(head, expires_at=max(expires_at, head.expires_at)), messages

    # --- keys -----------------------------------------------------------------------------------------------

    async def reencrypt(self, on_progress: Callable[[Reencrypted], None] = lambda _: None) -> Reencrypted:
        """Seal with the first key all that is not under it. Beside a running engine, and again after a break; what was
        put aside as unreadable and opens now is put back."""
        return await reencrypt(self._shelf, on_progress)

    # --- reading --------------------------------------------------------------------------------------------

    async def _get(self, session_id: str, last: int) -> Found | None:
        await self._shelf.open()
        with self._shelf.watched(StoreOp.LOAD):
            return await self._shelf.store.get(session_id, last=last)

    def _stored(self, found: Found, record: SessionRecord) -> Stored:
        entries, unreadable = [], 0
        for row in found.messages:
            try:
                entries.append(self._shelf.sealing.entry(record.session_id, row))
            except Unreadable as exc:
                unreadable += 1
                self._shelf.unreadable(record.session_id, exc)
        return Stored(record, found.row.version, tuple(entries), unreadable)

    def _body_of(self, found: Found, entry: Entry) -> bytes | None:
        """As it is stored, if it is still that entry."""
        for row in found.messages:
            if row.message_id == entry.entry_id:
                try:
                    return row.body if self._shelf.sealing.entry(found.row.session_id, row) == entry else None
                except Unreadable as exc:
                    self._shelf.unreadable(found.row.session_id, exc)
        return None

    def _append(self, head: SessionRow) -> Append:
        return Append(head, retention=self._kept.messages, traces_kept=self._kept.traces)
