"""HTTP to an address that somebody has set: never to a machine inside, whatever its name says and however that changes.

Names are resolved here, every address is looked at, and the connection goes to the address that was looked at: what the
name means a moment later is of no account. TLS and the Host header keep the name. There are no redirects, no proxies
from the environment, no cookies.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import httpcore
import httpx
import trio

from engine.errors import OffhookError

MAX_ANSWER_BYTES: Final = 64 * 1024
DEADLINE_S: Final = 5.0
CONNECT_S: Final = 2.0
"""For each of a name's addresses."""
MAX_RESOLVERS: Final = 4
"""Threads: one that hangs is not waited for, and not replaced."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""A name's addresses, in the order to try them. Raises OSError."""


class Forbidden(OffhookError):
    """The address leads inside. Nothing was sent, and asking again is of no use."""


class Unreachable(OffhookError):
    """No answer: no such name, no connection, bad TLS, no HTTP, or too slow. It may or may not have arrived."""


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    retry_after: str = ""
    """The header of this name."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    media_type: str
    """Such as ``application/json``, without its parameters; empty if it was not told."""
    body: bytes
    is_whole: bool
    """Else there was more than is read: about ``MAX_ANSWER_BYTES``, the head included."""


class GuardedHttp:
    """Each request has a connection of its own, closed when it returns or is cancelled.

    ``allow_private`` lifts the check of addresses, and allows plain HTTP. ``backend`` is what connects below the check.
    """

    def __init__(
        self,
        *,
        allow_private: bool = False,
        resolve: Resolve | None = None,
        ssl_context: ssl.SSLContext | None = None,
        backend: httpcore.AsyncNetworkBackend | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._allow_private = allow_private
        self._backend = _CheckedBackend(
            resolve or _Resolver().resolve, backend or httpcore.TrioBackend(), allow_private=allow_private
        )
        self._ssl_context = ssl_context or ssl.create_default_context()
        self._deadline_s = deadline_s

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Raises Forbidden, Unreachable. Takes no longer than the deadline. A reply counts from its head on."""
        taking = _Taking()
        why = await self._ask("POST", url, headers, body, taking)
        if taking.reply is None:
            raise Unreachable(why)
        return taking.reply

    async def request(self, method: str, url: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        """With what was answered. Raises Forbidden, Unreachable. Takes no longer than the deadline."""
        taking = _Taking()
        why = await self._ask(method, url, headers, body, taking)
        if taking.reply is None or not (taking.is_whole or taking.is_full):
            raise Unreachable(why)
        return Answer(taking.reply.status, taking.media_type, bytes(taking.body), taking.is_whole)

    async def _ask(self, method: str, url: str, headers: Mapping[str, str], body: bytes, taking: _Taking) -> str:
        """Returns why nothing more came, where something is missing."""
        if fault := fault_of(url, allow_private=self._allow_private):
            raise Forbidden(fault)
        parsed = httpx.URL(url)
        target = httpcore.URL(scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path)
        fields = {"host": parsed.netloc.decode("ascii"), **headers}
        try:
            with trio.move_on_after(self._deadline_s):
                await self._exchange(method, target, fields, body, taking)
        except _TooLong:
            taking.is_full = True
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError) as exc:
            return f"no answer ({type(exc).__name__})"
        return f"no answer within {self._deadline_s} s"

    async def _exchange(
        self, method: str, url: httpcore.URL, headers: Mapping[str, str], body: bytes, taking: _Taking
    ) -> None:
        fields = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
        async with (
            httpcore.AsyncConnectionPool(
                ssl_context=self._ssl_context, network_backend=self._backend, max_connections=1, retries=0
            ) as pool,
            pool.stream(method, url, headers=fields, content=body) as response,
        ):
            taking.take_head(response.status, response.headers)
            async for piece in response.aiter_stream():
                taking.body += piece
            taking.is_whole = True


