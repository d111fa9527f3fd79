"""Recordings in a directory: one file each, whole at every moment, for its owner's eyes alone."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

import trio

from adapters.recordings.wav import HEADER_BYTES, header
from engine.ports.recordings import RecordingFailed, RecordingSink

T = TypeVar("T")

CLOSE_S: Final = 2.0
THREADS: Final = 4
"""Writing at once: a slow disk does not take all of the process' threads."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,200}")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class DirectoryRecordings:
    """``folder/name.wav`` below ``root``. Files are 0600, folders 0700."""

    name = "directory"

    def __init__(self, root: Path) -> None:
        self._root = root
        self._limiter = trio.CapacityLimiter(THREADS)

    @asynccontextmanager
    async def open(self, folder: str, name: str, rate_hz: int) -> AsyncIterator[RecordingSink]:
        path = self._path(folder, name)
        file = _File(rate_hz, self._limiter)
        try:
            await file.run(lambda: file.create(path))
            yield file
        finally:
            # Of a call that failed, what there is can be heard, too. A thread cannot be cancelled.
            with trio.move_on_after(CLOSE_S, shield=True):
                await trio.to_thread.run_sync(file.close, limiter=self._limiter)

    async def erase(self, folder: str) -> int:
        path = self._path(folder)

        def remove() -> int:
            if not path.is_dir():
                return 0
            count = sum(1 for _ in path.glob("*.wav"))
            shutil.rmtree(path)
            return count

        return await _in_thread(remove, self._limiter)

    def _path(self, folder: str, name: str = "") -> Path:
        """Raises RecordingFailed for what could be a path."""
        if not _NAME.fullmatch(folder) or (name and not _NAME.fullmatch(name)):
            raise RecordingFailed("error", "not a name for a file")
        return self._root / folder / f"{name}.wav" if name else self._root / folder


class _File:
    """Its methods without ``async`` run in a thread, one at a time."""

    def __init__(self, rate_hz: int, limiter: trio.CapacityLimiter) -> None:
        self._rate_hz = rate_hz
        self._limiter = limiter
        self._fd = -1
        self._bytes = 0

    async def run(self, work: Callable[[], T]) -> T:
        return await _in_thread(work, self._limiter)

    async def write(self, pcm: bytes) -> None:
        await self.run(lambda: self.append(pcm))

    def create(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = _new_file(path)
        self._at(header(self._rate_hz, 0), 0)

    def append(self, pcm: bytes) -> None:
        """The header is right after each piece: a process that is killed leaves a file that can be played."""
        self._at(pcm, HEADER_BYTES + self._bytes)
        self._bytes += len(pcm)
        self._at(header(self._rate_hz, self._bytes), 0)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _at(self, data: bytes, offset: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, offset)
            view, offset = view[written:], offset + written


def _new_file(path: Path) -> int:
    """A call's id may come again: an older recording is never written over."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    for number in range(1, 1000):
        try:
            return os.open(path if number == 1 else path.with_stem(f"{path.stem}-{number}"), flags, 0o600)
        except FileExistsError:
            continue
    raise FileExistsError(errno.EEXIST, "too many recordings of one call")


async def _in_thread(work: Callable[[], T], limiter: trio.CapacityLimiter) -> T:
    """Raises RecordingFailed."""
    try:
        return await trio.to_thread.run_sync(work, limiter=limiter)
    except OSError as exc:
        why = "full" if exc.errno in _FULL else "refused" if isinstance(exc, PermissionError) else "error"
        raise RecordingFailed(why, exc.strerror or "") from None
