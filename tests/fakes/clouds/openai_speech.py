"""OpenAI, text to speech over HTTP."""

from __future__ import annotations

import json

from engine.events import PCM16_24K
from tests.fakes.clouds.loopback import Request, Response
from tests.fakes.clouds.voicebox import SpeechCloud, bearer

MAX_CHARS = 4096
_FIELDS = {"model", "voice", "input", "response_format", "stream_format", "instructions", "speed"}


class OpenAISpeech(SpeechCloud):
    """Speaks 24 kHz ``pcm``."""

    async def http(self, request: Request) -> Response:
        if (refusal := self.refusal(bearer(request), _problem)) is not None:
            return refusal
        if request.method != "POST" or request.path != "/v1/audio/speech":
            return _problem(404, "unknown_url")
        body = json.loads(request.body)
        if wrong := self._wrong_with(body):
            self.fault(wrong)
            return _problem(400, "invalid_value")
        return self.audio(body["input"], PCM16_24K, _problem)

    def _wrong_with(self, body: dict[str, str]) -> str:
        text = body.get("input", "")
        if unknown := set(body) - _FIELDS:
            return f"unknown fields {unknown}"
        if not text.strip() or len(text) > MAX_CHARS or not body.get("model") or not body.get("voice"):
            return "input, model or voice is wrong"
        return "" if body.get("response_format") == "pcm" else "only pcm is spoken here"


def _problem(status: int, word: str) -> Response:
    error = {"error": {"message": "A sentence about it.", "type": "invalid_request_error", "code": word, "param": None}}
    return Response(status, {"content-type": "application/json"}, json.dumps(error).encode())
