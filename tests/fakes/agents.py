"""Agents made of the fake vendors: over real sockets, over memory streams, and with no sockets at all.

``make_agent`` is for ``factory = "tests.fakes.agents:make_agent"`` in the settings, ``make_memory_agent`` likewise.
"""

from __future__ import annotations

import math
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import httpcore
import httpx
import orjson
import trio
from trio.testing import memory_stream_pair

from engine.dialogue.recollection import recollect
from engine.errors import ModelFailed, SlowPeer, SpeechFailed
from engine.events import (
    AudioFormat,
    CallInfo,
    Context,
    HangUp,
    Heard,
    Message,
    Recollection,
    ReplyPart,
    SessionInfo,
    SpeechStarted,
    SpeechStopped,
    TranscriberEvent,
)
from engine.ports import CallControl, LanguageModel, Mode, Owner, Phrases, ResourceKind, Synthesizer, Transcriber
from engine.runtime.sockets import HandshakeFailed, Socket, SocketLimits, open_socket
from tests.fakes.plain_speech import speak
from tests.fakes.vendors import Behaviour, Recogniser, Vendors, answer_to

VENDOR = "custom"
GREETING = "Hello, this is the test desk."
PIECE_FRAMES = 3
"""Frames of audio in one message to the recogniser."""
MAX_QUEUED_FRAMES = 100
_LIMITS = SocketLimits(unread_s=math.inf)
Connect = Callable[[], trio.abc.Stream]
"""A new stream to the vendors, instead of TCP to their address."""
T = TypeVar("T")

P = TypeVar("P", bound="_MemoryPart")


def make_agent(name: str, options: Mapping[str, object]) -> VendorAgent:
    """``options``: ``url`` of the vendors, such as ``http://127.0.0.1:9001``; ``greeting``."""
    return VendorAgent(name, str(options["url"]), greeting=str(options.get("greeting", GREETING)))


def make_memory_agent(name: str, options: Mapping[str, object]) -> MemoryAgent:
    return MemoryAgent(name, greeting=str(options.get("greeting", GREETING)))


class VendorAgent:
    """Implements ``engine.ports.Agent`` over the vendors' wires."""

    pipeline = "custom"
    mode = Mode.PIPELINE
    transcriber_vendor = synthesizer_vendor = model_vendor = VENDOR

    def __init__(self, name: str, url: str, *, greeting: str = GREETING, connect: Connect | None = None) -> None:
        self.name = name
        self.phrases = Phrases(greeting)
        self._url = url
        self._socket_url = url.replace("http", "ws", 1)
        self._connect = connect
        # One for the process: a context of its own costs each client 40 ms on the loop.
        self._ssl_context = ssl.create_default_context()

    @asynccontextmanager
    async def open_transcriber(self, call: CallInfo, owner: Owner) -> AsyncIterator[Transcriber]:
        query = f"encoding={call.format.encoding}&rate_hz={call.format.rate_hz}"
        try:
            async with open_socket(
                f"{self._socket_url}/recogniser?{query}", limits=_LIMITS, stream=self._new_stream()
            ) as socket:
                ear = SocketTranscriber(socket, call.format)
                failure: Exception | None = None
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ear.write)
                    try:
                        yield ear
                    except Exception as exc:  # noqa: BLE001 - raised again below, in no group
                        failure = exc
                    nursery.cancel_scope.cancel()
                if failure is not None:
                    raise failure
        except HandshakeFailed as exc:
            raise SpeechFailed(VENDOR, str(exc)) from exc

    @asynccontextmanager
    async def open_synthesizer(self, call: CallInfo, owner: Owner) -> AsyncIterator[Synthesizer]:
        transport = httpx.AsyncHTTPTransport(verify=self._ssl_context, trust_env=False)
        if self._connect is not None:
            transport._pool._network_backend = _MemoryNetwork(self._connect)  # there is no public way in
        client = httpx.AsyncClient(transport=transport, trust_env=False, timeout=5.0)
        async with owner.own(ResourceKind.HTTP_CLIENT, VENDOR, client, is_closed=lambda client: client.is_closed):
            yield HttpSynthesizer(client, f"{self._url}/speech", call.format)

    @asynccontextmanager
    async def open_model(
        self, session: SessionInfo, owner: Owner, control: CallControl
    ) -> AsyncIterator[LanguageModel]:
        try:
            async with open_socket(f"{self._socket_url}/model", limits=_LIMITS, stream=self._new_stream()) as socket:
                yield SocketModel(socket)
        except HandshakeFailed as exc:
            raise ModelFailed(VENDOR, str(exc)) from exc

    async def recollect(self, messages: Sequence[Message], before: Recollection, session: SessionInfo) -> Recollection:
        return recollect(messages, before)

    def clip(self, text: str, format: AudioFormat) -> bytes | None:  # noqa: A002 - the field's word
        return None

    def _new_stream(self) -> trio.abc.Stream | None:
        return self._connect() if self._connect is not None else None


