"""A server of the Model Context Protocol, made with the package: ``python -m tests.adapters.tools.shop``."""

from __future__ import annotations

import os
import sys

import anyio
from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("shop")


@server.tool()
async def price(item: str, count: int = 1) -> str:
    """What something costs."""
    return f"{count} {item}: {count * 3} euros"


@server.tool(name="who.asks")
async def who_asks(ctx: Context) -> str:
    """What the server is told of the caller."""
    meta = ctx.request_context.meta or {}
    return f"{meta.get('offhook/session_id')} {meta.get('offhook/caller')}"


@server.tool()
async def broken() -> str:
    """Raises."""
    raise ValueError("no canary may be here")


@server.tool()
async def slow() -> str:
    """Takes for ever."""
    await anyio.sleep(3600)
    return "never"


@server.tool()
async def pid() -> str:
    """Of the program."""
    return str(os.getpid())


@server.tool()
async def die() -> str:
    """Ends the program."""
    os._exit(3)


if __name__ == "__main__":
    print("noise of its own", file=sys.stderr)
    anyio.run(server.run_stdio_async)
