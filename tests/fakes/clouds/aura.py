"""Deepgram Aura, text to speech over a WebSocket (version 1)."""

from __future__ import annotations

import json
from collections import deque

import trio

from engine.events import MULAW_8K, AudioFormat, Encoding
from tests.fakes.clouds.loopback import Peer, Refuse, Request
from tests.fakes.clouds.voicebox import Died, SpeechCloud, Spoken, bearer

MAX_CHARS = 2000
MAX_FLUSHES = 20
FLUSH_WINDOW_S = 60.0
_RATES = {"8000", "16000", "24000", "32000", "48000"}


class Aura(SpeechCloud):
    """Strict. Texts wait for their flush; flushes are spoken one after the other; a clear stops and empties all."""

    flushes_after_clear = False
    """The answer to the flush of a cleared text still comes, behind that to the clear."""
    answers_clear = True

    def admits(self, request: Request) -> None:
        if self.voicebox.refuses is not None:
            raise Refuse(self.voicebox.refuses, self.voicebox.page)
        if request.path != "/v1/speak":
            raise Refuse(404)
        if self.voicebox.key not in (bearer(request, "Token"), bearer(request, "token"), bearer(request)):
            raise Refuse(401)
        if _format_of(request) is None:
            raise Refuse(400)

    async def websocket(self, request: Request, socket: Peer) -> None:
        audio_format = _format_of(request)
        assert audio_format is not None
        await _say(
            socket,
            {
                "type": "Metadata",
                "request_id": "r1",
                "model_name": request.one("model"),
                "model_version": "1",
                "model_uuid": "u1",
            },
        )
        async with trio.open_nursery() as nursery:
            session = _Session(self, socket, audio_format)
            nursery.start_soon(session.speak_all)
            await session.run()
            nursery.cancel_scope.cancel()


class _Session:
    def __init__(self, cloud: Aura, socket: Peer, format: AudioFormat) -> None:  # noqa: A002 - the field's word
        self._cloud = cloud
        self._socket = socket
        self._format = format
        self._text = ""
        self._flushes: deque[float] = deque()
        self._jobs: deque[Spoken] = deque()
        self._has_job = trio.Event()
        self._current: Spoken | None = None
        self._is_silent = trio.Event()
        self._sequence_id = 0

    async def run(self) -> None:
        while True:
            with trio.move_on_after(self._cloud.voicebox.idle_s) as waiting:
                message = await self._socket.get_message()
            if waiting.cancelled_caught:
                await self._socket.aclose(1011)
                return
            try:
                fields = json.loads(message) if isinstance(message, str) else None
            except ValueError:
                fields = None
            match fields:
                case {"type": "Speak", "text": str(text), **rest} if not rest:
                    await self._take_text(text)
                case {"type": "Flush", **rest} if not rest:
                    await self._flush()
                case {"type": "Clear", **rest} if not rest:
                    await self._clear()
                case {"type": "Close", **rest} if not rest:
                    return
                case _:
                    self._cloud.fault("an unknown message")
                    await _say(self._socket, {"type": "Warning", "code": "UNKNOWN", "description": "What is that?"})

    async def speak_all(self) -> None:
        while True:
            while not self._jobs:
                self._has_job = trio.Event()
                await self._has_job.wait()
            spoken = self._current = self._jobs.popleft()
            self._is_silent = trio.Event()
            try:
                await self._cloud.say(
                    spoken.text, self._format, self._socket.send_message, self._socket.send_message, spoken
                )
            except Died:
                await self._socket.aclose(self._cloud.voicebox.close_code)
                return
            self._current = None
            self._is_silent.set()
            if not spoken.is_cancelled:
                await self._answer("Flushed")

    async def _take_text(self, text: str) -> None:
        if not text.strip():
            self._cloud.fault("an empty text")
        if len(text) > MAX_CHARS:
            self._cloud.fault("a text of more than 2000 characters")
            await _say(self._socket, {"type": "Warning", "code": "INPUT_TEXT_TOO_LONG", "description": "Too long."})
            return
        self._text += text

    async def _flush(self) -> None:
        now = trio.current_time()
        while self._flushes and now - self._flushes[0] >= FLUSH_WINDOW_S:
            self._flushes.popleft()
        if len(self._flushes) >= MAX_FLUSHES:
            await _say(
                self._socket,
                {
                    "type": "Warning",
                    "code": "EXCESSIVE_FLUSHES",
                    "description": "Too many Flush messages in the last minute.",
                },
            )
            return
        self._flushes.append(now)
        if self._cloud.voicebox.error:
            await _say(self._socket, {"type": "Error", "code": self._cloud.voicebox.error, "description": "It is so."})
            await self._socket.aclose(1011)
            return
        spoken = Spoken(self._text)
        self._text = ""
        self._cloud.spoken.append(spoken)
        self._jobs.append(spoken)
        self._has_job.set()

    async def _clear(self) -> None:
        self._text = ""
        stale = list(self._jobs)
        self._jobs.clear()
        if self._current is not None:
            stale.append(self._current)
        for spoken in stale:
            spoken.is_cancelled = True
        if self._current is not None:
            await self._is_silent.wait()
        if self._cloud.answers_clear:
            await self._answer("Cleared")
        if self._cloud.flushes_after_clear:
            for _ in stale:
                await self._answer("Flushed")

    async def _answer(self, kind: str) -> None:
        await _say(self._socket, {"type": kind, "sequence_id": self._sequence_id})
        self._sequence_id += 1


def _format_of(request: Request) -> AudioFormat | None:
    encoding, rate = request.one("encoding", "linear16"), request.one("sample_rate", "24000")
    if not request.one("model").startswith("aura"):
        return None
    if encoding == "mulaw":
        return MULAW_8K if rate == "8000" else None
    return AudioFormat(Encoding.PCM16, int(rate)) if encoding == "linear16" and rate in _RATES else None


async def _say(socket: Peer, fields: dict[str, object]) -> None:
    await socket.send_message(json.dumps(fields))