class SocketTranscriber:
    """``write`` is its only sender; ``receive`` reads the socket in the task that asks."""

    decides_turns = False

    def __init__(self, socket: Socket, format: AudioFormat) -> None:  # noqa: A002 - the field's word
        self._socket = socket
        self._format = format
        self._queue: deque[bytes] = deque(maxlen=MAX_QUEUED_FRAMES)
        self._enough = trio.Event()
        self._sent_s = 0.0
        self._sent_at_s = trio.current_time()

    @property
    def is_closed(self) -> bool:
        return self._socket.closed

    def send(self, audio: bytes) -> None:
        self._queue.append(audio)
        if sum(map(len, self._queue)) >= PIECE_FRAMES * self._format.frame_bytes:
            self._enough.set()

    async def write(self) -> None:
        try:
            while True:
                await self._enough.wait()
                self._enough = trio.Event()
                piece = b"".join(self._queue)
                self._queue.clear()
                self._sent_s += self._format.duration_s(piece)
                self._sent_at_s = trio.current_time()
                await self._socket.send(piece)
        except (trio.BrokenResourceError, SlowPeer):
            self._socket.abort()  # the reader reports it

    async def receive(self) -> TranscriberEvent:
        while True:
            try:
                event = orjson.loads(await self._socket.receive())
            except trio.EndOfChannel:
                raise SpeechFailed(VENDOR, "the recogniser went away") from None
            match event:
                case {"type": "speech_started", "at_s": float(at_s)}:
                    return SpeechStarted(self._clock(at_s))
                case {"type": "speech_stopped", "at_s": float(at_s)}:
                    return SpeechStopped(self._clock(at_s))
                case {"type": "final", "text": str(text)}:
                    return Heard(text)

    def _clock(self, audio_s: float) -> float:
        """Position in the audio to the engine's clock."""
        return self._sent_at_s - (self._sent_s - audio_s)


class HttpSynthesizer:
    def __init__(self, client: httpx.AsyncClient, url: str, format: AudioFormat) -> None:  # noqa: A002 - the field's word
        self._client = client
        self._url = url
        self._format = format

    @property
    def is_closed(self) -> bool:
        return self._client.is_closed

    @asynccontextmanager
    async def open_speech(self, text: str) -> AsyncIterator[trio.abc.ReceiveChannel[bytes]]:
        request = {"text": text, "encoding": str(self._format.encoding), "rate_hz": self._format.rate_hz}
        try:
            async with self._client.stream("POST", self._url, json=request) as response:
                if response.status_code != 200:
                    raise SpeechFailed(VENDOR, f"HTTP {response.status_code}")
                yield _Pieces(response.aiter_raw(), self._format.frame_bytes)
        except httpx.HTTPError as exc:
            raise SpeechFailed(VENDOR, type(exc).__name__) from exc


class _Pieces(trio.abc.ReceiveChannel[bytes]):
    """Bytes as they come, cut to whole frames."""

    def __init__(self, chunks: AsyncIterator[bytes], frame_bytes: int) -> None:
        self._chunks = chunks
        self._frame_bytes = frame_bytes
        self._rest = b""

    async def receive(self) -> bytes:
        try:
            async for chunk in self._chunks:
                data = self._rest + chunk
                whole = len(data) // self._frame_bytes * self._frame_bytes
                self._rest = data[whole:]
                if whole:
                    return data[:whole]
        except httpx.HTTPError as exc:
            raise SpeechFailed(VENDOR, type(exc).__name__) from exc
        raise trio.EndOfChannel

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class SocketModel:
    """One reply at a time; what comes of an older one is skipped."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self._number = 0

    @property
    def is_closed(self) -> bool:
        return self._socket.closed

    @asynccontextmanager
    async def open_reply(self, context: Context) -> AsyncIterator[trio.abc.ReceiveChannel[ReplyPart]]:
        self._number += 1
        messages = [(str(message.role), message.text) for message in context]
        await self._send({"id": self._number, "messages": messages})
        parts = _Parts(self._socket, self._number)
        try:
            yield parts
        finally:
            if not parts.is_done and not self._socket.closed:
                await self._send({"cancel": self._number})

    async def _send(self, message: Mapping[str, object]) -> None:
        try:
            # Cancelled in mid-write, the socket would be lost to the rest of the call.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                await self._socket.send(orjson.dumps(message).decode())
        except (trio.BrokenResourceError, SlowPeer) as exc:
            raise ModelFailed(VENDOR, "the model went away") from exc


class _Parts(trio.abc.ReceiveChannel[ReplyPart]):
    def __init__(self, socket: Socket, number: int) -> None:
        self.is_done = False
        self._socket = socket
        self._number = number

    async def receive(self) -> ReplyPart:
        while not self.is_done:
            try:
                message = orjson.loads(await self._socket.receive())
            except trio.EndOfChannel:
                raise ModelFailed(VENDOR, "the model went away") from None
            match message:
                case {"id": number} if number != self._number:
                    continue
                case {"text": str(text)}:
                    return text
                case {"hang_up": True}:
                    return HangUp()
                case {"done": True}:
                    self.is_done = True
        raise trio.EndOfChannel

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


# --- over memory streams ------------------------------------------------------------------------------------


def connector(vendors: Vendors, nursery: trio.Nursery) -> Connect:
    """Streams to vendors in the same process: no network, virtual time. ``nursery`` runs the vendors' ends."""

    def connect() -> trio.abc.Stream:
        near, far = memory_stream_pair()
        nursery.start_soon(vendors.serve, far)
        return near

    return connect


