"""Every metric family in one table: type, labels, unit, help, buckets. Names lack the ``offhook_`` prefix.

The names and labels are public API; a test compares this table with what ``/metrics`` shows. A threshold that an alert
or a promise uses is always a bucket's edge, so that the ratio below it is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from engine.dialogue.context import Shortening
from engine.dialogue.validator import Rule
from engine.errors import EndReason
from engine.events import Modality
from engine.observe import labels as of
from engine.ports import ResourceKind

PREFIX = "offhook_"


class FamilyType(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Configured(Enum):
    """A set of label values that the settings decide. It also has ``other``, from the start."""

    PROVIDERS = "providers"
    VENDORS = "vendors"
    OWNERS = "owners"
    """Vendors and providers: whoever is at the far end of a resource."""
    PIPELINES = "pipelines"
    TOOLS = "tools"
    ACTORS = "actors"
    STORES = "stores"
    ROUTES = "routes"
    METHODS = "methods"
    GUARDED = "guarded"
    """The families that have labels at all."""
    BUILD = "build"
    """Any one value, set once."""


Domain = Configured | tuple[str, ...]
"""What a label may say. A tuple is a closed set of the engine's own words."""


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    type: FamilyType
    help: str
    labels: Mapping[str, Domain] = field(default_factory=dict)
    unit: str = ""
    """``seconds`` or ``ratio``; empty for a plain number."""
    buckets: tuple[float, ...] = ()


def _words(enum: Iterable[str]) -> tuple[str, ...]:
    return tuple(str(word) for word in enum)


def _gauge(name: str, text: str, *, unit: str = "", **labels: Domain) -> Family:
    return Family(name, FamilyType.GAUGE, text, labels, unit)


def _counter(name: str, text: str, *, unit: str = "", **labels: Domain) -> Family:
    return Family(name, FamilyType.COUNTER, text, labels, unit)


def _seconds(name: str, text: str, buckets: tuple[float, ...], **labels: Domain) -> Family:
    return Family(name, FamilyType.HISTOGRAM, text, labels, "seconds", buckets)


TURN_S = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.2, 1.4, 1.6, 2, 2.5, 3, 4, 5, 8, 12)
STAGE_S = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.5, 2, 3, 5, 10)
BARGE_IN_S = (0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1, 2)
LAG_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.2, 0.5, 1, 2)
PACING_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.2, 0.5, 1)
TEARDOWN_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5)
SETUP_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 8)
CALL_S = (5, 15, 30, 60, 120, 180, 300, 600, 900, 1200, 1800, 3600)
CONNECT_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 3, 6)
HTTP_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 3, 5)
STORE_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5)
TOOL_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10)
MESSAGES = (1, 2, 4, 6, 8, 10, 15, 20, 30, 50, 100)
TOKENS = (50, 100, 200, 400, 600, 800, 1200, 1600, 2400, 4000, 8000)
TASKS = (2, 4, 6, 8, 12, 16, 24, 32, 64)

_provider = Configured.PROVIDERS
_pipeline = Configured.PIPELINES
_kind = _words(ResourceKind)
_owner = Configured.OWNERS

