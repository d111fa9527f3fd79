"""The address under which a provider reaches us: configured, and never guessed from a stranger's headers."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from engine.errors import BadRequest

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_HOST = re.compile(r"[A-Za-z0-9.\-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")


@dataclass(frozen=True, slots=True)
class PublicUrl:
    """``configured`` is the setting, such as ``https://calls.example.com``. Without it the Host header is believed if
    it names loopback or ``bound`` (the address listened on), or if a trusted proxy forwarded it."""

    configured: str = ""
    trusted_proxies: Collection[str] = ()
    bound: str = ""

    def base_of(self, request: HTTPConnection) -> str:
        """Scheme and host, without a slash. Raises BadRequest when they cannot be known."""
        if self.configured:
            return self.configured.rstrip("/")
        scheme, host = "http", request.headers.get("host", "")
        is_forwarded = request.client is not None and request.client.host in self.trusted_proxies
        if is_forwarded:
            # The nearest proxy's word is the last one.
            scheme = _last(request.headers.get("x-forwarded-proto", scheme)).lower()
            host = _last(request.headers["x-forwarded-host"]) if "x-forwarded-host" in request.headers else host
        if scheme not in ("http", "https") or not _HOST.fullmatch(host):
            raise BadRequest("Host: not a host name")
        if not is_forwarded and not self._is_ours(host):
            raise BadRequest("Host: not this machine; set server.public_url to be reached from elsewhere")
        return f"{scheme}://{host}"

    def called(self, request: HTTPConnection) -> str:
        """The URL that was called, as the provider wrote it. Raises BadRequest."""
        path = request.scope.get("raw_path") or request.scope["path"].encode()
        query = request.scope["query_string"]
        return self.base_of(request) + bytes(path).decode("latin-1") + (f"?{query.decode('latin-1')}" if query else "")

    def media(self, request: HTTPConnection, path: str) -> str:
        """The WebSocket URL of this path. Raises BadRequest."""
        return "ws" + self.base_of(request).removeprefix("http") + path

    def peer_of(self, request: HTTPConnection) -> str:
        """Who asks: an address, or a network where one peer has many of them. Behind trusted proxies, whoever the
        outermost of them was called by."""
        peer = request.client.host if request.client is not None else ""
        hops = [hop.strip() for value in request.headers.getlist("x-forwarded-for") for hop in value.split(",")]
        while peer in self.trusted_proxies and hops:
            peer = hops.pop()
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return "unknown"
        return str(ipaddress.ip_network((peer, 64), strict=False)) if address.version == 6 else str(address)

    def _is_ours(self, host: str) -> bool:
        name = urlsplit(f"//{host}").hostname or ""
        return name in LOOPBACK or (bool(self.bound) and name == self.bound.lower())


def _last(value: str) -> str:
    return value.rpartition(",")[2].strip()
