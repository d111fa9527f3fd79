"""The metric children one call needs, looked up once."""

from __future__ import annotations

from engine.dialogue.turns import Turn
from engine.events import CallInfo
from engine.observe.metrics import Metrics
from engine.observe.timeline import Timeline, What
from engine.ports import ResourceKind
from engine.runtime.ledger import How


class CallMeters:
    """What a call counts while it goes on. No label is looked up per frame."""

    def __init__(self, metrics: Metrics, call: CallInfo, pipeline: str) -> None:
        self.setup = metrics.call_setup_seconds.labels(provider=call.provider)
        self.turn_latency = metrics.turn_latency_seconds.labels(pipeline=pipeline)
        self.barge_in_latency = metrics.barge_in_latency_seconds.labels(provider=call.provider)
        self.greeting_repeats = metrics.greeting_repeats_total.labels(pipeline=pipeline)
        self._turns = {
            outcome: metrics.turns_total.labels(pipeline=pipeline, outcome=outcome)
            for outcome in ("completed", "interrupted", "no_input", "error", "superseded")
        }
        self._barge_ins = {kind: metrics.barge_ins_total.labels(kind=kind) for kind in ("speech", "dtmf", "false")}
        self._stages = metrics.turn_stage_seconds
        self._dead_air_s = metrics.dead_air_seconds_total
        self._dead_air = metrics.dead_air_events_total
        self._bad_frames = metrics.bad_frames_total
        self._audio = metrics.audio_seconds_total
        self._pipeline = pipeline
        self._provider = call.provider

    def turn(self, outcome: str) -> None:
        self._turns[outcome].inc()

    def barge_in(self, kind: str) -> None:
        self._barge_ins[kind].inc()

    def stage(self, stage: str, vendor: str, seconds: float) -> None:
        self._stages.labels(stage=stage, vendor=vendor).observe(max(0.0, seconds))

    def latency(self, turn: Turn, now_s: float, call_id: str) -> None:
        self.turn_latency.observe(max(0.0, now_s - turn.ended_at_s), exemplar={"call_id": call_id[:64]})

    def dead_air(self, cause: str, seconds: float, *, is_new: bool) -> None:
        self._dead_air_s.labels(pipeline=self._pipeline, cause=cause).inc(seconds)
        if is_new:
            self._dead_air.labels(pipeline=self._pipeline, cause=cause).inc()

    def bad_frame(self, kind: str) -> None:
        self._bad_frames.labels(provider=self._provider, kind=kind).inc()

    def audio(self, *, in_s: float, out_s: float) -> None:
        self._audio.labels(provider=self._provider, direction="in").inc(in_s)
        self._audio.labels(provider=self._provider, direction="out").inc(out_s)


class CallBook:
    """Where a call's ledger reports to (``engine.runtime.ledger.LedgerBook``)."""

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
