"""Cartesia, text to speech over a WebSocket."""

from __future__ import annotations

import base64
import json
from functools import partial
from typing import Any

import trio

from engine.events import MULAW_8K, AudioFormat, Encoding
from tests.fakes.clouds.loopback import Peer, Refuse, Request
from tests.fakes.clouds.voicebox import Died, SpeechCloud, Spoken, bearer

_RATES = {8000, 16000, 22050, 24000, 44100, 48000}
_FIELDS = {
    "context_id",
    "model_id",
    "transcript",
    "continue",
    "voice",
    "output_format",
    "language",
    "max_buffer_delay_ms",
    "flush",
    "generation_config",
    "add_timestamps",
    "add_phoneme_timestamps",
    "use_normalized_timestamps",
    "pronunciation_dict_id",
    "speed",
}


class Cartesia(SpeechCloud):
    """Strict about every field. A cancelled context may go on for ``late_pieces``."""

    def admits(self, request: Request) -> None:
        if self.voicebox.refuses is not None:
            raise Refuse(self.voicebox.refuses, self.voicebox.page)
        if request.path != "/tts/websocket":
            raise Refuse(404)
        if bearer(request) != self.voicebox.key:
            raise Refuse(401)
        if not (request.headers.get("cartesia-version") or request.one("cartesia_version")):
            raise Refuse(400)

    async def websocket(self, request: Request, socket: Peer) -> None:
        contexts: dict[str, Spoken] = {}
        async with trio.open_nursery() as nursery:
            while True:
                with trio.move_on_after(min(self.voicebox.idle_s, 300)) as waiting:
                    message = await socket.get_message()
                if waiting.cancelled_caught:
                    break
                await self._heard(message, socket, contexts, nursery)
            nursery.cancel_scope.cancel()

    async def _heard(
        self, message: str | bytes, socket: Peer, contexts: dict[str, Spoken], nursery: trio.Nursery
    ) -> None:
        try:
            fields = json.loads(message)
        except ValueError:
            fields = None
        if not isinstance(message, str) or not isinstance(fields, dict):
            self.fault("not a JSON object")
            await _error(socket, None, 400, "invalid_json")
            return
        context_id = fields.get("context_id")
        if not isinstance(context_id, str) or not context_id:
            self.fault("no context_id")
            await _error(socket, None, 400, "context_id_missing")
        elif fields.get("cancel"):
            if context_id in contexts:
                contexts[context_id].is_cancelled = True
        else:
            await self._asked(fields, context_id, socket, contexts, nursery)

    async def _asked(
        self,
        fields: dict[str, Any],
        context_id: str,
        socket: Peer,
        contexts: dict[str, Spoken],
        nursery: trio.Nursery,
    ) -> None:
        audio_format = _format_of(fields.get("output_format"))
        voice = fields.get("voice")
        for name in set(fields) - _FIELDS:
            self.fault(f"unknown field {name}")
        if audio_format is None or not fields.get("model_id") or not isinstance(voice, dict) or "id" not in voice:
            self.fault("model_id, voice or output_format is wrong")
            await _error(socket, context_id, 400, "invalid_request")
            return
        if self.voicebox.error:
            await _error(socket, context_id, 400, self.voicebox.error)
            return
        spoken = contexts.get(context_id)
        if spoken is None:
            spoken = contexts[context_id] = Spoken("", context_id)
        elif spoken in self.spoken:
            self.fault("a context that is over was addressed")
            return
        spoken.text += fields.get("transcript", "")
        if fields.get("continue"):
            return
        if not spoken.text.strip():
            self.fault("an empty transcript")
        self.spoken.append(spoken)
        nursery.start_soon(partial(self._speak, socket, spoken, audio_format))

    async def _speak(self, socket: Peer, spoken: Spoken, audio_format: AudioFormat) -> None:
        common = {"context_id": spoken.context_id, "status_code": 206}

        async def piece(audio: bytes) -> None:
            data = base64.b64encode(audio).decode()
            chunk = {"type": "chunk", "data": data, "done": False, "step_time": 12.5, **common}
            await socket.send_message(json.dumps(chunk))

        try:
            await self.say(spoken.text, audio_format, piece, socket.send_message, spoken)
        except Died:
            await socket.aclose(self.voicebox.close_code)
        else:
            await socket.send_message(json.dumps({**common, "type": "done", "done": True, "status_code": 200}))


def _format_of(fields: object) -> AudioFormat | None:
    match fields:
        case {"container": "raw", "encoding": "pcm_mulaw", "sample_rate": 8000, **rest} if not rest:
            return MULAW_8K
        case {"container": "raw", "encoding": "pcm_s16le", "sample_rate": int(rate), **rest} if (
            rate in _RATES and not rest
        ):
            return AudioFormat(Encoding.PCM16, rate)
    return None


async def _error(socket: Peer, context_id: str | None, status: int, code: str) -> None:
    error = {
        "type": "error",
        "done": True,
        "title": "Something",
        "message": "A sentence about it.",
        "error_code": code,
        "status_code": status,
        "request_id": "r1",
    }
    await socket.send_message(json.dumps(error if context_id is None else {**error, "context_id": context_id}))
