"""What SQLite does beyond the contract of record stores: locked by others, full, foreign, and without remains."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
import trio

from adapters.stores import sql_read
from adapters.stores.sql import SqlStore, open_sqlite
from engine.errors import SettingsError, StoreDown
from engine.ports import Append, AuditRow, Gone, MessageRow, Remove, TraceRow
from tests.contract.benches import DAY_S, T0, Clock, Rows, ids, message, trace, written


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "offhook.db"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """By another program."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


def bytes_of(path: Path) -> dict[str, bytes]:
    """All files of a database."""
    return {file.name: file.read_bytes() for file in path.parent.glob(f"{path.name}*")}


def remains(path: Path, *words: str) -> set[tuple[str, str]]:
    return {(name, word) for name, content in bytes_of(path).items() for word in words if word.encode() in content}


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def damage(path: Path, from_byte: int) -> None:
    content = path.read_bytes()
    put(path, content[:from_byte] + b"\xff" * (len(content) - from_byte))


def spoken(name: str, version: int = 0, retention: int = 50, count: int = 3) -> Append:
    """A turn whose every byte names its session."""
    rows = Rows(f"id-{name}", f"key-{name}", f"subject-{name}")
    messages = tuple(
        MessageRow(f"m{version}-{number}", T0, f"body-{name} ".encode() * 9, f"hello word-{name} again {number} " * 5)
        for number in range(count)
    )
    head = rows.head(version, f"head-{name} ".encode() * 40)
    return Append(head, messages, (TraceRow(T0, f"trace-{name}".encode()),), retention=retention)


def all_words(name: str) -> list[str]:
    return [f"{what}-{name}" for what in ("id", "key", "head", "body", "trace")] + [name]


# --- nothing is left ----------------------------------------------------------------------------------------


async def test_nothing_of_an_erased_subject_is_left_in_the_files(path: Path) -> None:
    async with open_sqlite(path, now=Clock()) as store:
        for version in range(4):
            await written(store, *(spoken(name, version) for name in ("anna", "bert", "carl")))
        assert remains(path, *all_words("bert"))

        assert await store.erase("subject-bert", T0) == 1

        # The tombstone alone has it.
        assert not remains(path, *all_words("bert")) - {(path.name, "bert")}
        assert sum(content.count(b"bert") for content in bytes_of(path).values()) == 2, "the table and its index"
        assert len(await ids(store, "id-anna")) == 12
        assert [session for session, _ in await store.search("word-carl", limit=1)] == ["id-carl"]


def unused_bytes(path: Path) -> Iterator[bytes]:
    """Of each page of a tree, what lies between its list of cells and the cells."""
    content = path.read_bytes()
    for page in (content[start : start + 4096] for start in range(4096, len(content), 4096)):
        if page[0] in (2, 5, 10, 13):
            cells, first = int.from_bytes(page[3:5], "big"), int.from_bytes(page[5:7], "big")
            yield page[(12 if page[0] < 8 else 8) + 2 * cells : first]


async def test_what_sqlite_left_behind_when_it_moved_rows_from_page_to_page_goes_too(path: Path) -> None:
    names = [f"{letter}x" for letter in "abcdefgh"]
    async with open_sqlite(path, now=Clock()) as store:
        for version in range(6):
            await written(store, *(spoken(name, version, retention=8) for name in names))
        await store.purge(T0)
        await written(store, *(spoken(name, 6, retention=8) for name in names), *(spoken(f"y{name}") for name in names))
        await store.erase("subject-ax", T0)
        dirty = [any(unused) for unused in unused_bytes(path)]
        # In a file written anew, copies of what is there may be; in any other more than half of the pages have some.
        assert len(dirty) > 10
        assert sum(dirty) < len(dirty) / 5, (sum(dirty), len(dirty))
        assert not remains(path, *all_words("ax")[:-1])


async def test_nothing_of_what_was_removed_trimmed_or_has_expired_is_left_after_a_purge(path: Path) -> None:
    clock = Clock()
    async with open_sqlite(path, now=clock) as store:
        late = replace(spoken("late").head, expires_at=T0 + 10)
        await written(store, spoken("gone"), replace(spoken("late"), head=late), spoken("kept"))
        await written(store, replace(spoken("kept", 1, retention=1, count=1)), Remove("id-gone"))
        clock.at += 20

        assert await store.purge(clock.at) == 1

        assert not remains(path, *all_words("gone"), *all_words("late"), "m0-2")
        assert remains(path, "word-kept")


