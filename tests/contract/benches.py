"""A place for each kind of record store, with a clock that the test moves, and the rows that tests write."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from adapters.stores.memory import MemoryStore
from adapters.stores.redis import open_redis
from adapters.stores.sql import open_postgresql, open_sqlite
from engine.ports import Append, MessageRow, RecordStore, SessionRow, TraceRow, Write, Written
from tests.fakes.servers import RedisServer

T0 = float(int(time.time())) + 0.123456
"""Near the real time: Redis lets go of a key by its own clock as well."""
DAY_S = 86400.0


@dataclass
class Clock:
    """What the stores take for the time. Unix seconds."""

    at: float = T0

    def __call__(self) -> float:
        return self.at


@dataclass(frozen=True)
class Bench:
    kind: str
    clock: Clock
    open: Callable[[], AbstractAsyncContextManager[RecordStore]]
    """Each time another store, on the same data."""


def memory_bench() -> Bench:
    clock = Clock()
    store = MemoryStore(clock)

    @asynccontextmanager
    async def opening() -> AsyncIterator[RecordStore]:
        yield store

    return Bench("memory", clock, opening)


def sqlite_bench(path: Path) -> Bench:
    clock = Clock()
    return Bench("sqlite", clock, lambda: open_sqlite(path, table="sessions", now=clock, busy_s=5.0))


def postgresql_bench(url: str) -> Bench:
    clock = Clock()
    return Bench(
        "postgresql",
        clock,
        lambda: open_postgresql(url, table="sessions", now=clock, connections=4, connect_s=5.0),
    )


def redis_bench(server: RedisServer) -> Bench:
    clock = Clock()
    return Bench("redis", clock, lambda: open_redis(server.host, server.port, prefix="sessions", now=clock))


# --- rows ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """Rows of one session."""

    session_id: str = "s1"
    key: str = "k1"
    subject: str = "anna"
    started_at: float = T0
    expires_at: float = T0 + DAY_S

    def head(self, version: int = 0, body: bytes = b"head") -> SessionRow:
        return SessionRow(
            self.session_id, self.key, self.subject, version, self.started_at, self.started_at, self.expires_at, body
        )

    def append(self, version: int, *messages: MessageRow, retention: int = 50) -> Append:
        return Append(self.head(version), messages, retention=retention)


def message(number: int, body: bytes = b"", text: str = "", at: float | None = None) -> MessageRow:
    return MessageRow(f"m{number}", T0 + number if at is None else at, body or b"body %d" % number, text)


def trace(number: int) -> TraceRow:
    return TraceRow(T0 + number, b"trace %d" % number)


async def written(store: RecordStore, *writes: Write) -> int:
    """All of them, as it should be. The version after the last."""
    outcomes = await store.write(writes)
    versions = [outcome.version for outcome in outcomes if isinstance(outcome, Written)]
    assert len(versions) == len(writes), outcomes
    return versions[-1]


async def ids(store: RecordStore, session_id: str = "s1", last: int = 1000) -> list[str]:
    """Of the messages of a session."""
    found = await store.get(session_id, last=last)
    return [message.message_id for message in found.messages] if found else []
