"""What a SQL store needs of its database, and what SQLite and PostgreSQL have in common in giving it."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from threading import Lock
from typing import Any, Protocol

import sqlalchemy as sa

from adapters.stores.sql_tables import Tables
from engine.errors import StoreDown


class LostRace(Exception):
    """Two transactions were in each other's way, and this one is undone: it can be run again."""


class Database(Protocol):
    """Used in threads only. Everything raises StoreDown, and nothing else, unless it says otherwise; ``writing`` raises
    LostRace, too."""

    backend: str
    tables: Tables
    has_full_text: bool

    @property
    @abstractmethod
    def writers(self) -> int:
        """How many threads may write at once."""

    @property
    @abstractmethod
    def readers(self) -> int:
        """How many threads may read at once besides; 0: readers count as writers."""

    def open(self) -> None:
        """Reach it and bring it to the schema of this program. Raises SettingsError if it cannot be used at all."""

    def writing(self, limit_s: float | None = None) -> AbstractContextManager[sa.Connection]:
        """A transaction, committed when the block is left without an error. It is over after ``limit_s`` at the
        latest, which is some seconds if not said."""

    def reading(self) -> AbstractContextManager[sa.Connection]:
        """All that is read in the block is of one moment."""

    def hold(
        self, connection: sa.Connection, subjects: Sequence[str], session_ids: Sequence[str], *, alone: bool
    ) -> None:
        """Until the transaction ends nobody erases one of these subjects, or with ``alone`` makes a session of one, and
        nobody changes one of these sessions."""

    def matching(self, words: Sequence[str]) -> sa.ColumnElement[bool]:
        """Messages that hold all the words."""

    def forget(self, connection: sa.Connection) -> None:
        """In the transaction that has deleted: take the words out of the full text index, too."""

    def wipe(self, *, thoroughly: bool) -> None:
        """After the transaction that has deleted: leave no byte of it, as far as that can be done here. Not
        ``thoroughly``: with less effort."""

    def cut(self, *, everything: bool = False) -> None:
        """End what has run too long, or all; nothing more begins then. From any thread, at once."""

    def close(self) -> None:
        """Let go of everything that is not in use; a thread that is still at work lets go of its own when it ends."""


class Leases:
    """Which connections are in use, and until when: a thread that hangs in one can be freed from another."""

    def __init__(self, interrupt: Callable[[Any], None]) -> None:
        """``interrupt`` ends what a driver's connection is doing. It is called from another thread."""
        self._interrupt = interrupt
        self._lock = Lock()
        self._until: dict[int, tuple[float, Any]] = {}
        self.is_closed = False

    @contextmanager
    def lease(self, engine: sa.Engine, limit_s: float) -> Iterator[sa.Connection]:
        if self.is_closed:
            raise StoreDown("refused", "the store is closed")
        connection = engine.connect()
        driver = connection.connection.driver_connection
        with self._lock:
            self._until[id(driver)] = (time.monotonic() + limit_s, driver)
        try:
            yield connection
        finally:
            with self._lock:
                del self._until[id(driver)]
            if self.is_closed:
                # The pool it would go back to is gone.
                connection.invalidate()
            connection.close()

    def cut(self, *, everything: bool = False) -> None:
        now = time.monotonic()
        self.is_closed = self.is_closed or everything
        with self._lock:
            for until, driver in self._until.values():
                if everything or now > until:
                    self._interrupt(driver)
