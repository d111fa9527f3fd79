"""HTTP/1.1 over h11: one request read whole, within limits, and answered by an ASGI application."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote

import h11
import trio
from starlette.types import ASGIApp, Message, Scope

from engine.runtime.wire import PIECE_BYTES
from engine.web.answers import JSON, error_body
from engine.web.limits import DoorLimits

Headers = Sequence[tuple[bytes, bytes]]

_TARGET = re.compile(rb"/[\x21-\x7e]*")


class Refused(Exception):
    """The request is answered with this status, and the connection closed. Nothing reached the application."""

    def __init__(self, status: int, message: str = "", headers: Headers = ()) -> None:
        super().__init__(status)
        self.status = status
        self.message = message
        self.headers = headers


class Gone(Exception):
    """The peer left, or was too slow to be told anything. ``is_late``: it was the slowness."""

    def __init__(self, *, is_late: bool = False) -> None:
        super().__init__()
        self.is_late = is_late


class HttpConnection:
    """The HTTP side of one connection. The stream is the caller's to close."""

    def __init__(self, stream: trio.abc.Stream, limits: DoorLimits, client: tuple[str, int], server: tuple[str, int]):
        self._stream = stream
        self._limits = limits
        self._client = client
        self._server = server
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)
        self._is_first = True
        self._is_head = False

    # --- reading ---

    async def read_head(self) -> h11.Request | None:
        """The next request's head; None when the peer is done. Raises Refused and Gone."""
        limits = self._limits
        if not self._is_first and not self._http.trailing_data[0]:
            with trio.move_on_after(limits.idle_s) as idling:
                if not await self._feed():
                    return None
            if idling.cancelled_caught:
                return None
        with trio.move_on_after(limits.head_s):
            while True:
                event = self._next_event()
                if isinstance(event, h11.Request):
                    self._is_first = False
                    return self._checked(event)
                if event is not h11.NEED_DATA:  # ConnectionClosed
                    return None
                await self._feed()
        raise Gone(is_late=True)

    def rest(self) -> bytes:
        """What was read past the head of an upgrade."""
        return self._http.trailing_data[0]

    def _next_event(self) -> object:
        try:
            return self._http.next_event()
        except h11.RemoteProtocolError as exc:
            # Reading a head that broke off is the peer leaving, not a request.
            if self._http.trailing_data[1]:
                raise Gone from None
            raise Refused(exc.error_status_hint) from None

    async def _feed(self) -> bool:
        try:
            data = bytes(await self._stream.receive_some(PIECE_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise Gone from None
        self._http.receive_data(data)
        return bool(data)

    def _checked(self, request: h11.Request) -> h11.Request:
        self._is_head = request.method == b"HEAD"
        names = [name for name, _ in request.headers]
        # h11 counts only what is incomplete after a read.
        size = len(request.target) + sum(len(name) + len(value) for name, value in request.headers)
        if len(names) > self._limits.headers or size > self._limits.head_bytes:
            raise Refused(431)
        if b"content-length" in names and b"transfer-encoding" in names:
            raise Refused(400, "Content-Length and Transfer-Encoding exclude each other.")
        if not _TARGET.fullmatch(request.target):
            raise Refused(400, "The request target is not a path.")
        return request

    async def _read_body(self, request: h11.Request) -> bytes:
        limits = self._limits
        if header(request, b"content-encoding").lower() not in (b"", b"identity"):
            raise Refused(415)
        length = header(request, b"content-length")
        if length and int(length) > limits.body_bytes:
            raise Refused(413)
        if self._http.they_are_waiting_for_100_continue:
            await self._write(self._http.send(h11.InformationalResponse(status_code=100, headers=[])))
        body = bytearray()
        with trio.move_on_after(limits.body_s):
            while True:
                event = self._next_event()
                if isinstance(event, h11.Data):
                    body += event.data
                    if len(body) > limits.body_bytes:
                        raise Refused(413)
                elif isinstance(event, h11.EndOfMessage):
                    return bytes(body)
                elif event is h11.NEED_DATA:
                    await self._feed()
                else:
                    raise Gone
        raise Refused(408)

    # --- answering ---

    async def answer(self, request: h11.Request, app: ASGIApp) -> bool:
        """Let the application answer; whether the connection can take another request. Raises Refused and Gone."""
        body = await self._read_body(request)
        answering = _Answering(self, request, body)
        with trio.move_on_after(self._limits.answer_s) as waiting:
            await app(self._scope(request), answering.receive, answering.send)
        if waiting.cancelled_caught and not answering.has_begun:
            raise Refused(503)
        if not answering.is_complete:
            raise Gone
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def refuse(self, refused: Refused) -> None:
        """Answer with the error; the connection is of no use after that. Raises Gone."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        body = error_body(refused.status, refused.message)
        headers = [
            (b"content-type", JSON.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *refused.headers,
        ]
        data = self._http.send(h11.Response(status_code=refused.status, headers=headers)) or b""
        if not self._is_head:
            data += self._http.send(h11.Data(data=body)) or b""
        await self._write(data)

    async def _write(self, data: bytes | None) -> None:
        """Raises Gone when the peer does not read."""
        for at in range(0, len(data or b""), PIECE_BYTES):
            with trio.move_on_after(self._limits.write_s) as waiting:
                try:
                    await self._stream.send_all((data or b"")[at : at + PIECE_BYTES])
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    raise Gone from None
            if waiting.cancelled_caught:
                raise Gone(is_late=True)

    def _scope(self, request: h11.Request) -> Scope:
        path, _, query = request.target.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": request.http_version.decode(),
            "method": request.method.decode(),
            "scheme": "http",
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": [(bytes(name), bytes(value)) for name, value in request.headers],
            "client": self._client,
            "server": self._server,
            "state": {},
        }


class _Answering:
    """``receive`` and ``send`` of one request."""

    def __init__(self, connection: HttpConnection, request: h11.Request, body: bytes) -> None:
        self.has_begun = False
        self.is_complete = False
        self._connection = connection
        self._body: bytes | None = body
        self._sends_body = request.method != b"HEAD"
        self._held = b""  # the head, to leave in one write with what follows it

    async def receive(self) -> Message:
        if self._body is None:
            await trio.sleep_forever()  # until the answer is complete; a peer that leaves is seen by the write
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Message) -> None:
        http = self._connection._http
        if message["type"] == "http.response.start":
            self.has_begun = True
            headers = list(message.get("headers", ()))
            self._held = http.send(h11.Response(status_code=message["status"], headers=headers)) or b""
            return
        if message["type"] != "http.response.body":
            raise RuntimeError("unexpected ASGI message")
        body = message.get("body", b"")
        data, self._held = self._held, b""
        if body and self._sends_body:
            data += http.send(h11.Data(data=body)) or b""
        if not message.get("more_body", False):
            data += http.send(h11.EndOfMessage()) or b""
        await self._connection._write(data)
        if not message.get("more_body", False):
            self.is_complete = True


def header(request: h11.Request, name: bytes) -> bytes:
    """The first header of this name, or empty."""
    return next((bytes(value) for key, value in request.headers if key == name), b"")
