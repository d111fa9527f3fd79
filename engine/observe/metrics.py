"""The program's metrics: one object, its own registry, every bounded series present from the start.

Whoever counts keeps the child: ``dropped = metrics.audio_frames_dropped_total.labels("in", "late")`` once per call,
then ``dropped.inc()``. A label lookup per frame costs twice what the counting does.
"""

from __future__ import annotations

import itertools
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any, Generic, TypeVar

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest as text_page
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_page
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import CollectorRegistry

from engine.observe import labels as of
from engine.observe.families import FAMILIES, PREFIX, Configured, Domain, Family

M = TypeVar("M", Counter, Gauge, Histogram)

TEXT = "text/plain; version=0.0.4; charset=utf-8"
_BREATH_S = 0.0002
"""Between two families the rendering thread lets go of the interpreter for this long, so that the event loop, which
sends audio, never waits for a whole page."""


class Labelled(Generic[M]):
    """A family with labels. Values outside a label's set are counted and folded into ``other``, never added.

    A child is made when it is asked for; ``fill`` makes all there can be, so that a page shows what is 0, too.
    """

    def __init__(self, parent: M, domains: Mapping[str, tuple[str, ...]], *, overflow: Counter | None) -> None:
        self._parent: M = parent
        self._names = tuple(domains)
        self._ordered = tuple(domains.values())
        self._domains = [frozenset(domain) for domain in self._ordered]
        self._overflow = overflow
        self._children: dict[tuple[str, ...], M] = {}

    def fill(self) -> None:
        """Idempotent."""
        for values in itertools.product(*self._ordered):
            self._child(values)

    def labels(self, *values: str, **named: str) -> M:
        """The child for these values, in the family's order or by name. Raises ValueError for a wrong set of names."""
        if named:
            if values or set(named) != set(self._names):
                raise ValueError(f"labels are {', '.join(self._names)}")
            values = tuple(named[name] for name in self._names)
        child = self._children.get(values)
        return child if child is not None else self._made(values)

    def _made(self, values: tuple[str, ...]) -> M:
        if len(values) != len(self._names):
            raise ValueError(f"labels are {', '.join(self._names)}")
        if all(v in domain for v, domain in zip(values, self._domains, strict=True)):
            return self._child(values)
        if self._overflow is not None:
            self._overflow.inc()
        # A closed set has no "other" until a bug brings one: still bounded, by one value a label.
        return self._child(
            tuple(v if v in domain else of.OTHER for v, domain in zip(values, self._domains, strict=True))
        )

    def _child(self, values: tuple[str, ...]) -> M:
        child: M = self._children.setdefault(values, self._parent.labels(*values))
        return child


