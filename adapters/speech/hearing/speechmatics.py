"""Speechmatics, realtime API version 2: words as text, turns by silence (EndOfUtterance)."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import orjson

from adapters.speech.hearing.streaming import StreamingTranscriber, open_hearing
from adapters.speech.hearing.utterances import LOST_S, Utterances
from engine.errors import BadMessage, SpeechFailed, Why
from engine.events import AudioFormat, CallInfo, Encoding
from engine.ports import Owner
from engine.runtime.feed import Feeding, Message
from engine.runtime.network import Network
from engine.runtime.vendor_json import dict_of, dicts_of, number_of, object_of, text_of, whole_of, word_of

PIECE_S = 0.1
_SLACK_S = 0.05
"""Times of words that follow each other may overlap by so much."""
_RETRY_S = 5.0
"""What the vendor asks for between two tries at a full quota."""
_WHY = {
    "not_authorised": Why.AUTH,
    "not_allowed": Why.AUTH,
    "timelimit_exceeded": Why.AUTH,
    "quota_exceeded": Why.RATE_LIMITED,
    "invalid_message": Why.BAD_REQUEST,
    "invalid_model": Why.BAD_REQUEST,
    "invalid_language": Why.BAD_REQUEST,
    "invalid_config": Why.BAD_REQUEST,
    "invalid_audio_type": Why.BAD_REQUEST,
    "protocol_error": Why.BAD_REQUEST,
    "idle_timeout": Why.CUT,
    "session_timeout": Why.CUT,
}
_WHY_CLOSED = {
    1003: Why.BAD_REQUEST,
    1008: Why.AUTH,
    1011: Why.UNREACHABLE,
    4001: Why.AUTH,
    4003: Why.AUTH,
    4004: Why.BAD_REQUEST,
    4005: Why.RATE_LIMITED,
    4006: Why.AUTH,
    4013: Why.UNREACHABLE,
}


@dataclass(frozen=True, slots=True)
class SpeechmaticsConfig:
    key: str = field(repr=False)
    """API key, or a temporary one (JWT)."""
    name: str = "speechmatics"
    """Metric label."""
    url: str = "wss://eu.rt.speechmatics.com/v2"
    """By region: ``eu``, ``us``, ``global``."""
    model: str = "enhanced"
    """``standard``, ``enhanced`` or ``melia-1``."""
    language: str = "en"
    max_delay_s: float = 0.7
    """Longest wait for final words, 0.7 to 4."""
    silence_s: float = 0.5
    """Silence that ends an utterance: above 0, at most 2, below ``max_delay_s``."""
    decides_turns: bool = True
    """An utterance's end is the turn's; else the engine's own end of turn decides."""
    vocabulary: tuple[str, ...] = ()
    """Words that are to be expected."""
    transcription: Mapping[str, Any] = field(default_factory=dict)
    """More of the vendor's ``transcription_config``, as it is sent."""

    def __post_init__(self) -> None:
        """Raises ValueError for what the vendor would refuse in the first call."""
        if not 0.7 <= self.max_delay_s <= 4:
            raise ValueError("max_delay_s must be 0.7 to 4")
        if not 0 < self.silence_s < min(self.max_delay_s, 2.001):
            raise ValueError("silence_s must be above 0, at most 2 and below max_delay_s")


