"""What remembers, looked after: keys that are missing are told, and taken as soon as they are there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import httpx
import structlog
import trio
from trio.testing import MockClock

from engine.assembly.memory import KEYS_EVERY_S, remembering
from engine.observe.metrics import Metrics
from engine.settings import Secrets, Settings
from engine.storage.keyring import KeyRing, new_key
from engine.storage.shelf import INDEX_KEY
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
            await memory.try_keys()
        assert [entry["why"] for entry in logs if "why" in entry] == ["none of ENCRYPTION_KEYS opens it"]
        assert memory.vault.lacks_keys
