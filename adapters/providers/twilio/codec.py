"""The wire of a Twilio media stream: JSON text both ways, mu-law at 8000 Hz inside."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Callable
from typing import Any, Final

import orjson

from adapters.providers.fields import is_id, read_parameters
from adapters.providers.media_fields import (
    read_count,
    read_dtmf,
    read_event,
    read_mark,
    read_message,
    read_mulaw,
    read_start,
    unheard,
)
from engine.errors import BadMessage, ProtocolError
from engine.events import MULAW_8K, ProviderEvent, Stopped, StreamStarted

_REPEAT_WINDOW: Final = 256
"""A sequence number this little below the last is a repeat; further below, the peer has begun to count anew."""


class TwilioCodec:
    """Codec of one Twilio media socket."""

    __slots__ = ("_call_id", "_chunk", "_clear", "_prefix", "_sequence", "_stream_id", "on_gap")

    paced: bool = False
    ends_by_close: bool = False

    def __init__(self) -> None:
        self.on_gap: Callable[[], None] = unheard
        self._stream_id = ""
        self._call_id = ""
        self._prefix = ""
        self._clear = ""
        self._sequence = 0
        self._chunk: object = None  # as it came

    def decode_start(self, message: str | bytes) -> StreamStarted | None:
        """``connected`` gives None, ``start`` the stream. Raises ProtocolError for all else."""
        found = read_start(message)
        return None if found is None else self._start(*found)

    def decode(self, message: str | bytes) -> ProviderEvent | None:
        """None for repeats, for the other side's track and for events of no use here."""
        data = read_message(message)
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
        audio = read_mulaw(media)
        # Only what is usable counts as seen: last of all.
        sequence = data.get("sequenceNumber")
        if sequence is not None and self._is_repeat(sequence, media.get("chunk")):
            return None
        return audio if media.get("track", "inbound") == "inbound" else None

    def _is_repeat(self, sequence: object, chunk: object) -> bool:
        number = read_count(sequence)
        is_new = self._sequence < number or number <= self._sequence - _REPEAT_WINDOW
        is_counted = self._chunk is not None and chunk is not None
        if is_counted and (not is_new or number != self._sequence + 1):
            # Other messages count in the sequence, too; the chunks are frames alone.
            ahead = read_count(chunk) - read_count(self._chunk)
            is_new = is_new or ahead > 0
            if 1 < ahead < _REPEAT_WINDOW:
                self.on_gap()
        if is_new:
            self._sequence, self._chunk = number, chunk
        return not is_new

    def _rare(self, data: dict[str, Any]) -> ProviderEvent | None:
        match read_event(data, "streamSid", self._stream_id):
            case "mark":
                mark = data.get("mark")
                return read_mark(mark.get("name") if isinstance(mark, dict) else None)
            case "dtmf":
                return read_dtmf(data.get("dtmf"))
            case "stop":
                return self._stop(data.get("stop"))
        return None  # of this very stream, and younger than this code

    def _stop(self, stop: object) -> Stopped:
        if isinstance(stop, dict) and stop.get("callSid", self._call_id) != self._call_id:
            raise BadMessage("stream")
        return Stopped()

    def _start(self, data: dict[str, Any], start: dict[str, Any]) -> StreamStarted:
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
