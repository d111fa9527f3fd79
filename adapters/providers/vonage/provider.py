"""Vonage: answer and event webhooks, NCCO, websockets, REST."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

import orjson

from adapters.providers.documents import CALL, beside, call_in
from adapters.providers.fields import printable
from adapters.providers.rest import is_marked_outbound
from adapters.providers.vonage.codec import FORMATS, VonageCodec
from adapters.providers.vonage.numbers import opened_numbers, sealed_numbers
from adapters.providers.vonage.rest import VonageRest
from adapters.providers.vonage.signature import verify_sig, verify_token
from adapters.providers.vonage.texts import TextParts, read_message
from adapters.providers.webhook_fields import id_in, international, number_in, read_fields, read_json, told
from engine.errors import BadRequest, BadSignature, SettingsError
from engine.ports import (
    Answer,
    CallStatus,
    IncomingCall,
    IncomingText,
    Relay,
    WebhookKind,
    WebhookRequest,
)

MAX_HEADERS_BYTES: Final = 512
"""What Vonage takes of headers for a websocket."""

_STATUSES: Final = {
    "started": False,
    "ringing": False,
    "answered": False,
    "machine": False,
    "human": False,
    "disconnected": False,  # the socket has gone; the call may go on
    "completed": True,
    "busy": True,
    "cancelled": True,
    "failed": True,
    "rejected": True,
    "timeout": True,
    "unanswered": True,
}
"""Vonage's words for the state of a call, and whether it is over."""

_TOLD: Final = ("from_user", "endpoint_type", "conversation_uuid", "region_url", "SipHeader_User-to-User")
"""The parameters of an answer webhook that an agent may want."""

_BEEPS: Final = ("beep_start", "beep_timeout")
_SMS_PATH: Final = "/vonage/sms"
_STREAM_PATH: Final = "/vonage/stream"
"""News of the websocket's leg; Vonage goes on by the answer to that of its end."""
_TRANSFER_PATH: Final = "/vonage/transfer"
"""News of the leg of whom a caller is transferred to; it goes on by the answer likewise."""
_NUMBERS: Final = "numbers"
"""In the query of the first of these addresses: those of the call, sealed."""
_NOT_ANSWERED: Final = frozenset({"unanswered", "timeout", "busy", "rejected", "failed", "cancelled"})
_PHONE_NUMBER = re.compile(r"[1-9][0-9]{6,14}")
"""How Vonage writes a number: digits with the country code, no plus."""


@dataclass(frozen=True, slots=True)
class VonageConfig:
    signature_secret: str = field(default="", repr=False)
    """Checks webhooks. Empty: none is genuine."""
    application_id: str = ""
    private_key: str = field(default="", repr=False)
    """PEM of the application's RSA key, for REST. Either one empty: calls are ended by closing the socket alone, and no
    text can be sent."""
    api_base: str = "https://api.nexmo.com"
    rate_hz: int = 16000
    """Sample rate of the websocket: 8000, 16000 or 24000."""


