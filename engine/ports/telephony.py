"""Telephony providers: webhooks, answer documents, the wire, REST control; and the link of one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import httpx

from engine.events import AudioFormat, ProviderEvent, RelayEvent, StreamStarted


class WebhookKind(StrEnum):
    CALL = "call"
    """A call comes in; the answer is a document that connects it to our media socket."""
    STATUS = "status"
    """News of a call; answered with an empty document."""
    WHISPER = "whisper"
    """Somebody whom a caller is transferred to has picked up: the answer is what they hear before they are joined."""
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
    is_outbound: bool = False
    """We made it: ``caller`` is whom we called, ``dialled`` our number, so that a session finds its person."""
    answered_by: str = ""
    """As in :class:`CallStatus`."""
    dial: str = ""
    """Of a call that we made and know again: the place that is held for it. No provider sets it."""
    agent: str = ""
    """Who is to talk to it; empty: whoever answers ``dialled``. No provider sets it."""
    preface: str = ""
    """What the provider says before it connects the call to us. No provider sets it."""
    is_back: bool = False
    """It was connected before and its stream has ended, while the caller is there: the provider asks what is to become
    of it. The numbers may be missing."""
    was_answered: bool = False
    """Of one that is back from a warm transfer: the caller has talked to somebody else meanwhile."""


@dataclass(frozen=True, slots=True)
class CallStatus:
    call_id: str
    status: str
    """The provider's own word, or ``unknown`` for one that its documentation does not list."""
    is_over: bool
    answered_by: str = ""
    """Of a call that we made, once it is known: ``human``, ``machine`` (its beep has come, if the provider waits for
    it) or empty."""


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


class Ability(StrEnum):
    """What a provider can do over its REST API, with the keys that are set."""

    HANG_UP = "hang_up"
    SEND_TEXT = "send_text"
    TRANSFER = "transfer"
    """Connect the caller to somebody else, cold."""
    WARM_TRANSFER = "warm_transfer"
    """Tell whoever picks up what it is about, before they are joined; and have the caller back if nobody does."""
    PRESS_DIGITS = "press_digits"
    DIAL = "dial"
    DETECT_MACHINE = "detect_machine"


@dataclass(frozen=True, slots=True)
class Dial:
    """A call that we make."""

    to: str
    """In E.164; checked against the settings before it comes here."""
    sender: str
    """A number of ours."""
    answer_url: str
    """What the provider asks for once it is picked up: our webhook for calls, a token of this dial in its query."""
    status_url: str
    """Where it sends the call's states."""
    ring_s: float = 30.0
    detects_machine: bool = False


@dataclass(frozen=True, slots=True)
class WarmTransfer:
    """A caller who is handed to somebody else with a few words."""

    to: str
    """A number in E.164 or a SIP address."""
    sender: str
    """The number of ours that was called."""
    webhooks: str
    """The public address that our webhooks are below, without a slash at its end."""
    ring_s: float = 25.0


class Codec(Protocol):
    """One media socket's wire: text or binary messages to values and back. No I/O; one object per socket."""

    paced: bool
    """The provider wants frames of exactly 20 ms, at the pace of the line; otherwise it buffers pieces of any size."""
    ends_by_close: bool
    """A clean close of the socket is how this provider says that the caller has hung up."""
    on_gap: Callable[[], None]
    """Called when frames of the caller are missing, by the provider's own count of them. Set by whoever reads."""

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


class ProviderControl(Protocol):
    """A provider's REST API, with the keys that are set. The caller sets the deadline, and owns the client.

    All of it raises VendorError: ``why`` is BAD_REQUEST or AUTH for what cannot be done with these keys, or at all.
    """

    @property
    def abilities(self) -> frozenset[Ability]:
        """What can be asked of it. Without ``HANG_UP`` a call is ended by closing its socket alone."""
        ...

    async def hang_up(self, call_id: str, client: httpx.AsyncClient) -> None:
        """End the call; one that is already over is a success. Without keys nothing is done."""
        ...

    async def transfer(self, call_id: str, to: str, sender: str, client: httpx.AsyncClient) -> None:
        """Connect the caller to ``to`` (a number in E.164 or a SIP address) in place of us; ``sender`` is the number of
        ours that was called. The media socket ends by it."""
        ...

    async def introduce(self, call_id: str, wanted: WarmTransfer, client: httpx.AsyncClient) -> None:
        """As ``transfer``; but whoever picks up hears what our webhook of the kind WHISPER answers before they are
        joined, and where nobody does, the call ``is_back``. The caller hears it ring."""
        ...

    async def press(self, call_id: str, digits: str, client: httpx.AsyncClient) -> None:
        """Send key tones (0-9, *, #, and w for half a second) into the call."""
        ...

    async def dial(self, call: Dial, client: httpx.AsyncClient) -> str:
        """Make a call; returns the provider's id of it, or nothing where only its webhooks tell. ``why`` is BAD_REQUEST
        for a number that it does not take."""
        ...

    async def send_text(self, sender: str, recipient: str, text: str, client: httpx.AsyncClient) -> None:
        """Send an SMS."""
        ...


