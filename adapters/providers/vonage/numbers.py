"""The numbers of a call, sealed into the address that Vonage asks when the call's websocket has gone: its news of that
bears none, and an engine that was started anew knows nothing of the call."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from adapters.providers.fields import read_number
from engine.ports import IncomingCall

_NONCE_BYTES: Final = 12


def sealed_numbers(call: IncomingCall, secret: str) -> str:
    """For a query: without the secret nobody reads them, or passes them on for those of another call. Empty without a
    secret."""
    if not secret:
        return ""
    numbers, call_id = orjson.dumps([call.caller, call.dialled, call.is_outbound]), call.call_id.encode()
    # Not by chance: a webhook that is sent once more gets the very same answer.
    nonce = hmac.digest(secret.encode(), call_id + b"\0" + numbers, "sha256")[:_NONCE_BYTES]
    sealed = nonce + _cipher(secret).encrypt(nonce, numbers, call_id)
    return base64.urlsafe_b64encode(sealed).decode().rstrip("=")


def opened_numbers(call_id: str, sealed: str, secret: str) -> tuple[str, str, bool]:
    """Who called, who was dialled, and whether the call is one of ours. Empty for what this secret has not sealed for
    this call."""
    try:
        raw = base64.urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4))
        plain = _cipher(secret).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], call_id.encode())
        caller, dialled, is_outbound = orjson.loads(plain)
    except (ValueError, InvalidTag):
        return "", "", False
    return read_number(caller) or "", read_number(dialled) or "", bool(is_outbound)


def _cipher(secret: str) -> AESGCM:
    return AESGCM(hashlib.sha256(b"offhook: the numbers of a call\0" + secret.encode()).digest())
