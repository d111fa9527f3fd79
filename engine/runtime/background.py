"""Tasks that run beside a block and end with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio


@asynccontextmanager
async def beside(*runs: Callable[[], Awaitable[object]]) -> AsyncIterator[trio.Nursery]:
    """Run these while the block runs; leaving it, in whatever way, cancels them and waits for them.

    What the block raises leaves as it is, not wrapped in a nursery's group, so that adapters and whoever uses them can
    catch it by its name. So does what one of the tasks raises, which cancels the block.
    """
    with ungrouped():
        async with trio.open_nursery() as nursery:
            for run in runs:
                nursery.start_soon(run)
            try:
                yield nursery
            finally:
                nursery.cancel_scope.cancel()


@contextmanager
def ungrouped() -> Iterator[None]:
    """A group that holds one exception, however deep, leaves the block as that exception."""
    try:
        yield
    except BaseExceptionGroup as group:
        if (only := _only(group)) is None:
            raise
        raise only from only.__cause__


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """The one exception in it, however deep; None if there are several."""
    if len(group.exceptions) != 1:
        return None
    inner = group.exceptions[0]
    return _only(inner) if isinstance(inner, BaseExceptionGroup) else inner
