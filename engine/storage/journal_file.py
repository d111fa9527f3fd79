"""The journal's file: framed records, for one thread at a time. Everything here blocks.

A record that is done with, or forgotten, is overwritten with zeros in place and marked so: that needs no room on a
full disk. What cannot be opened goes to a second file of the same form, ``.unreadable``, and is tried again at the next
start.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from engine.errors import StoreDown
from engine.storage import disk
from engine.storage.journal_frames import DONE, HEADER_BYTES, bodies_of, body_of, framed, scan
from engine.storage.keyring import Unreadable

log = structlog.get_logger()

Check = Callable[[bytes], object]
"""Opens a body. Raises Unreadable."""


class JournalFile:
    """Opened by its first use, locked against other processes while there is anything in it, gone when there is not.

    All of it raises StoreDown: ``locked`` when another process has it, ``full``, or ``error``.
    """

    def __init__(self, path: Path, max_bytes: int, check: Check) -> None:
        self._path = path
        self._aside_path = path.with_name(f"{path.name}.unreadable")
        self._new_path = path.with_name(f"{path.name}.new")
        self._lock_path = path.with_name(f"{path.name}.lock")
        self._max_bytes = max_bytes
        self._check = check
        self._lock_fd = -1
        self._frames: list[tuple[int, int]] = []
        self._size = 0

    def __len__(self) -> int:
        return len(self._frames)

    # --- what it is for -------------------------------------------------------------------------------------

    def open(self) -> None:
        """Find out what is there: a torn tail is cut off, what does not open is put aside."""
        with _mapped():
            self._open()

    def append(self, bodies: Sequence[bytes]) -> int:
        """How many of these, from the first, are on the disk now. The others did not fit."""
        with _mapped():
            self._open()
            if self._lock_fd < 0:
                self._lock()
                self._read_anew()
            frames = self._fitting(bodies)
            if len(frames) < len(bodies) and sum(end - start for start, end in self._frames) < self._size:
                self._compact()
                frames = self._fitting(bodies)
            try:
                self._write(frames)
            finally:
                self._let_go_if_empty()
            return len(frames)

    def bodies(self, count: int) -> list[bytes]:
        """The first ones, all of which open; one that does not open any more is put aside."""
        with _mapped():
            self._open()
            closed: list[tuple[int, int]] = []
            found: list[bytes] = []
            for frame, body in self._each():
                if len(found) == count:
                    break
                if body is not None and self._opens(body):
                    found.append(body)
                else:
                    closed.append(frame)
            self._put_aside(closed)
            self._let_go_if_empty()
            return found

    def drop(self, count: int, *, aside: bool = False) -> None:
        """The first ones are done with; or put ``aside``, to be tried again at the next start."""
        with _mapped():
            done = self._frames[:count]
            if aside:
                self._put_aside(done)
            else:
                self._erase(done)
            self._let_go_if_empty()

    def forget(self, is_wanted: Callable[[bytes], bool]) -> int:
        """Overwrite each body that ``is_wanted`` picks, and everything that does not open: nobody can say whose that
        is. Returns how many were picked."""
        with _mapped():
            self._open()
            picked = [frame for frame, body in self._each() if body is None or not self._opens(body) or is_wanted(body)]
            self._erase(picked)
            if self._lock_fd >= 0:
                disk.discard(self._aside_path)
            self._let_go_if_empty()
            return len(picked)

    def close(self) -> None:
        """What is in it stays for the next time."""
        if self._lock_fd >= 0:
            with suppress(OSError):
                self._lock_path.unlink()
            os.close(self._lock_fd)
        self._lock_fd, self._frames, self._size = -1, [], 0

    # --- being the only one ---------------------------------------------------------------------------------

    def _open(self) -> None:
        if self._lock_fd < 0 and any(path.exists() for path in (self._path, self._aside_path, self._new_path)):
            self._lock()
            try:
                self._read_anew()
            except BaseException:
                self.close()
                raise
            self._let_go_if_empty()
        elif disk.size_of(self._path) < self._size:
            log.error("journal_vanished", records=len(self))
            self._read_anew()
            self._let_go_if_empty()

    def _lock(self) -> None:
        while self._lock_fd < 0:
            fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever had it may have let go just now, and taken its name away: then it is no lock any more.
                if os.fstat(fd).st_ino == disk.inode_of(self._lock_path):
                    self._lock_fd = fd
            except BlockingIOError:
                raise StoreDown("locked", "another process has the journal") from None
            finally:
                if self._lock_fd != fd:
                    os.close(fd)

    def _let_go_if_empty(self) -> None:
        if not self._frames and self._lock_fd >= 0:
            disk.discard(self._path)
            self.close()

    # --- reading --------------------------------------------------------------------------------------------

    def _read_anew(self) -> None:
        disk.discard(self._new_path)
        data, kept = disk.content(self._path), disk.content(self._aside_path)
        seen = scan(data)
        here = [data[start + HEADER_BYTES : end] for start, end in seen.frames]
        aside = bodies_of(kept)
        bad = [body for body in here if not self._opens(body)] + [data[start:end] for start, end in seen.damaged]
        again = [body for body in aside if self._opens(body)]
        if seen.end < len(data):
            log.warning("journal_torn", bytes=len(data) - seen.end)
        if bad:
            log.warning("journal_unreadable", records=len(bad), again=len(again))
        if bad or again:
            # In this order a break at any point leaves a record twice rather than not at all.
            self._write_aside(aside + bad)
            self._write_main(again + [body for body in here if self._opens(body)])
            self._write_aside([body for body in aside if not self._opens(body)] + bad)
        else:
            self._frames, self._size = seen.frames, seen.end
            disk.cut(self._path, seen.end)

    def _each(self) -> Iterator[tuple[tuple[int, int], bytes | None]]:
        """Frames and their bodies; None for one that is damaged."""
        if not self._frames:
            return
        with self._path.open("rb") as file:
            for start, end in list(self._frames):
                yield (start, end), body_of(os.pread(file.fileno(), end - start, start))

    def _opens(self, body: bytes) -> bool:
        try:
            self._check(body)
        except Unreadable:
            return False
        return True

    # --- writing --------------------------------------------------------------------------------------------

    def _fitting(self, bodies: Sequence[bytes]) -> list[bytes]:
        frames, size = [], self._size
        for body in bodies:
            size += HEADER_BYTES + len(body)
            if size > self._max_bytes:
                break
            frames.append(framed(body))
        return frames

    def _write(self, frames: Sequence[bytes]) -> None:
        if not frames:
            return
        is_new = not self._path.exists()
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            disk.write_all(fd, b"".join(frames), self._size)
            os.fsync(fd)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(fd, self._size)
            raise
        finally:
            os.close(fd)
        if is_new:
            disk.sync_folder(self._path)
        self._note(frames)

    def _note(self, frames: Sequence[bytes]) -> None:
        for frame in frames:
            self._frames.append((self._size, self._size + len(frame)))
            self._size += len(frame)

    def _erase(self, frames: Sequence[tuple[int, int]]) -> None:
        """Zeros over the bodies, and a mark that they are done with."""
        if not frames:
            return
        fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            for start, end in frames:
                disk.write_all(fd, bytes(end - start - HEADER_BYTES), start + HEADER_BYTES)
                disk.write_all(fd, DONE, start)
            os.fsync(fd)
        finally:
            os.close(fd)
        gone = set(frames)
        self._frames = [frame for frame in self._frames if frame not in gone]

    def _put_aside(self, frames: Sequence[tuple[int, int]]) -> None:
        if not frames:
            return
        log.warning("journal_unreadable", records=len(frames), again=0)
        content = disk.content(self._path)
        kept = disk.content(self._aside_path)
        bodies = bodies_of(kept)
        self._write_aside(bodies + [content[start + HEADER_BYTES : end] for start, end in frames])
        self._erase(frames)

    def _write_aside(self, bodies: list[bytes]) -> None:
        size, newest = 0, list[bytes]()
        for body in reversed(bodies):
            size += HEADER_BYTES + len(body)
            if size > self._max_bytes:
                break
            newest.append(framed(body))
        if newest:
            disk.exchange(self._aside_path, self._new_path, newest[::-1])
        else:
            disk.discard(self._aside_path)

    def _write_main(self, bodies: list[bytes]) -> None:
        frames = [framed(body) for body in bodies]
        disk.exchange(self._path, self._new_path, frames)
        self._frames, self._size = [], 0
        self._note(frames)

    def _compact(self) -> None:
        """Without what is done with."""
        self._write_main([body for _, body in self._each() if body is not None])


@contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        why = "full" if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "error"
        raise StoreDown(why, f"the journal: {os.strerror(exc.errno or errno.EIO)}") from exc
