"""What adapters implement, each port with its guarantees.

For all of them: ``open_*`` gives a context manager; leave its block and the resource closes politely, be cancelled in
it and it closes at once. Foreign exceptions stop at the adapter, which raises those of :mod:`engine.errors`. What
queues returns at once and never waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeVar

import httpx
import trio

from engine.events import AudioFormat, CallInfo, Message, ProviderEvent, ReplyPart, StreamStarted, TranscriberEvent

T = TypeVar("T")


# --- ownership ----------------------------------------------------------------------------------------------


class ResourceKind(StrEnum):
    """What a call can own: the ``kind`` label of the resource metrics."""

    PROVIDER_SOCKET = "provider_socket"
    SPEECH_CLIENT = "speech_client"
    TTS_CLIENT = "tts_client"
    LLM_CONNECTION = "llm_connection"
    STORE_SESSION = "store_session"
    RECORDER = "recorder"
    HTTP_CLIENT = "http_client"


class Owner(Protocol):
    """A call's ledger as an adapter sees it. Whatever an adapter opens for a call, it opens through this."""

    def own(
        self,
        kind: ResourceKind,
        vendor: str,
        opening: AbstractAsyncContextManager[T],
        *,
        is_closed: Callable[[T], bool] | None = None,
        abort: Callable[[T], None] | None = None,
    ) -> AbstractAsyncContextManager[T]:
        """Open a resource under the call's ledger.

        ``is_closed`` is asked after the close: False counts the resource as leaked. ``abort`` closes at once without
        waiting (a descriptor, say); it is called when the polite close has outlived its deadline.
        """
        ...


# --- telephony providers ------------------------------------------------------------------------------------


class WebhookKind(StrEnum):
    CALL = "call"
    """A call comes in; the answer is a document that connects it to our media socket."""
    STATUS = "status"
    """News of a call; answered with an empty document."""


@dataclass(frozen=True, slots=True)
class WebhookRequest:
    """An HTTP request of a provider, untrusted until :meth:`Provider.verify` has passed."""

    method: str
    url: str
    """The public URL that the provider called, query string included, as it signed it."""
    headers: Mapping[str, str]
    """Lower-case names; of a doubled header the first."""
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class IncomingCall:
    call_id: str
    caller: str
    dialled: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    """What else the provider told that an agent may want (city, caller name, ...): strings of a stranger."""


@dataclass(frozen=True, slots=True)
class CallStatus:
    call_id: str
    status: str
    """The provider's own word, or ``unknown`` for one that its documentation does not list."""
    is_over: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer to a provider."""

    body: bytes
    content_type: str
    status: int = 200


class Codec(Protocol):
    """One media socket's wire: text or binary messages to values and back. No I/O; one object per socket."""

    paced: bool
    """The provider wants frames of exactly 20 ms, at the pace of the line; otherwise it buffers pieces of any size."""
    ends_by_close: bool
    """A clean close of the socket is how this provider says that the caller has hung up."""

    def decode_start(self, message: str | bytes) -> StreamStarted | None:
        """Before the stream has started. None for a greeting that carries nothing.

        Raises ProtocolError for anything but the messages that may come here.
        """
        ...

    def decode(self, message: str | bytes) -> ProviderEvent | None:
        """After the start. None for what is genuine and of no use. Raises BadMessage for one unusable message,
        ProtocolError when the socket cannot go on."""
        ...

    def encode_audio(self, audio: bytes) -> str | bytes:
        """Audio in the line's format; whole frames of 20 ms, and exactly one if ``paced``."""
        ...

    def encode_mark(self, name: str) -> str | bytes: ...

    def encode_clear(self) -> str | bytes: ...


class Provider(Protocol):
    """A telephony provider: webhooks, answer documents, wire and REST control."""

    name: str
    media_path: str
    """Where its media sockets come in, such as ``/media/twilio``."""
    webhooks: Mapping[str, tuple[WebhookKind, frozenset[str]]]
    """Path to kind and allowed HTTP methods."""

    @property
    def can_hang_up(self) -> bool:
        """It has what its REST API asks for; without it a call is ended by closing its socket alone."""
        ...

    def verify(self, request: WebhookRequest) -> str:
        """A key that is equal for a replay of this very request and for nothing else. Raises BadSignature."""
        ...

    def read_call(self, request: WebhookRequest) -> IncomingCall:
        """Raises BadRequest."""
        ...

    def read_status(self, request: WebhookRequest) -> CallStatus | None:
        """None for genuine news that is not about a call's state. Raises BadRequest."""
        ...

    def connect(self, call: IncomingCall, media_url: str, token: str) -> Answer:
        """The document that connects the call to ``media_url`` and brings ``token`` back in the start message."""
        ...

    def refuse(self, sentence: str) -> Answer:
        """The document that says ``sentence`` aloud and hangs up."""
        ...

    def acknowledge(self) -> Answer:
        """The empty answer to a status webhook."""
        ...

    def new_codec(self) -> Codec: ...

    async def hang_up(self, call_id: str, client: httpx.AsyncClient) -> None:
        """End the call over the provider's REST API; a call that is already over is a success. Raises VendorError. The
        caller sets the deadline."""
        ...


