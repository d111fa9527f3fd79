"""How a call ended, and the errors that cross a port."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class EndReason(StrEnum):
    """Why a call ended, coarse: the ``reason`` label of ``offhook_calls_ended_total``."""

    CALLER_HANGUP = "caller_hangup"
    AGENT_HANGUP = "agent_hangup"
    TRANSFERRED = "transferred"
    PROVIDER_CLOSED = "provider_closed"
    PROVIDER_ERROR = "provider_error"
    SPEECH_ERROR = "speech_error"
    LLM_ERROR = "llm_error"
    SILENCE = "silence"
    MAX_DURATION = "max_duration"
    ADMIN = "admin"
    DRAIN = "drain"
    CRASH = "crash"


class Cause(StrEnum):
    """Why a call ended, fine: the ``cause`` in the log. Each belongs to one :class:`EndReason`."""

    CALLER_HANGUP = "caller_hangup"
    AGENT_HANGUP = "agent_hangup"
    PROVIDER_LOST = "provider_lost"
    """The media socket went away without a stop."""
    MEDIA_TIMEOUT = "media_timeout"
    """The socket stayed, the audio stopped."""
    SLOW_PEER = "slow_peer"
    """The provider does not read what we send."""
    PROTOCOL_ERROR = "protocol_error"
    SPEECH_FAILED = "speech_failed"
    LLM_FAILED = "llm_failed"
    SILENCE = "silence"
    NO_PROGRESS = "no_progress"
    MAX_DURATION = "max_duration"
    DUPLICATE = "duplicate"
    """The same call id arrived again; the newer one goes on."""
    DRAIN = "drain"
    TRANSFERRED = "transferred"
    """The caller was connected to somebody else."""
    ADMIN = "admin"
    """Somebody ended it over the API."""
    INTERNAL_ERROR = "internal_error"

    @property
    def reason(self) -> EndReason:
        return _REASONS[self]


_REASONS = {
    Cause.CALLER_HANGUP: EndReason.CALLER_HANGUP,
    Cause.AGENT_HANGUP: EndReason.AGENT_HANGUP,
    Cause.PROVIDER_LOST: EndReason.PROVIDER_CLOSED,
    Cause.MEDIA_TIMEOUT: EndReason.PROVIDER_ERROR,
    Cause.SLOW_PEER: EndReason.PROVIDER_ERROR,
    Cause.PROTOCOL_ERROR: EndReason.PROVIDER_ERROR,
    Cause.SPEECH_FAILED: EndReason.SPEECH_ERROR,
    Cause.LLM_FAILED: EndReason.LLM_ERROR,
    Cause.SILENCE: EndReason.SILENCE,
    Cause.NO_PROGRESS: EndReason.SPEECH_ERROR,
    Cause.MAX_DURATION: EndReason.MAX_DURATION,
    Cause.DUPLICATE: EndReason.ADMIN,
    Cause.DRAIN: EndReason.DRAIN,
    Cause.TRANSFERRED: EndReason.TRANSFERRED,
    Cause.ADMIN: EndReason.ADMIN,
    Cause.INTERNAL_ERROR: EndReason.CRASH,
}


@dataclass(frozen=True, slots=True)
class CallEnd:
    """The one verdict on a call; metric, log line and session all take theirs from it."""

    cause: Cause
    detail: str = ""
    """For the log: static words, never a transcript, a number or a key."""

    @property
    def reason(self) -> EndReason:
        return self.cause.reason


class OffhookError(Exception):
    """Base of the errors that cross a port."""


class SettingsError(OffhookError):
    """A setting is missing or wrong. The message names its key and what was expected."""


class BadSignature(OffhookError):
    """A webhook did not come from its provider.

    ``why`` is one of ``missing``, ``mismatch``, ``expired``, ``malformed``: a metric label.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class BadRequest(OffhookError):
    """A webhook is genuine but unusable; the message names the field at fault, never its value."""


class BadMessage(OffhookError):
    """One message of a media socket is unusable; the call goes on. ``kind`` is a short static word for the counter:
    ``json``, ``shape``, ``base64``, ``length``, ``type`` or ``stream``."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class ProtocolError(OffhookError):
    """A media socket broke its protocol in a way that ends it; the message says how, in static words."""


TOO_MANY_UNUSABLE = "too many unusable messages"
"""The detail of a call that ended by them: its socket is closed with another code than one that broke its protocol."""


class SlowPeer(OffhookError):
    """A peer does not read what we send."""


class Why(StrEnum):
    """Why a vendor failed, as far as it decides what to do next."""

    UNREACHABLE = "unreachable"
    """No connection, or a server that says that it cannot now (5xx)."""
    TIMEOUT = "timeout"
    """Nothing came for too long."""
    AUTH = "auth"
    """It does not take our key, or the account may not do this: asking again is of no use."""
    RATE_LIMITED = "rate_limited"
    BAD_REQUEST = "bad_request"
    """It does not take what we sent: asking again is of no use."""
    TOO_LONG = "too_long"
    """The context is longer than the model takes."""
    FILTERED = "filtered"
    """It will not say this."""
    NONSENSE = "nonsense"
    """What came back is not its protocol: the wrong service, or garbage."""
    CUT = "cut"
    """It went away in the middle."""
    FAILED = "failed"
    """It says so itself, or nobody knows."""

    @property
    def may_pass(self) -> bool:
        """Asked again, it may work."""
        return self not in (Why.AUTH, Why.BAD_REQUEST, Why.TOO_LONG, Why.FILTERED)


class VendorError(OffhookError):
    """A speech or language vendor failed. The message names the vendor and the failure, never a key or a text.

    ``retry_after_s``: how long the vendor asked us to wait.
    """

    def __init__(self, vendor: str, what: str, *, why: Why = Why.FAILED, retry_after_s: float | None = None) -> None:
        super().__init__(f"{vendor}: {what}")
        self.vendor = vendor
        self.why = why
        self.retry_after_s = retry_after_s


class SpeechFailed(VendorError):
    """Recognising or synthesising failed for good."""


class ModelFailed(VendorError):
    """The language model failed for good."""


class ToolFailed(OffhookError):
    """A tool did not do what it was called for. The message is shown to the model that called it."""


class StoreDown(OffhookError):
    """The store did not do what it was asked, in time or at all; asked again later it may. ``why`` is a metric label:
    ``refused``, ``timeout``, ``locked``, ``full`` or ``error``; ``detail`` is for whoever runs the engine: static words
    and perhaps where the store is, never a value or a password."""

    def __init__(self, why: str, detail: str = "") -> None:
        super().__init__(f"the store is not available ({detail or why})")
        self.why = why
        self.detail = detail or why


class Busy(OffhookError):
    """Too much waits for one session already; asked again a little later it may be taken."""


class RateLimited(OffhookError):
    """Somebody asks more often than the settings allow. ``wait_s``: until the next one is taken."""

    def __init__(self, wait_s: float) -> None:
        super().__init__("asked too often")
        self.wait_s = wait_s
