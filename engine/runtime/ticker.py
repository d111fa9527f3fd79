"""One 20 ms beat for all calls: a timer per call would saturate a core at a few hundred."""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

Tick = Callable[[float], None]
"""Called on each beat with the time it was due, on Trio's clock. Plain, quick, never waits."""


class Ticker:
    """Calls plain functions every ``period_s``, on absolute deadlines, so that it never drifts.

    A beat that comes late by up to ``late_s`` is made up for; what is later than that (the process was stopped for a
    while) is skipped, not fired in a burst. A function that raises is removed and reported to ``on_crash``; the
    others go on.
    """

    def __init__(
        self,
        period_s: float = 0.02,
        *,
        late_s: float = 0.2,
        on_crash: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self._period_s = period_s
        self._late_s = late_s
        self._on_crash = on_crash
        self._ticks: dict[object, Tick] = {}
        self._wanted = trio.Event()

    def __len__(self) -> int:
        """How many functions are called on each beat."""
        return len(self._ticks)

    def add(self, callback: Tick) -> Callable[[], None]:
        """Call this from the next beat on. Returns what removes it again: at once, any number of times."""
        key = object()
        self._ticks[key] = callback
        self._wanted.set()
        return lambda: self._remove(key)

    async def run(self) -> None:
        """Beat until cancelled; sleeps while nothing is registered."""
        while True:
            await self._wanted.wait()
            await self._beat()
            self._wanted = trio.Event()

    async def _beat(self) -> None:
        start = trio.current_time()
        beat = 0
        while self._ticks:
            beat = self._next(start, beat)
            due = start + beat * self._period_s
            await trio.sleep_until(due)
            for key, tick in list(self._ticks.items()):
                if key in self._ticks:  # else an earlier one of this beat has removed it
                    self._call(key, tick, due)

    def _next(self, start: float, beat: int) -> int:
        """Beats are counted, not added up: the sum of many 0.02 is not what the clock shows."""
        late = trio.current_time() - (start + (beat + 1) * self._period_s)
        return beat + 1 + (math.floor(late / self._period_s) if late > self._late_s else 0)

    def _call(self, key: object, tick: Tick, due: float) -> None:
        try:
            tick(due)
        except Exception as exc:  # noqa: BLE001 - one call's fault must not stop the beat of the others
            self._remove(key)
            self._on_crash(exc)

    def _remove(self, key: object) -> None:
        self._ticks.pop(key, None)
