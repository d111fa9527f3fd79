"""Cartesia, text to speech over a WebSocket: a context for each text."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from adapters.speech.speaking.socket_voice import Over, SocketVoice, open_synthesizer
from adapters.speech.speaking.spoken import audio_of, closed_error, given
from engine.errors import SpeechFailed, Why
from engine.events import AudioFormat, CallInfo, Encoding
from engine.ports import Owner, Synthesizer
from engine.runtime.feed import Message
from engine.runtime.network import Network, why_of
from engine.runtime.vendor_json import object_of, packed, word_of


@dataclass(frozen=True, slots=True)
class CartesiaConfig:
    key: str = field(repr=False)
    voice: str
    """Id of the voice."""
    model: str = "sonic-3"
    name: str = "cartesia"
    """Metric label."""
    url: str = "wss://api.cartesia.ai/tts/websocket"
    version: str = "2026-08-14"
    """Of the vendor's API."""
    language: str = "en"
    """ISO 639-1."""
    speed: float | None = None
    """0.6 to 1.5; empty: as the voice is. So are the next two."""
    volume: float | None = None
    """0.5 to 2."""
    emotion: str = ""
    """One of the vendor's words."""
    max_chars: int = 1000
    """Longest text of one context."""


class CartesiaSynthesizerVendor:
    """Implements ``engine.ports.SynthesizerVendor``. Takes every format of a line as it is."""

    def __init__(self, config: CartesiaConfig, network: Network) -> None:
        self.name = config.name
        self._config = config
        self._network = network

    def open(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Synthesizer]:
        """Raises SpeechFailed."""
        config = self._config
        voice = SocketVoice(
            vendor=config.name,
            url=config.url,
            headers={"authorization": f"Bearer {config.key}", "cartesia-version": config.version},
            wire=lambda: CartesiaWire(config, call.format),
            source=call.format,
            max_chars=config.max_chars,
        )
        return open_synthesizer(voice, self._network, call)


class CartesiaWire:
    """Implements ``adapters.speech.speaking.socket_voice.SpeechWire``. A cancelled context may go on for a while:
    its id tells."""

    is_spent = False

    def __init__(self, config: CartesiaConfig, line: AudioFormat) -> None:
        self._vendor = config.name
        self._request = _request(config, line)
        self._prefix = uuid.uuid4().hex[:8]
        self._numbers = itertools.count(1)
        self._wanted = ""

    def greet(self) -> Sequence[Message]:
        return []

    def speak(self, text: str) -> Sequence[Message]:
        self._wanted = f"{self._prefix}-{next(self._numbers)}"
        return [packed({"context_id": self._wanted, "transcript": text, "continue": False, **self._request})]

    def cancel(self) -> Sequence[Message]:
        context_id, self._wanted = self._wanted, ""
        return [packed({"context_id": context_id, "cancel": True})] if context_id else []

    def keep_alive(self) -> None:
        """There is none: a socket that was closed in a long silence is opened anew."""

    def decode(self, message: Message) -> Sequence[bytes | Over]:
        fields = object_of(message)
        kind, context_id = fields.get("type"), fields.get("context_id")
        if kind == "error":
            return self._error(fields, context_id)
        if not self._wanted or context_id != self._wanted:
            return ()
        parts: list[bytes | Over] = []
        if kind == "chunk" and fields.get("data"):
            parts.append(audio_of(fields["data"]))
        if kind == "done" or (kind == "chunk" and fields.get("done") is True):
            parts.append(self._over())
        return parts

    def ended(self, code: int) -> SpeechFailed | None:
        return closed_error(self._vendor, code)

    def _over(self, error: SpeechFailed | None = None) -> Over:
        self._wanted = ""
        return Over(error)

    def _error(self, fields: Mapping[str, Any], context_id: object) -> Sequence[Over]:
        """Of one context, after which the socket lives on; one that names none is of the text in hand."""
        if context_id and context_id != self._wanted:
            return ()
        status = fields.get("status_code")
        why = why_of(status) if isinstance(status, int) and status >= 400 else Why.FAILED
        error = SpeechFailed(self._vendor, f"says {word_of(fields.get('error_code') or status)}", why=why)
        return [self._over(error)]


def _request(config: CartesiaConfig, line: AudioFormat) -> dict[str, Any]:
    tone = given({"speed": config.speed, "volume": config.volume, "emotion": config.emotion})
    encoding = "pcm_mulaw" if line.encoding is Encoding.MULAW else "pcm_s16le"
    return given(
        {
            "model_id": config.model,
            "voice": {"mode": "id", "id": config.voice},
            "output_format": {"container": "raw", "encoding": encoding, "sample_rate": line.rate_hz},
            "language": config.language,
            "generation_config": tone,
        }
    )