class _MemoryNetwork(httpcore.AsyncNetworkBackend):
    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    async def connect_tcp(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        await trio.lowlevel.checkpoint()
        return _MemoryNetworkStream(self._connect())

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


class _MemoryNetworkStream(httpcore.AsyncNetworkStream):
    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with trio.move_on_after(math.inf if timeout is None else timeout):
            try:
                return bytes(await self._stream.receive_some(max_bytes))
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                raise httpcore.ReadError from exc
        raise httpcore.ReadTimeout

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with trio.move_on_after(math.inf if timeout is None else timeout):
            try:
                await self._stream.send_all(buffer)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                raise httpcore.WriteError from exc
            return
        raise httpcore.WriteTimeout

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        return False if info == "is_readable" else None


# --- without sockets ----------------------------------------------------------------------------------------


class MemoryAgent:
    """Implements ``engine.ports.Agent`` by computing at once what the vendors would say: as few task steps as there can
    be, and the same ones each time. ``open_parts`` counts what is open."""

    pipeline = "custom"
    mode = Mode.PIPELINE
    transcriber_vendor = synthesizer_vendor = model_vendor = VENDOR

    def __init__(self, name: str = "desk", *, greeting: str = GREETING, behaviour: Behaviour | None = None) -> None:
        self.name = name
        self.phrases = Phrases(greeting)
        self.open_parts = 0
        self._behaviour = behaviour or Behaviour()

    def open_transcriber(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Transcriber]:
        return self._part(MemoryTranscriber(call.format, self._behaviour))

    def open_synthesizer(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Synthesizer]:
        return self._part(MemorySynthesizer(call.format, self._behaviour))

    def open_model(
        self, session: SessionInfo, owner: Owner, control: CallControl
    ) -> AbstractAsyncContextManager[LanguageModel]:
        return self._part(MemoryModel(self._behaviour))

    async def recollect(self, messages: Sequence[Message], before: Recollection, session: SessionInfo) -> Recollection:
        return recollect(messages, before)

    def clip(self, text: str, format: AudioFormat) -> bytes | None:  # noqa: A002 - the field's word
        return None

    @asynccontextmanager
    async def _part(self, part: P) -> AsyncIterator[P]:
        await trio.lowlevel.checkpoint()
        self.open_parts += 1
        try:
            yield part
            await trio.lowlevel.checkpoint()
        finally:
            self.open_parts -= 1
            part.is_closed = True


class _MemoryPart:
    is_closed = False


class MemoryTranscriber(_MemoryPart):
    decides_turns = False

    def __init__(self, format: AudioFormat, behaviour: Behaviour) -> None:  # noqa: A002 - the field's word
        self._recogniser = Recogniser(format, behaviour)
        self._format = format
        self._heard_s = 0.0
        # Events are few; a call that does not take them is broken, and then the test must fail.
        self._events, self._receive = trio.open_memory_channel[TranscriberEvent](100)

    def send(self, audio: bytes) -> None:
        self._heard_s += self._format.duration_s(audio)
        began_s = trio.current_time() - self._heard_s
        for event in self._recogniser.feed(audio):
            match event:
                case {"type": "speech_started", "at_s": float(at_s)}:
                    self._events.send_nowait(SpeechStarted(began_s + at_s))
                case {"type": "speech_stopped", "at_s": float(at_s)}:
                    self._events.send_nowait(SpeechStopped(began_s + at_s))
                case {"text": str(text)}:
                    self._events.send_nowait(Heard(text))

    async def receive(self) -> TranscriberEvent:
        return await self._receive.receive()


class MemorySynthesizer(_MemoryPart):
    def __init__(self, format: AudioFormat, behaviour: Behaviour) -> None:  # noqa: A002 - the field's word
        self._format = format
        self._behaviour = behaviour

    @asynccontextmanager
    async def open_speech(self, text: str) -> AsyncIterator[trio.abc.ReceiveChannel[bytes]]:
        await trio.sleep(self._behaviour.first_audio_s)
        yield _ready([speak(text, self._format, chars_per_s=self._behaviour.chars_per_s)])


class MemoryModel(_MemoryPart):
    """``contexts`` are those it was shown."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.contexts: list[Sequence[Message]] = []
        self._behaviour = behaviour

    @asynccontextmanager
    async def open_reply(self, context: Context) -> AsyncIterator[trio.abc.ReceiveChannel[ReplyPart]]:
        self.contexts.append(tuple(context))
        await trio.sleep(self._behaviour.first_token_s)
        pieces = answer_to([(str(message.role), message.text) for message in context])
        yield _ready([piece or HangUp() for piece in pieces])


def _ready(items: Sequence[T]) -> trio.abc.ReceiveChannel[T]:
    """A channel with all of its items in it, closed behind them."""
    send, receive = trio.open_memory_channel[T](len(items))
    for item in items:
        send.send_nowait(item)
    send.close()
    return receive
