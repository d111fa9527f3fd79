"""Deepgram Flux, live transcription version 2: the model itself decides on turns, and says early what it thinks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from adapters.speech.hearing.streaming import StreamingTranscriber, open_hearing
from adapters.speech.hearing.utterances import LOST_S, Utterances
from engine.errors import BadMessage, SpeechFailed, Why
from engine.events import AudioFormat, CallInfo, Encoding
from engine.ports import Owner
from engine.runtime.feed import Feeding, Message
from engine.runtime.network import Network
from engine.runtime.vendor_json import dicts_of, number_of, object_of, text_of, whole_of, word_of

PIECE_S = 0.08
"""What the vendor recommends."""
ONSET_S = 0.3
"""Of speech that the model has heard when it says that a turn has started."""
SILENCE_S = 0.5
"""There is no keep-alive: a line that sends nothing is silence to it, or a turn would stay open for ever."""


@dataclass(frozen=True, slots=True)
class FluxConfig:
    key: str = field(repr=False)
    name: str = "deepgram_flux"
    """Metric label."""
    url: str = "wss://api.deepgram.com/v2/listen"
    model: str = "flux-general-en"
    """``flux-general-en`` or ``flux-general-multi``."""
    end_threshold: float = 0.7
    """Confidence that ends a turn, 0.5 to 1."""
    eager_threshold: float | None = 0.4
    """Confidence at which an answer may be begun, 0.3 to 0.9 and not above ``end_threshold``; None: not before the
    end."""
    end_timeout_s: float = 5.0
    """Silence that ends a turn whatever the model thinks."""
    keyterms: tuple[str, ...] = ()
    """Words that are to be expected."""
    language_hints: tuple[str, ...] = ()
    """Of the multilingual model."""
    query: Mapping[str, str] = field(default_factory=dict)
    """More of the vendor's query parameters, as they are sent."""

    def __post_init__(self) -> None:
        """Raises ValueError for what the vendor would refuse in the first call."""
        if not 0.5 <= self.end_threshold <= 1:
            raise ValueError("end_threshold must be 0.5 to 1")
        if self.eager_threshold is not None and not 0.3 <= self.eager_threshold <= self.end_threshold:
            raise ValueError("eager_threshold must be at least 0.3 and not above end_threshold")


