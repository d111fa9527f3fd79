"""What the media sockets of several providers have in common: JSON text both ways, mu-law at 8000 Hz inside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from binascii import b2a_base64
from collections.abc import Callable
from typing import Any, ClassVar, Final

import structlog

from adapters.providers.fields import is_id, read_parameters
from adapters.providers.media_fields import (
    is_mulaw,
    read_dtmf,
    read_mark,
    read_message,
    read_mulaw,
    read_start,
    unheard,
)
from engine.errors import BadMessage, ProtocolError
from engine.events import MULAW_8K, ProviderEvent, Stopped, StreamStarted

log = structlog.get_logger()

_MAX_COMPLAINTS: Final = 3
"""Logged of one socket."""


class JsonCodec(ABC):
    """Codec of one media socket, to be made a provider's own: it names the fields, reads the start, and says what a
    frame's count means."""

    __slots__ = ("_call_id", "_complaints", "_prefix", "_stream_id", "_unnamed", "on_gap")

    paced: bool = False
    ends_by_close: bool = False
    provider: ClassVar[str]
    stream_field: ClassVar[str]
    call_field: ClassVar[str]
    prefix: ClassVar[str] = ""
    """Of a message with audio, up to its base64."""

    def __init__(self) -> None:
        self.on_gap: Callable[[], None] = unheard
        self._stream_id = ""
        self._call_id = ""
        self._prefix = self.prefix
        self._unnamed: str | None = None
        """The stream of messages that name none: if it is this one, they are welcome."""
        self._complaints = 0

    def decode_start(self, message: str | bytes) -> StreamStarted | None:
        """``connected`` gives None, ``start`` the stream. Raises ProtocolError for all else."""
        found = read_start(message)
        return None if found is None else self._start(*found)

    def decode(self, message: str | bytes) -> ProviderEvent | None:
        """None for repeats, for audio that waits for what comes before it, for the other side's track and for events of
        no use here. Raises BadMessage for what is unusable, ProtocolError for a second start."""
        data = read_message(message)
        event = data.get("event")
        if event == "media":
            if data.get(self.stream_field, self._unnamed) != self._stream_id:
                raise BadMessage("stream")
            media = data.get("media")
            if type(media) is not dict:
                raise BadMessage("shape")
            return self._frame(data, media, read_mulaw(media))
        if event == "start":
            raise ProtocolError("a second start message")
        if not isinstance(event, str):
            raise BadMessage("shape")
        if event == "connected":
            raise BadMessage("type")
        if data.get(self.stream_field, self._unnamed) != self._stream_id:
            raise BadMessage("stream")
        return self._event(event, data)

    def encode_audio(self, audio: bytes) -> str:
        return self._prefix + b2a_base64(audio, newline=False).decode("ascii") + '"}}'

    @abstractmethod
    def encode_mark(self, name: str) -> str: ...

    @abstractmethod
    def encode_clear(self) -> str: ...

    @abstractmethod
    def _start(self, data: dict[str, Any], start: dict[str, Any]) -> StreamStarted:
        """The whole message, and its content. Raises ProtocolError."""

    @abstractmethod
    def _frame(self, data: dict[str, Any], media: dict[str, Any], audio: bytes) -> bytes | None:
        """What can be heard now, of the message, its content, and the audio in it. Raises BadMessage."""

    def _event(self, event: str, data: dict[str, Any]) -> ProviderEvent | None:
        """Of this stream, and neither audio nor a start."""
        match event:
            case "mark":
                mark = data.get("mark")
                return read_mark(mark.get("name") if isinstance(mark, dict) else None)
            case "dtmf":
                return read_dtmf(data.get("dtmf"))
            case "stop":
                stop = data.get("stop")
                if isinstance(stop, dict) and stop.get(self.call_field, self._call_id) != self._call_id:
                    raise BadMessage("stream")
                return Stopped()
        return None  # younger than this code

    def _started(self, stream_id: object, start: dict[str, Any], form: object, parameters: object) -> StreamStarted:
        """With all that the stream's provider says of it checked. Raises ProtocolError."""
        call_id: object = start.get(self.call_field)
        if not self._is_id(stream_id):
            raise ProtocolError(f"start message without a usable {self.stream_field}")
        if not self._is_id(call_id):
            raise ProtocolError(f"start message without a usable {self.call_field}")
        if not is_mulaw(form):
            raise ProtocolError("start message of another audio format than mu-law 8000 Hz mono")
        texts = read_parameters(parameters)
        if texts is None:
            raise ProtocolError("start message with unusable parameters")
        self._stream_id, self._call_id = str(stream_id), str(call_id)
        token = texts.pop("token", "")
        return StreamStarted(self._call_id, self._stream_id, MULAW_8K, token, texts)

    def _is_id(self, value: object) -> bool:
        return is_id(value)

    def _complain(self, code: object) -> None:
        """The provider does. Its words are left out: they may repeat what we sent."""
        self._complaints += 1
        if self._complaints <= _MAX_COMPLAINTS:
            log.warning("provider_complains", provider=self.provider, call_id=self._call_id, code=code)
