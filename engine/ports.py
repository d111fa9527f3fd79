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

from engine.events import (
    AudioFormat,
    CallInfo,
    Context,
    Message,
    ProviderEvent,
    Recollection,
    ReplyPart,
    SessionInfo,
    StreamStarted,
    TranscriberEvent,
)

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
    TEXT = "text"
    """An SMS comes in; answered with a text, at once or over REST."""


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
    attestation: str = ""
    """How far the provider vouches for ``caller``: STIR/SHAKEN's ``A`` (in full), ``B``, ``C``; empty: not at all."""


@dataclass(frozen=True, slots=True)
class CallStatus:
    call_id: str
    status: str
    """The provider's own word, or ``unknown`` for one that its documentation does not list."""
    is_over: bool


@dataclass(frozen=True, slots=True)
class IncomingText:
    text_id: str
    """The provider's id of the message; the same again when it asks twice."""
    sender: str
    recipient: str
    """Our number that it was sent to."""
    text: str


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

    @property
    def can_send_text(self) -> bool:
        """It has what its REST API asks for to send an SMS."""
        ...

    @property
    def answers_texts(self) -> bool:
        """``answer_text`` may carry the answer itself; else it goes over ``send_text``."""
        ...

    def read_text(self, request: WebhookRequest) -> IncomingText | None:
        """None for what is genuine and has nothing to answer: a receipt, or a part of a longer text whose other parts
        are still to come; it is answered with ``answer_text("")``. Raises BadRequest."""
        ...

    def answer_text(self, text: str) -> Answer:
        """The document that answers an SMS webhook with this text; with an empty one, with nothing."""
        ...

    async def send_text(self, sender: str, recipient: str, text: str, client: httpx.AsyncClient) -> None:
        """Send an SMS over the provider's REST API. Raises VendorError. The caller sets the deadline."""
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

    def open_reply(self, context: Context) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[ReplyPart]]:
        """The answer to the last message of the context. The channel raises ModelFailed."""
        ...


