"""Where ledgers report to: the metrics and, for a call, its timeline."""

from __future__ import annotations

from engine.observe.metrics import Metrics
from engine.observe.timeline import Timeline, What
from engine.ports import ResourceKind
from engine.runtime.ledger import How


class Book:
    """Implements ``engine.runtime.ledger.LedgerBook``."""

    def __init__(self, metrics: Metrics, timeline: Timeline) -> None:
        self._metrics = metrics
        self._timeline = timeline

    def opened(self, kind: ResourceKind, vendor: str) -> None:
        self._metrics.resources_open.labels(kind=str(kind), vendor=vendor).inc()
        self._metrics.resources_opened_total.labels(kind=str(kind), vendor=vendor).inc()
        self._timeline.note(What.RESOURCE_OPENED, kind=str(kind), vendor=vendor)

    def closed(self, kind: ResourceKind, vendor: str, how: How, took_s: float) -> None:
        self._metrics.resources_open.labels(kind=str(kind), vendor=vendor).dec()
        self._metrics.resources_closed_total.labels(kind=str(kind), vendor=vendor, how=str(how)).inc()
        if how is How.FORCED:
            self._metrics.teardown_forced_total.labels(resource=str(kind)).inc()
        self._timeline.note(
            What.RESOURCE_CLOSED, kind=str(kind), vendor=vendor, how=str(how), close_ms=round(took_s * 1000, 1)
        )

    def leaked(self, kind: ResourceKind, vendor: str) -> None:
        self._metrics.resources_leaked_total.labels(kind=str(kind)).inc()
        self._metrics.resources_orphaned.labels(kind=str(kind)).inc()
