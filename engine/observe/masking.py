"""What may not stand in a log: full phone numbers, keys and tokens, whole texts of strangers. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

MASK = "***"
MAX_TEXT = 4_000
"""Characters of one value; the rest is cut."""
MAX_TRACE = 16_000
_MAX_DEPTH = 4

_WITHHELD = frozenset({"anonymous", "restricted", "unavailable", "unknown", "private", "withheld"})
_NUMBER_FIELDS = frozenset({"caller", "dialled", "from", "to", "number", "phone"})
_SECRET_FIELDS = frozenset(
    {"token", "key", "secret", "authorization", "signature", "password", "credentials", "cookie"}
)
_PLAIN_FIELDS = frozenset({"timestamp", "level", "event", "id", "uuid", "uuids", "version"})

_DIALLABLE = re.compile(r"\+?[0-9 ()./-]+")

_TOKENS = re.compile(
    r"""
    # A number with dots between its groups; an address or a fraction never looks so.
    (?P<dotted>(?<![\w.])\+?(?:\d{1,3}\.)?\d{3}\.\d{3}\.\d{4}(?![\w.]))
    # What is full of digits and no number: uuids, dates and times, fractions and addresses, ids, long counters.
    | (?P<keep>
        (?<![0-9A-Za-z])[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}(?![0-9A-Za-z])
      | (?<!\d)(?:19|20)\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])(?!\d)
        (?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?
      | \d+(?:\.\d+)+
      | (?=[0-9A-Za-z]*[A-Za-z])(?![A-Za-z]+\d{10,15}(?![0-9A-Za-z]))[0-9A-Za-z]+
      | \d{16,}
      )
    | (?P<number>\+?\(?\d(?:[ \t\xa0()/-]{0,3}\d){6,14})
    """,
    re.VERBOSE,
)
_SECRETS = re.compile(
    r"(?i)\b(?P<name>bearer\s+|basic\s+|(?:token|key|secret|signature|password)[\"']?\s?[=:]\s?[\"']?)[^\s&\"']+"
)
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code not in (9, 10)}


def mask_number(number: str) -> str:
    """A caller's number for a log: ``+15551234567`` -> ``***4567``.

    Anything that is not a number of at least seven digits is hidden whole; a provider's word for a withheld number, and
    no number at all, stay.
    """
    number = number.strip()
    if not number or number.lower() in _WITHHELD or number.startswith(MASK):
        return number
    digits = [char for char in number if char.isdecimal()]
    if len(digits) < 7 or not _DIALLABLE.fullmatch(number):
        return MASK
    return MASK + "".join(digits[-4:])


def mask_text(text: str, *, limit: int = MAX_TEXT) -> str:
    """Free text without numbers to dial and without keys; ids, times and fractions stay as they are."""
    # Twice the limit is looked at, so that a number across the cut is seen whole.
    text = _SECRETS.sub(_hide_secret, text[: 2 * limit])
    text = _TOKENS.sub(_hide_number, text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def mask_field(name: str, value: object, depth: int = 0) -> object:
    """A field of a log record as it may be written. What is no text, number or container becomes text."""
    words = name.lower().replace("-", "_").rsplit("_", 1)
    if words[-1] in _SECRET_FIELDS:
        return MASK if value else value
    if words[-1] in _NUMBER_FIELDS and value is not None:
        return mask_number(str(value))
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return _mask_container(name, value, depth + 1)
    return _mask_leaf(name, words[-1], value)


def _mask_leaf(name: str, word: str, value: object) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    text = str(value)
    if name == "exception":
        return mask_text(text, limit=MAX_TRACE).translate(_CONTROLS)
    return _printable(text[:MAX_TEXT] if word in _PLAIN_FIELDS else mask_text(text))


def _mask_container(name: str, value: object, depth: int) -> object:
    if depth > _MAX_DEPTH:
        return "…"
    if isinstance(value, Mapping):
        return {str(key): mask_field(str(key), item, depth) for key, item in value.items()}
    assert isinstance(value, list | tuple | set | frozenset)  # noqa: S101 - for the type checker
    return [mask_field(name, item, depth) for item in value]


def _printable(text: str) -> str:
    """One line, and nothing that drives a terminal."""
    return text.translate(_CONTROLS).replace("\n", "\\n")


def _hide_number(match: re.Match[str]) -> str:
    if match["keep"] is not None:
        return match["keep"]
    return MASK + "".join(char for char in match[0] if char.isdecimal())[-4:]


def _hide_secret(match: re.Match[str]) -> str:
    return match["name"] + MASK
