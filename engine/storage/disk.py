"""Files that are exchanged whole, and leave nothing behind. Everything here blocks, and raises OSError."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def may_be_written(path: Path) -> bool:
    """Or made, if it is not there, as far as can be told without doing it."""
    if path.exists():
        return path.is_file() and os.access(path, os.R_OK | os.W_OK)
    return path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK)


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def inode_of(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return -1


def write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def exchange(path: Path, new: Path, frames: Sequence[bytes]) -> None:
    """The file's content is this from now on, or still what it was; never a mixture. What it was is overwritten."""
    fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, b"".join(frames), 0)
        os.fsync(fd)
    finally:
        os.close(fd)
    with _overwriting(path):
        new.replace(path)
        sync_folder(path)


def discard(path: Path) -> None:
    """Overwritten, and gone."""
    if path.exists():
        with _overwriting(path):
            path.unlink()
            sync_folder(path)


@contextmanager
def _overwriting(path: Path) -> Iterator[None]:
    """Zeros over what the file held, once it has lost its name in this block."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    try:
        yield
        write_all(fd, bytes(os.fstat(fd).st_size), 0)
        os.fsync(fd)
    finally:
        os.close(fd)


def cut(path: Path, size: int) -> None:
    """Zeros over what is behind, and off with it."""
    excess = size_of(path) - size
    if excess <= 0:
        return
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        write_all(fd, bytes(excess), size)
        os.ftruncate(fd, size)
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(path: Path) -> None:
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
