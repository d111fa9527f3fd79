"""Twilio: webhooks of calls and texts, TwiML, media streams, REST."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from xml.etree import ElementTree as ET

from adapters.providers.documents import XmlAnswers, ask_again, beside, is_again, say, xml_answer
from adapters.providers.fields import clipped, is_id, printable, read_number
from adapters.providers.texts import pieces, received
from adapters.providers.twilio.codec import TwilioCodec
from adapters.providers.twilio.relay import RelayConfig, TwilioRelay
from adapters.providers.twilio.rest import TwilioRest
from adapters.providers.twilio.signature import read_form, verify_signature
from engine.errors import BadRequest, BadSignature
from engine.ports import (
    Answer,
    CallStatus,
    IncomingCall,
    IncomingText,
    Relay,
    WebhookKind,
    WebhookRequest,
)

_STATUSES: Final = {
    "queued": False,
    "initiated": False,
    "ringing": False,
    "in-progress": False,
    "completed": True,
    "busy": True,
    "failed": True,
    "no-answer": True,
    "canceled": True,
}
"""Twilio's words for the state of a call, and whether it is over."""

_TOLD: Final = (
    "CallerName",
    "Direction",
    "ForwardedFrom",
    "FromCity",
    "FromState",
    "FromZip",
    "FromCountry",
    "ToCity",
    "ToState",
    "ToCountry",
    "StirVerstat",
)
"""The parameters of a voice webhook that an agent may want."""

_VOUCHED = re.compile(r"TN-Validation-Passed-([ABC])(?:-Diverted|-Passthrough)?")
"""``StirVerstat`` of a number that a carrier has signed for, and the signature was genuine; and how far it vouches. All
other values, such as ``TN-Validation-Failed-A``, vouch for nothing."""

_ANSWERED_BY: Final = {
    "human": "human",
    "machine_start": "machine",
    "machine_end_beep": "machine",
    "machine_end_silence": "machine",
    "machine_end_other": "machine",
    "fax": "machine",
}
"""Who picked up a call that we made; of anything else nothing is known."""


