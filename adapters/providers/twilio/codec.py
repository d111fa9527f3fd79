"""The wire of a Twilio media stream."""

from __future__ import annotations

from typing import Any, Final

import orjson

from adapters.providers.json_codec import JsonCodec
from adapters.providers.media_fields import read_count
from engine.errors import ProtocolError
from engine.events import StreamStarted

_REPEAT_WINDOW: Final = 256
"""A sequence number this little below the last is a repeat; further below, the peer has begun to count anew."""


class TwilioCodec(JsonCodec):
    """Codec of one Twilio media socket."""

    __slots__ = ("_chunk", "_clear", "_sequence")

    provider = "twilio"
    stream_field = "streamSid"
    call_field = "callSid"

    def __init__(self) -> None:
        super().__init__()
        self._clear = ""
        self._sequence = 0
        self._chunk: object = None  # as it came

    def encode_mark(self, name: str) -> str:
        return orjson.dumps({"event": "mark", "streamSid": self._stream_id, "mark": {"name": name}}).decode()

    def encode_clear(self) -> str:
        return self._clear

    def _start(self, data: dict[str, Any], start: dict[str, Any]) -> StreamStarted:
        stream_id = data.get("streamSid")
        if start.get("streamSid", stream_id) != stream_id:
            raise ProtocolError("start message of two streams")
        stream = self._started(stream_id, start, start.get("mediaFormat"), start.get("customParameters", {}))
        self._prefix = f'{{"event":"media","streamSid":"{stream_id}","media":{{"payload":"'
        self._clear = f'{{"event":"clear","streamSid":"{stream_id}"}}'
        return stream

    def _frame(self, data: dict[str, Any], media: dict[str, Any], audio: bytes) -> bytes | None:
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
