"""Telnyx' side of a call: the voice webhook of a TeXML application, TeXML, and the wire of a media stream."""

from __future__ import annotations

import base64
import secrets
import time
import uuid
from binascii import b2a_base64
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlencode, urljoin, urlsplit
from xml.etree import ElementTree

import httpx
import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from engine.events import MULAW_8K, AudioFormat
from engine.phone.errors import CallFailed, CallRefused, WebhookRefused
from engine.phone.side import Answered, Back, Callee, Clear, Command, Mark, Play, Violation, Wired
from engine.phone.twilio import Wrong, check_fields, check_type, path_of, read_payload, read_redirect, read_response

VOICE_PATH: Final = "/telnyx/voice"
STATUS_PATH: Final = "/telnyx/status"
SMS_PATH: Final = "/telnyx/sms"
ACCOUNT: Final = "f5586561-8ff0-4291-a51b-c7dfe4139ff9"
_ATTRIBUTES: Final = frozenset(
    {"url", "track", "name", "codec", "bidirectionalMode", "bidirectionalCodec", "statusCallback"}
)
_LONGEST_BYTES: Final = 30 * MULAW_8K.bytes_per_s
"""Of one chunk; the shortest is a frame."""


class TelnyxSide:
    """See ``engine.phone.side.ProviderSide``. ``callee.secret`` is the base64 of the 32 bytes of an Ed25519 private
    key, of which the engine has the public one."""

    name = "telnyx"
    buffer_s = 600.0
    format: AudioFormat = MULAW_8K

    def __init__(self, callee: Callee) -> None:
        self._callee = callee
        self.call_id = callee.call_id or "v3:" + secrets.token_urlsafe(40)
        self.stream_id = str(uuid.uuid4()).upper()
        self._parameters: dict[str, str] = {}
        self._then = ""
        self._sequence = 1
        self._chunk = 0

    # --- webhooks -------------------------------------------------------------------------------------------

    async def dial(self, client: httpx.AsyncClient) -> Answered:
        vouched = {"ShakenStirAttestation": self._callee.attestation, "ShakenStirValidated": "true"}
        form = self._form("ringing") | (vouched if self._callee.attestation else {}) | dict(self._callee.extra)
        return await self._ask(VOICE_PATH, form, client)

    async def again(self, back: Back, client: httpx.AsyncClient) -> Answered:
        self.stream_id, self._sequence, self._chunk = str(uuid.uuid4()).upper(), 1, 0
        return await self._ask(path_of(back.url or self._then), self._form("in-progress") | dict(back.news), client)

    async def _ask(self, path: str, form: Mapping[str, str], client: httpx.AsyncClient) -> Answered:
        response = await _post(self._callee, client, path, form)
        if response.status_code != 200:
            raise WebhookRefused(path, response.status_code, response.content)
        check_type(path, response)
        url, self._parameters = read_texml(response.content)
        self._then = read_redirect(response.content)
        return Answered(url, self.format, {}, self._then)

    async def completed(self, client: httpx.AsyncClient, duration_s: float) -> int:
        form = self._form("completed") | {"CallDuration": str(round(duration_s)), "HangupSource": "caller"}
        return (await _post(self._callee, client, STATUS_PATH, form)).status_code

    def _form(self, status: str) -> dict[str, str]:
        return {
            "AccountSid": ACCOUNT,
            "CallSid": self.call_id,
            "CallSidLegacy": self.call_id,
            "CallStatus": status,
            "ConnectionId": "1293384261075731499",
            "From": self._callee.caller,
            "To": self._callee.dialled,
        }

    # --- wire: to the engine --------------------------------------------------------------------------------

    def opening(self) -> Wired:
        start = {
            "event": "start",
            "sequence_number": "1",
            "stream_id": self.stream_id,
            "start": {
                "user_id": ACCOUNT,
                "call_control_id": self.call_id,
                "call_session_id": str(uuid.uuid4()),
                "from": self._callee.caller,
                "to": self._callee.dialled,
                "client_state": "",
                "custom_parameters": self._parameters,
                "media_format": {"encoding": "PCMU", "sample_rate": 8000, "channels": 1},
            },
        }
        return ('{"event":"connected","version":"1.0.0"}', orjson.dumps(start).decode())

    def media(self, frame: bytes) -> str:
        self._sequence += 1
        self._chunk += 1
        payload = b2a_base64(frame, newline=False).decode()
        return (
            f'{{"event":"media","sequence_number":"{self._sequence}","media":{{"track":"inbound",'
            f'"chunk":"{self._chunk}","timestamp":"{self._chunk * 20}","payload":"{payload}"}},'
            f'"stream_id":"{self.stream_id}"}}'
        )

    def dtmf(self, digit: str) -> str:
        return self._event("dtmf", {"digit": digit}, occurred_at="2026-11-21T10:00:00.000000Z")

    def stop(self) -> Wired:
        return (self._event("stop", {"user_id": ACCOUNT, "call_control_id": self.call_id}),)

    def mark_played(self, key: str) -> str:
        return self._event("mark", {"name": key})

    def cleared(self, pending: Sequence[str]) -> Wired:
        return [self.mark_played(key) for key in pending]

    def _event(self, event: str, content: Mapping[str, object], **more: str) -> str:
        self._sequence += 1
        message = {"event": event, "sequence_number": str(self._sequence), "stream_id": self.stream_id, event: content}
        return orjson.dumps(message | more).decode()

    # --- wire: from the engine ------------------------------------------------------------------------------

    def read(self, message: str | bytes, violation: Violation) -> Command | None:
        try:
            return _read(message)
        except Wrong as wrong:
            violation(f"100003: {wrong}")
            return None


