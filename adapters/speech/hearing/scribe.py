"""ElevenLabs Scribe, realtime: the vendor's voice activity commits segments, each a turn."""

from __future__ import annotations

from base64 import b64encode
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from adapters.speech.hearing.streaming import StreamingTranscriber, open_hearing
from adapters.speech.hearing.utterances import Utterances
from engine.errors import BadMessage, SpeechFailed, Why
from engine.events import AudioFormat, CallInfo, Encoding
from engine.ports import Owner
from engine.runtime.feed import Feeding, Message
from engine.runtime.network import Network
from engine.runtime.vendor_json import dicts_of, number_of, object_of, text_of, word_of

PIECE_S = 0.1
STALE_S = 0.3
"""Of audio after a segment in which no other can have begun."""
ECHO_S = 2.0
"""Of audio after a segment in which the vendor may repeat its words as new ones."""
SILENCE_S = 0.1
KEEP_ALIVE_S = 4.0
"""A line that sends nothing for so long is a piece of silence to the vendor."""
_WHY = {
    "auth_error": Why.AUTH,
    "quota_exceeded": Why.AUTH,
    "unaccepted_terms": Why.AUTH,
    "unaccepted_terms_error": Why.AUTH,
    "rate_limited": Why.RATE_LIMITED,
    "resource_exhausted": Why.RATE_LIMITED,
    "queue_overflow": Why.RATE_LIMITED,
    "input_error": Why.BAD_REQUEST,
    "invalid_request": Why.BAD_REQUEST,
    "chunk_size_exceeded": Why.BAD_REQUEST,
    "session_time_limit_exceeded": Why.CUT,
    "insufficient_audio_activity": Why.CUT,
    "transcriber_error": Why.FAILED,
    "error": Why.FAILED,
}
_WHY_CLOSED = {1003: Why.BAD_REQUEST, 1008: Why.AUTH, 1013: Why.RATE_LIMITED}
_COMMITTED = "committed_transcript"
_COMMITTED_WITH_TIMES = "committed_transcript_with_timestamps"


@dataclass(frozen=True, slots=True)
class ScribeConfig:
    key: str = field(repr=False)
    name: str = "elevenlabs_scribe"
    """Metric label."""
    url: str = "wss://api.elevenlabs.io/v1/speech-to-text/realtime"
    model: str = "scribe_v2_realtime"
    language: str = ""
    """ISO 639; empty: the vendor finds out."""
    silence_s: float = 0.5
    """Silence that ends a segment, 0.3 to 3."""
    voice_threshold: float = 0.4
    """Of the vendor's voice activity, 0.1 to 0.9."""
    timestamps: bool = False
    """Have each segment told twice, the second time with the times of its words. It is used once."""
    decides_turns: bool = True
    """A segment's end is the turn's; else the engine's own end of turn decides."""
    keyterms: tuple[str, ...] = ()
    """Words that are to be expected: at most 50, of 20 characters."""
    query: Mapping[str, str] = field(default_factory=dict)
    """More of the vendor's query parameters, as they are sent."""

    def __post_init__(self) -> None:
        """Raises ValueError for what the vendor would refuse in the first call."""
        if not 0.3 <= self.silence_s <= 3:
            raise ValueError("silence_s must be 0.3 to 3")
        if not 0.1 <= self.voice_threshold <= 0.9:
            raise ValueError("voice_threshold must be 0.1 to 0.9")


