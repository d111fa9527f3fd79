"""What /metrics shows is what the table says, from the first scrape on."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as exposition

from engine.errors import EndReason
from engine.observe import labels as of
from engine.observe.families import FAMILIES, FamilyType
from engine.observe.metrics import Labelled, Metrics
from engine.ports import ResourceKind
from engine.runtime.ledger import How

# Public API: type and labels of every family, as documented. A change here is a change for whoever has a dashboard.
DOCUMENTED = """
calls_active gauge provider direction
build_info gauge version python commit
calls_capacity gauge
calls_started_total counter provider direction
dials_total counter provider outcome
recordings_total counter outcome
recording_dropped_seconds_total counter
calls_ended_total counter provider reason
calls_rejected_total counter provider reason
call_duration_seconds histogram provider
call_setup_seconds histogram provider
call_teardown_seconds histogram outcome
silent_calls_total counter provider
greeting_repeats_total counter pipeline
resources_open gauge kind vendor
resources_opened_total counter kind vendor
resources_closed_total counter kind vendor how
resources_leaked_total counter kind
resources_orphaned gauge kind
teardown_forced_total counter resource
call_tasks_peak histogram
tasks_alive gauge
turns_total counter pipeline outcome
turn_latency_seconds histogram pipeline
turn_stage_seconds histogram stage vendor
barge_in_latency_seconds histogram provider
barge_ins_total counter kind
dead_air_seconds_total counter pipeline cause
dead_air_events_total counter pipeline cause
audio_seconds_total counter provider direction
audio_frames_dropped_total counter direction reason
audio_underruns_total counter provider
audio_underrun_seconds_total counter provider
audio_send_lag_seconds histogram provider
audio_receive_gap_seconds histogram provider
audio_buffered_seconds gauge queue
bad_frames_total counter provider kind
vendor_requests_total counter vendor kind status
vendor_connect_duration_seconds histogram vendor kind
vendor_reconnects_total counter vendor kind reason
vendor_failovers_total counter kind vendor
vendor_breaker_state gauge vendor kind state
llm_tokens_total counter vendor type
speech_audio_seconds_total counter vendor kind
tts_characters_total counter vendor
tool_calls_total counter tool outcome
tool_duration_seconds histogram tool
event_loop_lag_seconds histogram
worker_threads_in_use gauge
worker_threads_limit gauge
utilization_ratio gauge
full_transitions_total counter cause
draining gauge
ready gauge
actor_mailbox_depth gauge actor
actor_restarts_total counter actor
http_requests_total counter route method code
http_request_duration_seconds histogram route
signature_failures_total counter provider why
handshake_failures_total counter why
log_records_total counter level
log_records_dropped_total counter
label_overflow_total counter metric
sessions_active gauge scope
session_turns_total counter modality
modality_switches_total counter origin target
context_bridges_total counter modality
session_handovers_total counter
untrusted_callers_total counter
texts_total counter modality outcome
context_messages histogram
context_tokens histogram
context_truncations_total counter how
context_violations_total counter rule
summaries_total counter status
store_operation_duration_seconds histogram backend op
store_errors_total counter backend op error
store_connections_in_use gauge backend
store_backlog gauge
store_lost_total counter
store_unreadable_total counter
webhooks_total counter event status
webhook_queue_depth gauge
api_refusals_total counter why
"""


def page(metrics: Metrics) -> str:
    return metrics.render()[0].decode()


def exported(metrics: Metrics) -> dict[str, tuple[str, frozenset[str]]]:
    """Name without prefix -> type and labels, as a scrape sees them."""
    found = {}
    for family in exposition(page(metrics)):
        if not family.name.startswith("offhook_"):
            continue
        name = family.name.removeprefix("offhook_") + ("_total" if family.type == "counter" else "")
        found[name] = (family.type, frozenset[str]().union(*(sample.labels for sample in family.samples)) - {"le"})
    return found


def value(metrics: Metrics, name: str, **labels: str) -> float:
    metrics.fill()
    found = metrics.registry.get_sample_value(f"offhook_{name}", labels)
    assert found is not None, f"{name} {labels} is not exported"
    return found


def _read(body: bytes) -> list[Metric]:
    return list(openmetrics(body.decode()))  # type: ignore[no-untyped-call]  # the client's own


def test_the_page_shows_exactly_the_documented_families_with_their_types_and_labels() -> None:
    documented = {}
    for line in DOCUMENTED.split("\n"):
        if line:
            name, kind, *labels = line.split()
            documented[name] = (kind, frozenset(labels))

    assert exported(Metrics()) == documented


def test_each_family_of_the_table_is_an_attribute_of_its_name() -> None:
    metrics = Metrics()

    for family in FAMILIES:
        attribute = getattr(metrics, family.name)
        assert isinstance(attribute, Labelled) == (bool(family.labels) and family.name != "build_info"), family.name


def test_a_family_says_its_unit_in_its_name() -> None:
    for family in FAMILIES:
        assert family.help.endswith("."), family.name
        assert (family.type is FamilyType.COUNTER) == family.name.endswith("_total"), family.name
        if family.unit:
            assert family.name.removesuffix("_total").endswith(family.unit), family.name


def test_process_collector_and_interpreter_metrics_are_on_the_page() -> None:
    text = page(Metrics())

    for name in ("process_open_fds", "process_resident_memory_bytes", "python_gc_collections_total", "python_info"):
        assert name in text


def test_every_child_exists_before_anything_has_happened() -> None:
    metrics = Metrics(providers=("twilio",))

    for provider in ("twilio", "other"):
        for reason in EndReason:
            assert value(metrics, "calls_ended_total", provider=provider, reason=reason) == 0
    for kind in ResourceKind:
        assert value(metrics, "resources_leaked_total", kind=kind) == 0
        for vendor in (*of.VENDORS, "twilio", "other"):
            for how in How:
                assert value(metrics, "resources_closed_total", kind=kind, vendor=vendor, how=how) == 0


def test_the_closed_sets_repeat_the_words_of_those_who_use_them() -> None:
    assert set(of.HOW) == set(How)
    assert set(of.AudioDirection) == {"in", "out"}
    assert {of.code_class(status) for status in (101, 200, 302, 404, 503)} == set(of.CODES)


def test_a_value_outside_its_set_is_counted_as_other_and_adds_no_series() -> None:
    metrics = Metrics()
    before = page(metrics).count("\n")

    metrics.calls_started_total.labels("+15551234567", "inbound").inc()
    metrics.calls_started_total.labels(provider="x" * 10_000, direction="inbound").inc()

    assert page(metrics).count("\n") == before
    assert value(metrics, "calls_started_total", provider="other", direction="inbound") == 2
    assert value(metrics, "label_overflow_total", metric="calls_started_total") == 2
    assert "5551234567" not in page(metrics)


def test_a_wrong_word_for_a_closed_set_adds_one_series_at_most() -> None:
    metrics = Metrics()

    for reason in ("bored", "tired"):
        metrics.calls_ended_total.labels(provider="twilio", reason=reason).inc()

    assert value(metrics, "calls_ended_total", provider="twilio", reason="other") == 2


def test_a_wrong_set_of_label_names_is_an_error() -> None:
    metrics = Metrics()

    with pytest.raises(ValueError, match="labels are provider, direction"):
        metrics.calls_started_total.labels(provider="twilio")
    with pytest.raises(ValueError, match="labels are provider, direction"):
        metrics.calls_started_total.labels("twilio")


def test_a_child_is_the_same_object_by_order_by_name_and_by_enum() -> None:
    ended = Metrics().calls_ended_total

    assert ended.labels("twilio", EndReason.DRAIN) is ended.labels(reason="drain", provider="twilio")


def test_two_instances_share_nothing() -> None:
    one, other = Metrics(), Metrics()

    one.calls_capacity.set(7)

    assert value(other, "calls_capacity") == 0


def test_created_series_are_on_neither_page_and_stay_on_for_others() -> None:
    metrics = Metrics()

    for is_open in (False, True):
        assert "_created" not in metrics.render(is_open)[0].decode()
    assert metrics.registry.get_sample_value("offhook_log_records_dropped_created") is not None


def test_openmetrics_carries_the_call_id_of_a_slow_turn_as_exemplar() -> None:
    metrics = Metrics()
    metrics.turn_latency_seconds.labels("embedded").observe(1.7, exemplar={"call_id": "CA1"})
    metrics.barge_in_latency_seconds.labels("twilio").observe(0.31, exemplar={"call_id": "CA1"})

    body, content_type = metrics.render(openmetrics=True)

    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    exemplars = [s.exemplar.labels for f in _read(body) for s in f.samples if s.exemplar]
    assert exemplars == [{"call_id": "CA1"}] * 2
    assert "CA1" not in page(metrics)
    assert metrics.render()[1] == "text/plain; version=0.0.4; charset=utf-8"


def test_promised_limits_are_bucket_edges() -> None:
    promised = {
        "call_teardown_seconds": (1, 2),
        "barge_in_latency_seconds": (0.3,),
        "event_loop_lag_seconds": (0.02, 0.1),
        "audio_send_lag_seconds": (0.02,),
        "vendor_connect_duration_seconds": (3,),
        "http_request_duration_seconds": (0.3, 3),
        "turn_latency_seconds": (3, 8),
    }

    edges = {family.name: family.buckets for family in FAMILIES}
    for name, limits in promised.items():
        assert set(limits) <= set(edges[name]), name


def test_pages_can_be_rendered_while_other_threads_count() -> None:
    metrics = Metrics()
    stop = threading.Event()

    def count() -> None:
        while not stop.is_set():
            metrics.turns_total.labels("embedded", "completed").inc()
            metrics.turns_total.labels("a stranger", "completed").inc()

    threads = [threading.Thread(target=count) for _ in range(1)]
    for thread in threads:
        thread.start()
    try:
        pages = [page(metrics) for _ in range(2)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()

    assert all(list(exposition(text)) for text in pages)


def test_promtool_finds_nothing_to_say_about_the_page() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        if os.environ.get("OFFHOOK_REQUIRE_SERVERS") == "1":
            pytest.fail("promtool is missing")
        pytest.skip("promtool is missing (Debian: apt install prometheus)")

    verdict = subprocess.run(
        [promtool, "check", "metrics"], input=Metrics().render()[0], capture_output=True, timeout=30, check=False
    )

    assert verdict.returncode == 0, verdict
    assert verdict.stderr == b""
