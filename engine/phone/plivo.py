"""Plivo's side of a call: the answer webhook, Plivo XML, and the wire of an audio stream."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
import uuid
from binascii import b2a_base64
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urljoin, urlsplit
from xml.etree import ElementTree

import httpx
import orjson

from engine.events import MULAW_8K, AudioFormat
from engine.phone.errors import CallFailed, CallRefused, WebhookRefused
from engine.phone.side import Answered, Back, Callee, Clear, Command, Mark, Play, Violation, Wired
from engine.phone.twilio import Wrong, check_fields, check_type, path_of, read_payload, read_redirect, read_response

VOICE_PATH: Final = "/plivo/voice"
STATUS_PATH: Final = "/plivo/status"
SMS_PATH: Final = "/plivo/sms"
ACCOUNT: Final = "MA" + "0" * 18
MAX_HEADERS_BYTES: Final = 512
BUFFER_S: Final = 40.0
_AUDIO: Final = frozenset({"contentType", "sampleRate", "payload"})
_ATTRIBUTES: Final = frozenset(
    {
        "bidirectional",
        "audioTrack",
        "streamTimeout",
        "statusCallbackUrl",
        "statusCallbackMethod",
        "contentType",
        "extraHeaders",
        "keepCallAlive",
    }
)


class PlivoSide:
    """See ``engine.phone.side.ProviderSide``."""

    name = "plivo"
    buffer_s = BUFFER_S
    format: AudioFormat = MULAW_8K

    def __init__(self, callee: Callee) -> None:
        self._callee = callee
        self.call_id = callee.call_id or str(uuid.uuid4())
        self.stream_id = str(uuid.uuid4())
        self._headers = ""
        self._then = ""
        self._chunk = 0

    # --- webhooks -------------------------------------------------------------------------------------------

    async def dial(self, client: httpx.AsyncClient) -> Answered:
        vouched = {"STIRAttestation": self._callee.attestation} if self._callee.attestation else {}
        form = self._form("ringing") | {"Event": "StartApp"} | vouched | dict(self._callee.extra)
        return await self._ask(VOICE_PATH, form, client)

    async def again(self, back: Back, client: httpx.AsyncClient) -> Answered:
        self.stream_id, self._chunk = str(uuid.uuid4()), 0
        return await self._ask(
            path_of(back.url or self._then), self._form("in-progress") | {"Event": "Redirect"} | dict(back.news), client
        )

    async def _ask(self, path: str, form: Mapping[str, str], client: httpx.AsyncClient) -> Answered:
        response = await _post(self._callee, client, path, form)
        if response.status_code != 200:
            raise WebhookRefused(path, response.status_code, response.content)
        check_type(path, response)
        url, self._headers = read_xml(response.content)
        self._then = read_redirect(response.content)
        return Answered(url, self.format, {}, self._then)

    async def completed(self, client: httpx.AsyncClient, duration_s: float) -> int:
        form = self._form("completed") | {"Event": "Hangup", "Duration": str(round(duration_s))}
        return (await _post(self._callee, client, STATUS_PATH, form)).status_code

    def _form(self, status: str) -> dict[str, str]:
        return {
            "CallUUID": self.call_id,
            "From": self._callee.caller.removeprefix("+"),
            "To": self._callee.dialled.removeprefix("+"),
            "CallStatus": status,
            "Direction": "inbound",
            "BillRate": "0.0085",
        }

    # --- wire: to the engine --------------------------------------------------------------------------------

    def opening(self) -> Wired:
        start = {
            "callId": self.call_id,
            "streamId": self.stream_id,
            "accountId": ACCOUNT,
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000},
        }
        first = {"sequenceNumber": 0, "event": "start", "start": start, "extra_headers": self._headers}
        return (orjson.dumps(first).decode(),)

    def media(self, frame: bytes) -> str:
        self._chunk += 1
        payload = b2a_base64(frame, newline=False).decode()
        return (
            f'{{"sequenceNumber":{self._chunk},"event":"media","media":{{"track":"inbound","chunk":{self._chunk},'
            f'"timestamp":"{round(time.time() * 1000)}","payload":"{payload}"}},"streamId":"{self.stream_id}",'
            '"extra_headers":"{}"}'
        )

    def dtmf(self, digit: str) -> str:
        return self._event("dtmf", dtmf={"track": "inbound", "digit": digit, "timestamp": "1764000000000"})

    def stop(self) -> Wired:
        return ('{"event":"stop"}',)

    def mark_played(self, key: str) -> str:
        return self._event("playedStream", name=key)

    def cleared(self, pending: Sequence[str]) -> Wired:
        return (self._event("clearedAudio"),)  # checkpoints that were pending are never answered

    def _event(self, event: str, **content: object) -> str:
        return orjson.dumps({"event": event, "streamId": self.stream_id} | content).decode()

    # --- wire: from the engine ------------------------------------------------------------------------------

    def read(self, message: str | bytes, violation: Violation) -> Command | None:
        try:
            return self._read(message)
        except Wrong as wrong:
            violation(f"incorrect payload: {wrong}")
            return None

    def _read(self, message: str | bytes) -> Command:
        if not isinstance(message, str):
            raise Wrong("a binary message")
        try:
            data = orjson.loads(message)
        except ValueError:
            raise Wrong("not JSON") from None
        match data:
            case {"event": "playAudio", **rest}:
                check_fields(rest, {"media"})
                media: Any = rest["media"]
                audio = read_payload(media, _AUDIO)
                if (media["contentType"], media["sampleRate"]) != ("audio/x-mulaw", 8000):
                    raise Wrong("audio of another format than the stream's")
                return Play(audio)
            case {"event": "checkpoint", "streamId": self.stream_id, "name": str(name), **rest} if name and not rest:
                return Mark(name)
            case {"event": "clearAudio", "streamId": self.stream_id, **rest} if not rest:
                return Clear()
        raise Wrong("neither playAudio, checkpoint nor clearAudio of this stream, or with other fields")


async def post_text(callee: Callee, text: str, client: httpx.AsyncClient, text_id: str = "") -> None:
    """Post the webhook of an SMS. The answer to it is empty; the text that answers comes over REST. ``text_id`` is
    Plivo's id of the SMS; empty makes a new one. Raises CallFailed."""
    form = {
        "MessageUUID": text_id or str(uuid.uuid4()),
        "From": callee.caller.removeprefix("+"),
        "To": callee.dialled.removeprefix("+"),
        "Text": text,
        "Type": "sms",
    } | dict(callee.extra)
    response = await _post(callee, client, SMS_PATH, form)
    if response.status_code not in {200, 204}:
        raise WebhookRefused(SMS_PATH, response.status_code, response.content)


