"""What the wires of all synthesizers have in common: audio in messages, addresses, how a socket ended. Pure."""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

from engine.errors import BadMessage, SpeechFailed, Why

_SOCKET_SCHEMES = {"https": "wss", "http": "ws"}
_WHY_CLOSED = {1002: Why.NONSENSE, 1003: Why.NONSENSE, 1007: Why.NONSENSE, 1008: Why.FAILED, 1011: Why.UNREACHABLE}


def audio_of(value: object) -> bytes:
    """Audio in base64. Raises BadMessage."""
    if not isinstance(value, str):
        raise BadMessage("shape")
    try:
        return binascii.a2b_base64(value, strict_mode=True)
    except ValueError:
        raise BadMessage("base64") from None


def given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that were left empty are not sent: the vendor's own defaults hold."""
    return {key: value for key, value in fields.items() if value is not None and value not in ("", {})}


def address(base: str, path: str, query: Mapping[str, object], *, is_socket: bool = False) -> str:
    """``path`` and ``query`` added to a base address; for a socket, http becomes ws."""
    url = urlsplit(base)
    scheme = _SOCKET_SCHEMES.get(url.scheme, url.scheme) if is_socket else url.scheme
    return urlunsplit((scheme, url.netloc, url.path.rstrip("/") + path, urlencode(query), ""))


def closed_error(vendor: str, code: int) -> SpeechFailed:
    """The vendor has closed its socket in the middle."""
    return SpeechFailed(vendor, f"closed the connection ({code})", why=_WHY_CLOSED.get(code, Why.CUT))
