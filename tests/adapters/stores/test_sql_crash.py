"""Killed at any moment, SQLite's file has every turn that was acknowledged, once, in order; a migration all or nothing.

OFFHOOK_KILLS says how often the writer is killed; 20 by default.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from contextlib import closing, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import sqlalchemy as sa
import trio

from adapters.stores.sql import open_sqlite
from engine.ports import Append, MessageRow
from tests.contract.benches import DAY_S, Rows, written
from tests.fakes.forks import forks

KILLS = int(os.environ.get("OFFHOOK_KILLS", "20"))
SESSIONS = 3
EACH_WAIT_S = 20.0


@pytest.fixture(name="forks")
def forks_() -> ForkServerContext:
    """Children that need not load everything first."""
    return forks()


# --- in the child -------------------------------------------------------------------------------------------


def append_for_ever(path: str, told: Connection) -> None:
    async def main() -> None:
        async with open_sqlite(path) as store:
            found = [await store.get(f"s{number}", last=1) for number in range(SESSIONS)]
            versions = [one.row.version if one else 0 for one in found]
            while True:
                writes = [turn(number, version) for number, version in enumerate(versions)]
                await written(store, *writes)
                told.send([(write.head.session_id, row.message_id) for write in writes for row in write.messages])
                versions = [version + 1 for version in versions]

    trio.run(main)


def open_and_die(path: str, statements: int) -> None:
    """Before the next statement, after so many of them."""
    left = iter(range(statements))

    def count(*_: object) -> None:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    async def main() -> None:
        sa.event.listen(sa.Engine, "before_cursor_execute", count)
        sa.event.listen(sa.Engine, "commit", count)
        async with open_sqlite(path):
            pass

    trio.run(main)


def turn(number: int, version: int) -> Append:
    now = time.time()
    rows = Rows(f"s{number}", f"k{number}", started_at=now, expires_at=now + DAY_S)
    messages = tuple(
        MessageRow(f"{version:05d}-{side}", now, os.urandom(300), f"{side} said it in turn {version}")
        for side in ("1-caller", "2-agent")
    )
    return replace(rows.append(version, *messages, retention=1_000_000), traces_kept=5)


# --- and outside --------------------------------------------------------------------------------------------


def test_what_was_acknowledged_is_there_once_and_in_order_however_often_it_is_killed(
    forks: ForkServerContext, tmp_path: Path
) -> None:
    path, chance = tmp_path / "offhook.db", random.Random(1)
    acknowledged: list[tuple[str, str]] = []
    for kill in range(KILLS):
        acknowledged += killed_while_appending(forks, path, chance)
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)], kill
            assert database.execute("PRAGMA foreign_key_check").fetchall() == []
            there = database.execute(
                "SELECT session_id, message_id FROM sessions_messages ORDER BY position"
            ).fetchall()
            versions = dict(database.execute("SELECT session_id, version FROM sessions").fetchall())
        for number in range(SESSIONS):
            ours = [message_id for session_id, message_id in there if session_id == f"s{number}"]
            assert ours == sorted(set(ours)), kill
            assert len(ours) == 2 * versions[f"s{number}"], "a turn is whole, and counted"
        assert set(acknowledged) <= set(there), kill
    assert len(acknowledged) >= KILLS * 2 * SESSIONS


def killed_while_appending(forks: ForkServerContext, path: Path, chance: random.Random) -> list[tuple[str, str]]:
    """What it acknowledged."""
    ear, mouth = forks.Pipe(duplex=False)
    child = forks.Process(target=append_for_ever, args=(str(path), mouth))
    acknowledged: list[tuple[str, str]] = []
    child.start()
    mouth.close()
    with ear:
        assert ear.poll(EACH_WAIT_S)
        acknowledged += ear.recv()
        # Somewhere in the next turns: a commit takes some milliseconds.
        until = time.monotonic() + chance.random() * 0.04
        while (left := until - time.monotonic()) > 0:
            if ear.poll(left):
                acknowledged += ear.recv()
        child.kill()
        child.join(EACH_WAIT_S)
        with suppress(EOFError):
            while True:
                acknowledged += ear.recv()
    assert child.exitcode == -signal.SIGKILL
    child.close()
    return acknowledged


@pytest.mark.parametrize("is_older", [False, True])
def test_a_migration_that_is_killed_has_not_happened_and_happens_the_next_time(
    forks: ForkServerContext, tmp_path: Path, is_older: bool
) -> None:
    kills = 0
    for statements in range(1, 200, 19):
        path = tmp_path / f"{statements}.db"
        if is_older:
            with closing(sqlite3.connect(path)) as database:
                database.execute("CREATE TABLE sessions (session_id TEXT PRIMARY KEY, user_id TEXT NOT NULL)")
                database.execute("INSERT INTO sessions VALUES ('old', 'anna')")
                database.commit()
        child = forks.Process(target=open_and_die, args=(str(path), statements))
        child.start()
        child.join(EACH_WAIT_S)
        was_killed = child.exitcode == -signal.SIGKILL
        child.close()
        kills += was_killed
        with closing(sqlite3.connect(path)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert tables == ({"sessions"} if is_older else set()) or not was_killed, (statements, tables)
        assert trio.run(use, path) == ([{"session_id": "old", "user_id": "anna"}] if is_older else [])
        if not was_killed:
            break
    assert kills >= 3


async def use(path: Path) -> list[dict[str, str]]:
    async with open_sqlite(path) as store:
        await written(store, turn(0, 0))
        return [dict(row) for row in await store.legacy()]