def sign(secret: str, url: str, form: Mapping[str, str], nonce: str) -> str:
    """X-Plivo-Signature-V3 of a POST to a URL with at most one field in its query."""
    signed = (
        f"{url}{'.' if urlsplit(url).query else '?'}"
        + "".join(name + form[name] for name in sorted(form))
        + f".{nonce}"
    )
    return base64.b64encode(hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest()).decode()


def read_xml(document: bytes) -> tuple[str, str]:
    """The stream's address and its headers, as the start message repeats them. Raises CallRefused with the sentence
    said, CallFailed for anything that Plivo would not run."""
    said = []
    for element in read_response(document):
        match element.tag:
            case "Stream":
                return _read_stream(element)
            case "Speak":
                said.append((element.text or "").strip())
            case "Hangup":
                raise CallRefused(" ".join(said))
            case _:
                raise CallFailed(f"the answer holds <{element.tag}>, which a call to an agent has no use for")
    raise CallRefused(" ".join(said))


def _read_stream(stream: ElementTree.Element) -> tuple[str, str]:
    if unknown := stream.attrib.keys() - _ATTRIBUTES:
        raise CallFailed(f"<Stream> has an unknown attribute {min(unknown)}")
    wanted = {"bidirectional": "true", "keepCallAlive": "true", "contentType": "audio/x-mulaw;rate=8000"}
    if any(stream.get(name) != value for name, value in wanted.items()) or stream.get("audioTrack") != "inbound":
        raise CallFailed("<Stream> is not for mu-law both ways that keeps the call: nobody would hear anything")
    headers = stream.get("extraHeaders", "")
    if len(headers) > MAX_HEADERS_BYTES:
        raise CallFailed("<Stream extraHeaders> is longer than Plivo takes")
    pairs = [pair.partition("=") for pair in headers.split(",") if pair]
    if not all(name.isalnum() and value.isalnum() and (name + value).isascii() for name, _, value in pairs):
        raise CallFailed("<Stream extraHeaders> holds more than letters and digits")
    url = (stream.text or "").strip()
    if urlsplit(url).scheme not in ("ws", "wss"):
        raise CallFailed("<Stream> does not hold a WebSocket address")
    return url, ";".join(f"{name}={value}" for name, _, value in pairs)


async def _post(callee: Callee, client: httpx.AsyncClient, path: str, form: Mapping[str, str]) -> httpx.Response:
    headers = {}
    if callee.secret:
        nonce = secrets.token_hex(10)
        signature = sign(callee.secret, urljoin(callee.public_url or callee.base_url, path), form, nonce)
        headers = {"X-Plivo-Signature-V3": signature, "X-Plivo-Signature-V3-Nonce": nonce}
    return await client.post(urljoin(callee.base_url, path), data=dict(form), headers=headers)
