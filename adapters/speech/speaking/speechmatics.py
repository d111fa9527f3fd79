"""Speechmatics, text to speech over HTTP: 16 kHz and nothing else."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from urllib.parse import quote

from adapters.speech.speaking.http_voice import HttpVoice, SpeechRequest, open_http_synthesizer
from adapters.speech.speaking.spoken import address
from engine.events import PCM16_16K, CallInfo
from engine.ports import Owner, Synthesizer
from engine.runtime.network import Network


@dataclass(frozen=True, slots=True)
class SpeechmaticsSpeechConfig:
    key: str = field(repr=False)
    voice: str = "sarah"
    """``sarah``, ``theo``, ``megan`` or ``jack``."""
    name: str = "speechmatics"
    """Metric label."""
    url: str = "https://preview.tts.speechmatics.com"
    max_chars: int = 1000
    """Longest text of one request."""


class SpeechmaticsSynthesizerVendor:
    """Implements ``engine.ports.SynthesizerVendor``. Resamples for lines of other than 16 kHz."""

    def __init__(self, config: SpeechmaticsSpeechConfig, network: Network) -> None:
        self.name = config.name
        self._config = config
        self._network = network

    def open(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Synthesizer]:
        """Raises nothing; the speeches do."""
        config = self._config
        url = address(config.url, f"/generate/{quote(config.voice, safe='')}", {"output_format": "pcm_16000"})
        voice = HttpVoice(
            vendor=config.name,
            headers={"authorization": f"Bearer {config.key}"},
            request=lambda text: SpeechRequest(url, {"text": text}),
            source=PCM16_16K,
            max_chars=config.max_chars,
            error_keys=("error",),
        )
        return open_http_synthesizer(voice, self._network, call, owner)
