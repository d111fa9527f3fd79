"""The way to vendors: HTTP clients and WebSockets of one call, on one TLS context for the process.

What goes wrong on the way comes out as the adapter's own error (:class:`engine.errors.SpeechFailed`,
:class:`engine.errors.ModelFailed`) with the reason by which to decide what to do next.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import httpx
import trio

from engine.errors import SlowPeer, VendorError, Why
from engine.ports import Owner, ResourceKind
from engine.runtime.feed import Feed, Feeding
from engine.runtime.sockets import HandshakeFailed, SocketLimits, open_socket
from engine.runtime.transport import Dial, Transport

VENDOR_LIMITS = SocketLimits(message_bytes=4 * 1024 * 1024, queue=256, unread_s=float("inf"), handshake_s=3.0)
"""A synthesizer sends faster than is heard, in large messages: the full queue is the back-pressure."""
HTTP_TIMEOUT = httpx.Timeout(10.0, connect=3.0)
"""Of single steps. The deadline of the whole is the caller's."""
_MAX_RETRY_AFTER_S = 60.0


class Network:
    """Made once for the process. ``dial`` replaces the sockets below HTTP and WebSocket in tests, ``transport`` what is
    below HTTP."""

    def __init__(
        self,
        ssl_context: ssl.SSLContext | None = None,
        *,
        transport: Callable[[], httpx.AsyncBaseTransport] | None = None,
        dial: Dial | None = None,
    ) -> None:
        self.ssl_context = ssl_context or ssl.create_default_context()
        """The one of the process."""
        self._transport = transport
        self._dial = dial

    def client(
        self, base_url: str = "", headers: Mapping[str, str] | None = None, *, timeout: httpx.Timeout = HTTP_TIMEOUT
    ) -> httpx.AsyncClient:
        """A client of its own, not yet owned by anybody. HTTP/2 is off: a cancelled stream would not be reset."""
        return httpx.AsyncClient(
            base_url=base_url,
            headers=dict(headers or {}),
            timeout=timeout,
            trust_env=False,
            transport=self._transport() if self._transport else Transport(self.ssl_context, dial=self._dial),
            event_hooks={"request": [_hold_whole]},
        )

    @asynccontextmanager
    async def owned_client(
        self, vendor: str, owner: Owner, base_url: str, headers: Mapping[str, str]
    ) -> AsyncIterator[httpx.AsyncClient]:
        """A client of one call, in its ledger, closed with the block."""
        opening = self.client(base_url, headers)
        async with owner.own(
            ResourceKind.HTTP_CLIENT, vendor, opening, is_closed=lambda client: client.is_closed
        ) as client:
            yield client

    @asynccontextmanager
    async def feed(
        self,
        url: str,
        headers: Mapping[str, str],
        feeding: Feeding | None = None,
        *,
        limits: SocketLimits = VENDOR_LIMITS,
    ) -> AsyncIterator[Feed]:
        """A WebSocket to a vendor with its writer and its keep-alives. Raises HandshakeFailed; put ``failing`` around
        it. Leaving the block closes the socket politely, a cancel at once."""
        pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        host = httpx.URL(url)
        stream = self._dial(host.host, host.port or 0) if self._dial else None
        async with (
            open_socket(url, headers=pairs, limits=limits, stream=stream, ssl_context=self.ssl_context) as socket,
            Feed.over(socket, feeding or Feeding()) as feed,
        ):
            yield feed


class _Whole(httpx.AsyncByteStream):
    """A body in one piece."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._rest: list[bytes] = []

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._rest = [self._body]
        return self

    async def __anext__(self) -> bytes:
        if not self._rest:
            raise StopAsyncIteration
        return self._rest.pop()


async def _hold_whole(request: httpx.Request) -> None:
    """httpx's own bodies are async generators: cancelled while one is sent, it is left half-run, and trio complains."""
    request.stream = _Whole(await request.aread())


@contextmanager
def failing(error: type[VendorError], vendor: str) -> Iterator[None]:
    """Foreign exceptions of the network in the block become ``error``. The message names the vendor and what went
    wrong, never an address with a key in it."""
    try:
        yield
    except VendorError:
        raise
    except HandshakeFailed as exc:
        why = Why.UNREACHABLE if exc.status is None else why_of(exc.status)
        raise error(vendor, f"no connection ({exc})", why=why) from exc
    except SlowPeer as exc:
        raise error(vendor, "stopped reading", why=Why.TIMEOUT) from exc
    except trio.EndOfChannel as exc:
        raise error(vendor, "the connection ended", why=Why.CUT) from exc
    except trio.BrokenResourceError as exc:
        raise error(vendor, "the connection broke", why=Why.CUT) from exc
    except httpx.ConnectError as exc:
        raise error(vendor, f"no connection (cannot connect to {exc})", why=Why.UNREACHABLE) from exc
    except (httpx.TimeoutException, trio.TooSlowError) as exc:
        raise error(vendor, "no answer in time", why=Why.TIMEOUT) from exc
    except (httpx.NetworkError, httpx.RemoteProtocolError) as exc:
        raise error(vendor, "the connection broke", why=Why.CUT) from exc
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as exc:
        raise error(vendor, f"HTTP went wrong ({type(exc).__name__})", why=Why.NONSENSE) from exc


def why_of(status: int) -> Why:
    """What an HTTP status of a vendor means for what to do next."""
    if status in (401, 403):
        return Why.AUTH
    if status == 429:
        return Why.RATE_LIMITED
    if status == 408:
        return Why.TIMEOUT
    if status >= 500:
        return Why.UNREACHABLE
    if 200 <= status < 400:
        return Why.NONSENSE  # a page, or a redirect: not the service that was meant
    return Why.BAD_REQUEST


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """How long the vendor asks us to wait, as ``retry-after-ms`` or ``retry-after`` in seconds tells; at most a
    minute."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit_s
        except ValueError:
            continue
        if seconds >= 0:
            return min(seconds, _MAX_RETRY_AFTER_S)
    return None


def refused(error: type[VendorError], vendor: str, response: httpx.Response, detail: str = "") -> VendorError:
    """The error of an answer that is none. ``detail``: a short word of the vendor's own, such as its error code."""
    what = f"HTTP {response.status_code}" + (f" {detail[:60]}" if detail else "")
    return error(vendor, what, why=why_of(response.status_code), retry_after_s=retry_after_s(response.headers))
