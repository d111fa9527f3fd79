"""What a language model's vendor says went wrong, in whatever shape, as the reason by which to decide what to do next.

Its words are looked at and never passed on: they may hold a key or what the caller said. Its code is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from engine.errors import ModelFailed, Why
from engine.runtime.network import why_of

_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,39}")
_WHY = {
    "context_length_exceeded": Why.TOO_LONG,
    "exceed_context_size_error": Why.TOO_LONG,  # llama.cpp
    "request_too_large": Why.TOO_LONG,
    "string_above_max_length": Why.TOO_LONG,
    "content_filter": Why.FILTERED,
    "content_policy_violation": Why.FILTERED,
    "invalid_prompt": Why.FILTERED,  # OpenAI's word for a prompt that its policy forbids
    "insufficient_quota": Why.AUTH,  # HTTP 429, but waiting does not pay the bill
    "billing_error": Why.AUTH,
    "authentication_error": Why.AUTH,
    "permission_error": Why.AUTH,
    "invalid_api_key": Why.AUTH,
    "rate_limit_error": Why.RATE_LIMITED,
    "rate_limit_exceeded": Why.RATE_LIMITED,
    "overloaded_error": Why.UNREACHABLE,
    "unavailable_error": Why.UNREACHABLE,  # llama.cpp, while it loads
    "api_error": Why.UNREACHABLE,
    "server_error": Why.UNREACHABLE,
    "internal_server_error": Why.UNREACHABLE,
    "timeout_error": Why.TIMEOUT,
    "not_found_error": Why.BAD_REQUEST,
    "model_not_found": Why.BAD_REQUEST,
    "invalid_request_error": Why.BAD_REQUEST,
}
_TOO_LONG = re.compile(
    r"prompt is too long|input is too long|maximum context length|context (?:length|window|size)|too many tokens"
    r"|reduce the length",
    re.IGNORECASE,
)


def complaint(
    vendor: str, said: object, *, status: int | None = None, retry_after_s: float | None = None
) -> ModelFailed:
    """The error of an answer that is none. ``said``: the parsed body or event, or anything; ``status``: of HTTP."""
    codes, words = _codes_and_words(said)
    why = _why(codes, words, status)
    code = next((code for code in codes if _CODE.fullmatch(code)), "")
    what = f"HTTP {status}" if status is not None else "it says that it failed"
    return ModelFailed(vendor, f"{what} {code}".rstrip(), why=why, retry_after_s=retry_after_s)


def parsed(body: bytes | str) -> object:
    """JSON as values; None for anything else."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def as_dict(value: object) -> dict[str, Any]:
    """A stranger's value where an object was expected: empty if it is none."""
    return value if isinstance(value, dict) else {}


def _why(codes: list[str], words: str, status: int | None) -> Why:
    known = [_WHY[code] for code in codes if code in _WHY]
    if status in (None, 400, 413, 422, 500) and Why.TOO_LONG not in known and _TOO_LONG.search(words):
        return Why.TOO_LONG
    for why in known:  # a code says more than the type that comes beside it
        if why is not Why.BAD_REQUEST:
            return why
    if status is not None:
        return {402: Why.AUTH, 413: Why.TOO_LONG}.get(status, why_of(status))
    return known[0] if known else Why.FAILED


def _codes_and_words(said: object) -> tuple[list[str], str]:
    """Of the shapes that are met: ``{"error": {...}}``, ``{"error": "text"}``, ``{"detail": ...}``, and the inner
    object alone."""
    outer = as_dict(said)
    inner = outer.get("error")
    fields: Mapping[str, Any] = inner if isinstance(inner, dict) else outer
    codes = [fields.get(key) for key in ("code", "type")]
    words = [inner, *(fields.get(key) for key in ("message", "detail"))]
    return [code for code in codes if isinstance(code, str)], " ".join(word for word in words if isinstance(word, str))
