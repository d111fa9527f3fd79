"""A channel that one task fills, whoever asked for it empties, and leaving the block ends both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import trio

from engine.errors import VendorError
from engine.runtime.background import beside

SETTLE_S = 0.1
"""How long leaving an outlet that has ended waits for its connection to be fit for the next one."""

T = TypeVar("T")


class Outlet(trio.abc.ReceiveChannel[T], Generic[T]):
    """``put`` waits while ``room`` items have not been taken. ``receive`` raises what the filling task failed with, a
    VendorError, behind what was put before."""

    def __init__(self, room: int) -> None:
        self._in, self._out = trio.open_memory_channel[T](room)
        self._failure: VendorError | None = None
        self.has_ended = False
        """All there is has been put."""
        self.is_idle = trio.Event()
        """The filling task has nothing left to do."""

    async def put(self, item: T) -> None:
        """Not a checkpoint while there is room: of every word that a model says one would cost more than the word."""
        try:
            self._in.send_nowait(item)
        except trio.WouldBlock:
            await self._in.send(item)

    def end(self) -> None:
        """It is whole, though the filling task goes on. Idempotent."""
        self.has_ended = True
        self._in.close()

    async def receive(self) -> T:
        try:
            try:
                return self._out.receive_nowait()
            except trio.WouldBlock:
                return await self._out.receive()
        except trio.EndOfChannel:
            if self._failure is not None:
                raise self._failure from self._failure.__cause__
            raise

    async def aclose(self) -> None:
        self._out.close()
        await trio.lowlevel.checkpoint()

    async def fill(self, produce: Callable[[Outlet[T]], Awaitable[None]]) -> None:
        """Run ``produce``; a failure after the end is nobody's concern."""
        try:
            await produce(self)
        except VendorError as exc:
            if not self.has_ended:
                self._failure = exc
        except trio.BrokenResourceError:
            pass  # its reader has closed it: nobody listens
        finally:
            self._in.close()
            self.is_idle.set()


@asynccontextmanager
async def filled(room: int, produce: Callable[[Outlet[T]], Awaitable[None]]) -> AsyncIterator[Outlet[T]]:
    """What ``produce`` puts while the block runs. Leaving the block cancels it; if it had ended and only the
    connection's own end is awaited, it has ``SETTLE_S`` more."""
    outlet: Outlet[T] = Outlet(room)

    async def fill() -> None:
        await outlet.fill(produce)

    async with beside(fill):
        yield outlet
        if outlet.has_ended:
            with trio.move_on_after(SETTLE_S):
                await outlet.is_idle.wait()
