"""Frozen values that cross a port: what providers, recognisers and models say to the engine.

Times named ``*_at_s`` are on the engine's clock, ``trio.current_time()``: monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

FRAME_S = 0.02
"""Length of one telephony frame."""


class Encoding(StrEnum):
    MULAW = "mulaw"
    """G.711 mu-law, one byte a sample."""
    PCM16 = "pcm16"
    """Signed 16-bit little-endian, two bytes a sample."""


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """How the audio of one line is written: mono, ``encoding`` at ``rate_hz``."""

    encoding: Encoding
    rate_hz: int

    @property
    def sample_bytes(self) -> int:
        return 1 if self.encoding is Encoding.MULAW else 2

    @property
    def bytes_per_s(self) -> int:
        return self.rate_hz * self.sample_bytes

    @property
    def frame_bytes(self) -> int:
        """Bytes in 20 ms."""
        return self.bytes_per_s // 50

    def duration_s(self, audio: bytes) -> float:
        return len(audio) / self.bytes_per_s

    def silence(self, duration_s: float) -> bytes:
        """Silence of this length, rounded down to whole frames."""
        zero = b"\xff" if self.encoding is Encoding.MULAW else b"\0\0"
        return zero * (int(duration_s / FRAME_S) * self.rate_hz // 50)


MULAW_8K = AudioFormat(Encoding.MULAW, 8000)
PCM16_8K = AudioFormat(Encoding.PCM16, 8000)
PCM16_16K = AudioFormat(Encoding.PCM16, 16000)
PCM16_24K = AudioFormat(Encoding.PCM16, 24000)


# --- provider -> engine -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StreamStarted:
    """The provider's first useful message on a media socket. Everything in it was said by a stranger."""

    call_id: str
    stream_id: str
    format: AudioFormat
    token: str
    """The one-time media token that our answer document handed out; empty when none came."""
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Dtmf:
    digit: str
    """One of 0-9, *, #, A-D."""


@dataclass(frozen=True, slots=True)
class MarkPlayed:
    """Everything queued before this mark has been played, or was dropped by a clear."""

    name: str


@dataclass(frozen=True, slots=True)
class Cleared:
    """The provider has dropped what it had queued."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The provider says that the call is over."""


ProviderEvent = bytes | Dtmf | MarkPlayed | Cleared | Stopped
"""What a media socket delivers after its start. Caller audio is plain ``bytes`` in the line's format: 50 times a
second and call, so no object is made for it."""


@dataclass(frozen=True, slots=True)
class CallInfo:
    """Who calls whom over what; made once a call is admitted."""

    provider: str
    call_id: str
    """The provider's id of the call: Twilio's CallSid, Vonage's uuid."""
    stream_id: str
    """The provider's id of the media stream; the conversation belongs to it (A1)."""
    format: AudioFormat
    agent: str
    """Name of the agent that answers, from the settings."""
    caller: str = ""
    """The caller's number as the provider gave it, or empty. Never in a log: use ``observe.logs.mask_number``."""
    dialled: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)


# --- recogniser -> engine -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """The caller has begun to speak."""

    at_s: float
    """When the first sound was received: before this event by what the detector needed to be sure."""


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """The caller has fallen silent, for now."""

    at_s: float
    """When the last sound was received. Turn latency is counted from here."""


@dataclass(frozen=True, slots=True)
class Heard:
    """Words of the caller.

    Each ``SpeechStarted`` is followed by exactly one final ``Heard``. Its text is empty when the sound held no words,
    so that whoever waits for words can stop waiting.
    """

    text: str
    is_final: bool = True


TranscriberEvent = SpeechStarted | SpeechStopped | Heard


# --- model -> engine ----------------------------------------------------------------------------------------


class Role(StrEnum):
    CALLER = "user"
    AGENT = "assistant"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Message:
    """One entry of a conversation's history."""

    role: Role
    text: str
    interrupted: bool = False
    """The caller cut it off: ``text`` is what was heard of it."""


@dataclass(frozen=True, slots=True)
class HangUp:
    """The agent wants to end the call once everything said before this has been heard."""


ReplyPart = str | HangUp
"""A piece of text, of any size, or an action."""
