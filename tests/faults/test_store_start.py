"""Engines that start on one store at once, on one that another program is at, and on one that is too new."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import trio

from tests.fakes.servers import PostgresqlServer
from tests.faults.store_bench import Process, processes, sound

NEWER = "9999"
BAD_SETTINGS = 2
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