class Provider(Protocol):
    """A telephony provider: webhooks, answer documents, the wire; REST under ``control``."""

    name: str
    media_path: str
    """Where its media sockets come in, such as ``/media/twilio``."""
    webhooks: Mapping[str, tuple[WebhookKind, frozenset[str]]]
    """Path to kind and allowed HTTP methods."""

    @property
    def control(self) -> ProviderControl:
        """Its REST API."""
        ...

    @property
    def relay(self) -> Relay | None:
        """Its way to hear and speak itself, if it has one."""
        ...

    def verify(self, request: WebhookRequest) -> str:
        """A key that is equal for a replay of this very request and for nothing else. Raises BadSignature."""
        ...

    def read_call(self, request: WebhookRequest) -> IncomingCall | None:
        """None for news of a stream that is not about its end; it is acknowledged. Raises BadRequest."""
        ...

    def read_status(self, request: WebhookRequest) -> CallStatus | None:
        """None for genuine news that is not about a call's state. Raises BadRequest."""
        ...

    def connect(self, call: IncomingCall, media_url: str, token: str) -> Answer:
        """The document that connects the call to ``media_url`` and brings ``token`` back in the start message. When
        that stream ends and the caller is still there, the provider asks again: such a call ``is_back``."""
        ...

    def refuse(self, sentence: str) -> Answer:
        """The document that says ``sentence`` aloud and hangs up."""
        ...

    def whispered_of(self, request: WebhookRequest) -> str:
        """The id of the call whose caller somebody is about to be joined with. Raises BadRequest."""
        ...

    def whisper(self, text: str) -> Answer:
        """The document that says ``text`` to who has picked up, and then joins them with the caller."""
        ...

    def dismiss(self) -> Answer:
        """The document that hangs up without a word."""
        ...

    def acknowledge(self, request: WebhookRequest) -> Answer:
        """The answer to a status webhook: empty, unless the provider asks there what is to become of the call, such as
        one that it was told to transfer."""
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

    def new_codec(self) -> Codec: ...


class TextCodec(Protocol):
    """The wire of a :class:`Relay`. No I/O; one object per socket."""

    ends_by_close: bool
    """As :attr:`Codec.ends_by_close`."""

    def decode_start(self, message: str | bytes) -> StreamStarted | None:
        """As :meth:`Codec.decode_start`; the format of the stream is of no meaning."""
        ...

    def decode(self, message: str | bytes) -> RelayEvent | None:
        """As :meth:`Codec.decode`."""
        ...

    def encode_text(self, text: str, *, is_last: bool) -> str:
        """A piece of what is to be said, with its spaces; the last one of an utterance ends it."""
        ...

    def encode_digits(self, digits: str) -> str: ...

    def encode_end(self) -> str:
        """Ends the call, once what was sent before has been said."""
        ...


class Relay(Protocol):
    """A provider that hears and speaks itself and exchanges text with us, such as Twilio's ConversationRelay."""

    media_path: str
    """Where its sockets come in."""

    def connect(self, call: IncomingCall, media_url: str, token: str) -> Answer:
        """As :meth:`Provider.connect`."""
        ...

    def new_codec(self) -> TextCodec: ...


class ProviderLink(Protocol):
    """The media socket of one call, past its start message. One task receives, one task plays."""

    format: AudioFormat

    async def receive(self) -> ProviderEvent:
        """The next event. Raises trio.EndOfChannel when the socket is gone, SlowPeer when the peer stopped reading,
        ProtocolError when it talks nonsense."""
        ...

    async def deliver(self, take: Callable[[ProviderEvent], None]) -> None:
        """Instead of ``receive``, and cheaper: hand each event to ``take`` as it is read, audio that was read together
        in one piece, until the caller has hung up; Stopped is not handed on. Raises as ``receive`` does, and what
        ``take`` raises, which must not wait. Cancelled, the events that follow are there for ``receive``."""
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

    def pace(self, every_s: float) -> None:
        """Look for what the provider has sent every so many seconds; 0: at once."""
        ...

    async def ping(self) -> None:
        """A WebSocket ping; returns on the pong. The caller sets the deadline."""
        ...
