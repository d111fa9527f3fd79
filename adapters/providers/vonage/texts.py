"""Vonage's inbound SMS, in the form of its SMS API and in that of its Messages API."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from adapters.providers.texts import received
from adapters.providers.webhook_fields import id_in, number_in
from engine.errors import BadRequest
from engine.ports import IncomingText

MAX_PARTS: Final = 32
"""Of one text; 24 are ``MAX_CHARS`` in the alphabet that needs the most."""
MAX_UNFINISHED: Final = 500
PARTS_S: Final = 600.0
"""How long the parts of a text wait for the others."""

_MAX_PART_CHARS: Final = 160
# Tuples: what is looked for in them came from outside, and may not be hashable.
_TEXT_TYPES: Final = ("text", "unicode")
_TEXT_CHANNELS: Final = ("sms", "mms")


def read_message(fields: Mapping[str, Any]) -> IncomingText | None:
    """A text of the Messages API; of one that is only a picture the text is empty. None for receipts and for channels
    that are no SMS. Raises BadRequest."""
    if "status" in fields or fields.get("channel") not in _TEXT_CHANNELS:
        return None
    return IncomingText(
        text_id=id_in(fields, "message_uuid"),
        sender=number_in(fields, "from"),
        recipient=number_in(fields, "to"),
        text=received(_text(fields)),
    )


class TextParts:
    """Texts of the SMS API. A long one comes in parts, each a webhook of its own, in any order: here they are put
    together. As on a telephone, of a text that never becomes whole nothing is seen.

    It keeps the parts of ``MAX_UNFINISHED`` texts, the oldest go first. They are in this process only: where several
    share one number, a text in parts is whole only if all its webhooks reach the same one.
    """

    def __init__(self) -> None:
        self._unfinished: OrderedDict[tuple[str, str, str, int], _Unfinished] = OrderedDict()

    def read(self, fields: Mapping[str, Any], now: float) -> IncomingText | None:
        """None for receipts, for what is no text, and for a part of a text that is not whole yet. Raises BadRequest."""
        if "status" in fields or fields.get("type") not in _TEXT_TYPES:
            return None
        text_id, sender, recipient = id_in(fields, "messageId"), number_in(fields, "msisdn"), number_in(fields, "to")
        text = _text(fields)
        if "concat-total" not in fields:
            return IncomingText(text_id, sender, recipient, received(text))
        reference = _number_of(fields, "concat-ref")
        part, total = _place(fields)
        self._forget_older_than(now - PARTS_S)
        key = (sender, recipient, reference, total)
        unfinished = self._unfinished.setdefault(key, _Unfinished(now))
        unfinished.parts[part] = (text_id, text[:_MAX_PART_CHARS])
        if len(unfinished.parts) < total:
            while len(self._unfinished) > MAX_UNFINISHED:
                self._unfinished.popitem(last=False)
            return None
        del self._unfinished[key]
        in_order = [unfinished.parts[place] for place in sorted(unfinished.parts)]
        return IncomingText(in_order[0][0], sender, recipient, received("".join(text for _, text in in_order)))

    def _forget_older_than(self, at: float) -> None:
        while self._unfinished and next(iter(self._unfinished.values())).since < at:
            self._unfinished.popitem(last=False)


@dataclass(slots=True)
class _Unfinished:
    since: float
    parts: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Place to id and text."""


def _text(fields: Mapping[str, Any]) -> str:
    value = fields.get("text", "")
    if not isinstance(value, str):
        raise BadRequest("text")
    return value


def _place(fields: Mapping[str, Any]) -> tuple[int, int]:
    part, total = int(_number_of(fields, "concat-part")), int(_number_of(fields, "concat-total"))
    if not 1 <= total <= MAX_PARTS:
        raise BadRequest("concat-total")
    if not 1 <= part <= total:
        raise BadRequest("concat-part")
    return part, total


def _number_of(fields: Mapping[str, Any], name: str) -> str:
    """A small whole number, which JSON may bring as a number or as a string."""
    value = fields.get(name)
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not text.isascii() or not text.isdigit() or len(text) > 5:
        raise BadRequest(name)
    return text
