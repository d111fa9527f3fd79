"""Vonage's side of a call: the answer webhook, NCCO, and the wire of a WebSocket endpoint; and of an SMS."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode, urljoin, urlsplit

import httpx
import orjson

from engine.events import PCM16_8K, PCM16_16K, PCM16_24K, AudioFormat
from engine.phone.errors import CallFailed, CallRefused, WebhookRefused
from engine.phone.side import Answered, Back, Callee, Clear, Command, Mark, Play, Violation, Wired
from engine.phone.twilio import path_of

ANSWER_PATH = "/vonage/answer"
EVENT_PATH = "/vonage/event"
SMS_PATH = "/vonage/sms"
PART_CHARS: Final = 153
"""Of one part of a text that is longer than an SMS."""
BUFFERED_MESSAGES: Final = 3072
MAX_HEADERS_BYTES: Final = 512
_FORMATS: Final = {f"audio/l16;rate={form.rate_hz}": form for form in (PCM16_8K, PCM16_16K, PCM16_24K)}


class VonageSide:
    """See ``engine.phone.side.ProviderSide``. ``method`` is that of the answer webhook: POST or GET."""

    name = "vonage"
    buffer_s = BUFFERED_MESSAGES * 0.02

    def __init__(self, callee: Callee, method: str = "POST") -> None:
        self._callee = callee
        self._method = method
        self.call_id = callee.call_id or str(uuid.uuid4())
        self.stream_id = self.call_id
        self.format: AudioFormat = PCM16_16K
        self._conversation = f"CON-{uuid.uuid4()}"
        self._content_type = ""
        self._then = ""
        self._headers: dict[str, Any] = {}

    # --- webhooks -------------------------------------------------------------------------------------------

    async def dial(self, client: httpx.AsyncClient) -> Answered:
        fields = {
            "to": _digits(self._callee.dialled),
            "from": _digits(self._callee.caller),
            "uuid": self.call_id,
            "conversation_uuid": self._conversation,
            "region_url": "https://api-us-3.vonage.com",
            "endpoint_type": "phone",
        } | dict(self._callee.extra)
        response = await _request(self._callee, client, ANSWER_PATH, fields, self._method)
        return self._answered(ANSWER_PATH, response)

    async def again(self, back: Back, client: httpx.AsyncClient) -> Answered:
        """The websocket's leg has gone: the answer to that news may go on with another NCCO."""
        path = path_of(back.url or self._then)
        fields = {
            "status": "disconnected",
            "uuid": str(uuid.uuid4()),
            "conversation_uuid": self._conversation,
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
        } | dict(back.news)
        return self._answered(path, await _request(self._callee, client, path, fields, "POST"))

    def _answered(self, path: str, response: httpx.Response) -> Answered:
        if response.status_code != 200:
            raise WebhookRefused(path, response.status_code, response.content)
        endpoint = read_ncco(response.content)
        self._then = read_event_url(response.content)
        self._content_type = endpoint["content-type"]
        self.format = _FORMATS[self._content_type]
        self._headers = endpoint.get("headers", {})
        authorization = endpoint.get("authorization")
        return Answered(
            endpoint["uri"],
            self.format,
            {"Authorization": authorization["value"]} if authorization else {},
            self._then,
        )

    async def completed(self, client: httpx.AsyncClient, duration_s: float) -> int:
        fields = {
            "status": "completed",
            "uuid": self.call_id,
            "conversation_uuid": self._conversation,
            "from": _digits(self._callee.caller),
            "to": _digits(self._callee.dialled),
            "direction": "inbound",
            "duration": str(round(duration_s)),
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
        }
        return (await _request(self._callee, client, EVENT_PATH, fields, "POST")).status_code

    # --- wire: to the engine --------------------------------------------------------------------------------

    def opening(self) -> Wired:
        first = {"event": "websocket:connected", "content-type": self._content_type} | self._headers
        return (orjson.dumps(first).decode(),)

    def media(self, frame: bytes) -> bytes:
        return frame

    def dtmf(self, digit: str) -> str:
        return orjson.dumps({"event": "websocket:dtmf", "digit": digit, "duration": 260}).decode()

    def stop(self) -> Wired:
        return ()  # Vonage just closes the socket

    def mark_played(self, key: str) -> str:
        return f'{{"event":"websocket:notify","payload":{key}}}'

    def cleared(self, pending: Sequence[str]) -> Wired:
        return ('{"event":"websocket:cleared"}',)  # notifies that were pending are never answered

    # --- wire: from the engine ------------------------------------------------------------------------------

    def read(self, message: str | bytes, violation: Violation) -> Command | None:
        if isinstance(message, bytes):
            if len(message) != self.format.frame_bytes:
                violation(f"binary message of {len(message)} bytes, expected {self.format.frame_bytes}")
                return None
            return Play(message)
        try:
            data = orjson.loads(message)
        except ValueError:
            data = None
        match data:
            case {"action": "clear"} if len(data) == 1:
                return Clear()
            case {"action": "notify", "payload": dict(payload)} if len(data) == 2:
                return Mark(orjson.dumps(payload).decode())
        violation("a text message that is neither clear nor notify")
        return None


