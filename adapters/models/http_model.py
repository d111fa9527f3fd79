"""A language model over HTTP and server-sent events: the one part with I/O, for the wire of any vendor.

A reply is one request, asked once. Its task reads until the answer is whole; leaving the reply's block breaks it off
wherever it stands, and what httpx holds for it is closed before the block has been left.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Protocol

import httpx
import structlog
import trio

from adapters.models.complaints import complaint, parsed
from adapters.models.sse import ServerEvent, SseParser
from engine.dialogue.sentences import MAX_CHARS, whole_sentences
from engine.errors import BadMessage, ModelFailed, SettingsError, Why
from engine.events import Context, ModelPart, SessionInfo
from engine.ports import Owner
from engine.runtime.network import Network, failing, retry_after_s
from engine.runtime.outlet import Outlet, filled
from engine.runtime.transport import Body

log = structlog.get_logger()

ROOM = 64
"""Parts of an answer that have come and were not taken; then the vendor waits."""
TAIL_S = 1.0
"""Between the end of the words and what may follow: usage, the mark of the end, the end of the stream."""
GATHER_S = 0.1
"""Once there is enough to be spoken for a while nobody waits for single words: they are read together, as each read
costs more than the words in it."""
AHEAD_CHARS = 24
"""Whole sentences of so many characters take more than a second to say."""
ERROR_BYTES = 64 * 1024
"""Looked at of an answer that is an error."""
ERROR_S = 2.0
"""And how long it may take."""
_HEADERS = {"accept": "text/event-stream", "accept-encoding": "identity", "content-type": "application/json"}


class Reading(Protocol):
    """One answer as it comes in: events of one vendor to parts. Without I/O."""

    @property
    def is_complete(self) -> bool:
        """The vendor has said that nothing more is to be said; usage may follow."""
        ...

    @property
    def is_over(self) -> bool:
        """Nothing of use can follow."""
        ...

    def feed(self, event: ServerEvent) -> Iterable[ModelPart]:
        """Raises ModelFailed, and BadMessage for what makes no sense."""
        ...

    def end(self) -> Iterable[ModelPart]:
        """What is left to be given once the answer is complete and nothing more will come."""
        ...


class Wire(Protocol):
    """A vendor's way of putting a context and of answering it. Without I/O."""

    name: str
    url: str
    """In front of the path; without a slash at the end."""
    path: str
    read_s: float
    """The longest silence of the vendor within an answer. Whoever asks sets shorter limits of its own."""

    def headers(self) -> Mapping[str, str]: ...

    def request(self, context: Context) -> bytes:
        """The body, in JSON."""
        ...

    def reading(self, context: Context) -> Reading: ...


class HttpModelVendor:
    """A ``ModelVendor`` over any wire. Raises SettingsError for an address or a key that cannot be one."""

    def __init__(self, wire: Wire, network: Network) -> None:
        if not wire.url.startswith(("http://", "https://")):
            raise SettingsError(f"vendors.{wire.name}.url: an address with http:// or https:// is wanted")
        if not all(value.isascii() and value.isprintable() for value in wire.headers().values()):
            raise SettingsError(f"vendors.{wire.name}.key: holds characters that no key has")
        self.name = wire.name
        self._wire = wire
        self._network = network

    @asynccontextmanager
    async def open(self, session: SessionInfo, owner: Owner) -> AsyncIterator[HttpModel]:
        """See ``engine.ports.ModelVendor.open``. An HTTP client of its own, in the owner's ledger."""
        wire = self._wire
        headers = {**_HEADERS, **wire.headers()}
        async with self._network.owned_client(wire.name, owner, wire.url, headers) as client:
            yield HttpModel(client, wire, session)


class HttpModel:
    """A ``RawModel``. Its connection is kept from one reply to the next."""

    def __init__(self, client: httpx.AsyncClient, wire: Wire, session: SessionInfo) -> None:
        self._client = client
        self._wire = wire
        self._session = session
        self._replies = 0

    @property
    def is_closed(self) -> bool:
        return self._client.is_closed and not self._replies

    def open_reply(self, context: Context) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[ModelPart]]:
        """See ``engine.ports.RawModel.open_reply``."""
        return filled(ROOM, partial(self._produce, context))

    async def _produce(self, context: Context, outlet: Outlet[ModelPart]) -> None:
        wire, session = self._wire, self._session
        log.debug(
            "model_request",
            vendor=wire.name,
            session_id=session.session_id,
            call_id=session.call_id,
            messages=len(context),
            tools=len(context.tools),
            rounds=len(context.exchanges),
        )
        self._replies += 1
        try:
            with failing(ModelFailed, wire.name):
                await self._ask(context, outlet)
        finally:
            self._replies -= 1

    async def _ask(self, context: Context, outlet: Outlet[ModelPart]) -> None:
        steps = self._client.timeout
        timeout = httpx.Timeout(steps.connect, read=self._wire.read_s, write=steps.write, pool=steps.pool)
        body = self._wire.request(context)
        async with self._client.stream("POST", self._wire.path, content=body, timeout=timeout) as response:
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if response.status_code != 200 or kind == "application/json":
                raise await self._refusal(response)
            if kind == "text/html":
                raise ModelFailed(self._wire.name, "a page, not an answer", why=Why.NONSENSE)
            await _Reader(self._wire, self._wire.reading(context), outlet).read(response)

    async def _refusal(self, response: httpx.Response) -> ModelFailed:
        body = bytearray()
        with trio.move_on_after(ERROR_S), suppress(httpx.HTTPError):
            async with _pieces_of(response) as pieces:
                async for piece in pieces:
                    body += piece
                    if len(body) > ERROR_BYTES:
                        break
        return complaint(
            self._wire.name,
            parsed(bytes(body)),
            status=response.status_code,
            retry_after_s=retry_after_s(response.headers),
        )


