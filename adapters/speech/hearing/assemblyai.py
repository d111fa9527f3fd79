"""AssemblyAI, streaming version 3: turns by meaning and silence, and once more with punctuation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import orjson

from adapters.speech.hearing.streaming import StreamingTranscriber, open_hearing
from adapters.speech.hearing.utterances import LOST_S, Utterances
from engine.errors import BadMessage, SpeechFailed, Why
from engine.events import FRAME_S, AudioFormat, CallInfo, Encoding
from engine.ports import Owner
from engine.runtime.feed import Feeding, Message
from engine.runtime.network import Network
from engine.runtime.vendor_json import dicts_of, number_of, object_of, text_of, whole_of, word_of

PIECE_S = 0.06
LEAST_PIECE_S = 0.05
"""Less is refused."""
KEEP_ALIVE_S = 4.0
FORMATTED_S = 0.5
"""How long a turn that is over waits for its punctuation; then it is used without."""
VERSION = "2025-05-12"
_WHY = {
    3005: Why.UNREACHABLE,
    3006: Why.BAD_REQUEST,
    3007: Why.BAD_REQUEST,
    3008: Why.CUT,
    3009: Why.RATE_LIMITED,
    1008: Why.AUTH,
    1011: Why.UNREACHABLE,
    1013: Why.RATE_LIMITED,
    4000: Why.BAD_REQUEST,
    4001: Why.AUTH,
    4002: Why.AUTH,
    4003: Why.AUTH,
    4008: Why.CUT,
    4010: Why.CUT,
    4029: Why.RATE_LIMITED,
    4031: Why.CUT,
    4032: Why.BAD_REQUEST,
    4033: Why.BAD_REQUEST,
    4034: Why.BAD_REQUEST,
    4100: Why.BAD_REQUEST,
    4101: Why.BAD_REQUEST,
    4102: Why.RATE_LIMITED,
}
"""Of close codes and of error messages alike."""


@dataclass(frozen=True, slots=True)
class AssemblyAIConfig:
    key: str = field(repr=False)
    name: str = "assemblyai"
    """Metric label."""
    url: str = "wss://streaming.assemblyai.com/v3/ws"
    model: str = "universal-3-5-pro"
    format_turns: bool | None = None
    """Have each turn told again with punctuation, and use that; None: if the model is one of ``universal-streaming``,
    which do not punctuate unasked."""
    end_confidence: float | None = None
    """Confidence that ends a turn, 0 to 1; None: the vendor's own."""
    silence_s: float | None = None
    """Silence that ends a turn which looks finished; None: the vendor's own."""
    longest_silence_s: float | None = None
    """Silence that ends any turn; None: the vendor's own."""
    keyterms: tuple[str, ...] = ()
    """Words that are to be expected."""
    query: Mapping[str, str] = field(default_factory=dict)
    """More of the vendor's query parameters, as they are sent."""

    @property
    def tells_turns_twice(self) -> bool:
        return self.model.startswith("universal-streaming") if self.format_turns is None else self.format_turns


