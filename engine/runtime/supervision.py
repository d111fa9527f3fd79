"""What happens when a part crashes. Calls are never restarted; the engine's own actors are, a few times."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
import trio

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Intensity:
    """How often a permanent actor may crash before its supervisor gives up."""

    restarts: int = 3
    period_s: float = 10.0


async def keep_running(
    name: str,
    run: Callable[[], Awaitable[None]],
    *,
    on_restart: Callable[[str], None],
    on_give_up: Callable[[str], None],
    intensity: Intensity = Intensity(),
) -> None:
    """Run a permanent actor and start it again when it crashes, or returns, which it should not.

    After more than ``intensity.restarts`` crashes within ``intensity.period_s``, ``on_give_up`` is told and this
    returns: the process is then expected to drain and to exit non-zero. Only Cancelled passes.
    """
    crashes: deque[float] = deque()
    while True:
        try:
            await run()
            log.error("actor_returned", actor=name)
        except Exception as exc:
            log.error("actor_crashed", actor=name, exc_info=exc)
        now = trio.current_time()
        crashes.append(now)
        while crashes[0] < now - intensity.period_s:
            crashes.popleft()
        if len(crashes) > intensity.restarts:
            log.critical("actor_given_up", actor=name, crashes=len(crashes), period_s=intensity.period_s)
            on_give_up(name)
            return
        on_restart(name)
        await trio.lowlevel.checkpoint()
