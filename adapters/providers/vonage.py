"""Vonage: answer and event webhooks, NCCO, websockets, REST."""

from __future__ import annotations

import hashlib
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import httpx
import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from adapters.providers.fields import clipped, is_id, printable, read_number, read_object
from adapters.providers.vonage_codec import FORMATS, VonageCodec
from adapters.providers.vonage_signature import verify_token
from engine.errors import BadRequest, SettingsError, VendorError
from engine.ports import Answer, CallStatus, IncomingCall, WebhookKind, WebhookRequest

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
_MAX_FIELDS: Final = 200
_PHONE_NUMBER = re.compile(r"[1-9][0-9]{6,14}")
"""How Vonage writes a number: digits with the country code, no plus."""


@dataclass(frozen=True, slots=True)
class VonageConfig:
    signature_secret: str = field(default="", repr=False)
    """Checks webhooks. Empty: none is genuine."""
    application_id: str = ""
    private_key: str = field(default="", repr=False)
    """PEM of the application's RSA key, for REST. Either one empty: calls are ended by closing the socket alone."""
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
    }

    def __init__(self, config: VonageConfig, *, insecure: bool = False, now: Callable[[], float] = time.time) -> None:
        if config.rate_hz not in FORMATS:
            raise SettingsError("vonage rate_hz: expected 8000, 16000 or 24000")
        self._config = config
        self._insecure = insecure
        self._now = now
        # Read once: reading the key takes as long as signing many tokens with it.
        self._key = _read_key(config.private_key) if config.private_key else None

    def verify(self, request: WebhookRequest) -> str:
        """Raises BadSignature. The replay key comes from the token's ``jti``."""
        if self._insecure:
            seen = "\n".join((request.method, request.url, request.body.hex()))
        else:
            seen = verify_token(request, self._config.signature_secret, self._now())
        return hashlib.sha256(f"vonage {seen}".encode("utf-8", "surrogatepass")).hexdigest()

    def read_call(self, request: WebhookRequest) -> IncomingCall:
        fields = _read_query(request) if request.method == "GET" else _read_body(request)
        return IncomingCall(
            call_id=_id(fields, "uuid"),
            caller=_number(fields, "from"),
            dialled=_number(fields, "to"),
            parameters={name: clipped(text) for name in _TOLD if isinstance(text := fields.get(name), str) and text},
        )

    def read_status(self, request: WebhookRequest) -> CallStatus | None:
        """None for news without a status, such as that of a recording."""
        fields = _read_body(request)
        status = fields.get("status")
        if status is None:
            return None
        if not isinstance(status, str):
            raise BadRequest("status")
        is_known = status in _STATUSES
        return CallStatus(_id(fields, "uuid"), status if is_known else "unknown", is_known and _STATUSES[status])

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
        if _PHONE_NUMBER.fullmatch(call.dialled):
            connect["from"] = call.dialled
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

    def new_codec(self) -> VonageCodec:
        return VonageCodec(FORMATS[self._config.rate_hz])

    @property
    def can_hang_up(self) -> bool:
        """There are an application and its key; without them our close of the socket ends the call."""
        return self._key is not None and bool(self._config.application_id)

    async def hang_up(self, call_id: str, client: httpx.AsyncClient) -> None:
        """Without application and key it does nothing. Raises VendorError."""
        if self._key is None or not self.can_hang_up:
            return
        if not is_id(call_id):
            raise VendorError(self.name, "hang-up of an unusable call id")
        url = f"{self._config.api_base}/v1/calls/{call_id}"
        headers = {"authorization": f"Bearer {self._application_token(self._key)}"}
        try:
            response = await client.put(url, json={"action": "hangup"}, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise VendorError(self.name, f"hang-up failed ({type(exc).__name__})") from None
        if not response.is_success and response.status_code != httpx.codes.NOT_FOUND:
            raise VendorError(self.name, f"hang-up answered {response.status_code}")

    def _application_token(self, key: RSAPrivateKey) -> str:
        issued_at = int(self._now())
        claims = {
            "application_id": self._config.application_id,
            "iat": issued_at,
            "exp": issued_at + _TOKEN_S,
            "jti": str(uuid.uuid4()),
        }
        return jwt.encode(claims, key, algorithm="RS256")


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


def _read_body(request: WebhookRequest) -> dict[str, Any]:
    fields = read_object(request.body)
    if fields is None:
        raise BadRequest("body")
    return fields


def _read_query(request: WebhookRequest) -> dict[str, Any]:
    """A parameter that is given twice with two values cannot be read: its value becomes None."""
    try:
        pairs = parse_qsl(urlsplit(request.url).query, keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise BadRequest("query") from None
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if fields.setdefault(name, value) != value:
            fields[name] = None
    return fields


def _id(fields: Mapping[str, Any], name: str) -> str:
    value: object = fields.get(name)
    if not is_id(value):
        raise BadRequest(name)
    return value


def _number(fields: Mapping[str, Any], name: str) -> str:
    value = read_number(fields.get(name, ""))
    if value is None:
        raise BadRequest(name)
    return value
