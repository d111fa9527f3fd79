"""The closed sets that metric labels draw from. Names and values are public API: dashboards and alerts rest on them.

Reasons, kinds and causes that the engine itself works with live beside it, in :mod:`engine.errors` and
:mod:`engine.ports`; here is what only a metric needs a word for.
"""

from __future__ import annotations

from enum import StrEnum

OTHER = "other"
"""What a value outside its set is folded into."""


class CallDirection(StrEnum):
    """Who dialled."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


class AudioDirection(StrEnum):
    """From the engine's side: ``in`` is the caller's audio, ``out`` the agent's."""

    IN = "in"
    OUT = "out"


class Rejection(StrEnum):
    """Why a call was refused before it was admitted."""

    CAPACITY = "capacity"
    RATE_LIMIT = "rate_limit"
    BAD_SIGNATURE = "bad_signature"
    DRAINING = "draining"
    BAD_START = "bad_start"
    NOT_READY = "not_ready"
    UNKNOWN_DIAL = "unknown_dial"
    """It says that we made it, and we know nothing of it."""


class DialOutcome(StrEnum):
    """What became of a call that we made."""

    COMPLETED = "completed"
    MACHINE = "machine"
    BUSY = "busy"
    NO_ANSWER = "no_answer"
    FAILED = "failed"
    REFUSED = "refused"
    """By us: the settings do not allow it, or there was no room."""


class Teardown(StrEnum):
    """What a teardown followed on."""

    HANGUP = "hangup"
    """The caller's."""
    ERROR = "error"
    OTHER = "other"


class TurnOutcome(StrEnum):
    COMPLETED = "completed"
    INTERRUPTED = "interrupted"
    NO_INPUT = "no_input"
    ERROR = "error"
    SUPERSEDED = "superseded"
    """The caller went on talking before the answer was heard."""


class Stage(StrEnum):
    """What the time between the caller's last sound and the agent's first one went into."""

    ENDPOINTING = "endpointing"
    """After the last words: waiting whether the caller goes on."""
    STT_FINAL = "stt_final"
    """From the last sound to its words."""
    LLM_FIRST_TOKEN = "llm_first_token"  # noqa: S105 - a label, not a secret
    LLM_FIRST_SENTENCE = "llm_first_sentence"
    """From the first piece of text to the first sentence."""
    TTS_FIRST_AUDIO = "tts_first_audio"
    PLAYOUT = "playout"
    """The first sound waits behind what is still heard, such as a filler."""


class BargeIn(StrEnum):
    SPEECH = "speech"
    DTMF = "dtmf"
    FALSE = "false"
    """A sound without words: the answer went on."""


class DeadAir(StrEnum):
    """Who was waited for while neither side was audible."""

    STT = "stt"
    LLM = "llm"
    TTS = "tts"


class FrameDrop(StrEnum):
    QUEUE_FULL = "queue_full"
    CLOSED = "closed"
    """The call ended before they were heard."""
    CLEARED = "cleared"
    """The caller interrupted."""


class AudioQueue(StrEnum):
    TRANSCRIBER = "transcriber"
    """Of the embedded speech: received and not judged yet."""
    PLAYOUT = "playout"
    """Here and at the provider: not heard yet."""


class VendorKind(StrEnum):
    STT = "stt"
    TTS = "tts"
    LLM = "llm"
    TELEPHONY = "telephony"
    """A provider's REST control."""
    REALTIME = "realtime"
    """Speech-to-speech."""


class Reconnect(StrEnum):
    """Why a vendor was connected anew in the middle of a call."""

    CUT = "cut"
    """The connection ended."""
    SILENT = "silent"
    """It stayed, and nothing came although the caller spoke."""
    FAILED = "failed"
    """The vendor gave up, or made no sense."""
    RENEWED = "renewed"
    """In time, before the vendor ends it."""


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    """The vendor is not asked."""
    PROBING = "probing"
    """One call asks it."""


class Token(StrEnum):
    """What vendors of language models count."""

    INPUT = "input"
    OUTPUT = "output"


class VendorStatus(StrEnum):
    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    """Nobody waited for it any more: the caller interrupted or hung up."""


class ToolOutcome(StrEnum):
    """What became of a model's call of a tool."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    """The caller interrupted or hung up."""
    REPEATED = "repeated"
    """Answered with what came of the same call before."""
    BAD_ARGUMENTS = "bad_arguments"
    UNKNOWN = "unknown"
    """There is no such tool."""
    LIMIT = "limit"
    """Too many in one turn, or in one call."""


class StoreOp(StrEnum):
    LOAD = "load"
    WRITE = "write"
    SEARCH = "search"
    ERASE = "erase"
    SCAN = "scan"
    OTHER = "other"


class StoreFault(StrEnum):
    REFUSED = "refused"
    TIMEOUT = "timeout"
    LOCKED = "locked"
    FULL = "full"
    ERROR = "error"


class TextOutcome(StrEnum):
    ANSWERED = "answered"
    """In the answer to the webhook, or at once over HTTP."""
    ANSWERED_LATER = "answered_later"
    """Over the provider's REST API."""
    RATE_LIMIT = "rate_limit"
    STORE_DOWN = "store_down"
    FAILED = "failed"


