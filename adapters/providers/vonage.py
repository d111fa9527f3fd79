"""Vonage: answer and event webhooks, NCCO, websockets, REST."""

from __future__ import annotations

import hashlib
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from adapters.providers.fields import clipped, is_id, printable
from adapters.providers.texts import pieces
from adapters.providers.vonage_codec import FORMATS, VonageCodec
from adapters.providers.vonage_fields import id_in, number_in, read_fields, read_json
from adapters.providers.vonage_signature import verify_sig, verify_token
from adapters.providers.vonage_texts import TextParts, read_message
from engine.errors import BadRequest, BadSignature, SettingsError, VendorError
from engine.ports import Answer, CallStatus, IncomingCall, IncomingText, WebhookKind, WebhookRequest

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

_TOKEN_S: Final = 300
_SMS_PATH: Final = "/vonage/sms"
_SENDER = re.compile(r"[0-9]{3,15}")
"""A number of ours, or a short code."""
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
    event_url: str = ""
    """Where Vonage sends news of the websocket's leg; empty: where its dashboard says."""


class VonageProvider:
    """The ``Provider`` for Vonage. ``insecure`` takes webhooks as genuine unseen: for development on loopback.

    Raises SettingsError for a private key or a rate of no use. ``now`` is the wall clock, in seconds since 1970.
    """

    name: str = "vonage"
    media_path: str = "/media/vonage"
    webhooks: Mapping[str, tuple[WebhookKind, frozenset[str]]] = {
        "/vonage/answer": (WebhookKind.CALL, frozenset({"GET", "POST"})),
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
        # Read once: reading the key takes as long as signing many tokens with it.
        self._key = _read_key(config.private_key) if config.private_key else None

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

    def read_call(self, request: WebhookRequest) -> IncomingCall:
        """Vonage tells no attestation."""
        fields = read_fields(request) if request.method == "GET" else read_json(request)
        return IncomingCall(
            call_id=id_in(fields, "uuid"),
            caller=_international(number_in(fields, "from")),
            dialled=_international(number_in(fields, "to")),
            parameters={name: clipped(text) for name in _TOLD if isinstance(text := fields.get(name), str) and text},
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
        return CallStatus(id_in(fields, "uuid"), status if is_known else "unknown", is_known and _STATUSES[status])

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
        if self._config.event_url:
            connect["eventUrl"] = [self._config.event_url]
        return _ncco(connect)

    def refuse(self, sentence: str) -> Answer:
        """After the last action Vonage hangs up. Angle brackets go: they would make it SSML."""
        return _ncco({"action": "talk", "text": printable(sentence).translate(_NO_MARKUP)})

    def acknowledge(self) -> Answer:
        return Answer(b"", "application/json", 204)

    @property
    def can_send_text(self) -> bool:
        return self.can_hang_up

    @property
    def answers_texts(self) -> bool:
        """Never: Vonage reads nothing in the answer to a text."""
        return False

    def read_text(self, request: WebhookRequest) -> IncomingText | None:
        fields = read_fields(request)
        text = read_message(fields) if "message_uuid" in fields else self._parts.read(fields, self._now())
        if text is None:
            return None
        return replace(text, sender=_international(text.sender), recipient=_international(text.recipient))

    def answer_text(self, text: str) -> Answer:
        """Without the text: it goes over ``send_text``."""
        return Answer(b"", "text/plain", 200)

    async def send_text(self, sender: str, recipient: str, text: str, client: httpx.AsyncClient) -> None:
        """Over the Messages API; a long text as several messages, one after the other. Raises VendorError, perhaps when
        some of them have gone out. The caller sets the deadline."""
        if not self.can_send_text:
            raise VendorError(self.name, "no application to send texts with")
        ours, theirs = sender.removeprefix("+"), recipient.removeprefix("+")
        if not _SENDER.fullmatch(ours) or not _PHONE_NUMBER.fullmatch(theirs):
            raise VendorError(self.name, "text to or from an unusable number")
        for piece in pieces(text):
            message = {"to": theirs, "from": ours, "text": piece, "channel": "sms", "message_type": "text"}
            status = await self._ask(client, "text", "POST", "/v1/messages", message)
            if not httpx.codes.is_success(status):
                raise VendorError(self.name, f"text answered {status}")

    def new_codec(self) -> VonageCodec:
        return VonageCodec(FORMATS[self._config.rate_hz])

    @property
    def can_hang_up(self) -> bool:
        """There are an application and its key; without them our close of the socket ends the call."""
        return self._key is not None and bool(self._config.application_id)

    async def hang_up(self, call_id: str, client: httpx.AsyncClient) -> None:
        """Without application and key it does nothing. Raises VendorError."""
        if not self.can_hang_up:
            return
        if not is_id(call_id):
            raise VendorError(self.name, "hang-up of an unusable call id")
        status = await self._ask(client, "hang-up", "PUT", f"/v1/calls/{call_id}", {"action": "hangup"})
        if not httpx.codes.is_success(status) and status != httpx.codes.NOT_FOUND:
            raise VendorError(self.name, f"hang-up answered {status}")

    async def _ask(
        self, client: httpx.AsyncClient, what: str, method: str, path: str, content: Mapping[str, str]
    ) -> int:
        """The status of the answer. Raises VendorError when there is none."""
        url = f"{self._config.api_base}{path}"
        headers = {"authorization": f"Bearer {self._application_token()}"}
        try:
            response = await client.request(method, url, json=content, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise VendorError(self.name, f"{what} failed ({type(exc).__name__})") from None
        return response.status_code

    def _application_token(self) -> str:
        if self._key is None:
            raise VendorError(self.name, "no private key")
        issued_at = int(self._now())
        claims = {
            "application_id": self._config.application_id,
            "iat": issued_at,
            "exp": issued_at + _TOKEN_S,
            "jti": str(uuid.uuid4()),
        }
        return jwt.encode(claims, self._key, algorithm="RS256")


def _fields_to_verify(request: WebhookRequest) -> dict[str, Any]:
    """Raises BadSignature."""
    try:
        return read_fields(request)
    except BadRequest:
        raise BadSignature("malformed") from None


_NO_MARKUP: Final = str.maketrans("<>", "  ")


def _read_key(pem: str) -> RSAPrivateKey:
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError):  # its text is not repeated: it could hold the key
        raise SettingsError("vonage private_key: expected the PEM of an RSA private key") from None
    if not isinstance(key, RSAPrivateKey):
        raise SettingsError("vonage private_key: expected an RSA key")
    return key


def _ncco(action: dict[str, Any]) -> Answer:
    return Answer(orjson.dumps([action]), "application/json")


def _international(number: str) -> str:
    """With its plus, without which it would be read in the region of the settings."""
    return f"+{number}" if _PHONE_NUMBER.fullmatch(number) else number
