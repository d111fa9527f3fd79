"""The disk of store and journal is full: calls go on, nothing is torn, somebody is told, and with room it recovers."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import trio

from engine.settings import StoreSettings
from engine.storage.journal_frames import scan
from tests.faults.bench import captured_log
from tests.faults.store_bench import Caller, backlog_is, callers_words, export_of, quick_settings, sound
from tests.system.session_rig import program

DISK = "2m"
CALLER, NEWCOMER = "+15005550111", "+15005550112"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """2 MiB, as a file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = [shutil.which("mount") or "false", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system cannot be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


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
                await desk.ask("GET", "/api/health")
                lost = desk.total("store_lost_total")
                filler.unlink()
                await backlog_is(desk, lambda value: value == 0)
                after = len(caller.said)
                while desk.memory.writer.is_down:  # noqa: ASYNC110 - seen from outside
                    await trio.sleep(0.05)
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
