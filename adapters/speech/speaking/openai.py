"""OpenAI, text to speech over HTTP, and servers that speak as it does: 24 kHz."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from adapters.speech.speaking.http_voice import HttpVoice, SpeechRequest, open_http_synthesizer
from adapters.speech.speaking.spoken import address, given
from engine.events import AudioFormat, CallInfo, Encoding
from engine.ports import Owner, Synthesizer
from engine.runtime.network import Network


@dataclass(frozen=True, slots=True)
class OpenAISpeechConfig:
    key: str = field(repr=False)
    model: str = "gpt-4o-mini-tts"
    voice: str = "marin"
    name: str = "openai"
    """Metric label."""
    url: str = "https://api.openai.com/v1"
    """Base address; that of a server that speaks the same will do."""
    instructions: str = ""
    """How to speak, in words, for the models that take it."""
    speed: float | None = None
    """0.25 to 4; empty: as the voice is."""
    rate_hz: int = 24000
    """Of what the server sends as ``pcm``."""
    max_chars: int = 4000
    """Longest text of one request; the vendor takes 4,096."""


class OpenAISynthesizerVendor:
    """Implements ``engine.ports.SynthesizerVendor``. Resamples for lines of another rate."""

    def __init__(self, config: OpenAISpeechConfig, network: Network) -> None:
        self.name = config.name
        self._config = config
        self._network = network

    def open(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Synthesizer]:
        """Raises nothing; the speeches do."""
        config = self._config
        url = address(config.url, "/audio/speech", {})
        body = given(
            {
                "model": config.model,
                "voice": config.voice,
                "response_format": "pcm",
                "instructions": config.instructions,
                "speed": config.speed,
            }
        )
        voice = HttpVoice(
            vendor=config.name,
            headers={"authorization": f"Bearer {config.key}"},
            request=lambda text: SpeechRequest(url, {"input": text, **body}),
            source=AudioFormat(Encoding.PCM16, config.rate_hz),
            max_chars=config.max_chars,
            error_keys=("error", "code"),
        )
        return open_http_synthesizer(voice, self._network, call, owner)