class AssemblyAITranscriberVendor:
    """Implements ``engine.ports.TranscriberVendor``."""

    def __init__(self, config: AssemblyAIConfig, network: Network) -> None:
        self.name = config.name
        self._config = config
        self._network = network

    def open(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[StreamingTranscriber]:
        """Raises SpeechFailed."""

        def wire(utterances: Utterances) -> AssemblyAIWire:
            return AssemblyAIWire(self._config, call.format, utterances)

        lost_s = (self._config.longest_silence_s or 0.0) + LOST_S
        return open_hearing(self.name, self._network, call, wire, decides_turns=True, lost_s=lost_s)


class AssemblyAIWire:
    """Implements ``adapters.speech.hearing.streaming.Wire``."""

    def __init__(self, config: AssemblyAIConfig, line: AudioFormat, utterances: Utterances) -> None:
        self.url = f"{config.url}?{urlencode(_query(config, line))}"
        self.headers = {"authorization": config.key, "assemblyai-version": VERSION}
        self.feeding = Feeding(
            self._padded,
            line.bytes_per_s,
            PIECE_S,
            keep_alive=lambda: '{"type":"KeepAlive"}',
            keep_alive_s=KEEP_ALIVE_S,
        )
        self.is_ready = False
        self.is_over = False
        self._config = config
        self._line = line
        self._utterances = utterances
        self._formats = config.tells_turns_twice
        """The vendor tells turns again with punctuation, as asked: some of its models do not."""
        self._awaits_format = False
        self._turn = -1
        self._done_turn = -1
        self._told_s = 0.0
        """Up to here the words are final."""
        self._begins_s: float | None = None
        self._ends_s: float | None = None

    def greeting(self) -> Sequence[Message]:
        return ()

    def receive(self, message: Message) -> None:
        said = object_of(message)
        match said.get("type"):
            case "Turn":
                self._on_turn(said)
            case "SpeechStarted":
                self._on_voice(number_of(said, "timestamp"))
            case "Begin":
                self.is_ready = True
            case "Termination":
                self.is_over = True
            case "Error":
                code = whole_of(said, "error_code")
                raise SpeechFailed(self._config.name, word_of(code), why=_WHY.get(code or 0, Why.FAILED))
            case None if "error" in said:
                raise SpeechFailed(self._config.name, "an error")
            case str():
                pass
            case _:
                raise BadMessage("shape")

    def gave_up(self) -> None:
        self._done_turn = max(self._done_turn, self._turn)
        self._formats = self._formats and not self._awaits_format

    def backlog_s(self, dropped: int) -> float:
        return 0.0

    def farewell(self, dropped: int) -> Sequence[Message]:
        return ['{"type":"Terminate"}']

    def why_closed(self, code: int | None) -> Why:
        return _WHY.get(code or 0, Why.CUT)

    def _padded(self, audio: bytes) -> Message:
        """The last piece before the line falls silent, or the call ends, may be too short."""
        if (missing_s := PIECE_S - self._line.duration_s(audio)) > PIECE_S - LEAST_PIECE_S:
            silence = self._line.silence(missing_s + FRAME_S / 2)
            self._utterances.clock.sent(self._line.duration_s(silence), self._utterances.now())
            audio += silence
        return audio

    def _on_voice(self, at_ms: float | None) -> None:
        """Voice activity; of what has its words already it is late."""
        if at_ms is None or at_ms / 1000 >= self._told_s:
            self._utterances.start(None if at_ms is None else at_ms / 1000)

    def _on_turn(self, said: dict[str, Any]) -> None:
        turn = whole_of(said, "turn_order")
        if turn is None:
            raise BadMessage("shape")
        is_formatted = said.get("turn_is_formatted") is True
        if turn <= self._done_turn:
            self._formats = self._formats or (is_formatted and self._config.tells_turns_twice)
            return
        text, begins_s, ends_s = _words(said)
        if turn > self._turn:
            self._begin(turn)
        if text:
            self._begins_s = begins_s if self._begins_s is None else self._begins_s
            self._ends_s = ends_s
        is_over = said.get("end_of_turn") is True
        if is_over and (is_formatted or not self._formats or not text):
            self._done_turn = self._turn
            self._told_s = max(self._told_s, self._ends_s or 0.0)
            self._awaits_format = False
            self._utterances.finish(text, self._begins_s, self._ends_s)
            return
        self._utterances.interim(text, self._begins_s, ends_s)
        if is_over:
            self._awaits_format = True
            self._utterances.likely_over(FORMATTED_S)
        elif text_of(said, "utterance"):  # a pause; the turn may go on
            self._utterances.likely_over()

    def _begin(self, turn: int) -> None:
        """A new turn; one before it whose punctuation never came is over."""
        if self._turn > self._done_turn and self._utterances.text:
            self._utterances.finish(self._utterances.text, self._begins_s, self._ends_s)
        self._awaits_format = False
        self._turn = turn
        self._done_turn = turn - 1
        self._begins_s = self._ends_s = None


def _query(config: AssemblyAIConfig, line: AudioFormat) -> list[tuple[str, str]]:
    query = {
        "sample_rate": str(line.rate_hz),
        "encoding": "pcm_mulaw" if line.encoding is Encoding.MULAW else "pcm_s16le",
        "speech_model": config.model,
    }
    if config.tells_turns_twice:
        query["format_turns"] = "true"
    if config.end_confidence is not None:
        query["end_of_turn_confidence_threshold"] = str(config.end_confidence)
    if config.silence_s is not None:
        query["min_turn_silence"] = str(round(config.silence_s * 1000))
    if config.longest_silence_s is not None:
        query["max_turn_silence"] = str(round(config.longest_silence_s * 1000))
    if config.keyterms:
        query["keyterms_prompt"] = orjson.dumps(list(config.keyterms)).decode()
    query.update(config.query)
    return list(query.items())


def _words(said: dict[str, Any]) -> tuple[str, float | None, float | None]:
    """The words so far, those that may change among them, and where the first begins and the last ends."""
    words = dicts_of(said, "words")
    text = text_of(said, "transcript").strip()
    if not words:
        return text, None, None
    if said.get("end_of_turn") is not True:
        text = " ".join(text_of(word, "text") for word in words)
    begins_ms, ends_ms = number_of(words[0], "start"), number_of(words[-1], "end")
    return text, None if begins_ms is None else begins_ms / 1000, None if ends_ms is None else ends_ms / 1000