async def test_while_somebody_reads_the_log_is_emptied_by_the_next_purge(path: Path) -> None:
    async with open_sqlite(path, now=Clock(), busy_s=0.05) as store:
        await written(store, spoken("anna"))
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM sessions").fetchall()
            assert await store.erase("subject-anna", T0) == 1
            assert (f"{path.name}-wal", "head-anna") in remains(path, "head-anna")
        await store.purge(T0)
        assert not remains(path, *all_words("anna")[:-1])


async def test_the_file_is_read_by_its_owner_only(path: Path) -> None:
    async with open_sqlite(path) as store:
        await written(store, spoken("anna"))
        modes = [stat.S_IMODE(file.stat().st_mode) for file in path.parent.glob("offhook.db*")]
    assert modes == [0o600] * 3


async def test_leaving_leaves_one_file_and_nothing_open(path: Path) -> None:
    before = open_files()
    async with open_sqlite(path) as store:
        await written(store, spoken("anna"))
        await store.find("key-anna", last=5)
    assert os.listdir(path.parent) == [path.name]
    assert open_files() == before
    with pytest.raises(StoreDown):
        await store.find("key-anna", last=5)


# --- others at the same file --------------------------------------------------------------------------------


async def test_a_write_waits_for_another_program_and_then_says_that_the_file_is_locked(path: Path) -> None:
    async with open_sqlite(path, now=Clock(), busy_s=0.05) as store:
        await written(store, Rows().append(0, message(1)))
        with locked(path):
            with pytest.raises(StoreDown) as down:
                await store.write([Rows().append(1, message(2))])
            assert down.value.why == "locked"
            assert await ids(store) == ["m1"], "reading goes on"
        await written(store, Rows().append(1, message(2)))
        assert await ids(store) == ["m1", "m2"]


async def test_a_locked_file_is_no_wrong_setting(path: Path) -> None:
    async with open_sqlite(path):
        pass
    with locked(path), pytest.raises(StoreDown, match="SQLITE_BUSY"):
        async with open_sqlite(path, busy_s=0.05):
            pass


async def test_a_cancelled_write_keeps_its_connection_until_it_is_through(path: Path) -> None:
    async with open_sqlite(path, now=Clock(), busy_s=5.0) as store:
        with locked(path):
            with trio.move_on_after(0.05) as patience:
                await store.write([Rows().append(0, message(1))])
            assert patience.cancelled_caught
        # Its thread is still at work: this one comes after it.
        await written(store, Rows("s2", "k2").append(0, message(2)))
        assert await ids(store) == ["m1"]
        assert await ids(store, "s2") == ["m2"]


async def test_leaving_does_not_wait_for_a_thread_that_waits_for_another_program(path: Path) -> None:
    with trio.fail_after(10):
        async with open_sqlite(path, now=Clock(), busy_s=0.5) as store:
            with locked(path), trio.move_on_after(0.05):
                await store.write([Rows().append(0, message(1))])
    async with open_sqlite(path, now=Clock()) as store:
        assert await ids(store) in ([], ["m1"])


async def test_many_tasks_and_a_second_store_write_at_once(path: Path) -> None:
    async with open_sqlite(path, now=Clock()) as one, open_sqlite(path, now=Clock()) as two:

        async def talk(store: SqlStore, name: str) -> None:
            for version in range(8):
                await written(store, Rows(name, name).append(version, message(version)))

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(talk, (one, two)[number % 2], f"s{number}")
        assert [await ids(one, f"s{number}") for number in range(6)] == [[f"m{n}" for n in range(8)]] * 6


async def test_the_event_loop_goes_on_meanwhile(path: Path) -> None:
    loop = threading.get_ident()
    seen: set[int] = set()

    def look(*_: object) -> None:
        seen.add(threading.get_ident())

    sa.event.listen(sa.Engine, "before_cursor_execute", look)
    try:
        async with open_sqlite(path) as store:
            await written(store, spoken("anna"))
            await store.find("key-anna", last=5)
            await store.search("word")
            await store.erase("anna", T0)
            await store.purge(T0)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", look)
    assert seen
    assert loop not in seen


