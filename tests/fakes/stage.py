"""A stage for calls: the real supervisor, link and sockets over memory streams, with a Twilio caller at the far end."""

from __future__ import annotations

import base64
import contextvars
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import httpx
import orjson
import trio
from trio.testing import memory_stream_pair

from adapters.providers.link import open_link
from adapters.providers.twilio.provider import TwilioConfig, TwilioProvider
from engine.calls.call import Surroundings
from engine.calls.registry import Registry
from engine.calls.supervisor import Supervisor
from engine.events import MULAW_8K, CallInfo
from engine.observe.metrics import Metrics
from engine.observe.timeline import Moment, What
from engine.ports import Agent, IncomingCall
from engine.runtime.sockets import Socket, accept_socket, open_socket
from engine.runtime.ticker import Ticker
from engine.sessions.call_session import CallSession, open_lone_session
from engine.settings import AgentSettings, Limits, Settings
from tests.fakes.hostile import read_head
from tests.fakes.samples import sample

SILENCE = base64.b64encode(MULAW_8K.silence(0.02)).decode()
_numbers = itertools.count(1)


@dataclass(eq=False)
class Caller:
    """The provider's end of one call. It plays what it is sent at the line's speed, and echoes marks as Twilio does."""

    socket: Socket
    call_id: str
    stream_id: str
    heard_s: float = 0.0
    """Seconds of audio played to the ear."""
    clears: list[float] = field(default_factory=list)
    """When the engine cleared the line."""
    echo_after_s: float = 0.0
    """How much later than due the marks come back."""
    gone: trio.Event = field(default_factory=trio.Event)
    """The engine has closed the socket."""
    _sequence: int = 0
    _plays_until_s: float = 0.0
    _frames: int = 0

    async def send(self, event: str, **fields: Any) -> None:
        self._sequence += 1
        message = {"event": event, "sequenceNumber": str(self._sequence), "streamSid": self.stream_id, **fields}
        await self.socket.send(orjson.dumps(message).decode())

    async def start(self, token: str) -> None:
        await self.socket.send('{"event":"connected","protocol":"Call","version":"1.0.0"}')
        start = {
            "accountSid": "AC" + "0" * 32,
            "streamSid": self.stream_id,
            "callSid": self.call_id,
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": {"token": token},
        }
        await self.send("start", start=start)

    async def frames(self, count: int = 1, *, payload: str = SILENCE) -> None:
        """So many frames of 20 ms, at the line's speed."""
        for _ in range(count):
            self._frames += 1
            media = {
                "track": "inbound",
                "chunk": str(self._frames),
                "timestamp": str(self._frames * 20),
                "payload": payload,
            }
            await self.send("media", media=media)
            await trio.sleep(0.02)

    async def press(self, digit: str) -> None:
        await self.send("dtmf", dtmf={"track": "inbound_track", "digit": digit})

    async def hang_up(self) -> None:
        await self.send("stop", stop={"accountSid": "AC" + "0" * 32, "callSid": self.call_id})

    def drop(self) -> None:
        """The connection breaks."""
        self.socket.abort()

    async def listen(self) -> None:
        """Play what comes; until the socket is gone."""
        async with trio.open_nursery() as nursery:
            try:
                while True:
                    self._take(orjson.loads(await self.socket.receive()), nursery)
            except trio.EndOfChannel:
                self.gone.set()
                nursery.cancel_scope.cancel()

    def _take(self, message: dict[str, Any], nursery: trio.Nursery) -> None:
        now = trio.current_time()
        match message:
            case {"event": "media", "media": {"payload": payload}}:
                seconds = MULAW_8K.duration_s(base64.b64decode(payload))
                self._plays_until_s = max(self._plays_until_s, now) + seconds
                self.heard_s += seconds
            case {"event": "mark", "mark": {"name": name}}:
                nursery.start_soon(self._echo, name, self._plays_until_s)
            case {"event": "clear"}:
                self.clears.append(now)
                self.heard_s -= max(0.0, self._plays_until_s - now)
                self._plays_until_s = now
            case _:
                raise AssertionError(f"Twilio knows no such message: {message}")

    async def _echo(self, name: str, at_s: float) -> None:
        await trio.sleep_until(at_s + self.echo_after_s)
        with suppress(trio.BrokenResourceError):
            await self.send("mark", mark={"name": name})


