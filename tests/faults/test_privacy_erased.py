"""A number that was erased stays erased: idle, in a live call, with words in the journal, and with kill -9 right after.
And what has expired while no engine ran is gone when one does."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import cache
from pathlib import Path

import httpx
import psycopg
import pytest
import structlog
import trio

from engine.phone.phone import SIDES, open_phone
from engine.phone.side import Callee
from engine.settings import StoreSettings
from tests.fakes.echo_agent import GREETING, OVER
from tests.fakes.servers import PostgresqlServer
from tests.faults.store_bench import Process, callers_words, export_of, processes, quick_settings, sessions_of
from tests.system.session_rig import LINE, SECRET, Talk, program, store_settings

CALLER, OTHER = "+15005550141", "+15005550142"
OPENING = GREETING.removesuffix(OVER).strip()


@pytest.fixture(autouse=True)
def quiet_log(plain_log: None) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


@asynccontextmanager
async def calling(url: str, number: str) -> AsyncIterator[Talk]:
    callee = Callee(url, caller=number, dialled=LINE, secret=SECRET, attestation="A")
    async with open_phone() as phone, phone.call(SIDES["twilio"](callee)) as call:
        talk = Talk(call)
        talk.greeting = await talk.hear()
        yield talk


async def stored(client: httpx.AsyncClient, number: str, words: list[str]) -> None:
    """Until this is what is stored of the number."""
    with trio.fail_after(20):
        while await words_of(client, number) != words:  # noqa: ASYNC110 - asked of another process
            await trio.sleep(0.05)


async def words_of(client: httpx.AsyncClient, number: str) -> list[str]:
    return [text for one in await sessions_of(client, number) for text in callers_words(one["messages"])]


async def backlog(process: Process, client: httpx.AsyncClient, at_least: int) -> None:
    with trio.fail_after(20):
        while await process.metric(client, "offhook_store_backlog") < at_least:  # noqa: ASYNC110 - as above
            await trio.sleep(0.02)


async def backlog_gone(process: Process) -> None:
    """The journal goes a moment after its last turn can be read in the store."""
    with trio.fail_after(20):
        while (process.folder / "offhook.journal").exists():  # noqa: ASYNC110 - as above
            await trio.sleep(0.02)


def bytes_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())


async def test_erased_while_idle_and_in_a_live_call_and_killed_at_once_nothing_comes_back(tmp_path: Path) -> None:
    process = Process(tmp_path / "engine")
    async with processes(process), process.client() as client:
        async with calling(process.url, OTHER) as talk:
            await talk.say("one grey whale.")
            await stored(client, OTHER, ["one grey whale."])
        async with calling(process.url, CALLER) as talk:
            await talk.say("one violet elephant.")
            await stored(client, CALLER, ["one violet elephant."])
            for number in (OTHER, CALLER):
                answer = await client.delete(f"/privacy/delete/{number}")
                assert (answer.status_code, answer.json()) == (200, {"sessions": 1})
            assert "two violet elephants" in await talk.say("two violet elephants.")
            process.kill()
        left = bytes_in(process.folder)
        await process.start()
        for number in (OTHER, CALLER):
            assert await sessions_of(client, number) == []
            assert number.encode() not in left
            async with calling(process.url, number) as talk:
                assert talk.greeting == OPENING
                assert "You said Who am I" in await talk.say("Who am I?")
    for words in (b"whale", b"elephant"):
        assert words not in left
        assert words not in bytes_in(process.folder)


async def test_erased_with_words_in_the_journal_and_killed_at_once_these_do_not_come_back(
    tmp_path: Path, postgresql_server: PostgresqlServer
) -> None:
    """With its store down the engine cannot say that all is gone; but what it keeps itself is."""
    store = {"kind": "postgresql", "url": postgresql_server.new_database(), "operation_s": 1.0}
    process = Process(tmp_path / "engine", {"store": store})
    async with processes(process), process.client() as client:
        for number in (CALLER, OTHER):
            async with calling(process.url, number) as talk:
                await talk.say("this is in the store.")
                await stored(client, number, ["this is in the store."])
        postgresql_server.stop()
        for number, words in ((CALLER, "one violet elephant."), (OTHER, "one grey whale.")):
            was = int(await process.metric(client, "offhook_store_backlog"))
            async with calling(process.url, number) as talk:
                await talk.say(words)
                await backlog(process, client, was + 1)
        journal = process.folder / "offhook.journal"
        assert b"elephant" in journal.read_bytes()
        refused = await client.delete(f"/privacy/delete/{CALLER}")
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        process.kill()
        assert b"elephant" not in bytes_in(process.folder)
        assert b"whale" in journal.read_bytes()
        postgresql_server.start()
        await process.start()
        await stored(client, OTHER, ["this is in the store.", "one grey whale."])
        await stored(client, CALLER, ["this is in the store."])
        assert (await client.delete(f"/privacy/delete/{CALLER}")).json() == {"sessions": 1}
        process.kill()
        await process.start()
        assert await sessions_of(client, CALLER) == []


async def test_journaled_turns_of_a_call_survive_a_kill_of_the_engine_while_the_store_is_down(
    tmp_path: Path, postgresql_server: PostgresqlServer
) -> None:
    """Both are started again, and every turn is there, once, in order."""
    store = {"kind": "postgresql", "url": postgresql_server.new_database(), "operation_s": 1.0}
    process = Process(tmp_path / "engine", {"store": store})
    said = []
    async with processes(process), process.client() as client:
        async with calling(process.url, CALLER) as talk:
            for number in range(6):
                if number == 2:
                    postgresql_server.stop()
                was = int(await process.metric(client, "offhook_store_backlog"))
                said.append(f"word {number}.")
                assert said[-1] in await talk.say(said[-1])
                if number >= 2:
                    await backlog(process, client, was + 1)
                else:
                    await stored(client, CALLER, said)
            process.kill()
        postgresql_server.start()
        await process.start()
        await stored(client, CALLER, said)
        await backlog_gone(process)
        process.kill()
        await process.start()
        await stored(client, CALLER, said)


@cache
def long_ago() -> float:
    return time.time() - 60.0


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_what_has_expired_while_no_engine_ran_is_gone(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """To callers and to holders of keys at once, and in the file with the first purge. (Redis lets go by itself.)"""
    settings = quick_settings(store_settings(kind, tmp_path, request))
    async with program(settings) as desk:
        for number, words in ((CALLER, "one violet elephant"), (OTHER, "one grey whale")):
            async with desk.call(number) as talk:
                await talk.say(f"{words}.")
        await desk.settled()
        expired = (await desk.session_of(CALLER))["session_id"]
    expire(settings.store, expired)
    async with program(settings) as desk:
        assert len(await export_of(desk, OTHER)) == 1
        assert await export_of(desk, CALLER) == []
        await desk.ask("GET", f"/api/sessions/{expired}", status=404)
        async with desk.call(CALLER) as talk:
            assert talk.greeting == OPENING
        assert await desk.memory.vault.purge() <= 1
        assert len(await export_of(desk, OTHER)) == 1
    if kind == "sqlite":
        left = bytes_in(tmp_path)
        assert b"whale" in left
        assert b"elephant" not in left


def expire(store: StoreSettings, session_id: str) -> None:
    """As though its time had passed."""
    statement = "UPDATE sessions SET expires_at = {0} WHERE session_id = {0}"
    if store.kind == "sqlite":
        with closing(sqlite3.connect(store.path)) as database, database:
            changed = database.execute(statement.format("?"), (long_ago(), session_id)).rowcount
    else:
        with psycopg.connect(store.url, autocommit=True) as server:
            changed = server.execute(statement.format("%s"), (long_ago(), session_id)).rowcount
    assert changed == 1
