"""Who is taken for a peer that does not read, and who is not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing
from trio.testing import MockClock

from adapters.providers.probe import ENOUGH, Probe


class Peer:
    """Answers pings after ``takes_s``."""

    def __init__(self) -> None:
        self.takes_s = 0.05
        self.pings: list[float] = []
        self.deaf_at_s: float | None = None
        self.is_gone = False
        self.probe = Probe(self._ping, self._deaf)

    async def _ping(self) -> None:
        self.pings.append(trio.current_time())
        await trio.sleep(self.takes_s)
        if self.is_gone:
            raise trio.EndOfChannel

    def _deaf(self) -> None:
        self.deaf_at_s = trio.current_time()

    async def feed(self, for_s: float) -> None:
        for _ in range(round(for_s / 0.2)):
            self.probe.fed()
            await trio.sleep(0.2)


@asynccontextmanager
async def probing() -> AsyncIterator[Peer]:
    peer = Peer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.probe.run)
        yield peer
        peer.probe.stop()


async def test_a_peer_that_answered_once_and_does_so_no_more_is_found_out(autojump_clock: MockClock) -> None:
    async with probing() as peer:
        await peer.feed(5.0)
        assert peer.deaf_at_s is None
        assert len(peer.pings) <= 6, "once a second"
        peer.takes_s, stopped_at_s = 100.0, trio.current_time()
        await peer.feed(5.0)
        assert peer.deaf_at_s is not None
        assert peer.deaf_at_s - stopped_at_s <= 3.3


async def test_a_peer_that_is_sent_nothing_is_asked_nothing(autojump_clock: MockClock) -> None:
    async with probing() as peer:
        await trio.sleep(60.0)
        assert not peer.pings


async def test_a_peer_that_answers_no_pings_but_echoes_its_marks_reads(autojump_clock: MockClock) -> None:
    async with probing() as peer:
        peer.takes_s = 100.0
        await peer.feed(5.0)
        assert peer.deaf_at_s is None, "nothing is known of it yet"
        peer.probe.marks_echoed = 1
        await peer.feed(60.0)
        assert peer.deaf_at_s is None
        assert len(peer.pings) < 10, "nor is it asked for ever"


async def test_a_peer_that_neither_answers_nor_echoes_is_found_out(autojump_clock: MockClock) -> None:
    async with probing() as peer:
        peer.takes_s = 100.0
        await peer.feed(3.0)
        peer.probe.marks_given_up = 1
        await peer.feed(2.0)
        assert peer.deaf_at_s is not None


async def test_a_process_that_stood_still_judges_nobody(mock_clock: MockClock) -> None:
    async with probing() as peer:
        for takes_s in (0.05, 1000.0, 1000.0, 1000.0):
            peer.takes_s = takes_s
            peer.probe.fed()
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(5.0)
            await trio.testing.wait_all_tasks_blocked()
        assert len(peer.pings) > 2
        assert peer.deaf_at_s is None


async def test_nor_does_one_that_is_far_too_busy(mock_clock: MockClock) -> None:
    async with probing() as peer:
        for step in range(3000):
            peer.takes_s = 0.05 if step < 10 else 10_000.0
            peer.probe.fed()
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(0.25)
        assert peer.deaf_at_s is None
        assert len(peer.pings) <= 5 + ENOUGH, "and it does not ask for ever"


async def test_a_socket_that_is_gone_is_nobodys_silence(autojump_clock: MockClock) -> None:
    async with probing() as peer:
        peer.is_gone = True
        await peer.feed(5.0)
        assert len(peer.pings) == 1
        assert peer.deaf_at_s is None


async def test_a_peer_that_answers_nothing_whatever_is_not_asked_for_ever(autojump_clock: MockClock) -> None:
    async with probing() as peer:
        peer.takes_s = 10_000.0
        await peer.feed(300.0)
        assert len(peer.pings) == ENOUGH
        assert peer.deaf_at_s is None
