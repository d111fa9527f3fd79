"""What an end means: for the log, for the provider's socket, for what is still owed to the caller."""

from __future__ import annotations

from engine.errors import (
    TOO_MANY_UNUSABLE,
    CallEnd,
    Cause,
    EndReason,
    ModelFailed,
    ProtocolError,
    SlowPeer,
    SpeechFailed,
    VendorError,
)

APOLOGISES = frozenset({Cause.SPEECH_FAILED, Cause.LLM_FAILED, Cause.NO_PROGRESS, Cause.INTERNAL_ERROR})
"""Failures of ours that the caller is told about, with a clip that needs no vendor."""
HANGS_UP = APOLOGISES | {Cause.AGENT_HANGUP, Cause.SILENCE, Cause.MAX_DURATION, Cause.DRAIN, Cause.ADMIN}
"""Ends that are our decision: the provider is told to end the call, too."""


def verdict_of(error: BaseException) -> CallEnd:  # noqa: PLR0911 - a table
    """What an exception, or a group of them, means for the call it ended."""
    if isinstance(error, BaseExceptionGroup):
        verdicts = [verdict_of(inner) for inner in error.exceptions]
        # Among failures at the same instant the one with a name explains more than a bug that followed from it.
        return next((end for end in verdicts if end.cause is not Cause.INTERNAL_ERROR), verdicts[0])
    match error:
        case SpeechFailed():
            return CallEnd(Cause.SPEECH_FAILED, str(error))
        case ModelFailed():
            return CallEnd(Cause.LLM_FAILED, str(error))
        case SlowPeer():
            return CallEnd(Cause.SLOW_PEER, "the provider stopped reading")
        case ProtocolError():
            return CallEnd(Cause.PROTOCOL_ERROR, str(error))
        case VendorError():
            return CallEnd(Cause.SPEECH_FAILED, str(error))
        case _:
            return CallEnd(Cause.INTERNAL_ERROR, type(error).__name__)


def close_code(end: CallEnd) -> tuple[int, str]:
    """The WebSocket close that tells the provider why."""
    match end.cause:
        case Cause.DRAIN:
            return 1001, "going away"
        case Cause.PROTOCOL_ERROR if end.detail == TOO_MANY_UNUSABLE:
            return 1003, TOO_MANY_UNUSABLE
        case Cause.PROTOCOL_ERROR:
            return 1002, "protocol error"
        case Cause.DUPLICATE:
            return 1008, "replaced by a newer stream"
        case _:
            return 1000, ""


def outcome_of(end: CallEnd) -> str:
    """The ``outcome`` label of the teardown histogram: what it followed on."""
    match end.reason:
        case EndReason.CALLER_HANGUP:
            return "hangup"
        case EndReason.PROVIDER_ERROR | EndReason.SPEECH_ERROR | EndReason.LLM_ERROR | EndReason.CRASH:
            return "error"
        case _:
            return "other"
