"""The store's connections, as /metrics shows them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import trio

from engine.settings import StoreSettings
from tests.faults.store_bench import quick_settings
from tests.system.session_rig import program


async def test_a_connection_that_waits_for_a_locked_store_is_shown_as_in_use(tmp_path: Path) -> None:
    store = StoreSettings(kind="sqlite", path=str(tmp_path / "offhook.db"), journal=str(tmp_path / "offhook.journal"))
    async with program(quick_settings(store)) as desk:
        await desk.ask("POST", "/turn", json={"text": "Hello?"})
        with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(desk.ask, "POST", "/turn", json={"text": "Hello?"}, status=503))
                with trio.fail_after(10):
                    while not desk.total("store_connections_in_use"):  # noqa: ASYNC110 - a gauge, seen from outside
                        await trio.sleep(0.02)
