"""What the messages of speech-to-speech vendors must hold. Pure."""

from __future__ import annotations

import binascii
import math
from base64 import b64decode
from typing import Any

import orjson

from engine.errors import BadMessage
from engine.runtime.vendor_json import dict_of


def id_of(value: dict[str, Any], key: str) -> str:
    """A string that is not empty. Raises BadMessage."""
    name = value.get(key)
    if not isinstance(name, str) or not 0 < len(name) <= 200:
        raise BadMessage("shape")
    return name


def needed_number_of(value: dict[str, Any], key: str) -> float:
    """A finite number. Raises BadMessage."""
    number = value.get(key)
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise BadMessage("shape")
    return float(number)


def audio_of(value: dict[str, Any], key: str) -> bytes:
    """Audio in base64; empty if there is none. Raises BadMessage."""
    text = value.get(key)
    if text is None:
        return b""
    if not isinstance(text, str):
        raise BadMessage("shape")
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadMessage("base64") from None


def json_of(value: dict[str, Any], key: str) -> str:
    """An object as JSON again. Raises BadMessage for none, and for one that is nested beyond use."""
    try:
        return orjson.dumps(dict_of(value, key)).decode()
    except TypeError:
        raise BadMessage("shape") from None
