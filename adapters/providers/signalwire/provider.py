"""SignalWire: it speaks Twilio's language in webhooks, documents, media streams and REST, and signs its own way."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from adapters.providers.signalwire.signature import replay_key, verify_signature
from adapters.providers.twilio.provider import TwilioConfig, TwilioProvider
from adapters.providers.twilio.rest import TwilioRest
from engine.ports import (
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


class SignalWireProvider(TwilioProvider):
    """The ``Provider`` for SignalWire, which is asked and answered as Twilio is, and signs its own way.

    ``insecure`` takes webhooks as genuine unseen: for development on loopback.
    """

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
        super().__init__(TwilioConfig(), insecure=insecure)
        self._signing_key = config.signing_key
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

    @property
    def relay(self) -> Relay | None:
        return None
