"""The wire of a Telnyx media stream: JSON text both ways, mu-law at 8000 Hz inside, its frames in any order."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Callable
from typing import Any, Final

import orjson
import structlog

from adapters.providers.fields import is_long_id, read_parameters
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
from adapters.providers.reorder import Reorder
from engine.errors import BadMessage, ProtocolError
from engine.events import MULAW_8K, ProviderEvent, Stopped, StreamStarted

log = structlog.get_logger()

_ENCODINGS: Final = ("PCMU", "audio/x-mulaw", "audio/pcmu")
"""What its documents call mu-law, in one version or another."""

_CLEAR: Final = '{"event":"clear"}'
_PREFIX: Final = '{"event":"media","media":{"payload":"'
_MAX_COMPLAINTS: Final = 3
"""Logged of one socket."""


class TelnyxCodec:
    """Codec of one Telnyx media socket."""

    __slots__ = ("_call_id", "_complaints", "_reorder", "_stream_id", "on_gap")

    paced: bool = False
    ends_by_close: bool = False

    def __init__(self) -> None:
        self.on_gap: Callable[[], None] = unheard
        self._stream_id = ""
        self._call_id = ""
        self._complaints = 0
        self._reorder = Reorder()

    def decode_start(self, message: str | bytes) -> StreamStarted | None:
        """``connected`` gives None, ``start`` the stream. Raises ProtocolError for all else."""
        found = read_start(message)
        return None if found is None else self._start(*found)

    def decode(self, message: str | bytes) -> ProviderEvent | None:
        """None for repeats, for audio that waits for what comes before it, and for events of no use here."""
        data = read_message(message)
        if data.get("event") == "media":
            return self._media(data)
        return self._rare(data)

    def encode_audio(self, audio: bytes) -> str:
        return _PREFIX + b2a_base64(audio, newline=False).decode("ascii") + '"}}'

    def encode_mark(self, name: str) -> str:
        return orjson.dumps({"event": "mark", "mark": {"name": name}}).decode()

    def encode_clear(self) -> str:
        return _CLEAR

    def _media(self, data: dict[str, Any]) -> bytes | None:
        if data.get("stream_id") != self._stream_id:
            raise BadMessage("stream")
        media = data.get("media")
        if type(media) is not dict:
            raise BadMessage("shape")
        audio = read_mulaw(media)
        if media.get("track", "inbound") != "inbound":
            return None
        chunk = media.get("chunk")
        if chunk is None:
            return audio
        given_up = self._reorder.given_up
        heard = self._reorder.put(_read_number(chunk), audio)
        if self._reorder.given_up != given_up:
            self.on_gap()
        return heard

    def _rare(self, data: dict[str, Any]) -> ProviderEvent | None:
        match read_event(data, "stream_id", self._stream_id):
            case "mark":
                mark = data.get("mark")
                return read_mark(mark.get("name") if isinstance(mark, dict) else None)
            case "dtmf":
                return read_dtmf(data.get("dtmf"))
            case "stop":
                return self._stop(data.get("stop"))
            case "error":
                self._complain(data.get("payload"))
        return None  # of this very stream, and younger than this code

    def _stop(self, stop: object) -> Stopped:
        if isinstance(stop, dict) and stop.get("call_control_id", self._call_id) != self._call_id:
            raise BadMessage("stream")
        return Stopped()

    def _complain(self, payload: object) -> None:
        """The code alone: the rest may repeat what we sent."""
        code = payload.get("code") if isinstance(payload, dict) else None
        self._complaints += 1
        if self._complaints <= _MAX_COMPLAINTS:
            known = code if isinstance(code, int) else None
            log.warning("provider_complains", provider="telnyx", call_id=self._call_id, code=known)

    def _start(self, data: dict[str, Any], start: dict[str, Any]) -> StreamStarted:
        stream_id: object = data.get("stream_id")
        call_id: object = start.get("call_control_id")
        if not is_long_id(stream_id):
            raise ProtocolError("start message without a usable stream_id")
        if not is_long_id(call_id):
            raise ProtocolError("start message without a usable call_control_id")
        if not _is_mulaw(start.get("media_format", start.get("mediaFormat"))):
            raise ProtocolError("start message of another audio format than mu-law 8000 Hz mono")
        parameters = read_parameters(start.get("custom_parameters", start.get("customParameters", {})))
        if parameters is None:
            raise ProtocolError("start message with unusable custom_parameters")
        token = parameters.pop("token", "")
        self._stream_id, self._call_id = stream_id, call_id
        return StreamStarted(call_id, stream_id, MULAW_8K, token, parameters)


def _is_mulaw(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.get("encoding") in _ENCODINGS
        and value.get("sample_rate", value.get("sampleRate")) in (8000, "8000")
        and value.get("channels", 1) in (1, "1")
    )


def _read_number(value: object) -> int:
    number = read_count(value)
    if number < 0:
        raise BadMessage("shape")
    return number
