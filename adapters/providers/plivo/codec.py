"""The wire of a Plivo audio stream."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import orjson

from adapters.providers.fields import read_object
from adapters.providers.json_codec import JsonCodec
from adapters.providers.media_fields import read_count, read_mark
from engine.events import Cleared, ProviderEvent, StreamStarted

_ALIEN_PREFIX: Final = "x-ph-"
"""Plivo puts it before the names of headers that pass through SIP."""
_REPEAT_WINDOW: Final = 256
"""A chunk this little below the last is a repeat; further below, the peer has begun to count anew."""


class PlivoCodec(JsonCodec):
    """Codec of one Plivo media socket."""

    __slots__ = ("_chunk", "_clear")

    provider = "plivo"
    stream_field = "streamId"
    call_field = "callId"
    prefix = '{"event":"playAudio","media":{"contentType":"audio/x-mulaw","sampleRate":8000,"payload":"'

    def __init__(self) -> None:
        super().__init__()
        self._clear = ""
        self._chunk = -1

    def encode_mark(self, name: str) -> str:
        return orjson.dumps({"event": "checkpoint", "streamId": self._stream_id, "name": name}).decode()

    def encode_clear(self) -> str:
        return self._clear

    def _start(self, data: dict[str, Any], start: dict[str, Any]) -> StreamStarted:
        headers = read_extra_headers(data.get("extra_headers", ""))
        form = start.get("mediaFormat")
        if isinstance(form, dict):
            form = {"sampleRate": 8000} | form  # mu-law has no other
        stream = self._started(start.get("streamId"), start, form, headers)
        self._unnamed = stream.stream_id
        self._clear = f'{{"event":"clearAudio","streamId":"{stream.stream_id}"}}'
        return replace(stream, token=decode_value(stream.token))

    def _frame(self, data: dict[str, Any], media: dict[str, Any], audio: bytes) -> bytes | None:
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

    def _event(self, event: str, data: dict[str, Any]) -> ProviderEvent | None:
        match event:
            case "playedStream":
                return read_mark(data.get("name"))
            case "clearedAudio":
                return Cleared()
            case "playFailed" | "error":
                self._complain(event)
                return None
        return super()._event(event, data)


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
