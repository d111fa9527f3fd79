"""ElevenLabs, text to speech: stream, stream-input and multi-stream-input."""

from __future__ import annotations

import base64
import json
import math
from functools import partial
from typing import Any

import trio

from engine.events import MULAW_8K, AudioFormat, Encoding
from tests.fakes.clouds.loopback import Peer, Refuse, Request, Response
from tests.fakes.clouds.voicebox import Died, SpeechCloud, Spoken

PATH = "/v1/text-to-speech/"
MAX_CONTEXTS = 5
_PCM_HZ = {"pcm_8000", "pcm_16000", "pcm_22050", "pcm_24000", "pcm_44100"}
_QUERY = {
    "model_id",
    "output_format",
    "auto_mode",
    "inactivity_timeout",
    "language_code",
    "apply_text_normalization",
    "enable_ssml_parsing",
    "enable_logging",
    "sync_alignment",
    "optimize_streaming_latency",
    "seed",
}


def format_of(word: str) -> AudioFormat | None:
    if word == "ulaw_8000":
        return MULAW_8K
    return AudioFormat(Encoding.PCM16, int(word.removeprefix("pcm_"))) if word in _PCM_HZ else None


class ElevenLabsSpeech(SpeechCloud):
    """Strict: text without its space at the end, an unknown field, a context too many."""

    async def http(self, request: Request) -> Response:
        if (refusal := self.refusal(request.headers.get("xi-api-key", ""), _problem)) is not None:
            return refusal
        if request.method != "POST" or not request.path.startswith(PATH) or not request.path.endswith("/stream"):
            return Response(404, body=b'{"detail":"Not Found"}')
        audio_format = self._check_query(request)
        body = json.loads(request.body)
        if audio_format is None or not body.get("text"):
            self.fault("text or output_format is missing")
            return _problem(422, "invalid_request")
        return self.audio(body["text"], audio_format, _problem, "audio/basic")

    def admits(self, request: Request) -> None:
        refusal = self.refusal(request.headers.get("xi-api-key", ""), _problem)
        if refusal is not None:
            assert isinstance(refusal.body, bytes)
            raise Refuse(refusal.status, refusal.body)

    async def websocket(self, request: Request, socket: Peer) -> None:
        audio_format = self._check_query(request)
        if audio_format is None:
            await _complain(socket, "unsupported_output_format")
            return
        idle_s = min(self.voicebox.idle_s, float(request.one("inactivity_timeout", "20")))
        kind = _Contexts if request.path.endswith("/multi-stream-input") else _OneText
        async with trio.open_nursery() as nursery:
            await kind(self, socket, audio_format, nursery, idle_s).run()
            nursery.cancel_scope.cancel()

    def _check_query(self, request: Request) -> AudioFormat | None:
        for name in set(request.query) - _QUERY:
            self.fault(f"unknown parameter {name}")
        return format_of(request.one("output_format", "mp3_44100_128"))


class _Socket:
    """What both WebSocket wires share."""

    def __init__(
        self,
        cloud: ElevenLabsSpeech,
        socket: Peer,
        format: AudioFormat,  # noqa: A002 - the field's word
        nursery: trio.Nursery,
        idle_s: float,
    ) -> None:
        self.cloud = cloud
        self.socket = socket
        self.format = format
        self.nursery = nursery
        self.idle_s = idle_s
        self.ended = trio.CancelScope()

    async def run(self) -> None:
        with self.ended:
            while True:
                with trio.move_on_after(self.idle_s) as waiting:
                    message = await self.socket.get_message()
                if waiting.cancelled_caught:
                    await _complain(self.socket, "input_timeout_exceeded")
                    return
                fields = self._fields(message)
                if fields is None:
                    await _complain(self.socket, "invalid_message")
                    return
                await self.heard(fields)

    async def heard(self, fields: dict[str, Any]) -> None:
        raise NotImplementedError

    async def send(self, fields: dict[str, Any]) -> None:
        await self.socket.send_message(json.dumps(fields))

    async def speak(self, text: str, key: dict[str, str], spoken: Spoken) -> bool:
        """False: it has died of it."""
        if self.cloud.voicebox.error:
            await _complain(self.socket, self.cloud.voicebox.error)
            self.ended.cancel()
            return False

        async def piece(audio: bytes) -> None:
            alignment = {"chars": list("ab"), "charStartTimesMs": [0, 5], "charDurationsMs": [5, 5]}
            data = base64.b64encode(audio).decode()
            await self.send({"audio": data, "isFinal": None, "normalizedAlignment": alignment, **key})

        try:
            await self.cloud.say(text, self.format, piece, self.socket.send_message, spoken)
        except Died:
            await self.socket.aclose(self.cloud.voicebox.close_code)
            self.ended.cancel()
            return False
        return True

    def _fields(self, message: str | bytes) -> dict[str, Any] | None:
        try:
            fields = json.loads(message) if isinstance(message, str) else None
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            self.cloud.fault("not a JSON object")
            return None
        return fields


