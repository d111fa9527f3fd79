"""ElevenLabs, text to speech, over each of its three wires."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import quote

from adapters.speech.speaking.elevenlabs_wires import ContextsWire, OneTextWire
from adapters.speech.speaking.http_voice import HttpVoice, SpeechRequest, open_http_synthesizer
from adapters.speech.speaking.socket_voice import PING_S, SocketVoice, open_synthesizer
from adapters.speech.speaking.spoken import address, given
from engine.events import AudioFormat, CallInfo, Encoding
from engine.ports import Owner, Synthesizer
from engine.runtime.network import Network

KEEP_ALIVE_S = 8.0
"""The vendor ends what was silent for twenty seconds."""


class ElevenLabsWire(StrEnum):
    CONTEXTS = "multi-stream-input"
    """One socket for the whole call, each sentence in a context of its own."""
    SOCKETS = "stream-input"
    """A socket for each sentence; the next one is connected while the one before is spoken."""
    HTTP = "stream"
    """A request for each sentence."""


@dataclass(frozen=True, slots=True)
class ElevenLabsConfig:
    key: str = field(repr=False)
    voice: str
    """Id of the voice."""
    model: str = "eleven_flash_v2_5"
    name: str = "elevenlabs"
    """Metric label."""
    url: str = "https://api.elevenlabs.io"
    wire: str = ElevenLabsWire.CONTEXTS.value
    """``multi-stream-input``: one socket for the call; ``stream-input``: a socket for each sentence; ``stream``: a
    request for each."""
    language: str = ""
    """ISO 639-1, for the models that take one; empty: by the text."""
    stability: float | None = None
    """0 to 1; empty: as the voice is set up. So are the next three."""
    similarity_boost: float | None = None
    """0 to 1."""
    style: float | None = None
    """0 to 1."""
    speed: float | None = None
    """0.7 to 1.2."""
    text_normalization: str = ""
    """``auto``, ``on`` or ``off``: whether numbers and the like are spelt out."""
    inactivity_s: int = 60
    """Silence after which the vendor may close a socket; at most 180."""
    max_chars: int = 2000
    """Longest text of one request; the models take 5,000 to 40,000."""
    query: Mapping[str, str] = field(default_factory=dict)
    """More of the vendor's query parameters, as they are sent."""

    def __post_init__(self) -> None:
        if self.wire not in list(ElevenLabsWire):
            raise ValueError(f"wire: expected one of {', '.join(ElevenLabsWire)}")
        if not 1 <= self.inactivity_s <= 180:
            raise ValueError("inactivity_s: expected 1 to 180")

    @property
    def voice_settings(self) -> dict[str, Any]:
        return given(
            {
                "stability": self.stability,
                "similarity_boost": self.similarity_boost,
                "style": self.style,
                "speed": self.speed,
            }
        )


class ElevenLabsSynthesizerVendor:
    """Implements ``engine.ports.SynthesizerVendor``. Takes every format of a line as it is."""

    def __init__(self, config: ElevenLabsConfig, network: Network) -> None:
        self.name = config.name
        self._config = config
        self._network = network

    def open(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Synthesizer]:
        """Raises SpeechFailed; over HTTP only once it speaks."""
        if self._config.wire == ElevenLabsWire.HTTP:
            return open_http_synthesizer(_http_voice(self._config, call.format), self._network, call, owner)
        return open_synthesizer(_socket_voice(self._config, call.format), self._network, call)


def output_format(line: AudioFormat) -> str:
    """The vendor's word for it."""
    return "ulaw_8000" if line.encoding is Encoding.MULAW else f"pcm_{line.rate_hz}"


def _socket_voice(config: ElevenLabsConfig, line: AudioFormat) -> SocketVoice:
    wire = OneTextWire if config.wire == ElevenLabsWire.SOCKETS else ContextsWire
    query = given(
        {
            "model_id": config.model,
            "output_format": output_format(line),
            "auto_mode": "true",
            "inactivity_timeout": config.inactivity_s,
            "language_code": config.language,
            "apply_text_normalization": config.text_normalization,
            **config.query,
        }
    )
    return SocketVoice(
        vendor=config.name,
        url=address(config.url, _path(config), query, is_socket=True),
        headers={"xi-api-key": config.key},
        wire=lambda: wire(config.name, config.voice_settings),
        source=line,
        max_chars=config.max_chars,
        keep_alive_s=KEEP_ALIVE_S,
        ping_s=math.inf if wire is OneTextWire else PING_S,
    )


def _http_voice(config: ElevenLabsConfig, line: AudioFormat) -> HttpVoice:
    query = {"output_format": output_format(line), **config.query}
    body = given(
        {
            "model_id": config.model,
            "language_code": config.language,
            "voice_settings": config.voice_settings,
            "apply_text_normalization": config.text_normalization,
        }
    )
    url = address(config.url, _path(config), query)
    return HttpVoice(
        vendor=config.name,
        headers={"xi-api-key": config.key},
        request=lambda text: SpeechRequest(url, {"text": text, **body}),
        source=line,
        max_chars=config.max_chars,
        error_keys=("detail", "status"),
    )


def _path(config: ElevenLabsConfig) -> str:
    return f"/v1/text-to-speech/{quote(config.voice, safe='')}/{config.wire}"
