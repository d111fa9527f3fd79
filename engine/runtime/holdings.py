"""Resources opened and closed side by side, each in a task of its own.

A context manager that holds a nursery must be entered and left in one task. Three of them entered in one task open one
after the other, and a slow close holds up the next. Here each has its own task: they open together, close together,
and share one deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import structlog
import trio

from engine.errors import VendorError

T = TypeVar("T")
log = structlog.get_logger()


class _Opening(Generic[T]):
    """One resource on its way, and its scope: cancelled if it is still on its way when all are let go."""

    __slots__ = ("opened", "release", "resource", "scope")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.release = trio.Event()
        self.opened = False
        self.resource: T | None = None

    def let_go(self) -> None:
        """Close it, or give it up on its way."""
        self.release.set()
        if not self.opened:
            self.scope.cancel()


class _Batch:
    """What one ``open_all`` waits for: all open, or the first failure."""

    __slots__ = ("error", "missing", "settled")

    def __init__(self, missing: int) -> None:
        self.missing = missing
        self.error: Exception | None = None
        self.settled = trio.Event()

    def one_opened(self) -> None:
        self.missing -= 1
        if self.missing == 0:
            self.settled.set()

    def one_failed(self, error: Exception) -> None:
        self.error = self.error or error
        self.settled.set()


class Holdings:
    """``async with Holdings(...) as holdings: a = await holdings.open(...)``.

    Leaving the block, in whatever way, lets go of everything at the same time and waits for the closes; put a deadline
    on a scope around it. ``on_lost`` is told when a resource fails on its own while it is held. ``on_cut`` is called,
    once, when the scope around is cancelled: the place to close descriptors of whoever does not listen to Cancelled.
    """

    def __init__(self, *, on_lost: Callable[[Exception], None], on_cut: Callable[[], None]) -> None:
        self._on_lost = on_lost
        self._on_cut = on_cut
        self._release = trio.Event()
        self._nurseries = trio.open_nursery()
        self._nursery: trio.Nursery | None = None
        self._held: list[_Opening[Any]] = []
        self._all_closed = trio.Event()

    async def __aenter__(self) -> Self:
        self._nursery = await self._nurseries.__aenter__()
        self._nursery.start_soon(self._watch_for_cut)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self.let_go()
        return await self._nurseries.__aexit__(kind, value, trace)

    def let_go(self) -> None:
        """Begin to close everything, without waiting for it; nothing can be opened any more. Leaving the block does."""
        self._release.set()
        for state in self._held:
            state.let_go()
        self._let_watch_go()

    def let_go_of(self, resource: object) -> None:
        """Begin to close this one alone, without waiting for it. Harmless for what is not held."""
        for state in self._held:
            if state.opened and state.resource is resource:
                state.let_go()

    async def open(self, opening: AbstractAsyncContextManager[T]) -> T:
        """Open one. Raises what the opening raised."""
        return (await self.open_all([opening]))[0]  # type: ignore[no-any-return]  # one in, one out

    async def open_all(self, openings: Sequence[AbstractAsyncContextManager[Any]]) -> list[Any]:
        """Open several side by side. The first failure is raised at once; what did open is closed on leaving, and so
        is, without waiting for it, what was still on its way. Cancelled, all of them are let go of."""
        assert self._nursery is not None  # noqa: S101 - entered
        batch = _Batch(len(openings))
        states: list[_Opening[Any]] = [_Opening() for _ in openings]
        for opening, state in zip(openings, states, strict=True):
            self._held.append(state)
            self._nursery.start_soon(self._hold, opening, state, batch)
        try:
            await batch.settled.wait()
        except trio.Cancelled:
            for state in states:
                state.let_go()
            raise
        if batch.error is not None:
            raise batch.error
        return [state.resource for state in states]

    async def _hold(self, opening: AbstractAsyncContextManager[Any], state: _Opening[Any], batch: _Batch) -> None:
        try:
            with state.scope:
                async with opening as state.resource:
                    state.opened = True
                    batch.one_opened()
                    await state.release.wait()
                # A part that ends its own nursery leaves its block without an error, and is gone all the same.
                if not state.release.is_set():
                    self._on_lost(VendorError("vendor", "a part ended by itself"))
        except* Exception as group:  # noqa: BLE001 - the edge of one resource: the call decides what its failure means
            self._failed(state, batch, _only(group))
        finally:
            self._held.remove(state)
            self._let_watch_go()

    def _failed(self, state: _Opening[Any], batch: _Batch, exc: Exception) -> None:
        if state.release.is_set():
            log.warning("close_failed", error=type(exc).__name__)
        elif state.opened:
            self._on_lost(exc)
        else:
            batch.one_failed(exc)

    async def _watch_for_cut(self) -> None:
        try:
            await self._all_closed.wait()
        except trio.Cancelled:
            self._on_cut()
            raise

    def _let_watch_go(self) -> None:
        if self._release.is_set() and not self._held:
            self._all_closed.set()


def _only(group: ExceptionGroup[Exception]) -> Exception:
    """The exception itself, when the group holds one."""
    if len(group.exceptions) != 1:
        return group
    inner = group.exceptions[0]
    return _only(inner) if isinstance(inner, ExceptionGroup) else inner
