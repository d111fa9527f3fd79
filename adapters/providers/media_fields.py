"""What the media messages in JSON of several providers have in common."""

from __future__ import annotations

from binascii import a2b_base64
from typing import Any, Final

import orjson

from adapters.providers.fields import DIGITS, read_object
from engine.errors import BadMessage, ProtocolError
from engine.events import MULAW_8K, Dtmf, MarkPlayed

MAX_AUDIO_BYTES: Final = MULAW_8K.bytes_per_s
"""Providers send single frames; up to a second in one message is put up with."""

_MULAW: Final = ("audio/x-mulaw", "PCMU", "audio/pcmu")
_FRAME_BYTES: Final = MULAW_8K.frame_bytes
_MAX_NAME_CHARS: Final = 256


def unheard() -> None:
    """A codec's ``on_gap`` until somebody reads."""


def read_message(message: str | bytes) -> dict[str, Any]:
    """Raises BadMessage for anything but a JSON object as text."""
    if type(message) is not str:
        raise BadMessage("type")
    try:
        data = orjson.loads(message)
    except ValueError:  # also what nests too deeply
        raise BadMessage("json") from None
    if type(data) is not dict:
        raise BadMessage("shape")
    return data


def read_start(message: str | bytes) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The start message and its content; None for the greeting before it, ``connected``.

    Raises ProtocolError for all else.
    """
    data = read_object(message) if isinstance(message, str) else None
    if data is None:
        raise ProtocolError("no JSON object before the start message")
    match data.get("event"):
        case "connected":
            return None
        case "start":
            start = data.get("start")
            if not isinstance(start, dict):
                raise ProtocolError("start message without its content")
            return data, start
    raise ProtocolError("unexpected message before the start message")


def is_mulaw(form: object) -> bool:
    """Mu-law at 8000 Hz, mono, in any provider's spelling."""
    if not isinstance(form, dict):
        return False
    encoding = str(form.get("encoding")).partition(";")[0]
    rate = form.get("sample_rate", form.get("sampleRate"))
    return encoding in _MULAW and rate in (8000, "8000") and form.get("channels", 1) in (1, "1")


def read_mulaw(media: dict[str, Any]) -> bytes:
    """Whole frames out of ``payload``. Raises BadMessage."""
    try:
        audio = a2b_base64(media["payload"], strict_mode=True)
    except (KeyError, TypeError):
        raise BadMessage("shape") from None
    except ValueError:
        raise BadMessage("base64") from None
    size = len(audio)
    if size != _FRAME_BYTES and (not size or size % _FRAME_BYTES or size > MAX_AUDIO_BYTES):
        raise BadMessage("length")
    return audio


def read_mark(name: object) -> MarkPlayed:
    """Raises BadMessage."""
    if not isinstance(name, str) or len(name) > _MAX_NAME_CHARS:
        raise BadMessage("shape")
    return MarkPlayed(name)


def read_dtmf(content: object) -> Dtmf:
    """Out of the field ``digit``. Raises BadMessage."""
    digit = content.get("digit") if isinstance(content, dict) else None
    if not isinstance(digit, str) or digit not in DIGITS:
        raise BadMessage("shape")
    return Dtmf(digit)


def read_count(value: object) -> int:
    """A count as a string of digits or a number. Raises BadMessage."""
    if type(value) is str and len(value) <= 19 and value.isdigit() and value.isascii():
        return int(value)
    if type(value) is int:
        return value
    raise BadMessage("shape")