@dataclass(frozen=True, slots=True)
class TwilioConfig:
    auth_token: str = field(default="", repr=False)
    """Checks webhooks and authorises REST. Empty: no webhook signed with it is genuine."""
    account_sid: str = ""
    """For REST; empty: calls are ended by closing the socket alone, and texts only answered, never sent."""
    api_base: str = "https://api.twilio.com"
    shared_keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Secrets of webhook signing keys, by key id."""
    relay: RelayConfig = field(default_factory=RelayConfig)
    """For calls that Twilio hears and speaks itself."""


class TwilioProvider(XmlAnswers):
    """The ``Provider`` for Twilio. ``insecure`` takes webhooks as genuine unseen: for development on loopback."""

    name: str = "twilio"
    media_path: str = "/media/twilio"
    voice_path: str = "/voice"
    webhooks: Mapping[str, tuple[WebhookKind, frozenset[str]]] = {
        "/voice": (WebhookKind.CALL, frozenset({"POST"})),
        "/twilio/status": (WebhookKind.STATUS, frozenset({"POST"})),
        "/twilio/whisper": (WebhookKind.WHISPER, frozenset({"POST"})),
        "/sms": (WebhookKind.TEXT, frozenset({"POST"})),
    }

    def __init__(self, config: TwilioConfig, *, insecure: bool = False) -> None:
        self._config = config
        self._insecure = insecure
        self._relay = TwilioRelay(config.relay)
        self.control = TwilioRest(self.name, config.api_base, config.account_sid, config.auth_token)

    def verify(self, request: WebhookRequest) -> str:
        """Raises BadSignature. Also for the upgrade of a media socket: a GET of its wss URL without a body.

        The replay key comes from the signature, which covers the URL and every field, whatever their order.
        """
        if self._insecure:
            seen = (request.method, request.url, request.body.hex())
            return hashlib.sha256("\n".join(seen).encode("utf-8", "surrogatepass")).hexdigest()
        signature = verify_signature(request, self._config.auth_token, self._config.shared_keys)
        return hashlib.sha256(f"twilio {signature}".encode()).hexdigest()

    def read_call(self, request: WebhookRequest) -> IncomingCall:
        form = _read_fields(request)
        vouched = _VOUCHED.fullmatch(form.get("StirVerstat", ""))
        is_outbound = form.get("Direction", "").startswith("outbound")
        caller, dialled = _number(form, "From"), _number(form, "To")
        return IncomingCall(
            call_id=_id(form, "CallSid"),
            caller=dialled if is_outbound else caller,
            dialled=caller if is_outbound else dialled,
            parameters={name: clipped(form[name]) for name in _TOLD if form.get(name)},
            attestation=vouched[1] if vouched and not is_outbound else "",
            is_outbound=is_outbound,
            is_back=is_again(request.url),
            was_answered=form.get("DialCallStatus") in ("completed", "answered"),
            answered_by=_ANSWERED_BY.get(form.get("AnsweredBy", ""), ""),
        )

    def read_status(self, request: WebhookRequest) -> CallStatus | None:
        """None for news of a stream. What a finished machine detection tells is the status of a live call."""
        form = _read_fields(request)
        status = form.get("CallStatus", "in-progress" if "AnsweredBy" in form else None)
        if status is None or "StreamEvent" in form:
            return None
        is_known = status in _STATUSES
        return CallStatus(
            _id(form, "CallSid"),
            status if is_known else "unknown",
            is_known and _STATUSES[status],
            _ANSWERED_BY.get(form.get("AnsweredBy", ""), ""),
        )

    def connect(self, call: IncomingCall, media_url: str, token: str) -> Answer:
        """Once the stream has ended, the call goes on with what follows: asking our webhook for calls again."""
        response = ET.Element("Response")
        say(response, call.preface)
        stream = ET.SubElement(ET.SubElement(response, "Connect"), "Stream", url=printable(media_url))
        ET.SubElement(stream, "Parameter", name="token", value=printable(token))
        ask_again(response, beside(media_url, self.media_path, self.voice_path), token)
        return xml_answer(response)

    @property
    def answers_texts(self) -> bool:
        return True

    def read_text(self, request: WebhookRequest) -> IncomingText:
        """Of a message that is only a picture the text is empty."""
        form = _read_fields(request)
        text = form.get("Body", "")
        if text == _AMBIGUOUS:
            raise BadRequest("Body")
        return IncomingText(
            _id(form, "MessageSid"), sender=_number(form, "From"), recipient=_number(form, "To"), text=received(text)
        )

    def answer_text(self, text: str) -> Answer:
        """A long text as several messages."""
        response = ET.Element("Response")
        for piece in pieces(text):
            ET.SubElement(response, "Message").text = piece
        return xml_answer(response)

    def new_codec(self) -> TwilioCodec:
        return TwilioCodec()

    @property
    def relay(self) -> Relay | None:
        return self._relay


def _read_fields(request: WebhookRequest) -> dict[str, str]:
    """The form; a field that is given twice with two values makes it unusable when it is read."""
    try:
        form = read_form(request)
    except BadSignature:
        form = None
    if form is None:
        raise BadRequest("body")
    fields: dict[str, str] = {}
    for name, value in form:
        if fields.setdefault(name, value) != value:
            fields[name] = _AMBIGUOUS
    return fields


_AMBIGUOUS: Final = "\0"
"""Stands for the values of a doubled field: no field accepts it."""


def _id(form: Mapping[str, str], name: str) -> str:
    value = form.get(name, "")
    if not is_id(value):
        raise BadRequest(name)
    return value


def _number(form: Mapping[str, str], name: str) -> str:
    value = read_number(form.get(name, ""))
    if value is None:
        raise BadRequest(name)
    return value