@dataclass(eq=False)
class Stage:
    """Everything a call meets, without ports and processes."""

    supervisor: Supervisor
    metrics: Metrics
    moments: list[Moment]
    nursery: trio.Nursery
    accepted: list[Socket] = field(default_factory=list)
    """Our end of every media socket there was."""
    escaped: list[Exception] = field(default_factory=list)
    """What calls let out; the door would have to catch it."""
    serve_in: contextvars.Context = field(default_factory=contextvars.copy_context)
    """The context of the tasks that serve the next socket; a simulation marks the call that it disturbs."""
    provider: TwilioProvider = field(default_factory=lambda: TwilioProvider(TwilioConfig(auth_token="secret")))

    def texts(self, what: What) -> list[str]:
        return [str(moment.fields["text"]) for moment in self.moments if moment.what is what]

    def last(self, what: What) -> Mapping[str, object]:
        return next(moment.fields for moment in reversed(self.moments) if moment.what is what)

    def at(self, what: What) -> float:
        """When it happened last."""
        return next(moment.at_s for moment in reversed(self.moments) if moment.what is what)

    def count(self, what: What) -> int:
        return sum(moment.what is what for moment in self.moments)

    def value(self, name: str, **labels: str) -> float:
        return sample(self.metrics.registry, name, **labels)

    async def _released(self, call_id: str) -> None:
        while not any(moment.call_id == call_id and moment.what is What.CALL_RELEASED for moment in self.moments):  # noqa: ASYNC110
            await trio.sleep(0.01)

    async def over(self, caller: Caller) -> None:
        """Until the engine has ended the call and nothing of it is left."""
        await caller.gone.wait()
        await self.supervisor.registry.wait_empty()

    async def token(self, call_id: str, *, caller: str = "+15550100001") -> str:
        token = await self.supervisor.admit("twilio", IncomingCall(call_id, caller, "+15550100000"))
        assert isinstance(token, str), token
        return token

    @asynccontextmanager
    async def socket(self, *, is_relay: bool = False) -> AsyncIterator[Socket]:
        """A media socket whose other end is being served. ``is_relay``: it carries text."""
        near, far = memory_stream_pair()

        async def serve() -> None:
            try:
                head, rest = await read_head(near)
                async with accept_socket(near, head=head, rest=rest) as accepted:
                    self.accepted.append(accepted)
                    if is_relay:
                        assert self.provider.relay is not None
                        await self.supervisor.serve_relay(self.provider, self.provider.relay, accepted)
                    else:
                        await self.supervisor.serve(self.provider, accepted)
            except Exception as exc:  # noqa: BLE001 - the edge of one connection, the door in life
                self.escaped.append(exc)

        self.serve_in.run(self.nursery.start_soon, serve)
        async with open_socket("ws://stage/media/twilio", stream=far) as socket:
            yield socket

    @asynccontextmanager
    async def call(self, call_id: str = "", *, sends_audio: bool = True) -> AsyncIterator[Caller]:
        """An admitted call whose caller is silent until told otherwise; it hangs up at the end of the block."""
        number = next(_numbers)
        call_id = call_id or f"CA{number:032x}"
        async with self.socket() as socket, trio.open_nursery() as nursery:
            caller = Caller(socket, call_id, f"MZ{number:032x}")
            nursery.start_soon(caller.listen)
            await caller.start(await self.token(call_id))
            if sends_audio:
                nursery.start_soon(self._keep_the_line_open, caller)
            yield caller
            if not caller.gone.is_set():
                with suppress(trio.BrokenResourceError):
                    await caller.hang_up()
                await self._released(call_id)
            nursery.cancel_scope.cancel()

    async def _keep_the_line_open(self, caller: Caller) -> None:
        """A frame a second stands for the fifty a second of a silent caller."""
        with suppress(trio.BrokenResourceError):
            while True:
                await caller.frames()
                await trio.sleep(0.98)


@asynccontextmanager
async def stage(
    *agents: Agent,
    max_calls: int = 10,
    metrics: Metrics | None = None,
    lines: Mapping[str, str] | None = None,
    provider: TwilioProvider | None = None,
    new_http_client: Callable[[], httpx.AsyncClient] = httpx.AsyncClient,
    open_session: Callable[[CallInfo, Metrics], AbstractAsyncContextManager[CallSession]] = open_lone_session,
    agent_settings: AgentSettings | None = None,
    **limits: Any,
) -> AsyncIterator[Stage]:
    """The first agent answers what ``lines`` (dialled number to name) does not send to another."""
    settings = Settings(
        limits=replace(Limits(), max_calls=max_calls, **limits),
        agents={agent.name: agent_settings or AgentSettings() for agent in agents},
        lines=lines or {},
    )
    metrics = metrics or Metrics()
    registry = Registry(capacity=max_calls, metrics=metrics)
    ticker = Ticker()
    moments: list[Moment] = []

    around = Surroundings(
        settings.limits,
        metrics,
        partial(open_link, ticker=ticker),
        new_http_client,
        [moments.append],
        open_session=open_session,
    )
    supervisor = Supervisor(registry, {agent.name: agent for agent in agents}, settings, around)
    supervisor.is_started = True
    async with trio.open_nursery() as actors:
        actors.start_soon(registry.run)
        actors.start_soon(ticker.run)
        async with trio.open_nursery() as calls:
            on = Stage(supervisor, metrics, moments, calls)
            if provider is not None:
                on.provider = provider
            yield on
            await registry.wait_empty()
            calls.cancel_scope.cancel()
        actors.cancel_scope.cancel()
