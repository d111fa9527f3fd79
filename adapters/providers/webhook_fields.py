"""The fields of a webhook that comes as a query, a form or JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeGuard
from urllib.parse import parse_qsl, urlsplit

from adapters.providers.fields import clipped, is_id, read_number, read_object
from engine.errors import BadRequest
from engine.ports import WebhookRequest

_MAX_FIELDS: Final = 200
_DIGITS = re.compile(r"[1-9][0-9]{6,14}")


def read_fields(request: WebhookRequest) -> dict[str, Any]:
    """A GET's query, or a POST's form or JSON object. A parameter that is given twice with two values becomes None.

    Raises BadRequest.
    """
    if request.method == "GET":
        return _read_pairs(urlsplit(request.url).query, "query")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/x-www-form-urlencoded":
        return _read_pairs(request.body.decode("utf-8", "replace"), "body")
    return read_json(request)


def read_json(request: WebhookRequest) -> dict[str, Any]:
    """Raises BadRequest."""
    fields = read_object(request.body)
    if fields is None:
        raise BadRequest("body")
    return fields


def id_in(fields: Mapping[str, Any], name: str, is_usable: Callable[[object], TypeGuard[str]] = is_id) -> str:
    """Raises BadRequest naming the field."""
    value: object = fields.get(name)
    if not is_usable(value):
        raise BadRequest(name)
    return value


def number_in(fields: Mapping[str, Any], name: str) -> str:
    """Raises BadRequest naming the field."""
    value = read_number(fields.get(name, ""))
    if value is None:
        raise BadRequest(name)
    return value


def text_in(fields: Mapping[str, Any], name: str) -> str:
    """Empty if there is none. Raises BadRequest naming the field, also for one that was given twice."""
    value: object = fields.get(name, "")
    if not isinstance(value, str):
        raise BadRequest(name)
    return value


def told(fields: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    """Those of these fields that say something, short and printable."""
    return {name: clipped(text) for name in names if isinstance(text := fields.get(name), str) and text}


def international(number: str) -> str:
    """A number that was written without its plus, with it: else it would be read in the region of the settings."""
    return f"+{number}" if _DIGITS.fullmatch(number) else number


def _read_pairs(text: str, where: str) -> dict[str, Any]:
    try:
        pairs: Iterable[tuple[str, str]] = parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise BadRequest(where) from None
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if fields.setdefault(name, value) != value:
            fields[name] = None
    return fields
