"""The one shape of every error answer: ``{"error": {"code": ..., "message": ...}}``, static words only."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from starlette.responses import Response

JSON = "application/json"

CODES = {
    400: "bad_request",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "too_large",
    415: "unsupported_media_type",
    426: "upgrade_required",
    431: "headers_too_large",
    500: "internal_error",
    501: "not_implemented",
    503: "unavailable",
}
MESSAGES = {
    400: "The request is malformed.",
    403: "The request is not allowed.",
    404: "There is nothing at this path.",
    405: "The path does not answer this method.",
    408: "The request did not arrive in time.",
    413: "The request is too large.",
    415: "Encoded bodies are not accepted.",
    426: "This path answers WebSocket upgrades only.",
    431: "The request has too many or too long headers.",
    500: "Something went wrong here.",
    501: "The request uses a transfer encoding that is not known here.",
    503: "No answer can be given at the moment.",
}


def error_body(status: int, message: str = "", code: str = "") -> bytes:
    return orjson.dumps(
        {
            "error": {
                "code": code or CODES.get(status, "error"),
                "message": message or MESSAGES.get(status, "The request was refused."),
            }
        }
    )


def error(status: int, message: str = "", code: str = "", headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        error_body(status, message, code), status, headers=dict(headers) if headers else None, media_type=JSON
    )


def json(value: object, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type=JSON)
