"""Engines that start on one store at once, on one that another program is at, and on one that is too new."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import psycopg
import pytest
import trio

from tests.fakes.servers import PostgresqlServer
from tests.faults.store_bench import BAD_SETTINGS, START_S, Process, processes, sessions_of, sound

NEWER = "9999"
OLDER = "CREATE TABLE sessions (session_id TEXT PRIMARY KEY, user_id TEXT NOT NULL, last_query TEXT)"
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = '{}' AND datname = current_database()"
ASK = {"text": "Hello?", "stream_sid": "robot"}


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_engines_that_start_at_once_on_an_empty_store_make_its_tables_once(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store: dict[str, object] = {"kind": kind, "path": str(tmp_path / "offhook.db")}
    if kind == "postgresql":
        server = request.getfixturevalue("postgresql_server")
        assert isinstance(server, PostgresqlServer)
        store["url"] = server.new_database()
    one, two = (Process(tmp_path / name, {"store": store}) for name in ("one", "two"))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.start)
            nursery.start_soon(two.start)
        ids = set()
        for process in (one, two):
            async with process.client() as client:
                answer = await client.post("/turn", json=ASK)
                assert answer.status_code == 200, answer.text
                ids.add(answer.json()["session_id"])
        assert len(ids) == 1
        assert "error" not in one.log + two.log
    finally:
        one.kill()
        two.kill()
    if kind == "sqlite":
        sound(tmp_path / "offhook.db")


async def test_an_engine_waits_for_another_one_that_migrates(tmp_path: Path) -> None:
    path = tmp_path / "offhook.db"
    process = Process(tmp_path / "engine", {"store": {"path": str(path)}})
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(process.start)
            await trio.sleep(3)
            other.execute("COMMIT")
    try:
        async with process.client() as client:
            assert (await client.post("/turn", json=ASK)).status_code == 200
    finally:
        process.kill()


async def test_an_engine_killed_in_mid_migration_leaves_the_next_one_all_of_it_to_do(
    tmp_path: Path, postgresql_server: PostgresqlServer
) -> None:
    """Of an older program's table, whose rows stay as they are. The next one waits for the migration meanwhile."""
    url = postgresql_server.new_database()

    def execute(statement: str) -> list[tuple[object, ...]]:
        return postgresql_server.execute(statement, url=url)

    execute(OLDER)
    execute("INSERT INTO sessions VALUES ('old', '+15550100001', 'Which size?')")
    one, two = (
        Process(tmp_path / name, {"store": {"kind": "postgresql", "url": url, "operation_s": 0.5}})
        for name in ("one", "two")
    )
    try:
        with psycopg.connect(url) as reader:
            reader.execute("SELECT * FROM sessions")
            one.spawn()
            await until(lambda: execute(WAITING.format("relation")) == [(1,)])
            two.spawn()
            await until(lambda: execute(WAITING.format("advisory")) == [(1,)])
            one.kill()
            assert execute("SELECT to_regclass('sessions_version')") == [(None,)], "nobody sees anything of it"
        for process in (two, one):
            async with process.client() as client:
                if process is one:
                    await one.start()
                await until_answered(client)
        assert execute("SELECT version_num FROM sessions_version") == [("0001",)]
        assert execute("SELECT user_id, last_query FROM sessions WHERE session_id = 'old'") == [
            ("+15550100001", "Which size?")
        ]
        async with two.client() as client:
            await until_adopted(client)
    finally:
        one.kill()
        two.kill()


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(START_S):
        while not is_so():  # noqa: ASYNC110 - seen from outside
            await trio.sleep(0.02)


async def until_answered(client: httpx.AsyncClient) -> None:
    """A turn, by an engine that may not have got to its store yet."""
    with trio.fail_after(START_S):
        while True:
            try:
                if (await client.post("/turn", json=ASK)).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await trio.sleep(0.05)


async def until_adopted(client: httpx.AsyncClient) -> None:
    with trio.fail_after(START_S):
        while "'old'" not in str(await sessions_of(client, "+15550100001")):  # noqa: ASYNC110 - seen from outside
            await trio.sleep(0.1)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_store_of_a_newer_program_is_refused_in_one_line_and_left_alone(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "offhook.db"
    store: dict[str, object] = {"kind": kind, "path": str(path)}
    if kind == "postgresql":
        server = request.getfixturevalue("postgresql_server")
        store["url"] = server.new_database()
    process = Process(tmp_path / "engine", {"store": store})
    async with processes(process), process.client() as client:
        assert (await client.post("/turn", json=ASK)).status_code == 200
        assert await process.stop() == 0
    if kind == "sqlite":
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("UPDATE sessions_version SET version_num = ?", (NEWER,))
    else:
        with psycopg.connect(str(store["url"]), autocommit=True) as connection:
            connection.execute("UPDATE sessions_version SET version_num = %s", (NEWER,))
    before = path.read_bytes() if kind == "sqlite" else b""
    (process.folder / "log").unlink()
    process.spawn()
    try:
        assert await process.ended(20.0) == BAD_SETTINGS
    finally:
        process.kill()
    told = [line for line in process.log.splitlines() if NEWER in line]
    assert len(told) == 1
    assert "is of a newer version" in told[0]
    assert "Traceback" not in process.log
    assert kind == "postgresql" or path.read_bytes() == before