class Largest:
    """A gauge of the largest amount that anybody has noted since it was last shown."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._value = 0.0

    def note(self, value: float) -> None:
        self._value = max(self._value, value)

    def show(self) -> None:
        """What was noted is on the page from now on, until the next ``show``."""
        self._gauge.set(self._value)
        self._value = 0.0


class Metrics:
    """Every family of :data:`engine.observe.families.FAMILIES` as an attribute of the same name.

    Safe to use from any thread. Nothing is shared between two of these.
    """

    def __init__(  # noqa: PLR0915 - one statement a family
        self,
        providers: Sequence[str] = of.PROVIDERS,
        pipelines: Sequence[str] = of.PIPELINES,
        stores: Sequence[str] = of.STORES,
        vendors: Sequence[str] = of.VENDORS,
        *,
        actors: Sequence[str] = of.ACTORS,
        tools: Sequence[str] = of.TOOLS,
        routes: Sequence[str] = of.ROUTES,
        version: str | None = None,
        commit: str = "unknown",
    ) -> None:
        self.registry = CollectorRegistry()
        self._families = {family.name: family for family in FAMILIES}
        self._labelled: list[Labelled[Any]] = []
        self._is_filled = False
        self._sets = {
            Configured.PROVIDERS: _open(providers),
            Configured.VENDORS: _open(vendors),
            Configured.OWNERS: _open((*vendors, *providers, *stores, *of.RECORDINGS)),
            Configured.PIPELINES: _open(pipelines),
            Configured.ACTORS: _open(actors),
            Configured.TOOLS: _open(tools),
            Configured.STORES: _open(stores),
            Configured.ROUTES: _open(routes),
            Configured.METHODS: _open(of.METHODS),
            Configured.GUARDED: tuple(family.name for family in FAMILIES if _is_guarded(family)),
        }
        # First, because every other family counts its overflow here.
        self.label_overflow_total: Labelled[Counter] = self._make_labelled(Counter, "label_overflow_total")

        self.calls_active = self._gauges("calls_active")
        self.calls_capacity = self._gauge("calls_capacity")
        self.calls_started_total = self._counters("calls_started_total")
        self.dials_total = self._counters("dials_total")
        self.recordings_total = self._counters("recordings_total")
        self.recording_dropped_seconds_total = self._counter("recording_dropped_seconds_total")
        self.calls_ended_total = self._counters("calls_ended_total")
        self.calls_rejected_total = self._counters("calls_rejected_total")
        self.call_duration_seconds = self._histograms("call_duration_seconds")
        self.call_setup_seconds = self._histograms("call_setup_seconds")
        self.call_teardown_seconds = self._histograms("call_teardown_seconds")
        self.silent_calls_total = self._counters("silent_calls_total")
        self.greeting_repeats_total = self._counters("greeting_repeats_total")

        self.resources_open = self._gauges("resources_open")
        self.resources_opened_total = self._counters("resources_opened_total")
        self.resources_closed_total = self._counters("resources_closed_total")
        self.resources_leaked_total = self._counters("resources_leaked_total")
        self.resources_orphaned = self._gauges("resources_orphaned")
        self.teardown_forced_total = self._counters("teardown_forced_total")
        self.call_tasks_peak = self._histogram("call_tasks_peak")
        self.tasks_alive = self._gauge("tasks_alive")

        self.turns_total = self._counters("turns_total")
        self.turn_latency_seconds = self._histograms("turn_latency_seconds")
        """Takes an exemplar: ``observe(latency_s, exemplar={"call_id": call_id})``."""
        self.turn_stage_seconds = self._histograms("turn_stage_seconds")
        self.barge_in_latency_seconds = self._histograms("barge_in_latency_seconds")
        """Takes an exemplar, as ``turn_latency_seconds`` does. No other family should."""
        self.barge_ins_total = self._counters("barge_ins_total")
        self.dead_air_seconds_total = self._counters("dead_air_seconds_total")
        self.dead_air_events_total = self._counters("dead_air_events_total")

        self.audio_seconds_total = self._counters("audio_seconds_total")
        self.audio_frames_dropped_total = self._counters("audio_frames_dropped_total")
        self.audio_underruns_total = self._counters("audio_underruns_total")
        self.audio_underrun_seconds_total = self._counters("audio_underrun_seconds_total")
        self.audio_send_lag_seconds = self._histograms("audio_send_lag_seconds")
        self.audio_receive_gap_seconds = self._histograms("audio_receive_gap_seconds")
        self.audio_buffered_seconds = self._gauges("audio_buffered_seconds")
        self.playout_buffered = Largest(self.audio_buffered_seconds.labels(queue=of.AudioQueue.PLAYOUT))
        self.bad_frames_total = self._counters("bad_frames_total")

        self.vendor_requests_total = self._counters("vendor_requests_total")
        self.vendor_connect_duration_seconds = self._histograms("vendor_connect_duration_seconds")
        self.vendor_reconnects_total = self._counters("vendor_reconnects_total")
        self.vendor_failovers_total = self._counters("vendor_failovers_total")
        self.vendor_breaker_state = self._gauges("vendor_breaker_state")
        self.llm_tokens_total = self._counters("llm_tokens_total")
        self.speech_audio_seconds_total = self._counters("speech_audio_seconds_total")
        self.tts_characters_total = self._counters("tts_characters_total")

        self.tool_calls_total = self._counters("tool_calls_total")
        self.tool_duration_seconds = self._histograms("tool_duration_seconds")

        self.sessions_active = self._gauges("sessions_active")
        self.session_turns_total = self._counters("session_turns_total")
        self.modality_switches_total = self._counters("modality_switches_total")
        self.context_bridges_total = self._counters("context_bridges_total")
        self.session_handovers_total = self._counter("session_handovers_total")
        self.untrusted_callers_total = self._counter("untrusted_callers_total")
        self.texts_total = self._counters("texts_total")
        self.context_messages = self._histogram("context_messages")
        self.context_tokens = self._histogram("context_tokens")
        self.context_truncations_total = self._counters("context_truncations_total")
        self.context_violations_total = self._counters("context_violations_total")
        self.summaries_total = self._counters("summaries_total")

        self.store_operation_duration_seconds = self._histograms("store_operation_duration_seconds")
        self.store_errors_total = self._counters("store_errors_total")
        self.store_connections_in_use = self._gauges("store_connections_in_use")
        self.store_backlog = self._gauge("store_backlog")
        self.store_lost_total = self._counter("store_lost_total")
        self.store_unreadable_total = self._counter("store_unreadable_total")

        self.webhooks_total = self._counters("webhooks_total")
        self.webhook_queue_depth = self._gauge("webhook_queue_depth")
        self.api_refusals_total = self._counters("api_refusals_total")

        self.event_loop_lag_seconds = self._histogram("event_loop_lag_seconds")
        self.worker_threads_in_use = self._gauge("worker_threads_in_use")
        self.worker_threads_limit = self._gauge("worker_threads_limit")
        self.utilization_ratio = self._gauge("utilization_ratio")
        self.full_transitions_total = self._counters("full_transitions_total")
        self.draining = self._gauge("draining")
        self.ready = self._gauge("ready")
        self.actor_mailbox_depth = self._gauges("actor_mailbox_depth")
        self.actor_restarts_total = self._counters("actor_restarts_total")

        self.http_requests_total = self._counters("http_requests_total")
        self.http_request_duration_seconds = self._histograms("http_request_duration_seconds")
        self.signature_failures_total = self._counters("signature_failures_total")
        self.handshake_failures_total = self._counters("handshake_failures_total")

        self.log_records_total = self._counters("log_records_total")
        self.log_records_dropped_total = self._counter("log_records_dropped_total")

        self.build_info = self._make(Gauge, "build_info")
        self.build_info.labels(version or _installed_version(), platform.python_version(), commit).set(1)

        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def fill(self) -> None:
        """Make every series there can be, all of them 0: a rate over one that appears with its first count misses that.
        Takes 100 ms of a core: before there are calls. Idempotent."""
        if not self._is_filled:
            self._is_filled = True
            for labelled in self._labelled:
                labelled.fill()

    def render(self, openmetrics: bool = False) -> tuple[bytes, str]:
        """The page and its content type. Takes 30 to 60 ms of a core, and the first one as much as ``fill`` if that was
        not called: for a worker thread, never the event loop.

        Only the OpenMetrics form carries exemplars.
        """
        self.fill()
        page = _Page(self.registry)
        if openmetrics:
            return openmetrics_page(page), OPENMETRICS  # type: ignore[no-untyped-call]  # the client's own
        return text_page(page), TEXT

    def _make(self, of_type: type[M], name: str) -> M:
        family = self._families[name]
        more = {"buckets": family.buckets} if family.buckets else {}
        return of_type(
            PREFIX + name,
            family.help,
            tuple(family.labels),
            unit=family.unit,
            registry=self.registry,
            **more,  # type: ignore[arg-type]  # only a histogram has them
        )

    def _make_labelled(self, of_type: type[M], name: str) -> Labelled[M]:
        family = self._families[name]
        guarded = name != "label_overflow_total"
        labelled = Labelled(
            self._make(of_type, name),
            {label: self._values(domain) for label, domain in family.labels.items()},
            overflow=self.label_overflow_total.labels(name) if guarded else None,
        )
        self._labelled.append(labelled)
        return labelled

    def _values(self, domain: Domain) -> tuple[str, ...]:
        return domain if isinstance(domain, tuple) else self._sets[domain]

    def _counter(self, name: str) -> Counter:
        return self._make(Counter, name)

    def _counters(self, name: str) -> Labelled[Counter]:
        return self._make_labelled(Counter, name)

    def _gauge(self, name: str) -> Gauge:
        return self._make(Gauge, name)

    def _gauges(self, name: str) -> Labelled[Gauge]:
        return self._make_labelled(Gauge, name)

    def _histogram(self, name: str) -> Histogram:
        return self._make(Histogram, name)

    def _histograms(self, name: str) -> Labelled[Histogram]:
        return self._make_labelled(Histogram, name)


class _Page(CollectorRegistry):
    """A view of a registry for one rendering: no ``_created`` series (half as many again, and nobody reads them),
    and a breath between families."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self._shown = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._shown.collect():
            # The client can switch them off for the whole process only; this stays with one page.
            created = metric.name + "_created"
            metric.samples = [sample for sample in metric.samples if sample.name != created]
            yield metric
            time.sleep(_BREATH_S)


def _open(values: Sequence[str]) -> tuple[str, ...]:
    """A configured set: without doubles, and with ``other``."""
    return tuple(dict.fromkeys((*values, of.OTHER)))


def _is_guarded(family: Family) -> bool:
    return bool(family.labels) and family.name not in {"label_overflow_total", "build_info"}


def _installed_version() -> str:
    try:
        return metadata.version("offhook")
    except metadata.PackageNotFoundError:
        return "unknown"