async def test_finding_a_session_with_fifty_messages_takes_two_queries(path: Path) -> None:
    async with open_sqlite(path, now=Clock()) as store:
        await written(store, Rows().append(0, *map(message, range(50))))
        asked: list[str] = []

        def note(_c: object, _u: object, statement: str, *_: object) -> None:
            asked.append(statement)

        sa.event.listen(sa.Engine, "before_cursor_execute", note)
        try:
            found = await store.find("k1", last=50)
        finally:
            sa.event.remove(sa.Engine, "before_cursor_execute", note)
    assert found is not None
    assert len(found.messages) == 50
    assert sum(statement.startswith("SELECT") for statement in asked) == 2, asked


async def test_every_question_has_an_index(path: Path) -> None:
    async with open_sqlite(path) as store:
        await written(store, spoken("anna"))
    with closing(sqlite3.connect(path)) as database:
        for condition in ("key = 'a'", "subject = 'a'", "expires_at <= 1", "session_id > 'a' ORDER BY session_id"):
            plan = database.execute(f"EXPLAIN QUERY PLAN SELECT * FROM sessions WHERE {condition}").fetchall()
            assert "USING INDEX" in plan[0][3], (condition, plan)
        newest = "SELECT * FROM sessions_messages WHERE session_id = 'a' ORDER BY position DESC LIMIT 5"
        plan = database.execute(f"EXPLAIN QUERY PLAN {newest}").fetchall()
        assert [row[3] for row in plan] == [
            "SEARCH sessions_messages USING INDEX sessions_messages_in_order (session_id=?)"
        ]


async def test_what_is_acknowledged_has_reached_the_disk(path: Path) -> None:
    settings: dict[str, int] = {}

    def ask(connection: sqlite3.Connection, *_: object) -> None:
        for name in ("synchronous", "secure_delete", "foreign_keys"):
            settings[name] = connection.execute(f"PRAGMA {name}").fetchone()[0]

    sa.event.listen(sa.pool.Pool, "checkin", ask)
    try:
        async with open_sqlite(path) as store:
            await written(store, spoken("anna"))
    finally:
        sa.event.remove(sa.pool.Pool, "checkin", ask)
    assert settings == {"synchronous": 2, "secure_delete": 1, "foreign_keys": 1}
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# --- what cannot be used ------------------------------------------------------------------------------------


async def test_a_file_that_is_no_database_is_a_wrong_setting(path: Path) -> None:
    put(path, b"a letter to a friend " * 500)
    with pytest.raises(SettingsError, match=r"store\.path"):
        async with open_sqlite(path):
            pass
    assert bytes_of(path)[path.name].startswith(b"a letter")


@pytest.mark.parametrize("wrong", ["", ":memory:", "no/such/directory/offhook.db", "."])
async def test_a_path_where_no_file_can_be_is_a_wrong_setting(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=r"store\.path"):
        async with open_sqlite(wrong):
            pass


@pytest.mark.parametrize("wrong", ["", "1st", "a b", 'x"; DROP TABLE y', "sqlite_master", "pg_x", "t" * 41, "tür"])
async def test_a_name_that_no_table_has_is_a_wrong_setting(wrong: str, path: Path) -> None:
    with pytest.raises(SettingsError, match=r"store\.table"):
        async with open_sqlite(path, table=wrong):
            pass


@pytest.mark.parametrize("name", ["Sessions", "order", "a1_b"])
async def test_two_tables_share_a_file(name: str, path: Path) -> None:
    async with open_sqlite(path, now=Clock()) as one, open_sqlite(path, table=name + "_2", now=Clock()) as two:
        await written(one, spoken("anna"))
        assert await two.get("id-anna", last=1) is None
        await written(two, spoken("anna"))
        assert [session for session, _ in await two.search("word", limit=1)] == ["id-anna"]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("mounting a small file system takes more rights than this account has")
    yield place
    subprocess.run(["umount", str(place)], check=True)


