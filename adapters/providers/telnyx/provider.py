"""Telnyx: webhooks of calls (TeXML) and texts, documents, media streams, REST."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from xml.etree import ElementTree as ET

from adapters.providers.documents import XmlAnswers, ask_again, beside, is_again, say, xml_answer
from adapters.providers.fields import is_long_id, printable
from adapters.providers.rest import is_marked_outbound
from adapters.providers.telnyx.codec import TelnyxCodec
from adapters.providers.telnyx.rest import TelnyxRest
from adapters.providers.telnyx.signature import event_key, read_public_key, verify_signature
from adapters.providers.texts import received
from adapters.providers.webhook_fields import id_in, number_in, read_fields, read_json, text_in, told
from engine.errors import BadRequest
from engine.ports import (
    Answer,
    CallStatus,
    IncomingCall,
    IncomingText,
    WebhookKind,
    WebhookRequest,
)

_STATUSES: Final = {
    "queued": False,
    "initiated": False,
    "ringing": False,
    "answered": False,
    "in-progress": False,
    "completed": True,
    "busy": True,
    "failed": True,
    "no-answer": True,
    "canceled": True,
}
"""Telnyx' words for the state of a TeXML call, and whether it is over."""

_ANSWERED_BY: Final = {
    "human": "human",
    "machine_start": "machine",
    "machine_end_beep": "machine",
    "machine_end_silence": "machine",
    "machine_end_other": "machine",
    "fax": "machine",
}
"""Who picked up a call that we made; of anything else nothing is known."""

_TOLD: Final = ("CallerId", "ForwardedFrom", "ConnectionId")
"""The parameters of a voice webhook that an agent may want."""

_VOUCHES: Final = ("A", "B", "C")


@dataclass(frozen=True, slots=True)
class TelnyxConfig:
    public_key: str = ""
    """Checks webhooks: base64, from the portal. Empty: none is genuine."""
    api_key: str = field(default="", repr=False)
    """For REST. Empty: a call of ours ends when its document runs out, and no text can be sent."""
    account_sid: str = ""
    """Id of the account, for calls that we make."""
    application_id: str = ""
    """Id of the TeXML application, for calls that we make."""
    api_base: str = "https://api.telnyx.com"


class TelnyxProvider(XmlAnswers):
    """The ``Provider`` for Telnyx. ``insecure`` takes webhooks as genuine unseen: for development on loopback.

    Raises SettingsError for a public key of no use. ``now`` is the wall clock, in seconds since 1970.
    """

    name: str = "telnyx"
    media_path: str = "/media/telnyx"
    voice_path: str = "/telnyx/voice"
    webhooks: Mapping[str, tuple[WebhookKind, frozenset[str]]] = {
        "/telnyx/voice": (WebhookKind.CALL, frozenset({"POST"})),
        "/telnyx/status": (WebhookKind.STATUS, frozenset({"POST"})),
        "/telnyx/sms": (WebhookKind.TEXT, frozenset({"POST"})),
    }

    def __init__(self, config: TelnyxConfig, *, insecure: bool = False, now: Callable[[], float] = time.time) -> None:
        self._key = read_public_key(config.public_key) if config.public_key else None
        self._insecure = insecure
        self._now = now
        self.control = TelnyxRest(config.api_base, config.api_key, config.account_sid, config.application_id)

    def verify(self, request: WebhookRequest) -> str:
        """Raises BadSignature."""
        key = event_key(request) if self._insecure else verify_signature(request, self._key, self._now())
        return hashlib.sha256(f"telnyx {key}".encode()).hexdigest()

    def read_call(self, request: WebhookRequest) -> IncomingCall:
        fields = read_fields(request)
        caller, dialled = number_in(fields, "From"), number_in(fields, "To")
        is_outbound = text_in(fields, "Direction").startswith("outbound") or is_marked_outbound(request.url)
        return IncomingCall(
            call_id=id_in(fields, "CallSid", is_long_id),
            caller=dialled if is_outbound else caller,
            dialled=caller if is_outbound else dialled,
            parameters=told(fields, _TOLD),
            attestation="" if is_outbound else _attestation(fields),
            is_outbound=is_outbound,
            is_back=is_again(request.url),
            answered_by=_ANSWERED_BY.get(text_in(fields, "AnsweredBy"), ""),
        )

    def read_status(self, request: WebhookRequest) -> CallStatus | None:
        """None for news of a stream or a recording. What a finished machine detection tells is the status of a live
        call."""
        fields = read_fields(request)
        if "CallSid" not in fields or "StreamSid" in fields:
            return None
        answered_by = text_in(fields, "AnsweredBy")
        status = text_in(fields, "CallStatus") or ("in-progress" if answered_by else "")
        if not status:
            return None
        is_known = status in _STATUSES
        return CallStatus(
            id_in(fields, "CallSid", is_long_id),
            status if is_known else "unknown",
            is_known and _STATUSES[status],
            _ANSWERED_BY.get(answered_by, ""),
        )

    def connect(self, call: IncomingCall, media_url: str, token: str) -> Answer:
        """Once the stream has ended, the call goes on with what follows: asking us again."""
        response = ET.Element("Response")
        say(response, call.preface)
        stream = ET.SubElement(
            ET.SubElement(response, "Connect"),
            "Stream",
            url=printable(media_url),
            track="inbound_track",
            codec="PCMU",
            bidirectionalMode="rtp",
            bidirectionalCodec="PCMU",
        )
        ET.SubElement(stream, "Parameter", name="token", value=printable(token))
        ask_again(response, beside(media_url, self.media_path, self.voice_path), token)
        return xml_answer(response)

    @property
    def answers_texts(self) -> bool:
        """Never: Telnyx reads nothing in the answer to a text."""
        return False

    def read_text(self, request: WebhookRequest) -> IncomingText | None:
        """None for receipts. Of a message that is only a picture the text is empty."""
        data = read_json(request).get("data")
        if not isinstance(data, dict):
            raise BadRequest("data")
        if data.get("event_type") != "message.received":
            return None
        payload = data.get("payload")
        if not isinstance(payload, dict):
            raise BadRequest("payload")
        recipients = payload.get("to")
        recipient = recipients[0] if isinstance(recipients, list) and recipients else None
        return IncomingText(
            text_id=id_in(payload, "id"),
            sender=_party(payload.get("from"), "from"),
            recipient=_party(recipient, "to"),
            text=received(text_in(payload, "text")) if payload.get("text") is not None else "",
        )

    def answer_text(self, text: str) -> Answer:
        """Without the text: it goes over ``send_text``."""
        return Answer(b"", "text/plain", 200)

    def new_codec(self) -> TelnyxCodec:
        return TelnyxCodec()


def _attestation(fields: Mapping[str, Any]) -> str:
    """Of a number that a carrier has signed for, if Telnyx has found the signature genuine."""
    level = fields.get("ShakenStirAttestation")
    is_genuine = str(fields.get("ShakenStirValidated")).lower() == "true"
    return level if is_genuine and isinstance(level, str) and level in _VOUCHES else ""


def _party(value: object, name: str) -> str:
    if not isinstance(value, dict):
        raise BadRequest(name)
    try:
        return number_in(value, "phone_number")
    except BadRequest:
        raise BadRequest(name) from None
