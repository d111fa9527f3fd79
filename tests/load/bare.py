"""The least that can answer the load script: a bare trio-websocket server, to compare engines with.

``python -m tests.load.bare --port 9000``. It hands out TwiML, receives every frame, and answers an utterance with plain
speech after a fixed delay; a caller who interrupts is answered with ``clear``. No recogniser, no model, no registry, no
metrics: every frame is decoded and looked at, one JSON message at a time, and that is all. Audio goes out in pieces of
200 ms.
"""

from __future__ import annotations

import argparse
import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from engine.events import FRAME_S, MULAW_8K
from tests.fakes.plain_speech import is_speech, speak

PIECE_BYTES = 1600
GREETING = "Hello, this is the bare server."
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
ANSWER = "I have heard you, and this is what I always say, at some length, so that I can be interrupted."


@dataclass(frozen=True)
class Delays:
    """The vendors' part, played by the clock."""

    onset_s: float = 0.3
    """Speech that is needed to be sure that the caller speaks."""
    endpoint_s: float = 0.3
    """Silence that ends a turn."""
    answer_s: float = 0.3
    """From the end of a turn to the first audio."""
    answer: str = ANSWER


async def serve(
    port: int,
    delays: Delays,
    *,
    host: str = "127.0.0.1",
    task_status: trio.TaskStatus[tuple[int, int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen on ``port`` for webhooks and on another for media; both are told when ready."""

    async def run_call(socket: WebSocketConnection) -> None:
        await _Call(socket, delays).run()

    await serve_calls(port, run_call, host=host, task_status=task_status)


async def serve_calls(
    port: int,
    run_call: Callable[[WebSocketConnection], Awaitable[None]],
    *,
    host: str = "127.0.0.1",
    task_status: trio.TaskStatus[tuple[int, int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """The same with any call."""

    async def handle(request: WebSocketRequest) -> None:
        try:
            await run_call(await request.accept())
        except* (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async with trio.open_nursery() as nursery:
        media = await nursery.start(serve_websocket, handle, host, 0, None)
        media_port: int = media.port
        twiml = (
            f'<?xml version="1.0" encoding="UTF-8"?><Response><Connect><Stream url="ws://{host}:{media_port}/media">'
            '<Parameter name="token" value="none"/></Stream></Connect></Response>'
        ).encode()

        async def webhook(stream: trio.SocketStream) -> None:
            async with stream:
                await _read_request(stream)
                await stream.send_all(_HEAD % len(twiml) + twiml)

        listeners = await nursery.start(partial(trio.serve_tcp, webhook, port, host=host))
        task_status.started((listeners[0].socket.getsockname()[1], media_port))
        await trio.sleep_forever()


async def _read_request(stream: trio.SocketStream) -> None:
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive_some()
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
    while len(body) < length:
        body += await stream.receive_some()


class _Call:
    def __init__(self, socket: WebSocketConnection, delays: Delays) -> None:
        self._socket = socket
        self._delays = delays
        self._stream_id = ""
        self._answer = self._pieces(delays.answer)
        self._voiced = 0  # frames of speech in a row, short pauses included
        self._quiet = 0
        self._is_speaking = False
        self._plays_until_s = 0.0
        self._reply = trio.CancelScope()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                message = json.loads(await self._socket.get_message())
                event = message["event"]
                if event == "media":
                    await self._hear(base64.b64decode(message["media"]["payload"]), nursery)
                elif event == "start":
                    self._stream_id = message["streamSid"]
                    nursery.start_soon(self._say, self._pieces(GREETING), 0.0)
                elif event == "stop":
                    break
            nursery.cancel_scope.cancel()

    async def _hear(self, frame: bytes, nursery: trio.Nursery) -> None:
        if is_speech(frame):
            self._voiced += 1
            self._quiet = 0
            if not self._is_speaking and self._voiced * FRAME_S >= self._delays.onset_s:
                self._is_speaking = True
                self._reply.cancel()
                if trio.current_time() < self._plays_until_s:
                    await self._send({"event": "clear", "streamSid": self._stream_id})
            return
        self._quiet += 1
        if self._is_speaking and self._quiet * FRAME_S >= self._delays.endpoint_s:
            self._is_speaking = False
            self._voiced = 0
            nursery.start_soon(self._say, self._answer, self._delays.answer_s)

    async def _say(self, pieces: list[str], delay_s: float) -> None:
        self._reply = trio.CancelScope()
        with self._reply:
            await trio.sleep(delay_s)
            for piece in pieces:
                payload = {"event": "media", "streamSid": self._stream_id, "media": {"payload": piece}}
                self._plays_until_s = max(self._plays_until_s, trio.current_time()) + PIECE_BYTES / 8000
                await self._send(payload)

    async def _send(self, message: Mapping[str, object]) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 2):  # no frame is ever torn
            await self._socket.send_message(json.dumps(message))

    def _pieces(self, text: str) -> list[str]:
        audio = speak(text, MULAW_8K)
        return [base64.b64encode(audio[at : at + PIECE_BYTES]).decode() for at in range(0, len(audio), PIECE_BYTES)]


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    async with trio.open_nursery() as nursery:
        port, _ = await nursery.start(serve, options.port, Delays())
        print(f"ready {port}", flush=True)


if __name__ == "__main__":
    trio.run(_main)
