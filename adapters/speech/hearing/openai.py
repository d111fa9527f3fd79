"""OpenAI's transcription over HTTP, and any server that speaks it: the audio is cut into segments here, each is sent
as a file, and its words come back at once. There are no interims."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import httpx
import structlog
import trio

from adapters.speech.hearing.energy import EnergyActivity
from adapters.speech.hearing.segmented import Activity, EmbeddedTranscriber, Request, open_transcriber
from adapters.speech.hearing.segments import FRAME_S, Hearing
from engine.audio.convert import convert
from engine.errors import BadMessage, SpeechFailed, VendorError, Why
from engine.events import PCM16_8K, AudioFormat, CallInfo, Encoding
from engine.ports import Owner
from engine.runtime.network import Network, failing, refused
from engine.runtime.vendor_json import dict_of, object_of, text_of, word_of

OPENAI_URL = "https://api.openai.com/v1"
MAX_ANSWER_BYTES = 1024 * 1024
_HEAD = struct.Struct("<4sI4s4sIHHIIHH4sI")
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class OpenAITranscriberConfig:
    key: str = field(default="", repr=False)
    """Empty for a server that asks for none."""
    name: str = "openai"
    """Metric label."""
    url: str = OPENAI_URL
    model: str = "gpt-transcribe"
    language: str = ""
    """ISO 639-1; empty: the vendor finds out."""
    silence_s: float = 0.3
    """Silence that ends a segment."""
    longest_s: float = 15.0
    """A segment without a pause is cut here."""
    by_loudness: bool = False
    """Loudness tells when the caller speaks, even where the extra "local" is installed, whose model tells a voice from
    noise."""
    answer_s: float = 5.0
    """For the words of one segment to come back."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """More form fields of the vendor's, as they are sent."""

    def __post_init__(self) -> None:
        """Raises ValueError for what the vendor would refuse in the first call."""
        if not self.key and self.url == OPENAI_URL:
            raise ValueError("OpenAI needs a key; other servers need their url")


class OpenAITranscriberVendor:
    """Implements ``engine.ports.TranscriberVendor``. ``activity`` tells when the caller speaks: that of the embedded
    speech, which runs elsewhere; without one, or by the settings' wish, loudness does."""

    def __init__(self, config: OpenAITranscriberConfig, network: Network, activity: Activity | None = None) -> None:
        self.name = config.name
        self._config = config
        self._network = network
        self._activity = EnergyActivity() if activity is None or config.by_loudness else activity
        self._hearing = Hearing(
            pause_s=config.silence_s - FRAME_S,  # a guess at a pause would be paid for and thrown away
            hangover_s=config.silence_s,
            longest_s=config.longest_s,
        )

    def open(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[EmbeddedTranscriber]:
        """Nothing is asked of the vendor yet: a wrong key shows with the first words."""
        return self._open(call, owner)

    @asynccontextmanager
    async def _open(self, call: CallInfo, owner: Owner) -> AsyncIterator[EmbeddedTranscriber]:
        config = self._config
        headers = {"authorization": f"Bearer {config.key}"} if config.key else {}
        async with (
            self._network.owned_client(config.name, owner, config.url, headers) as client,
            open_transcriber(call.format, Uploads(config, client, call.call_id), self._activity, self._hearing) as ear,
        ):
            yield ear


class Uploads:
    """Implements ``adapters.speech.hearing.segmented.Words``: a request for each segment."""

    def __init__(self, config: OpenAITranscriberConfig, client: httpx.AsyncClient, call_id: str) -> None:
        self._config = config
        self._client = client
        self._call_id = call_id

    async def find(self, request: Request) -> str:
        """Raises SpeechFailed."""
        config = self._config
        log.debug("words asked for", vendor=config.name, call_id=self._call_id, audio_bytes=len(request.audio))
        fields = {"model": config.model, "response_format": "json"}
        if config.language:
            fields["language"] = config.language
        fields.update(config.fields)
        files = {"file": ("speech.wav", wav(request.audio, request.line), "audio/wav")}
        with failing(SpeechFailed, config.name), trio.fail_after(config.answer_s):
            async with self._client.stream("POST", "audio/transcriptions", data=fields, files=files) as response:
                body = await _read(response)
        if response.status_code != 200:
            raise self._refused(response, body)
        try:
            return text_of(object_of(body.decode()), "text").strip()
        except (BadMessage, UnicodeDecodeError):
            raise SpeechFailed(config.name, "no transcription came back", why=Why.NONSENSE) from None

    def _refused(self, response: httpx.Response, body: bytes) -> VendorError:
        try:
            code = dict_of(object_of(body.decode()), "error").get("code")
        except (BadMessage, UnicodeDecodeError):
            code = None
        if code == "insufficient_quota":  # a 429 that no waiting heals
            return SpeechFailed(self._config.name, "insufficient_quota", why=Why.AUTH)
        return refused(SpeechFailed, self._config.name, response, word_of(code) if code else "")


def wav(audio: bytes, line: AudioFormat) -> bytes:
    """The audio as a WAV file of 16-bit samples."""
    if line.encoding is Encoding.MULAW:
        audio, line = convert(audio, line, PCM16_8K), PCM16_8K
    rate, size = line.rate_hz, len(audio)
    parts = (b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16, b"data", size)
    return _HEAD.pack(*parts) + audio


async def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    with trio.CancelScope() as reading:
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > MAX_ANSWER_BYTES:
                reading.cancel()  # the next read ends: left early, httpx's generators would be left half-run
    if reading.cancelled_caught:
        raise httpx.StreamError("too long")
    return bytes(body)
