"""The ledger of a call: every resource it owns, from the moment it opens to the proof that it has closed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

import structlog
import trio

from engine.ports import ResourceKind

T = TypeVar("T")
log = structlog.get_logger()


class How(StrEnum):
    """How a resource was closed: the ``how`` label of ``offhook_resources_closed_total``."""

    CLEAN = "clean"
    """Politely, within the deadline."""
    CANCELLED = "cancelled"
    """At once, because whoever used it was cut off."""
    ERROR = "error"
    """Its close raised; it is closed all the same."""
    FORCED = "forced"
    """It had not closed politely when the deadline passed."""


class LedgerBook(Protocol):
    """Where ledgers report: metrics and timeline."""

    def opened(self, kind: ResourceKind, vendor: str) -> None: ...

    def closed(self, kind: ResourceKind, vendor: str, how: How, took_s: float) -> None: ...

    def leaked(self, kind: ResourceKind, vendor: str) -> None: ...


@dataclass(eq=False, slots=True)
class Entry:
    """One resource. ``abort`` closes it at once, without waiting."""

    kind: ResourceKind
    vendor: str
    opened_at_s: float
    abort: Callable[[], None] | None = None
    forced: bool = False


class Ledger:
    """What one call owns. Implements ``engine.ports.Owner``.

    A resource is entered when it has opened and struck off when it has closed. Nothing is ever struck off because it
    was asked to close: only because its close returned, and then ``is_closed`` is asked for the proof.
    """

    def __init__(self, call_id: str, book: LedgerBook) -> None:
        self.call_id = call_id
        self._book = book
        self._entries: list[Entry] = []
        self.opened = 0
        """How many resources were ever opened; of these:"""
        self.forced = 0
        self.leaks = 0
        """How many were found open after their close, or were never closed."""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What is open now."""
        return tuple(self._entries)

    @asynccontextmanager
    async def own(
        self,
        kind: ResourceKind,
        vendor: str,
        opening: AbstractAsyncContextManager[T],
        *,
        is_closed: Callable[[T], bool] | None = None,
        abort: Callable[[T], None] | None = None,
    ) -> AsyncIterator[T]:
        """See ``engine.ports.Owner.own``."""
        resource = await opening.__aenter__()
        entry = self._enter(kind, vendor)
        if abort is not None:
            entry.abort = lambda: abort(resource)
        how = How.CLEAN
        failure: BaseException | None = None
        try:
            yield resource
        except BaseException as exc:  # noqa: BLE001 - raised again below, once the resource has closed
            failure = exc
            how = How.CANCELLED if _is_cancellation(exc) else How.ERROR
        closing_at = trio.current_time()
        try:
            # As `async with` would: told what ended the block, and free to swallow what was its own doing.
            of_block = (None, None, None) if failure is None else (type(failure), failure, failure.__traceback__)
            is_swallowed = await opening.__aexit__(*of_block)
        except BaseException as exc:
            if not _is_cancellation(exc):
                how = How.ERROR
            elif how is How.CLEAN:
                how = How.FORCED
            raise
        finally:
            self._strike_off(entry, how, closing_at, closed=is_closed is None or is_closed(resource))
        if failure is not None and not is_swallowed:
            raise failure

    def abort_all(self) -> None:
        """Close everything left that has a way to be closed without waiting. Idempotent, never raises."""
        for entry in self.entries:
            if entry.abort is None or entry.forced:
                continue
            entry.forced = True
            try:
                entry.abort()
            except Exception as exc:
                log.error("abort_failed", call_id=self.call_id, kind=entry.kind, vendor=entry.vendor, exc_info=exc)

    def settle(self) -> None:
        """The call is over: whatever is still entered has leaked."""
        for entry in self.entries:
            self._entries.remove(entry)
            self._leak(entry)

    def _enter(self, kind: ResourceKind, vendor: str) -> Entry:
        entry = Entry(kind, vendor, trio.current_time())
        self._entries.append(entry)
        self.opened += 1
        self._book.opened(kind, vendor)
        return entry

    def _strike_off(self, entry: Entry, how: How, closing_at_s: float, *, closed: bool) -> None:
        if entry not in self._entries:  # settled before its close returned: counted as leaked already
            return
        self._entries.remove(entry)
        if entry.forced:
            how = How.FORCED
        self.forced += how is How.FORCED
        now = trio.current_time()
        self._book.closed(entry.kind, entry.vendor, how, now - closing_at_s)
        log.info(
            "resource_closed",
            call_id=self.call_id,
            kind=str(entry.kind),
            vendor=entry.vendor,
            how=str(how),
            close_ms=round((now - closing_at_s) * 1000, 1),
            open_s=round(now - entry.opened_at_s, 3),
        )
        if not closed:
            self._leak(entry)

    def _leak(self, entry: Entry) -> None:
        self.leaks += 1
        self._book.leaked(entry.kind, entry.vendor)
        log.error("resource_leaked", call_id=self.call_id, kind=str(entry.kind), vendor=entry.vendor)


def _is_cancellation(exc: BaseException) -> bool:
    """Cancelled, or the group that a nursery on the way has made of nothing else."""
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(trio.Cancelled)[1] is None
    return isinstance(exc, trio.Cancelled)
