"""A channel that one task fills, and whose failure its reader is told behind what was put before."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import trio

from engine.errors import VendorError
from engine.runtime.background import beside

T = TypeVar("T")


class Outlet(trio.abc.ReceiveChannel[T], Generic[T]):
    """``put`` waits while ``room`` items have not been taken."""

    def __init__(self, room: int) -> None:
        self._in, self._out = trio.open_memory_channel[T](room)
        self._failure: VendorError | None = None

    async def put(self, item: T) -> None:
        await self._in.send(item)

    async def receive(self) -> T:
        try:
            return await self._out.receive()
        except trio.EndOfChannel:
            if self._failure is not None:
                raise self._failure from self._failure.__cause__
            raise

    async def aclose(self) -> None:
        self._out.close()
        await trio.lowlevel.checkpoint()

    async def fill(self, produce: Callable[[Outlet[T]], Awaitable[None]]) -> None:
        try:
            await produce(self)
        except VendorError as exc:
            self._failure = exc
        except trio.BrokenResourceError:
            pass  # its reader has closed it: nobody listens
        finally:
            self._in.close()


@asynccontextmanager
async def filled(room: int, produce: Callable[[Outlet[T]], Awaitable[None]]) -> AsyncIterator[Outlet[T]]:
    """What ``produce`` puts while the block runs; leaving the block cancels it."""
    outlet: Outlet[T] = Outlet(room)

    async def fill() -> None:
        await outlet.fill(produce)

    async with beside(fill):
        yield outlet