class ProviderLink(Protocol):
    """The media socket of one call, past its start message. One task receives, one task plays."""

    format: AudioFormat

    async def receive(self) -> ProviderEvent:
        """The next event. Raises trio.EndOfChannel when the socket is gone, SlowPeer when the peer stopped reading,
        ProtocolError when it talks nonsense."""
        ...

    async def play(self, audio: bytes) -> None:
        """Queue audio in the line's format. Waits while the line is more than a couple of seconds ahead of the
        caller's ear, so that a burst of synthesised speech is held here and not in memory or at a peer that does not
        read. Safe to cancel: what was queued is whole."""
        ...

    def mark(self, name: str) -> None:
        """Ask for a MarkPlayed with this name once everything queued before has been heard."""
        ...

    def clear(self) -> None:
        """Drop what is queued but not yet heard, here and at the provider. At once; never waits."""
        ...

    def heard_s(self) -> float:
        """Seconds of all audio ever queued by ``play`` that the caller has heard by now: monotone; what ``clear``
        dropped is never counted. The estimate runs on the clock of the line."""
        ...

    def remaining_s(self) -> float:
        """Seconds of audio queued and not heard yet."""
        ...

    async def ping(self) -> None:
        """A WebSocket ping; returns on the pong. The caller sets the deadline."""
        ...


# --- speech and language ------------------------------------------------------------------------------------


class Transcriber(Protocol):
    """The ear of one call."""

    @property
    def is_closed(self) -> bool:
        """Asked after its block was left: nothing it held is open any more."""
        ...

    def send(self, audio: bytes) -> None:
        """Caller audio in the line's format, as it came (20 ms). Queues at most 2 s, then drops the oldest."""
        ...

    async def receive(self) -> TranscriberEvent:
        """Raises SpeechFailed when no more words can come."""
        ...


class Synthesizer(Protocol):
    """The voice of one call."""

    @property
    def is_closed(self) -> bool:
        """Asked after its block was left: nothing it held is open any more."""
        ...

    def open_speech(self, text: str) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[bytes]]:
        """The text as audio in the line's format, in order, pieces of whole 20 ms frames as they are ready, without
        leading silence. The channel raises SpeechFailed when the vendor fails."""
        ...


class LanguageModel(Protocol):
    """The mind of one call."""

    @property
    def is_closed(self) -> bool:
        """Asked after its block was left: nothing it held is open any more."""
        ...

    def open_reply(self, context: Sequence[Message]) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[ReplyPart]]:
        """The answer to the last message of the context. The channel raises ModelFailed."""
        ...


@dataclass(frozen=True, slots=True)
class Phrases:
    """What an agent says of its own accord, besides what its model answers."""

    greeting: str
    still_there: str = "Are you still there?"
    filler: str = "One moment, please."
    apology: str = "I am sorry, something went wrong on our side. Please call again later."
    goodbye: str = "Thank you for calling. Goodbye."
    drain: str = "I am sorry, we have to end this call now. Please call again. Goodbye."
    last_minute: str = "We have one minute left."

    def all(self) -> tuple[str, ...]:
        return (
            self.greeting,
            self.still_there,
            self.filler,
            self.apology,
            self.goodbye,
            self.drain,
            self.last_minute,
        )


class Agent(Protocol):
    """What one agent of the settings listens, thinks and speaks with. Shared by its calls; keeps nothing of any.

    The engine enters what ``open_*`` opens into the call's ledger. The ``owner`` handed over is for what lies beneath:
    an HTTP client, a socket.
    """

    name: str
    pipeline: str
    """Metric label: ``embedded`` or the vendors' combination from a closed set."""
    phrases: Phrases
    transcriber_vendor: str
    synthesizer_vendor: str
    model_vendor: str

    def open_transcriber(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Transcriber]: ...

    def open_synthesizer(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Synthesizer]: ...

    def open_model(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[LanguageModel]: ...

    def clip(self, text: str, format: AudioFormat) -> bytes | None:  # noqa: A002 - the field's word
        """A fixed phrase as ready audio, if it was made beforehand: for when the vendor cannot speak."""
        ...
