"""Records that do not open: put aside and counted, while the caller gets a fresh session; and keys exchanged live."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import structlog
import trio

from engine.settings import Settings, StoreSettings
from engine.storage.keyring import new_key
from tests.fakes.echo_agent import GREETING, OVER, RETURNING
from tests.faults.store_bench import (
    CLEAN,
    ROOT,
    Caller,
    Process,
    callers_words,
    export_of,
    processes,
    quick_settings,
)
from tests.system.session_rig import Program, program

CALLER, OTHER = "+15005550121", "+15005550122"
OPENING, WELCOME_BACK = (text.removesuffix(OVER).strip() for text in (GREETING, RETURNING))


@pytest.fixture(autouse=True)
def quiet_log(plain_log: None) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


@pytest.fixture
def store(tmp_path: Path) -> StoreSettings:
    return StoreSettings(kind="sqlite", path=str(tmp_path / "offhook.db"), journal=str(tmp_path / "offhook.journal"))


def on(store: StoreSettings, keys: str) -> Settings:
    return quick_settings(store, encryption_keys=keys)


async def told(desk: Program, number: str, words: str) -> str:
    """One call with one turn: its greeting."""
    async with desk.call(number) as talk:
        assert words in await talk.say(f"{words}.")
    await desk.settled()
    return talk.greeting


def plain_bytes(store: StoreSettings) -> bytes:
    folder = Path(store.path).parent
    return b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())


async def test_with_the_wrong_key_calls_go_on_and_with_the_right_one_all_is_back(store: StoreSettings) -> None:
    """No key opens the index either: to the engine that is a store that is down, and nothing is written over."""
    right, wrong = new_key(), new_key()
    async with program(on(store, right)) as desk:
        assert await told(desk, CALLER, "one violet elephant") == OPENING
    async with program(on(store, wrong)) as desk:
        refused = await desk.ask("GET", "/readyz", status=503)
        assert refused["error"]["code"] == "store_keys"
        assert await told(desk, CALLER, "two violet elephants") == OPENING
        await desk.ask("POST", "/turn", json={"text": "Hello?"}, status=503)
        await desk.ask("GET", f"/privacy/export/{CALLER}", status=503)
        assert desk.total("store_backlog") > 0
    assert b"elephant" not in plain_bytes(store)
    async with program(on(store, f"{right},{wrong}")) as desk:
        async with desk.call(OTHER):
            pass
        with trio.fail_after(15):
            while desk.total("store_backlog"):  # noqa: ASYNC110 - a gauge, seen from outside
                await trio.sleep(0.02)
        (session,) = await export_of(desk, CALLER)
        assert callers_words(session["messages"]) == ["one violet elephant.", "two violet elephants."]
    assert b"elephant" not in plain_bytes(store)


async def test_a_record_that_is_damaged_is_put_aside_counted_and_gives_way_to_a_fresh_session(
    store: StoreSettings,
) -> None:
    key = new_key()
    async with program(on(store, key)) as desk:
        assert await told(desk, CALLER, "one violet elephant") == OPENING
        assert await told(desk, OTHER, "one grey whale") == OPENING
        kept = (await export_of(desk, CALLER))[0]["session"]["session_id"]
    was = flipped(store, "sessions", kept)
    async with program(on(store, key)) as desk:
        assert await told(desk, CALLER, "two violet elephants") == OPENING
        assert await told(desk, OTHER, "two grey whales") == WELCOME_BACK
        assert desk.total("store_unreadable_total") > 0
        assert [callers_words(one["messages"]) for one in await export_of(desk, CALLER)] == [["two violet elephants."]]
    put_back(store, kept, was)
    async with program(on(store, key)) as desk:
        words = [callers_words(one["messages"]) for one in await export_of(desk, CALLER)]
        assert sorted(words) == [["one violet elephant."], ["two violet elephants."]]
    assert b"elephant" not in plain_bytes(store)


async def test_of_a_session_only_the_message_that_is_damaged_is_missing(store: StoreSettings) -> None:
    key = new_key()
    async with program(on(store, key)) as desk:
        async with desk.call(CALLER) as talk:
            await Caller(talk, "caller").turns(3)
        kept = (await export_of(desk, CALLER))[0]["session"]["session_id"]
    flipped(store, "sessions_messages", kept)
    async with program(on(store, key)) as desk:
        async with desk.call(CALLER) as talk:
            assert talk.greeting == WELCOME_BACK
            await Caller(talk, "again").turns(1)
        await desk.settled()
        (session,) = await export_of(desk, CALLER)
        texts = [message["text"] for message in session["messages"] if message["role"] == "user"]
        assert texts == ["caller word 1.", "caller word 2.", "caller word 3.", "again word 1."]
        assert session["unreadable"] == 1


def flipped(store: StoreSettings, table: str, session_id: str) -> bytes:
    """One bit of the body of the first such row; what the body was."""
    with closing(sqlite3.connect(store.path)) as database, database:
        at, body = database.execute(
            f"SELECT rowid, body FROM {table} WHERE session_id = ? ORDER BY rowid", (session_id,)
        ).fetchone()
        changed = bytearray(body)
        changed[-20] ^= 1
        database.execute(f"UPDATE {table} SET body = ? WHERE rowid = ?", (bytes(changed), at))
    return bytes(body)


def put_back(store: StoreSettings, session_id: str, body: bytes) -> None:
    """From a backup, say."""
    with closing(sqlite3.connect(store.path)) as database, database:
        database.execute("UPDATE sessions SET body = ? WHERE session_id = ?", (body, session_id))


async def test_keys_are_exchanged_while_the_engine_runs_and_the_old_one_can_go(tmp_path: Path) -> None:
    """The file of keys gets a new first one, what is left is sealed anew beside the running engine, then the old key is
    taken out; calls and turns go on all the while."""
    old, new = new_key(), new_key()
    keys = tmp_path / "keys"
    keys.write_text(old, "utf-8")
    process = Process(tmp_path / "engine", environ={"ENCRYPTION_KEYS_FILE": str(keys)})
    asked: list[str] = []
    async with processes(process), process.client() as client:

        async def ask(text: str) -> None:
            answer = await client.post("/turn", json={"text": text, "stream_sid": "robot"})
            assert answer.status_code == 200, answer.text
            asked.append(text)
            ids.add(answer.json()["session_id"])

        ids: set[str] = set()
        await ask("one violet elephant.")
        exchange(keys, f"{new}\n{old}\n")
        await told_of(process, "encryption_keys_exchanged", 1)
        await ask("two violet elephants.")
        async with trio.open_nursery() as nursery:
            leaving = trio.Event()

            async def keep_on() -> None:
                while not leaving.is_set():
                    await ask(f"{len(asked) + 1} violet elephants.")

            nursery.start_soon(keep_on)
            await trio.to_thread.run_sync(partial(reencrypt, process.folder, keys))
            leaving.set()
        await trio.to_thread.run_sync(partial(reencrypt, process.folder, keys))
        exchange(keys, f"{new}\n")
        await told_of(process, "encryption_keys_exchanged", 2)
        await ask("at last a violet elephant.")
        process.kill()
        await process.start()
        await ask("and another one.")
        (session_id,) = ids
        messages = (await client.get(f"/api/sessions/{session_id}/messages")).json()["messages"]
        assert callers_words(messages) == asked[-len(messages) // 2 :]
        assert await process.metric(client, "offhook_store_unreadable_total") == 0
    everything = b"".join(path.read_bytes() for path in process.folder.iterdir())
    assert b"elephant" not in everything
    assert old.partition(":")[2] not in process.log
    with closing(sqlite3.connect(process.folder / "offhook.db")) as database:
        for table in ("sessions", "sessions_messages", "sessions_traces"):
            for (body,) in database.execute(f"SELECT body FROM {table}"):
                assert body[2 : 2 + body[1]].decode() == new.partition(":")[0], table


def exchange(keys: Path, text: str) -> None:
    fresh = keys.with_suffix(".new")
    fresh.write_text(text, "utf-8")
    fresh.replace(keys)


async def told_of(process: Process, event: str, times: int) -> None:
    with trio.fail_after(20):
        while process.log.count(event) < times:  # noqa: ASYNC110 - a file, seen from outside
            await trio.sleep(0.05)


def reencrypt(folder: Path, keys: Path) -> None:
    environ = CLEAN | {"PYTHONPATH": str(ROOT), "ENCRYPTION_KEYS_FILE": os.fspath(keys)}
    command = [sys.executable, "-m", "engine", "store", "reencrypt", "--config", "offhook.toml"]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
