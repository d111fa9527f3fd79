"""Speechmatics, text to speech over HTTP."""

from __future__ import annotations

import json

from engine.events import PCM16_16K
from tests.fakes.clouds.loopback import Request, Response
from tests.fakes.clouds.voicebox import SpeechCloud, bearer

VOICES = {"sarah", "theo", "megan", "jack"}
FORMATS = {"pcm_16000", "wav_16000"}


class SpeechmaticsSpeech(SpeechCloud):
    """Speaks 16 kHz and nothing else."""

    async def http(self, request: Request) -> Response:
        if (refusal := self.refusal(bearer(request), _problem)) is not None:
            return refusal
        if request.method != "POST" or request.path.removeprefix("/generate/") not in VOICES:
            return _problem(404, "not_found")
        body = json.loads(request.body)
        if request.one("output_format") not in FORMATS or set(body) != {"text"} or not body["text"].strip():
            self.fault("output_format is wrong, or there is no text, or more than a text")
            return _problem(400, "bad_request")
        return self.audio(body["text"], PCM16_16K, _problem)


def _problem(status: int, word: str) -> Response:
    return Response(status, {"content-type": "application/json"}, json.dumps({"error": word}).encode())
