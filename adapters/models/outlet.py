"""The channel of an answer: one task fills it, whoever opened the reply empties it, leaving the block ends both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from engine.errors import ModelFailed
from engine.events import ModelPart
from engine.runtime.background import beside

PARTS = 64
"""Made and not yet taken; then the vendor waits."""
SETTLE_S = 0.1
"""How long leaving a reply that has ended waits for its connection to be fit for the next one."""


class Outlet(trio.abc.ReceiveChannel[ModelPart]):
    """What the filling task puts into, and what the reply's reader holds."""

    def __init__(self) -> None:
        self._in, self._out = trio.open_memory_channel[ModelPart](PARTS)
        self._failure: ModelFailed | None = None
        self.has_ended = False
        """All of the answer has been put."""
        self.is_idle = trio.Event()
        """The filling task has nothing left to do."""

    async def put(self, part: ModelPart) -> None:
        await self._in.send(part)

    def end(self) -> None:
        """The answer is whole. Idempotent."""
        self.has_ended = True
        self._in.close()

    async def receive(self) -> ModelPart:
        try:
            return await self._out.receive()
        except trio.EndOfChannel:
            if self._failure is not None:
                raise self._failure from self._failure.__cause__
            raise

    async def aclose(self) -> None:
        self._out.close()
        await trio.lowlevel.checkpoint()

    async def fill(self, produce: Callable[[Outlet], Awaitable[None]]) -> None:
        """Run ``produce``; a ModelFailed of it is raised by ``receive``, after what was put before."""
        try:
            await produce(self)
        except ModelFailed as exc:
            if not self.has_ended:
                self._failure = exc
        except trio.BrokenResourceError:
            pass  # the reader has closed its end: nobody listens
        finally:
            self._in.close()
            self.is_idle.set()


@asynccontextmanager
async def answering(produce: Callable[[Outlet], Awaitable[None]]) -> AsyncIterator[Outlet]:
    """An answer made by ``produce`` while the block runs. Leaving the block cancels it; if the answer had ended and
    only the connection's own end is awaited, it has ``SETTLE_S`` more."""
    outlet = Outlet()

    async def fill() -> None:
        await outlet.fill(produce)

    async with beside(fill):
        yield outlet
        if outlet.has_ended:
            with trio.move_on_after(SETTLE_S):
                await outlet.is_idle.wait()
