"""The wire of a Twilio media stream: JSON text both ways, mu-law at 8000 Hz inside."""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from typing import Any, Final

import orjson

from adapters.providers.fields import DIGITS, is_id, read_object, read_parameters
from engine.errors import BadMessage, ProtocolError
from engine.events import MULAW_8K, Dtmf, MarkPlayed, ProviderEvent, Stopped, StreamStarted

_FRAME_BYTES: Final = MULAW_8K.frame_bytes
_MAX_AUDIO_BYTES: Final = MULAW_8K.bytes_per_s
"""Twilio sends single frames; up to a second in one message is put up with."""

_MAX_NAME_CHARS: Final = 256
_REPEAT_WINDOW: Final = 256
"""A sequence number this little below the last is a repeat; further below, the peer has begun to count anew."""


class TwilioCodec:
    """Codec of one Twilio media socket."""

    __slots__ = ("_call_id", "_chunk", "_clear", "_prefix", "_sequence", "_stream_id")

    paced: bool = False
    ends_by_close: bool = False

    def __init__(self) -> None:
        self._stream_id = ""
        self._call_id = ""
        self._prefix = ""
        self._clear = ""
        self._sequence = 0
        self._chunk: object = None  # as it came: read only when the sequence number does not rise

    def decode_start(self, message: str | bytes) -> StreamStarted | None:
        """``connected`` gives None, ``start`` the stream. Raises ProtocolError for all else."""
        data = read_object(message) if isinstance(message, str) else None
        if data is None:
            raise ProtocolError("no JSON object before the start message")
        match data.get("event"):
            case "connected":
                return None
            case "start":
                return self._start(data)
        raise ProtocolError("unexpected message before the start message")

    def decode(self, message: str | bytes) -> ProviderEvent | None:
        """None for repeats, for the other side's track and for events of no use here."""
        if type(message) is not str:
            raise BadMessage("type")
        try:
            data = orjson.loads(message)
        except ValueError:  # also what nests too deeply
            raise BadMessage("json") from None
        if type(data) is not dict:
            raise BadMessage("shape")
        if data.get("event") == "media":
            return self._media(data)
        return self._rare(data)

    def encode_audio(self, audio: bytes) -> str:
        return self._prefix + b2a_base64(audio, newline=False).decode("ascii") + '"}}'

    def encode_mark(self, name: str) -> str:
        return orjson.dumps({"event": "mark", "streamSid": self._stream_id, "mark": {"name": name}}).decode()

    def encode_clear(self) -> str:
        return self._clear

    def _media(self, data: dict[str, Any]) -> bytes | None:
        if data.get("streamSid") != self._stream_id:
            raise BadMessage("stream")
        media = data.get("media")
        if type(media) is not dict:
            raise BadMessage("shape")
        try:
            audio = a2b_base64(media["payload"], strict_mode=True)
        except (KeyError, TypeError):
            raise BadMessage("shape") from None
        except ValueError:
            raise BadMessage("base64") from None
        size = len(audio)
        if size != _FRAME_BYTES and (not size or size % _FRAME_BYTES or size > _MAX_AUDIO_BYTES):
            raise BadMessage("length")
        # Only what is usable counts as seen: last of all.
        sequence = data.get("sequenceNumber")
        if sequence is not None and self._is_repeat(sequence, media.get("chunk")):
            return None
        return audio if media.get("track", "inbound") == "inbound" else None

    def _is_repeat(self, sequence: object, chunk: object) -> bool:
        number = _read_count(sequence)
        is_new = self._sequence < number or number <= self._sequence - _REPEAT_WINDOW
        if not is_new and self._chunk is not None and chunk is not None:
            is_new = _read_count(self._chunk) < _read_count(chunk)
        if is_new:
            self._sequence, self._chunk = number, chunk
        return not is_new

    def _rare(self, data: dict[str, Any]) -> ProviderEvent | None:
        event = data.get("event")
        if event == "start":
            raise ProtocolError("a second start message")
        if not isinstance(event, str):
            raise BadMessage("shape")
        if event == "connected":
            raise BadMessage("type")
        if data.get("streamSid") != self._stream_id:
            raise BadMessage("stream")
        match event:
            case "mark":
                return _read_mark(data.get("mark"))
            case "dtmf":
                return _read_dtmf(data.get("dtmf"))
            case "stop":
                return self._stop(data.get("stop"))
        return None  # of this very stream, and younger than this code

    def _stop(self, stop: object) -> Stopped:
        if isinstance(stop, dict) and stop.get("callSid", self._call_id) != self._call_id:
            raise BadMessage("stream")
        return Stopped()

    def _start(self, data: dict[str, Any]) -> StreamStarted:
        start = data.get("start")
        if not isinstance(start, dict):
            raise ProtocolError("start message without its content")
        stream_id: object = data.get("streamSid")
        call_id: object = start.get("callSid")
        if not is_id(stream_id) or start.get("streamSid", stream_id) != stream_id:
            raise ProtocolError("start message without a usable streamSid")
        if not is_id(call_id):
            raise ProtocolError("start message without a usable callSid")
        if not _is_mulaw(start.get("mediaFormat")):
            raise ProtocolError("start message of another audio format than mu-law 8000 Hz mono")
        parameters = read_parameters(start.get("customParameters", {}))
        if parameters is None:
            raise ProtocolError("start message with unusable customParameters")
        token = parameters.pop("token", "")
        self._stream_id, self._call_id = stream_id, call_id
        self._prefix = f'{{"event":"media","streamSid":"{stream_id}","media":{{"payload":"'
        self._clear = f'{{"event":"clear","streamSid":"{stream_id}"}}'
        return StreamStarted(call_id, stream_id, MULAW_8K, token, parameters)


def _is_mulaw(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.get("encoding") == "audio/x-mulaw"
        and value.get("sampleRate") in (8000, "8000")
        and value.get("channels", 1) in (1, "1")
    )


def _read_mark(mark: object) -> MarkPlayed:
    name = mark.get("name") if isinstance(mark, dict) else None
    if not isinstance(name, str) or len(name) > _MAX_NAME_CHARS:
        raise BadMessage("shape")
    return MarkPlayed(name)


def _read_dtmf(dtmf: object) -> Dtmf:
    digit = dtmf.get("digit") if isinstance(dtmf, dict) else None
    if not isinstance(digit, str) or digit not in DIGITS:
        raise BadMessage("shape")
    return Dtmf(digit)


def _read_count(value: object) -> int:
    """A count as Twilio writes it, a string of digits; a number will do."""
    if type(value) is str and len(value) <= 19 and value.isdigit() and value.isascii():
        return int(value)
    if type(value) is int:
        return value
    raise BadMessage("shape")
