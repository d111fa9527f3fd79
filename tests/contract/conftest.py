"""Every kind of record store there is, for the tests of what is true for all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from engine.ports import RecordStore
from tests.contract.benches import Bench, memory_bench, postgresql_bench, redis_bench, sqlite_bench
from tests.fakes.servers import PostgresqlServer

KINDS = ("memory", "sqlite", "postgresql", "redis")


@pytest.fixture(scope="session")
def postgresql_url(session_postgresql: PostgresqlServer) -> str:
    """Of one database for all tests here; making its tables takes longer than most of them."""
    return session_postgresql.new_database()


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with empty tables."""
    path = tmp_path_factory.mktemp("sqlite") / "empty.db"

    async def make() -> None:
        async with sqlite_bench(path).open():
            pass

    trio.run(make)
    return path


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def bench(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    match kind:
        case "memory":
            return memory_bench()
        case "sqlite":
            path = tmp_path / "offhook.db"
            path.write_bytes(request.getfixturevalue("migrated_file").read_bytes())
            return sqlite_bench(path)
        case "postgresql":
            server, url = request.getfixturevalue("postgresql_server"), request.getfixturevalue("postgresql_url")
            server.empty(url)
            return postgresql_bench(url)
        case _:
            return redis_bench(request.getfixturevalue("redis_server"))


@pytest.fixture
async def store(bench: Bench) -> AsyncIterator[RecordStore]:
    async with bench.open() as store:
        yield store
