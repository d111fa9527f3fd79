"""Clients that misbehave: raw bytes over a memory stream or a real one."""

from __future__ import annotations

import os
import struct

import trio
from trio.abc import Stream

from engine.runtime.wire import abort_stream

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


def upgrade_request(path: str = "/media/test", host: str = "localhost", extra: str = "") -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extra}\r\n"
    ).encode()


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    claimed: int | None = None,
    form: int | None = None,
) -> bytes:
    """One frame; ``claimed`` lies about its length, ``form`` (7, 16, 64) forces the length's spelling."""
    size = len(payload) if claimed is None else claimed
    form = form or (7 if size < 126 else 16 if size < 65536 else 64)
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    mask_bit = 0x80 if masked else 0
    if form == 7:
        head = bytes((first, mask_bit | size))
    elif form == 16:
        head = bytes((first, mask_bit | 126)) + struct.pack("!H", size)
    else:
        head = bytes((first, mask_bit | 127)) + struct.pack("!Q", size)
    if not masked:
        return head + payload
    key = os.urandom(4)
    mask = (key * (len(payload) // 4 + 1))[: len(payload)]
    return head + key + (int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")).to_bytes(len(payload), "big")


async def read_head(stream: trio.abc.ReceiveStream) -> tuple[bytes, bytes]:
    """The HTTP head that comes next, with its blank line, and what was read past it."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some(4096)
        if not more:
            raise EOFError(data)
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", rest


class RawPeer:
    """Speaks WebSocket as badly as it is told to, from the client's end of a stream."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._data = b""
        self._sending = trio.Lock()

    async def upgrade(self, path: str = "/media/test", extra: str = "") -> bytes:
        """The head of the answer."""
        await self.stream.send_all(upgrade_request(path, extra=extra))
        head, self._data = await read_head(self.stream)
        return head

    async def send(self, *frames: bytes) -> None:
        async with self._sending:
            await self.stream.send_all(b"".join(frames))

    def reset(self) -> None:
        """Cut a TCP stream off."""
        abort_stream(self.stream)

    async def read_frame(self) -> tuple[int, bytes] | None:
        """(opcode, payload) of the next frame, None at the end of the stream. Raises ValueError for a torn one."""
        while True:
            whole = self._take()
            if whole is not None:
                return whole
            try:
                more = await self.stream.receive_some(65536)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                more = b""
            if not more:
                if self._data:
                    raise ValueError("the stream ends in the middle of a frame")
                return None
            self._data += more

    async def read_close(self) -> int | None:
        """Code of the close frame, however much comes before it; None if the stream ends without one."""
        while (read := await self.read_frame()) is not None:
            opcode, payload = read
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big") if payload else 1005
        return None

    async def reads_end(self) -> None:
        """Read until the stream is over."""
        while await self.read_frame() is not None:
            pass

    def _take(self) -> tuple[int, bytes] | None:
        data = self._data
        if len(data) < 2:
            return None
        if data[0] & 0x70 or data[0] & 0x0F not in (0, 1, 2, 8, 9, 10) or data[1] & 0x80:
            raise ValueError("not a frame of a server")
        size, at = data[1] & 0x7F, 2
        if size >= 126:
            at = 4 if size == 126 else 10
            if len(data) < at:
                return None
            size = int.from_bytes(data[2:at], "big")
        if len(data) < at + size:
            return None
        self._data = data[at + size :]
        return data[0] & 0x0F, data[at : at + size]
