"""What ``RecordStore.write`` does, inside one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from adapters.stores.sql_database import Database, LostRace
from adapters.stores.sql_plan import Known, Plan, groups, planned
from adapters.stores.sql_tables import as_session, heads, insert_if_new, of_session
from engine.ports import Append, Gone, Outcome, Rekey, Remove, Replace, SessionRow, Write, Written


class Writer:
    """The statements of one store, built once."""

    def __init__(self, database: Database) -> None:
        at = database.tables
        self._database = database
        self._at = at
        sessions, messages = at.sessions, at.messages
        self._live_head = heads(at).where(
            sessions.c.session_id == sa.bindparam("session_id"), sessions.c.expires_at > sa.bindparam("now")
        )
        self._lock_head = self._live_head.with_for_update()
        self._insert_head = insert_if_new(database.backend, sessions)
        self._update_head = (
            sa.update(sessions)
            .where(sessions.c.session_id == sa.bindparam("of"))
            .values({name: sa.bindparam(name) for name in of_session(_NOBODY) if name != "session_id"})
        )
        self._drop_key = sa.update(sessions).where(sessions.c.session_id == sa.bindparam("of")).values(key=None)
        self._delete = sa.delete(sessions).where(sessions.c.session_id == sa.bindparam("of"))
        self._add_message = insert_if_new(database.backend, messages)
        self._add_trace = sa.insert(at.traces)
        self._trim_messages = _trim(messages)
        self._trim_traces = _trim(at.traces)

    def run(self, connection: sa.Connection, writes: Sequence[Write], now: float) -> list[Outcome]:
        """Raises LostRace."""
        parts = list(groups(writes))
        self._hold(connection, writes, len(parts) > 1)
        outcomes: list[Outcome] = []
        for part in parts:
            match part:
                case Replace():
                    outcomes.append(self._replace(connection, part, now))
                case Rekey():
                    outcomes.append(self._rekey(connection, part, now))
                case Remove():
                    outcomes.append(self._remove(connection, part, now))
                case Append():  # pragma: no cover - groups() puts them in lists
                    outcomes += self._append(connection, [part], now)
                case _:
                    outcomes += self._append(connection, part, now)
        return outcomes

    def add(self, connection: sa.Connection, of: Sequence[Append]) -> None:
        """Their messages and traces, with none of what is too old."""
        messages = [
            {"session_id": append.head.session_id, "message_id": row.message_id, "at": row.at}
            | {"body": row.body, "text": row.text}
            for append in of
            for row in append.messages
        ]
        traces = [
            {"session_id": append.head.session_id, "at": row.at, "body": row.body}
            for append in of
            for row in append.traces
        ]
        _many(connection, self._add_message, messages)
        _many(connection, self._add_trace, traces)
        # A new session may have more than is retained, too, but most have only a few.
        trimmed = [append for append in of if append.head.version or len(append.messages) > append.retention]
        _many(connection, self._trim_messages, [_beyond(append, append.retention) for append in trimmed])
        trimmed = [append for append in of if append.head.version or len(append.traces) > append.traces_kept]
        _many(connection, self._trim_traces, [_beyond(append, append.traces_kept) for append in trimmed])

    def _hold(self, connection: sa.Connection, writes: Sequence[Write], is_mixed: bool) -> None:
        new = {write.head.subject for write in writes if isinstance(write, Append) and not write.head.version}
        # Rows are locked in one order by everybody; a single group locks its own in that order anyway.
        ids = {write.head.session_id if isinstance(write, Append) else write.session_id for write in writes}
        self._database.hold(connection, sorted(new - {""}), sorted(ids) if is_mixed else (), alone=False)

    def _append(self, connection: sa.Connection, appends: Sequence[Append], now: float) -> list[Outcome]:
        plan = planned(appends, self._known(connection, appends), now)
        _many(connection, self._delete, [{"of": session_id} for session_id in plan.doomed])
        self._write_heads(connection, plan)
        self.add(connection, plan.written)
        return plan.outcomes

    def _write_heads(self, connection: sa.Connection, plan: Plan) -> None:
        # First all keys are given up that somebody else may take in the same breath.
        _many(connection, self._drop_key, [{"of": session_id} for session_id in plan.moved])
        _many(connection, self._update_head, [_values(row) for row in plan.updates])
        if plan.inserts:
            made = connection.execute(
                self._insert_head,
                [of_session(row) for row in plan.inserts],
                execution_options={"preserve_rowcount": True},
            )
            if made.rowcount != len(plan.inserts):
                raise LostRace

    def _known(self, connection: sa.Connection, appends: Sequence[Append]) -> Known:
        sessions, tombstones = self._at.sessions, self._at.tombstones
        ids = [append.head.session_id for append in appends]
        keys = [append.head.key for append in appends]
        found = connection.execute(
            heads(self._at)
            .where(sa.or_(sessions.c.session_id.in_(ids), sessions.c.key.in_(keys)))
            .order_by(sessions.c.session_id)
            .with_for_update()
        ).all()
        rows = [as_session(row) for row in found if row.version is not None]
        new = {append.head.subject for append in appends if not append.head.version and append.head.subject}
        erased: dict[str, float] = {}
        if new:
            asked = sa.select(tombstones.c.subject, tombstones.c.at).where(tombstones.c.subject.in_(sorted(new)))
            erased = {subject: when for subject, when in connection.execute(asked)}  # noqa: C416 - rows are no pairs
        return Known(
            {row.session_id: row for row in rows},
            {row.key: row for row in rows},
            {row.session_id for row in found if row.version is None},
            erased,
        )

    def _replace(self, connection: sa.Connection, write: Replace, now: float) -> Outcome:
        head = self._lock(connection, write.session_id, now)
        messages = self._at.messages
        if head is None:
            return Gone()
        changed = connection.execute(
            sa.update(messages)
            .where(
                messages.c.session_id == write.session_id,
                messages.c.message_id == write.message.message_id,
                messages.c.body == write.was,
            )
            .values(body=write.message.body, text=write.message.text)
        )
        return self._set(connection, head, version=head.version + 1) if changed.rowcount else Gone()

    def _rekey(self, connection: sa.Connection, write: Rekey, now: float) -> Outcome:
        head = self._lock(connection, write.session_id, now)
        if head is None:
            return Gone()
        sessions = self._at.sessions
        taken = connection.execute(
            heads(self._at)
            .where(sessions.c.key == write.key, sessions.c.session_id != write.session_id)
            .with_for_update()
        ).first()
        if taken is not None:
            holder = as_session(taken)
            if holder.expires_at > now:
                return Gone()
            connection.execute(self._delete, {"of": holder.session_id})
        return self._set(connection, head, key=write.key, version=head.version + 1)

    def _remove(self, connection: sa.Connection, write: Remove, now: float) -> Outcome:
        head = self._lock(connection, write.session_id, now)
        if head is None:
            return Gone()
        connection.execute(self._delete, {"of": head.session_id})
        return Written(head.version)

    def _lock(self, connection: sa.Connection, session_id: str, now: float) -> SessionRow | None:
        row = connection.execute(self._lock_head, {"session_id": session_id, "now": now}).first()
        return None if row is None else as_session(row)

    def _set(self, connection: sa.Connection, head: SessionRow, **values: Any) -> Written:
        sessions = self._at.sessions
        connection.execute(sa.update(sessions).where(sessions.c.session_id == head.session_id).values(**values))
        return Written(int(values["version"]))


def _trim(table: sa.Table) -> sa.Delete:
    """Of one session's rows those that ``keep`` younger ones follow."""
    older = table.alias("older")
    last_gone = (
        sa.select(older.c.position)
        .where(older.c.session_id == sa.bindparam("of"))
        .order_by(older.c.position.desc())
        .limit(1)
        .offset(sa.bindparam("keep"))
        .scalar_subquery()
    )
    return sa.delete(table).where(table.c.session_id == sa.bindparam("of"), table.c.position <= last_gone)


def _many(connection: sa.Connection, statement: sa.Executable, parameters: list[dict[str, Any]]) -> None:
    if parameters:
        connection.execute(statement, parameters)


def _values(row: SessionRow) -> dict[str, Any]:
    values = of_session(row)
    values["of"] = values.pop("session_id")
    return values


def _beyond(append: Append, keep: int) -> dict[str, Any]:
    return {"of": append.head.session_id, "keep": keep}


_NOBODY = SessionRow("", "", "", 0, 0.0, 0.0, 0.0, b"")
