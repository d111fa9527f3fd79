"""Frozen values that cross a port: what providers, recognisers and models say to the engine, and are shown by it.

Times named ``*_at_s`` are on the engine's clock, ``trio.current_time()``: monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, overload

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
class Prompt:
    """What the caller said, where the provider hears."""

    text: str
    is_last: bool = True
    """All of it; else what was understood so far, which a later one replaces."""


@dataclass(frozen=True, slots=True)
class CutOff:
    """The caller spoke into what the provider was saying."""

    heard: str
    """The part of the utterance that was said."""
    heard_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TextPlayed:
    """This much more has been said to the caller, where the provider tells."""

    text: str


@dataclass(frozen=True, slots=True)
class Speaking:
    """Who begins or ceases to be heard on the line, where the provider tells."""

    is_agent: bool
    """Else it is the caller."""
    is_on: bool


RelayEvent = Prompt | CutOff | TextPlayed | Speaking | Dtmf | Stopped
"""What a socket delivers after its start where the provider hears and speaks, and only text comes to us."""


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
    attestation: str = ""
    """How far the provider vouches for ``caller``: ``A``, ``B``, ``C``, or empty."""
    is_outbound: bool = False
    """We made the call: ``caller`` is whom we called."""


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
    """Not final: what was understood so far of the words that the next final one will hold; it replaces what came
    before it."""
    is_certain: bool = True
    """False, without a text: there may have been words, which nobody has written down."""


@dataclass(frozen=True, slots=True)
class TurnLikelyOver:
    """The recogniser thinks that the caller has finished, and may take it back: time to begin on an answer that is
    thrown away if it does. The words so far came before, as ``Heard``."""


@dataclass(frozen=True, slots=True)
class TurnResumed:
    """The caller goes on after ``TurnLikelyOver``."""


@dataclass(frozen=True, slots=True)
class TurnOver:
    """The recogniser has decided that the caller's turn is over. Every final ``Heard`` of it came before."""


@dataclass(frozen=True, slots=True)
class Missed:
    """The caller spoke, and the words are lost for good: to be asked for again. If a ``SpeechStarted`` is open, its
    final ``Heard`` still follows."""


TranscriberEvent = SpeechStarted | SpeechStopped | Heard | TurnLikelyOver | TurnResumed | TurnOver | Missed


# --- sessions and models --------------------------------------------------------------------------------------


class Role(StrEnum):
    CALLER = "user"
    AGENT = "assistant"
    SYSTEM = "system"


class Modality(StrEnum):
    """How a turn of a session came in."""

    VOICE = "voice"
    SMS = "sms"
    TEXT = "text"
    """Over the HTTP API."""


@dataclass(frozen=True, slots=True)
class Message:
    """One entry of a conversation as a model is shown it."""

    role: Role
    text: str
    interrupted: bool = False
    """The caller cut it off: ``text`` is what was heard of it."""


class MemoryKind(StrEnum):
    FACT = "fact"
    PREFERENCE = "preference"


