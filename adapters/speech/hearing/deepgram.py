"""Deepgram, live transcription version 1: voice activity, results in pieces, turns by silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from adapters.speech.hearing.streaming import StreamingTranscriber, open_hearing
from adapters.speech.hearing.utterances import WORDLESS_S, Utterances
from engine.errors import BadMessage, SpeechFailed, Why
from engine.events import AudioFormat, CallInfo, Encoding
from engine.ports import Owner
from engine.runtime.feed import Feeding, Message
from engine.runtime.network import Network
from engine.runtime.vendor_json import dict_of, dicts_of, number_of, object_of, text_of, word_of

PIECE_S = 0.04
KEEP_ALIVE_S = 4.0
"""The vendor closes after ten seconds without audio or keep-alive."""
_SLACK_S = 0.01
_WHY_CLOSED = {1008: Why.BAD_REQUEST, 1003: Why.BAD_REQUEST, 1013: Why.RATE_LIMITED}


@dataclass(frozen=True, slots=True)
class DeepgramConfig:
    key: str = field(repr=False)
    name: str = "deepgram"
    """Metric label."""
    url: str = "wss://api.deepgram.com/v1/listen"
    model: str = "nova-3"
    language: str = "en"
    endpointing_s: float = 0.3
    """Silence after which the words so far are final."""
    utterance_end_s: float = 1.0
    """The same, counted between words, where noise hides the silence; at least 1."""
    smart_format: bool = True
    """Numbers, times and the like as they are written."""
    decides_turns: bool = True
    """That silence is the turn's end; else the engine's own end of turn decides."""
    keyterms: tuple[str, ...] = ()
    """Words that are to be expected."""
    query: Mapping[str, str] = field(default_factory=dict)
    """More of the vendor's query parameters, as they are sent."""

    def __post_init__(self) -> None:
        """Raises ValueError for what the vendor would refuse in the first call."""
        if self.utterance_end_s < 1:
            raise ValueError("utterance_end_s must be at least 1")


class DeepgramTranscriberVendor:
    """Implements ``engine.ports.TranscriberVendor``."""

    def __init__(self, config: DeepgramConfig, network: Network) -> None:
        self.name = config.name
        self._config = config
        self._network = network

    def open(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[StreamingTranscriber]:
        """Raises SpeechFailed."""

        def wire(utterances: Utterances) -> DeepgramWire:
            return DeepgramWire(self._config, call.format, utterances)

        return open_hearing(self.name, self._network, call, wire, decides_turns=self._config.decides_turns)


class DeepgramWire:
    """Implements ``adapters.speech.hearing.streaming.Wire``."""

    def __init__(self, config: DeepgramConfig, line: AudioFormat, utterances: Utterances) -> None:
        self.url = f"{config.url}?{urlencode(_query(config, line))}"
        self.headers = {"authorization": f"Token {config.key}"}
        self.feeding = Feeding(
            bytes, line.bytes_per_s, PIECE_S, keep_alive=lambda: '{"type":"KeepAlive"}', keep_alive_s=KEEP_ALIVE_S
        )
        self.is_ready = True
        self.is_over = False
        self._name = config.name
        self._utterances = utterances
        self._finals: list[str] = []
        """Of the open utterance."""
        self._done_s = 0.0
        """Audio up to here has its final words."""
        self._heard_s = 0.0
        """Audio up to here has some words."""
        self._begins_s: float | None = None
        self._ends_s: float | None = None

    def greeting(self) -> Sequence[Message]:
        return ()

    def receive(self, message: Message) -> None:
        said = object_of(message)
        match said.get("type"):
            case "Results":
                self._on_results(said)
            case "SpeechStarted":
                self._on_voice(number_of(said, "timestamp"))
            case "UtteranceEnd":
                self._on_utterance_end(number_of(said, "last_word_end"))
            case "Metadata":
                self.is_over = True
            case "Error":
                variant = word_of(said.get("variant"))
                why = Why.BAD_REQUEST if variant == "SchemaError" else Why.FAILED
                raise SpeechFailed(self._name, variant, why=why)
            case str():
                pass
            case _:
                raise BadMessage("shape")

    def gave_up(self) -> None:
        self._done_s = max(self._done_s, self._heard_s)
        self._forget()

    def backlog_s(self, dropped: int) -> float:
        return 0.0

    def farewell(self, dropped: int) -> Sequence[Message]:
        return ['{"type":"CloseStream"}']

    def why_closed(self, code: int | None) -> Why:
        return _WHY_CLOSED.get(code or 0, Why.CUT)

    def _on_voice(self, position_s: float | None) -> None:
        """Voice activity; of what has its words already it is late."""
        if position_s is None or position_s >= self._done_s - _SLACK_S:
            self._begins_s = position_s if not self._utterances.is_open else self._begins_s
            self._utterances.start(position_s)

    def _on_results(self, said: dict[str, Any]) -> None:
        begins_s = number_of(said, "start") or 0.0
        ends_s = begins_s + (number_of(said, "duration") or 0.0)
        if begins_s < self._done_s - _SLACK_S:
            return  # doubled, or an interim that was overtaken
        text, first_s, last_s = _words(said)
        is_final = said.get("is_final") is True
        if text:
            self._begins_s = first_s if self._begins_s is None else self._begins_s
            self._ends_s = last_s
            self._heard_s = ends_s
            self._utterances.interim(" ".join([*self._finals, text]), self._begins_s, last_s)
        if is_final:
            self._done_s = ends_s
            if text:
                self._finals.append(text)
        if is_final and (said.get("speech_final") is True or self._is_wordless(ends_s)):
            self._finish()

    def _on_utterance_end(self, last_word_s: float | None) -> None:
        """Said besides ``speech_final``, and then of nothing that is still open."""
        is_late = last_word_s is not None and last_word_s >= 0 and last_word_s < (self._begins_s or 0.0)
        if not is_late:
            self._finish()

    def _is_wordless(self, ends_s: float) -> bool:
        """The voice was none: what came after it has been searched for words as well."""
        is_open = self._utterances.is_open and not self._utterances.text and self._begins_s is not None
        return is_open and ends_s - (self._begins_s or 0.0) >= WORDLESS_S / 2

    def _finish(self) -> None:
        self._utterances.finish(" ".join(self._finals) or self._utterances.text, self._begins_s, self._ends_s)
        self.gave_up()

    def _forget(self) -> None:
        self._finals = []
        self._begins_s = self._ends_s = None


def _query(config: DeepgramConfig, line: AudioFormat) -> list[tuple[str, str]]:
    query = {
        "model": config.model,
        "language": config.language,
        "encoding": "mulaw" if line.encoding is Encoding.MULAW else "linear16",
        "sample_rate": str(line.rate_hz),
        "channels": "1",
        "interim_results": "true",
        "vad_events": "true",
        "endpointing": str(round(config.endpointing_s * 1000)),
        "utterance_end_ms": str(round(config.utterance_end_s * 1000)),
        "smart_format": "true" if config.smart_format else "false",
        **config.query,
    }
    return [*query.items(), *(("keyterm", term) for term in config.keyterms)]


def _words(said: dict[str, Any]) -> tuple[str, float | None, float | None]:
    """The best guess, and where its first word begins and its last ends."""
    alternatives = dicts_of(dict_of(said, "channel"), "alternatives")
    if not alternatives:
        return "", None, None
    best = alternatives[0]
    words = dicts_of(best, "words")
    ends = (number_of(words[0], "start"), number_of(words[-1], "end")) if words else (None, None)
    return text_of(best, "transcript").strip(), *ends