class ScribeTranscriberVendor:
    """Implements ``engine.ports.TranscriberVendor``."""

    def __init__(self, config: ScribeConfig, network: Network) -> None:
        self.name = config.name
        self._config = config
        self._network = network

    def open(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[StreamingTranscriber]:
        """Raises SpeechFailed."""

        def wire(utterances: Utterances) -> ScribeWire:
            return ScribeWire(self._config, call.format, utterances)

        return open_hearing(self.name, self._network, call, wire, decides_turns=self._config.decides_turns)


class ScribeWire:
    """Implements ``adapters.speech.hearing.streaming.Wire``. The vendor gives no times but those of committed words."""

    def __init__(self, config: ScribeConfig, line: AudioFormat, utterances: Utterances) -> None:
        self.url = f"{config.url}?{urlencode(_query(config, line))}"
        self.headers = {"xi-api-key": config.key}
        self.feeding = Feeding(
            self._chunk, line.bytes_per_s, PIECE_S, keep_alive=self._silence, keep_alive_s=KEEP_ALIVE_S
        )
        self.is_ready = False
        self.is_over = False
        self._config = config
        self._line = line
        self._tail = f'","commit":false,"sample_rate":{line.rate_hz}}}'
        self._utterances = utterances
        self._unpaired: deque[tuple[str, str]] = deque(maxlen=8)
        """Kind and text of commits whose other variant has not come."""
        self._void = ""
        """Words that were not waited for any longer: what still comes of them has been told."""
        self._partial = ""
        self._told = ""
        """The last segment, and where in the audio we were when it was committed."""
        self._told_at_s = -STALE_S

    def greeting(self) -> Sequence[Message]:
        return ()

    def receive(self, message: Message) -> None:
        said = object_of(message)
        kind = said.get("message_type")
        if kind == "partial_transcript":
            self._on_partial(text_of(said, "text").strip())
        elif kind in (_COMMITTED, _COMMITTED_WITH_TIMES):
            self._on_committed(str(kind), said)
        elif kind == "session_started":
            self.is_ready = True
        elif isinstance(kind, str):
            if kind in _WHY:
                raise SpeechFailed(self._config.name, word_of(kind), why=_WHY[kind])
        else:
            raise BadMessage("shape")

    def gave_up(self) -> None:
        self._void = self._partial

    def backlog_s(self, dropped: int) -> float:
        return 0.0

    def farewell(self, dropped: int) -> Sequence[Message]:
        """There is no last word on this wire: closing the socket is the end."""
        self.is_over = True
        return ()

    def why_closed(self, code: int | None) -> Why:
        return _WHY_CLOSED.get(code or 0, Why.CUT)

    def _on_partial(self, text: str) -> None:
        """The vendor repeats an open segment every second, and now and then one that it has committed."""
        told, since_s = self._told, self._utterances.clock.position_s - self._told_at_s
        is_echo = not self._utterances.is_open and text == told and since_s < ECHO_S
        if not is_echo and not (self._is_stale() and told.startswith(text)):
            self._partial = text
            self._utterances.interim(text.removeprefix(self._void).strip())

    def _on_committed(self, kind: str, said: dict[str, Any]) -> None:
        text = text_of(said, "text").strip()
        if self._is_second(kind, text) or (text == self._told and self._is_late(text)):
            return
        void, self._void, self._partial = self._void, "", ""
        self._told, self._told_at_s = text, self._utterances.clock.position_s
        words = [word for word in dicts_of(said, "words") if word.get("type", "word") == "word"]
        begins_s = number_of(words[0], "start") if words else None
        ends_s = number_of(words[-1], "end") if words else self._told_at_s - self._config.silence_s
        text = "" if void and not self._utterances.is_open else text.removeprefix(void)
        self._utterances.finish(text, begins_s, ends_s)

    def _is_stale(self) -> bool:
        """No new segment can have begun since the last: what looks like it is doubled, or was overtaken."""
        is_soon = self._utterances.clock.position_s - self._told_at_s < STALE_S
        return is_soon and not self._utterances.is_open

    def _is_late(self, text: str) -> bool:
        """This cannot be what the caller is saying now."""
        return self._is_stale() or not text.casefold().startswith(self._partial.casefold())

    def _is_second(self, kind: str, text: str) -> bool:
        """The same segment in the other of its two variants. They come in either order, and at times unasked for."""
        other = _COMMITTED if kind == _COMMITTED_WITH_TIMES else _COMMITTED_WITH_TIMES
        if (other, text) in self._unpaired:
            self._unpaired.remove((other, text))
            return True
        self._unpaired.append((kind, text))
        return False

    def _chunk(self, audio: bytes) -> Message:
        return '{"message_type":"input_audio_chunk","audio_base_64":"' + b64encode(audio).decode() + self._tail

    def _silence(self) -> Message:
        self._utterances.clock.sent(SILENCE_S, self._utterances.now())
        return self._chunk(self._line.silence(SILENCE_S))


def _query(config: ScribeConfig, line: AudioFormat) -> list[tuple[str, str]]:
    query = {
        "model_id": config.model,
        "audio_format": "ulaw_8000" if line.encoding is Encoding.MULAW else f"pcm_{line.rate_hz}",
        "commit_strategy": "vad",
        "vad_silence_threshold_secs": str(config.silence_s),
        "vad_threshold": str(config.voice_threshold),
        "include_timestamps": "true" if config.timestamps else "false",
    }
    if config.language:
        query["language_code"] = config.language
    query.update(config.query)
    return [*query.items(), *(("keyterms", term) for term in config.keyterms)]
