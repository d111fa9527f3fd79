"""Recordings in a directory: whole at every moment, private, and gone when they are erased."""

from __future__ import annotations

import resource
import stat
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adapters.recordings.directory import DirectoryRecordings
from engine.ports.recordings import RecordingFailed

SECOND = b"\1\0\2\0" * 8000


def seconds(path: Path) -> float:
    with wave.open(str(path)) as file:
        assert len(file.readframes(file.getnframes())) == file.getnframes() * 4
        return float(file.getnframes() / file.getframerate())


async def test_a_file_is_whole_after_each_piece(tmp_path: Path) -> None:
    store = DirectoryRecordings(tmp_path / "kept")
    path = tmp_path / "kept" / "f1" / "CA1.wav"
    async with store.open("f1", "CA1", 8000) as sink:
        for number in range(3):
            assert seconds(path) == number
            await sink.write(SECOND)
    assert seconds(path) == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_an_older_recording_is_never_written_over(tmp_path: Path) -> None:
    store = DirectoryRecordings(tmp_path)
    for _ in range(2):
        async with store.open("f1", "CA1", 8000) as sink:
            await sink.write(SECOND)
    assert seconds(tmp_path / "f1" / "CA1.wav") == seconds(tmp_path / "f1" / "CA1-2.wav") == 1


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_ends_the_recording_and_leaves_what_there_was(tmp_path: Path) -> None:
    store = DirectoryRecordings(tmp_path)

    async def record() -> None:
        async with store.open("f1", "CA1", 8000) as sink:
            await sink.write(SECOND)
            with largest_file(len(SECOND) + 100):
                await sink.write(SECOND)

    with pytest.raises(RecordingFailed) as failure:
        await record()
    assert failure.value.why == "full"
    assert seconds(tmp_path / "f1" / "CA1.wav") == 1


async def test_all_of_a_folder_and_nothing_else_is_erased(tmp_path: Path) -> None:
    store = DirectoryRecordings(tmp_path)
    for folder, name in (("f1", "CA1"), ("f1", "CA2"), ("f2", "CA3")):
        async with store.open(folder, name, 8000):
            pass
    assert await store.erase("f1") == 2
    assert await store.erase("f1") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["f2"]  # noqa: ASYNC240 - a test


@pytest.mark.parametrize(("folder", "name"), [("..", "x"), ("a/b", "x"), ("", "x"), ("a", "../x"), ("a", "x.wav")])
async def test_no_name_is_a_path(folder: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(RecordingFailed):
        async with DirectoryRecordings(tmp_path).open(folder, name, 8000):
            pass