class _Taking:
    """What has come of an answer so far."""

    def __init__(self) -> None:
        self.reply: Reply | None = None
        self.media_type = ""
        self.body = bytearray()
        self.is_whole = False
        self.is_full = False
        """No more of it is read."""

    def take_head(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        wanted = {name.lower(): value.decode("latin-1") for name, value in headers}
        self.reply = Reply(status, wanted.get(b"retry-after", ""))
        self.media_type = wanted.get(b"content-type", "").partition(";")[0].strip().lower()


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    def __init__(self, resolve: Resolve, backend: httpcore.AsyncNetworkBackend, *, allow_private: bool) -> None:
        self._resolve = resolve
        self._backend = backend
        self._allow_private = allow_private

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._resolve(host, port)
        if not self._allow_private and not all(map(is_public, addresses)):
            raise Forbidden("the name leads to an address inside")
        failure: Exception = OSError("the name has no address")
        for address in addresses:
            try:
                stream = await self._backend.connect_tcp(address, port, CONNECT_S, local_address, socket_options)
                return _BoundedStream(stream)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                failure = exc
        raise failure

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


class _TooLong(httpcore.ReadError):
    """There is more than is read of any answer."""


class _BoundedStream(httpcore.AsyncNetworkStream):
    """Reads ``MAX_ANSWER_BYTES`` and no more."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._left_bytes = MAX_ANSWER_BYTES

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if not self._left_bytes:
            raise _TooLong("the answer is too long")
        data = await self._stream.read(min(max_bytes, self._left_bytes), timeout)
        self._left_bytes -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        return _BoundedStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Resolver:
    """The system's, in threads."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(MAX_RESOLVERS)

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        try:
            found = await trio.to_thread.run_sync(ask, abandon_on_cancel=True, limiter=self._limiter)
        except UnicodeError:
            raise OSError("no name that could be asked for") from None
        return list(dict.fromkeys(str(address[0]) for *_, address in found))


# --- addresses ----------------------------------------------------------------------------------------------


def fault_of(url: str, *, allow_private: bool = False) -> str:
    """What is wrong with an address before anybody is asked what its name means; empty if nothing is."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        return "no address"
    literal = _literal(parsed.host)
    faults = (
        (parsed.scheme != "https" and not (allow_private and parsed.scheme == "http"), "not https"),
        (not parsed.raw_host, "no host"),
        (parsed.port is not None and not 0 < parsed.port < 65536, "no port"),
        (bool(parsed.userinfo), "a name or password in the address"),
        (bool(parsed.fragment), "a fragment in the address"),
        (literal and not allow_private and not is_public(literal), "an address inside"),
    )
    return next((what for is_so, what in faults if is_so), "")


def is_public(address: str) -> bool:
    """An IP address that is somebody's on the Internet: not private, loopback, link-local, shared (CGNAT), multicast,
    reserved or for documentation, no cloud's own services, and no IPv6 address that stands for such an IPv4 one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv4Address):
        return not any(parsed in network for network in _INSIDE_4)
    if (embedded := _embedded(parsed)) is not None:
        return is_public(str(embedded))
    return parsed in _UNICAST_6 and not any(parsed in network for network in _INSIDE_6)


# Written out: what ipaddress calls global differs between Python's versions.
_INSIDE_4: Final = [
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's own services, under a public address
        "169.254.0.0/16",  # link-local; metadata services
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
]
_UNICAST_6: Final = ipaddress.IPv6Network("2000::/3")
"""All that is given out; private, link-local, multicast and the rest lie outside."""
_INSIDE_6: Final = [
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # Teredo, ORCHID, benchmarks
        "2001:db8::/32",
        "3fff::/20",
    )
]
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to this one end up at: mapped, 6to4, NAT64."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _literal(host: str) -> str:
    """The IP address that a host spells, in any way that the system reads one (127.1, 2130706433, 0x7f.1); or empty."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return ""
