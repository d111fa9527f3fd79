"""A bucket that speaks S3 as strictly as it matters: signatures, sizes of parts, tags of parts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote
from xml.etree import ElementTree as ET

import httpx

from adapters.recordings.s3 import PART_BYTES
from adapters.recordings.sigv4 import Credentials, sign

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


@dataclass(eq=False)
class FakeS3:
    keys: Credentials
    bucket: str
    now: Callable[[], float]
    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    """Multipart uploads that are neither completed nor aborted."""
    asked: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    fails: Callable[[str, int], int] = lambda *_: 0
    """What is asked for, and how often anything was, to a status to refuse it with."""
    most_bytes: int = 0
    """Of one request."""

    def transport(self) -> httpx.AsyncBaseTransport:
        return httpx.MockTransport(self._answer)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        return self.answer(request, await request.aread())

    def answer(self, request: httpx.Request, body: bytes) -> httpx.Response:
        """For whoever serves it over a socket."""
        query = dict(parse_qsl(request.url.query.decode(), keep_blank_values=True))
        what = f"{request.method} {' '.join(sorted(query))}".strip()
        self.asked.append(what)
        self.most_bytes = max(self.most_bytes, len(body))
        if status := self.fails(what, len(self.asked)):
            return httpx.Response(status, content=b"<Error><Code>SlowDown</Code></Error>")
        if not self._is_signed(request, body):
            self.faults.append(f"not signed: {what}")
            return httpx.Response(403, content=b"<Error><Code>SignatureDoesNotMatch</Code></Error>")
        path = unquote(request.url.raw_path.decode().partition("?")[0])
        key = path.removeprefix(f"/{self.bucket}/")
        return self._do(request.method, key, query, body)

    def _is_signed(self, request: httpx.Request, body: bytes) -> bool:
        given = request.headers.get("authorization", "")
        names = given.partition("SignedHeaders=")[2].partition(",")[0].split(";")
        named = {name: request.headers[name] for name in names if not name.startswith("x-amz-")}
        expected = sign(request.method, str(request.url), named, body, self.keys, self.now())
        return {"host", "x-amz-content-sha256", "x-amz-date"} <= set(names) and given == expected["authorization"]

    def _do(self, method: str, key: str, query: dict[str, str], body: bytes) -> httpx.Response:  # noqa: PLR0911 - a table
        upload = query.get("uploadId", "")
        if upload and upload not in self.uploads:
            return httpx.Response(404, content=b"<Error><Code>NoSuchUpload</Code></Error>")
        match method:
            case "POST" if "uploads" in query:
                self.uploads[name := f"u{len(self.asked)}"] = {}
                return self._xml("InitiateMultipartUploadResult", UploadId=name)
            case "PUT" if upload:
                self.uploads[upload][int(query["partNumber"])] = body
                return httpx.Response(200, headers={"etag": _tag(body)})
            case "POST" if upload:
                return self._complete(key, upload, body)
            case "DELETE" if upload:
                del self.uploads[upload]
                return httpx.Response(204)
            case "PUT":
                self.objects[key] = body
                return httpx.Response(200, headers={"etag": _tag(body)})
            case "DELETE":
                self.objects.pop(key, None)
                return httpx.Response(204)
            case "GET" if query.get("list-type") == "2":
                return self._list(query.get("prefix", ""))
        return httpx.Response(405)

    def _complete(self, key: str, upload: str, body: bytes) -> httpx.Response:
        parts = self.uploads[upload]
        named = [(int(one[0].text or "0"), one[1].text or "") for one in ET.fromstring(body)]
        is_whole = [number for number, _ in named] == sorted(parts)
        if not is_whole or any(_tag(parts[number]) != tag for number, tag in named):
            self.faults.append("parts that do not match")
            return httpx.Response(400, content=b"<Error><Code>InvalidPart</Code></Error>")
        if any(len(parts[number]) < PART_BYTES for number, _ in named[:-1]):
            self.faults.append("a part that is too small")
            return httpx.Response(400, content=b"<Error><Code>EntityTooSmall</Code></Error>")
        self.objects[key] = b"".join(parts[number] for number, _ in named)
        del self.uploads[upload]
        return self._xml("CompleteMultipartUploadResult", Key=key)

    def _list(self, prefix: str) -> httpx.Response:
        result = ET.Element("ListBucketResult", xmlns=NAMESPACE)
        for key in sorted(key for key in self.objects if key.startswith(prefix))[:2]:
            ET.SubElement(ET.SubElement(result, "Contents"), "Key").text = key
        return httpx.Response(200, content=ET.tostring(result))

    def _xml(self, name: str, **fields: str) -> httpx.Response:
        result = ET.Element(name, xmlns=NAMESPACE)
        for field_name, text in fields.items():
            ET.SubElement(result, field_name).text = text
        return httpx.Response(200, content=ET.tostring(result))


def _tag(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
