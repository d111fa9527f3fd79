"""Deepgram's live transcription, version 2 (Flux)."""

from __future__ import annotations

from typing import Any

from engine.events import AudioFormat
from tests.fakes.clouds.deepgram_listen import ENCODINGS, may_enter
from tests.fakes.clouds.listening import Acuity, Broken, ListeningCloud, Message, Session, Sound, packed
from tests.fakes.clouds.loopback import Request


class FluxCloud(ListeningCloud):
    path = "/v2/listen"

    def __init__(self, *, key: str = "k", acuity: Acuity | None = None) -> None:
        super().__init__(key=key, acuity=acuity)
        self.word_times = False

    def check(self, request: Request) -> None:
        if request.path != self.path:
            raise self.refuse(404, "path")
        if not may_enter(self, request):
            raise self.refuse(401, "key")
        if request.one("encoding") not in ENCODINGS or not request.one("sample_rate").isdigit():
            raise self.refuse(400, "encoding")
        eager, end = float(request.one("eager_eot_threshold", "0.3")), float(request.one("eot_threshold", "0.7"))
        if not request.one("model").startswith("flux-") or not 0.3 <= eager <= end <= 1.0 or end < 0.5:
            raise self.refuse(400, "parameters")

    def session(self, request: Request) -> Session:
        return FluxSession(self, request)


class FluxSession(Session):
    def __init__(self, cloud: FluxCloud, request: Request) -> None:
        line = AudioFormat(ENCODINGS[request.one("encoding")], int(request.one("sample_rate")))
        super().__init__(line, cloud.acuity)
        self._cloud = cloud
        self._is_eager = "eager_eot_threshold" in request.query
        self._sequence = -1
        self._turn = 0
        self._is_started = False
        self._may_resume = False

    def opened(self) -> list[Message]:
        return [self._numbered({"type": "Connected", "request_id": "r1"})]

    def on_text(self, said: dict[str, Any]) -> list[Message]:
        match said.get("type"):
            case "CloseStream":
                self.is_over = self.told.ended_politely = True
                return self.on_sounds(self.ear.finish())
            case "Configure":
                return [self._numbered({"type": "ConfigureSuccess", "request_id": "r1"})]
            case "ForceEndTurn":
                return self.on_sounds(self.ear.finish())
        raise Broken("unknown message", 1008, self.failed("UNPARSABLE_CLIENT_MESSAGE"))

    def on_audio(self, audio: bytes) -> list[Message]:
        if not audio:
            raise Broken("empty audio", 1008, self.failed("UNPARSABLE_CLIENT_MESSAGE"))
        return super().on_audio(audio)

    def on_sound(self, sound: Sound) -> list[Message]:
        if not sound.text:
            return []
        match sound.kind:
            case "words":
                event = "Update" if self._is_started else "StartOfTurn"
                self._is_started = True
                return [self._info(event, sound)]
            case "pause" if self._is_eager:
                self._may_resume = True
                return [self._info("EagerEndOfTurn", sound, 0.5)]
            case "resumed" if self._may_resume:
                self._may_resume = False
                return [self._info("TurnResumed", sound, 0.2)]
            case "over":
                end = self._info("EndOfTurn", sound, 0.9)
                self._turn += 1
                self._is_started = self._may_resume = False
                return [end]
        return []

    def failed(self, code: str) -> Message:
        return self._numbered({"type": "Error", "code": code, "description": "no"})

    def _info(self, event: str, sound: Sound, confidence: float = 0.1) -> Message:
        words: list[dict[str, object]] = [{"word": word, "confidence": 0.99} for word, *_ in sound.words()]
        if self._cloud.word_times:
            for word, (_, begins, ends) in zip(words, sound.words(), strict=True):
                word.update(start=begins, end=ends)
        info: dict[str, Any] = {
            "type": "TurnInfo",
            "request_id": "r1",
            "event": event,
            "turn_index": self._turn,
            "audio_window_start": max(0.0, round(sound.begins_s - 0.1, 3)),
            "audio_window_end": sound.at_s,
            "transcript": sound.text,
            "words": words,
            "end_of_turn_confidence": confidence,
        }
        return self._numbered({**info, "trigger": "model"} if event == "EndOfTurn" else info)

    def _numbered(self, message: dict[str, Any]) -> Message:
        self._sequence += 1
        return packed({**message, "sequence_id": self._sequence})