class FluxTranscriberVendor:
    """Implements ``engine.ports.TranscriberVendor``."""

    def __init__(self, config: FluxConfig, network: Network) -> None:
        self.name = config.name
        self._config = config
        self._network = network

    def open(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[StreamingTranscriber]:
        """Raises SpeechFailed."""

        def wire(utterances: Utterances) -> FluxWire:
            return FluxWire(self._config, call.format, utterances)

        lost_s = self._config.end_timeout_s + LOST_S
        return open_hearing(self.name, self._network, call, wire, decides_turns=True, lost_s=lost_s)


class FluxWire:
    """Implements ``adapters.speech.hearing.streaming.Wire``."""

    def __init__(self, config: FluxConfig, line: AudioFormat, utterances: Utterances) -> None:
        self.url = f"{config.url}?{urlencode(_query(config, line))}"
        self.headers = {"authorization": f"Token {config.key}"}
        self.feeding = Feeding(bytes, line.bytes_per_s, PIECE_S, keep_alive=self._silence, keep_alive_s=SILENCE_S)
        self.is_ready = False
        self.is_over = False
        self._name = config.name
        self._utterances = utterances
        self._line = line
        self._sequence = -1
        """Of the last message."""
        self._turn = -1
        self._done_turn = -1
        self._begins_s: float | None = None
        self._ends_s: float | None = None
        """Of the turn's words."""

    def greeting(self) -> Sequence[Message]:
        return ()

    def receive(self, message: Message) -> None:
        said = object_of(message)
        kind = said.get("type")
        if kind == "Error":
            raise self._failure(word_of(said.get("code")))
        if not isinstance(kind, str):
            raise BadMessage("shape")
        sequence = whole_of(said, "sequence_id")
        if sequence is not None:
            if sequence <= self._sequence:
                return  # doubled, or overtaken
            self._sequence = sequence
        if kind == "Connected":
            self.is_ready = True
        elif kind == "TurnInfo":
            self._on_turn(said)

    def gave_up(self) -> None:
        self._done_turn = max(self._done_turn, self._turn)

    def backlog_s(self, dropped: int) -> float:
        return 0.0

    def farewell(self, dropped: int) -> Sequence[Message]:
        return ['{"type":"CloseStream"}']

    def why_closed(self, code: int | None) -> Why:
        return {1008: Why.BAD_REQUEST, 1003: Why.BAD_REQUEST, 1013: Why.RATE_LIMITED}.get(code or 0, Why.CUT)

    def _silence(self) -> Message:
        self._utterances.clock.sent(SILENCE_S, self._utterances.now())
        return self._line.silence(SILENCE_S)

    def _on_turn(self, said: dict[str, Any]) -> None:
        turn = whole_of(said, "turn_index")
        if turn is None:
            raise BadMessage("shape")
        if turn <= self._done_turn:
            return
        if turn > self._turn:
            self._begin(turn)
        text = text_of(said, "transcript").strip()
        if text or said.get("event") == "StartOfTurn":
            self._place(said, text)
        self._on_event(said.get("event"), text)

    def _begin(self, turn: int) -> None:
        """A new turn; one before it that was never ended is over."""
        if self._utterances.is_open:
            self._utterances.finish(self._utterances.text, self._begins_s, self._ends_s)
        self._turn = turn
        self._done_turn = turn - 1
        self._begins_s = self._ends_s = None

    def _place(self, said: dict[str, Any], text: str) -> None:
        """Where the words are: as they say; else by where the window ended when they came."""
        words = dicts_of(said, "words")
        window_s = number_of(said, "audio_window_start") or 0.0, number_of(said, "audio_window_end") or 0.0
        if self._begins_s is None:
            first_s = number_of(words[0], "start") if words else None
            self._begins_s = max(window_s[0], window_s[1] - ONSET_S) if first_s is None else first_s
        last_s = number_of(words[-1], "end") if words else None
        if last_s is not None:
            self._ends_s = last_s
        elif text != self._utterances.text or self._ends_s is None:
            self._ends_s = window_s[1]

    def _on_event(self, event: object, text: str) -> None:
        utterances = self._utterances
        match event:
            case "StartOfTurn":
                utterances.start(self._begins_s)
                utterances.interim(text, self._begins_s, self._ends_s)
            case "Update":
                utterances.interim(text, self._begins_s, self._ends_s)
            case "EagerEndOfTurn":
                utterances.interim(text, self._begins_s, self._ends_s)
                utterances.likely_over()
            case "TurnResumed":
                utterances.resumed()
                utterances.interim(text, self._begins_s, self._ends_s)
            case "EndOfTurn":
                self._done_turn = self._turn
                utterances.finish(text, self._begins_s, self._ends_s)
            case _:
                raise BadMessage("shape")

    def _failure(self, code: str) -> SpeechFailed:
        is_ours = code.startswith(("MESSAGE", "UNPARSABLE", "INVALID", "DATA", "BAD"))
        return SpeechFailed(self._name, code, why=Why.BAD_REQUEST if is_ours else Why.FAILED)


def _query(config: FluxConfig, line: AudioFormat) -> list[tuple[str, str]]:
    query = {
        "model": config.model,
        "encoding": "mulaw" if line.encoding is Encoding.MULAW else "linear16",
        "sample_rate": str(line.rate_hz),
        "eot_threshold": str(config.end_threshold),
        "eot_timeout_ms": str(round(config.end_timeout_s * 1000)),
    }
    if config.eager_threshold is not None:
        query["eager_eot_threshold"] = str(config.eager_threshold)
    query.update(config.query)
    terms = [("keyterm", term) for term in config.keyterms]
    return [*query.items(), *terms, *(("language_hint", hint) for hint in config.language_hints)]
