"""Signatures on what we send to an address of the operator's, as Standard Webhooks says. Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

from engine.errors import SettingsError

MIN_SECRET_BYTES: Final = 24
_PREFIX: Final = "whsec_"


def signed(key: bytes, message_id: str, at: float, body: bytes) -> Mapping[str, str]:
    """The three headers of a message sent now. ``at``: Unix seconds."""
    timestamp = str(int(at))
    mac = hmac.new(key, b".".join((message_id.encode(), timestamp.encode(), body)), hashlib.sha256)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": "v1," + base64.b64encode(mac.digest()).decode(),
    }


def read_secret(secret: str, variable: str) -> bytes:
    """The key in a secret. Raises SettingsError naming the variable it came from; it does not repeat the secret."""
    text = secret.removeprefix(_PREFIX).rstrip("=")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        key = b""
    if len(key) < MIN_SECRET_BYTES:
        raise SettingsError(
            f"{variable}: expected {_PREFIX} and the base64 of {MIN_SECRET_BYTES} bytes or more, such as what "
            "`openssl rand -base64 32` prints"
        )
    return key
