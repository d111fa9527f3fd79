"""SQLite as the database of a SQL store: one file, one writer, a few readers, any number of processes."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import sqlalchemy as sa
import structlog

from adapters.stores import sql_faults
from adapters.stores.sql_database import Leases
from adapters.stores.sql_migrate import WrongSchema, migrate
from adapters.stores.sql_tables import Tables
from engine.errors import SettingsError, StoreDown

READERS = 3
LIMIT_S = 60.0
"""For one operation: only a disk that hangs takes as long."""
REWRITE_S = 86_400.0
REWRITE_MAX_BYTES = 1 << 30
"""About 20 s on an ordinary disk, during which nobody writes."""
_PRAGMAS = (
    # What was acknowledged survives the loss of power, too; a commit waits for the disk.
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    # What is deleted is overwritten, and what is sorted never reaches a temporary file.
    "PRAGMA secure_delete=ON",
    "PRAGMA temp_store=MEMORY",
)
_UNUSABLE = {
    sqlite3.SQLITE_NOTADB: "it is something else",
    sqlite3.SQLITE_CORRUPT: "it is damaged",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_READONLY: "it cannot be written to",
    sqlite3.SQLITE_FULL: "its disk is full",
    sqlite3.SQLITE_IOERR: "its disk is full or fails",
}
"""By primary result code: what no waiting changes."""

log = structlog.get_logger(__name__)


class Sqlite:
    backend = "sqlite"
    writers, readers = 1, READERS

    def __init__(self, path: str, tables: Tables, busy_s: float) -> None:
        if not path or path == ":memory:":
            raise SettingsError('store.path: a file is expected; kind = "memory" keeps sessions without one')
        self.tables = tables
        self.has_full_text = False
        self._path = Path(path)
        self._busy_s = busy_s
        self._rewritten_at = float("-inf")
        self._leases = Leases(sqlite3.Connection.interrupt)
        self._writer = self._engine(1, "BEGIN IMMEDIATE")
        self._reader = self._engine(READERS, "BEGIN", "PRAGMA query_only=ON")

    def open(self) -> None:
        migrator = self._engine(1, "BEGIN EXCLUSIVE", "PRAGMA foreign_keys=OFF")
        try:
            self._make_private()
            self._to_wal(migrator)
            with self._leases.lease(migrator, LIMIT_S) as connection, connection.begin():
                migrate(connection, self.tables)
                self.has_full_text = _keep_words(connection, self.tables)
        except WrongSchema as wrong:
            raise SettingsError(f"store.path: {wrong}") from None
        except sql_faults.CAUGHT as error:
            if why := _unusable(error):
                raise SettingsError(f"store.path: {self._path} cannot be used as a database of SQLite: {why}") from None
            raise sql_faults.of_sqlite(error) from None
        finally:
            migrator.dispose()

    @contextmanager
    def writing(self, limit_s: float | None = None) -> Iterator[sa.Connection]:
        with _told(), self._leases.lease(self._writer, limit_s or LIMIT_S) as connection, connection.begin():
            yield connection

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        with _told(), self._leases.lease(self._reader, LIMIT_S) as connection, connection.begin():
            yield connection

    def hold(
        self, connection: sa.Connection, subjects: Sequence[str], session_ids: Sequence[str], *, alone: bool
    ) -> None:
        """There is one writer at a time in all the world."""

    def matching(self, words: Sequence[str]) -> sa.ColumnElement[bool]:
        index = sa.table(self.tables.words, sa.column("rowid"), sa.column("text"))
        # In quotes a word is a word, whatever it looks like.
        quoted = " ".join('"' + word.replace('"', '""') + '"' for word in words)
        found = sa.select(index.c.rowid).where(index.c.text.op("MATCH")(quoted))
        return self.tables.messages.c.position.in_(found)

    def forget(self, connection: sa.Connection) -> None:
        if self.has_full_text:
            # An index of FTS5 only notes down what is deleted, until its parts are merged into one.
            connection.exec_driver_sql(_named(_MERGE, self.tables))

    def wipe(self, *, thoroughly: bool) -> None:
        """SQLite overwrites what is deleted, but not the copies that it left behind when it moved rows from page to
        page. Only writing the whole file anew gets rid of them: done each time if ``thoroughly``, else daily."""
        now = time.monotonic()
        if thoroughly or now > self._rewritten_at + REWRITE_S:
            self._rewrite(REWRITE_MAX_BYTES if thoroughly else REWRITE_MAX_BYTES // 4)
            self._rewritten_at = now
        # Then the write-ahead log is emptied, for which nobody may be reading from it: waits for readers a while.
        until = now + self._busy_s
        while not self._checkpoint():
            if time.monotonic() > until:
                log.warning("store_log_not_emptied", backend=self.backend)
                return

    def cut(self, *, everything: bool = False) -> None:
        self._leases.cut(everything=everything)

    def close(self) -> None:
        self._writer.dispose()
        self._reader.dispose()

    def _rewrite(self, max_bytes: int) -> None:
        size_bytes = self._path.stat().st_size
        if size_bytes > max_bytes:
            log.warning("store_not_rewritten", backend=self.backend, why="size", size_bytes=size_bytes)
            return
        try:
            # The copy is made in a file, which has no name, and not in memory; of what is deleted it holds nothing.
            self._outside("PRAGMA temp_store=FILE")
            self._outside("VACUUM")
            self._outside("PRAGMA temp_store=MEMORY")
        except StoreDown as down:
            log.warning("store_not_rewritten", backend=self.backend, why=down.why, size_bytes=size_bytes)

    def _checkpoint(self) -> bool:
        busy, _, _ = self._outside("PRAGMA wal_checkpoint(TRUNCATE)")
        return not busy

    def _outside(self, statement: str) -> tuple[int, ...]:
        """Of any transaction. The row that it gives, if any."""
        with _told(), self._leases.lease(self._writer, LIMIT_S) as connection:
            cursor = connection.connection.cursor()
            try:
                return tuple(cursor.execute(statement).fetchone() or ())
            finally:
                cursor.close()

    def _engine(self, size: int, begin: str, *more: str) -> sa.Engine:
        engine = sa.create_engine(
            sa.URL.create("sqlite", database=str(self._path)),
            poolclass=sa.QueuePool,
            pool_size=size,
            max_overflow=0,
            pool_timeout=self._busy_s,
            # Without it an error quotes what was said.
            hide_parameters=True,
            connect_args={"timeout": self._busy_s, "isolation_level": None, "check_same_thread": False},
        )

        @sa.event.listens_for(engine, "connect")
        def set_up(connection: sqlite3.Connection, _: object) -> None:
            for pragma in (*_PRAGMAS, *more):
                connection.execute(pragma)

        @sa.event.listens_for(engine, "begin")
        def start(connection: sa.Connection) -> None:
            connection.exec_driver_sql(begin)

        return engine

    def _make_private(self) -> None:
        """What people say is read by nobody but the account that runs this.

        A file that is there is not touched: closing it once would drop the locks of every connection that this process
        has to it, and another process would then take its log for nobody's.
        """
        with suppress(FileExistsError):
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))

    def _to_wal(self, engine: sa.Engine) -> None:
        """Kept in the file. While another process does the same SQLite says busy at once, without waiting."""
        until = time.monotonic() + self._busy_s
        while True:
            try:
                with self._leases.lease(engine, LIMIT_S) as connection:
                    connection.connection.cursor().execute("PRAGMA journal_mode=WAL").close()
            except (sqlite3.OperationalError, sa.exc.OperationalError) as error:
                if sql_faults.primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(0.01)
            else:
                return


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except sql_faults.CAUGHT as error:
        raise sql_faults.of_sqlite(error) from None


def _unusable(error: BaseException) -> str:
    """Why; empty if it may be usable a little later."""
    if isinstance(error, OSError):
        return os.strerror(error.errno or errno.EIO)
    return _UNUSABLE.get(sql_faults.primary_code(error), "")


def _keep_words(connection: sa.Connection, at: Tables) -> bool:
    """A full text index in step with the messages, if this SQLite has FTS5."""
    triggers = [f"{at.words}_{when}" for when in _TRIGGERS]
    has_fts5 = bool(connection.exec_driver_sql("SELECT 1 FROM pragma_module_list WHERE name = 'fts5'").first())
    present = connection.execute(
        sa.text("SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND name IN :names").bindparams(
            sa.bindparam("names", triggers, expanding=True)
        )
    ).scalar_one()
    if has_fts5 and present == len(triggers):
        return True
    for trigger in triggers:
        # Another SQLite may have made them; with one that has no FTS5 every write would fail.
        connection.exec_driver_sql(f'DROP TRIGGER IF EXISTS "{trigger}"')
    if has_fts5:
        for statement in _WORDS:
            connection.exec_driver_sql(_named(statement, at))
    return has_fts5


def _named(statement: str, at: Tables) -> str:
    return statement.replace("<words>", at.words).replace("<messages>", at.messages.name)


_ADD = """INSERT INTO "<words>" (rowid, text) SELECT new.position, new.text WHERE new.text <> '';"""
_REMOVE = """INSERT INTO "<words>" ("<words>", rowid, text)
    SELECT 'delete', old.position, old.text WHERE old.text <> '';"""
_TRIGGERS = {"added": ("INSERT", _ADD), "removed": ("DELETE", _REMOVE), "changed": ("UPDATE OF text", _REMOVE + _ADD)}
_WORDS = (
    'DROP TABLE IF EXISTS "<words>"',
    """CREATE VIRTUAL TABLE "<words>" USING fts5(text, content='<messages>', content_rowid='position')""",
    """INSERT INTO "<words>" (rowid, text) SELECT position, text FROM "<messages>" WHERE text <> ''""",
    *(
        f'CREATE TRIGGER "<words>_{when}" AFTER {change} ON "<messages>" BEGIN {work} END'
        for when, (change, work) in _TRIGGERS.items()
    ),
)
_MERGE = """INSERT INTO "<words>" ("<words>") VALUES ('optimize')"""
