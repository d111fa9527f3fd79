"""Plivo: webhooks of calls and texts, documents, audio streams, REST."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit
from xml.etree import ElementTree as ET

from adapters.providers.documents import (
    XmlAnswers,
    ask_again,
    beside,
    call_in,
    is_again,
    say,
    transfer_addresses,
    xml_answer,
)
from adapters.providers.fields import printable
from adapters.providers.plivo.codec import PlivoCodec, encode_value
from adapters.providers.plivo.rest import PlivoRest
from adapters.providers.plivo.signature import verify_signature
from adapters.providers.rest import destination, is_marked_outbound
from adapters.providers.texts import received
from adapters.providers.webhook_fields import id_in, international, number_in, read_fields, text_in, told
from engine.ports import (
    Answer,
    CallStatus,
    IncomingCall,
    IncomingText,
    WebhookKind,
    WebhookRequest,
)

_STATUSES: Final = {
    "ringing": False,
    "in-progress": False,
    "completed": True,
    "busy": True,
    "failed": True,
    "timeout": True,
    "no-answer": True,
    "cancel": True,
}
"""Plivo's words for the state of a call, and whether it is over."""

_TOLD: Final = ("CallerName", "ForwardedFrom", "ALegUUID")
"""The parameters of an answer webhook that an agent may want."""

_VOUCHED: Final = {"Verified-A": "A", "A": "A", "B": "B", "C": "C"}


@dataclass(frozen=True, slots=True)
class PlivoConfig:
    auth_token: str = field(default="", repr=False)
    """Checks webhooks and authorises REST. Empty: no webhook is genuine."""
    auth_id: str = ""
    """For REST; empty: calls are ended by closing the socket alone, and no text can be sent."""
    api_base: str = "https://api.plivo.com"
    transfer_url: str = ""
    """The public address of ``/plivo/status``, where Plivo asks what becomes of a call that we transfer; empty: none
    can be."""


class PlivoProvider(XmlAnswers):
    """The ``Provider`` for Plivo. ``insecure`` takes webhooks as genuine unseen: for development on loopback."""

    name: str = "plivo"
    verb = "Speak"
    media_path: str = "/media/plivo"
    voice_path: str = "/plivo/voice"
    status_path: str = "/plivo/status"
    whisper_path: str = "/plivo/whisper"
    webhooks: Mapping[str, tuple[WebhookKind, frozenset[str]]] = {
        "/plivo/voice": (WebhookKind.CALL, frozenset({"GET", "POST"})),
        "/plivo/status": (WebhookKind.STATUS, frozenset({"GET", "POST"})),
        "/plivo/whisper": (WebhookKind.WHISPER, frozenset({"GET", "POST"})),
        "/plivo/sms": (WebhookKind.TEXT, frozenset({"GET", "POST"})),
    }

    def __init__(self, config: PlivoConfig, *, insecure: bool = False) -> None:
        self._auth_token = config.auth_token
        self._insecure = insecure
        self.control = PlivoRest(config.api_base, config.auth_id, config.auth_token, config.transfer_url)

    def verify(self, request: WebhookRequest) -> str:
        """Raises BadSignature."""
        if self._insecure:
            seen = "\n".join((request.method, request.url, request.body.hex()))
        else:
            seen = verify_signature(request, self._auth_token)
        return hashlib.sha256(f"plivo {seen}".encode("utf-8", "surrogatepass")).hexdigest()

    def read_call(self, request: WebhookRequest) -> IncomingCall:
        fields = read_fields(request)
        caller, dialled = international(number_in(fields, "From")), international(number_in(fields, "To"))
        is_outbound = text_in(fields, "Direction") == "outbound" or is_marked_outbound(request.url)
        return IncomingCall(
            call_id=id_in(fields, "CallUUID"),
            caller=dialled if is_outbound else caller,
            dialled=caller if is_outbound else dialled,
            parameters=told(fields, _TOLD),
            attestation="" if is_outbound else _VOUCHED.get(text_in(fields, "STIRAttestation"), ""),
            is_outbound=is_outbound,
            is_back=is_again(request.url),
            was_answered=text_in(fields, "DialStatus") == "completed",
            answered_by=_answered_by(fields),
        )

    def read_status(self, request: WebhookRequest) -> CallStatus | None:
        """None for news of a stream or a recording. What a finished machine detection tells is the status of a live
        call."""
        fields = read_fields(request)
        answered_by = _answered_by(fields)
        status = text_in(fields, "CallStatus") or ("in-progress" if answered_by else "")
        if not status or "StreamID" in fields:
            return None
        is_known = status in _STATUSES
        return CallStatus(
            id_in(fields, "CallUUID"), status if is_known else "unknown", is_known and _STATUSES[status], answered_by
        )

    def connect(self, call: IncomingCall, media_url: str, token: str) -> Answer:
        """Once the stream has ended, the call goes on with what follows: asking us again."""
        response = ET.Element("Response")
        say(response, call.preface, "Speak")
        stream = ET.SubElement(
            response,
            "Stream",
            bidirectional="true",
            keepCallAlive="true",
            audioTrack="inbound",
            contentType="audio/x-mulaw;rate=8000",
            extraHeaders=f"token={encode_value(token)}",
        )
        stream.text = printable(media_url)
        ask_again(response, beside(media_url, self.media_path, self.voice_path), token)
        return xml_answer(response)

    def acknowledge(self, request: WebhookRequest) -> Answer:
        """For a call that is transferred, the document that does it: our own address told to whom, and Plivo has signed
        that it was asked for."""
        asked = dict(parse_qsl(urlsplit(request.url).query))
        response = ET.Element("Response")
        to, sender = asked.get("transfer", ""), asked.get("sender", "")
        if kind := destination(to):
            more = {"callerId": sender} if destination(sender) else {}
            if asked.get("ring", "").isdigit():
                ours = request.url.partition("?")[0].removesuffix(self.status_path)
                voice, whisper = f"{ours}{self.voice_path}", f"{ours}{self.whisper_path}"
                back, said = transfer_addresses(voice, whisper, call_in(request.url))
                more |= {"action": back, "method": "POST", "timeout": asked["ring"], "confirmSound": said}
            dial = ET.SubElement(response, "Dial", more)
            ET.SubElement(dial, "User" if kind == "sip" else "Number").text = to
        return xml_answer(response)

    @property
    def answers_texts(self) -> bool:
        """Never: an answer would have to name both numbers once more; it goes over ``send_text``."""
        return False

    def read_text(self, request: WebhookRequest) -> IncomingText | None:
        """None for receipts. Of a message that is only a picture the text is empty."""
        fields = read_fields(request)
        if "Status" in fields:
            return None
        return IncomingText(
            text_id=id_in(fields, "MessageUUID"),
            sender=international(number_in(fields, "From")),
            recipient=international(number_in(fields, "To")),
            text=received(text_in(fields, "Text")),
        )

    def answer_text(self, text: str) -> Answer:
        """Without the text: it goes over ``send_text``."""
        return xml_answer(ET.Element("Response"))

    def new_codec(self) -> PlivoCodec:
        return PlivoCodec()


def _answered_by(fields: Mapping[str, Any]) -> str:
    """``Machine`` is told of machines, and of people in the news of a finished detection."""
    if text_in(fields, "Machine").lower() == "true":
        return "machine"
    return "human" if text_in(fields, "Event") == "MachineDetection" else ""
