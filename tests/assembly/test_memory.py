"""What remembers, looked after: keys that are missing are told, and taken as soon as they are there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import structlog
import trio
from trio.testing import MockClock

from engine.assembly.memory import KEYS_EVERY_S, Remembering, remembering
from engine.observe.metrics import Metrics
from engine.settings import Secrets, Settings
from engine.settings.tables import StoreSettings
from engine.storage.keyring import KeyRing, new_key
from engine.storage.shelf import INDEX_KEY
from engine.storage.vault import Vault
from engine.storage.writer import BACKOFF_S, Writer
from tests.fakes.flaky_store import FlakyStore
from tests.sessions.rig import Clock


async def test_an_engine_without_the_stores_keys_says_so_until_it_has_them(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    key, file = new_key(), tmp_path / "keys"
    settings = Settings(secrets=Secrets(encryption_keys_file=str(file)))
    settings = replace(settings, store=replace(settings.store, kind="memory"))
    async with remembering(settings, {}, Metrics(), httpx.AsyncClient, now=Clock()) as memory:
        await memory.store.meta(INDEX_KEY, KeyRing.parse(key).seal(bytes(32), INDEX_KEY))
        assert not memory.vault.lacks_keys
        with structlog.testing.capture_logs() as logs:
            await memory.try_keys()
            await memory.try_keys()
        (told,) = [entry for entry in logs if entry["log_level"] == "error"]
        assert (told["event"], told["setting"]) == ("index_key_unreadable", "ENCRYPTION_KEYS")
        assert told["why"] == "ENCRYPTION_KEYS is missing"
        assert memory.vault.lacks_keys
        async with trio.open_nursery() as nursery:
            nursery.start_soon(memory.look_after)
            await trio.sleep(2 * KEYS_EVERY_S)
            assert memory.vault.lacks_keys
            file.write_text(key, "utf-8")
            await trio.sleep(2 * KEYS_EVERY_S)
            assert not memory.vault.lacks_keys
            nursery.cancel_scope.cancel()


async def test_a_wrong_key_is_told_from_a_missing_one(autojump_clock: MockClock) -> None:
    settings = Settings(secrets=Secrets(encryption_keys=new_key()))
    settings = replace(settings, store=replace(settings.store, kind="memory"))
    async with remembering(settings, {}, Metrics(), httpx.AsyncClient, now=Clock()) as memory:
        await memory.store.meta(INDEX_KEY, KeyRing.parse(new_key()).seal(bytes(32), INDEX_KEY))
        with structlog.testing.capture_logs() as logs:
            await memory.try_store()
        assert [entry["why"] for entry in logs if "why" in entry] == ["none of ENCRYPTION_KEYS opens it"]
        assert memory.vault.lacks_keys
        assert not memory.writer.is_down, "it answers"


@asynccontextmanager
async def remembering_in(store: FlakyStore) -> AsyncIterator[Remembering]:
    vault = Vault(store, KeyRing.parse(""), Metrics(), ttl_s=60.0, retention=10, operation_s=5.0, now=Clock())
    settings = replace(Settings(), store=StoreSettings(kind="memory"))
    async with remembering(settings, {}, Metrics(), httpx.AsyncClient, now=Clock()) as memory:
        yield replace(memory, store=store, vault=vault, writer=Writer(vault, None, Metrics()))


async def test_a_store_that_is_down_when_the_engine_starts_is_told_with_its_reason_and_tried_until_it_is_back(
    autojump_clock: MockClock,
) -> None:
    flaky = FlakyStore()
    async with remembering_in(flaky) as memory:
        with structlog.testing.capture_logs() as logs:
            flaky.fails = "refused"
            await memory.try_store()
            assert memory.writer.is_down
            async with trio.open_nursery() as nursery:
                nursery.start_soon(memory.writer.run)
                await trio.sleep(BACKOFF_S[0])
                flaky.fails = ""
                await trio.sleep(2 * BACKOFF_S[1])
                nursery.cancel_scope.cancel()
        assert not memory.writer.is_down
        told = [(entry["event"], entry.get("detail")) for entry in logs]
        assert told == [("store_down", "refused"), ("store_back", None)]


async def test_a_store_that_says_nothing_when_the_engine_starts_may_only_be_slow(autojump_clock: MockClock) -> None:
    flaky = FlakyStore()
    flaky.hangs = True
    async with remembering_in(flaky) as memory:
        with structlog.testing.capture_logs() as logs:
            await memory.try_store()
        assert not memory.writer.is_down
        assert [entry["event"] for entry in logs] == ["store_not_answering"]
