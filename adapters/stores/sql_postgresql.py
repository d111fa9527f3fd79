"""PostgreSQL as the database of a SQL store: psycopg in threads, a few connections, any number of processes."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import Any

import sqlalchemy as sa

from adapters.stores import sql_faults
from adapters.stores.sql_database import Leases, LostRace
from adapters.stores.sql_migrate import WrongSchema, migrate
from adapters.stores.sql_tables import Tables
from engine.errors import SettingsError, StoreDown

try:
    import psycopg
except ImportError:  # pragma: no cover - an extra
    raise SettingsError("store.kind: postgresql needs the extra offhook[postgresql] to be installed") from None

STATEMENT_S = 10.0
"""For one statement; the server ends what takes longer."""
LIMIT_S = 15.0
"""For one operation, should the server not answer at all: then its socket is closed."""
MIGRATE_S = 60.0
"""For the migration, waiting for that of another engine included."""
PING_S = 1.0
"""A connection that has rested for longer is tried before it is used."""
PORT = 5432
"""Where the address names none."""
INDEXED_CHARS = 100_000
"""Of a text: PostgreSQL refuses to index one of a megabyte."""
_STANDBY = ("25006", "0A000")
"""Nothing can be written; the second one where a transaction that may write cannot even begin."""
_CAUGHT = (*sql_faults.CAUGHT, psycopg.Error)


class Postgresql:
    backend = "postgresql"
    has_full_text = True
    readers = 0

    def __init__(self, url: str, tables: Tables, connections: int, connect_s: float) -> None:
        self.tables = tables
        self.writers = connections
        self._connect_s = connect_s
        self._leases = Leases(_hang_up)
        self._opening = Lock()
        self._is_open = False
        self._engine = _engine(url, connections, connect_s)
        self._reader = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    def open(self) -> None:
        try:
            with self._begun(self._engine, MIGRATE_S) as connection:
                connection.exec_driver_sql(f"SET LOCAL statement_timeout = {_ms(MIGRATE_S)}")
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = {_ms(MIGRATE_S)}")
                _lock(connection, "pg_advisory_xact_lock", [_number("migrate", self.tables.name)])
                migrate(connection, self.tables)
                _keep_words(connection, self.tables)
        except WrongSchema as wrong:
            raise SettingsError(f"store.table: {wrong}") from None
        except sql_faults.NotLetIn as refusal:
            raise SettingsError(f"store.url or DATABASE_URL: {refusal.detail}") from None
        except _CAUGHT as error:
            raise sql_faults.of_postgresql(error) from None
        self._is_open = True

    @contextmanager
    def writing(self, limit_s: float | None = None) -> Iterator[sa.Connection]:
        self._open_late()
        try:
            with self._begun(self._engine, limit_s or LIMIT_S) as connection:
                if limit_s:
                    connection.exec_driver_sql(f"SET LOCAL statement_timeout = {_ms(limit_s)}")
                yield connection
        except _CAUGHT as error:
            state = sql_faults.sqlstate(error)
            if state in sql_faults.RETRIED:
                raise LostRace from None
            if state in _STANDBY:
                # It was the primary once. The name in the address may lead to another server by now.
                self._engine.dispose()
                raise StoreDown("refused", "postgresql is a read-only standby") from None
            raise sql_faults.of_postgresql(error) from None

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        self._open_late()
        try:
            with self._begun(self._reader, LIMIT_S) as connection:
                yield connection
        except _CAUGHT as error:
            raise sql_faults.of_postgresql(error) from None

    def hold(
        self, connection: sa.Connection, subjects: Sequence[str], session_ids: Sequence[str], *, alone: bool
    ) -> None:
        if subjects:
            how = "pg_advisory_xact_lock" if alone else "pg_advisory_xact_lock_shared"
            _lock(connection, how, [_number(self.tables.name, subject) for subject in subjects])
        if session_ids:
            session_id = self.tables.sessions.c.session_id
            connection.execute(
                sa.select(session_id).where(session_id.in_(session_ids)).order_by(session_id).with_for_update()
            ).all()

    def matching(self, words: Sequence[str]) -> sa.ColumnElement[bool]:
        # Literals, as in the index: with parameters in their place the planner would not see that it fits.
        indexed: sa.ColumnElement[str] = sa.literal_column(_indexed(self.tables))
        asked = sa.func.plainto_tsquery(sa.literal_column("'simple'"), " ".join(words))
        return indexed.op("@@", is_comparison=True)(asked) & (self.tables.messages.c.text != sa.literal_column("''"))

    def forget(self, connection: sa.Connection) -> None:
        """Vacuum does."""

    def wipe(self, *, thoroughly: bool) -> None:
        """Vacuum does."""

    def cut(self, *, everything: bool = False) -> None:
        self._leases.cut(everything=everything)

    def close(self) -> None:
        self._engine.dispose()

    def _open_late(self) -> None:
        """When the server could not be reached at the start. Of several threads one tries."""
        if self._is_open:
            return
        if not self._opening.acquire(timeout=self._connect_s):
            raise StoreDown("refused", "postgresql: still connecting")
        try:
            if not self._is_open:
                self.open()
        except SettingsError as error:
            raise StoreDown("error", str(error)) from None
        finally:
            self._opening.release()

    @contextmanager
    def _begun(self, engine: sa.Engine, limit_s: float) -> Iterator[sa.Connection]:
        with ExitStack() as stack:
            connection = stack.enter_context(self._leases.lease(engine, limit_s))
            if not _answers(connection):
                # With it the pool has let go of all others of its time; the next one is new.
                stack.close()
                connection = stack.enter_context(self._leases.lease(engine, limit_s))
            with connection.begin():
                yield connection
            connection.info["used_at"] = time.monotonic()


def _engine(url: str, connections: int, connect_s: float) -> sa.Engine:
    try:
        address = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        address = None
    if address is None or address.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise SettingsError("store.url or DATABASE_URL: an address such as postgresql://user@host/database is expected")
    if "@" in (address.host or ""):
        raise SettingsError("store.url or DATABASE_URL: an @ in the user or the password is written %40")
    connect = {
        "connect_timeout": math.ceil(connect_s),
        "application_name": "offhook",
        "keepalives": 1,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": _ms(LIMIT_S),
    }
    engine = sa.create_engine(
        address.set(drivername="postgresql+psycopg"),
        poolclass=sa.QueuePool,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=connect_s,
        pool_use_lifo=True,
        isolation_level="READ COMMITTED",
        # Without it an error quotes what was said.
        hide_parameters=True,
        connect_args={name: value for name, value in connect.items() if name not in address.query},
    )

    place = _place(address)

    @sa.event.listens_for(engine, "do_connect")
    def connect_to(_dialect: Any, _record: Any, words: Sequence[Any], options: dict[str, Any]) -> Any:
        try:
            return psycopg.connect(*words, **options)
        except (psycopg.Error, OSError) as error:
            raise sql_faults.not_connected(error, place) from None

    @sa.event.listens_for(engine, "connect")
    def set_up(connection: psycopg.Connection[Any], record: Any) -> None:
        # Not as options of the connection: poolers refuse those.
        connection.autocommit = True
        connection.execute(f"SET statement_timeout = {_ms(STATEMENT_S)}")
        connection.execute(f"SET lock_timeout = {_ms(STATEMENT_S)}")
        connection.execute(f"SET idle_in_transaction_session_timeout = {_ms(MIGRATE_S)}")
        connection.execute("SET timezone = 'UTC'")
        connection.autocommit = False
        record.info["used_at"] = time.monotonic()

    return engine


def _place(address: sa.URL) -> str:
    """The server as we name it in what we tell; nothing of an address but its host and port belongs there."""
    host = address.host or address.query.get("host", "")
    if not host:
        return "postgresql"
    if not isinstance(host, str):
        return f"postgresql at {' or '.join(host)}"
    if host.startswith("/"):
        return f"postgresql at the socket in {host}"
    return f"postgresql at {host} port {address.port or address.query.get('port', PORT)}"


def _answers(connection: sa.Connection) -> bool:
    """False if it is dead, and closed by that."""
    if time.monotonic() - connection.info["used_at"] < PING_S:
        return True
    try:
        connection.exec_driver_sql("SELECT 1")
    except sa.exc.DBAPIError as error:
        if error.connection_invalidated:
            return False
        raise
    connection.rollback()
    return True


def _hang_up(connection: psycopg.Connection[Any]) -> None:
    """From another thread: the one that waits for an answer gets an error."""
    with contextlib.suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as wire:
        wire.shutdown(socket.SHUT_RDWR)


def _lock(connection: sa.Connection, how: str, numbers: Sequence[int]) -> None:
    """Until the end of the transaction; always in the same order, so that no two wait for each other."""
    for number in sorted(numbers):
        connection.execute(sa.select(getattr(sa.func, how)(sa.cast(number, sa.BigInteger))))


def _number(*names: str) -> int:
    digest = hashlib.blake2b("\0".join(names).encode("utf-8", "replace"), digest_size=8, person=b"offhook").digest()
    return int.from_bytes(digest, "big", signed=True)


def _keep_words(connection: sa.Connection, at: Tables) -> None:
    connection.exec_driver_sql(
        f'CREATE INDEX IF NOT EXISTS "{at.words}" ON "{at.messages.name}" USING gin ({_indexed(at)}) WHERE text <> \'\''
    )


def _indexed(at: Tables) -> str:
    return f"to_tsvector('simple', left(\"{at.messages.name}\".text, {INDEXED_CHARS}))"


def _ms(seconds: float) -> int:
    return math.ceil(seconds * 1000)
