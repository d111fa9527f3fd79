"""The disk of store and journal is full, cannot be written or fails: calls go on, nothing is torn, somebody is told,
and when the disk is well again all recovers. An engine does not start on such a disk, and says why.

A full and a read-only one are file systems of their own, which takes root. A failing one is a limit on the size of
files: SQLite gets an error of input and output from it.
"""

from __future__ import annotations

import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import structlog
import trio

from engine.assembly import Engine
from engine.errors import SettingsError
from engine.settings import StoreSettings
from engine.storage.journal_frames import scan
from tests.faults.bench import captured_log
from tests.faults.store_bench import (
    BAD_SETTINGS,
    START_S,
    Caller,
    Process,
    backlog_is,
    callers_words,
    calling,
    export_of,
    processes,
    quick_settings,
    sessions_of,
    sound,
)
from tests.system.session_rig import Program, program

DISK = "2m"
CALLER, NEWCOMER = "+15005550111", "+15005550112"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """2 MiB, as a file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount(folder, "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def mount(folder: Path, *how: str) -> None:
    if subprocess.run([shutil.which("mount") or "false", *how, folder], capture_output=True, check=False).returncode:
        pytest.skip("a file system cannot be mounted here (needs root)")


# --- while it runs ------------------------------------------------------------------------------------------


async def test_with_a_full_disk_calls_go_on_and_with_room_what_was_kept_is_stored(small_disk: Path) -> None:
    store = StoreSettings(
        kind="sqlite", path=str(small_disk / "offhook.db"), journal=str(small_disk / "offhook.journal")
    )
    with captured_log() as logged:
        async with program(quick_settings(store)) as desk:
            async with desk.call(CALLER) as talk:
                caller = Caller(talk, "caller")
                usual_s = await caller.turns(3)
                await desk.settled()
                stored = list(caller.said)
                filler = fill(small_disk)
                full_s = await caller.turns(4)
                async with desk.call(NEWCOMER) as fresh:
                    await Caller(fresh, "newcomer").turns(1)
                await desk.ask("POST", "/turn", json={"text": "Is it lost?", "stream_sid": "robot"}, status=503)
                await health_is(desk, "degraded")
                lost = desk.total("store_lost_total")
                filler.unlink()
                await backlog_is(desk, lambda value: value == 0)
                after = len(caller.said)
                await health_is(desk, "ok")
                await caller.turns(3)
            there = callers_words((await export_of(desk, CALLER))[0]["messages"])
            await desk.turn("And now?", "robot")
            assert desk.total("store_errors_total", error="full") > 0
    assert full_s < usual_s + 0.3
    assert there[:3] == stored
    assert there[-3:] == caller.said[after:]
    assert there == sorted(there, key=caller.said.index), "in their order, each once"
    assert len(there) == len(set(there)) >= len(caller.said) - lost
    assert lost > 0
    events = [event["event"] for event in logged]
    assert "store_down" in events
    assert "saves_lost" in events
    assert not any(event.get("exc_info") for event in logged)
    sound(small_disk / "offhook.db")
    assert not (small_disk / "offhook.journal").exists()


async def health_is(desk: Program, status: str) -> None:
    """Calls are taken in any case."""
    with trio.fail_after(START_S):
        while (await desk.ask("GET", "/api/health"))["status"] != status:  # noqa: ASYNC110 - seen from outside
            await trio.sleep(0.05)
    assert desk.engine.supervisor.ready[0]


async def test_a_full_disk_tears_no_record_of_the_journal(small_disk: Path) -> None:
    """The store is locked, so all goes to the journal, whose disk has room for a part of it."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    path, journal = small_disk.parent / "offhook.db", small_disk / "offhook.journal"
    async with program(quick_settings(StoreSettings(kind="sqlite", path=str(path), journal=str(journal)))) as desk:
        async with desk.call(CALLER) as talk:
            caller = Caller(talk, "caller")
            await caller.turns(1)
            await desk.settled()
            other = sqlite3.connect(path, isolation_level=None)
            other.execute("BEGIN EXCLUSIVE")
            await caller.turns(1)
            await backlog_is(desk, lambda value: value > 0)
            fill(small_disk, but_bytes=8192)
            while not desk.total("store_lost_total"):
                await caller.turns(1)
            seen = scan(journal.read_bytes())
            assert not seen.damaged
            assert seen.end == journal.stat().st_size
            other.close()
            await backlog_is(desk, lambda value: value == 0)
        there = callers_words((await export_of(desk, CALLER))[0]["messages"])
    assert there == sorted(set(there), key=caller.said.index)
    assert there[:3] == caller.said[:3]


