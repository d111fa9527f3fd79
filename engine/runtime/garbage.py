"""When Python goes through the whole memory for cycles that nobody uses any more: while nobody is on the line.

A full collection stops the event loop for as long as it takes, 50 ms and more with two hundred live calls, and each of
them hears it. It frees next to nothing: calls let go of what they own, and what is left over is found while it is young
by the small collections, which take a millisecond and go on as ever. So here Python makes no full ones by itself. They
are made while no call is live, or at the latest when the process has grown by ``MAX_GROWTH_BYTES`` since the last one.
"""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog
import trio

log = structlog.get_logger()

LOOK_S = 1.0
MIN_SMALL = 10
"""Small collections after which a full one is worth its time: what they leave is all that it can find."""
MAX_GROWTH_BYTES = 64 * 1024 * 1024
NEVER = 1_000_000_000
"""Small collections after which Python makes a full one."""


def resident_bytes() -> int:
    """Memory that the process has now; the most that it ever had where the system does not tell."""
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class FullCollections:
    """For a process that does nothing but serve calls: it sets how Python collects, for the whole process.

    ``run`` it in a task, and ``start`` once everything is loaded.
    """

    def __init__(self, *, memory: Callable[[], int] = resident_bytes) -> None:
        self._memory = memory
        self._started = trio.Event()
        self._bytes = 0
        """After the last full collection, or less if it has shrunk since."""
        self._small = 0
        """Small collections before the last full one."""

    def start(self) -> None:
        """What is loaded now stays for good: no collection looks at it again."""
        often, less_often, _ = gc.get_threshold()
        gc.set_threshold(often, less_often, NEVER)
        self._collect()
        gc.freeze()
        self._started.set()

    async def run(self, is_quiet: Callable[[], bool]) -> None:
        """Until cancelled; then Python collects by its own rules again. ``is_quiet``: nobody would hear it now."""
        thresholds = gc.get_threshold()
        try:
            await self._started.wait()
            while True:
                await trio.sleep(LOOK_S)
                self._look(is_quiet=is_quiet())
        finally:
            gc.set_threshold(*thresholds)
            gc.unfreeze()

    def _look(self, *, is_quiet: bool) -> None:
        bytes_now = self._memory()
        self._bytes = min(self._bytes, bytes_now)
        if is_quiet:
            if _small_collections() - self._small >= MIN_SMALL:
                self._collect()
        elif bytes_now - self._bytes >= MAX_GROWTH_BYTES:
            log.info("collected_in_calls", grown_bytes=bytes_now - self._bytes)
            self._collect()

    def _collect(self) -> None:
        gc.collect()
        self._small = _small_collections()
        self._bytes = self._memory()


def _small_collections() -> int:
    return int(gc.get_stats()[1]["collections"])
