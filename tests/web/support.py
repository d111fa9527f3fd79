"""A switchboard and a provider small enough to read, real enough to keep the ports' rules; and a front around them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Self, TypedDict, Unpack

import h11
import httpx
import orjson
import trio
from trio.testing import memory_stream_pair

from engine.errors import BadRequest, BadSignature
from engine.observe.metrics import Metrics
from engine.ports import (
    Ability,
    Answer,
    CallStatus,
    Codec,
    Dial,
    IncomingCall,
    IncomingText,
    Provider,
    Relay,
    TextCodec,
    WarmTransfer,
    WebhookKind,
    WebhookRequest,
)
from engine.runtime.sockets import DEFAULT_LIMITS, Socket, SocketLimits
from engine.web.app import build_app, media_handlers
from engine.web.calls import CallDesk
from engine.web.desk import Desk
from engine.web.door import Door
from engine.web.gate import Access
from engine.web.limits import DoorLimits
from engine.web.texts import TextDesk
from engine.web.urls import PublicUrl
from tests.fakes.hostile import RawPeer
from tests.fakes.samples import sample

START_S = 5.0
KEY = "key-of-somebody-for-all"
KEYS = f"all:turn+history+admin+privacy+metrics+calls:{KEY}"


@dataclass(frozen=True)
class Refused:
    reason: str
    sentence: str = "All our lines are busy."


@dataclass
class FakeSwitchboard:
    """Admits up to its capacity; a media socket's first message must be a token it gave, then it echoes."""

    capacity: int = 4
    draining: bool = False
    refusal: Refused | None = None
    stalls: bool = False
    fails: Exception | None = None
    lacks: list[str] = field(default_factory=list)
    is_relayed: bool = False
    tokens: dict[str, str] = field(default_factory=dict)
    live: list[str] = field(default_factory=list)
    over: list[tuple[str, str]] = field(default_factory=list)

    @property
    def ready(self) -> tuple[bool, str]:
        return (False, "draining") if self.draining else (True, "")

    def live_calls(self) -> list[str]:
        return list(self.live)

    async def admit(self, provider: str, call: IncomingCall, replay_key: str) -> str | Refused:
        if self.fails is not None:
            raise self.fails
        if self.stalls:
            await trio.sleep_forever()
        if self.refusal is not None:
            return self.refusal
        return self.tokens.setdefault(replay_key, f"token-{len(self.tokens)}")

    async def serve(self, provider: Provider, socket: Socket) -> None:
        with trio.move_on_after(START_S) as starting:
            try:
                first = await socket.receive()
            except trio.EndOfChannel:
                return
        if starting.cancelled_caught or first not in self.tokens.values():
            await socket.aclose(1008, "no start")
            return
        assert isinstance(first, str)
        self.live.append(first)
        try:
            while True:
                await socket.send(await socket.receive())
        except (trio.EndOfChannel, trio.BrokenResourceError):
            pass
        finally:
            self.live.remove(first)

    async def serve_relay(self, provider: Provider, relay: Relay, socket: Socket) -> None:
        await self.serve(provider, socket)

    def preface(self, call: IncomingCall) -> str:
        return ""

    def wants_relay(self, call: IncomingCall) -> bool:
        return self.is_relayed

    def recognise(self, provider: str, call: IncomingCall, token: str) -> IncomingCall | None:
        return replace(call, dial=token) if token == "ours" else None

    def whisper(self, provider: str, call_id: str) -> str:
        return f"Somebody asks about {call_id}."

    def call_has_news(self, provider: str, status: CallStatus, token: str) -> None:
        if status.is_over:
            self.over.append((provider, status.call_id))


class FakeRelay:
    media_path = "/media/twilio-relay"

    def connect(self, call: IncomingCall, media_url: str, token: str) -> Answer:
        return Answer(orjson.dumps({"relay": media_url, "token": token}), "application/json")

    def new_codec(self) -> TextCodec:
        raise NotImplementedError


