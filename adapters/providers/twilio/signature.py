"""Twilio's signature of a webhook: an HMAC over the URL it called and the form it sent."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import parse_qs, parse_qsl, urlsplit

from engine.errors import BadSignature
from engine.ports import WebhookRequest

SIGNATURE_HEADER: Final = "x-twilio-signature"
SETTINGS_HEADER: Final = "x-twilio-webhooks-signature-settings"

_HASHES: Final = {"HMAC_SHA1": hashlib.sha1, "HMAC_SHA256": hashlib.sha256}
_DEFAULT_PORTS: Final = {"https": 443, "wss": 443, "http": 80, "ws": 80}
_MAX_FIELDS: Final = 1000

Form = Sequence[tuple[str, str]]


def verify_signature(request: WebhookRequest, auth_token: str, shared_keys: Mapping[str, str]) -> str:
    """The signature, which has been found genuine. Raises BadSignature.

    Requests without the settings header are signed with SHA-1 and the auth token; those with it, with the algorithm
    and the shared key that it names. Without a secret nothing is genuine.
    """
    given = request.headers.get(SIGNATURE_HEADER, "")
    if not given:
        raise BadSignature("missing")
    secret, algorithm = _secret_of(request.headers.get(SETTINGS_HEADER, ""), auth_token, shared_keys)
    signed_form = _signed_form(request)
    if not _is_genuine(given, request.url, signed_form, secret, algorithm):
        raise BadSignature("mismatch")
    return given


def sign(url: str, form: Form, secret: str, algorithm: str = "HMAC_SHA1") -> str:
    """The signature of this URL and form: each key with its values, both sorted, doubled values once."""
    pairs = "".join(key + value for key, value in sorted(set(form)))
    mac = hmac.new(secret.encode(), (url + pairs).encode("utf-8", "surrogatepass"), _HASHES[algorithm])
    return b64encode(mac.digest()).decode("ascii")


def read_form(request: WebhookRequest) -> Form | None:
    """The fields of a form, in order; None for another content type. Raises BadSignature for what is no form."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        return None
    try:
        body = request.body.decode("utf-8")
        return parse_qsl(body, keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise BadSignature("malformed") from None


def _secret_of(settings: str, auth_token: str, shared_keys: Mapping[str, str]) -> tuple[str, str]:
    parts = {name.strip(): value.strip() for name, _, value in (part.partition("=") for part in settings.split(","))}
    algorithm = parts.get("algorithm", "").upper() or "HMAC_SHA1"
    if algorithm not in _HASHES:
        raise BadSignature("malformed")
    key_id = parts.get("key", "")
    secret = shared_keys.get(key_id, "") if key_id else auth_token
    if not secret:
        raise BadSignature("mismatch")
    return secret, algorithm


def _signed_form(request: WebhookRequest) -> Form:
    """What is signed besides the URL: the form, or for any other body nothing, for its hash is in the URL."""
    form = read_form(request)
    if form is not None:
        return form
    hashes = parse_qs(urlsplit(request.url).query).get("bodySHA256", [])
    if not hashes and not request.body:
        return ()
    actual = hashlib.sha256(request.body).hexdigest()
    if len(hashes) != 1 or not _equal(hashes[0], actual):
        raise BadSignature("mismatch")
    return ()


def _is_genuine(given: str, url: str, form: Form, secret: str, algorithm: str) -> bool:
    is_genuine = False
    for variant in _port_variants(url):  # all of them, so that the time does not tell which one it was
        is_genuine |= _equal(given, sign(variant, form, secret, algorithm))
    return is_genuine


def _port_variants(url: str) -> list[str]:
    """Twilio signs the URL with or without its port, it cannot be told which."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise BadSignature("malformed") from None
    host = parts.netloc
    if port is not None:
        return [url, parts._replace(netloc=host.rpartition(":")[0]).geturl()]
    default = _DEFAULT_PORTS.get(parts.scheme)
    return [url] if default is None else [url, parts._replace(netloc=f"{host}:{default}").geturl()]


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode("utf-8", "surrogatepass"))
