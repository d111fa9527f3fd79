from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import StoreDown
from engine.storage import disk
from engine.storage.journal import Journal
from engine.storage.journal_file import JournalFile
from engine.storage.journal_frames import framed, scan
from engine.storage.keyring import KeyRing
from engine.storage.record import Save
from tests.storage.saves import KEY_1, KEY_2, NUMBER, OTHER, a_save

BOTH = pytest.mark.parametrize("keys", ["", KEY_1])
BIG = 1 << 20


def a_journal(folder: Path, keys: str | KeyRing = "", max_bytes: int = BIG) -> Journal:
    ring = keys if isinstance(keys, KeyRing) else KeyRing.parse(keys)
    return Journal(folder / "journal", ring, max_bytes)


def saves_of(*names: str) -> list[Save]:
    return [a_save(name) for name in names]


async def names_in(journal: Journal) -> list[str]:
    await journal.open()
    return [save.entries[0].entry_id for save in await journal.read(1000)]


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def bytes_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


# --- there and back -------------------------------------------------------------------------------------------


@BOTH
async def test_what_is_appended_is_read_in_order_by_this_process_and_the_next(tmp_path: Path, keys: str) -> None:
    journal = a_journal(tmp_path, keys)
    assert await journal.open() == 0
    assert files_in(tmp_path) == set()
    assert await journal.append(saves_of("a", "b")) == 2
    assert await journal.append(saves_of("c")) == 1
    assert await journal.read(2) == saves_of("a", "b")
    assert await journal.read(9) == saves_of("a", "b", "c")
    await journal.aclose()
    after = a_journal(tmp_path, keys)
    assert await after.open() == 3
    assert await after.read(9) == saves_of("a", "b", "c")


@BOTH
async def test_what_is_dropped_is_not_read_again_and_an_empty_journal_has_no_file(tmp_path: Path, keys: str) -> None:
    journal = a_journal(tmp_path, keys)
    await journal.append(saves_of("a", "b", "c"))
    await journal.drop(2)
    await journal.aclose()
    journal = a_journal(tmp_path, keys)
    assert await names_in(journal) == ["c"]
    await journal.append(saves_of("d"))
    await journal.drop(1)
    assert await names_in(journal) == ["d"]
    await journal.drop(1)
    assert len(journal) == 0
    assert files_in(tmp_path) == set()
    await journal.append(saves_of("e"))
    assert await names_in(journal) == ["e"]


async def test_the_file_is_for_this_account_only_and_sealed_with_keys(tmp_path: Path) -> None:
    journal = a_journal(tmp_path, KEY_1)
    await journal.append([a_save("a", text="the other coat")])
    assert (tmp_path / "journal").stat().st_mode & 0o777 == 0o600
    content = (tmp_path / "journal").read_bytes()
    assert b"coat" not in content
    assert b"5550100001" not in content


async def test_what_does_not_fit_is_not_taken_until_there_is_room_again(tmp_path: Path) -> None:
    size = await size_of_one(tmp_path)
    journal = a_journal(tmp_path, max_bytes=3 * size)
    assert await journal.append(saves_of("a", "b", "c", "d")) == 3
    assert await journal.append(saves_of("d")) == 0
    await journal.drop(2)
    assert await journal.append(saves_of("d")) == 1
    assert await names_in(journal) == ["c", "d"]
    assert (tmp_path / "journal").stat().st_size <= 3 * size
    await journal.aclose()
    assert await names_in(a_journal(tmp_path)) == ["c", "d"]


async def size_of_one(folder: Path) -> int:
    journal = a_journal(folder)
    await journal.append(saves_of("a"))
    size = disk.size_of(folder / "journal")
    await journal.drop(1)
    return size


async def test_a_save_that_can_never_fit_leaves_no_file(tmp_path: Path) -> None:
    journal = a_journal(tmp_path, max_bytes=20)
    assert await journal.append(saves_of("a")) == 0
    assert files_in(tmp_path) == set()


# --- two processes --------------------------------------------------------------------------------------------


async def test_a_second_engine_in_the_folder_is_refused_while_there_is_something_in_it(tmp_path: Path) -> None:
    one, two = a_journal(tmp_path), a_journal(tmp_path)
    await one.open()
    await two.open()
    await one.append(saves_of("a"))
    for operation in (two.open(), two.append(saves_of("b")), two.forget(NUMBER)):
        with pytest.raises(StoreDown) as caught:
            await operation
        assert caught.value.why == "locked"
    await one.drop(1)
    assert await two.append(saves_of("b")) == 1
    with pytest.raises(StoreDown):
        await one.append(saves_of("c"))
    await two.aclose()
    assert await one.append(saves_of("c")) == 1
    assert await names_in(one) == ["b", "c"]


async def test_a_lock_left_by_a_killed_process_holds_nobody(tmp_path: Path) -> None:
    (tmp_path / "journal.lock").touch()
    (tmp_path / "journal").write_bytes(b"")
    journal = a_journal(tmp_path)
    await journal.append(saves_of("a"))
    assert await names_in(journal) == ["a"]


