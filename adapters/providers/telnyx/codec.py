"""The wire of a Telnyx media stream, whose frames come in any order."""

from __future__ import annotations

from typing import Any

import orjson

from adapters.providers.fields import is_long_id
from adapters.providers.json_codec import JsonCodec
from adapters.providers.media_fields import read_count
from adapters.providers.reorder import Reorder
from engine.errors import BadMessage
from engine.events import ProviderEvent, StreamStarted


class TelnyxCodec(JsonCodec):
    """Codec of one Telnyx media socket."""

    __slots__ = ("_reorder",)

    provider = "telnyx"
    stream_field = "stream_id"
    call_field = "call_control_id"
    prefix = '{"event":"media","media":{"payload":"'

    def __init__(self) -> None:
        super().__init__()
        self._reorder = Reorder()

    def encode_mark(self, name: str) -> str:
        return orjson.dumps({"event": "mark", "mark": {"name": name}}).decode()

    def encode_clear(self) -> str:
        return '{"event":"clear"}'

    def _start(self, data: dict[str, Any], start: dict[str, Any]) -> StreamStarted:
        # Its documents spell these in two ways.
        form = start.get("media_format", start.get("mediaFormat"))
        parameters = start.get("custom_parameters", start.get("customParameters", {}))
        return self._started(data.get("stream_id"), start, form, parameters)

    def _frame(self, data: dict[str, Any], media: dict[str, Any], audio: bytes) -> bytes | None:
        if media.get("track", "inbound") != "inbound":
            return None
        chunk = media.get("chunk")
        if chunk is None:
            return audio
        number = read_count(chunk)
        if number < 0:
            raise BadMessage("shape")
        given_up = self._reorder.given_up
        heard = self._reorder.put(number, audio)
        if self._reorder.given_up != given_up:
            self.on_gap()
        return heard

    def _event(self, event: str, data: dict[str, Any]) -> ProviderEvent | None:
        if event != "error":
            return super()._event(event, data)
        payload = data.get("payload")
        code = payload.get("code") if isinstance(payload, dict) else None
        self._complain(code if isinstance(code, int) else None)
        return None

    def _is_id(self, value: object) -> bool:
        return is_long_id(value)
