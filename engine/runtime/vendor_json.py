"""Messages of vendors in JSON: what theirs hold, taken with suspicion, for they are strangers; and ours. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import orjson

from engine.errors import BadMessage

MAX_TEXT = 10_000
"""Characters of one piece of text: ten minutes of talk."""


def object_of(message: str | bytes) -> dict[str, Any]:
    """Raises BadMessage unless it is JSON of one object."""
    if not isinstance(message, str):
        raise BadMessage("type")
    try:
        value = orjson.loads(message)
    except (orjson.JSONDecodeError, RecursionError):
        raise BadMessage("json") from None
    if not isinstance(value, dict):
        raise BadMessage("shape")
    return value


def text_of(value: dict[str, Any], key: str) -> str:
    """A string, empty if there is none. Raises BadMessage."""
    text = value.get(key)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise BadMessage("shape")
    if len(text) > MAX_TEXT:
        raise BadMessage("length")
    return text


def number_of(value: dict[str, Any], key: str) -> float | None:
    """A finite number. Raises BadMessage for anything else but none."""
    number = value.get(key)
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise BadMessage("shape")
    return float(number)


def whole_of(value: dict[str, Any], key: str) -> int | None:
    """A whole number. Raises BadMessage for anything else but none."""
    number = value.get(key)
    if number is not None and (isinstance(number, bool) or not isinstance(number, int)):
        raise BadMessage("shape")
    return number


def dict_of(value: dict[str, Any], key: str) -> dict[str, Any]:
    """An object, empty if there is none. Raises BadMessage."""
    inner = value.get(key)
    if inner is None:
        return {}
    if not isinstance(inner, dict):
        raise BadMessage("shape")
    return inner


def dicts_of(value: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """A list of objects, empty if there is none. Raises BadMessage."""
    items = value.get(key)
    if items is None:
        return []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise BadMessage("shape")
    return items


def word_of(value: object) -> str:
    """A vendor's own code for what went wrong, fit for a log: short, and neither a sentence nor a key."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)[:12]
    if isinstance(value, str) and 0 < len(value) <= 60 and value.replace("_", "").replace("-", "").isalnum():
        return value
    return "an error"


def packed(message: Mapping[str, Any]) -> str:
    """A message of ours as JSON, whatever half characters the texts in it may hold."""
    try:
        return orjson.dumps(message).decode()
    except TypeError:
        return json.dumps(message, ensure_ascii=False).encode("utf-8", "replace").decode()
