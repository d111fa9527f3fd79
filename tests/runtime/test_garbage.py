"""Full collections wait until nobody hears them, and never for more memory than the limit."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from engine.runtime.garbage import LOOK_S, MAX_GROWTH_BYTES, MIN_SMALL, FullCollections, resident_bytes

MANY = 20
PYTHONS_OWN = (700, 10, 10)


class Cycle:
    def __init__(self) -> None:
        self.itself = self


@dataclass
class Process:
    """Whose calls and memory are as the test says."""

    is_quiet: bool = False
    bytes: int = 0
    collections: FullCollections = field(init=False)

    def __post_init__(self) -> None:
        self.collections = FullCollections(memory=lambda: self.bytes)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Collections as any process begins with them, not as the tests' own has them."""
    of_the_tests = gc.get_threshold()
    gc.unfreeze()
    gc.set_threshold(*PYTHONS_OWN)
    yield
    assert gc.get_threshold() == PYTHONS_OWN
    assert gc.get_freeze_count() == 0
    gc.set_threshold(*of_the_tests)
    gc.freeze()


@asynccontextmanager
async def serving() -> AsyncIterator[Process]:
    process = Process()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(process.collections.run, lambda: process.is_quiet)
        await trio.testing.wait_all_tasks_blocked()
        process.collections.start()
        yield process
        nursery.cancel_scope.cancel()


def old_cycle() -> weakref.ref[Cycle]:
    """One that has outlived the small collections, and that nobody uses any more."""
    cycle = Cycle()
    for _ in range(MIN_SMALL):
        gc.collect(1)
    return weakref.ref(cycle)


async def looked() -> None:
    await trio.sleep(LOOK_S * 1.5)


async def test_what_calls_leave_is_collected_once_nobody_is_on_the_line(autojump_clock: MockClock) -> None:
    async with serving() as process:
        left = old_cycle()
        await looked()
        assert left() is not None
        process.is_quiet = True
        await looked()
        assert left() is None


async def test_a_process_that_always_has_calls_collects_when_it_has_grown(autojump_clock: MockClock) -> None:
    async with serving() as process:
        left = old_cycle()
        process.bytes += MAX_GROWTH_BYTES - 1
        await looked()
        assert left() is not None
        process.bytes += 1
        await looked()
        assert left() is None
        left = old_cycle()
        await looked()
        assert left() is not None, "it has not grown since"


async def test_growth_counts_from_where_the_process_has_shrunk_to(autojump_clock: MockClock) -> None:
    async with serving() as process:
        process.bytes = 2 * MAX_GROWTH_BYTES
        await looked()
        process.bytes = 0
        await looked()
        left = old_cycle()
        process.bytes = MAX_GROWTH_BYTES
        await looked()
        assert left() is None


async def test_a_process_that_does_nothing_does_not_collect_again_and_again(autojump_clock: MockClock) -> None:
    async with serving() as process:
        process.is_quiet = True
        await looked()
        before = gc.get_stats()[2]["collections"]
        for _ in range(MANY):
            await looked()
        assert gc.get_stats()[2]["collections"] - before <= 1


async def test_python_makes_no_full_collection_by_itself(autojump_clock: MockClock) -> None:
    async with serving():
        before = gc.get_stats()
        kept = [Cycle() for _ in range(300_000)]
        after = gc.get_stats()
        assert kept
        assert after[2]["collections"] == before[2]["collections"]
        assert after[1]["collections"] > before[1]["collections"] + MIN_SMALL


async def test_what_is_loaded_is_not_looked_at_again(autojump_clock: MockClock) -> None:
    loaded = Cycle()
    async with serving():
        assert not any(one is loaded for one in gc.get_objects())


def test_the_memory_of_this_process_is_known() -> None:
    before = resident_bytes()
    held = bytearray(b"\1") * (32 * 1024 * 1024)
    assert resident_bytes() - before > len(held) // 2
