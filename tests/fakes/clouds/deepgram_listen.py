"""Deepgram's live transcription, version 1."""

from __future__ import annotations

from typing import Any

from engine.events import AudioFormat, Encoding
from tests.fakes.clouds.listening import Acuity, Broken, ListeningCloud, Message, Session, Sound, packed
from tests.fakes.clouds.loopback import Request

ENCODINGS = {"mulaw": Encoding.MULAW, "linear16": Encoding.PCM16}


def may_enter(cloud: ListeningCloud, request: Request) -> bool:
    offered = request.headers.get("authorization", "")
    return offered in (f"Token {cloud.key}", f"Bearer {cloud.key}")


def failed(variant: str = "ServerError") -> Message:
    return packed({"type": "Error", "variant": variant, "description": "no", "message": "no"})


class DeepgramCloud(ListeningCloud):
    path = "/v1/listen"

    def __init__(self, *, key: str = "k", acuity: Acuity | None = None) -> None:
        super().__init__(key=key, acuity=acuity)
        self.says_speech_final = True
        """Else only UtteranceEnd tells that somebody has stopped."""

    def check(self, request: Request) -> None:
        if request.path != self.path:
            raise self.refuse(404, "path")
        if not may_enter(self, request):
            raise self.refuse(401, "key")
        gap_ms = int(request.one("utterance_end_ms", "1000"))
        has_interims = request.one("interim_results") == "true"
        if request.one("encoding") not in ENCODINGS or not request.one("sample_rate").isdigit():
            raise self.refuse(400, "encoding")
        if gap_ms < 1000 or ("utterance_end_ms" in request.query and not has_interims):
            raise self.refuse(400, "utterance_end_ms")

    def session(self, request: Request) -> Session:
        return DeepgramSession(self, request)


class DeepgramSession(Session):
    idle_s = 10.0

    def __init__(self, cloud: DeepgramCloud, request: Request) -> None:
        line = AudioFormat(ENCODINGS[request.one("encoding")], int(request.one("sample_rate")))
        super().__init__(line, cloud.acuity)
        self._cloud = cloud
        self._has_interims = request.one("interim_results") == "true"
        self._has_voice = request.one("vad_events") == "true"
        self._has_ends = "utterance_end_ms" in request.query
        self._done = 0  # words that are final
        self._done_s = 0.0

    def on_text(self, said: dict[str, Any]) -> list[Message]:
        match said.get("type"):
            case "KeepAlive":
                return []
            case "Finalize":
                return self.on_sounds(self.ear.finish())
            case "CloseStream":
                self.is_over = self.told.ended_politely = True
                rest = self.on_sounds(self.ear.finish())
                metadata = {"type": "Metadata", "transaction_key": "d", "request_id": "r1", "sha256": "0"}
                more = {"created": "2026-11-21T00:00:00Z", "duration": self.ear.heard_s, "channels": 1}
                return [*rest, packed({**metadata, **more})]
        raise Broken("unknown message", 1008, failed("SchemaError"))

    def on_audio(self, audio: bytes) -> list[Message]:
        if not audio:
            raise Broken("empty audio", 1011)
        return super().on_audio(audio)

    def on_sound(self, sound: Sound) -> list[Message]:
        words = sound.words()
        match sound.kind:
            case "voice" if self._has_voice:
                return [packed({"type": "SpeechStarted", "channel": [0, 1], "timestamp": sound.begins_s})]
            case "words" if self._has_interims:
                return [self._results(sound, words[self._done :])]
            case "pause" if words:
                return [self._final(sound, words)]
            case "over":
                final = self._final(sound, words, speech_final=bool(words) and self._cloud.says_speech_final)
                self._done = 0
                end = {"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": sound.ends_s}
                return [final, packed(end)] if words and self._has_ends else [final]
        return []

    def idled(self) -> Broken:
        return Broken("NET-0001", 1011)

    def _final(self, sound: Sound, words: list[tuple[str, float, float]], speech_final: bool = False) -> Message:
        final = self._results(sound, words[self._done :], is_final=True, speech_final=speech_final)
        self._done, self._done_s = len(words), sound.at_s
        return final

    def _results(
        self,
        sound: Sound,
        words: list[tuple[str, float, float]],
        *,
        is_final: bool = False,
        speech_final: bool = False,
    ) -> Message:
        best = {
            "transcript": " ".join(word for word, *_ in words),
            "confidence": 0.99,
            "words": [
                {"word": word, "start": begins, "end": ends, "confidence": 0.99, "punctuated_word": word}
                for word, begins, ends in words
            ],
        }
        return packed(
            {
                "type": "Results",
                "channel_index": [0, 1],
                "duration": round(sound.at_s - self._done_s, 3),
                "start": self._done_s,
                "is_final": is_final,
                "speech_final": speech_final,
                "from_finalize": False,
                "channel": {"alternatives": [best]},
                "metadata": {
                    "request_id": "r1",
                    "model_info": {"name": "general", "version": "1", "arch": "nova-3"},
                    "model_uuid": "m1",
                },
            }
        )
