"""The requests that an engine makes to its providers, taken and answered as they would."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs

import h11
import orjson
import trio

from engine.phone.twilio import MAX_TEXT_CHARS

VONAGE_TEXT_CHARS: Final = 3200
MAX_BODY_BYTES: Final = 64 * 1024

_TWILIO = re.compile(r"(?:/api/laml)?/2010-04-01/Accounts/[0-9a-zA-Z-]+/(Messages|Calls/[A-Za-z0-9_-]+)\.json")
"""SignalWire's too."""
_TELNYX = re.compile(r"/v2/(messages|calls/[A-Za-z0-9_:-]+/actions/[a-z_]+)")
_PLIVO = re.compile(r"/v1/Account/[A-Z0-9]+/(Message|Call/[A-Za-z0-9-]+|Request/[A-Za-z0-9-]+)/")
_VONAGE = re.compile(r"/v1/(messages|calls/[A-Za-z0-9-]+)")
_NUMBER = re.compile(r"[1-9][0-9]{2,14}")


@dataclass(frozen=True, slots=True)
class Message:
    """An SMS that an engine has sent."""

    sender: str
    recipient: str
    text: str


class Request:
    """One request, read whole."""

    def __init__(self, http: h11.Connection, stream: trio.abc.Stream, head: h11.Request, body: bytes) -> None:
        self.method = head.method.decode()
        self.path = head.target.decode()
        self.headers: Mapping[str, str] = {name.decode(): value.decode("latin-1") for name, value in head.headers}
        self.body = body
        self._http = http
        self._stream = stream

    async def answer(self, status: int, content: Mapping[str, Any]) -> None:
        """As JSON. The connection is of no more use then."""
        body = b"" if status == 204 else orjson.dumps(content)
        headers = [("connection", "close"), ("content-type", "application/json"), ("content-length", str(len(body)))]
        parts: tuple[h11.Event, ...] = (h11.Response(status_code=status, headers=headers), h11.Data(data=body))
        try:
            for part in (*parts, h11.EndOfMessage()):
                await self._stream.send_all(self._http.send(part) or b"")
        except trio.BrokenResourceError:
            pass  # whoever asked has gone


async def read_request(stream: trio.abc.Stream) -> Request | None:
    """None when there is no whole request to be had."""
    http = h11.Connection(h11.SERVER)
    head: h11.Request | None = None
    body = b""
    try:
        while len(body) <= MAX_BODY_BYTES:
            match http.next_event():
                case h11.Request() as head:
                    pass
                case h11.Data(data=data):
                    body += bytes(data)
                case h11.EndOfMessage():
                    return Request(http, stream, head, body) if head is not None else None
                case h11.NEED_DATA:
                    http.receive_data(bytes(await stream.receive_some()))
                case _:
                    return None
    except (h11.RemoteProtocolError, trio.BrokenResourceError):
        pass
    return None


Responded = tuple[Message | None, int, Mapping[str, Any]]


def respond(request: Request, fails_with: int = 0) -> Responded:
    """The message that the request sends, if it does; and the answer. ``fails_with`` is a status to refuse it with."""
    if fails_with:
        return None, fails_with, {"code": 20000 + fails_with, "message": "refused", "status": fails_with}
    if match := _TWILIO.fullmatch(request.path):
        return _twilio(request, match[1])
    if match := _VONAGE.fullmatch(request.path):
        return _vonage(request, match[1])
    if match := _TELNYX.fullmatch(request.path):
        return _telnyx(request, match[1])
    if match := _PLIVO.fullmatch(request.path):
        return _plivo(request, match[1])
    return None, 404, {"code": 20404, "title": "Not found", "status": 404}


def _twilio(request: Request, resource: str) -> Responded:
    if not request.headers.get("authorization", "").startswith("Basic "):
        return None, 401, {"code": 20003, "message": "Authenticate", "status": 401}
    if request.method != "POST":
        return None, 405, {"code": 20004, "message": "Method not allowed", "status": 405}
    if resource != "Messages":
        return None, 200, {"sid": resource.removeprefix("Calls/"), "status": "completed"}
    form = {name: values[0] for name, values in parse_qs(request.body.decode("utf-8", "replace")).items()}
    text = form.get("Body", "")
    if form.keys() != {"From", "To", "Body"} or not 0 < len(text) <= MAX_TEXT_CHARS:
        return (
            None,
            400,
            {"code": 21602, "message": "Message body is required, and at most 1600 characters", "status": 400},
        )
    return Message(form["From"], form["To"], text), 201, {"sid": "SM" + "0" * 32, "status": "queued"}


def _vonage(request: Request, resource: str) -> Responded:
    if not request.headers.get("authorization", "").startswith("Bearer "):
        return None, 401, {"title": "Unauthorized"}
    if request.method != ("POST" if resource == "messages" else "PUT"):
        return None, 405, {"title": "Method not allowed"}
    if resource != "messages":
        return None, 204, {}
    try:
        fields = orjson.loads(request.body)
    except ValueError:
        fields = None
    match fields:
        case {"to": str(to), "from": str(sender), "text": str(text), "channel": "sms", "message_type": "text"} if (
            len(fields) == 5
            and _NUMBER.fullmatch(to)
            and _NUMBER.fullmatch(sender)
            and 0 < len(text) <= VONAGE_TEXT_CHARS
        ):
            return Message(sender, to, text), 202, {"message_uuid": "aaaaaaaa-bbbb-4ccc-8ddd-0123456789ab"}
    return None, 422, {"title": "Invalid params"}


def _telnyx(request: Request, resource: str) -> Responded:
    if not request.headers.get("authorization", "").startswith("Bearer "):
        return None, 401, {"errors": [{"code": "10009", "title": "Authentication failed"}]}
    if request.method != "POST":
        return None, 405, {"errors": [{"code": "10004", "title": "Method not allowed"}]}
    if resource != "messages":
        return None, 200, {"data": {"result": "ok"}}
    match _object_in(request.body):
        case {"from": str(sender), "to": str(to), "text": str(text), **rest} if not rest and _fits(to, text):
            return Message(sender, to, text), 200, {"data": {"id": "40385f64-5717-4562-b3fc-2c963f66afa6"}}
    return None, 422, {"errors": [{"code": "10005", "title": "Invalid parameter"}]}


def _plivo(request: Request, resource: str) -> Responded:
    if not request.headers.get("authorization", "").startswith("Basic "):
        return None, 401, {"error": "Could not verify your access level for that URL"}
    if resource != "Message":
        return None, 204, {}
    match _object_in(request.body):
        case {"src": str(sender), "dst": str(to), "text": str(text), "type": "sms"} if _fits(to, text):
            return Message(sender, to, text), 202, {"message_uuid": ["db3ce55a-7f1d-11e1-8ea7-1231380bc196"]}
    return None, 400, {"error": "src, dst and text are needed"}


def _fits(to: str, text: str) -> bool:
    return _NUMBER.fullmatch(to.removeprefix("+")) is not None and 0 < len(text) <= MAX_TEXT_CHARS


def _object_in(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except ValueError:
        return None
