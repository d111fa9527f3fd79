"""What may stand in the fields of a provider's messages: all of them are written by strangers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeGuard

import orjson

MAX_PARAMETERS = 64
MAX_PARAMETER_CHARS = 512

DIGITS = frozenset("0123456789*#ABCD")

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Wide enough for Twilio's sids, UUIDs and what test rigs make up; too narrow for a path or a format string."""

_LONG_ID = re.compile(r"[A-Za-z0-9_:-]{1,128}")
"""For Telnyx' ``v3:...``."""

_NUMBER = re.compile(r"[A-Za-z0-9+@:._;=~%*#()/ -]{0,128}")
"""A phone number in any spelling, a SIP address, ``client:`` names, ``anonymous`` or nothing at all."""

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufffe\uffff]")
"""Control characters, marks that turn the writing direction, halves of surrogates: no document may hold them."""


def is_id(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def is_long_id(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and _LONG_ID.fullmatch(value) is not None


def read_number(value: object) -> str | None:
    """A number as the provider wrote it, or None. Forms turn the plus of a number into a blank: it is put back."""
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        return None
    digits = value.strip(" ")
    return f"+{digits}" if value.startswith(" ") and digits.isdigit() else digits


def printable(text: str) -> str:
    """The text without what can neither be seen nor said."""
    return _UNPRINTABLE.sub(" ", text)


def clipped(text: str) -> str:
    """A stranger's words, short and printable."""
    return printable(text[:MAX_PARAMETER_CHARS]).strip()


def read_object(text: str | bytes) -> dict[str, Any] | None:
    """A JSON object, or None for anything else."""
    try:
        value = orjson.loads(text)
    except ValueError:  # also what nests too deeply
        return None
    return value if isinstance(value, dict) else None


def read_parameters(value: object) -> dict[str, str] | None:
    """Strings by name, few and short; None for anything else."""
    if not isinstance(value, Mapping) or len(value) > MAX_PARAMETERS:
        return None
    for name, text in value.items():
        if not isinstance(text, str) or len(name) > MAX_PARAMETER_CHARS or len(text) > MAX_PARAMETER_CHARS:
            return None
    return dict(value)
