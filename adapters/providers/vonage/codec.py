"""The wire of a Vonage media socket: binary frames of 20 ms PCM16, JSON text for all else."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import orjson

from adapters.providers.fields import DIGITS, is_id, read_object, read_parameters
from adapters.providers.media_fields import unheard
from engine.errors import BadMessage, ProtocolError
from engine.events import (
    PCM16_8K,
    PCM16_16K,
    PCM16_24K,
    AudioFormat,
    Cleared,
    Dtmf,
    MarkPlayed,
    ProviderEvent,
    StreamStarted,
)

FORMATS: Final = {8000: PCM16_8K, 16000: PCM16_16K, 24000: PCM16_24K}
"""The audio formats of Vonage's websockets by sample rate."""

_CONTENT_TYPE = re.compile(r"audio/l16;\s*rate=(8000|16000|24000)")
_MAX_NAME_CHARS: Final = 256
_CLEAR: Final = '{"action":"clear"}'


class VonageCodec:
    """Codec of one Vonage media socket. The caller's hang-up is a clean close of the socket."""

    __slots__ = ("_format", "_frame_bytes", "on_gap")

    paced: bool = True
    ends_by_close: bool = True

    def __init__(self, form: AudioFormat = PCM16_16K) -> None:
        """``form`` is what the answer document asked for; the first message may tell another rate."""
        self.on_gap: Callable[[], None] = unheard  # its frames carry no count
        self._format = form
        self._frame_bytes = form.frame_bytes

    def decode_start(self, message: str | bytes) -> StreamStarted:
        """``websocket:connected`` with the headers of our NCCO. Raises ProtocolError for all else."""
        data = read_object(message) if isinstance(message, str) else None
        if data is None:
            raise ProtocolError("no JSON object as the first message")
        if data.pop("event", None) != "websocket:connected":
            raise ProtocolError("unexpected message before websocket:connected")
        found = _CONTENT_TYPE.fullmatch(str(data.pop("content-type", "")))
        if not found:
            raise ProtocolError("websocket:connected of another audio format than 16-bit linear")
        call_id = data.pop("call_id", None)
        if not is_id(call_id):
            raise ProtocolError("websocket:connected without a usable call_id")
        parameters = read_parameters({name: text for name, text in data.items() if isinstance(text, str)})
        if parameters is None:
            raise ProtocolError("websocket:connected with unusable headers")
        token = parameters.pop("token", "")
        self._format = FORMATS[int(found[1])]
        self._frame_bytes = self._format.frame_bytes
        return StreamStarted(call_id, call_id, self._format, token, parameters)

    def decode(self, message: str | bytes) -> ProviderEvent | None:
        """Caller audio as it came; None for events of no use here."""
        if type(message) is bytes:
            size = len(message)
            if size != self._frame_bytes and (not size or size % self._frame_bytes or size > self._format.bytes_per_s):
                raise BadMessage("length")
            return message
        return _read_event(message)

    def encode_audio(self, audio: bytes) -> bytes:
        """Raises ValueError for anything but one frame: Vonage would play it as noise."""
        if len(audio) != self._frame_bytes:
            raise ValueError("Vonage takes frames of exactly 20 ms")
        return audio

    def encode_mark(self, name: str) -> str:
        return orjson.dumps({"action": "notify", "payload": {"mark": name}}).decode()

    def encode_clear(self) -> str:
        return _CLEAR


def _read_event(message: str | bytes) -> ProviderEvent | None:
    try:
        data = orjson.loads(message)
    except ValueError:  # also what nests too deeply
        raise BadMessage("json") from None
    event = data.get("event") if isinstance(data, dict) else None
    if not isinstance(event, str):
        raise BadMessage("shape")
    match event:
        case "websocket:notify":
            return _read_notify(data)
        case "websocket:cleared":
            return Cleared()
        case "websocket:dtmf":
            return _read_dtmf(data)
        case "websocket:connected":
            raise ProtocolError("a second websocket:connected")
    if not event.startswith("websocket:"):
        raise BadMessage("type")
    return None  # Vonage's, and younger than this code


def _read_notify(data: dict[str, Any]) -> MarkPlayed | None:
    payload = data.get("payload")
    if not isinstance(payload, dict):
        raise BadMessage("shape")
    name = payload.get("mark")
    if name is None:
        return None  # a notify that was not ours
    if not isinstance(name, str) or len(name) > _MAX_NAME_CHARS:
        raise BadMessage("shape")
    return MarkPlayed(name)


def _read_dtmf(data: dict[str, Any]) -> Dtmf:
    nested = data.get("dtmf")
    digit = data.get("digit", nested.get("digit") if isinstance(nested, dict) else None)
    if not isinstance(digit, str) or digit not in DIGITS:
        raise BadMessage("shape")
    return Dtmf(digit)