@dataclass(frozen=True, slots=True)
class Phrases:
    """What an agent says of its own accord, besides what its model answers."""

    greeting: str
    returning: str = "Welcome back. How can I help you?"
    """The greeting of a caller whose session has heard the opening, or anything else, before (C4)."""
    still_there: str = "Are you still there?"
    filler: str = "One moment, please."
    apology: str = "I am sorry, something went wrong on our side. Please call again later."
    goodbye: str = "Thank you for calling. Goodbye."
    drain: str = "I am sorry, we have to end this call now. Please call again. Goodbye."
    last_minute: str = "We have one minute left."

    def all(self) -> tuple[str, ...]:
        return (
            self.greeting,
            self.returning,
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

    def open_model(self, session: SessionInfo, owner: Owner) -> AbstractAsyncContextManager[LanguageModel]:
        """For a call, or for one written turn."""
        ...

    async def recollect(self, messages: Sequence[Message], before: Recollection, session: SessionInfo) -> Recollection:
        """What is to be known of a conversation once these messages are out of sight: ``before`` is what was known
        without them. Made in the background. Raises VendorError. The caller sets the deadline."""
        ...

    def clip(self, text: str, format: AudioFormat) -> bytes | None:  # noqa: A002 - the field's word
        """A fixed phrase as ready audio, if it was made beforehand: for when the vendor cannot speak."""
        ...


# --- stores -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SessionRow:
    """The head of one session as a store holds it."""

    session_id: str
    key: str
    """What it is looked up by: opaque, and unique in the store."""
    subject: str
    """Whose it is: an opaque fingerprint of a number, or empty: nobody's, and never found or erased by it."""
    version: int
    """1 when made, and one more with every change. 0 in what was never stored."""
    started_at: float
    last_at: float
    expires_at: float
    """Unix seconds, all three. From ``expires_at`` on the session is not there any more, whatever else happens."""
    body: bytes


@dataclass(frozen=True, slots=True)
class MessageRow:
    message_id: str
    """Unique in its session; the same message written twice is there once."""
    at: float
    body: bytes
    text: str = ""
    """The words, for a full text index; empty when the body is sealed."""


@dataclass(frozen=True, slots=True)
class TraceRow:
    at: float
    body: bytes


@dataclass(frozen=True, slots=True)
class Found:
    row: SessionRow
    messages: tuple[MessageRow, ...]
    """In the order in which they were written."""


@dataclass(frozen=True, slots=True)
class Append:
    """Messages added to a session, and its head replaced.

    ``head.version`` is the version that the head was made from. The session is looked up by ``head.session_id``:

    * there, same version: written, with the version one higher -> ``Written``
    * there, other version: nothing is written -> ``Conflict``
    * not there, ``head.version`` above 0: it has been erased or has expired; nothing is written -> ``Gone``
    * not there, ``head.version`` 0: made anew, unless its subject was erased at or after ``head.started_at``
      (-> ``Gone``, which goes before the next) or ``head.key`` is taken (-> ``Conflict`` with whoever has it, and
      nothing is written).

    A session that is there gets the whole head, key and subject too; if that key is another one's: ``Conflict`` with
    that one. What has expired counts as not there, and gives its key free. Afterwards the last ``retention`` messages
    and the last ``traces_kept`` traces are there, the older ones are not.
    """

    head: SessionRow
    messages: tuple[MessageRow, ...] = ()
    traces: tuple[TraceRow, ...] = ()
    retention: int = 50
    traces_kept: int = 500


@dataclass(frozen=True, slots=True)
class Replace:
    """A message's body and text are exchanged, if its body is still ``was``; its place and time stay. The session's
    version rises by one. -> ``Written``, or ``Gone`` when there is no such message with this body."""

    session_id: str
    message: MessageRow
    was: bytes


@dataclass(frozen=True, slots=True)
class Rekey:
    """A session gives up its key for another one, so that a new session can take it; its version rises by one.
    -> ``Written``, or ``Gone`` when it is not there or the key is another one's."""

    session_id: str
    key: str


@dataclass(frozen=True, slots=True)
class Remove:
    """A session with all that belongs to it, gone without a trace. -> ``Written`` with the version it had, else
    ``Gone``."""

    session_id: str


Write = Append | Replace | Rekey | Remove


@dataclass(frozen=True, slots=True)
class Written:
    version: int


@dataclass(frozen=True, slots=True)
class Conflict:
    current: SessionRow


@dataclass(frozen=True, slots=True)
class Gone:
    pass


Outcome = Written | Conflict | Gone


@dataclass(frozen=True, slots=True)
class AuditRow:
    at: float
    body: bytes


class RecordStore(Protocol):
    """Where sessions are kept: opaque bodies under opaque names. Shared by all sessions of the engine.

    Nothing here blocks the event loop. Every operation raises StoreDown, and nothing else, when it cannot be done; then
    all of it was done or nothing. The caller sets the deadline: a cancelled operation may or may not have happened, and
    leaves nothing behind that would harm the next.
    """

    backend: str
    """``memory``, ``sqlite``, ``postgresql`` or ``redis``: a metric label."""

    @property
    def has_full_text(self) -> bool:
        """``search`` finds by an index."""
        ...

    async def find(self, key: str, *, last: int) -> Found | None:
        """The session with this key and its last messages."""
        ...

    async def get(self, session_id: str, *, last: int) -> Found | None: ...

    async def of_subject(self, subject: str) -> list[SessionRow]:
        """All sessions of one subject, oldest first."""
        ...

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """In this order, in one transaction: what was written survives a crash of this process once this returns."""
        ...

    async def traces(self, session_id: str) -> list[TraceRow]: ...

    async def search(self, words: str, *, session_id: str = "", limit: int = 50) -> list[tuple[str, MessageRow]]:
        """Session ids and messages that hold all the words, newest first; in one session if one is named. Of sealed
        messages it knows nothing. Empty where there is no index."""
        ...

    async def scan(self, after: str = "", *, limit: int = 100) -> list[SessionRow]:
        """Sessions in the order of their ids, from the first one after ``after``: for work through all of them."""
        ...

    async def erase(self, subject: str, at: float) -> int:
        """Every session of the subject, leaving no byte where the store can help it. What is left is a tombstone: no
        session of this subject that started at or before ``at`` is ever made again. Returns how many there were."""
        ...

    async def purge(self, now: float) -> int:
        """Let go of the bytes of what has expired. Returns how many sessions."""
        ...

    async def meta(self, name: str, default: bytes) -> bytes:
        """A small value of the store's own; ``default`` is kept if there is none yet. Of several askers one wins."""
        ...

    async def set_meta(self, name: str, value: bytes, *, was: bytes) -> bool:
        """Exchange it if it is still ``was``."""
        ...

    async def add_audit(self, row: AuditRow) -> None: ...

    async def audit(self, *, limit: int = 100) -> list[AuditRow]:
        """Newest first."""
        ...