async def post_text(callee: Callee, text: str, client: httpx.AsyncClient, text_id: str = "") -> None:
    """Post the webhook of an SMS. The answer to it is empty; the text that answers comes over REST. ``text_id`` is
    Telnyx' id of the SMS; empty makes a new one. Raises CallFailed."""
    text_id = text_id or str(uuid.uuid4())
    payload = {
        "id": text_id,
        "record_type": "message",
        "direction": "inbound",
        "type": "SMS",
        "from": {"phone_number": callee.caller, "carrier": "", "line_type": ""},
        "to": [{"phone_number": callee.dialled, "status": "webhook_delivered"}],
        "text": text,
        "media": [],
    } | dict(callee.extra)
    event = {
        "record_type": "event",
        "event_type": "message.received",
        "id": f"event-{text_id}",
        "occurred_at": "2026-11-21T10:00:00.000+00:00",
        "payload": payload,
    }
    body = orjson.dumps({"data": event, "meta": {"attempt": 1, "delivered_to": urljoin(callee.base_url, SMS_PATH)}})
    headers = {"content-type": "application/json"} | signed(callee, body)
    response = await client.post(urljoin(callee.base_url, SMS_PATH), content=body, headers=headers)
    if response.status_code not in {200, 204}:
        raise WebhookRefused(SMS_PATH, response.status_code, response.content)


def new_keys() -> tuple[str, str]:
    """A private key to sign webhooks with, and the public one for the engine that checks them; both as base64."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    private = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    return base64.b64encode(private).decode(), base64.b64encode(public).decode()


def signed(callee: Callee, body: bytes) -> dict[str, str]:
    """Headers that sign a webhook with this body; none without a secret."""
    if not callee.secret:
        return {}
    timestamp = str(int(time.time()))
    key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(callee.secret))
    signature = key.sign(timestamp.encode() + b"|" + body)
    return {"telnyx-signature-ed25519": base64.b64encode(signature).decode(), "telnyx-timestamp": timestamp}


def read_texml(document: bytes) -> tuple[str, dict[str, str]]:
    """The stream's address and parameters. Raises CallRefused with the sentence said, CallFailed for anything that
    Telnyx would not run."""
    said = []
    for verb in read_response(document):
        match verb.tag:
            case "Connect":
                if [child.tag for child in verb] != ["Stream"]:
                    raise CallFailed("<Connect> must hold exactly one <Stream>")
                stream = verb[0]
                if unknown := stream.attrib.keys() - _ATTRIBUTES:
                    raise CallFailed(f"<Stream> has an unknown attribute {min(unknown)}")
                if (stream.get("bidirectionalMode"), stream.get("bidirectionalCodec"), stream.get("codec")) != (
                    "rtp",
                    "PCMU",
                    "PCMU",
                ):
                    raise CallFailed("<Stream> is not for mu-law both ways: nobody would hear anything")
                return _address(stream.get("url", "")), _parameters_of(stream)
            case "Say":
                said.append((verb.text or "").strip())
            case "Hangup" | "Reject":
                raise CallRefused(" ".join(said))
            case _:
                raise CallFailed(f"the answer holds <{verb.tag}>, which a call to an agent has no use for")
    raise CallRefused(" ".join(said))


def _address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise CallFailed("<Stream url> is not a WebSocket address")
    return url


def _parameters_of(stream: ElementTree.Element) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for child in stream:
        if child.tag != "Parameter" or child.keys() != ["name", "value"]:
            raise CallFailed("<Stream> may hold only <Parameter name value>")
        parameters[child.attrib["name"]] = child.attrib["value"]
    return parameters


async def _post(callee: Callee, client: httpx.AsyncClient, path: str, form: Mapping[str, str]) -> httpx.Response:
    body = urlencode(form).encode()
    headers = {"content-type": "application/x-www-form-urlencoded"} | signed(callee, body)
    return await client.post(urljoin(callee.base_url, path), content=body, headers=headers)


def _read(message: str | bytes) -> Command:
    if not isinstance(message, str):
        raise Wrong("a binary message")
    try:
        data = orjson.loads(message)
    except ValueError:
        raise Wrong("not JSON") from None
    match data:
        case {"event": "media", **rest}:
            check_fields(rest, {"media"})
            audio = read_payload(rest["media"])
            if not MULAW_8K.frame_bytes <= len(audio) <= _LONGEST_BYTES:
                raise Wrong("a chunk shorter than 20 ms or longer than 30 s")
            return Play(audio)
        case {"event": "mark", "mark": {"name": str(name), **more}, **rest} if name and not more and not rest:
            return Mark(name)
        case {"event": "clear", **rest} if not rest:
            return Clear()
    raise Wrong("neither media, mark nor clear, or with other fields")
