"""What the errors of SQLite and PostgreSQL mean to us. None of their texts goes any further: they quote values."""

from __future__ import annotations

import sqlite3

import sqlalchemy as sa

from engine.errors import StoreDown

_SQLITE = {
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_INTERRUPT: "timeout",
}
"""By primary result code; any other is an error."""

_POSTGRESQL = {
    "53100": "full",
    "53300": "refused",
    "55P03": "locked",
    "40P01": "locked",
    "40001": "locked",
    "57014": "timeout",
    "57P01": "refused",
    "57P02": "refused",
    "57P03": "refused",
}
"""By SQLSTATE; class 08 is a lost connection, any other is an error."""

RETRIED = frozenset({"40P01", "40001"})
"""Two transactions were in each other's way and this one lost: it can be run again."""

CAUGHT = (sa.exc.SQLAlchemyError, sqlite3.Error, OSError)
"""What an operation on a database may raise."""


def of_sqlite(error: BaseException) -> StoreDown:
    cause = _driver_error(error)
    code = getattr(cause, "sqlite_errorcode", None)
    name = getattr(cause, "sqlite_errorname", type(cause).__name__)
    return StoreDown(_SQLITE.get(code & 0xFF, "error") if code is not None else "error", f"sqlite {name}")


def of_postgresql(error: BaseException) -> StoreDown:
    if isinstance(error, sa.exc.TimeoutError):
        return StoreDown("timeout", "postgresql: no connection is free")
    cause = _driver_error(error)
    state = sqlstate(cause) or ""
    why = _POSTGRESQL.get(state)
    if why is None and "Timeout" in type(cause).__name__:
        why = "timeout"
    if why is None:
        is_lost = state.startswith("08") or (
            not state and type(cause).__name__ in ("OperationalError", "InterfaceError")
        )
        why = "refused" if is_lost else "error"
    return StoreDown(why, f"postgresql {type(cause).__name__} {state}".rstrip())


def sqlstate(error: BaseException) -> str | None:
    """PostgreSQL's five characters, where the server has sent any."""
    state = getattr(_driver_error(error), "sqlstate", None)
    return state if isinstance(state, str) else None


def primary_code(error: BaseException) -> int:
    """SQLite's result code without its extension; 0 where there is none."""
    return int(getattr(_driver_error(error), "sqlite_errorcode", 0)) & 0xFF


def _driver_error(error: BaseException) -> BaseException:
    if isinstance(error, sa.exc.DBAPIError) and error.orig is not None:
        return error.orig
    return error
