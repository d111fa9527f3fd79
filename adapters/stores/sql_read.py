"""What the reading operations of a RecordStore ask, and the small things it keeps besides sessions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from adapters.stores.sql_database import Database
from adapters.stores.sql_tables import Tables, as_message, as_session, heads, insert_if_new, storable
from engine.ports import AuditRow, Found, MessageRow, SessionRow, TraceRow

AUDITS = 10_000
DAY_S = 86_400.0
KEPT_S = 400 * DAY_S
"""For tombstones and the audit log."""
CHUNK = 500
"""Sessions purged in one transaction, so that no writer waits long."""


def find(connection: sa.Connection, at: Tables, by: dict[str, str], last: int, now: float) -> Found | None:
    """By ``key`` or ``session_id``: two queries."""
    ((column, value),) = by.items()
    head = connection.execute(heads(at).where(at.sessions.c[column] == value, at.sessions.c.expires_at > now)).first()
    if head is None:
        return None
    rows: list[Any] = []
    if last > 0:
        messages = at.messages.c
        rows = list(
            connection.execute(
                sa.select(messages.message_id, messages.at, messages.body, messages.text)
                .where(messages.session_id == head.session_id)
                .order_by(messages.position.desc())
                .limit(last)
            )
        )
    return Found(as_session(head), tuple(as_message(row) for row in reversed(rows)))


def of_subject(connection: sa.Connection, at: Tables, subject: str, now: float) -> list[SessionRow]:
    sessions = at.sessions.c
    rows = connection.execute(
        heads(at)
        .where(sessions.subject == subject, sessions.expires_at > now)
        .order_by(sessions.started_at, sessions.session_id)
    )
    return [as_session(row) for row in rows]


def scan(connection: sa.Connection, at: Tables, after: str, limit: int, now: float) -> list[SessionRow]:
    sessions = at.sessions.c
    rows = connection.execute(
        heads(at)
        .where(sessions.session_id > after, sessions.expires_at > now)
        .order_by(sessions.session_id)
        .limit(max(limit, 0))
    )
    return [as_session(row) for row in rows]


def traces(connection: sa.Connection, at: Tables, session_id: str, now: float) -> list[TraceRow]:
    rows = connection.execute(
        sa.select(at.traces.c.at, at.traces.c.body)
        .join(at.sessions, at.sessions.c.session_id == at.traces.c.session_id)
        .where(at.traces.c.session_id == session_id, at.sessions.c.expires_at > now)
        .order_by(at.traces.c.position)
    )
    return [TraceRow(*row) for row in rows]


def search(
    connection: sa.Connection, database: Database, words: str, session_id: str, *, limit: int, now: float
) -> list[tuple[str, MessageRow]]:
    at = database.tables
    messages = at.messages.c
    asked = (
        sa.select(messages.session_id, messages.message_id, messages.at, messages.body, messages.text)
        .join(at.sessions, at.sessions.c.session_id == messages.session_id)
        .where(at.sessions.c.expires_at > now, database.matching(storable(words).split()))
        .order_by(messages.at.desc(), messages.position.desc())
        .limit(max(limit, 0))
    )
    if session_id:
        asked = asked.where(messages.session_id == session_id)
    return [(row[0], as_message(row[1:])) for row in connection.execute(asked)]


def erase(connection: sa.Connection, database: Database, subject: str, when: float, now: float) -> int:
    """The sessions there were; those that had expired go, too, and do not count."""
    at = database.tables
    database.hold(connection, [subject], (), alone=True)
    tombstones, sessions = at.tombstones, at.sessions
    connection.execute(insert_if_new(database.backend, tombstones), {"subject": subject, "at": when})
    connection.execute(
        sa.update(tombstones).where(tombstones.c.subject == subject, tombstones.c.at < when).values(at=when)
    )
    live = connection.execute(
        sa.select(sa.func.count()).where(sessions.c.subject == subject, sessions.c.expires_at > now)
    ).scalar_one()
    connection.execute(sa.delete(sessions).where(sessions.c.subject == subject))
    database.forget(connection)
    return int(live)


def erased_at(connection: sa.Connection, at: Tables, subject: str) -> float:
    asked = sa.select(at.tombstones.c.at).where(at.tombstones.c.subject == subject)
    return float(connection.execute(asked).scalar_one_or_none() or 0.0)


def purge_some(connection: sa.Connection, at: Tables, now: float) -> int:
    """At most CHUNK of the sessions that have expired."""
    sessions = at.sessions
    expired = sa.select(sessions.c.session_id).where(sessions.c.expires_at <= now).limit(CHUNK)
    gone = connection.execute(
        sa.delete(sessions).where(sessions.c.session_id.in_(expired), sessions.c.expires_at <= now)
    )
    return gone.rowcount


def purge_rest(connection: sa.Connection, database: Database, now: float) -> None:
    at = database.tables
    connection.execute(sa.delete(at.tombstones).where(at.tombstones.c.at < now - KEPT_S))
    connection.execute(sa.delete(at.audit).where(at.audit.c.at < now - KEPT_S))
    database.forget(connection)


def meta(connection: sa.Connection, database: Database, name: str, default: bytes) -> bytes:
    table = database.tables.meta
    asked = sa.select(table.c.value).where(table.c.name == name)
    value = connection.execute(asked).scalar_one_or_none()
    if value is None:
        connection.execute(insert_if_new(database.backend, table), {"name": name, "value": default})
        value = connection.execute(asked).scalar_one()
    return bytes(value)


def set_meta(connection: sa.Connection, at: Tables, name: str, value: bytes, was: bytes) -> bool:
    changed = connection.execute(
        sa.update(at.meta).where(at.meta.c.name == name, at.meta.c.value == was).values(value=value)
    )
    return bool(changed.rowcount)


def add_audit(connection: sa.Connection, at: Tables, row: AuditRow) -> None:
    connection.execute(sa.insert(at.audit), {"at": row.at, "body": row.body})
    older = at.audit.alias("older")
    last_gone = sa.select(older.c.position).order_by(older.c.position.desc()).limit(1).offset(AUDITS)
    connection.execute(sa.delete(at.audit).where(at.audit.c.position <= last_gone.scalar_subquery()))


def audit(connection: sa.Connection, at: Tables, limit: int) -> list[AuditRow]:
    rows = connection.execute(
        sa.select(at.audit.c.at, at.audit.c.body).order_by(at.audit.c.position.desc()).limit(max(limit, 0))
    )
    return [AuditRow(*row) for row in rows]


def exchange_audit(connection: sa.Connection, at: Tables, bodies: Mapping[bytes, bytes]) -> int:
    """Goes through all of them once: a log of some thousands, for which no index is kept."""
    body, position = at.audit.c.body, at.audit.c.position
    found = connection.execute(sa.select(position, body).where(body.in_(list(bodies))).with_for_update()).all()
    if found:
        change = sa.update(at.audit).where(position == sa.bindparam("of")).values(body=sa.bindparam("new"))
        connection.execute(change, [{"of": row.position, "new": bodies[bytes(row.body)]} for row in found])
    return len(found)