async def test_a_full_disk_takes_nothing_by_half_and_goes_on_when_there_is_room(tiny_disk: Path) -> None:
    path = tiny_disk / "offhook.db"
    async with open_sqlite(path, now=Clock()) as store:
        await written(store, Rows().append(0, message(1)))
        (tiny_disk / "rubbish").write_bytes(b"x" * (os.statvfs(tiny_disk).f_bavail * 4096 - 32768))
        with pytest.raises(StoreDown) as down:
            await store.write([Rows().append(1, message(2, body=os.urandom(200_000)))])
        assert down.value.why == "full"
        assert await ids(store) == ["m1"]
        (tiny_disk / "rubbish").unlink()
        await written(store, Rows().append(1, message(2)))
        assert await ids(store) == ["m1", "m2"]


async def test_a_damaged_page_is_an_error_of_the_store(path: Path) -> None:
    async with open_sqlite(path, now=Clock()) as store:
        for number in range(40):
            await written(store, Rows(f"s{number}", f"k{number}").append(0, message(1, body=b"x" * 2000)))
    async with open_sqlite(path, now=Clock()) as store:
        damage(path, 8 * 4096)
        with pytest.raises(StoreDown) as down:
            await store.scan()
        assert down.value.why == "error"


async def test_an_error_quotes_nothing_that_was_said(path: Path) -> None:
    async with open_sqlite(path, now=Clock()) as store:
        await written(store, spoken("anna"))
        with closing(sqlite3.connect(path)) as other:
            other.execute("DROP TABLE sessions_traces")
        with pytest.raises(StoreDown) as down:
            await store.write([spoken("anna", 1)])
    shown = [str(down.value), repr(down.value.__cause__), str(down.value.__suppress_context__)]
    assert "anna" not in "".join(shown)
    assert down.value.__cause__ is None
    assert down.value.__suppress_context__


# --- the full text index ------------------------------------------------------------------------------------


async def test_a_full_text_index_that_is_gone_is_made_again(path: Path) -> None:
    """As after a visit of a program whose SQLite has no FTS5, which takes the triggers away."""
    async with open_sqlite(path, now=Clock()) as store:
        await written(store, spoken("anna"))
    with closing(sqlite3.connect(path)) as other:
        other.execute("DROP TRIGGER sessions_words_added")
        other.execute("DELETE FROM sessions_messages WHERE message_id = 'm0-2'")
        other.commit()
    async with open_sqlite(path, now=Clock()) as store:
        assert store.has_full_text
        assert len(await store.search("word-anna")) == 2
        await written(store, spoken("bert"))
        assert len(await store.search("hello again")) == 5


async def test_traces_are_kept_in_number_and_go_with_their_session(path: Path) -> None:
    async with open_sqlite(path, now=Clock()) as store:
        head = Rows().head
        await written(store, Append(head(), traces=tuple(map(trace, range(5))), traces_kept=3))
        await written(store, Append(head(1), traces=(trace(9),), traces_kept=3))
        assert [row.body for row in await store.traces("s1")] == [b"trace 3", b"trace 4", b"trace 9"]
        await written(store, Remove("s1"), Rows().append(0))
        assert await store.traces("s1") == []


async def test_tombstones_and_the_audit_are_kept_four_hundred_days(path: Path) -> None:
    clock = Clock()
    async with open_sqlite(path, now=clock) as store:
        await store.erase("anna", T0)
        await store.add_audit(AuditRow(T0, b"erased"))
        await store.purge(T0 + 399 * DAY_S)
        assert await store.write([Rows().append(0)]) == [Gone()]
        assert len(await store.audit()) == 1
        await store.purge(T0 + 401 * DAY_S)
        assert await store.audit() == []
        await written(store, Rows().append(0))


async def test_the_audit_has_an_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_read, "AUDITS", 3)
    async with open_sqlite(path) as store:
        for number in range(5):
            await store.add_audit(AuditRow(T0, b"%d" % number))
        assert [row.body for row in await store.audit()] == [b"4", b"3", b"2"]


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="this system does not tell its locks")
async def test_a_second_store_on_the_file_leaves_the_first_ones_locks_alone(tmp_path: Path) -> None:
    """Without them another process would take the log for nobody's, and what is in it would be lost."""
    path = tmp_path / "offhook.db"

    def locks() -> list[str]:
        inode = path.stat().st_ino
        return [line for line in Path("/proc/locks").read_text(encoding="ascii").splitlines() if f":{inode} " in line]

    async with open_sqlite(path) as first:
        await first.meta("a", b"1")
        before = locks()
        assert before
        async with open_sqlite(path) as second:
            await second.meta("a", b"1")
            assert len(locks()) >= len(before)
