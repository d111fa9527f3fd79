"""Telnyx' signature of a webhook: Ed25519 over a timestamp and the body."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from adapters.providers.fields import is_id, read_object
from engine.errors import BadSignature, SettingsError
from engine.ports import WebhookRequest

WINDOW_S: Final = 300
"""How far the timestamp may lie from now, either way."""

SIGNATURE_HEADER: Final = "telnyx-signature-ed25519"
TIMESTAMP_HEADER: Final = "telnyx-timestamp"


def read_public_key(text: str) -> Ed25519PublicKey:
    """The key as the portal shows it: base64 of 32 bytes. Raises SettingsError."""
    try:
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
    except (ValueError, binascii.Error):
        raise SettingsError("TELNYX_PUBLIC_KEY: expected the base64 of an Ed25519 public key") from None


def verify_signature(request: WebhookRequest, key: Ed25519PublicKey | None, now: float) -> str:
    """What is equal for the same news told twice: the id of the event, or for forms, which have none, URL and body.

    Raises BadSignature. ``now`` in seconds since 1970. Without a key nothing is genuine. The URL is not signed.
    """
    given = request.headers.get(SIGNATURE_HEADER, "")
    timestamp = request.headers.get(TIMESTAMP_HEADER, "")
    if not given or not timestamp:
        raise BadSignature("missing")
    if not timestamp.isascii() or not timestamp.isdigit() or len(timestamp) > 12:
        raise BadSignature("malformed")
    try:
        signature = base64.b64decode(given.encode("ascii"), validate=True)
    except ValueError:
        raise BadSignature("malformed") from None
    if len(signature) != 64:
        raise BadSignature("malformed")
    if key is None:
        raise BadSignature("mismatch")
    try:
        key.verify(signature, timestamp.encode() + b"|" + request.body)
    except InvalidSignature:
        raise BadSignature("mismatch") from None
    if abs(now - int(timestamp)) > WINDOW_S:
        raise BadSignature("expired")
    return event_key(request)


def event_key(request: WebhookRequest) -> str:
    """Of a request that has been found genuine; it is sent again with a new signature, so that cannot be it."""
    event = read_object(request.body)
    data = event.get("data") if event is not None else None
    event_id: object = data.get("id") if isinstance(data, dict) else None
    if is_id(event_id):
        return f"event {event_id}"
    seen = request.url.encode("utf-8", "surrogatepass") + b"\n" + request.body
    return hashlib.sha256(seen).hexdigest()
