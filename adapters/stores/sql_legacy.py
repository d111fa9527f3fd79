"""Rows that an older program left in the table of sessions (E2): read as they are, and taken over one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from adapters.stores.sql_database import Database
from adapters.stores.sql_tables import OF_SESSION, Name, as_session, heads
from adapters.stores.sql_write import Writer
from engine.ports import Append, Conflict, Gone, MessageRow, Outcome, SessionRow, Written


def unadopted(connection: sa.Connection, database: Database, after: str, limit: int) -> list[Mapping[str, str]]:
    at = database.tables
    names = ["session_id", *_old_columns(connection, database)]
    table = sa.table(at.sessions.name, sa.column("version"), *(sa.column(name) for name in names))
    rows = connection.execute(
        # Bytes and not text: nobody has promised that what is in there is valid.
        sa.select(*(_bytes_of(table.c[name], database.backend) for name in names))
        .where(table.c.version.is_(None), sa.type_coerce(table.c.session_id, Name) > after)
        .order_by(table.c.session_id)
        .limit(max(limit, 0))
    )
    return [
        {
            name: bytes(value).decode("utf-8", "replace")
            for name, value in zip(names, row, strict=True)
            if value is not None
        }
        for row in rows
    ]


def adopt(
    connection: sa.Connection,
    database: Database,
    writer: Writer,
    row: SessionRow,
    messages: Sequence[MessageRow],
    *,
    blank: bool,
    now: float,
) -> Outcome:
    at = database.tables
    sessions = at.sessions
    database.hold(connection, [row.subject] if row.subject else [], (), alone=False)
    found = connection.execute(
        heads(at).where(sa.or_(sessions.c.session_id == row.session_id, sessions.c.key == row.key)).with_for_update()
    ).all()
    ours = next((other for other in found if other.session_id == row.session_id), None)
    if ours is None:
        return Gone()
    if ours.version is None:
        for other in found:
            if other.session_id != row.session_id:
                if other.expires_at > now:
                    return Conflict(as_session(other))
                connection.execute(sa.delete(sessions).where(sessions.c.session_id == other.session_id))
        if row.subject and _is_erased(connection, database, row):
            connection.execute(sa.delete(sessions).where(sessions.c.session_id == row.session_id))
            database.forget(connection)
            return Gone()
        values = {name: getattr(row, name) for name in OF_SESSION if name != "session_id"}
        connection.execute(
            sa.update(sessions)
            .where(sessions.c.session_id == row.session_id)
            .values(values | {"version": max(1, row.version)})
        )
        writer.add(connection, [Append(row, tuple(messages), retention=max(1, len(messages)))])
    if blank and (old := _old_columns(connection, database)):
        table = sa.table(sessions.name, sa.column("session_id"), *(sa.column(name) for name in old))
        connection.execute(
            sa.update(table).where(table.c.session_id == row.session_id).values(dict.fromkeys(old, sa.null()))
        )
    return Written(ours.version or max(1, row.version))


def _is_erased(connection: sa.Connection, database: Database, row: SessionRow) -> bool:
    tombstones = database.tables.tombstones
    asked = sa.select(tombstones.c.at).where(tombstones.c.subject == row.subject, tombstones.c.at >= row.started_at)
    return connection.execute(asked).first() is not None


def _old_columns(connection: sa.Connection, database: Database) -> list[str]:
    found = sa.inspect(connection).get_columns(database.tables.sessions.name)
    return [column["name"] for column in found if column["name"] not in OF_SESSION]


def _bytes_of(value: sa.ColumnElement[Any], backend: str) -> sa.ColumnElement[Any]:
    if backend == "sqlite":
        return sa.cast(value, sa.LargeBinary)
    return sa.func.convert_to(sa.cast(value, sa.Text), "UTF8", type_=sa.LargeBinary)