class FakeProvider:
    """Signs with a header that repeats the URL; calls and texts carry their id in a JSON body."""

    name = "twilio"
    media_path = "/media/twilio"
    webhooks: Mapping[str, tuple[WebhookKind, frozenset[str]]] = {
        "/voice": (WebhookKind.CALL, frozenset({"POST"})),
        "/twilio/status": (WebhookKind.STATUS, frozenset({"POST"})),
        "/sms": (WebhookKind.TEXT, frozenset({"POST"})),
    }

    def __init__(
        self, *, answers_texts: bool = True, can_send_text: bool = True, relay: FakeRelay | None = None
    ) -> None:
        self.answers_texts = answers_texts
        self.relay: Relay | None = relay
        self.abilities = frozenset({Ability.SEND_TEXT} if can_send_text else ())
        self.sent: list[tuple[str, str, str]] = []
        """Texts that went over REST: from, to, text."""

    @property
    def control(self) -> Self:
        return self

    def whispered_of(self, request: WebhookRequest) -> str:
        return self._call_id(request)

    def whisper(self, text: str) -> Answer:
        return Answer(orjson.dumps({"whisper": text}), "application/json")

    async def introduce(self, call_id: str, wanted: WarmTransfer, client: httpx.AsyncClient) -> None:
        raise NotImplementedError

    def dismiss(self) -> Answer:
        return Answer(orjson.dumps({"end": True}), "application/json")

    def verify(self, request: WebhookRequest) -> str:
        signature = request.headers.get("x-signature")
        if signature is None:
            raise BadSignature("missing")
        if signature != request.url:
            raise BadSignature("mismatch")
        return signature + request.body.decode("latin-1")

    def read_call(self, request: WebhookRequest) -> IncomingCall:
        return IncomingCall(self._call_id(request), "+15550001111", "+15550002222")

    def read_status(self, request: WebhookRequest) -> CallStatus | None:
        return CallStatus(self._call_id(request), "completed", is_over=True)

    def connect(self, call: IncomingCall, media_url: str, token: str) -> Answer:
        return Answer(orjson.dumps({"connect": media_url, "token": token}), "application/json")

    def refuse(self, sentence: str) -> Answer:
        return Answer(orjson.dumps({"say": sentence}), "application/json")

    def acknowledge(self, request: WebhookRequest) -> Answer:
        return Answer(b"", "text/plain", 204)

    def read_text(self, request: WebhookRequest) -> IncomingText | None:
        """None for a text whose field ``part`` is true."""
        text_id, fields = self._call_id(request), orjson.loads(request.body)
        if fields.get("part"):
            return None
        return IncomingText(text_id, fields.get("from", "+15550001111"), "+15550002222", fields.get("text", ""))

    def answer_text(self, text: str) -> Answer:
        return Answer(orjson.dumps({"text": text}), "application/json")

    async def send_text(self, sender: str, recipient: str, text: str, client: httpx.AsyncClient) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append((sender, recipient, text))

    def new_codec(self) -> Codec:
        raise NotImplementedError

    async def hang_up(self, call_id: str, client: httpx.AsyncClient) -> None:
        raise NotImplementedError

    async def transfer(self, call_id: str, to: str, sender: str, client: httpx.AsyncClient) -> None:
        raise NotImplementedError

    async def press(self, call_id: str, digits: str, client: httpx.AsyncClient) -> None:
        raise NotImplementedError

    async def dial(self, call: Dial, client: httpx.AsyncClient) -> str:
        raise NotImplementedError

    @staticmethod
    def _call_id(request: WebhookRequest) -> str:
        try:
            call_id = orjson.loads(request.body)["id"]
        except (ValueError, KeyError, TypeError):
            raise BadRequest("id: missing") from None
        if not isinstance(call_id, str):
            raise BadRequest("id: not a string")
        return call_id


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> object:
        return orjson.loads(self.body)

    @property
    def code(self) -> str:
        """Of an error."""
        return str(orjson.loads(self.body)["error"]["code"])


