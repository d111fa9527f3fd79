"""SignalWire: it speaks Twilio's language in webhooks, documents, media streams and REST, and signs its own way."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from adapters.providers.documents import beside
from adapters.providers.signalwire.signature import replay_key, verify_signature
from adapters.providers.twilio.codec import TwilioCodec
from adapters.providers.twilio.provider import TwilioConfig, TwilioProvider, connect_document
from adapters.providers.twilio.rest import TwilioRest
from engine.ports import (
    Answer,
    CallStatus,
    IncomingCall,
    IncomingText,
    Relay,
    WebhookKind,
    WebhookRequest,
)


@dataclass(frozen=True, slots=True)
class SignalWireConfig:
    signing_key: str = field(default="", repr=False)
    """Checks webhooks. Empty: none is genuine."""
    api_token: str = field(default="", repr=False)
    """For REST, with ``project_id``. Either one empty: calls are ended by closing the socket alone, and texts only
    answered, never sent."""
    project_id: str = ""
    api_base: str = ""
    """Of the space: ``https://example.signalwire.com``."""


class SignalWireProvider:
    """The ``Provider`` for SignalWire. ``insecure`` takes webhooks as genuine unseen: for development on loopback."""

    name: str = "signalwire"
    media_path: str = "/media/signalwire"
    voice_path: str = "/signalwire/voice"
    webhooks: Mapping[str, tuple[WebhookKind, frozenset[str]]] = {
        "/signalwire/voice": (WebhookKind.CALL, frozenset({"POST"})),
        "/signalwire/status": (WebhookKind.STATUS, frozenset({"POST"})),
        "/signalwire/whisper": (WebhookKind.WHISPER, frozenset({"POST"})),
        "/signalwire/sms": (WebhookKind.TEXT, frozenset({"POST"})),
    }

    def __init__(self, config: SignalWireConfig, *, insecure: bool = False) -> None:
        self._signing_key = config.signing_key
        self._insecure = insecure
        self._documents = TwilioProvider(TwilioConfig())
        has_space = bool(config.api_base)
        self.control = TwilioRest(
            self.name,
            f"{config.api_base.rstrip('/')}/api/laml",
            config.project_id if has_space else "",
            config.api_token,
            self.voice_path,
            "/signalwire/whisper",
        )

    def verify(self, request: WebhookRequest) -> str:
        """Raises BadSignature."""
        if not self._insecure:
            verify_signature(request, self._signing_key)
        return hashlib.sha256(f"signalwire {request.method} {replay_key(request)}".encode()).hexdigest()

    def read_call(self, request: WebhookRequest) -> IncomingCall:
        return self._documents.read_call(request)

    def read_status(self, request: WebhookRequest) -> CallStatus | None:
        return self._documents.read_status(request)

    def connect(self, call: IncomingCall, media_url: str, token: str) -> Answer:
        return connect_document(call, media_url, token, beside(media_url, self.media_path, self.voice_path))

    def refuse(self, sentence: str) -> Answer:
        return self._documents.refuse(sentence)

    def whispered_of(self, request: WebhookRequest) -> str:
        return self._documents.whispered_of(request)

    def whisper(self, text: str) -> Answer:
        return self._documents.whisper(text)

    def dismiss(self) -> Answer:
        return self._documents.dismiss()

    def acknowledge(self, request: WebhookRequest) -> Answer:
        return self._documents.acknowledge(request)

    @property
    def answers_texts(self) -> bool:
        return self._documents.answers_texts

    def read_text(self, request: WebhookRequest) -> IncomingText | None:
        return self._documents.read_text(request)

    def answer_text(self, text: str) -> Answer:
        return self._documents.answer_text(text)

    def new_codec(self) -> TwilioCodec:
        return TwilioCodec()

    @property
    def relay(self) -> Relay | None:
        return None
