"""ElevenLabs' realtime transcription (Scribe)."""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import Any

from engine.events import AudioFormat, Encoding
from tests.fakes.clouds.listening import Acuity, Broken, ListeningCloud, Message, Session, Sound, packed
from tests.fakes.clouds.loopback import Request

FORMATS = {
    "ulaw_8000": AudioFormat(Encoding.MULAW, 8000),
    **{f"pcm_{rate}": AudioFormat(Encoding.PCM16, rate) for rate in (8000, 16000, 22050, 24000, 44100, 48000)},
}


def failed(kind: str) -> Message:
    return packed({"message_type": kind, "error": "no"})


class ScribeCloud(ListeningCloud):
    path = "/v1/speech-to-text/realtime"

    def __init__(self, *, key: str = "k", acuity: Acuity | None = None) -> None:
        super().__init__(key=key, acuity=acuity)

    def check(self, request: Request) -> None:
        if request.path != self.path:
            raise self.refuse(404, "path")

    def session(self, request: Request) -> Session:
        if request.headers.get("xi-api-key") != self.key and request.one("token") != self.key:
            raise Broken("key", 1008, failed("auth_error"))
        silence_s = float(request.one("vad_silence_threshold_secs", "0.5"))
        is_right = request.one("commit_strategy", "manual") in ("vad", "manual") and 0.3 <= silence_s <= 3
        if request.one("audio_format") not in FORMATS or not request.one("model_id") or not is_right:
            raise Broken("parameters", 1008, failed("invalid_request"))
        return ScribeSession(self, request)


class ScribeSession(Session):
    def __init__(self, cloud: ScribeCloud, request: Request) -> None:
        self._format = request.one("audio_format")
        super().__init__(FORMATS[self._format], cloud.acuity)
        self._commits_itself = request.one("commit_strategy") == "vad"
        self._has_times = request.one("include_timestamps") == "true"

    def opened(self) -> list[Message]:
        config = {"sample_rate": self.line.rate_hz, "audio_format": self._format}
        return [packed({"message_type": "session_started", "session_id": "s1", "config": config})]

    def on_text(self, said: dict[str, Any]) -> list[Message]:
        if said.get("message_type") != "input_audio_chunk" or said.get("sample_rate") != self.line.rate_hz:
            raise Broken("input", 1008, failed("input_error"))
        self.told.texts.pop()  # it holds the audio, which is counted
        try:
            audio = b64decode(said["audio_base_64"], validate=True)
        except (KeyError, TypeError, binascii.Error):
            raise Broken("audio", 1008, failed("input_error")) from None
        heard = super().on_audio(audio) if audio else []
        return [*heard, *(self.on_sounds(self.ear.finish()) if said.get("commit") else [])]

    def on_audio(self, audio: bytes) -> list[Message]:
        raise Broken("binary", 1008, failed("input_error"))

    def on_sound(self, sound: Sound) -> list[Message]:
        match sound.kind:
            case "words":
                return [packed({"message_type": "partial_transcript", "text": sound.text})]
            case "over" if sound.text:
                committed = packed({"message_type": "committed_transcript", "text": sound.text})
                return [committed, self._with_times(sound)] if self._has_times else [committed]
        return []

    def _with_times(self, sound: Sound) -> Message:
        words = [
            {"text": word, "start": begins, "end": ends, "type": "word", "logprob": 0.0}
            for word, begins, ends in sound.words()
        ]
        kind = "committed_transcript_with_timestamps"
        return packed({"message_type": kind, "text": sound.text, "language_code": "en", "words": words})
