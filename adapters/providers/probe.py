"""Whether a provider reads what it is sent, where its kernel takes in far more than anybody plays: it owes pongs to
pings, and echoes to marks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

PROBE_S: Final = 1.0
"""While audio goes out, a ping this long after the last pong."""
PONG_S: Final = 1.0
"""For a pong."""
STEP_S: Final = 0.1
"""In its wait for a pong this process looks so often whether it runs itself."""
MISSES: Final = 2
"""Pongs in a row that a peer which reads may owe."""
ENOUGH: Final = 30
"""Pings without any answer, after which nothing is to be found out by more of them."""


class Probe:
    """``run`` it beside the writer, which tells when something was ``fed``. A peer that has ever answered a ping and
    does so no more is ``on_deaf``; and so is one that never has, if none of its marks came back either."""

    def __init__(self, ping: Callable[[], Awaitable[None]], on_deaf: Callable[[], None]) -> None:
        """``ping`` returns on the pong, and raises trio.EndOfChannel when the socket is gone."""
        self.marks_echoed = 0
        self.marks_given_up = 0
        self._ping = ping
        self._on_deaf = on_deaf
        self._fed = trio.Event()
        self._scope = trio.CancelScope()
        self._has_ponged = False

    def fed(self) -> None:
        """Something was sent. Never waits."""
        self._fed.set()

    def stop(self) -> None:
        self._scope.cancel()

    async def run(self) -> None:
        """Until stopped, or nothing is to be found out any more."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                await self._ask(nursery)
                nursery.cancel_scope.cancel()

    async def _ask(self, nursery: trio.Nursery) -> None:
        missed = in_vain = 0  # the second counts those, too, of which we are no judge
        while in_vain < ENOUGH and (missed < MISSES or not (self._is_deaf or self.marks_echoed)):
            if not in_vain:
                await self._fed.wait()
                self._fed = trio.Event()
            asked = _Asked()
            nursery.start_soon(self._ping_once, asked)
            stood_still = await asked.wait()
            if asked.is_gone:
                return
            if asked.has_ponged:
                self._has_ponged, missed, in_vain = True, 0, 0
                await trio.sleep(PROBE_S)
                continue
            in_vain += 1
            missed += not stood_still
        if missed >= MISSES and self._is_deaf:
            self._on_deaf()

    async def _ping_once(self, asked: _Asked) -> None:
        """Not cancelled for being slow: a write that is cut off half-way would cost the socket."""
        try:
            await self._ping()
            asked.has_ponged = True
        except trio.EndOfChannel:
            asked.is_gone = True
        asked.settled.set()

    @property
    def _is_deaf(self) -> bool:
        return self._has_ponged or (self.marks_given_up > 0 and not self.marks_echoed)


class _Asked:
    """One ping."""

    __slots__ = ("has_ponged", "is_gone", "settled")

    def __init__(self) -> None:
        self.settled = trio.Event()
        self.has_ponged = False
        self.is_gone = False

    async def wait(self) -> bool:
        """Until it is settled, or ``PONG_S`` are over. True if this process stood still meanwhile, or is so busy that
        everything takes long: then it is no judge of others."""
        stood_still = False
        until_s = trio.current_time() + PONG_S
        while not self.settled.is_set() and (now := trio.current_time()) < until_s:
            with trio.move_on_after(STEP_S):
                await self.settled.wait()
            stood_still |= trio.current_time() - now > 2 * STEP_S
        return stood_still
