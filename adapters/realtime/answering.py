"""The channel of a written answer: one task fills it, its reader empties it, leaving the block ends both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from engine.errors import ModelFailed
from engine.events import ModelPart
from engine.runtime.background import beside

PARTS = 64
"""Made and not yet taken; then the vendor waits."""
Put = Callable[[ModelPart], Awaitable[None]]


class Answer(trio.abc.ReceiveChannel[ModelPart]):
    """What the reader of a reply holds."""

    def __init__(self, produce: Callable[[Put], Awaitable[None]]) -> None:
        self._produce = produce
        self._in, self._out = trio.open_memory_channel[ModelPart](PARTS)
        self._failure: ModelFailed | None = None

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

    async def fill(self) -> None:
        try:
            await self._produce(self._in.send)
        except ModelFailed as exc:
            self._failure = exc
        except trio.BrokenResourceError:
            pass  # nobody listens any more
        finally:
            self._in.close()


@asynccontextmanager
async def answering(produce: Callable[[Put], Awaitable[None]]) -> AsyncIterator[Answer]:
    """An answer made by ``produce`` while the block runs; its ModelFailed is raised by the channel, after the parts
    that came before."""
    answer = Answer(produce)
    async with beside(answer.fill):
        yield answer
