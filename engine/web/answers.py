"""The one shape of every error answer: ``{"error": {"code": ..., "message": ...}}``, with ``field`` where one is at
fault. What an error says is static words and names of fields."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
import orjson
from starlette.responses import Response

JSON = "application/json"

CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    409: "conflict",
    413: "too_large",
    415: "unsupported_media_type",
    426: "upgrade_required",
    429: "rate_limit",
    431: "headers_too_large",
    500: "internal_error",
    501: "not_implemented",
    502: "vendor_failed",
    503: "unavailable",
    504: "too_slow",
}
MESSAGES = {
    400: "The request is malformed.",
    401: "The request needs a key: Authorization: Bearer KEY, or X-API-Key: KEY.",
    403: "The request is not allowed.",
    404: "There is nothing at this path.",
    405: "The path does not answer this method.",
    408: "The request did not arrive in time.",
    409: "The request contradicts another one, or comes too late.",
    413: "The request is too large.",
    415: "Encoded bodies are not accepted.",
    426: "This path answers WebSocket upgrades only.",
    429: "There are too many requests.",
    431: "The request has too many or too long headers.",
    500: "Something went wrong here.",
    501: "The request uses a transfer encoding that is not known here.",
    502: "The agent could not answer.",
    503: "No answer can be given at the moment.",
    504: "The answer took too long.",
}


class Denied(Exception):
    """The request is answered with this error."""

    def __init__(
        self,
        status: int,
        message: str = "",
        code: str = "",
        *,
        field: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status)
        self.status = status
        self.message = message
        self.code = code
        self.field = field
        self.headers = headers

    def answer(self) -> Response:
        return error(self.status, self.message, self.code, self.headers, self.field)


def error_body(status: int, message: str = "", code: str = "", field: str = "") -> bytes:
    about = {
        "code": code or CODES.get(status, "error"),
        "message": message or MESSAGES.get(status, "The request was refused."),
    }
    return orjson.dumps({"error": about | ({"field": field} if field else {})})


def error(
    status: int, message: str = "", code: str = "", headers: Mapping[str, str] | None = None, field: str = ""
) -> Response:
    return Response(
        error_body(status, message, code, field), status, headers=dict(headers) if headers else None, media_type=JSON
    )


def retry_after(seconds: float) -> dict[str, str]:
    """The header, in whole seconds and at least one."""
    return {"retry-after": str(max(1, math.ceil(seconds)))}


def json(value: object, status: int = 200) -> Response:
    """Whatever msgspec can write: structs and dataclasses, too."""
    return Response(msgspec.json.encode(value), status, media_type=JSON)
