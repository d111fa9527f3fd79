"""The journal: saves that the store could not take, safe in a file until it can."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from engine.errors import StoreDown
from engine.storage.codec import SAVES
from engine.storage.journal_file import JournalFile
from engine.storage.keyring import KeyRing
from engine.storage.record import Save

T = TypeVar("T")

_PLACE = "journal"


class Journal:
    """A bounded file of saves, in order, sealed with the ring when that has keys; each is on the disk (fsync) when it
    counts as there. The file is only there while something is in it, and locked meanwhile.

    All of it runs in a thread, one operation after the other, and raises StoreDown when the disk does not do its part
    within ``operation_s``: ``full``, ``error``, ``timeout``, or ``locked`` while another process has the file.
    """

    def __init__(self, path: Path, keys: KeyRing, max_bytes: int, *, operation_s: float = math.inf) -> None:
        self._keys = keys
        self._operation_s = operation_s
        self._file = JournalFile(path, max_bytes, self._opened)
        self._one_at_a_time = trio.CapacityLimiter(1)

    def __len__(self) -> int:
        """Saves in it, as far as is known: after the first operation, all."""
        return len(self._file)

    async def open(self) -> int:
        """Find out what the last process left. Returns how many saves are there. A torn end is cut off; what does not
        open is put aside in ``.unreadable``, to be tried again the next time."""
        await self._in_thread(self._file.open)
        return len(self)

    async def append(self, saves: Sequence[Save]) -> int:
        """How many of these, from the first, are safe now: all, or those that fit."""
        return await self._in_thread(lambda: self._file.append([self._sealed(save) for save in saves]))

    async def read(self, count: int) -> list[Save]:
        """The first ones, which stay until they are dropped."""
        return await self._in_thread(lambda: [self._opened(body) for body in self._file.bodies(count)])

    async def drop(self, count: int) -> None:
        """The first ones are in the store."""
        await self._in_thread(partial(self._file.drop, count))

    async def put_aside(self, count: int) -> None:
        """The first ones cannot be stored by this process; the next one tries again."""
        await self._in_thread(partial(self._file.drop, count, aside=True))

    async def forget(self, number: str) -> int:
        """Whatever belongs to this number (E.164) is overwritten, and so is what does not open: nobody can say whose
        it is. Returns how many saves."""
        return await self._in_thread(
            partial(self._file.forget, lambda body: self._opened(body).record.number == number)
        )

    async def aclose(self) -> None:
        """Let another process have it. What is in it stays."""
        await self._in_thread(self._file.close)

    def _sealed(self, save: Save) -> bytes:
        return self._keys.seal(SAVES.encode(save), _PLACE)

    def _opened(self, body: bytes) -> Save:
        return SAVES.decode(self._keys.open(body, _PLACE))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        # Whoever is cancelled goes on at once; the thread finishes, and the next operation waits for it.
        try:
            with trio.fail_after(self._operation_s):
                return await trio.to_thread.run_sync(work, limiter=self._one_at_a_time, abandon_on_cancel=True)
        except trio.TooSlowError:
            raise StoreDown("timeout", "the journal") from None
