"""The wire of a Plivo audio stream: JSON text both ways, mu-law at 8000 Hz inside."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Callable
from typing import Any, Final

import orjson
import structlog

from adapters.providers.fields import is_id, read_object, read_parameters
from adapters.providers.media_fields import read_count, read_dtmf, read_mark, read_message, read_mulaw, unheard
from engine.errors import BadMessage, ProtocolError
from engine.events import MULAW_8K, Cleared, ProviderEvent, Stopped, StreamStarted

log = structlog.get_logger()

_PREFIX: Final = '{"event":"playAudio","media":{"contentType":"audio/x-mulaw","sampleRate":8000,"payload":"'
_ALIEN_PREFIX: Final = "x-ph-"
"""Plivo puts it before the names of headers that pass through SIP."""
_REPEAT_WINDOW: Final = 256
"""A chunk this little below the last is a repeat; further below, the peer has begun to count anew."""
_MAX_COMPLAINTS: Final = 3
"""Logged of one socket."""


class PlivoCodec:
    """Codec of one Plivo media socket."""

    __slots__ = ("_call_id", "_chunk", "_clear", "_complaints", "_stream_id", "on_gap")

    paced: bool = False
    ends_by_close: bool = False

    def __init__(self) -> None:
        self.on_gap: Callable[[], None] = unheard
        self._stream_id = ""
        self._call_id = ""
        self._clear = ""
        self._chunk = -1
        self._complaints = 0

    def decode_start(self, message: str | bytes) -> StreamStarted:
        """``start`` with the headers of our document. Raises ProtocolError for all else."""
        data = read_object(message) if isinstance(message, str) else None
        if data is None:
            raise ProtocolError("no JSON object as the first message")
        if data.get("event") != "start":
            raise ProtocolError("unexpected message before the start message")
        start = data.get("start")
        if not isinstance(start, dict):
            raise ProtocolError("start message without its content")
        stream_id: object = start.get("streamId")
        call_id: object = start.get("callId")
        if not is_id(stream_id):
            raise ProtocolError("start message without a usable streamId")
        if not is_id(call_id):
            raise ProtocolError("start message without a usable callId")
        if not _is_mulaw(start.get("mediaFormat")):
            raise ProtocolError("start message of another audio format than mu-law 8000 Hz")
        parameters = read_parameters(read_extra_headers(data.get("extra_headers", "")))
        if parameters is None:
            raise ProtocolError("start message with unusable extra_headers")
        token = decode_value(parameters.pop("token", ""))
        self._stream_id, self._call_id = stream_id, call_id
        self._clear = f'{{"event":"clearAudio","streamId":"{stream_id}"}}'
        return StreamStarted(call_id, stream_id, MULAW_8K, token, parameters)

    def decode(self, message: str | bytes) -> ProviderEvent | None:
        """None for repeats, for the other side's track and for events of no use here."""
        data = read_message(message)
        event = data.get("event")
        if event == "media":
            return self._media(data)
        if event == "start":
            raise ProtocolError("a second start message")
        if not isinstance(event, str):
            raise BadMessage("shape")
        if data.get("streamId", self._stream_id) != self._stream_id:
            raise BadMessage("stream")
        match event:
            case "playedStream":
                return read_mark(data.get("name"))
            case "clearedAudio":
                return Cleared()
            case "dtmf":
                return read_dtmf(data.get("dtmf"))
            case "stop":
                return Stopped()
            case "playFailed" | "error":
                self._complain(event)
        return None  # of this very stream, and younger than this code

    def encode_audio(self, audio: bytes) -> str:
        return _PREFIX + b2a_base64(audio, newline=False).decode("ascii") + '"}}'

    def encode_mark(self, name: str) -> str:
        return orjson.dumps({"event": "checkpoint", "streamId": self._stream_id, "name": name}).decode()

    def encode_clear(self) -> str:
        return self._clear

    def _media(self, data: dict[str, Any]) -> bytes | None:
        if data.get("streamId", self._stream_id) != self._stream_id:
            raise BadMessage("stream")
        media = data.get("media")
        if type(media) is not dict:
            raise BadMessage("shape")
        audio = read_mulaw(media)
        if media.get("track", "inbound") != "inbound":
            return None
        chunk = media.get("chunk")
        return None if chunk is not None and self._is_repeat(read_count(chunk)) else audio

    def _is_repeat(self, chunk: int) -> bool:
        if self._chunk - _REPEAT_WINDOW < chunk <= self._chunk:
            return True
        if 0 <= self._chunk < chunk - 1 < self._chunk + _REPEAT_WINDOW:
            self.on_gap()
        self._chunk = chunk
        return False

    def _complain(self, event: str) -> None:
        """Without its reason, which may repeat what we sent."""
        self._complaints += 1
        if self._complaints <= _MAX_COMPLAINTS:
            log.warning("provider_complains", provider="plivo", call_id=self._call_id, code=event)


def read_extra_headers(text: object) -> object:
    """The headers of our document by name, as JSON or as ``k=v;k2=v2`` writes them; what came otherwise as it is."""
    if isinstance(text, dict):
        pairs = text
    elif not isinstance(text, str):
        return text
    elif (found := read_object(text)) is not None:
        pairs = found
    else:
        written = (part.partition("=") for part in text.strip("{}").replace(",", ";").split(";") if "=" in part)
        pairs = {name.strip(): value.strip() for name, _, value in written}
    return {_plain(name): value for name, value in pairs.items()}


def encode_value(value: str) -> str:
    """A value of a header: only letters and digits come through."""
    return value.encode("utf-8", "surrogatepass").hex()


def decode_value(value: str) -> str:
    """Empty for what ``encode_value`` has not written."""
    try:
        return bytes.fromhex(value).decode()
    except ValueError:
        return ""


def _plain(name: str) -> str:
    return name[len(_ALIEN_PREFIX) :] if name.lower().startswith(_ALIEN_PREFIX) else name


def _is_mulaw(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    encoding = str(value.get("encoding")).partition(";")[0]
    return encoding == "audio/x-mulaw" and value.get("sampleRate", 8000) in (8000, "8000")
