"""What the errors of SQLite and PostgreSQL mean to us. None of their texts goes any further: they quote values, and of
an address that cannot be read perhaps the password."""

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

_MAY_PASS = {
    "failed to resolve host": "cannot be reached: no such host is known here",
    "the database system is": "is starting, stopping or recovering",
    "too many ": "has no connection free",
    "connection slots are reserved": "has no connection free",
    "not currently accepting": "lets nobody into the database",
}
"""How no connection came about, by what the text has in it, the first that fits. Only English is understood."""

_STAYS = {
    "password authentication failed": "says that the password, or the user, is wrong",
    "no password supplied": "wants a password: give the address in DATABASE_URL, with it",
    "pg_hba.conf": "does not let this user in from here: see its pg_hba.conf",
    "permission denied for database": "does not let this user into the database",
    'database "': "has no such database",
    'role "': "has no such user, or one that may not log in",
    "SSL was required": "has no TLS, which the address requires",
    "invalid ": "cannot be asked: the address has a part that does not belong there",
}
"""The same for what no waiting changes."""

RETRIED = frozenset({"40P01", "40001"})
"""Two transactions were in each other's way and this one lost: it can be run again."""

CAUGHT = (sa.exc.SQLAlchemyError, sqlite3.Error, OSError)
"""What an operation on a database may raise."""


class NotLetIn(StoreDown):
    """The server, or the way to it, is of no use to us as the settings are."""


def not_connected(error: BaseException, place: str) -> StoreDown:
    """What a connection to PostgreSQL that did not come about means; ``place`` is the server as we name it."""
    if "Timeout" in type(error).__name__:
        return StoreDown("timeout", f"{place} does not answer")
    text = str(error)
    for words, told in _MAY_PASS.items():
        if words in text:
            return StoreDown("refused", f"{place} {told}")
    for words, told in _STAYS.items():
        if words in text:
            return NotLetIn("refused", f"{place} {told}")
    return StoreDown("refused", f"{place} {'does not let us in' if 'FATAL' in text else 'cannot be reached'}")


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
    is_lost = why is None and (
        state.startswith("08") or (not state and type(cause).__name__ in ("OperationalError", "InterfaceError"))
    )
    if is_lost:
        return StoreDown("refused", "postgresql has closed the connection")
    return StoreDown(why or "error", f"postgresql {type(cause).__name__} {state}".rstrip())


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
