"""The watch over the event loop, on a real clock: it looks at real threads."""

from __future__ import annotations

import time

import structlog
import trio
from structlog.testing import capture_logs

from engine.runtime.lag import LagWatch


def hog_the_loop() -> None:
    time.sleep(0.4)


async def test_code_that_blocks_the_loop_is_named() -> None:
    structlog.reset_defaults()
    lags: list[float] = []
    watch = LagWatch(lags.append)
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run)
            with trio.move_on_after(5):
                while not lags:  # noqa: ASYNC110 - a list sets no event
                    await trio.sleep(0.01)
            hog_the_loop()
            await trio.sleep(0.12)
            nursery.cancel_scope.cancel()
    blocked = [entry for entry in logs if entry["event"] == "loop_blocked"]
    assert len(blocked) == 1
    assert any("hog_the_loop" in frame for frame in blocked[0]["where"])
    assert max(lags) > 0.2
    assert watch.worst_recent_s > 0.2
