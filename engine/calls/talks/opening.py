"""What hears, thinks and speaks for a talk, while it opens: the caller is greeted meanwhile, and speaks."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

from engine.errors import VendorError

EARLY_FRAMES = 100
"""Of the caller, kept while the vendors open: the last two seconds at least, as several may come in one piece."""

T = TypeVar("T")


class Opening(Generic[T]):
    """``open`` it once, in one task; others ``wait``."""

    def __init__(
        self, opening: Callable[[], Awaitable[T]], *, within_s: float, late: VendorError, on_dropped: Callable[[], None]
    ) -> None:
        """``opening`` raises VendorError; so does ``late``, which it is if it takes longer."""
        self.parts: T | None = None
        """Once they are open."""
        self._opening = opening
        self._within_s = within_s
        self._late = late
        self._on_dropped = on_dropped
        self._early: deque[bytes] = deque(maxlen=EARLY_FRAMES)
        self._is_open = trio.Event()

    @property
    def is_open(self) -> bool:
        return self.parts is not None

    async def open(self) -> T:
        """Raises VendorError. Harmless a second time."""
        if self.parts is None:
            with trio.move_on_after(self._within_s):
                self.parts = await self._opening()
            if self.parts is None:
                raise self._late
        return self.parts

    def begin(self, send: Callable[[bytes], None]) -> None:
        """From now on ``send`` takes the caller's audio: what was kept of it first."""
        for audio in self._early:
            send(audio)
        self._early.clear()
        self._is_open.set()

    def keep(self, audio: bytes) -> None:
        """Of the caller, for whoever opens."""
        if len(self._early) == EARLY_FRAMES:
            self._on_dropped()
        self._early.append(audio)

    async def wait(self) -> T:
        """Until ``begin``."""
        await self._is_open.wait()
        assert self.parts is not None  # noqa: S101 - open before it begins
        return self.parts
