"""Synthesizers over HTTP: the one I/O class for every vendor that streams its audio as the body of an answer.

A speech reads its answer only as it is received: what comes faster than it is heard stays in the vendor's socket.
Leaving it early closes the connection, and that is what cancels at the vendor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

import httpx
import orjson
import structlog
import trio

from adapters.speech.pieces import split_long
from adapters.speech.takes import PIECE_S
from adapters.speech.vendor_json import word_of
from engine.audio.framing import Framer
from engine.errors import SpeechFailed, Why
from engine.events import AudioFormat, CallInfo
from engine.ports import Owner
from engine.runtime.network import Network, failing, refused

log = structlog.get_logger()

ERROR_BYTES = 16 * 1024
"""Read of an answer that is none."""
_NOT_AUDIO = ("text/", "application/json", "application/xml", "application/xhtml")
_NO_CREDIT = frozenset({"insufficient_quota", "quota_exceeded", "billing_hard_limit_reached"})
"""Words for an account that may not do this any more, whatever the status says."""


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """A POST."""

    url: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class HttpVoice:
    """How one vendor speaks for one call."""

    vendor: str
    headers: Mapping[str, str]
    request: Callable[[str], SpeechRequest]
    """Of one text."""
    source: AudioFormat
    """What the vendor sends."""
    max_chars: int
    """Longest text of one request."""
    error_keys: Sequence[str] = ()
    """Where in its errors the vendor's code stands."""


@asynccontextmanager
async def open_http_synthesizer(
    voice: HttpVoice, network: Network, call: CallInfo, owner: Owner
) -> AsyncIterator[HttpSynthesizer]:
    """A client of its own, in the call's ledger. Nothing is connected before the first speech."""
    headers = {**voice.headers, "accept-encoding": "identity"}
    async with network.owned_client(voice.vendor, owner, "", headers) as client:
        yield HttpSynthesizer(voice, client, call)


class HttpSynthesizer:
    """Implements ``engine.ports.Synthesizer``. One speech at a time."""

    def __init__(self, voice: HttpVoice, client: httpx.AsyncClient, call: CallInfo) -> None:
        self._voice = voice
        self._client = client
        self._call = call
        self._is_speaking = False

    @property
    def is_closed(self) -> bool:
        return self._client.is_closed

    @asynccontextmanager
    async def open_speech(self, text: str) -> AsyncIterator[trio.abc.ReceiveChannel[bytes]]:
        """See the port."""
        if self._is_speaking:
            raise RuntimeError("one speech at a time")
        if self._client.is_closed:
            raise SpeechFailed(self._voice.vendor, "the synthesizer is closed")
        self._is_speaking = True
        try:
            texts = split_long(text, self._voice.max_chars)
            async with aclosing(HttpSpeech(self._voice, self._client, self._call, texts)) as speech:
                yield speech
        finally:
            self._is_speaking = False


class HttpSpeech(trio.abc.ReceiveChannel[bytes]):
    """The pieces of one text, each asked for when the one before has been heard out. No task of its own."""

    def __init__(self, voice: HttpVoice, client: httpx.AsyncClient, call: CallInfo, texts: Sequence[str]) -> None:
        self._voice = voice
        self._client = client
        self._call = call
        self._texts = deque(texts)
        self._response: httpx.Response | None = None
        self._chunks: AsyncGenerator[bytes, None] | None = None
        self._framer = Framer(voice.source, call.format)
        self._chunk = b""
        self._is_closed = False

    async def receive(self) -> bytes:
        """Half a second or less. Raises trio.EndOfChannel after the last word, SpeechFailed."""
        if self._is_closed:
            raise trio.ClosedResourceError
        with failing(SpeechFailed, self._voice.vendor):
            while True:
                if self._chunks is None:
                    if not self._texts:
                        await trio.lowlevel.checkpoint()
                        break
                    self._chunks = await self._ask(self._texts.popleft())
                if frames := await self._more(self._chunks):
                    return frames
        raise trio.EndOfChannel

    async def aclose(self) -> None:
        """Idempotent. Cancelled, it closes the connection at once."""
        self._is_closed = True
        self._texts.clear()
        await self._hang_up()

    async def _ask(self, text: str) -> AsyncGenerator[bytes, None]:
        asked = self._voice.request(text)
        request = self._client.build_request("POST", asked.url, json=asked.body)
        log.debug("synthesizer asked", vendor=self._voice.vendor, call_id=self._call.call_id, characters=len(text))
        self._response = response = await self._client.send(request, stream=True)
        if response.status_code != 200:
            raise await self._refusal(response)
        kind = response.headers.get("content-type", "").lower()
        if kind.startswith(_NOT_AUDIO):
            raise SpeechFailed(self._voice.vendor, "answers with something other than audio", why=Why.NONSENSE)
        self._framer = Framer(self._voice.source, self._call.format)
        return cast(AsyncGenerator[bytes, None], response.aiter_raw())

    async def _more(self, chunks: AsyncGenerator[bytes, None]) -> bytes:
        """The frames of half a second at most, perhaps none; the last ones close the answer."""
        if not self._chunk:
            try:
                self._chunk = await anext(chunks)
            except StopAsyncIteration:
                self._chunks = None
                await self._hang_up()
                return self._framer.finish()
        size = int(self._voice.source.bytes_per_s * PIECE_S)
        await trio.lowlevel.checkpoint_if_cancelled()
        piece, self._chunk = self._chunk[:size], self._chunk[size:]
        return self._framer.feed(piece)

    async def _hang_up(self) -> None:
        chunks, self._chunks = self._chunks, None
        response, self._response = self._response, None
        self._chunk = b""
        try:
            if chunks is not None:
                await _unwind(chunks)
        finally:
            if response is not None:
                await response.aclose()

    async def _refusal(self, response: httpx.Response) -> SpeechFailed:
        """What the vendor's error says, in a word."""
        word = _word_in(await _beginning(response), self._voice.error_keys)
        error = refused(SpeechFailed, self._voice.vendor, response, word)
        if word in _NO_CREDIT:
            return SpeechFailed(self._voice.vendor, f"HTTP {response.status_code} {word}", why=Why.AUTH)
        assert isinstance(error, SpeechFailed)  # noqa: S101 - `refused` is typed by its base
        return error


async def _beginning(response: httpx.Response) -> bytes:
    body = b""
    chunks = cast(AsyncGenerator[bytes, None], response.aiter_raw())
    async for chunk in chunks:
        body += chunk
        if len(body) >= ERROR_BYTES:
            await _unwind(chunks)
            break
    return body


async def _unwind(chunks: AsyncGenerator[bytes, None]) -> None:
    """End a body that is not read to its end. A cancel in its innermost read takes down the whole chain of generators
    that httpx makes of it; closed from outside, all but the first would be left to the garbage collector."""
    with trio.CancelScope() as at_once, suppress(StopAsyncIteration, httpx.HTTPError):
        at_once.cancel()
        while True:
            await anext(chunks)


def _word_in(body: bytes, keys: Sequence[str]) -> str:
    """The value at the end of the keys, if it is a code and no sentence."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    word = word_of(value)
    return "" if word == "an error" else word