class _Reader:
    """One response to its end."""

    def __init__(self, wire: Wire, reading: Reading, outlet: Outlet[ModelPart]) -> None:
        self._vendor = wire.name
        self._reading = reading
        self._outlet = outlet
        self._parser = SseParser()
        self._is_events = False
        self._has_events = False
        self._begins = ""
        """Of the answer, until there is enough of it to be spoken for a while."""
        self._is_ahead = False

    async def read(self, response: httpx.Response) -> None:
        """Put all parts into the outlet and end it, then wait for the end of the stream. Raises ModelFailed."""
        self._is_events = "event-stream" in response.headers.get("content-type", "")
        is_cut_short = False
        try:
            async with _pieces_of(response) as pieces:
                is_cut_short = await self._read_all(response, pieces)
        except (httpx.NetworkError, httpx.RemoteProtocolError, httpx.TimeoutException):
            if not self._reading.is_complete:
                raise
            is_cut_short = True
        if not self._outlet.has_ended:
            await self._end(is_cut_short=is_cut_short)

    async def _read_all(self, response: httpx.Response, pieces: AsyncIterator[bytes]) -> bool:
        """True if the vendor, done with its words, was not waited for any longer."""
        until_s = float("inf")
        while True:
            piece, is_cut_short = None, False
            if until_s == float("inf"):
                piece = await anext(pieces, None)
            else:
                with trio.CancelScope(deadline=until_s) as tail:  # of the reading alone: a listener may take longer
                    piece = await anext(pieces, None)
                is_cut_short = tail.cancelled_caught
            if piece is None:
                return is_cut_short
            if not self._outlet.has_ended:
                await self._take(piece)
            if self._is_ahead and isinstance(body := response.extensions.get("body"), Body):
                body.gather_s = GATHER_S
            if self._reading.is_complete or self._reading.is_over:
                until_s = min(until_s, trio.current_time() + TAIL_S)

    async def _take(self, piece: bytes) -> None:
        with self._junk():
            events = self._parser.feed(piece)
        await self._feed(events)
        if self._reading.is_over:
            await self._finish()

    async def _feed(self, events: Iterable[ServerEvent]) -> None:
        texts: list[str] = []
        try:
            for event in events:
                self._has_events = True
                with self._junk():
                    parts = list(self._reading.feed(event))
                for part in parts:
                    if isinstance(part, str):
                        texts.append(part)
                    else:
                        await self._say(texts)
                        await self._outlet.put(part)
                if self._reading.is_over:
                    break
        except ModelFailed:
            await self._say(texts)
            raise
        await self._say(texts)

    async def _say(self, texts: list[str]) -> None:
        """Words that came together are one part."""
        if not texts:
            return
        text = "".join(texts)
        texts.clear()
        await self._outlet.put(text)
        if not self._is_ahead:
            self._begins += text[:MAX_CHARS]
            self._is_ahead = len(self._begins) >= MAX_CHARS or whole_sentences(self._begins) >= AHEAD_CHARS

    async def _finish(self) -> None:
        for part in self._reading.end():
            await self._outlet.put(part)
        self._outlet.end()

    async def _end(self, *, is_cut_short: bool) -> None:
        """The stream has ended without a word of it."""
        if not is_cut_short:
            try:
                await self._feed(self._parser.end())
            except ModelFailed as exc:
                if exc.why is not Why.NONSENSE:
                    raise  # else it is half an event: the cut itself
        if self._reading.is_complete:
            await self._finish()
        elif self._has_events or self._is_events:
            raise ModelFailed(self._vendor, "the answer broke off", why=Why.CUT)
        else:
            raise ModelFailed(self._vendor, "not a stream of events", why=Why.NONSENSE)

    def _junk(self) -> _Junk:
        return _Junk(self._vendor)


class _Junk:
    """BadMessage in the block becomes the vendor's failure."""

    def __init__(self, vendor: str) -> None:
        self._vendor = vendor

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, exc: BaseException | None, __: object) -> None:
        if isinstance(exc, BadMessage):
            raise ModelFailed(self._vendor, f"not its protocol ({exc.kind})", why=Why.NONSENSE) from exc


@asynccontextmanager
async def _pieces_of(response: httpx.Response) -> AsyncIterator[AsyncIterator[bytes]]:
    """The body as it comes. The generators of httpx beneath it are brought to their end with the block: left to the
    collector, the connection would be closed at a moment of its own."""
    pieces = response.aiter_bytes()
    try:
        yield pieces
    finally:
        with trio.CancelScope() as at_once, suppress(httpx.HTTPError, httpx.StreamError):
            at_once.cancel()
            async for _ in pieces:
                pass