# --- killed at any byte ---------------------------------------------------------------------------------------


def test_killed_at_any_byte_of_an_append_all_that_was_acknowledged_is_there(tmp_path: Path) -> None:
    """The file at every length it may be left with: what was whole is read, and the next append goes on from there."""
    ring, path = KeyRing.parse(KEY_1), tmp_path / "journal"
    bodies = [ring.seal(text, "journal") for text in (b"a", b"bb", b"ccc")]
    file = a_file(path, ring)
    ends = []
    for body in bodies:
        assert file.append([body]) == 1
        ends.append(path.stat().st_size)
    content = path.read_bytes()
    file.close()
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        left = a_file(path, ring)
        left.open()
        whole = [body for body, end in zip(bodies, ends, strict=True) if end <= length]
        assert left.bodies(9) == whole, length
        if length % 10 == 0:
            left.append([bodies[0]])
            left.close()
            left = a_file(path, ring)
            assert left.bodies(9) == [*whole, bodies[0]], length
        left.close()


def a_file(path: Path, ring: KeyRing) -> JournalFile:
    return JournalFile(path, BIG, lambda body: ring.open(body, "journal"))


@BOTH
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_byte_costs_one_save_at_most_and_never_makes_another_one(
    tmp_path: Path, keys: str, data: st.DataObject
) -> None:
    ring = KeyRing.parse(keys)
    bodies = [ring.seal(name * 20, "journal") for name in (b"a", b"b", b"c")]
    content = bytearray(b"".join(framed(body) for body in bodies))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    seen = scan(bytes(content))
    found = [bytes(content[start + 12 : end]) for start, end in seen.frames]
    hit = place * 3 // len(content)
    assert found == [body for i, body in enumerate(bodies) if i != hit]


@given(st.lists(st.binary(max_size=30), max_size=4), st.binary(max_size=40))
def test_any_bytes_can_stand_in_a_record_and_behind_it(bodies: list[bytes], tail: bytes) -> None:
    content = b"".join(framed(body) for body in bodies)
    assert [content[start + 12 : end] for start, end in scan(content + tail[:11]).frames] == bodies
    assert scan(tail).frames == []


async def test_of_a_torn_end_nothing_is_left(tmp_path: Path) -> None:
    journal = a_journal(tmp_path)
    await journal.append([a_save("a"), a_save("b", text="in the other coat")])
    await journal.aclose()
    path = tmp_path / "journal"
    path.write_bytes(path.read_bytes()[:-20])
    with path.open("rb") as same_file:
        assert await names_in(a_journal(tmp_path)) == ["a"]
        assert b"coat" not in same_file.read()


async def test_killed_while_it_was_written_anew_nothing_is_lost(tmp_path: Path) -> None:
    journal = a_journal(tmp_path)
    await journal.append(saves_of("a"))
    await journal.aclose()
    (tmp_path / "journal.new").write_bytes(b"half of it")
    assert await names_in(a_journal(tmp_path)) == ["a"]
    assert not (tmp_path / "journal.new").exists()


# --- what does not open ---------------------------------------------------------------------------------------


async def test_a_record_under_a_missing_key_is_set_aside_and_comes_back_with_the_key(tmp_path: Path) -> None:
    ring = KeyRing.parse(KEY_1)
    journal = a_journal(tmp_path, ring)
    await journal.append(saves_of("a"))
    ring.replace(f"{KEY_2} {KEY_1}")
    await journal.append(saves_of("b"))
    await journal.aclose()
    poor = a_journal(tmp_path, KEY_2)
    assert await names_in(poor) == ["b"]
    await poor.drop(1)
    assert files_in(tmp_path) == {"journal.unreadable"}
    await poor.append(saves_of("c"))
    await poor.aclose()
    rich = a_journal(tmp_path, f"{KEY_2} {KEY_1}")
    assert await names_in(rich) == ["a", "c"]
    await rich.drop(2)
    assert files_in(tmp_path) == set()


async def test_a_key_that_goes_while_it_runs_sets_aside_what_it_sealed(tmp_path: Path) -> None:
    ring = KeyRing.parse(KEY_1)
    journal = a_journal(tmp_path, ring)
    await journal.append(saves_of("a"))
    ring.replace(KEY_2)
    await journal.append(saves_of("b"))
    assert await names_in(journal) == ["b"]
    assert len(journal) == 1


async def test_a_damaged_record_is_set_aside_and_those_around_it_are_read(tmp_path: Path) -> None:
    journal = a_journal(tmp_path)
    await journal.append(saves_of("a", "b", "c"))
    await journal.aclose()
    path = tmp_path / "journal"
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"entry_id":"b"', b'"entry_id":"x"'))
    journal = a_journal(tmp_path)
    assert await names_in(journal) == ["a", "c"]
    assert b'"entry_id":"x"' in (tmp_path / "journal.unreadable").read_bytes()