class VonageProvider:
    """The ``Provider`` for Vonage. ``insecure`` takes webhooks as genuine unseen: for development on loopback.

    Raises SettingsError for a private key or a rate of no use. ``now`` is the wall clock, in seconds since 1970.
    """

    name: str = "vonage"
    media_path: str = "/media/vonage"
    webhooks: Mapping[str, tuple[WebhookKind, frozenset[str]]] = {
        "/vonage/answer": (WebhookKind.CALL, frozenset({"GET", "POST"})),
        _STREAM_PATH: (WebhookKind.CALL, frozenset({"POST"})),
        _TRANSFER_PATH: (WebhookKind.CALL, frozenset({"POST"})),
        "/vonage/whisper": (WebhookKind.WHISPER, frozenset({"GET", "POST"})),
        "/vonage/event": (WebhookKind.STATUS, frozenset({"POST"})),
        _SMS_PATH: (WebhookKind.TEXT, frozenset({"GET", "POST"})),
    }

    def __init__(self, config: VonageConfig, *, insecure: bool = False, now: Callable[[], float] = time.time) -> None:
        if config.rate_hz not in FORMATS:
            raise SettingsError("vonage rate_hz: expected 8000, 16000 or 24000")
        self._config = config
        self._insecure = insecure
        self._now = now
        self._parts = TextParts()
        self.control = VonageRest(config.api_base, config.application_id, config.private_key, now)

    def verify(self, request: WebhookRequest) -> str:
        """Raises BadSignature. The replay key comes from the token's ``jti``, or from the ``sig`` of a text of the SMS
        API, which covers every field."""
        if self._insecure:
            seen = "\n".join((request.method, request.url, request.body.hex()))
        elif "authorization" not in request.headers and urlsplit(request.url).path.endswith(_SMS_PATH):
            seen = verify_sig(_fields_to_verify(request), self._config.signature_secret, self._now())
        else:
            seen = verify_token(request, self._config.signature_secret, self._now())
        return hashlib.sha256(f"vonage {seen}".encode("utf-8", "surrogatepass")).hexdigest()

    def read_call(self, request: WebhookRequest) -> IncomingCall | None:
        """Vonage tells no attestation. Where the call lives is remembered for requests about it."""
        path = urlsplit(request.url).path
        if path.endswith(_STREAM_PATH):
            return self._read_back(request, frozenset({"disconnected"}))
        if path.endswith(_TRANSFER_PATH):
            return self._read_back(request, _NOT_ANSWERED)
        fields = read_fields(request) if request.method == "GET" else read_json(request)
        call_id = id_in(fields, "uuid")
        caller, dialled = international(number_in(fields, "from")), international(number_in(fields, "to"))
        is_outbound = fields.get("direction") == "outbound" or is_marked_outbound(request.url)
        self.control.remember_region(call_id, fields.get("region_url"))
        return IncomingCall(
            call_id=call_id,
            caller=dialled if is_outbound else caller,
            dialled=caller if is_outbound else dialled,
            parameters=told(fields, _TOLD),
            is_outbound=is_outbound,
        )

    def read_status(self, request: WebhookRequest) -> CallStatus | None:
        """None for news without a status, such as that of a recording."""
        fields = read_json(request)
        status = fields.get("status")
        if status is None:
            return None
        if not isinstance(status, str):
            raise BadRequest("status")
        is_known = status in _STATUSES
        return CallStatus(
            id_in(fields, "uuid"),
            status if is_known else "unknown",
            is_known and _STATUSES[status],
            _answered_by(status, fields.get("sub_state")),
        )

    def connect(self, call: IncomingCall, media_url: str, token: str) -> Answer:
        """Raises ValueError when call id and token are more than Vonage's ``MAX_HEADERS_BYTES``."""
        headers = {"call_id": call.call_id, "token": printable(token)}
        if len(orjson.dumps(headers)) > MAX_HEADERS_BYTES:
            raise ValueError("headers too long for Vonage")
        endpoint = {
            "type": "websocket",
            "uri": media_url,
            "content-type": f"audio/l16;rate={self._config.rate_hz}",
            "headers": headers,
        }
        connect: dict[str, Any] = {"action": "connect", "endpoint": [endpoint]}
        ours = call.dialled.removeprefix("+")
        if _PHONE_NUMBER.fullmatch(ours):
            connect["from"] = ours
        else:
            connect["randomFromNumber"] = True
        numbers = sealed_numbers(call, self._config.signature_secret)
        query = urlencode({CALL: call.call_id} | ({_NUMBERS: numbers} if numbers else {}))
        connect["eventType"] = "synchronous"
        connect["eventUrl"] = [f"{beside(media_url, self.media_path, _STREAM_PATH)}?{query}"]
        return _ncco(*([_talk(call.preface)] if call.preface else []), connect)

    def _read_back(self, request: WebhookRequest, ends: frozenset[str]) -> IncomingCall | None:
        """The caller, by the news of another leg: of one of these ends; None for other news. Raises BadRequest."""
        if read_json(request).get("status") not in ends:
            return None
        call_id = call_in(request.url)
        sealed = dict(parse_qsl(urlsplit(request.url).query)).get(_NUMBERS, "")
        caller, dialled, is_outbound = opened_numbers(call_id, sealed, self._config.signature_secret)
        return IncomingCall(call_id, caller, dialled, is_outbound=is_outbound, is_back=True)

    def refuse(self, sentence: str) -> Answer:
        """After the last action Vonage hangs up. Angle brackets go: they would make it SSML."""
        return _ncco(_talk(sentence))

    def whispered_of(self, request: WebhookRequest) -> str:
        return call_in(request.url)

    def whisper(self, text: str) -> Answer:
        return self.refuse(text)  # what is said, and nothing after it

    def dismiss(self) -> Answer:
        """Vonage hangs up when there is nothing more to do."""
        return _ncco()

    def acknowledge(self, request: WebhookRequest) -> Answer:
        return Answer(b"", "application/json", 204)

    @property
    def answers_texts(self) -> bool:
        """Never: Vonage reads nothing in the answer to a text."""
        return False

    def read_text(self, request: WebhookRequest) -> IncomingText | None:
        fields = read_fields(request)
        text = read_message(fields) if "message_uuid" in fields else self._parts.read(fields, self._now())
        if text is None:
            return None
        return replace(text, sender=international(text.sender), recipient=international(text.recipient))

    def answer_text(self, text: str) -> Answer:
        """Without the text: it goes over ``send_text``."""
        return Answer(b"", "text/plain", 200)

    def new_codec(self) -> VonageCodec:
        return VonageCodec(FORMATS[self._config.rate_hz])

    @property
    def relay(self) -> Relay | None:
        return None


def _fields_to_verify(request: WebhookRequest) -> dict[str, Any]:
    """Raises BadSignature."""
    try:
        return read_fields(request)
    except BadRequest:
        raise BadSignature("malformed") from None


_NO_MARKUP: Final = str.maketrans("<>", "  ")


def _answered_by(status: str, sub_state: object) -> str:
    """As the port has it: a machine has answered once there is a beep, or will be none."""
    if status == "human":
        return "human"
    return "machine" if status == "machine" and sub_state in _BEEPS else ""


def _talk(text: str) -> dict[str, Any]:
    return {"action": "talk", "text": printable(text).translate(_NO_MARKUP)}


def _ncco(*actions: dict[str, Any]) -> Answer:
    return Answer(orjson.dumps(actions), "application/json")
