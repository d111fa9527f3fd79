"""The least that can do an engine's work over the vendors' real wires, to compare engines with.

``python -m tests.load.bare_vendors --vendors http://127.0.0.1:PORT``: Deepgram hears, an OpenAI chat model thinks and
ElevenLabs speaks, written straight down with trio-websocket and httpx: one nursery per call, every frame passed on to
the recogniser as it comes, a streamed request per turn, its sentences one after the other to the synthesizer's socket,
audio passed on as it comes, ``clear`` when the caller interrupts. Nothing is gathered, counted, watched or tried again.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import re
from contextlib import AsyncExitStack
from dataclasses import dataclass

import httpx
import trio
from trio_websocket import WebSocketConnection, open_websocket_url

from tests.load.bare import serve_calls

GREETING = "Hello, this is the bare server."
KEY = "k"
_SENTENCE = re.compile(r"(.+?[.?!])\s+(.*)", re.DOTALL)
_LISTEN = (
    "/v1/listen?model=nova-3&encoding=mulaw&sample_rate=8000&channels=1&interim_results=true&vad_events=true"
    "&endpointing=300&utterance_end_ms=1000"
)
_SPEAK = "/v1/text-to-speech/v/multi-stream-input?model_id=m&output_format=ulaw_8000&auto_mode=true"
_THINK = "/v1/chat/completions"


@dataclass(frozen=True)
class Clouds:
    host: str
    client: httpx.AsyncClient
    """One pool for all calls."""


class _Call:
    def __init__(self, line: WebSocketConnection, clouds: Clouds) -> None:
        self._line = line
        self._clouds = clouds
        self._stream_id = ""
        self._messages = [{"role": "system", "content": "Be helpful."}]
        self._finals: list[str] = []
        self._reply = trio.CancelScope()
        self._contexts = itertools.count(1)
        self._context = ""
        self._is_spoken = trio.Event()
        self._plays_until_s = 0.0
        self._ear: WebSocketConnection
        self._voice: WebSocketConnection

    async def run(self) -> None:
        async with AsyncExitStack() as stack:
            ws = f"ws://{self._clouds.host}"
            token, key = [(b"authorization", f"Token {KEY}".encode())], [(b"xi-api-key", KEY.encode())]
            self._ear = await stack.enter_async_context(open_websocket_url(ws + _LISTEN, extra_headers=token))
            self._voice = await stack.enter_async_context(open_websocket_url(ws + _SPEAK, extra_headers=key))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hear, nursery)
                nursery.start_soon(self._pass_on)
                while True:
                    message = json.loads(await self._line.get_message())
                    event = message["event"]
                    if event == "media":
                        await self._ear.send_message(base64.b64decode(message["media"]["payload"]))
                    elif event == "start":
                        self._stream_id = message["streamSid"]
                        nursery.start_soon(self._say, GREETING)
                    elif event == "stop":
                        break
                nursery.cancel_scope.cancel()

    async def _hear(self, nursery: trio.Nursery) -> None:
        while True:
            said = json.loads(await self._ear.get_message())
            if said["type"] == "SpeechStarted":
                self._reply.cancel()
                self._context = ""
                if trio.current_time() < self._plays_until_s:
                    self._plays_until_s = 0.0
                    await self._send({"event": "clear", "streamSid": self._stream_id})
            elif said["type"] == "Results" and said["is_final"]:
                self._finals.append(said["channel"]["alternatives"][0]["transcript"])
                if said["speech_final"]:
                    text, self._finals = " ".join(filter(None, self._finals)), []
                    self._messages.append({"role": "user", "content": text})
                    nursery.start_soon(self._answer)

    async def _answer(self) -> None:
        self._reply.cancel()
        self._reply = trio.CancelScope()
        answer = rest = ""
        with self._reply:
            body = {"model": "m", "messages": self._messages, "stream": True}
            url, key = f"http://{self._clouds.host}{_THINK}", {"authorization": f"Bearer {KEY}"}
            async with self._clouds.client.stream("POST", url, json=body, headers=key) as response:
                async for line in response.aiter_lines():
                    if not line.startswith("data: {"):
                        continue
                    text = json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
                    answer, rest = answer + text, rest + text
                    while found := _SENTENCE.fullmatch(rest):
                        sentence, rest = found.groups()
                        await self._say(sentence)
            if rest.strip():
                await self._say(rest.strip())
        self._messages.append({"role": "assistant", "content": answer})

    async def _say(self, text: str) -> None:
        self._context = f"c{next(self._contexts)}"
        self._is_spoken = trio.Event()
        of_it = {"context_id": self._context}
        for message in ({"text": " "}, {"text": f"{text} "}, {"flush": True}, {"close_context": True}):
            await self._voice.send_message(json.dumps({**message, **of_it}))
        await self._is_spoken.wait()

    async def _pass_on(self) -> None:
        while True:
            said = json.loads(await self._voice.get_message())
            if said["contextId"] != self._context:
                continue
            if audio := said.get("audio"):
                seconds = len(audio) * 3 / 4 / 8000
                self._plays_until_s = max(self._plays_until_s, trio.current_time()) + seconds
                await self._send({"event": "media", "streamSid": self._stream_id, "media": {"payload": audio}})
            if said.get("isFinal"):
                self._is_spoken.set()

    async def _send(self, message: dict[str, object]) -> None:
        await self._line.send_message(json.dumps(message))


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--vendors", required=True, help="address of tests.fakes.clouds")
    options = parser.parse_args()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(trust_env=False, limits=limits) as client, trio.open_nursery() as nursery:
        clouds = Clouds(options.vendors.removeprefix("http://"), client)

        async def run_call(line: WebSocketConnection) -> None:
            await _Call(line, clouds).run()

        port, _ = await nursery.start(serve_calls, options.port, run_call)
        print(f"ready {port}", flush=True)


if __name__ == "__main__":
    trio.run(_main)
