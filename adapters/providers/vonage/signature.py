"""Vonage's signatures of a webhook: a JWT in the Authorization header, HS256 and nothing else; and the older ``sig``
among the fields of the SMS API."""

from __future__ import annotations

import hashlib
import hmac
import math
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from typing import Any, Final, TypeGuard

from adapters.providers.fields import read_object
from engine.errors import BadSignature
from engine.ports import WebhookRequest

WINDOW_S: Final = 300
"""How far the time of issue may lie from now, either way."""

_MAX_TOKEN_CHARS: Final = 8192
_MAX_ID_CHARS: Final = 256
_SIG_HASHES: Final = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}
"""Hexadecimal digits of a ``sig`` to the hash of its HMAC, which the account's settings choose."""


def verify_token(request: WebhookRequest, secret: str, now: float) -> str:
    """The ``jti`` of a token that is genuine, fresh, and made for this very body. ``now`` in seconds since 1970.

    Raises BadSignature. Without a secret nothing is genuine. The official verifier checks neither body nor age.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise BadSignature("missing")
    claims = _claims_of(token.strip(), secret)
    _check_time(claims, now)
    _check_body(claims, request.body)
    jti = claims.get("jti")
    if not isinstance(jti, str) or not 0 < len(jti) <= _MAX_ID_CHARS:
        raise BadSignature("malformed")
    return jti


def verify_sig(fields: Mapping[str, Any], secret: str, now: float) -> str:
    """The ``sig`` of fields of the SMS API that are genuine and fresh: an HMAC over all the others.

    Raises BadSignature. Vonage's plain "MD5 hash" is no HMAC and never genuine here. Without a secret nothing is.
    """
    given = fields.get("sig")
    if not isinstance(given, str) or not given:
        raise BadSignature("missing")
    kind = _SIG_HASHES.get(len(given))
    if kind is None or not given.isascii():
        raise BadSignature("malformed")
    if not secret or not hmac.compare_digest(given.lower(), sig_of(fields, secret, kind)):
        raise BadSignature("mismatch")
    timestamp = str(fields.get("timestamp", ""))
    if not timestamp.isascii() or not timestamp.isdigit() or len(timestamp) > 12:
        raise BadSignature("malformed")
    if abs(now - int(timestamp)) > WINDOW_S:
        raise BadSignature("expired")
    return given.lower()


def sig_of(fields: Mapping[str, Any], secret: str, kind: str = "sha256") -> str:
    """The ``sig`` for these fields; one of that name is left out. Raises BadSignature for a field that is neither text
    nor number, such as one that was given twice."""
    mac = hmac.new(secret.encode(), digestmod=kind)
    for name in sorted(fields.keys() - {"sig"}):
        value: object = fields[name]
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise BadSignature("malformed")
        plain = str(value).replace("&", "_").replace("=", "_")
        mac.update(f"&{name}={plain}".encode("utf-8", "surrogatepass"))
    return mac.hexdigest()


def _claims_of(token: str, secret: str) -> dict[str, Any]:
    head, _, rest = token.partition(".")
    body, _, mac = rest.partition(".")
    if len(token) > _MAX_TOKEN_CHARS or not token.isascii():
        raise BadSignature("malformed")
    header = _decode_object(head)
    if header.get("alg") != "HS256" or "crit" in header:
        raise BadSignature("malformed")  # also "none", whatever its spelling
    expected = hmac.new(secret.encode(), f"{head}.{body}".encode("ascii"), hashlib.sha256).digest()
    if not secret or not hmac.compare_digest(_decode(mac), expected):
        raise BadSignature("mismatch")
    return _decode_object(body)


def _check_time(claims: dict[str, Any], now: float) -> None:
    issued_at: object = claims.get("iat")
    expires_at: object = claims.get("exp", math.inf)
    if not _is_time(issued_at) or not _is_time(expires_at):
        raise BadSignature("malformed")
    if abs(now - issued_at) > WINDOW_S or now >= expires_at:
        raise BadSignature("expired")


def _is_time(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_body(claims: dict[str, Any], body: bytes) -> None:
    """A request without a body, such as the GET of an answer URL, need not bring a hash."""
    claimed = claims.get("payload_hash")
    if claimed is None and not body:
        return
    if not isinstance(claimed, str):
        raise BadSignature("mismatch")
    actual = hashlib.sha256(body).hexdigest()
    if body and not hmac.compare_digest(claimed.lower().encode("utf-8", "surrogatepass"), actual.encode()):
        raise BadSignature("mismatch")


def _decode_object(part: str) -> dict[str, Any]:
    value = read_object(_decode(part))
    if value is None:
        raise BadSignature("malformed")
    return value


def _decode(part: str) -> bytes:
    try:
        return urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raise BadSignature("malformed") from None
