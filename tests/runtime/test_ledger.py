"""The ledger: what a call owns, and the proof that it has let go of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from engine.ports import ResourceKind
from engine.runtime.ledger import How, Ledger

KIND = ResourceKind.SPEECH_CLIENT


class Book:
    """Writes down what the ledger reports."""

    def __init__(self) -> None:
        self.open = 0
        self.closed_how: list[How] = []
        self.leaks = 0

    def opened(self, kind: ResourceKind, vendor: str) -> None:
        self.open += 1

    def closed(self, kind: ResourceKind, vendor: str, how: How, took_s: float) -> None:
        self.open -= 1
        self.closed_how.append(how)

    def leaked(self, kind: ResourceKind, vendor: str) -> None:
        self.leaks += 1


class Line:
    """Something with a close that takes ``close_s``, or fails."""

    def __init__(self, close_s: float = 0.0, error: Exception | None = None) -> None:
        self.is_open = True
        self._close_s = close_s
        self._error = error

    async def aclose(self) -> None:
        try:
            await trio.sleep(self._close_s)
            if self._error is not None:
                raise self._error
        finally:
            self.is_open = False

    def abort(self) -> None:
        self.is_open = False


@asynccontextmanager
async def opened(line: Line) -> AsyncIterator[Line]:
    try:
        yield line
    finally:
        await line.aclose()


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture
def ledger(book: Book) -> Ledger:
    return Ledger("CA1", book)


async def test_a_resource_is_entered_when_open_and_struck_off_when_closed(ledger: Ledger, book: Book) -> None:
    async with ledger.own(KIND, "v", opened(Line())):
        assert [entry.kind for entry in ledger.entries] == [KIND]
        assert book.open == 1
    assert (ledger.entries, book.open, book.closed_how) == ((), 0, [How.CLEAN])


async def test_a_cancelled_user_of_it_closes_it_at_once(ledger: Ledger, book: Book) -> None:
    with trio.CancelScope() as scope:
        async with ledger.own(KIND, "v", opened(Line(close_s=10))):
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert book.closed_how == [How.CANCELLED]


async def test_a_close_that_outlives_its_deadline_was_forced(
    ledger: Ledger, book: Book, autojump_clock: MockClock
) -> None:
    with trio.CancelScope() as scope:
        async with ledger.own(KIND, "v", opened(Line(close_s=60))):
            scope.deadline = trio.current_time() + 1
    assert trio.current_time() == pytest.approx(1)
    assert (book.closed_how, book.open, ledger.forced) == ([How.FORCED], 0, 1)


async def test_a_close_in_a_nursery_of_its_own_was_forced_just_the_same(
    ledger: Ledger, book: Book, autojump_clock: MockClock
) -> None:
    @asynccontextmanager
    async def busy() -> AsyncIterator[Line]:
        async with trio.open_nursery() as nursery:
            yield Line()
            nursery.start_soon(trio.sleep, 60)
            nursery.start_soon(trio.sleep, 60)
            await trio.sleep(60)

    with trio.CancelScope() as scope:
        async with ledger.own(KIND, "v", busy()):
            scope.deadline = trio.current_time() + 1
    assert book.closed_how == [How.FORCED]


async def test_a_close_that_fails_is_counted_and_passes_its_error_on(ledger: Ledger, book: Book) -> None:
    with pytest.raises(ValueError, match="torn"):
        async with ledger.own(KIND, "v", opened(Line(error=ValueError("torn")))):
            pass
    assert (book.closed_how, book.open) == ([How.ERROR], 0)


async def test_an_error_of_the_user_is_not_swallowed(ledger: Ledger, book: Book) -> None:
    with pytest.raises(KeyError):
        async with ledger.own(KIND, "v", opened(Line())):
            raise KeyError("x")
    assert book.open == 0


async def test_an_opening_that_fails_is_not_entered(ledger: Ledger, book: Book) -> None:
    @asynccontextmanager
    async def refused() -> AsyncIterator[Line]:
        raise OSError("refused")
        yield Line()

    with pytest.raises(OSError, match="refused"):
        async with ledger.own(KIND, "v", refused()):
            pytest.fail("not reached")
    assert (ledger.opened, book.open) == (0, 0)


async def test_a_resource_that_is_still_open_after_its_close_is_a_leak(ledger: Ledger, book: Book) -> None:
    async with ledger.own(KIND, "v", opened(Line()), is_closed=lambda _: False):
        pass
    assert (book.leaks, ledger.leaks) == (1, 1)


async def test_what_was_never_closed_is_a_leak_when_the_call_is_settled(ledger: Ledger, book: Book) -> None:
    owning = ledger.own(KIND, "v", opened(Line()))
    await owning.__aenter__()
    ledger.settle()
    assert (ledger.entries, book.leaks) == ((), 1)
    await owning.__aexit__(None, None, None)
    assert book.leaks == 1


async def test_abort_closes_what_does_not_listen(ledger: Ledger, book: Book) -> None:
    line = Line()
    async with ledger.own(KIND, "v", opened(line), abort=Line.abort):
        ledger.abort_all()
        ledger.abort_all()
        assert not line.is_open
    assert book.closed_how == [How.FORCED]
