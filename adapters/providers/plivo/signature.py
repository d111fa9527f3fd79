"""Plivo's signature of a webhook, version 3: an HMAC over the URL it called, the form it sent, and a nonce."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qs, urlsplit

from engine.errors import BadSignature
from engine.ports import WebhookRequest

SIGNATURE_HEADER: Final = "x-plivo-signature-v3"
MAIN_SIGNATURE_HEADER: Final = "x-plivo-signature-ma-v3"
"""Signed with the token of the main account, where the number belongs to a subaccount."""
NONCE_HEADER: Final = "x-plivo-signature-v3-nonce"

_MAX_FIELDS: Final = 200
_MAX_SIGNATURES: Final = 16
_MAX_NONCE_CHARS: Final = 256

Fields = Mapping[str, list[str]]


def verify_signature(request: WebhookRequest, auth_token: str) -> str:
    """Nonce and signature, found genuine: together they are of this very request. Raises BadSignature.

    A header may list several signatures, of which any may match. Without a token nothing is genuine.
    """
    given = [part.strip() for name in _HEADERS for part in request.headers.get(name, "").split(",") if part.strip()]
    nonce = request.headers.get(NONCE_HEADER, "")
    if not given or not nonce:
        raise BadSignature("missing")
    if len(given) > _MAX_SIGNATURES or len(nonce) > _MAX_NONCE_CHARS:
        raise BadSignature("malformed")
    expected = sign(request.method, request.url, _form_of(request), nonce, auth_token)
    is_genuine = False
    for signature in given:  # all of them, so that the time does not tell which one it was
        is_genuine |= hmac.compare_digest(signature.encode("utf-8", "surrogatepass"), expected.encode())
    if not is_genuine or not auth_token:
        raise BadSignature("mismatch")
    return f"{nonce} {expected}"


def sign(method: str, url: str, form: Fields, nonce: str, auth_token: str) -> str:
    """The signature of this request. Raises BadSignature for what is no URL or has no end of fields."""
    try:
        parts = urlsplit(url)
        query = parse_qs(parts.query, keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise BadSignature("malformed") from None
    base = f"{parts.scheme}://{parts.netloc}{parts.path}"
    if method == "GET":
        query |= form
        form = {}
    pairs = "&".join(f"{name}={value}" for name in sorted(query) for value in sorted(query[name]))
    if pairs or form:
        base += f"?{pairs}"
    if pairs and form:
        base += "."
    base += "".join(name + value for name in sorted(form) for value in sorted(form[name]))
    signed = f"{base}.{nonce}".encode("utf-8", "surrogatepass")
    return b64encode(hmac.new(auth_token.encode(), signed, hashlib.sha256).digest()).decode("ascii")


_HEADERS: Final = (SIGNATURE_HEADER, MAIN_SIGNATURE_HEADER)


def _form_of(request: WebhookRequest) -> Fields:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not request.body:
        return {}
    if kind != "application/x-www-form-urlencoded":
        raise BadSignature("malformed")  # what is not signed is not read
    try:
        return parse_qs(request.body.decode("utf-8"), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise BadSignature("malformed") from None
