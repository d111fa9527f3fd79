"""Synthesizers over HTTP: the one I/O class for every vendor that streams its audio as the body of an answer.

A task of each speech reads the answer, and no more of it than is held ready: what comes faster than it is heard stays
in the vendor's socket. Leaving the speech early closes the connection, and that is what cancels at the vendor.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import orjson
import structlog
import trio

from adapters.speech.pieces import split_long
from adapters.speech.speaking.takes import Speech, Take
from engine.errors import SpeechFailed, Why
from engine.events import AudioFormat, CallInfo
from engine.ports import Owner
from engine.runtime.background import beside
from engine.runtime.network import Network, failing, refused
from engine.runtime.vendor_json import word_of

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
            async with beside() as nursery:
                speech = Speech(split_long(text, self._voice.max_chars), partial(self._ask, nursery))
                try:
                    await speech.begin()
                    yield speech
                finally:
                    speech.close()
        finally:
            self._is_speaking = False

    async def _ask(self, nursery: trio.Nursery, text: str) -> Take:
        take = Take(self._voice.source, self._call.format)
        nursery.start_soon(self._fetch, text, take)
        return take

    async def _fetch(self, text: str, take: Take) -> None:
        try:
            with failing(SpeechFailed, self._voice.vendor):
                await self._pour(text, take)
        except SpeechFailed as exc:
            take.finish(exc)
        else:
            take.finish(None)

    async def _pour(self, text: str, take: Take) -> None:
        asked = self._voice.request(text)
        request = self._client.build_request("POST", asked.url, json=asked.body)
        log.debug("synthesizer asked", vendor=self._voice.vendor, call_id=self._call.call_id, characters=len(text))
        response = await self._client.send(request, stream=True)
        try:
            await self._check(response)
            async with _chunks_of(response) as chunks:
                async for chunk in chunks:
                    await take.put(chunk)
        finally:
            await response.aclose()

    async def _check(self, response: httpx.Response) -> None:
        if response.status_code != 200:
            raise await self._refusal(response)
        if response.headers.get("content-type", "").lower().startswith(_NOT_AUDIO):
            raise SpeechFailed(self._voice.vendor, "answers with something other than audio", why=Why.NONSENSE)

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
    async with _chunks_of(response) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) >= ERROR_BYTES:
                break
    return body


@asynccontextmanager
async def _chunks_of(response: httpx.Response) -> AsyncIterator[AsyncIterator[bytes]]:
    """The body as it comes. One that is not read to its end is ended by a cancel in its innermost read, which takes
    down the whole chain of generators that httpx makes of it; closed from outside, all but the first would be left to
    the garbage collector."""
    chunks = response.aiter_raw()
    try:
        yield chunks
    finally:
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
