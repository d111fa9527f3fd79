"""How late the event loop is, and which code made it so."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable

import structlog
import trio

log = structlog.get_logger()

TICK_S = 0.05
"""How often the loop is asked to show a sign of life."""


class LagWatch:
    """Measures the lateness of a periodic timer, and looks at the loop's stack from outside while it is blocked.

    ``observe`` is given each lateness in seconds. A block longer than ``warn_s`` is logged once: as ``loop_blocked``
    with the innermost frames at fault, or as ``loop_starved`` when the loop itself was idle. ``worst_recent_s`` is the
    worst lateness of about the last second.
    """

    def __init__(self, observe: Callable[[float], None], *, warn_s: float = 0.1) -> None:
        self._observe = observe
        self._warn_s = warn_s
        self._last_tick = time.perf_counter()
        self._recent: list[float] = []
        self._stop = threading.Event()

    @property
    def worst_recent_s(self) -> float:
        return max(self._recent, default=0.0)

    async def run(self) -> None:
        """Until cancelled. The watching thread ends before this returns."""
        self._stop.clear()
        self._last_tick = time.perf_counter()
        async with trio.open_nursery() as nursery:
            # Not cancellable and not abandoned: it ends within one tick of `_stop`, and is waited for.
            nursery.start_soon(trio.to_thread.run_sync, self._look_from_outside, threading.get_ident())
            try:
                await self._tick()
            finally:
                self._stop.set()

    async def _tick(self) -> None:
        while True:
            due = time.perf_counter() + TICK_S
            await trio.sleep(TICK_S)
            now = time.perf_counter()
            self._last_tick = now
            late = max(0.0, now - due)
            self._observe(late)
            self._recent = [*self._recent[-19:], late]

    def _look_from_outside(self, loop_thread: int) -> None:
        warned_tick = 0.0
        while not self._stop.wait(TICK_S):
            tick = self._last_tick
            late = time.perf_counter() - tick - TICK_S
            if late < self._warn_s or tick == warned_tick:
                continue
            warned_tick = tick
            frame = sys._current_frames().get(loop_thread)
            if frame is not None and frame.f_code.co_name == "get_events":
                # The loop waits for events: what keeps it is a thread with the interpreter, or a busy machine.
                log.info("loop_starved", late_ms=round(late * 1000))
                continue
            where = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_stack(frame)[-4:]] if frame else []
            log.warning("loop_blocked", late_ms=round(late * 1000), where=where)