class ApiRefusal(StrEnum):
    NO_KEY = "no_key"
    WRONG_KEY = "wrong_key"
    SCOPE = "scope"
    """The key is good for other things."""
    RATE_LIMIT = "rate_limit"


class WebhookEvent(StrEnum):
    SESSION_STARTED = "session.started"
    MODALITY_SWITCHED = "session.modality_switched"
    CONTEXT_BRIDGED = "session.context_bridged"
    HANDED_OVER = "session.handed_over"
    SESSION_ENDED = "session.ended"
    CALL_ENDED = "call.ended"
    DIAL_ENDED = "dial.ended"
    """A call that we made is over, or nobody answered it."""


class RecordingOutcome(StrEnum):
    KEPT = "kept"
    CUT = "cut"
    """Ended before its call: the caller was erased, or the engine."""
    FAILED = "failed"
    """The store did not take it; the call went on."""
    SKIPPED = "skipped"
    """The call was to be recorded and was not."""


class WebhookStatus(StrEnum):
    DELIVERED = "delivered"
    RETRIED = "retried"
    FAILED = "failed"
    """Given up."""
    DROPPED = "dropped"
    """The queue was full, or the caller has been erased."""


class SpeechKind(StrEnum):
    STT = "stt"
    TTS = "tts"


class FullCause(StrEnum):
    """What a node ran out of."""

    CALLS = "calls"


class SignatureFailure(StrEnum):
    """The words of :class:`engine.errors.BadSignature`."""

    MISSING = "missing"
    MISMATCH = "mismatch"
    EXPIRED = "expired"
    MALFORMED = "malformed"


class HandshakeFailure(StrEnum):
    """Why a connection never became a call."""

    TIMEOUT = "timeout"
    BAD_REQUEST = "bad_request"
    TOO_LARGE = "too_large"
    TOO_MANY = "too_many"
    BAD_TOKEN = "bad_token"  # noqa: S105 - a label, not a secret
    PROTOCOL = "protocol"
    CLOSED = "closed"


class FrameFault(StrEnum):
    """The words of :class:`engine.errors.BadMessage`, and frames that never came, by the provider's own count."""

    GAP = "gap"
    JSON = "json"
    SHAPE = "shape"
    BASE64 = "base64"
    LENGTH = "length"
    TYPE = "type"
    STREAM = "stream"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


HOW = ("clean", "cancelled", "error", "forced")
"""The words of :class:`engine.runtime.ledger.How`, which this layer may not import."""

PROVIDERS = ("twilio", "vonage", "telnyx", "plivo", "signalwire")
PIPELINES = ("embedded", "cascade", "realtime", "relay", "custom")
VENDORS = ("moonshine", "hibari", "script", "custom")
TOOLS = ("hang_up", "transfer", "send_text", "press_digits", "remember", "recall", "hand_over")
"""Those that are built in."""
ACTORS = ("registry",)
SCOPES = ("call", "caller")
RECORDINGS = ("directory", "s3")
STORES = ("memory", "sqlite", "postgresql", "redis")
ROUTES = (
    "/",
    "/voice",
    "/sms",
    "/vonage/sms",
    "/twilio/status",
    "/twilio/whisper",
    "/vonage/answer",
    "/vonage/event",
    "/vonage/stream",
    "/vonage/transfer",
    "/vonage/whisper",
    "/telnyx/voice",
    "/telnyx/status",
    "/telnyx/sms",
    "/plivo/voice",
    "/plivo/status",
    "/plivo/whisper",
    "/plivo/sms",
    "/signalwire/voice",
    "/signalwire/status",
    "/signalwire/whisper",
    "/signalwire/sms",
    "/media/twilio",
    "/media/twilio-relay",
    "/media/vonage",
    "/media/telnyx",
    "/media/plivo",
    "/media/signalwire",
    "/turn",
    "/session/reset",
    "/admin/session/{phone}",
    "/admin/customer/{phone}/analytics",
    "/admin/audit",
    "/privacy/export/{phone}",
    "/privacy/delete/{phone}",
    "/api/search",
    "/api/sessions/{session_id}",
    "/api/sessions/{session_id}/messages",
    "/api/sessions/{session_id}/messages/{message_id}",
    "/api/sessions/{session_id}/branch",
    "/api/sessions/{session_id}/handover",
    "/api/sessions/{session_id}/export",
    "/api/sessions/{session_id}/trace",
    "/api/sessions/{session_id}/validation",
    "/calls",
    "/calls/{call_id}",
    "/calls/{call_id}/hangup",
    "/calls/{call_id}/say",
    "/calls/{call_id}/transfer",
    "/openapi.json",
    "/api/health",
    "/healthz",
    "/readyz",
    "/metrics",
)
METHODS = ("GET", "POST", "PATCH", "DELETE")
CODES = ("1xx", "2xx", "3xx", "4xx", "5xx")


def code_class(status: int) -> str:
    """200 -> ``2xx``: the ``code`` label of an HTTP answer."""
    return f"{status // 100}xx"
