"""The tables of the SQL stores, the same for SQLite and PostgreSQL: one set for each name in the settings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect

from engine.errors import SettingsError
from engine.ports import MessageRow, SessionRow

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")
_NUL, _STAND_IN = "\0", "\ufdd0"
"""PostgreSQL keeps no NUL in a text; the stand-in is a code point that Unicode promises never to give a meaning."""


class Name(sa.types.TypeDecorator[str]):
    """Any str at all, compared and ordered by its bytes."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> sa.types.TypeEngine[Any]:
        return dialect.type_descriptor(sa.Text(collation="C") if dialect.name == "postgresql" else sa.Text())

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        return value.replace(_STAND_IN, _NUL) if value and _STAND_IN in value else value


def storable(text: str) -> str:
    """Without what UTF-8 cannot hold (half of a surrogate pair) and PostgreSQL will not (NUL)."""
    if text.isascii() and _NUL not in text:
        return text
    return text.replace(_NUL, _STAND_IN).encode("utf-8", "replace").decode("utf-8")


@dataclass(frozen=True, slots=True)
class Tables:
    name: str
    metadata: sa.MetaData
    sessions: sa.Table
    """All but ``session_id`` may be NULL: an older program's rows have nothing there until they are adopted. There may
    be more columns than these, the older program's."""
    messages: sa.Table
    traces: sa.Table
    tombstones: sa.Table
    meta: sa.Table
    audit: sa.Table

    @property
    def version(self) -> str:
        """Alembic's table."""
        return f"{self.name}_version"

    @property
    def words(self) -> str:
        """SQLite's full text table."""
        return f"{self.name}_words"


def tables(name: str) -> Tables:
    """Raises SettingsError for a name that is none."""
    if not _NAME.fullmatch(name) or name.lower().startswith(("sqlite_", "pg_")):
        raise SettingsError(
            "store.table: a name of 1 to 40 letters, digits and underscores is expected, not beginning with a digit, "
            "sqlite_ or pg_"
        )
    metadata = sa.MetaData()
    session_id = sa.ForeignKey(f"{name}.session_id", name=f"{name}_messages_of", ondelete="CASCADE")
    traced_id = sa.ForeignKey(f"{name}.session_id", name=f"{name}_traces_of", ondelete="CASCADE")
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    return Tables(
        name,
        metadata,
        sessions=sa.Table(
            name,
            metadata,
            sa.Column("session_id", Name, primary_key=True),
            sa.Column("key", Name),
            sa.Column("subject", Name),
            sa.Column("version", sa.BigInteger),
            sa.Column("started_at", sa.Double),
            sa.Column("last_at", sa.Double),
            sa.Column("expires_at", sa.Double),
            sa.Column("body", sa.LargeBinary),
            sa.Index(f"{name}_by_key", "key", unique=True),
            sa.Index(f"{name}_by_subject", "subject"),
            sa.Index(f"{name}_by_expiry", "expires_at"),
        ),
        messages=sa.Table(
            f"{name}_messages",
            metadata,
            sa.Column("position", number, primary_key=True, autoincrement=True),
            sa.Column("session_id", Name, session_id, nullable=False),
            sa.Column("message_id", Name, nullable=False),
            sa.Column("at", sa.Double, nullable=False),
            sa.Column("body", sa.LargeBinary, nullable=False),
            sa.Column("text", Name, nullable=False),
            sa.Index(f"{name}_messages_by_id", "session_id", "message_id", unique=True),
            sa.Index(f"{name}_messages_in_order", "session_id", "position"),
        ),
        traces=sa.Table(
            f"{name}_traces",
            metadata,
            sa.Column("position", number, primary_key=True, autoincrement=True),
            sa.Column("session_id", Name, traced_id, nullable=False),
            sa.Column("at", sa.Double, nullable=False),
            sa.Column("body", sa.LargeBinary, nullable=False),
            sa.Index(f"{name}_traces_in_order", "session_id", "position"),
        ),
        tombstones=sa.Table(
            f"{name}_tombstones",
            metadata,
            sa.Column("subject", Name, primary_key=True),
            sa.Column("at", sa.Double, nullable=False),
        ),
        meta=sa.Table(
            f"{name}_meta",
            metadata,
            sa.Column("name", Name, primary_key=True),
            sa.Column("value", sa.LargeBinary, nullable=False),
        ),
        audit=sa.Table(
            f"{name}_audit",
            metadata,
            sa.Column("position", number, primary_key=True, autoincrement=True),
            sa.Column("at", sa.Double, nullable=False),
            sa.Column("body", sa.LargeBinary, nullable=False),
        ),
    )


OF_SESSION = ("session_id", "key", "subject", "version", "started_at", "last_at", "expires_at", "body")
"""Columns, in the order of SessionRow."""


def heads(at: Tables) -> sa.Select[Any]:
    """Rows that :func:`as_session` reads."""
    return sa.select(*(at.sessions.c[name] for name in OF_SESSION))


def as_session(row: Sequence[Any]) -> SessionRow:
    return SessionRow(*row)


def of_session(row: SessionRow) -> dict[str, Any]:
    """Its values, by column."""
    return {name: getattr(row, name) for name in OF_SESSION}


def as_message(row: Sequence[Any]) -> MessageRow:
    """From message_id, at, body and text."""
    return MessageRow(*row)


def insert_if_new(backend: str, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """An insert that passes over a row which would break a unique index."""
    insert = sqlite.insert(table) if backend == "sqlite" else postgresql.insert(table)
    return insert.on_conflict_do_nothing()