async def test_with_a_journal_that_cannot_be_written_calls_go_on_and_the_loss_is_counted(small_disk: Path) -> None:
    """The store is locked, and the journal's file system has become read-only."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    path, journal = small_disk.parent / "offhook.db", small_disk / "offhook.journal"
    async with program(quick_settings(StoreSettings(kind="sqlite", path=str(path), journal=str(journal)))) as desk:
        async with desk.call(CALLER) as talk:
            caller = Caller(talk, "caller")
            usual_s = await caller.turns(2)
            await desk.settled()
            mount(small_disk, "-o", "remount,ro")
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN EXCLUSIVE")
                locked_s = await caller.turns(2)
                while not desk.total("store_lost_total"):
                    await caller.turns(1)
                await desk.ask("POST", "/turn", json={"text": "Is it lost?", "stream_sid": "robot"}, status=503)
            while desk.memory.writer.is_down:  # noqa: ASYNC110 - seen from outside
                await trio.sleep(0.02)
            after = len(caller.said)
            await caller.turns(2)
            lost = desk.total("store_lost_total")
        there = callers_words((await export_of(desk, CALLER))[0]["messages"])
    assert locked_s < usual_s + 0.3
    assert there[:2] == caller.said[:2]
    assert there[-2:] == caller.said[after:]
    assert there == sorted(set(there), key=caller.said.index)
    assert len(there) >= len(caller.said) - lost


async def test_a_disk_that_fails_under_database_journal_and_log_stops_nobody_and_tears_nothing(tmp_path: Path) -> None:
    process = Process(tmp_path / "engine")
    async with processes(process), process.client() as client:
        async with calling(process, CALLER) as talk:
            caller = Caller(talk, "caller")
            await caller.turns(2)
            stored = await words_when(client, 2)
            limit_files(process, 0)
            await caller.turns(3)
            assert (await ask(client, "Is it lost?")).status_code == 503
            assert (await client.get("/readyz")).status_code == 200
            assert await process.metric(client, "offhook_store_lost_total") > 0
            limit_files(process, resource.RLIM_INFINITY)
            with trio.fail_after(START_S):
                while (await ask(client, "Is it back?")).status_code != 200:  # noqa: ASYNC110 - seen from outside
                    await trio.sleep(0.1)
            await caller.turns(2)
            there = await words_when(client, 4)
            lost = await process.metric(client, "offhook_store_lost_total")
        assert await process.stop() == 0
    assert stored == caller.said[:2]
    assert there[:2] == stored
    assert there[-2:] == caller.said[-2:]
    assert there == sorted(set(there), key=caller.said.index)
    assert len(there) >= len(caller.said) - lost
    sound(process.folder / "offhook.db")
    assert "Traceback" not in process.log


def limit_files(process: Process, max_bytes: int) -> None:
    """Whatever the process writes to beyond this fails; the log of these tests is a file, too."""
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (max_bytes, resource.RLIM_INFINITY))


async def ask(client: httpx.AsyncClient, text: str) -> httpx.Response:
    return await client.post("/turn", json={"text": text, "stream_sid": "robot"})


async def words_when(client: httpx.AsyncClient, count: int) -> list[str]:
    """What is stored of the caller's words, once there are so many."""
    with trio.fail_after(START_S):
        while True:
            sessions = await sessions_of(client, CALLER)
            there = callers_words(sessions[0]["messages"]) if sessions else []
            if len(there) >= count:
                return there
            await trio.sleep(0.02)


# --- at the start -------------------------------------------------------------------------------------------


async def test_an_engine_does_not_start_on_a_full_disk_and_says_so_at_once(small_disk: Path, tmp_path: Path) -> None:
    store = {"path": str(small_disk / "offhook.db"), "journal": str(small_disk / "offhook.journal")}
    process = Process(tmp_path / "engine", {"store": store})
    fill(small_disk)
    process.spawn()
    try:
        assert await process.ended(20.0) == BAD_SETTINGS
        assert process.log.splitlines() == [
            f"offhook: store.path: {store['path']} cannot be used as a database of SQLite: its disk is full"
        ]
    finally:
        process.kill()


@pytest.mark.parametrize("setting", ["path", "journal"])
async def test_an_engine_does_not_start_with_a_folder_that_cannot_be_written(setting: str, small_disk: Path) -> None:
    there = StoreSettings(
        path=str(small_disk.parent / "offhook.db"), journal=str(small_disk.parent / "offhook.journal")
    )
    mount(small_disk, "-o", "remount,ro")
    here = str(small_disk / "here")
    store = replace(there, path=here) if setting == "path" else replace(there, journal=here)
    with pytest.raises(SettingsError, match=rf"^store\.{setting}: .*{here}"):
        await Engine(quick_settings(store)).run()


def fill(folder: Path, *, but_bytes: int = 0) -> Path:
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        size = shutil.disk_usage(folder).free - but_bytes
        file.write(bytes(size))
        if not but_bytes:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
    return filler