async def test_what_is_put_aside_is_tried_again_by_the_next_process(tmp_path: Path) -> None:
    journal = a_journal(tmp_path)
    await journal.append(saves_of("a", "b"))
    await journal.put_aside(1)
    assert await names_in(journal) == ["b"]
    await journal.aclose()
    assert await names_in(a_journal(tmp_path)) == ["a", "b"]


# --- forgetting -----------------------------------------------------------------------------------------------


def of_two() -> Sequence[Save]:
    return [
        a_save("a", text="my card is in the other coat"),
        a_save("b", session_id="s_2", number=OTHER, text="hello"),
        a_save("c", text="in the coat"),
    ]


@BOTH
async def test_after_forgetting_no_byte_of_the_number_or_its_words_is_in_any_file(tmp_path: Path, keys: str) -> None:
    journal = a_journal(tmp_path, keys)
    await journal.append(of_two())
    with (tmp_path / "journal").open("rb") as same_file:
        assert await journal.forget(NUMBER) == 2
        assert await names_in(journal) == ["b"]
        for content in (bytes_in(tmp_path), same_file.read()):
            assert b"5550100001" not in content
            assert b"coat" not in content
    await journal.aclose()
    assert await names_in(a_journal(tmp_path, keys)) == ["b"]


async def test_what_was_dropped_or_written_anew_leaves_no_byte_behind_either(tmp_path: Path) -> None:
    journal = a_journal(tmp_path)
    await journal.append(of_two())
    with (tmp_path / "journal").open("rb") as old_file:
        await journal.drop(1)
        assert b"card" not in bytes_in(tmp_path)
        await journal.drop(2)
        assert b"hello" not in old_file.read()


async def test_forgetting_takes_what_cannot_be_opened_with_it(tmp_path: Path) -> None:
    """Nobody can say whose it is; and without keys a damaged record holds words that can be read."""
    journal = a_journal(tmp_path)
    await journal.append(of_two())
    await journal.aclose()
    path = tmp_path / "journal"
    path.write_bytes(path.read_bytes().replace(b"my card", b"my cart"))
    journal = a_journal(tmp_path)
    await journal.open()
    await journal.forget(NUMBER)
    assert files_in(tmp_path) == {"journal", "journal.lock"}
    assert b"coat" not in bytes_in(tmp_path)


async def test_forgetting_the_only_ones_leaves_no_file(tmp_path: Path) -> None:
    journal = a_journal(tmp_path)
    await journal.append(saves_of("a"))
    assert await journal.forget(NUMBER) == 1
    assert files_in(tmp_path) == set()
    assert await journal.forget(NUMBER) == 0


# --- a disk that does not do its part -------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "why"), [(errno.ENOSPC, "full"), (errno.EIO, "error"), (errno.EROFS, "error")])
@pytest.mark.parametrize("at", ["pwrite", "fsync"])
async def test_a_failing_disk_is_told_and_what_was_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, why: str, at: str
) -> None:
    journal = a_journal(tmp_path)
    await journal.append(saves_of("a"))
    before = (tmp_path / "journal").read_bytes()
    real = os.pwrite

    def half(fd: int, content: bytes, offset: int) -> int:
        real(fd, bytes(content)[:30], offset)
        raise OSError(code, "no")

    def fail(fd: int) -> None:
        raise OSError(code, "no")

    with monkeypatch.context() as patch:
        patch.setattr(os, at, half if at == "pwrite" else fail)
        with pytest.raises(StoreDown) as caught:
            await journal.append(saves_of("b"))
        assert caught.value.why == why
    assert (tmp_path / "journal").read_bytes() == before
    assert await journal.append(saves_of("c")) == 1
    assert await names_in(journal) == ["a", "c"]


async def test_a_folder_that_is_not_there_is_an_error_of_the_journal(tmp_path: Path) -> None:
    journal = a_journal(tmp_path / "nowhere")
    assert await journal.open() == 0
    with pytest.raises(StoreDown) as caught:
        await journal.append(saves_of("a"))
    assert caught.value.why == "error"


async def test_a_journal_that_somebody_deleted_takes_new_saves(tmp_path: Path) -> None:
    journal = a_journal(tmp_path)
    await journal.append(saves_of("a"))
    (tmp_path / "journal").unlink()
    await journal.append(saves_of("b"))
    assert await names_in(journal) == ["b"]


async def test_a_journal_that_somebody_deleted_is_empty_when_read(tmp_path: Path) -> None:
    journal = a_journal(tmp_path)
    await journal.append(saves_of("a"))
    (tmp_path / "journal").unlink()
    assert await names_in(journal) == []
    assert len(journal) == 0


def test_a_file_is_exchanged_whole_and_its_old_bytes_are_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old words")
    with path.open("rb") as old:
        disk.exchange(path, tmp_path / "new", [b"new ", b"words"])
        assert old.read() == bytes(9)
    assert path.read_bytes() == b"new words"
    disk.discard(path)
    assert files_in(tmp_path) == set()