class _OneText(_Socket):
    """stream-input: a single space first; text until the empty text."""

    text = ""
    is_greeted = False

    async def heard(self, fields: dict[str, Any]) -> None:
        known = {"text", "try_trigger_generation", "flush", "voice_settings", "generation_config", "xi_api_key"}
        for name in set(fields) - known:
            self.cloud.fault(f"unknown field {name}")
        text = fields.get("text")
        if not self.is_greeted:
            self.is_greeted = True
            if text != " ":
                self.cloud.fault("the first text is not a single space")
            return
        if text == "":
            if not self.text.strip():
                await self.send({"audio": None, "isFinal": True})
                self.ended.cancel()
                return
            self.idle_s = math.inf  # it only speaks from now on
            self.nursery.start_soon(self._speak_all)
        elif self.idle_s == math.inf:
            self.cloud.fault("a text behind the end")
        elif text != " ":
            if not isinstance(text, str) or not text.endswith(" "):
                self.cloud.fault("a text does not end with a space")
            self.text += str(text)

    async def _speak_all(self) -> None:
        spoken = Spoken(self.text)
        self.cloud.spoken.append(spoken)
        try:
            if await self.speak(self.text, {}, spoken):
                await self.send({"audio": None, "isFinal": True})
                self.ended.cancel()
        except BaseException:
            spoken.is_cancelled = True  # the socket was closed on it
            raise


class _Contexts(_Socket):
    """multi-stream-input: a single space opens a context; one that was flushed is spoken to its end, closed or not."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.contexts: dict[str, str] = {}
        self.speaking: dict[str, Spoken] = {}
        self.closing: set[str] = set()

    async def heard(self, fields: dict[str, Any]) -> None:
        if fields.get("close_socket"):
            self.ended.cancel()
            return
        context_id = fields.get("context_id")
        if not isinstance(context_id, str):
            self.cloud.fault("no context_id")
            return
        text = fields.get("text")
        if context_id not in self.contexts:
            await self._open(context_id, text)
        elif text:
            if not text.endswith(" "):
                self.cloud.fault("a text does not end with a space")
            self.contexts[context_id] += text.lstrip()
        if fields.get("flush"):
            self._flush(context_id)
        if fields.get("close_context"):
            await self._close(context_id)

    async def _open(self, context_id: str, text: object) -> None:
        if text != " ":
            self.cloud.fault(f"a context that is not open was addressed with {text!r}")
        if len(self.contexts) >= MAX_CONTEXTS:
            await _complain(self.socket, "max_active_conversations")
            self.ended.cancel()
        self.contexts[context_id] = ""

    def _flush(self, context_id: str) -> None:
        text, self.contexts[context_id] = self.contexts.get(context_id, ""), ""
        if text.strip():
            spoken = self.speaking[context_id] = Spoken(text, context_id)
            self.cloud.spoken.append(spoken)
            self.nursery.start_soon(partial(self._speak, text, context_id, spoken))

    async def _speak(self, text: str, context_id: str, spoken: Spoken) -> None:
        if await self.speak(text, {"contextId": context_id}, spoken):
            self.speaking.pop(context_id, None)
            if context_id in self.closing:
                await self._finish(context_id)

    async def _close(self, context_id: str) -> None:
        if context_id in self.speaking:
            self.closing.add(context_id)
        else:
            await self._finish(context_id)

    async def _finish(self, context_id: str) -> None:
        self.contexts.pop(context_id, None)
        self.closing.discard(context_id)
        await self.send({"isFinal": True, "contextId": context_id})


async def _complain(socket: Peer, error: str) -> None:
    await socket.send_message(json.dumps({"message": "A sentence about it.", "error": error, "code": 1008}))
    await socket.aclose(1008)


def _problem(status: int, word: str) -> Response:
    detail = {"detail": {"status": word, "message": "A sentence about it."}}
    return Response(status, {"content-type": "application/json"}, json.dumps(detail).encode())
