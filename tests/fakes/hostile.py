"""Clients that misbehave: raw bytes over a memory stream or a real one."""

from __future__ import annotations

import trio


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