async def post_text(
    callee: Callee, text: str, client: httpx.AsyncClient, text_id: str = "", *, in_parts: bool = False
) -> None:
    """Post the webhook of an SMS. The answer to it is empty; the text that answers comes over REST.

    It is one of the Messages API, or ``in_parts`` as many of the SMS API as the text has parts. ``text_id`` is Vonage's
    id of the SMS; empty makes a new one. Raises CallFailed.
    """
    to, sender = _digits(callee.dialled), _digits(callee.caller)
    if not in_parts:
        message = {"to": to, "from": sender, "text": text, "channel": "sms", "message_type": "text"}
        await _deliver(callee, client, message | {"message_uuid": text_id or str(uuid.uuid4())})
        return
    texts = [text[start : start + PART_CHARS] for start in range(0, len(text), PART_CHARS)] or [""]
    whole = {"type": "text", "to": to, "msisdn": sender, "concat": "true", "concat-ref": str(secrets.randbelow(256))}
    text_id = text_id or secrets.token_hex(7).upper()
    for place, part in enumerate(texts, 1):
        places = {"messageId": f"{text_id}{place}", "concat-part": str(place), "concat-total": str(len(texts))}
        await _deliver(callee, client, whole | places | {"text": part})


def signed(callee: Callee, body: bytes) -> dict[str, str]:
    """Headers that sign a webhook with this body; none without a secret."""
    if not callee.secret:
        return {}
    claims = {
        "iat": int(time.time()),
        "jti": str(uuid.uuid4()),
        "iss": "Vonage",
        "payload_hash": hashlib.sha256(body).hexdigest(),
        "api_key": "offhook",
        "application_id": secrets.token_hex(8),
    }
    return {"Authorization": f"Bearer {sign(callee.secret, claims)}"}


async def _deliver(callee: Callee, client: httpx.AsyncClient, fields: dict[str, str]) -> None:
    response = await _request(callee, client, SMS_PATH, fields | dict(callee.extra), "POST")
    if response.status_code not in {200, 204}:
        raise WebhookRefused(SMS_PATH, response.status_code, response.content)


async def _request(
    callee: Callee, client: httpx.AsyncClient, path: str, fields: dict[str, str], method: str
) -> httpx.Response:
    url = urljoin(callee.base_url, path)
    if method == "GET":
        return await client.get(f"{url}?{urlencode(fields)}", headers=signed(callee, b""))
    body = orjson.dumps(fields)
    return await client.post(url, content=body, headers={"Content-Type": "application/json"} | signed(callee, body))


def sign(secret: str, claims: Mapping[str, object]) -> str:
    """A token, HS256. Vonage signs with the key there is, however short; PyJWT would warn of it at every webhook."""
    signed = b".".join(map(_base64url, (orjson.dumps({"typ": "JWT", "alg": "HS256"}), orjson.dumps(claims))))
    signature = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    return (signed + b"." + _base64url(signature)).decode()


def _base64url(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


def read_ncco(document: bytes) -> dict[str, Any]:
    """The WebSocket endpoint. Raises CallRefused with the sentence said, CallFailed for anything that Vonage would not
    run."""
    try:
        actions = orjson.loads(document)
    except ValueError:
        raise CallFailed("the answer is not JSON") from None
    if not isinstance(actions, list) or not all(isinstance(action, dict) for action in actions):
        raise CallFailed("the answer is not a list of actions")
    said = []
    for action in actions:
        match action.get("action"):
            case "connect":
                return _read_endpoint(action)
            case "talk":
                said.append(str(action.get("text", "")))
            case other:
                raise CallFailed(f"the answer holds the action {other!r}, which a call to an agent has no use for")
    raise CallRefused(" ".join(said))


def read_event_url(document: bytes) -> str:
    """Where Vonage tells of the websocket's leg and goes on by the answer; empty: the call ends with the websocket."""
    connect = next(action for action in orjson.loads(document) if action.get("action") == "connect")
    return str(connect["eventUrl"][0]) if connect.get("eventType") == "synchronous" else ""


def _read_endpoint(connect: dict[str, Any]) -> dict[str, Any]:
    endpoints = connect.get("endpoint")
    if not isinstance(endpoints, list) or len(endpoints) != 1 or not isinstance(endpoints[0], dict):
        raise CallFailed("connect must have exactly one endpoint")
    endpoint: dict[str, Any] = endpoints[0]
    if endpoint.get("type") != "websocket":
        raise CallFailed("the endpoint is not a websocket")
    if not connect.get("from") and not connect.get("randomFromNumber"):
        raise CallFailed("connect has no from")
    extra = endpoint.keys() - {"type", "uri", "content-type", "headers", "authorization"}
    if extra:
        raise CallFailed(f"the endpoint has an unknown field {min(extra)}")
    uri = urlsplit(str(endpoint.get("uri", "")))
    if uri.scheme not in ("ws", "wss") or not uri.hostname:
        raise CallFailed("the endpoint's uri is not a WebSocket address")
    if endpoint.get("content-type") not in _FORMATS:
        raise CallFailed("the endpoint's content-type is none of Vonage's")
    if len(orjson.dumps(endpoint.get("headers", {}))) > MAX_HEADERS_BYTES:
        raise CallFailed("the endpoint's headers exceed 512 bytes")
    match endpoint.get("authorization"):
        case None | {"type": "custom", "value": str()}:
            return endpoint
    raise CallFailed("the endpoint's authorization is unusable")


def _digits(number: str) -> str:
    return number.removeprefix("+")
