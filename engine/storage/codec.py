"""Sessions, messages, traces and the audit as bytes: JSON with the version of its form inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from engine.dialogue.history import Entry, TraceEvent
from engine.storage.keyring import Unreadable
from engine.storage.record import Save, SessionRecord

VERSION = 1
"""Of the form. Raised when an older engine would misread what a newer one writes; it ignores fields that it does not
know."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Who did what to whose data. Kept without the number."""

    at: float
    """Unix seconds."""
    who: str
    """Name of the key, or of the command."""
    action: str
    subject: str
    """The number's fingerprint, or empty."""
    outcome: str
    detail: str = ""


class _Body(msgspec.Struct, Generic[T]):
    v: int
    value: T


class _Version(msgspec.Struct):
    v: int


class Codec(Generic[T]):
    """One kind of value <-> bytes."""

    def __init__(self, kind: type[T]) -> None:
        self._decoder = msgspec.json.Decoder(_Body[kind])  # type: ignore[valid-type]  # a type known at run time

    def encode(self, value: T) -> bytes:
        """Strange values in a trace become text; half characters become "?"."""
        body = _Body(VERSION, value)
        try:
            return _ENCODER.encode(body)
        except UnicodeEncodeError:
            return _ENCODER.encode(_whole(msgspec.to_builtins(body, enc_hook=repr)))

    def decode(self, body: bytes) -> T:
        """Raises Unreadable."""
        try:
            if _VERSION.decode(body).v > VERSION:
                raise Unreadable("written by a newer version")
            value: T = self._decoder.decode(body).value
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Unreadable("not understood") from None
        return value


def clean(text: str) -> str:
    """For an index: without what databases refuse."""
    return text.replace("\0", " ").encode("utf-8", "replace").decode("utf-8")


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    return value


_ENCODER = msgspec.json.Encoder(enc_hook=repr)
_VERSION = msgspec.json.Decoder(_Version)

RECORDS = Codec(SessionRecord)
ENTRIES = Codec(Entry)
TRACES = Codec(TraceEvent)
AUDITS = Codec(AuditEvent)
SAVES = Codec(Save)
