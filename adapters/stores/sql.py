"""Sessions in SQLite or PostgreSQL: the same tables and statements for both, in threads."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

import sqlalchemy as sa
import trio

from adapters.stores import sql_legacy, sql_read
from adapters.stores.sql_database import Database, LostRace
from adapters.stores.sql_sqlite import Sqlite
from adapters.stores.sql_tables import tables
from adapters.stores.sql_write import Writer
from engine.errors import StoreDown
from engine.ports import AuditRow, Found, MessageRow, Outcome, SessionRow, TraceRow, Write

T = TypeVar("T")

CLOSE_S = 6.0
"""How long leaving the block waits for threads; what is stuck in the system then ends by itself later."""
RACES = 5
"""How often a transaction is run that others got in the way of."""
LONG_S = 60.0
"""For erasing and purging."""


def open_sqlite(
    path: str | os.PathLike[str], *, table: str = "sessions", now: Callable[[], float] = time.time, busy_s: float = 5.0
) -> AbstractAsyncContextManager[SqlStore]:
    """A store in one file, which other processes may have open, too.

    Made if it is not there (readable by this account only), migrated if it is of an older version. ``busy_s`` is how
    long a write waits for another process. Raises SettingsError if the file or the table cannot be used, also because
    the disk is full, StoreDown if another process keeps it locked. Leaving the block closes every connection.
    """
    return _opened(Sqlite(os.fspath(path), tables(table), busy_s), now, must_connect=True)


def open_postgresql(
    url: str,
    *,
    table: str = "sessions",
    now: Callable[[], float] = time.time,
    connections: int = 4,
    connect_s: float = 3.0,
    must_connect: bool = True,
) -> AbstractAsyncContextManager[SqlStore]:
    """A store on a server of PostgreSQL, on up to ``connections`` connections.

    Raises SettingsError for an address or a table that cannot be used, StoreDown if the server cannot be reached within
    ``connect_s``. With ``must_connect`` false opening does not try: then every operation raises StoreDown until the
    server is there, and the first one that reaches it migrates. Leaving the block closes every connection.
    """
    from adapters.stores.sql_postgresql import Postgresql  # noqa: PLC0415 - its driver is an extra

    return _opened(Postgresql(url, tables(table), connections, connect_s), now, must_connect=must_connect)


@asynccontextmanager
async def _opened(database: Database, now: Callable[[], float], *, must_connect: bool) -> AsyncIterator[SqlStore]:
    store = SqlStore(database, now)
    try:
        if must_connect:
            await store.open()
        yield store
    finally:
        await store.aclose()


class SqlStore:
    """RecordStore over a database in SQL, made by :func:`open_sqlite` and :func:`open_postgresql`.

    An operation is one transaction in one thread, on a connection that nobody else has meanwhile. Cancelled, the caller
    goes on at once, and the thread gives its connection back when it has finished.

    SQLite: after :meth:`erase` no byte is left in the file and in its write-ahead log, unless another process keeps
    reading from them, the disk has no room for a second copy of the file, or the file is larger than 1 GiB; a warning
    in the log says so. It takes about 2 s for each 100 MB, and nobody can write meanwhile. What ``Remove`` and the
    retention delete is overwritten at once, but stays in the write-ahead log and in parts of the full text index until
    :meth:`purge`; that one writes files up to 256 MiB anew, too, once a day.

    PostgreSQL: what is deleted stays in its files until vacuum (autovacuum does it by itself), and in its write-ahead
    log and backups for as long as the server keeps those.
    """

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        self.backend = database.backend
        self._database = database
        self._now = now
        self._writer = Writer(database)
        self._is_closed = False
        self._writers = trio.CapacityLimiter(database.writers)
        self._readers = trio.CapacityLimiter(database.readers) if database.readers else self._writers
        self._taken: dict[trio.CapacityLimiter, list[object]] = {self._writers: [], self._readers: []}
        """Places that no thread will have any more: closing takes them all."""

    @property
    def has_full_text(self) -> bool:
        return self._database.has_full_text

    @property
    def connections_in_use(self) -> int:
        """A thread at work has one."""
        threads = sum(limiter.borrowed_tokens for limiter in self._taken)
        return threads - sum(map(len, self._taken.values()))

    async def find(self, key: str, *, last: int) -> Found | None:
        return await self._read(lambda db: sql_read.find(db, self._database.tables, {"key": key}, last, self._now()))

    async def get(self, session_id: str, *, last: int) -> Found | None:
        by = {"session_id": session_id}
        return await self._read(lambda db: sql_read.find(db, self._database.tables, by, last, self._now()))

    async def of_subject(self, subject: str) -> list[SessionRow]:
        if not subject:
            return []
        return await self._read(lambda db: sql_read.of_subject(db, self._database.tables, subject, self._now()))

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        def work() -> list[Outcome]:
            rows = list(writes)  # made here, off the event loop, if nobody has looked at them before
            return _transaction(self._database, lambda db: self._writer.run(db, rows, self._now()))

        return await self._in_thread(work, self._writers)

    async def traces(self, session_id: str) -> list[TraceRow]:
        return await self._read(lambda db: sql_read.traces(db, self._database.tables, session_id, self._now()))

    async def search(self, words: str, *, session_id: str = "", limit: int = 50) -> list[tuple[str, MessageRow]]:
        if not words.split() or not self.has_full_text:
            return []
        return await self._read(
            lambda db: sql_read.search(db, self._database, words, session_id, limit=limit, now=self._now())
        )

    async def scan(self, after: str = "", *, limit: int = 100) -> list[SessionRow]:
        return await self._read(lambda db: sql_read.scan(db, self._database.tables, after, limit, self._now()))

    async def erase(self, subject: str, at: float) -> int:
        if not subject:
            return 0

        def work() -> int:
            database = self._database
            count = _transaction(database, lambda db: sql_read.erase(db, database, subject, at, self._now()), LONG_S)
            database.wipe(thoroughly=True)
            return count

        return await self._in_thread(work, self._writers)

    async def erased_at(self, subject: str) -> float:
        return await self._read(lambda db: sql_read.erased_at(db, self._database.tables, subject))

    async def purge(self, now: float) -> int:
        """Not all in one transaction: what has expired is not there for anybody anyway."""

        def work() -> int:
            database, count, some = self._database, 0, sql_read.CHUNK
            while some == sql_read.CHUNK:
                some = _transaction(database, lambda db: sql_read.purge_some(db, database.tables, now), LONG_S)
                count += some
            _transaction(database, lambda db: sql_read.purge_rest(db, database, now), LONG_S)
            database.wipe(thoroughly=False)
            return count

        return await self._in_thread(work, self._writers)

    async def meta(self, name: str, default: bytes) -> bytes:
        return await self._write(lambda db: sql_read.meta(db, self._database, name, default))

    async def set_meta(self, name: str, value: bytes, *, was: bytes) -> bool:
        return await self._write(lambda db: sql_read.set_meta(db, self._database.tables, name, value, was))

    async def add_audit(self, row: AuditRow) -> None:
        await self._write(lambda db: sql_read.add_audit(db, self._database.tables, row))

    async def audit(self, *, limit: int = 100) -> list[AuditRow]:
        return await self._read(lambda db: sql_read.audit(db, self._database.tables, limit))

    async def exchange_audit(self, bodies: Mapping[bytes, bytes]) -> int:
        return await self._write(lambda db: sql_read.exchange_audit(db, self._database.tables, bodies))

    async def legacy(self, *, after: str = "", limit: int = 100) -> list[Mapping[str, str]]:
        """Rows of an older program that have not been adopted yet, as column to text, in the order of their
        ``session_id``, from the first one after ``after``. What is NULL is left out. Nothing else finds these rows, and
        nothing deletes them."""
        return await self._read(lambda db: sql_legacy.unadopted(db, self._database, after, limit))

    async def adopt(
        self, session_id: str, row: SessionRow, messages: Sequence[MessageRow], *, blank: bool = False
    ) -> Outcome:
        """Make a session of an older program's row, which keeps its ``session_id``; with ``blank`` the older program's
        columns are emptied. Done twice it is there once.

        Returns Written; Conflict if another session has the key, and then nothing is changed; Gone if there is no such
        row, or if its subject was erased at or after ``row.started_at``: then it is deleted."""
        named = dataclasses.replace(row, session_id=session_id)
        return await self._write(
            lambda db: sql_legacy.adopt(db, self._database, self._writer, named, messages, blank=blank, now=self._now())
        )

    async def open(self) -> None:
        await self._in_thread(self._database.open, self._writers)

    async def aclose(self) -> None:
        """Waits a little for threads that are still at work, then makes them end."""
        self._is_closed = True
        with trio.move_on_after(CLOSE_S, shield=True):
            with trio.move_on_after(CLOSE_S / 6):
                await self._at_rest()
            self._database.cut(everything=True)
            await trio.to_thread.run_sync(self._database.close, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))
            await self._at_rest()

    async def _at_rest(self) -> None:
        for limiter, taken in self._taken.items():
            while len(taken) < limiter.total_tokens:
                token = object()
                await limiter.acquire_on_behalf_of(token)
                taken.append(token)

    async def _read(self, work: Callable[[sa.Connection], T]) -> T:
        def run() -> T:
            with self._database.reading() as connection:
                return work(connection)

        return await self._in_thread(run, self._readers)

    async def _write(self, work: Callable[[sa.Connection], T]) -> T:
        return await self._in_thread(lambda: _transaction(self._database, work), self._writers)

    async def _in_thread(self, work: Callable[[], T], limiter: trio.CapacityLimiter) -> T:
        """The limiter counts a thread until it has ended, whether anybody waits for it or not: so a connection is never
        shared by two."""
        if self._is_closed:
            raise StoreDown("refused", "the store is closed")
        self._database.cut()
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter)


def _transaction(database: Database, work: Callable[[sa.Connection], T], limit_s: float | None = None) -> T:
    for _ in range(RACES):
        try:
            with database.writing(limit_s) as connection:
                return work(connection)
        except LostRace:
            continue
    raise StoreDown("locked", "others were faster each time")
