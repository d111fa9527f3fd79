"""Cheap fake vendors on one port: a recogniser and a language model over WebSocket, a synthesizer over HTTP.

``python -m tests.fakes.vendors --port 0`` runs them in a process of their own and prints ``ready PORT``; tests run
:class:`Vendors` in a nursery, on TCP or on memory streams. They understand and speak plain speech.

* ``/recogniser?encoding=mulaw&rate_hz=8000``: binary audio in; JSON out: ``speech_started`` and ``speech_stopped`` with
  ``at_s`` (seconds of audio), ``final`` with ``text``.
* ``/model``: ``{"id", "messages": [[role, text], ...]}`` or ``{"cancel": id}`` in; ``{"id", "text"}`` pieces, perhaps
  ``{"id", "hang_up": true}``, then ``{"id", "done": true}`` out.
* ``POST /speech`` ``{"text", "encoding", "rate_hz"}``: the audio, streamed.
* ``GET /counts``: what is open now, and what ever was.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from urllib.parse import parse_qs, urlsplit

import orjson
import trio

from engine.audio.levels import is_silent
from engine.errors import SlowPeer
from engine.events import FRAME_S, AudioFormat, Encoding
from engine.runtime.sockets import HandshakeFailed, Socket, accept_socket
from engine.runtime.wire import close_stream
from tests.fakes.hostile import read_head
from tests.fakes.plain_speech import CHARS_PER_S, Reader, is_speech, speak

PIECE_S = 0.4
"""Of audio in one chunk of the synthesizer's answer."""
STORY = " ".join(f"This is sentence number {number} of the story." for number in range(1, 9))


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How long the vendors take, in seconds. Times of the recogniser are seconds of audio."""

    onset_s: float = 0.3
    """Sound that the recogniser needs to be sure of speech."""
    endpoint_s: float = 0.2
    """Silence after which it says that speech has stopped."""
    final_s: float = 0.05
    """And then the words."""
    first_token_s: float = 0.1
    first_audio_s: float = 0.05
    chars_per_s: float = CHARS_PER_S


class Recogniser:
    """Hears plain speech in a stream of audio, by the clock of that audio. Pure."""

    def __init__(self, format: AudioFormat, behaviour: Behaviour) -> None:  # noqa: A002 - the field's word
        self._format = format
        self._silence = format.silence(FRAME_S)
        self._onset = max(1, round(behaviour.onset_s / FRAME_S))
        self._endpoint = max(1, round(behaviour.endpoint_s / FRAME_S))
        self._final = self._endpoint + round(behaviour.final_s / FRAME_S)
        self._rest = b""
        self._frames = 0  # heard so far
        self._began = 0  # number of the segment's first frame
        self._quiet = 0  # frames of silence since the last sound; 0 outside of a segment
        self._voiced = 0
        self._started = False
        self._stopped = False
        self._reader = Reader(format)

    def feed(self, audio: bytes) -> list[dict[str, object]]:
        """What the audio makes it say."""
        audio = self._rest + audio
        size = self._format.frame_bytes
        whole = len(audio) // size * size
        self._rest = audio[whole:]
        events: list[dict[str, object]] = []
        for at in range(0, whole, size):
            frame = audio[at : at + size]
            if frame == self._silence or (not is_speech(frame) and is_silent(frame, self._format)):
                if self._voiced:
                    self._hear_silence(events)
            else:
                self._hear_sound(frame, events)
            self._frames += 1
        return events

    def _hear_sound(self, frame: bytes, events: list[dict[str, object]]) -> None:
        if self._stopped:  # the caller goes on: what was said before is a turn of its own
            self._finish(events)
        if not self._voiced:
            self._began = self._frames
        self._voiced += 1
        self._quiet = 0
        self._reader.feed_frame(frame)
        if not self._started and self._voiced >= self._onset:
            self._start(events)

    def _hear_silence(self, events: list[dict[str, object]]) -> None:
        self._quiet += 1
        if self._quiet == self._endpoint and (self._started or self._reader.text):
            if not self._started:
                self._start(events)
            self._stopped = True
            end_s = (self._frames + 1 - self._quiet) * FRAME_S
            events.append({"type": "speech_stopped", "at_s": round(end_s, 2)})
        if self._quiet >= self._final:
            self._finish(events)

    def _start(self, events: list[dict[str, object]]) -> None:
        self._started = True
        events.append({"type": "speech_started", "at_s": round(self._began * FRAME_S, 2)})

    def _finish(self, events: list[dict[str, object]]) -> None:
        if self._started:
            events.append({"type": "final", "text": self._reader.text})
        self._started = self._stopped = False
        self._voiced = self._quiet = 0
        self._reader = Reader(self._format)


def answer_to(messages: Sequence[tuple[str, str]]) -> list[str]:
    """The model: its answer depends on nothing but the conversation it is shown. It says which turn of the caller this
    is, repeats it, and lists every word with ``canary`` in it that it finds anywhere. Asked for a story it goes on for
    a while; after ``goodbye`` the last piece is empty, which means hanging up."""
    said = [text for role, text in messages if role == "user"]
    last = said[-1] if said else ""
    pieces = [f"Turn {len(said)}. ", f"You said {last.rstrip('.?!')}. "]
    canaries = sorted({word for _, text in messages for word in re.findall(r"\w*canary\w*", text)})
    if canaries:
        pieces.append(f"I know {' and '.join(canaries)}. ")
    if "story" in last:
        pieces.append(STORY)
    if "goodbye" in last:
        pieces.append("")
    return pieces


@dataclass
class Vendors:
    """The server. ``serve`` takes any stream; the switches may be turned at any time."""

    behaviour: Behaviour = field(default_factory=Behaviour)
    refuses: set[str] = field(default_factory=set)
    """``recogniser``, ``model``, ``speech``: answered with 503."""
    hangs: set[str] = field(default_factory=set)
    """Accepted, and never answered."""
    is_deaf: bool = False
    """Nothing that comes in is looked at any more, a close least of all."""
    open: Counter[str] = field(default_factory=Counter)
    """``connection``, ``recogniser``, ``model``, ``speech``: how many there are now."""
    opened: Counter[str] = field(default_factory=Counter)
    """How many there ever were."""
    seen: list[tuple[tuple[str, str], ...]] = field(default_factory=list)
    """Every context the model was shown, if ``remembers``."""
    remembers: bool = False

    async def serve(self, stream: trio.abc.Stream) -> None:
        """One connection, to its end. Whatever a client does to it, it ends quietly."""
        with _Counted(self, "connection"):
            try:
                async with stream:
                    await self._serve(_Ear(stream, self))
            except (trio.BrokenResourceError, trio.ClosedResourceError, HandshakeFailed, SlowPeer, EOFError):
                pass  # the client is gone

    async def listen(
        self, port: int = 0, host: str = "127.0.0.1", *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve on TCP until cancelled; started with the port."""
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, self.serve, port, host=host, backlog=1024))
            task_status.started(listeners[0].socket.getsockname()[1])

    async def _serve(self, stream: _Ear) -> None:
        while True:
            head, rest = await read_head(stream)
            request, *lines = head.decode("latin-1").split("\r\n")
            method, target, _ = request.split(" ", 2)
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            kind = urlsplit(target).path.strip("/")
            if kind in self.hangs:
                await trio.sleep_forever()
            if kind in self.refuses:
                await stream.send_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
            elif "upgrade" in headers:
                async with accept_socket(stream, head=head, rest=rest) as socket:
                    with _Counted(self, kind):
                        await self._serve_socket(kind, target, socket)
                return
            else:
                while len(rest) < int(headers.get("content-length", "0")):
                    rest += await stream.receive_some() or _gone()
                with _Counted(self, kind):
                    await self._answer(stream, method, kind, rest)

    async def _serve_socket(self, kind: str, target: str, socket: Socket) -> None:
        try:
            if kind == "recogniser":
                await self._recognise(socket, parse_qs(urlsplit(target).query))
            elif kind == "model":
                await self._think(socket)
        except trio.EndOfChannel:
            pass

    async def _recognise(self, socket: Socket, query: dict[str, list[str]]) -> None:
        line = AudioFormat(Encoding(query["encoding"][0]), int(query["rate_hz"][0]))
        recogniser = Recogniser(line, self.behaviour)
        while True:
            audio = await socket.receive()
            events = recogniser.feed(audio) if isinstance(audio, bytes) else []
            if events:
                await socket.send(*(orjson.dumps(event).decode() for event in events))

    async def _think(self, socket: Socket) -> None:
        """One answer at a time: a new question, or a cancel, ends the one before."""
        async with trio.open_nursery() as nursery:
            thought = trio.CancelScope()
            try:
                while True:
                    request = orjson.loads(await socket.receive())
                    thought.cancel()
                    if "messages" in request:
                        thought = trio.CancelScope()
                        nursery.start_soon(self._reply, socket, request, thought)
            except trio.EndOfChannel:
                nursery.cancel_scope.cancel()

    async def _reply(self, socket: Socket, request: dict[str, object], thought: trio.CancelScope) -> None:
        messages = [(str(role), str(text)) for role, text in request["messages"]]  # type: ignore[attr-defined]  # of JSON
        if self.remembers:
            self.seen.append(tuple(messages))
        with thought:
            await trio.sleep(self.behaviour.first_token_s)
        if not thought.cancelled_caught:
            parts = [{"text": piece} if piece else {"hang_up": True} for piece in answer_to(messages)]
            replies = [orjson.dumps({"id": request["id"], **part}).decode() for part in [*parts, {"done": True}]]
            # A send that is cancelled half-way would cost the socket; this one is bounded by the socket itself.
            try:
                await socket.send(*replies)
            except (trio.BrokenResourceError, SlowPeer):
                return

    async def _answer(self, stream: _Ear, method: str, kind: str, body: bytes) -> None:
        if (method, kind) == ("GET", "counts"):
            counts = orjson.dumps({"open": dict(self.open), "opened": dict(self.opened)})
            await stream.send_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(counts)
                + counts
            )
            return
        request = orjson.loads(body)
        line = AudioFormat(Encoding(request["encoding"]), request["rate_hz"])
        audio = speak(request["text"], line, chars_per_s=self.behaviour.chars_per_s)
        await trio.sleep(self.behaviour.first_audio_s)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Type: audio/basic\r\nTransfer-Encoding: chunked\r\n\r\n")
        size = int(PIECE_S / FRAME_S) * line.frame_bytes
        for at in range(0, len(audio), size):
            chunk = audio[at : at + size]
            await stream.send_all(b"%x\r\n" % len(chunk) + chunk + b"\r\n")
        await stream.send_all(b"0\r\n\r\n")


def _gone() -> bytes:
    raise EOFError


class _Counted:
    def __init__(self, vendors: Vendors, kind: str) -> None:
        self._vendors = vendors
        self._kind = kind

    def __enter__(self) -> None:
        self._vendors.open[self._kind] += 1
        self._vendors.opened[self._kind] += 1

    def __exit__(self, *_: object) -> None:
        self._vendors.open[self._kind] -= 1


class _Ear(trio.abc.Stream):
    """A stream that stops listening, but not noticing that the other end has gone, when the vendors are deaf."""

    def __init__(self, stream: trio.abc.Stream, vendors: Vendors) -> None:
        self._stream = stream
        self._vendors = vendors

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        while self._vendors.is_deaf and data:
            data = await self._stream.receive_some(max_bytes)
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def close(self) -> None:
        close_stream(self._stream)


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--port", type=int, default=0)
    for name, default in asdict(Behaviour()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=default)
    options = parser.parse_args()
    behaviour = Behaviour(**{item.name: getattr(options, item.name) for item in fields(Behaviour)})
    async with trio.open_nursery() as nursery:
        port = await nursery.start(Vendors(behaviour).listen, options.port)
        print(f"ready {port}", flush=True)


if __name__ == "__main__":
    trio.run(_main)
