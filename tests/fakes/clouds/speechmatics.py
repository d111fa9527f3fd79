"""Speechmatics' realtime API, version 2."""

from __future__ import annotations

from typing import Any

from engine.events import PCM16_16K, AudioFormat, Encoding
from tests.fakes.clouds.listening import Acuity, Broken, Ear, ListeningCloud, Message, Session, Sound, packed
from tests.fakes.clouds.loopback import Request

_CODES = {"not_authorised": 4001, "not_allowed": 4003, "invalid_model": 4004, "quota_exceeded": 4005}


def failed(kind: str, reason: str = "no") -> Message:
    return packed({"message": "Error", "type": kind, "reason": reason, "code": _CODES.get(kind, 1003)})


class SpeechmaticsCloud(ListeningCloud):
    path = "/v2"

    def __init__(self, *, key: str = "k", acuity: Acuity | None = None) -> None:
        super().__init__(key=key, acuity=acuity)
        self.acknowledges = True
        self.talks_first = True
        """An Info comes before RecognitionStarted."""

    def check(self, request: Request) -> None:
        if request.path != self.path:
            raise self.refuse(404, "path")
        if request.headers.get("authorization") != f"Bearer {self.key}" and request.one("jwt") != self.key:
            raise self.refuse(401, "key")

    def session(self, request: Request) -> Session:
        return SpeechmaticsSession(self)


class SpeechmaticsSession(Session):
    def __init__(self, cloud: SpeechmaticsCloud) -> None:
        super().__init__(PCM16_16K, cloud.acuity)
        self._cloud = cloud
        self._is_started = False
        self._done = 0  # words that are final
        self._silence_s = 0.0
        self.last_seq_no = -1

    def on_text(self, said: dict[str, Any]) -> list[Message]:
        match said.get("message"):
            case "StartRecognition" if not self._is_started:
                return self._start(said)
            case "EndOfStream" if self._is_started:
                return self._end(said)
            case "ForceEndOfUtterance" | "SetRecognitionConfig" if self._is_started:
                return []
        raise self._broken("invalid_message")

    def on_audio(self, audio: bytes) -> list[Message]:
        if not self._is_started or not audio:
            raise self._broken("protocol_error")
        return super().on_audio(audio)

    def acknowledge(self) -> list[Message]:
        if not self._cloud.acknowledges:
            return []
        return [packed({"message": "AudioAdded", "seq_no": self.told.audio_messages})]

    def on_sound(self, sound: Sound) -> list[Message]:
        words = sound.words()
        match sound.kind:
            case "words" if len(words) > self._done:
                return [self._transcript("AddPartialTranscript", words[self._done :])]
            case "pause" if len(words) > self._done:
                said = words[self._done :]
                self._done = len(words)
                return [self._transcript("AddTranscript", said)]
            case "over":
                rest, self._done = words[self._done :], 0
                end = {"start_time": sound.ends_s, "end_time": sound.ends_s}
                final = self._transcript("AddTranscript", rest, at_s=sound.ends_s)
                over = packed({"message": "EndOfUtterance", "metadata": end})
                return [final, over] if words and self._silence_s else [final] if words else []
        return []

    def _start(self, said: dict[str, Any]) -> list[Message]:
        audio, config = said.get("audio_format", {}), said.get("transcription_config", {})
        encodings = {"mulaw": Encoding.MULAW, "pcm_s16le": Encoding.PCM16}
        if audio.get("type") != "raw" or audio.get("encoding") not in encodings:
            raise self._broken("invalid_audio_type")
        if not config.get("language"):
            raise self._broken("invalid_language")
        if config.get("model", "enhanced") not in ("standard", "enhanced", "melia-1"):
            raise self._broken("invalid_model")
        self._silence_s = (config.get("conversation_config") or {}).get("end_of_utterance_silence_trigger") or 0.0
        delay_s = config.get("max_delay") or 4.0
        is_right = 0 <= self._silence_s <= 2 and self._silence_s < delay_s and 0.7 <= delay_s <= 4
        if ("operating_point" in config and "model" in config) or not is_right:
            raise self._broken("invalid_config")
        self.line = AudioFormat(encodings[audio["encoding"]], int(audio["sample_rate"]))
        self.ear = Ear(self.line, self._cloud.acuity)
        self._is_started = True
        info = {"message": "Info", "type": "recognition_quality", "reason": "", "quality": "telephony"}
        pack = {"word_delimiter": " ", "writing_direction": "left-to-right"}
        started = {
            "message": "RecognitionStarted",
            "id": "r1",
            "orchestrator_version": "1",
            "language_pack_info": pack,
        }
        return [*([packed(info)] if self._cloud.talks_first else []), packed(started)]

    def _end(self, said: dict[str, Any]) -> list[Message]:
        """The official client tells the number of the last frame acknowledged, which may be less than were sent."""
        self.last_seq_no = said.get("last_seq_no", -1)
        if not 0 <= self.last_seq_no <= self.told.audio_messages:
            raise self._broken("protocol_error")
        self.is_over = self.told.ended_politely = True
        return [*self.on_sounds(self.ear.finish()), packed({"message": "EndOfTranscript"})]

    def _transcript(self, message: str, words: list[tuple[str, float, float]], at_s: float = 0.0) -> Message:
        results = [
            {
                "type": "word",
                "start_time": begins,
                "end_time": ends,
                "alternatives": [{"content": word, "confidence": 1.0, "language": "en"}],
            }
            for word, begins, ends in words
        ]
        metadata = {
            "start_time": words[0][1] if words else at_s,
            "end_time": words[-1][2] if words else at_s,
            "transcript": "".join(f"{word} " for word, *_ in words),
        }
        return packed({"message": message, "format": "2.1", "metadata": metadata, "results": results})

    def _broken(self, kind: str) -> Broken:
        return Broken(kind, _CODES.get(kind, 1003), failed(kind))
