"""Resources opened and closed side by side."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from engine.runtime.holdings import Holdings


class Site:
    """Opens things and writes down what happened."""

    def __init__(self) -> None:
        self.open: set[str] = set()
        self.lost: list[Exception] = []
        self.cuts = 0

    @asynccontextmanager
    async def thing(
        self, name: str, *, open_s: float = 0, close_s: float = 0, fails: bool = False, dies_after_s: float = 0
    ) -> AsyncIterator[str]:
        await trio.sleep(open_s)
        if fails:
            raise OSError(name)
        async with trio.open_nursery() as nursery:  # what real sockets hold
            self.open.add(name)
            try:
                if dies_after_s:
                    nursery.start_soon(self._die, dies_after_s)
                yield name
                await trio.sleep(close_s)
            finally:
                self.open.discard(name)
                nursery.cancel_scope.cancel()

    async def _die(self, after_s: float) -> None:
        await trio.sleep(after_s)
        raise ConnectionError("reset")

    def _cut(self) -> None:
        self.cuts += 1

    def holdings(self) -> Holdings:
        return Holdings(on_lost=self.lost.append, on_cut=self._cut)


@pytest.fixture
def site() -> Site:
    return Site()


async def test_slow_openings_and_slow_closes_each_cost_only_the_slowest(site: Site, autojump_clock: MockClock) -> None:
    async with site.holdings() as held:
        things = await held.open_all([site.thing(name, open_s=1, close_s=2) for name in "abc"])
        assert things == ["a", "b", "c"]
        assert trio.current_time() == pytest.approx(1)
    assert trio.current_time() == pytest.approx(3)
    assert (site.open, site.cuts) == (set(), 0)


async def test_the_first_failure_is_raised_at_once_and_the_others_are_let_go(
    site: Site, autojump_clock: MockClock
) -> None:
    async with site.holdings() as held:
        with pytest.raises(OSError, match="b"):
            await held.open_all([site.thing("a"), site.thing("b", open_s=1, fails=True), site.thing("c", open_s=99)])
        assert site.open == {"a"}
    assert trio.current_time() == pytest.approx(1)
    assert site.open == set()


async def test_a_resource_that_dies_while_held_is_told(site: Site, autojump_clock: MockClock) -> None:
    async with site.holdings() as held:
        await held.open_all([site.thing("a"), site.thing("b", dies_after_s=1)])
        await trio.sleep(2)
        assert site.open == {"a"}
        assert len(site.lost) == 1


async def test_one_that_is_let_go_of_closes_alone_and_is_not_taken_for_lost(
    site: Site, autojump_clock: MockClock
) -> None:
    async with site.holdings() as held:
        first, _ = await held.open_all([site.thing("a", close_s=1), site.thing("b")])
        held.let_go_of(first)
        held.let_go_of("never held")
        await trio.sleep(2)
        assert (site.open, site.lost) == ({"b"}, [])


async def test_what_is_not_waited_for_any_more_is_not_kept(site: Site, autojump_clock: MockClock) -> None:
    async with site.holdings() as held:
        with trio.move_on_after(1):
            await held.open_all([site.thing("a"), site.thing("b", open_s=99)])
        await trio.sleep(1)
        assert (site.open, site.lost) == (set(), [])


async def test_a_deadline_around_it_cuts_closes_that_take_too_long(site: Site, autojump_clock: MockClock) -> None:
    with trio.CancelScope() as owning:
        async with site.holdings() as held:
            await held.open_all([site.thing("a", close_s=99), site.thing("b")])
            owning.deadline = trio.current_time() + 1
    assert owning.cancelled_caught
    assert trio.current_time() == pytest.approx(1)
    assert (site.open, site.cuts) == (set(), 1)


async def test_an_error_in_the_block_closes_everything_and_passes(site: Site) -> None:
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - the block is what fails
        async with site.holdings() as held:
            await held.open(site.thing("a"))
            raise KeyError("bug")
    assert isinstance(caught.value.exceptions[0], KeyError)
    assert site.open == set()


@pytest.mark.parametrize("after_steps", range(12))
async def test_cancelled_at_any_step_nothing_stays_open(site: Site, after_steps: int) -> None:
    async def hold() -> None:
        with scope:
            async with site.holdings() as held:
                await held.open_all([site.thing("a"), site.thing("b")])
                await trio.sleep_forever()

    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        for _ in range(after_steps):
            await trio.lowlevel.checkpoint()
        scope.cancel()
    await wait_all_tasks_blocked()
    assert site.open == set()
