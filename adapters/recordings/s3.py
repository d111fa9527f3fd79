"""Recordings in an S3-compatible store, in parts as the call goes.

The first part is kept in a file without a name until the end, because it holds the header; all others go out as soon
as they are full. A recording of one part is one request.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, Final
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import httpx
import trio

from adapters.recordings.sigv4 import Credentials, encoded, sign
from adapters.recordings.wav import header
from engine.ports.recordings import RecordingFailed, RecordingSink

PART_BYTES: Final = 5 * 1024 * 1024
"""The least that S3 takes as a part that is not the last."""
REQUEST_S: Final = 30.0
ABORT_S: Final = 5.0
TRIES: Final = 3
PAUSE_S: Final = 1.0
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9_-]{1,200}")


@dataclass(frozen=True, slots=True)
class S3Config:
    bucket: str
    key_id: str = field(repr=False)
    secret: str = field(repr=False)
    region: str = "us-east-1"
    endpoint: str = ""
    """Such as ``https://minio.example.com``; empty: Amazon's of the region. The bucket is in the path."""
    session_token: str = field(default="", repr=False)
    prefix: str = ""
    """Before every key, such as ``calls/``."""


class S3Recordings:
    """``new_http_client`` makes the client of one recording; ``now`` is the wall clock, in Unix seconds."""

    name = "s3"

    def __init__(
        self,
        config: S3Config,
        new_http_client: Callable[[], httpx.AsyncClient],
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._new_http_client = new_http_client
        self._now = now

    @asynccontextmanager
    async def open(self, folder: str, name: str, rate_hz: int) -> AsyncIterator[RecordingSink]:
        key = self._key(folder, name)
        async with self._new_http_client() as client:
            bucket = _Bucket(self._config, client, self._now)
            with await trio.to_thread.run_sync(tempfile.TemporaryFile) as first:
                upload = _Upload(bucket, key, rate_hz, first)
                try:
                    yield upload
                    await upload.finish()
                except BaseException:
                    with trio.move_on_after(ABORT_S, shield=True):
                        await upload.abort()
                    raise

    async def erase(self, folder: str) -> int:
        count = 0
        prefix = self._key(folder, "x").removesuffix("x.wav")
        async with self._new_http_client() as client:
            bucket = _Bucket(self._config, client, self._now)
            while keys := await bucket.keys_below(prefix):
                for key in keys:
                    await bucket.ask("DELETE", key)
                count += len(keys)
        return count

    def _key(self, folder: str, name: str) -> str:
        if not _NAME.fullmatch(folder) or not _NAME.fullmatch(name):
            raise RecordingFailed("error", "not a name for a recording")
        return f"{self._config.prefix}{folder}/{name}.wav"


class _Upload:
    """One recording on its way."""

    def __init__(self, bucket: _Bucket, key: str, rate_hz: int, first: IO[bytes]) -> None:
        self._bucket = bucket
        self._key = key
        self._rate_hz = rate_hz
        self._first = first
        self._first_bytes = 0
        self._rest = bytearray()
        self._upload_id = ""
        self._tags: dict[int, str] = {}
        self._data_bytes = 0

    async def write(self, pcm: bytes) -> None:
        self._data_bytes += len(pcm)
        room = PART_BYTES - len(header(0, 0)) - self._first_bytes
        if room > 0:
            await _in_file(self._first.write, pcm[:room])
            self._first_bytes += len(pcm[:room])
            pcm = pcm[room:]
        self._rest += pcm
        while len(self._rest) >= PART_BYTES:
            await self._put_part(len(self._tags) + 2, bytes(self._rest[:PART_BYTES]))
            del self._rest[:PART_BYTES]

    async def finish(self) -> None:
        await _in_file(self._first.seek, 0)
        first = header(self._rate_hz, self._data_bytes) + await _in_file(self._first.read)
        if not self._upload_id and not self._rest:
            await self._bucket.ask("PUT", self._key, body=first)
            return
        if self._rest:
            await self._put_part(len(self._tags) + 2, bytes(self._rest))
        await self._put_part(1, first)
        parts = ET.Element("CompleteMultipartUpload")
        for number in sorted(self._tags):
            part = ET.SubElement(parts, "Part")
            ET.SubElement(part, "PartNumber").text = str(number)
            ET.SubElement(part, "ETag").text = self._tags[number]
        answer = await self._bucket.ask("POST", self._key, {"uploadId": self._upload_id}, ET.tostring(parts))
        if b"<Error>" in answer.content:  # S3 may say so with 200
            raise RecordingFailed("refused", "the store did not put the parts together")
        self._upload_id = ""

    async def abort(self) -> None:
        """Nothing of it is kept, and nothing paid for. Never raises."""
        upload_id, self._upload_id = self._upload_id, ""
        if upload_id:
            with suppress(RecordingFailed):  # a rule of the bucket clears away what is left
                await self._bucket.ask("DELETE", self._key, {"uploadId": upload_id}, tries=1)

    async def _put_part(self, number: int, part: bytes) -> None:
        if not self._upload_id:
            answer = await self._bucket.ask("POST", self._key, {"uploads": ""})
            self._upload_id = _text_of(answer, "UploadId")
        asked = {"partNumber": str(number), "uploadId": self._upload_id}
        self._tags[number] = (await self._bucket.ask("PUT", self._key, asked, part)).headers.get("etag", "")


class _Bucket:
    def __init__(self, config: S3Config, client: httpx.AsyncClient, now: Callable[[], float]) -> None:
        base = config.endpoint.rstrip("/") or f"https://s3.{config.region}.amazonaws.com"
        self._base = f"{base}/{encoded(config.bucket)}"
        self._keys = Credentials(config.key_id, config.secret, config.region, config.session_token)
        self._client = client
        self._now = now

    async def keys_below(self, prefix: str) -> list[str]:
        answer = await self.ask("GET", "", {"list-type": "2", "prefix": prefix})
        return [found.text or "" for found in _tree_of(answer).iter() if found.tag.rpartition("}")[2] == "Key"]

    async def ask(
        self, method: str, key: str, query: Mapping[str, str] | None = None, body: bytes = b"", *, tries: int = TRIES
    ) -> httpx.Response:
        """Asked again if that may help. Raises RecordingFailed."""
        pairs = "&".join(f"{encoded(name)}={encoded(value)}" for name, value in sorted((query or {}).items()))
        url = f"{self._base}/{encoded(key, safe='/')}" + (f"?{pairs}" if pairs else "")
        for number in range(tries):
            if number:
                await trio.sleep(PAUSE_S * number)
            try:
                with trio.fail_after(REQUEST_S):
                    headers = sign(method, url, {"host": urlsplit(url).netloc}, body, self._keys, self._now())
                    answer = await self._client.request(method, url, headers=headers, content=body)
            except (httpx.HTTPError, trio.TooSlowError):
                continue
            if answer.is_success:
                return answer
            if not answer.is_server_error:
                raise RecordingFailed("refused", f"the store answered {answer.status_code}")
        raise RecordingFailed("unreachable", "the store does not answer")


def _tree_of(answer: httpx.Response) -> ET.Element:
    if len(answer.content) > MAX_ANSWER_BYTES or b"<!DOCTYPE" in answer.content:
        raise RecordingFailed("error", "the store answered nonsense")
    try:
        return ET.fromstring(answer.content)  # noqa: S314 - without a document type there are no entities
    except ET.ParseError:
        raise RecordingFailed("error", "the store answered nonsense") from None


def _text_of(answer: httpx.Response, name: str) -> str:
    found = next((one.text for one in _tree_of(answer).iter() if one.tag.rpartition("}")[2] == name), None)
    if not found:
        raise RecordingFailed("error", f"the store answered without {name}")
    return found


async def _in_file(work: Callable[..., object], *words: object) -> bytes:
    """In a thread. Raises RecordingFailed."""
    try:
        done = await trio.to_thread.run_sync(work, *words)
    except OSError as exc:
        raise RecordingFailed("full", exc.strerror or "") from None
    return done if isinstance(done, bytes) else b""
