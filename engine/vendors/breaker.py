"""Breakers: a vendor that fails for many calls is not asked by each of them in turn."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog
import trio

from engine.errors import Why
from engine.observe.labels import BreakerState, VendorKind
from engine.observe.metrics import Metrics

log = structlog.get_logger()

_OF_THE_QUESTION = frozenset({Why.BAD_REQUEST, Why.TOO_LONG, Why.FILTERED})
"""They say nothing about how the vendor is."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    failures: int = 5
    """So many,"""
    within_s: float = 30.0
    """within this time, over all calls, open a breaker"""
    open_s: float = 15.0
    """for this long; then one call may ask."""


class Breaker:
    """Of one vendor in one role. Whoever asked it says how that went, once: ``worked``, ``failed`` or ``let_go``."""

    def __init__(
        self, tolerance: Tolerance = Tolerance(), *, on_change: Callable[[BreakerState], None] = lambda _: None
    ) -> None:
        self.state = BreakerState.CLOSED
        self.why = Why.UNREACHABLE
        """What whoever is not let through is to be told."""
        self._tolerance = tolerance
        self._on_change = on_change
        self._failed_at_s: deque[float] = deque(maxlen=tolerance.failures)
        self._opened_until_s = -math.inf

    def admits(self) -> bool:
        """Whether it may be asked now. Of those that ask once it has been open long enough, the first may."""
        if self.state is BreakerState.OPEN and trio.current_time() >= self._opened_until_s:
            self._turn(BreakerState.PROBING)
            return True
        return self.state is BreakerState.CLOSED

    @property
    def wait_s(self) -> float:
        """Until somebody may ask; 0 if that is now."""
        if self.state is BreakerState.CLOSED:
            return 0.0
        return max(0.0, self._opened_until_s - trio.current_time())

    def worked(self) -> None:
        if self.state is not BreakerState.CLOSED:
            self._failed_at_s.clear()
            self._turn(BreakerState.CLOSED)

    def failed(self, why: Why) -> None:
        if why in _OF_THE_QUESTION:
            self.let_go()
            return
        now = trio.current_time()
        self._failed_at_s.append(now)
        is_full = len(self._failed_at_s) == self._tolerance.failures
        is_too_much = is_full and now - self._failed_at_s[0] <= self._tolerance.within_s
        if self.state is BreakerState.PROBING or why is Why.AUTH or (is_too_much and self.state is BreakerState.CLOSED):
            self._opened_until_s = now + self._tolerance.open_s
            self.why = Why.AUTH if why is Why.AUTH else Why.UNREACHABLE
            self._turn(BreakerState.OPEN)

    def let_go(self) -> None:
        """Nobody waited for the answer: another one may ask."""
        if self.state is BreakerState.PROBING:
            self._turn(BreakerState.OPEN)

    def _turn(self, state: BreakerState) -> None:
        if state is not self.state:
            self.state = state
            self._on_change(state)


class Breakers:
    """All of the process: made once, and given around."""

    def __init__(self, metrics: Metrics, tolerance: Tolerance = Tolerance()) -> None:
        self._metrics = metrics
        self._tolerance = tolerance
        self._breakers: dict[tuple[str, VendorKind], Breaker] = {}

    def of(self, vendor: str, kind: VendorKind) -> Breaker:
        breaker = self._breakers.get((vendor, kind))
        if breaker is None:

            def on_change(state: BreakerState) -> None:
                log.warning("breaker_changed", vendor=vendor, kind=str(kind), state=str(state))
                self._show(vendor, kind, state)

            breaker = self._breakers[vendor, kind] = Breaker(self._tolerance, on_change=on_change)
            self._show(vendor, kind, BreakerState.CLOSED)
        return breaker

    def not_asked(self) -> list[tuple[str, VendorKind]]:
        """Vendors whose breaker is not closed, for who is asked how the engine is."""
        return [key for key, breaker in self._breakers.items() if breaker.state is not BreakerState.CLOSED]

    def _show(self, vendor: str, kind: VendorKind, now: BreakerState) -> None:
        for state in BreakerState:
            gauge = self._metrics.vendor_breaker_state.labels(vendor=vendor, kind=kind, state=state)
            gauge.set(1 if state is now else 0)
