"""AssemblyAI's streaming transcription, version 3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.events import AudioFormat, Encoding
from tests.fakes.clouds.listening import Acuity, Broken, ListeningCloud, Message, Session, Sound, packed
from tests.fakes.clouds.loopback import Request

ENCODINGS = {"pcm_mulaw": Encoding.MULAW, "pcm_s16le": Encoding.PCM16}


def failed(code: int) -> Message:
    return packed({"type": "Error", "error_code": code, "error": "no"})


class AssemblyAICloud(ListeningCloud):
    path = "/v3/ws"

    def __init__(self, *, key: str = "k", acuity: Acuity | None = None) -> None:
        super().__init__(key=key, acuity=acuity)
        self.punctuate: Callable[[str], str] = str
        """Makes the formatted text of a turn."""
        self.never_formats = False

    def check(self, request: Request) -> None:
        if request.path != self.path:
            raise self.refuse(404, "path")
        if request.headers.get("authorization") != self.key and request.one("token") != self.key:
            raise self.refuse(401, "key")
        if request.one("encoding", "pcm_s16le") not in ENCODINGS or not request.one("sample_rate").isdigit():
            raise self.refuse(400, "encoding")

    def session(self, request: Request) -> Session:
        return AssemblyAISession(self, request)


class AssemblyAISession(Session):
    def __init__(self, cloud: AssemblyAICloud, request: Request) -> None:
        encoding = ENCODINGS[request.one("encoding", "pcm_s16le")]
        super().__init__(AudioFormat(encoding, int(request.one("sample_rate"))), cloud.acuity)
        self._cloud = cloud
        self._formats = request.one("format_turns").lower() == "true"
        self._turn = 0
        self.idle_s = float(request.one("inactivity_timeout", "inf"))

    def opened(self) -> list[Message]:
        begin = {"type": "Begin", "id": "s1", "expires_at": 1795000000}
        return [packed({**begin, "configuration": {"model": "m", "mode": "balanced", "api_version": "v3"}})]

    def on_text(self, said: dict[str, Any]) -> list[Message]:
        match said.get("type"):
            case "KeepAlive" | "UpdateConfiguration":
                return []
            case "ForceEndpoint":
                return self.on_sounds(self.ear.finish())
            case "Terminate":
                self.is_over = self.told.ended_politely = True
                seconds = {"audio_duration_seconds": int(self.told.audio_s), "session_duration_seconds": 0}
                return [*self.on_sounds(self.ear.finish()), packed({"type": "Termination", **seconds})]
        raise Broken("unknown message", 4101, failed(4101))

    def on_audio(self, audio: bytes) -> list[Message]:
        if not 0.0499 < self.line.duration_s(audio) < 1.0001:
            raise Broken("length of audio", 3007, failed(3007))
        return super().on_audio(audio)

    def idled(self) -> Broken:
        return Broken("idle", 4031, failed(4031))

    def on_sound(self, sound: Sound) -> list[Message]:
        match sound.kind:
            case "voice":
                return [packed({"type": "SpeechStarted", "timestamp": round(sound.begins_s * 1000)})]
            case "words":
                return [self._info(sound)]
            case "over" if sound.text:
                raw = self._info(sound, end=True)
                formatted = self._info(sound, end=True, formatted=True)
                self._turn += 1
                return [raw, formatted] if self._formats and not self._cloud.never_formats else [raw]
        return []

    def _info(self, sound: Sound, *, end: bool = False, formatted: bool = False) -> Message:
        words = sound.words()
        told = [
            {
                "text": word,
                "start": round(begins * 1000),
                "end": round(ends * 1000),
                "confidence": 0.99,
                "word_is_final": end or number + 1 < len(words),
            }
            for number, (word, begins, ends) in enumerate(words)
        ]
        settled = sound.text if end else " ".join(word for word, *_ in words[:-1])
        return packed(
            {
                "type": "Turn",
                "turn_order": self._turn,
                "turn_is_formatted": formatted,
                "end_of_turn": end,
                "transcript": self._cloud.punctuate(settled) if formatted else settled,
                "end_of_turn_confidence": 0.9 if end else 0.1,
                "words": told,
            }
        )
