"""Something to wait at, that can be opened and closed."""

from __future__ import annotations

import trio


class Gate:
    def __init__(self, *, is_open: bool = True) -> None:
        self._opened = trio.Event()
        if is_open:
            self._opened.set()

    @property
    def is_open(self) -> bool:
        return self._opened.is_set()

    def open(self) -> None:
        self._opened.set()

    def close(self) -> None:
        if self._opened.is_set():
            self._opened = trio.Event()

    async def wait(self) -> None:
        """Until it is open."""
        while not self._opened.is_set():
            await self._opened.wait()
