"""Twilio's side of a call: the voice webhook, TwiML, and the wire of a bidirectional media stream; and of an SMS."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urljoin, urlsplit
from xml.etree import ElementTree

import httpx
import orjson

from engine.errors import OffhookError
from engine.events import MULAW_8K, AudioFormat
from engine.phone.errors import CallFailed, CallRefused, WebhookRefused
from engine.phone.side import Answered, Back, Callee, Clear, Command, Mark, Play, Violation, Wired

VOICE_PATH = "/voice"
STATUS_PATH = "/twilio/status"
SMS_PATH = "/sms"
ACCOUNT: Final = "AC" + "0" * 32
MAX_TEXT_CHARS: Final = 1600
MAX_PAIR_CHARS: Final = 500
"""Of a ``<Parameter>``'s name and value together."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """Who speaks Twilio's language: under which paths, and how webhooks are signed."""

    name: str
    voice_path: str
    status_path: str
    sms_path: str
    header: str


TWILIO: Final = Dialect("twilio", VOICE_PATH, STATUS_PATH, SMS_PATH, "X-Twilio-Signature")
SIGNALWIRE: Final = Dialect(
    "signalwire", "/signalwire/voice", "/signalwire/status", "/signalwire/sms", "X-SignalWire-Signature"
)


class TwilioSide:
    """See ``engine.phone.side.ProviderSide``. It also plays SignalWire, in that dialect."""

    buffer_s = 600.0
    format: AudioFormat = MULAW_8K

    def __init__(self, callee: Callee, dialect: Dialect = TWILIO) -> None:
        self.name = dialect.name
        self._dialect = dialect
        self._callee = callee
        self.call_id = callee.call_id or "CA" + secrets.token_hex(16)
        self.stream_id = "MZ" + secrets.token_hex(16)
        self._parameters: dict[str, str] = {}
        self._then = ""
        self._sequence = 1
        self._chunk = 0
        self._encoded: dict[bytes, str] = {}

    # --- webhooks -------------------------------------------------------------------------------------------

    async def dial(self, client: httpx.AsyncClient) -> Answered:
        form = self._form("ringing") | _vouched(self._callee) | dict(self._callee.extra)
        return await self._ask(self._dialect.voice_path, form, client)

    async def again(self, back: Back, client: httpx.AsyncClient) -> Answered:
        self.stream_id, self._sequence, self._chunk = "MZ" + secrets.token_hex(16), 1, 0
        return await self._ask(path_of(back.url or self._then), self._form("in-progress") | dict(back.news), client)

    async def _ask(self, path: str, form: Mapping[str, str], client: httpx.AsyncClient) -> Answered:
        response = await _post(self._callee, client, path, form, self._dialect.header)
        if response.status_code != 200:
            raise WebhookRefused(path, response.status_code, response.content)
        check_type(path, response)
        url, self._parameters = read_twiml(response.content)
        self._then = read_redirect(response.content)
        return Answered(url, self.format, _signature(self._callee, url, {}, self._dialect.header), self._then)

    async def completed(self, client: httpx.AsyncClient, duration_s: float) -> int:
        form = self._form("completed") | {"CallDuration": str(round(duration_s)), "Duration": "1"}
        path, header = self._dialect.status_path, self._dialect.header
        return (await _post(self._callee, client, path, form, header)).status_code

    def _form(self, status: str) -> dict[str, str]:
        return {
            "CallSid": self.call_id,
            "AccountSid": ACCOUNT,
            "From": self._callee.caller,
            "To": self._callee.dialled,
            "Caller": self._callee.caller,
            "Called": self._callee.dialled,
            "CallStatus": status,
            "ApiVersion": "2010-04-01",
            "Direction": "inbound",
        }

    # --- wire: to the engine --------------------------------------------------------------------------------

    def opening(self) -> Wired:
        start = {
            "event": "start",
            "sequenceNumber": "1",
            "streamSid": self.stream_id,
            "start": {
                "accountSid": ACCOUNT,
                "streamSid": self.stream_id,
                "callSid": self.call_id,
                "tracks": ["inbound"],
                "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
                "customParameters": self._parameters,
            },
        }
        return ('{"event":"connected","protocol":"Call","version":"1.0.0"}', orjson.dumps(start).decode())

    def media(self, frame: bytes) -> str:
        self._sequence += 1
        self._chunk += 1
        payload = self._encoded.get(frame) or self._encode(frame)
        timestamp_ms = (self._chunk - 1) * 20
        return (
            f'{{"event":"media","sequenceNumber":"{self._sequence}","streamSid":"{self.stream_id}","media":'
            f'{{"track":"inbound","chunk":"{self._chunk}","timestamp":"{timestamp_ms}","payload":"{payload}"}}}}'
        )

    def dtmf(self, digit: str) -> str:
        return self._event("dtmf", {"track": "inbound_track", "digit": digit})

    def stop(self) -> Wired:
        return (self._event("stop", {"accountSid": ACCOUNT, "callSid": self.call_id}),)

    def mark_played(self, key: str) -> str:
        return self._event("mark", {"name": key})

    def cleared(self, pending: Sequence[str]) -> Wired:
        return [self.mark_played(key) for key in pending]

    def _event(self, event: str, content: Mapping[str, object]) -> str:
        self._sequence += 1
        message = {"event": event, "sequenceNumber": str(self._sequence), "streamSid": self.stream_id, event: content}
        return orjson.dumps(message).decode()

    def _encode(self, frame: bytes) -> str:
        payload = b2a_base64(frame, newline=False).decode()
        if len(self._encoded) < 4:  # silence, above all: most of what a caller sends
            self._encoded[frame] = payload
        return payload

    # --- wire: from the engine ------------------------------------------------------------------------------

    def read(self, message: str | bytes, violation: Violation) -> Command | None:
        try:
            return self._read(message)
        except Wrong as wrong:
            violation(f"31951: {wrong}")
            return None

    def _read(self, message: str | bytes) -> Command:
        if not isinstance(message, str):
            raise Wrong("a binary message")
        try:
            data = orjson.loads(message)
        except ValueError:
            raise Wrong("not JSON") from None
        if not isinstance(data, dict):
            raise Wrong("not an object")
        event = data.get("event")
        if event not in ("media", "mark", "clear"):
            raise Wrong("unknown event")
        fields = {"event", "streamSid"} if event == "clear" else {"event", "streamSid", event}
        check_fields(data, fields)
        if data["streamSid"] != self.stream_id:
            raise Wrong("wrong streamSid")
        match event:
            case "media":
                return Play(read_payload(data["media"]))
            case "mark":
                return Mark(_read_name(data["mark"]))
            case _:
                return Clear()


async def post_text(
    callee: Callee, text: str, client: httpx.AsyncClient, text_id: str = "", dialect: Dialect = TWILIO
) -> list[str]:
    """Post the webhook of an SMS; the messages that answer it. ``text_id`` is Twilio's id of the SMS; empty makes a new
    one. Raises CallFailed."""
    text_id = text_id or "SM" + secrets.token_hex(16)
    form = {
        "MessageSid": text_id,
        "SmsSid": text_id,
        "SmsMessageSid": text_id,
        "AccountSid": ACCOUNT,
        "From": callee.caller,
        "To": callee.dialled,
        "Body": text,
        "NumMedia": "0",
        "NumSegments": str(len(text) // 153 + 1),
        "SmsStatus": "received",
        "ApiVersion": "2010-04-01",
    } | dict(callee.extra)
    response = await _post(callee, client, dialect.sms_path, form, dialect.header)
    if response.status_code != 200:
        raise WebhookRefused(dialect.sms_path, response.status_code, response.content)
    check_type(dialect.sms_path, response)
    return read_messages(response.content)


def check_type(path: str, response: httpx.Response) -> None:
    """Raises CallFailed for anything but XML."""
    content_type = response.headers.get("content-type", "").split(";")[0].strip()
    if content_type not in ("text/xml", "application/xml"):
        raise CallFailed(f"{path} answered {content_type or 'no content type'}, expected text/xml")


def _vouched(callee: Callee) -> dict[str, str]:
    return {"StirVerstat": f"TN-Validation-Passed-{callee.attestation}"} if callee.attestation else {}


async def _post(
    callee: Callee, client: httpx.AsyncClient, path: str, form: Mapping[str, str], header: str = TWILIO.header
) -> httpx.Response:
    headers = _signature(callee, urljoin(callee.public_url or callee.base_url, path), form, header)
    return await client.post(urljoin(callee.base_url, path), data=dict(form), headers=headers)


def _signature(callee: Callee, url: str, form: Mapping[str, str], header: str) -> dict[str, str]:
    return {header: sign(callee.secret, url, form)} if callee.secret else {}


class Wrong(OffhookError):
    """The provider would warn and ignore the message."""


def check_fields(data: Mapping[Any, Any], expected: set[str]) -> None:
    """Raises Wrong unless these are the fields, no more and no less."""
    if data.keys() == expected:
        return
    missing, extra = expected - data.keys(), data.keys() - expected
    raise Wrong("missing field " + ", ".join(sorted(missing)) if missing else "extra field " + ", ".join(sorted(extra)))


def read_payload(media: object, fields: frozenset[str] = frozenset({"payload"})) -> bytes:
    """Raises Wrong for anything but audio without a header."""
    if not isinstance(media, dict):
        raise Wrong("media is not an object")
    check_fields(media, set(fields))
    try:
        audio = a2b_base64(media["payload"], strict_mode=True)
    except (TypeError, ValueError):
        raise Wrong("payload is not base64") from None
    if not audio:
        raise Wrong("empty payload")
    if audio.startswith(b"RIFF"):
        raise Wrong("payload has a WAV header")
    return audio


def _read_name(mark: object) -> str:
    if not isinstance(mark, dict):
        raise Wrong("mark is not an object")
    check_fields(mark, {"name"})
    if not isinstance(mark["name"], str) or not mark["name"]:
        raise Wrong("mark name is not a string")
    return str(mark["name"])


def sign(auth_token: str, url: str, form: Mapping[str, str]) -> str:
    """X-Twilio-Signature, SHA-1."""
    signed = url + "".join(key + form[key] for key in sorted(form))
    return base64.b64encode(hmac.new(auth_token.encode(), signed.encode(), hashlib.sha1).digest()).decode()


def read_twiml(document: bytes) -> tuple[str, dict[str, str]]:
    """The stream's address and parameters. Raises CallRefused with the sentence said, CallFailed for anything that
    Twilio would not run."""
    said = []
    for verb in read_response(document):
        match verb.tag:
            case "Connect":
                return _read_stream(verb)
            case "Say":
                said.append((verb.text or "").strip())
            case "Pause":
                pass
            case "Hangup" | "Reject":
                raise CallRefused(" ".join(said))
            case _:
                raise CallFailed(f"the answer holds <{verb.tag}>, which a call to an agent has no use for")
    raise CallRefused(" ".join(said))


def read_redirect(document: bytes) -> str:
    """Where to ask for what comes after the stream; empty: the call ends then. Raises CallFailed for anything that the
    provider would not follow."""
    verbs = [verb for verb in read_response(document) if verb.tag not in ("Say", "Speak")]
    then = verbs[1:]
    if not then or then[0].tag == "Hangup":
        return ""
    url = (then[0].text or "").strip()
    if then[0].tag != "Redirect" or then[0].get("method") != "POST" or urlsplit(url).scheme not in ("http", "https"):
        raise CallFailed(f"after the stream the answer holds <{then[0].tag}>, expected a <Redirect> to an address")
    return url


def path_of(url: str) -> str:
    """With its query: an engine may be reached under another address than it believes to have. Raises CallRefused for
    no address: the call has ended."""
    if not url:
        raise CallRefused("")
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def read_messages(document: bytes) -> list[str]:
    """The texts that answer an SMS. Raises CallFailed for anything that Twilio would not send."""
    texts = []
    for verb in read_response(document):
        if verb.tag != "Message" or verb.keys() or len(verb):
            raise CallFailed(f"the answer holds <{verb.tag}>, expected <Message> and nothing in it but text")
        text = verb.text or ""
        if not 0 < len(text) <= MAX_TEXT_CHARS:
            raise CallFailed(f"a message of {len(text)} characters, Twilio takes 1 to {MAX_TEXT_CHARS}")
        texts.append(text)
    return texts


def read_response(document: bytes) -> ElementTree.Element:
    """Raises CallFailed for anything but XML with a root of this name."""
    if b"<!" in document:
        raise CallFailed("the answer holds a document type, comment or CDATA")
    try:
        root = ElementTree.fromstring(document)  # noqa: S314 - no entities without a document type
    except ElementTree.ParseError as exc:
        raise CallFailed(f"the answer is not XML: {exc}") from None
    if root.tag != "Response":
        raise CallFailed(f"the answer is <{root.tag}>, expected <Response>")
    return root


def _read_stream(connect: ElementTree.Element) -> tuple[str, dict[str, str]]:
    if [child.tag for child in connect] != ["Stream"]:
        raise CallFailed("<Connect> must hold exactly one <Stream>")
    stream = connect[0]
    url = stream.get("url", "")
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise CallFailed("<Stream url> is not a WebSocket address")
    if parts.query or parts.fragment:
        raise CallFailed("<Stream url> must not contain a query string")
    if stream.get("track", "inbound_track") != "inbound_track":
        raise CallFailed("<Stream track> of a bidirectional stream must be inbound_track")
    parameters: dict[str, str] = {}
    for child in stream:
        if child.tag != "Parameter" or child.keys() != ["name", "value"]:
            raise CallFailed("<Stream> may hold only <Parameter name value>")
        name, value = child.attrib["name"], child.attrib["value"]
        if len(name) + len(value) >= MAX_PAIR_CHARS:
            raise CallFailed(f"<Parameter {name}> is longer than Twilio takes")
        parameters[name] = value
    return url, parameters
