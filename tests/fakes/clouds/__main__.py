"""The fake clouds in a process of their own, all on one port: ``python -m tests.fakes.clouds --port 0``.

Prints ``ready PORT``. Which cloud answers is told by the path. They understand and speak plain speech and take the
times of :class:`tests.fakes.vendors.Behaviour`; every key is ``k``. ``GET /counts`` tells what is open now, what ever
was, and what clients did wrong.
"""

from __future__ import annotations

import argparse
import gc
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import partial
from typing import Any

import orjson
import trio
from trio_websocket import ConnectionClosed

from engine.errors import SlowPeer
from engine.runtime.network import VENDOR_LIMITS
from engine.runtime.sockets import Socket, accept_socket
from tests.fakes.clouds.anthropic_messages import AnthropicMessages
from tests.fakes.clouds.cartesia import Cartesia
from tests.fakes.clouds.deepgram_listen import DeepgramCloud
from tests.fakes.clouds.elevenlabs_speech import ElevenLabsSpeech
from tests.fakes.clouds.flux import FluxCloud
from tests.fakes.clouds.listening import Acuity, ListeningCloud
from tests.fakes.clouds.loopback import Cloud, Peer, Refuse, Request, Response, serve_stream
from tests.fakes.clouds.openai_chat import OpenAiChat
from tests.fakes.clouds.speechmatics import SpeechmaticsCloud
from tests.fakes.clouds.thinking import Manner, ModelCloud
from tests.fakes.clouds.voicebox import SpeechCloud, Voicebox
from tests.fakes.vendors import Behaviour

KEY = "k"
TOKEN_S = 0.01
"""Between two words of a language model."""
PIECE_S = 0.4
"""Of audio in one message of a synthesizer."""


def clouds(behaviour: Behaviour) -> dict[str, Cloud]:
    """Where the paths of each begin."""
    acuity = Acuity(
        onset_s=behaviour.onset_s,
        interim_s=behaviour.onset_s,
        pause_s=behaviour.endpoint_s,
        endpoint_s=behaviour.endpoint_s + behaviour.final_s,
    )
    voice = Voicebox(
        key=KEY,
        speed=math.inf,
        first_audio_s=behaviour.first_audio_s,
        piece_s=PIECE_S,
        chars_per_s=behaviour.chars_per_s,
    )
    manner = Manner(first_s=behaviour.first_token_s, gap_s=TOKEN_S)
    return {
        "/v1/listen": DeepgramCloud(key=KEY, acuity=acuity),
        "/v2/listen": FluxCloud(key=KEY, acuity=acuity),
        "/v2": SpeechmaticsCloud(key=KEY, acuity=acuity),
        "/v1/chat/completions": OpenAiChat(manner, key=KEY),
        "/v1/messages": AnthropicMessages(manner, key=KEY),
        "/v1/text-to-speech": ElevenLabsSpeech(voice),
        "/tts/websocket": Cartesia(voice),
    }


class City(Cloud):
    """All of them behind one address."""

    def __init__(self, members: Mapping[str, Cloud]) -> None:
        super().__init__()
        self.connections = 0
        self._members = sorted(members.items(), key=lambda member: -len(member[0]))
        self._now: Counter[str] = Counter()
        self._ever: Counter[str] = Counter()

    async def serve(self, stream: trio.abc.Stream) -> None:
        """One connection, to its end."""
        self.connections += 1
        try:
            await serve_stream(self, stream, _serve_socket)
        finally:
            self.connections -= 1

    async def http(self, request: Request) -> Response:
        self.requests.clear()  # it runs for long
        if request.path == "/counts":
            return Response(headers={"content-type": "application/json"}, body=orjson.dumps(self.counts()))
        path, cloud = self._at(request.path)
        if cloud is None:
            return Response(404, body=b"{}")
        self._ever[path] += 1
        _forget(cloud)
        return await cloud.http(request)

    def admits(self, request: Request) -> None:
        self.requests.clear()
        _, cloud = self._at(request.path)
        if cloud is None:
            raise Refuse(404)
        cloud.admits(request)

    async def websocket(self, request: Request, socket: Peer) -> None:
        path, cloud = self._at(request.path)
        assert cloud is not None
        self._now[path] += 1
        self._ever[path] += 1
        try:
            await cloud.websocket(request, socket)
        finally:
            self._now[path] -= 1

    def counts(self) -> dict[str, Any]:
        """``open`` and ``opened``: connections, sockets and requests by path."""
        faults = [f"{path}: {fault}" for path, cloud in self._members for fault in getattr(cloud, "faults", ())]
        return {
            "open": {"connection": self.connections, "socket": self.sockets_open, **self._now},
            "opened": dict(self._ever),
            "faults": faults[:20],
        }

    def _at(self, path: str) -> tuple[str, Cloud | None]:
        return next(((begins, cloud) for begins, cloud in self._members if path.startswith(begins)), ("", None))


async def _serve_socket(cloud: Cloud, request: Request, stream: trio.abc.Stream, read: bytes) -> None:
    """On the engine's own sockets, which cost half of what trio-websocket does."""
    try:
        cloud.admits(request)
    except Refuse as refusal:
        size = len(refusal.body)
        head = f"HTTP/1.1 {refusal.status} Refused\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
        await stream.send_all(head.encode() + refusal.body)
        return
    begin, blank, rest = read.partition(b"\r\n\r\n")
    async with accept_socket(stream, head=begin + blank, rest=rest, limits=VENDOR_LIMITS) as socket:
        cloud.sockets_open += 1
        try:
            await cloud.websocket(request, _Peer(socket))
        except ConnectionClosed:
            pass
        finally:
            cloud.sockets_open -= 1


class _Peer:
    """A socket as the clouds know it."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket

    async def get_message(self) -> str | bytes:
        try:
            return await self._socket.receive()
        except trio.EndOfChannel:
            raise ConnectionClosed(None) from None

    async def send_message(self, message: str | bytes) -> None:
        try:
            await self._socket.send(message)
        except (trio.BrokenResourceError, SlowPeer):
            raise ConnectionClosed(None) from None

    async def aclose(self, code: int = 1000, reason: str | None = None) -> None:
        await self._socket.aclose(code, reason or "")


def _forget(cloud: Cloud) -> None:
    """What a test would look at, and a long run has no use for."""
    if isinstance(cloud, ModelCloud):
        cloud.bodies.clear()
    elif isinstance(cloud, SpeechCloud):
        cloud.spoken.clear()
    elif isinstance(cloud, ListeningCloud):
        cloud.sessions.clear()


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--port", type=int, default=0)
    for name, default in asdict(Behaviour()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=default)
    options = parser.parse_args()
    city = City(clouds(Behaviour(**{item.name: getattr(options, item.name) for item in fields(Behaviour)})))
    gc.set_threshold(700, 10, 1_000_000)
    gc.freeze()  # what is loaded stays; a long pause of the collector would be heard in every call
    async with trio.open_nursery() as nursery:
        serving = partial(trio.serve_tcp, city.serve, options.port, host="127.0.0.1", backlog=1024)
        listeners = await nursery.start(serving)
        print(f"ready {listeners[0].socket.getsockname()[1]}", flush=True)


if __name__ == "__main__":
    trio.run(_main)
