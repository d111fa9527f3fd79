"""OpenAI's transcription over HTTP: a file in a form, its words as JSON."""

from __future__ import annotations

import io
import wave
from email.parser import BytesParser
from email.policy import HTTP

import orjson
import trio

from engine.audio.g711 import pcm16_to_mulaw
from engine.events import MULAW_8K, AudioFormat, Encoding
from tests.fakes.clouds.loopback import Cloud, Request, Response
from tests.fakes.plain_speech import MAGIC, Reader

TYPES = ("audio/wav", "audio/x-wav", "application/octet-stream")


class TranscriptionCloud(Cloud):
    path = "/v1/audio/transcriptions"

    def __init__(self, *, key: str = "k") -> None:
        super().__init__()
        self.key = key
        self.faults: list[str] = []
        self.heard: list[str] = []
        """Words of each file, in order."""
        self.delay_s = 0.1
        self.stalls = False
        self.body: bytes | None = None
        """The answer to everything, with ``status`` and ``headers``."""
        self.status = 200
        self.headers: dict[str, str] = {"content-type": "application/json"}

    async def http(self, request: Request) -> Response:
        if self.stalls:
            await trio.sleep(3600)
        if self.body is not None:
            return Response(self.status, self.headers, self.body)
        if request.method != "POST" or request.path != self.path:
            return self._refuse(404, "path", "unknown_url")
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return self._refuse(401, "key", "invalid_api_key")
        fields = _form(request)
        if not fields.get("model") or fields.get("response_format", b"json") != b"json":
            return self._refuse(400, "fields", "invalid_value")
        try:
            words = _words(fields.get("file", b""))
        except (wave.Error, EOFError):
            return self._refuse(400, "file", "invalid_file")
        await trio.sleep(self.delay_s)
        self.heard.append(words)
        usage = {"type": "duration", "seconds": 1}
        return Response(200, {"content-type": "application/json"}, orjson.dumps({"text": words, "usage": usage}))

    def _refuse(self, status: int, fault: str, code: str) -> Response:
        self.faults.append(fault)
        error = {"message": "no", "type": "invalid_request_error", "param": None, "code": code}
        return Response(status, {"content-type": "application/json"}, orjson.dumps({"error": error}))


def _form(request: Request) -> dict[str, bytes]:
    """The parts of a multipart form, by name; a file must have a name that says what it is, as the vendor asks."""
    head = f"content-type: {request.headers.get('content-type', '')}\r\n\r\n".encode()
    fields: dict[str, bytes] = {}
    for part in BytesParser(policy=HTTP).parsebytes(head + request.body).iter_parts():
        name = part.get_param("name", header="content-disposition")
        filename = part.get_filename()
        is_right = filename is None or (filename.endswith(".wav") and part.get_content_type() in TYPES)
        body = part.get_payload(decode=True)
        if is_right and isinstance(body, bytes):
            fields[str(name)] = body
    return fields


def _words(file: bytes) -> str:
    """Plain speech in a WAV file, wherever its frames begin; it may have been mu-law before."""
    with wave.open(io.BytesIO(file)) as reading:
        if reading.getnchannels() != 1 or reading.getsampwidth() != 2:
            raise wave.Error("channels")
        line = AudioFormat(Encoding.PCM16, reading.getframerate())
        pcm = reading.readframes(reading.getnframes())
    mulaw = pcm16_to_mulaw(pcm)
    return _read(mulaw, MULAW_8K) if MAGIC in mulaw else _read(pcm, line)


def _read(audio: bytes, line: AudioFormat) -> str:
    reader = Reader(line)
    at = audio.find(MAGIC)
    while at >= 0:
        frame = audio[at : at + line.frame_bytes]
        if len(frame) == line.frame_bytes:
            reader.feed_frame(frame)
        at = audio.find(MAGIC, at + line.frame_bytes)
    return reader.text.strip()
