"""SignalWire's signatures of a webhook: two over its raw body, and Twilio's own over its form."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from adapters.providers.twilio.signature import SIGNATURE_HEADER as TWILIO_HEADER
from adapters.providers.twilio.signature import verify_signature as verify_as_twilio
from engine.errors import BadSignature
from engine.ports import WebhookRequest

SHA1_HEADER: Final = "x-signalwire-signature"
SHA256_HEADER: Final = "x-signalwire-sha256-signature"


def verify_signature(request: WebhookRequest, signing_key: str) -> str:
    """A signature that has been found genuine. Raises BadSignature.

    SHA-256 over URL and body counts alone where it is given; else SHA-1 over the same, or Twilio's over URL and form,
    which may come under Twilio's name. Without a key nothing is genuine.
    """
    if given := request.headers.get(SHA256_HEADER, ""):
        if not signing_key or not _is_equal(given, sign(request.url, request.body, signing_key, "sha256")):
            raise BadSignature("mismatch")
        return given
    given = request.headers.get(SHA1_HEADER, "") or request.headers.get(TWILIO_HEADER, "")
    if not given:
        raise BadSignature("missing")
    if signing_key and _is_equal(given, sign(request.url, request.body, signing_key, "sha1")):
        return given
    headers = {name: value for name, value in request.headers.items() if name == "content-type"}
    as_twilio = WebhookRequest(request.method, request.url, headers | {TWILIO_HEADER: given}, request.body)
    return verify_as_twilio(as_twilio, signing_key, {})


def sign(url: str, body: bytes, signing_key: str, kind: str = "sha256") -> str:
    """Over URL and body, in hexadecimal."""
    message = url.encode("utf-8", "surrogatepass") + body
    return hmac.new(signing_key.encode(), message, kind).hexdigest()


def _is_equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())


def replay_key(request: WebhookRequest) -> str:
    """Of a genuine request: its signatures differ in kind, what they sign does not."""
    seen = request.url.encode("utf-8", "surrogatepass") + b"\n" + request.body
    return hashlib.sha256(seen).hexdigest()