FAMILIES: tuple[Family, ...] = (
    # calls
    _gauge("calls_active", "Calls alive now on this node.", provider=_provider, direction=_words(of.CallDirection)),
    _gauge(
        "build_info",
        "Always 1; the labels say which build.",
        version=Configured.BUILD,
        python=Configured.BUILD,
        commit=Configured.BUILD,
    ),
    _gauge("calls_capacity", "Most calls this node admits."),
    _counter("calls_started_total", "Calls admitted.", provider=_provider, direction=_words(of.CallDirection)),
    _counter(
        "dials_total", "Calls we were asked to make, by outcome.", provider=_provider, outcome=_words(of.DialOutcome)
    ),
    _counter("recordings_total", "Recordings of calls, by outcome.", outcome=_words(of.RecordingOutcome)),
    _counter(
        "recording_dropped_seconds_total",
        "Audio that is silence in a recording, because it was written too slowly.",
        unit="seconds",
    ),
    _counter("calls_ended_total", "Calls ended, by reason.", provider=_provider, reason=_words(EndReason)),
    _counter(
        "calls_rejected_total",
        "Calls refused before admission, by reason.",
        provider=_provider,
        reason=_words(of.Rejection),
    ),
    _seconds("call_duration_seconds", "Admission to last resource closed.", CALL_S, provider=_provider),
    _seconds(
        "call_setup_seconds",
        "Call admitted to its first agent audio.",
        SETUP_S,
        provider=_provider,
    ),
    _seconds(
        "call_teardown_seconds",
        "Hang-up seen to last owned resource closed.",
        TEARDOWN_S,
        outcome=_words(of.Teardown),
    ),
    _counter(
        "silent_calls_total",
        "Calls that ended after the grace time with no agent audio sent.",
        provider=_provider,
    ),
    _counter(
        "greeting_repeats_total",
        "Opening message said more than once in one conversation.",
        pipeline=_pipeline,
    ),
    # what calls own
    _gauge("resources_open", "Owned resources open now.", kind=_kind, vendor=_owner),
    _counter("resources_opened_total", "Owned resources opened.", kind=_kind, vendor=_owner),
    _counter(
        "resources_closed_total",
        "Owned resources closed, by how.",
        kind=_kind,
        vendor=_owner,
        how=of.HOW,
    ),
    _counter(
        "resources_leaked_total",
        "Resources found open after their call had ended. Must stay 0.",
        kind=_kind,
    ),
    _gauge("resources_orphaned", "Open resources whose call is not in the registry, now.", kind=_kind),
    _counter(
        "teardown_forced_total",
        "Resources closed by force because their polite close outlived its deadline.",
        resource=_kind,
    ),
    Family("call_tasks_peak", FamilyType.HISTOGRAM, "Most tasks alive in one call's nursery.", buckets=TASKS),
    _gauge("tasks_alive", "Trio tasks alive in the process."),
    # the talk
    _counter("turns_total", "Conversation turns, by outcome.", pipeline=_pipeline, outcome=_words(of.TurnOutcome)),
    _seconds(
        "turn_latency_seconds",
        "Caller stopped speaking to first agent audio frame sent.",
        TURN_S,
        pipeline=_pipeline,
    ),
    _seconds(
        "turn_stage_seconds",
        "Share of one stage in a turn's latency.",
        STAGE_S,
        stage=_words(of.Stage),
        vendor=_owner,
    ),
    _seconds(
        "barge_in_latency_seconds",
        "Caller speech onset to agent audio silenced.",
        BARGE_IN_S,
        provider=_provider,
    ),
    _counter("barge_ins_total", "Barge-ins, by kind.", kind=_words(of.BargeIn)),
    _counter(
        "dead_air_seconds_total",
        "Seconds past the threshold with neither side audible.",
        unit="seconds",
        pipeline=_pipeline,
        cause=_words(of.DeadAir),
    ),
    _counter("dead_air_events_total", "Dead-air episodes.", pipeline=_pipeline, cause=_words(of.DeadAir)),
    # audio
    _counter(
        "audio_seconds_total",
        "Audio received or sent.",
        unit="seconds",
        provider=_provider,
        direction=_words(of.AudioDirection),
    ),
    _counter(
        "audio_frames_dropped_total",
        "Frames not delivered, by reason.",
        direction=_words(of.AudioDirection),
        reason=_words(of.FrameDrop),
    ),
    _counter("audio_underruns_total", "Playout ran dry inside an utterance.", provider=_provider),
    _counter(
        "audio_underrun_seconds_total",
        "Time playout was dry inside an utterance.",
        unit="seconds",
        provider=_provider,
    ),
    _seconds(
        "audio_send_lag_seconds",
        "Audio held back for its time and sent later than that. A line looks every 20 ms.",
        PACING_S,
        provider=_provider,
    ),
    _seconds(
        "audio_receive_gap_seconds",
        "Time between inbound frames less the frame length, where a whole frame was late.",
        PACING_S,
        provider=_provider,
    ),
    _gauge(
        "audio_buffered_seconds",
        "Largest amount buffered by any call.",
        unit="seconds",
        queue=_words(of.AudioQueue),
    ),
    _counter(
        "bad_frames_total",
        "Unusable messages on media sockets, dropped.",
        provider=_provider,
        kind=_words(of.FrameFault),
    ),
    # vendors
    _counter(
        "vendor_requests_total",
        "Connections, answers, speeches and hang-ups asked of a vendor, by result.",
        vendor=_owner,
        kind=_words(of.VendorKind),
        status=_words(of.VendorStatus),
    ),
    _seconds(
        "vendor_connect_duration_seconds",
        "Until a vendor's part of a call was open, or a provider's REST API had answered.",
        CONNECT_S,
        vendor=_owner,
        kind=_words(of.VendorKind),
    ),
    _counter(
        "vendor_reconnects_total",
        "Connections made anew in the middle of a call, by why.",
        vendor=Configured.VENDORS,
        kind=_words(of.VendorKind),
        reason=_words(of.Reconnect),
    ),
    _counter(
        "vendor_failovers_total",
        "Switches away from a vendor.",
        kind=_words(of.VendorKind),
        vendor=Configured.VENDORS,
    ),
    _gauge(
        "vendor_breaker_state",
        "1 for the state of each breaker: closed, open (the vendor is not asked) or probing.",
        vendor=Configured.VENDORS,
        kind=_words(of.VendorKind),
        state=_words(of.BreakerState),
    ),
    _counter(
        "llm_tokens_total",
        "Tokens of language models, as their vendors count them.",
        vendor=Configured.VENDORS,
        type=_words(of.Token),
    ),
    _counter(
        "speech_audio_seconds_total",
        "Audio given to recognisers (stt) and made by synthesizers (tts); of a speech-to-speech model, both.",
        unit="seconds",
        vendor=Configured.VENDORS,
        kind=_words(of.SpeechKind),
    ),
    _counter("tts_characters_total", "Characters synthesised.", vendor=Configured.VENDORS),
    # tools
    _counter(
        "tool_calls_total",
        "Tools called by models, by what became of it.",
        tool=Configured.TOOLS,
        outcome=_words(of.ToolOutcome),
    ),
    _seconds("tool_duration_seconds", "Time of tool calls that were made.", TOOL_S, tool=Configured.TOOLS),
    # sessions
    _gauge("sessions_active", "Sessions in the memory of the process.", scope=of.SCOPES),
    _counter("session_turns_total", "Turns that entered a session's history.", modality=_words(Modality)),
    _counter(
        "modality_switches_total",
        "Sessions that went on over another modality.",
        origin=_words(Modality),
        target=_words(Modality),
    ),
    _counter(
        "context_bridges_total",
        "Turns that were shown what came over another modality, by their own.",
        modality=_words(Modality),
    ),
    _counter("session_handovers_total", "Sessions handed from one agent to another."),
    _counter("untrusted_callers_total", "Calls that got no stored memory, for want of trust in their number."),
    _counter(
        "texts_total",
        "Written turns, by what became of them.",
        modality=_words(Modality),
        outcome=_words(of.TextOutcome),
    ),
    Family("context_messages", FamilyType.HISTOGRAM, "Messages given to the model on a turn.", buckets=MESSAGES),
    Family("context_tokens", FamilyType.HISTOGRAM, "Estimated tokens given to the model on a turn.", buckets=TOKENS),
    _counter("context_truncations_total", "Context shortened, by how.", how=_words(Shortening)),
    _counter("context_violations_total", "Context validator failures.", rule=_words(Rule)),
    _counter("summaries_total", "Summaries made in the background, by result.", status=_words(of.VendorStatus)),
    # the store
    _seconds(
        "store_operation_duration_seconds",
        "Store call time.",
        STORE_S,
        backend=Configured.STORES,
        op=_words(of.StoreOp),
    ),
    _counter(
        "store_errors_total",
        "Store calls failed.",
        backend=Configured.STORES,
        op=_words(of.StoreOp),
        error=_words(of.StoreFault),
    ),
    _gauge("store_connections_in_use", "Connections of the store's pool in use.", backend=Configured.STORES),
    _gauge("store_backlog", "Writes that wait in the journal for the store to come back."),
    _counter("store_lost_total", "Writes that neither the store nor the journal could take."),
    _counter("store_unreadable_total", "Records that could not be decrypted or understood."),
    # events sent out
    _counter("webhooks_total", "Outgoing webhooks.", event=_words(of.WebhookEvent), status=_words(of.WebhookStatus)),
    _gauge("webhook_queue_depth", "Webhooks waiting."),
    _counter("api_refusals_total", "HTTP API requests refused, by why.", why=_words(of.ApiRefusal)),
    # the node
    _seconds("event_loop_lag_seconds", "Lateness of a periodic timer.", LAG_S),
    _gauge("worker_threads_in_use", "Worker threads in use."),
    _gauge("worker_threads_limit", "Worker threads allowed."),
    _gauge(
        "utilization_ratio",
        "Calls, promised ones included, over capacity; the autoscaling signal.",
        unit="ratio",
    ),
    _counter(
        "full_transitions_total",
        "Times the node went from accepting to full.",
        cause=_words(of.FullCause),
    ),
    _gauge("draining", "1 while refusing new calls."),
    _gauge("ready", "1 when new calls are accepted."),
    _gauge("actor_mailbox_depth", "Messages waiting.", actor=Configured.ACTORS),
    _counter("actor_restarts_total", "Supervisor restarts.", actor=Configured.ACTORS),
    # the door
    _counter(
        "http_requests_total",
        "HTTP answers.",
        route=Configured.ROUTES,
        method=Configured.METHODS,
        code=of.CODES,
    ),
    _seconds("http_request_duration_seconds", "HTTP answer time.", HTTP_S, route=Configured.ROUTES),
    _counter(
        "signature_failures_total",
        "Provider requests with a bad signature.",
        provider=_provider,
        why=_words(of.SignatureFailure),
    ),
    _counter("handshake_failures_total", "Connections that never became a call.", why=_words(of.HandshakeFailure)),
    # the log and this table itself
    _counter("log_records_total", "Log records written.", level=_words(of.LogLevel)),
    _counter("log_records_dropped_total", "Log records dropped because nobody read the output."),
    _counter("label_overflow_total", "Label values folded into 'other'.", metric=Configured.GUARDED),
)