@dataclass(frozen=True, slots=True)
class MemoryItem:
    """Something worth knowing the next time."""

    kind: MemoryKind
    content: str
    confidence: float = 1.0
    """0 to 1."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What is known of a session besides its messages."""

    summary: str = ""
    entities: Mapping[str, str] = field(default_factory=dict)
    """Names, days, numbers, ... by what they are."""
    items: tuple[MemoryItem, ...] = ()
    states: Mapping[str, str] = field(default_factory=dict)
    """By agent: where it is in its work, in words of its own. Shown to it alone."""


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """Whose model is wanted, and for what."""

    session_id: str
    """Made once and the same from the first turn to the last; every request to a vendor logs it (D1)."""
    agent: str
    modality: Modality
    caller: str = ""
    """The caller's number in E.164, or empty. Never in a log."""
    dialled: str = ""
    call_id: str = ""
    """The provider's id of the call; empty for a text."""
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A function that a model may call."""

    name: str
    """Letters, digits, ``_`` and ``-``; at most 64."""
    description: str
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    """JSON Schema of one object."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model wants a tool called. What it says is a stranger's: the arguments are checked before they are used."""

    call_id: str
    """The vendor's; made up if it gives none."""
    name: str
    arguments: str
    """JSON of one object, as it came."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    call_id: str
    text: str
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Exchange:
    """One round of tool calls within an answer."""

    said: str
    """By the model, before it called."""
    calls: tuple[ToolCall, ...]
    results: tuple[ToolResult, ...]
    """One for each call, in the same order."""


@dataclass(frozen=True, slots=True)
class Context(Sequence[Message]):
    """What a model is shown for one turn: the messages, oldest first, and what is known besides them.

    The messages alone are enough for a model that takes text: a first one of the role ``system`` holds the memory in
    words. Whoever can use more finds it as values.
    """

    messages: tuple[Message, ...]
    session_id: str = ""
    turn_id: str = ""
    agent: str = ""
    modality: Modality = Modality.VOICE
    memory: Memory = Memory()
    is_returning: bool = False
    """The session holds turns from before this call."""
    instructions: str = ""
    """Who the agent is and what it is to do, from its settings."""
    tools: tuple[ToolSpec, ...] = ()
    """What the model may call."""
    exchanges: tuple[Exchange, ...] = ()
    """What it has called in this very turn, after the last message: to be answered on."""
    said: str = ""
    """How its answer began before a vendor failed in the middle: to be continued, not to be said again."""

    @overload
    def __getitem__(self, index: int) -> Message: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Message, ...]: ...

    def __getitem__(self, index: int | slice) -> Message | tuple[Message, ...]:
        return self.messages[index]

    def __len__(self) -> int:
        return len(self.messages)

    def __iter__(self) -> Iterator[Message]:
        return iter(self.messages)


# --- model -> engine ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HangUp:
    """The agent wants to end the call once everything said before this has been heard. Ends nothing in a text."""


@dataclass(frozen=True, slots=True)
class Noted:
    """What the agent wants to know the next time; added to the session's memory with this turn."""

    entities: Mapping[str, str] = field(default_factory=dict)
    """Put over those of the same name; an empty value forgets one."""
    items: tuple[MemoryItem, ...] = ()
    state: str | None = None
    """Replaces the agent's own entry in ``Memory.states``; empty clears it."""


@dataclass(frozen=True, slots=True)
class HandOver:
    """Another agent is to go on with the session, from this very turn: its model answers the same context (E4)."""

    agent: str


@dataclass(frozen=True, slots=True)
class Transfer:
    """The caller is to be connected to somebody else once everything said before this has been heard. The call is over
    for us then; where it fails, the agent says so and goes on."""

    to: str
    """A number in E.164 or a SIP address: one of those that the settings allow."""
    summary: str = ""
    """What whoever picks up is told before they are joined with the caller, where the provider can; empty: nothing."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer cost, as the vendor counts; comes last, if at all."""

    input_tokens: int
    output_tokens: int


ReplyPart = str | HangUp | Noted | HandOver | Transfer
"""A piece of text, of any size, or an action."""

ModelPart = ReplyPart | ToolCall | Usage
"""What a vendor's model says. Tool calls and usage are dealt with on the way to who hears the answer."""


# --- speech-to-speech -> engine -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReplyStarted:
    """The model begins to answer. Whatever still comes of an older reply is void."""

    reply_id: str


@dataclass(frozen=True, slots=True)
class ReplyAudio:
    """Sound of a reply in the line's format, whole frames of 20 ms; faster than it is heard."""

    reply_id: str
    audio: bytes


@dataclass(frozen=True, slots=True)
class ReplyText:
    """What is being said, in words, as a further piece; not in step with the sound."""

    reply_id: str
    text: str


@dataclass(frozen=True, slots=True)
class ReplyOver:
    """All of a reply has come. ``is_whole`` is False for one that was cancelled or cut."""

    reply_id: str
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class ReplyCorrected:
    """The vendor's own account of what was heard of a reply that the caller cut off."""

    reply_id: str
    text: str


RealtimeEvent = (
    SpeechStarted
    | SpeechStopped
    | Heard
    | Missed
    | ReplyStarted
    | ReplyAudio
    | ReplyText
    | ReplyOver
    | ReplyCorrected
    | ToolCall
    | Usage
)
"""``SpeechStarted`` while a reply is heard is a barge-in; ``Heard`` holds the caller's words, and may come after the
reply to them has begun."""


@dataclass(frozen=True, slots=True)
class Recollection:
    """What an agent made of a stretch of conversation."""

    summary: str
    entities: Mapping[str, str] = field(default_factory=dict)
    items: tuple[MemoryItem, ...] = ()
    topics: tuple[str, ...] = ()
    """What it was about, a word or two each."""