class SpeechmaticsTranscriberVendor:
    """Implements ``engine.ports.TranscriberVendor``."""

    def __init__(self, config: SpeechmaticsConfig, network: Network) -> None:
        self.name = config.name
        self._config = config
        self._network = network

    def open(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[StreamingTranscriber]:
        """Raises SpeechFailed."""

        def wire(utterances: Utterances) -> SpeechmaticsWire:
            return SpeechmaticsWire(self._config, call.format, utterances)

        config = self._config
        lost_s = config.silence_s + config.max_delay_s + LOST_S
        return open_hearing(self.name, self._network, call, wire, decides_turns=config.decides_turns, lost_s=lost_s)


class SpeechmaticsWire:
    """Implements ``adapters.speech.hearing.streaming.Wire``."""

    def __init__(self, config: SpeechmaticsConfig, line: AudioFormat, utterances: Utterances) -> None:
        self.url = config.url
        self.headers = {"authorization": f"Bearer {config.key}"}
        self.feeding = Feeding(self._count, line.bytes_per_s, PIECE_S)
        self.is_ready = False
        self.is_over = False
        self._config = config
        self._line = line
        self._utterances = utterances
        self._sent = 0
        self._acknowledged = 0
        self._space = " "
        """Between two words of the language."""
        self._finals = ""
        self._ends_s: float | None = None
        """Where the last final word ends."""
        self._begins_s: float | None = None
        self._done_s = 0.0
        """Up to here everything is final, and told."""
        self._recent: deque[tuple[float, float, str]] = deque(maxlen=32)

    def greeting(self) -> Sequence[Message]:
        config = self._config
        encoding = "mulaw" if self._line.encoding is Encoding.MULAW else "pcm_s16le"
        transcription: dict[str, Any] = {
            "language": config.language,
            "model": config.model,
            "enable_partials": True,
            "max_delay": config.max_delay_s,
            "conversation_config": {"end_of_utterance_silence_trigger": config.silence_s},
        }
        if config.vocabulary:
            transcription["additional_vocab"] = [{"content": word} for word in config.vocabulary]
        start = {
            "message": "StartRecognition",
            "audio_format": {"type": "raw", "encoding": encoding, "sample_rate": self._line.rate_hz},
            "transcription_config": {**transcription, **config.transcription},
        }
        return [orjson.dumps(start).decode()]

    def receive(self, message: Message) -> None:
        said = object_of(message)
        match said.get("message"):
            case "AudioAdded":
                self._acknowledged = min(self._sent, whole_of(said, "seq_no") or 0)
            case "AddPartialTranscript":
                self._on_partial(said)
            case "AddTranscript":
                self._on_final(said)
            case "EndOfUtterance":
                self._finish()
            case "RecognitionStarted":
                self.is_ready = True
                delimiter = dict_of(said, "language_pack_info").get("word_delimiter")
                self._space = delimiter if isinstance(delimiter, str) and len(delimiter) < 2 else " "
            case "EndOfTranscript":
                self.is_over = True
            case "Error":
                kind = word_of(said.get("type"))
                why = _WHY.get(kind, Why.FAILED)
                wait_s = _RETRY_S if why is Why.RATE_LIMITED else None
                raise SpeechFailed(self._config.name, kind, why=why, retry_after_s=wait_s)
            case str():
                pass  # Info, Warning, and whatever is added to the protocol
            case _:
                raise BadMessage("shape")

    def gave_up(self) -> None:
        self._done_s = max(self._done_s, self._ends_s or 0.0)
        self._forget()

    def backlog_s(self, dropped: int) -> float:
        return (self._sent - dropped - self._acknowledged) * PIECE_S

    def farewell(self, dropped: int) -> Sequence[Message]:
        return [orjson.dumps({"message": "EndOfStream", "last_seq_no": self._sent - dropped}).decode()]

    def why_closed(self, code: int | None) -> Why:
        return _WHY_CLOSED.get(code or 0, Why.CUT)

    def _count(self, audio: bytes) -> Message:
        self._sent += 1
        return audio

    def _on_partial(self, said: dict[str, Any]) -> None:
        text, start_s, end_s = _words(said)
        if self._is_done(start_s):
            return
        if text.strip():
            self._ends_s = end_s
            self._utterances.interim(self._joined(text), self._first(start_s), end_s)

    def _on_final(self, said: dict[str, Any]) -> None:
        text, start_s, end_s = _words(said)
        if not text.strip():
            return
        piece = (start_s or 0.0, end_s or 0.0, text)
        if piece in self._recent or self._is_done(start_s):
            return
        self._recent.append(piece)
        joined = self._joined(text)
        self._utterances.interim(joined, self._first(start_s), end_s)
        self._finals = joined
        self._ends_s = end_s
        self._done_s = max(self._done_s, end_s or 0.0)

    def _finish(self) -> None:
        self._utterances.finish(self._finals or self._utterances.text, self._begins_s, self._ends_s)
        self.gave_up()

    def _is_done(self, start_s: float | None) -> bool:
        return start_s is not None and start_s < self._done_s - _SLACK_S

    def _first(self, start_s: float | None) -> float | None:
        if self._begins_s is None:
            self._begins_s = start_s
        return self._begins_s

    def _joined(self, text: str) -> str:
        """Final text brings its own spaces; one that does not is given one, unless it is punctuation."""
        if not self._finals or self._finals.endswith(" ") or not text[:1].isalnum():
            return self._finals + text
        return self._finals + self._space + text

    def _forget(self) -> None:
        self._finals = ""
        self._begins_s = self._ends_s = None


def _words(said: dict[str, Any]) -> tuple[str, float | None, float | None]:
    """Text, and where its first word begins and its last ends."""
    metadata = dict_of(said, "metadata")
    results = dicts_of(said, "results")
    start_s, end_s = number_of(metadata, "start_time"), number_of(metadata, "end_time")
    if results:
        start_s = number_of(results[0], "start_time") or start_s
        end_s = number_of(results[-1], "end_time") or end_s
    return text_of(metadata, "transcript"), start_s, end_s
