"""A vendor's part of a call, opened by the rules and held open by a task of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Generic, TypeVar

import trio

from engine.errors import VendorError, Why
from engine.runtime.background import ungrouped
from engine.vendors.tries import Named, Roster

T = TypeVar("T")
V = TypeVar("V", bound=Named)


class Held(Generic[V, T]):
    """A context manager that may hold a nursery must be entered and left in one task: this is that task."""

    part: T

    def __init__(self, vendor: V, on_gone: Callable[[], None] = lambda: None) -> None:
        self.vendor = vendor
        self.failure: VendorError | None = None
        """Why it is gone, if it went by itself."""
        self.gone = trio.Event()
        self._on_gone = on_gone
        self._scope = trio.CancelScope()
        self._release = trio.Event()

    async def run(
        self, opening: AbstractAsyncContextManager[T], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Started once it is open. Raises what opening raised; nothing afterwards but Cancelled."""
        is_open = False
        try:
            with self._scope, ungrouped():
                async with opening as self.part:
                    is_open = True
                    task_status.started()
                    await self._release.wait()
        except VendorError as exc:
            if not is_open:
                raise
            self.failure = exc
        finally:
            self.gone.set()
            self._on_gone()

    def let_go(self) -> None:
        """Close it politely, without waiting for it."""
        self._release.set()

    def cut(self) -> None:
        """Close it at once."""
        self._scope.cancel()


class Opener(Generic[V, T]):
    """Opens parts of a roster's vendors in a nursery: tried again, and with the next one."""

    def __init__(
        self,
        roster: Roster[V],
        nursery: trio.Nursery,
        opening: Callable[[V], AbstractAsyncContextManager[T]],
        *,
        on_gone: Callable[[], None] = lambda: None,
    ) -> None:
        self._roster = roster
        self._nursery = nursery
        self._opening = opening
        self._on_gone = on_gone
        self._held: list[Held[V, T]] = []

    @property
    def is_closed(self) -> bool:
        return all(held.gone.is_set() for held in self._held)

    async def open(self, *, within_s: float, is_live: bool = False) -> Held[V, T]:
        """Raises VendorError."""
        policy = self._roster.around.policy
        tries = self._roster.tries(within_s=within_s, most=policy.tries, is_live=is_live)
        while True:
            vendor = await tries.next()
            try:
                return await self.try_once(vendor, min(policy.try_s, tries.left_s))
            except VendorError as exc:
                tries.failed(exc)

    async def try_once(self, vendor: V, within_s: float) -> Held[V, T]:
        """One connection of this vendor, counted. Raises VendorError."""
        around, kind = self._roster.around, self._roster.kind
        with around.asked(vendor.name, kind):
            began_at_s = trio.current_time()
            held = await self.hold(vendor, within_s)
            took_s = trio.current_time() - began_at_s
            around.metrics.vendor_connect_duration_seconds.labels(vendor=vendor.name, kind=kind).observe(took_s)
        return held

    async def hold(self, vendor: V, within_s: float) -> Held[V, T]:
        """The same, not counted."""
        self._held = [held for held in self._held if not held.gone.is_set()]
        held: Held[V, T] = Held(vendor, self._on_gone)
        self._held.append(held)
        with trio.move_on_after(within_s) as waiting, ungrouped():
            await self._nursery.start(held.run, self._opening(vendor))
        if waiting.cancelled_caught:
            raise self._roster.error(vendor.name, "did not open in time", why=Why.TIMEOUT)
        return held

    async def close(self) -> None:
        """All of them, politely and side by side. Whoever waits sets the deadline."""
        for held in self._held:
            held.let_go()
        for held in list(self._held):
            await held.gone.wait()
