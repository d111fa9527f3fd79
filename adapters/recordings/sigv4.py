"""AWS Signature Version 4 in headers, as S3 wants it. Without I/O."""

from __future__ import annotations

import datetime
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlsplit


@dataclass(frozen=True, slots=True)
class Credentials:
    key_id: str
    secret: str = field(repr=False)
    region: str
    session_token: str = field(default="", repr=False)
    service: str = "s3"


def sign(  # noqa: PLR0917 - the parts of a request
    method: str, url: str, headers: Mapping[str, str], body: bytes, keys: Credentials, at: float
) -> dict[str, str]:
    """The headers of the request with ``Authorization`` and what it covers; ``at`` in Unix seconds. ``url`` is
    percent-encoded, as it is sent. A ``Host`` in ``headers`` stands for that of the URL."""
    moment = datetime.datetime.fromtimestamp(at, datetime.UTC)
    stamp, day = moment.strftime("%Y%m%dT%H%M%SZ"), moment.strftime("%Y%m%d")
    parts = urlsplit(url)
    digest = hashlib.sha256(body).hexdigest()
    named = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
    named.setdefault("host", parts.netloc)
    named |= {"x-amz-date": stamp, "x-amz-content-sha256": digest}
    if keys.session_token:
        named["x-amz-security-token"] = keys.session_token
    names = sorted(named)
    canonical = "\n".join(
        [
            method,
            _path(parts.path),
            _query(parts.query),
            *(f"{name}:{named[name]}" for name in names),
            "",
            ";".join(names),
            digest,
        ]
    )
    scope = f"{day}/{keys.region}/{keys.service}/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{keys.secret}".encode()
    for step in (day, keys.region, keys.service, "aws4_request"):
        key = hmac.digest(key, step.encode(), hashlib.sha256)
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    credential = f"Credential={keys.key_id}/{scope},SignedHeaders={';'.join(names)},Signature={signature}"
    return {**named, "authorization": f"AWS4-HMAC-SHA256 {credential}"}


def encoded(text: str, *, safe: str = "") -> str:
    """As S3 has it: everything but letters, digits and ``-._~``."""
    return quote(text, safe=f"-._~{safe}")


def _path(path: str) -> str:
    return encoded(unquote(path), safe="/") or "/"


def _query(query: str) -> str:
    pairs = sorted((encoded(name), encoded(value)) for name, value in parse_qsl(query, keep_blank_values=True))
    return "&".join(f"{name}={value}" for name, value in pairs)