class Front:
    """A door on memory streams, and what it takes to knock."""

    def __init__(self, door: Door, switchboard: FakeSwitchboard, metrics: Metrics, nursery: trio.Nursery) -> None:
        self.door = door
        self.switchboard = switchboard
        self.metrics = metrics
        self._nursery = nursery

    def connect(self) -> trio.StapledStream[trio.abc.SendStream, trio.abc.ReceiveStream]:
        near, far = memory_stream_pair()
        self._nursery.start_soon(self.door.handle, near)
        return far  # type: ignore[return-value]  # the pair's halves are these

    async def dial(self, path: str = "/media/twilio") -> RawPeer:
        peer = RawPeer(self.connect())
        await peer.upgrade(path)
        return peer

    async def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        async with self.connect() as stream:
            return await ask(stream, method, path, body, headers)

    async def api(self, method: str, path: str, value: object = None, key: str = KEY, **headers: str) -> Reply:
        """With a key, and JSON if there is a value."""
        body = b"" if value is None else orjson.dumps(value)
        kind = {"content-type": "application/json"} if body else {}
        return await self.ask(method, path, body, {"authorization": f"Bearer {key}" if key else "", **kind, **headers})

    async def webhook(self, path: str, body: bytes, **headers: str) -> Reply:
        """Signed."""
        return await self.ask("POST", path, body, {"x-signature": f"http://localhost{path}", **headers})

    def count(self, name: str, **labels: str) -> float:
        return sample(self.metrics.registry, name, **labels)


async def ask(
    stream: trio.abc.Stream, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> Reply:
    """One request over an open stream, which stays open."""
    http = h11.Connection(h11.CLIENT)
    sent = {"host": "localhost", "content-length": str(len(body)), **(headers or {})}
    request = h11.Request(method=method, target=path, headers=[(k, v) for k, v in sent.items() if v])
    await stream.send_all(
        (http.send(request) or b"") + (http.send(h11.Data(data=body)) or b"") + (http.send(h11.EndOfMessage()) or b"")
    )
    return await read_reply(stream, http)


async def read_reply(stream: trio.abc.Stream, http: h11.Connection) -> Reply:
    reply = Reply(0, {}, b"")
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(bytes(await stream.receive_some(65536)))
        elif isinstance(event, h11.Response):
            reply.status = event.status_code
            reply.headers = {name.decode(): value.decode() for name, value in event.headers}
        elif isinstance(event, h11.Data):
            reply.body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return reply
        elif not isinstance(event, h11.InformationalResponse):
            raise EOFError


async def raw(stream: trio.abc.Stream, *data: bytes) -> bytes:
    """Send bytes as they are; all that comes back until the end."""
    answer = b""
    try:
        for piece in data:
            await stream.send_all(piece)
        while more := await stream.receive_some(65536):
            answer += more
    except trio.BrokenResourceError:
        pass
    return answer


def build_door(
    switchboard: FakeSwitchboard,
    metrics: Metrics,
    limits: DoorLimits | None = None,
    urls: PublicUrl | None = None,
    socket_limits: SocketLimits = DEFAULT_LIMITS,
    **parts: Unpack[Parts],
) -> Door:
    providers = [parts.pop("provider", FakeProvider())]
    app = build_app(
        switchboard,
        providers,
        metrics,
        urls or PublicUrl(),
        closed_routes={"/vonage/answer": "Set OFFHOOK_VONAGE_SIGNATURE_SECRET."},
        version="1.2.3",
        **parts,  # type: ignore[misc]  # the provider is out of it
    )
    return Door(
        app,
        media_handlers(switchboard, providers),
        metrics,
        limits,
        live_calls=lambda: len(switchboard.live),
        socket_limits=socket_limits,
    )


class Parts(TypedDict, total=False):
    """What else an application is built of."""

    provider: FakeProvider
    desk: Desk
    access: Access
    texts: TextDesk
    calls: CallDesk
    turn_s: float


@asynccontextmanager
async def front(
    switchboard: FakeSwitchboard | None = None,
    limits: DoorLimits | None = None,
    urls: PublicUrl | None = None,
    metrics: Metrics | None = None,
    **parts: Unpack[Parts],
) -> AsyncIterator[Front]:
    switchboard = switchboard or FakeSwitchboard()
    metrics = metrics or Metrics()
    async with trio.open_nursery() as nursery:
        yield Front(build_door(switchboard, metrics, limits, urls, **parts), switchboard, metrics, nursery)
        nursery.cancel_scope.cancel()
