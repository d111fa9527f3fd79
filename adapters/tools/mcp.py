"""Tools of a server of the Model Context Protocol, through the ``mcp`` package (an extra), over stdio or streamable
HTTP.

One connection for the process, kept by an actor of the engine, and not one for each call: a program would be started
and a handshake made while a caller waits, and a hang-up would have to wait for both to end. So nothing of a server
belongs to a call. What a call asks runs in the actor's own tasks: a call that is over lets go at once, and the server
is told that nobody waits any more without anybody waiting for that.

A server that dies is connected again, with growing pauses; its tools answer with an error meanwhile.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
import trio

from engine.errors import SettingsError, ToolFailed
from engine.events import ToolSpec
from engine.ports import Ability, Tool, ToolScope
from engine.runtime.background import ungrouped

log = structlog.get_logger()

CONNECT_S: Final = 30.0
"""To connect, or to start the program, which may have to be fetched first; and for its tools to be listed."""
LOOK_S: Final = 15.0
"""Between two looks whether it is still there and what its tools are."""
PAUSES_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
MOST_TOOLS: Final = 100
MOST_PAGES: Final = 10
MOST_WAITING: Final = 100
"""Calls at once; further ones fail."""
_NO_NAME: Final = re.compile(r"[^A-Za-z0-9_-]")
_NAME_CHARS: Final = 64
_DESCRIPTION_CHARS: Final = 1024
LAST_WORDS_S: Final = 0.5
"""For what a program that has ended has left to be read."""
_SAID_BYTES: Final = 4096
_LINE_CHARS: Final = 200


@dataclass(frozen=True)
class McpConfig:
    name: str
    """Of its table in the settings; its tools are called ``name_tool``."""
    url: str = ""
    command: tuple[str, ...] = ()
    """A program with its arguments; either this or ``url``."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Of the program, besides the few variables that the package passes on."""
    only: tuple[str, ...] = ()
    """The tools that are offered, by the server's names; empty: all."""
    tells_caller: bool = False
    """Each call carries the caller's number in its ``_meta``, as ``offhook/caller``; ``offhook/session_id`` always."""
    timeout_s: float = 5.0


Connect = Callable[[McpConfig], AbstractAsyncContextManager[Any]]
"""Opens an ``mcp.Client``."""


def check_package() -> None:
    """Raises SettingsError if the package is not installed."""
    if importlib.util.find_spec("mcp") is None:
        raise SettingsError("tools of MCP servers need a package: pip install offhook[mcp]")


class McpServer:
    """Implements ``engine.ports.ToolSource``. ``run`` it in a nursery that outlives the calls."""

    def __init__(self, config: McpConfig, *, connect: Connect | None = None) -> None:
        self.config = config
        self._connect = connect or connected
        self._tools: tuple[McpTool, ...] = ()
        self._client: Any = None
        self._asking: trio.Nursery | None = None
        self._lost = trio.Event()

    @property
    def tools(self) -> Sequence[Tool]:
        """As they were listed last."""
        return self._tools

    @property
    def is_connected(self) -> bool:
        return self._client is not None

    async def run(self) -> None:
        """Until cancelled."""
        failures = 0
        while True:
            began_at_s = trio.current_time()
            try:
                with ungrouped():
                    await self._serve()
            except Exception as exc:  # noqa: BLE001 - the edge to the package and to the server behind it
                why = str(exc) if isinstance(exc, NotStarted) else ""
                log.warning("mcp_server_lost", server=self.config.name, error=type(exc).__name__, why=why)
            else:
                log.warning("mcp_server_lost", server=self.config.name, error="")
            failures = 1 if trio.current_time() - began_at_s > PAUSES_S[-1] else failures + 1
            await trio.sleep(PAUSES_S[min(failures, len(PAUSES_S)) - 1])

    async def call(self, tool: str, arguments: Mapping[str, Any], meta: Mapping[str, str]) -> str:
        """What came of it, as text. Raises ToolFailed."""
        asking, client = self._asking, self._client
        if asking is None or client is None or len(asking.child_tasks) >= MOST_WAITING:
            raise ToolFailed("It cannot be reached at the moment.")
        request = _Request(client, tool, dict(arguments), dict(meta))
        asking.start_soon(self._ask, request)
        try:
            await request.done.wait()
        finally:
            request.scope.cancel()
        if request.failure is not None:
            raise request.failure
        if request.result is None:  # the connection went with it
            raise ToolFailed("It cannot be reached at the moment.")
        return _text_of(request.result)

    async def _serve(self) -> None:
        """Until the connection is lost."""
        self._lost = trio.Event()
        async with trio.open_nursery() as nursery:
            # The connection is not opened under a deadline: it has a task group of its own that lives on.
            patience = trio.CancelScope(deadline=trio.current_time() + CONNECT_S)
            nursery.start_soon(self._give_up, patience, nursery.cancel_scope)
            async with self._connect(self.config) as client:
                with trio.fail_after(CONNECT_S):
                    await self._list(client)
                patience.cancel()
                log.info("mcp_server_connected", server=self.config.name, tools=len(self._tools))
                try:
                    async with trio.open_nursery() as self._asking:
                        self._client = client
                        await self._look_after(client)
                        self._asking.cancel_scope.cancel()
                finally:
                    self._client = self._asking = None

    async def _give_up(self, patience: trio.CancelScope, connecting: trio.CancelScope) -> None:
        with patience:
            await trio.sleep_forever()
        if trio.current_time() >= patience.deadline:
            connecting.cancel()

    async def _look_after(self, client: Any) -> None:
        """Returns, or raises, when the server is gone."""
        while not self._lost.is_set():
            with trio.move_on_after(LOOK_S):
                await self._lost.wait()
                return
            with trio.fail_after(CONNECT_S):
                await self._list(client)

    async def _list(self, client: Any) -> None:
        found, cursor = list[Any](), None
        for _ in range(MOST_PAGES):
            page = await client.list_tools(cursor=cursor)
            found += page.tools
            cursor = page.next_cursor
            if cursor is None:
                break
        self._tools = self._offered(found[:MOST_TOOLS])

    def _offered(self, found: Sequence[Any]) -> tuple[McpTool, ...]:
        made: dict[str, McpTool] = {}
        for tool in found:
            name = f"{self.config.name}_{_NO_NAME.sub('_', tool.name)}"
            if self.config.only and tool.name not in self.config.only:
                continue
            if len(name) > _NAME_CHARS or name in made:
                log.warning("mcp_tool_left_out", server=self.config.name, tool=tool.name[:_NAME_CHARS])
                continue
            words = (tool.description or tool.title or tool.name)[:_DESCRIPTION_CHARS]
            made[name] = McpTool(self, tool.name, ToolSpec(name, words, dict(tool.input_schema)))
        return tuple(made.values())

    async def _ask(self, request: _Request) -> None:
        try:
            with request.scope:
                request.result = await request.client.call_tool(request.tool, request.arguments, meta=request.meta)
        except Exception as exc:  # noqa: BLE001 - the edge to the package and to the server behind it
            request.failure = ToolFailed("It failed.")
            log.warning("mcp_call_failed", server=self.config.name, error=type(exc).__name__)
            if _is_gone(exc):
                request.failure = ToolFailed("It cannot be reached at the moment.")
                self._lost.set()
        finally:
            request.done.set()


@dataclass(slots=True, eq=False)
class _Request:
    client: Any
    tool: str
    arguments: dict[str, Any]
    meta: dict[str, str]
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done: trio.Event = field(default_factory=trio.Event)
    result: Any = None
    failure: ToolFailed | None = None


@dataclass(frozen=True, eq=False)
class McpTool:
    """Implements ``engine.ports.Tool``."""

    server: McpServer = field(repr=False)
    name: str
    """The server's own."""
    spec: ToolSpec
    needs: Ability | None = None
    most_per_call: int | None = None

    @property
    def label(self) -> str:
        return self.server.config.name

    @property
    def timeout_s(self) -> float | None:
        return self.server.config.timeout_s

    async def run(self, arguments: Mapping[str, Any], scope: ToolScope) -> str:
        meta = {"offhook/session_id": scope.session.session_id}
        if self.server.config.tells_caller:
            meta["offhook/caller"] = scope.session.caller
        return await self.server.call(self.name, arguments, meta)


class NotStarted(Exception):
    """A server's program ended, or was given up, before it had answered. Its text is the last that it said."""


class LastWords:
    """The last line that a program writes to its standard error while it starts. What it writes afterwards is not ours
    to tell: it may be anything."""

    def __init__(self) -> None:
        self._said = b""
        self._is_ignored = False

    @property
    def line(self) -> str:
        """Printable, cut to ``_LINE_CHARS``; empty if there is none."""
        lines = [line.strip() for line in self._said.decode(errors="replace").splitlines()]
        last = next((line for line in reversed(lines) if line), "")
        return "".join(filter(str.isprintable, last))[:_LINE_CHARS]

    def ignore(self) -> None:
        """It has started."""
        self._said, self._is_ignored = b"", True

    async def read(self, stderr: trio.abc.ReceiveStream) -> None:
        """To its end, so that the program never waits for us."""
        async for some in stderr:
            if not self._is_ignored:
                self._said = (self._said + some)[-_SAID_BYTES:]


@asynccontextmanager
async def connected(config: McpConfig) -> AsyncIterator[Any]:
    """An ``mcp.Client`` of this server. Leaving the block ends the program: it is asked to, then killed. Raises what
    the package raises, and NotStarted for a program that said why it ends before it answered."""
    mcp = await trio.to_thread.run_sync(importlib.import_module, "mcp")  # a second's work
    words = LastWords()
    # It logs what it cannot read, with an excerpt: that may be what a caller said.
    logging.getLogger("mcp").setLevel(logging.CRITICAL + 1)
    transport = _over_http(config) if config.url else _over_stdio(config, words)
    try:
        async with mcp.Client(transport, cache=None) as client:
            words.ignore()
            yield client
    except Exception as exc:
        if words.line:
            raise NotStarted(words.line) from exc
        raise


@asynccontextmanager
async def _over_http(config: McpConfig) -> AsyncIterator[Any]:
    import httpx2  # noqa: PLC0415 - comes with the extra
    from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415

    timeout = httpx2.Timeout(CONNECT_S, read=300.0)  # a stream of news may be silent
    async with (
        httpx2.AsyncClient(headers=dict(config.headers), timeout=timeout, trust_env=False) as client,
        streamable_http_client(config.url, http_client=client) as streams,
    ):
        yield streams


@asynccontextmanager
async def _over_stdio(config: McpConfig, words: LastWords) -> AsyncIterator[Any]:
    from mcp import StdioServerParameters  # noqa: PLC0415 - comes with the extra
    from mcp.client.stdio import stdio_client  # noqa: PLC0415

    program, *arguments = config.command
    server = StdioServerParameters(command=program, args=arguments, env=dict(config.env))
    ours, its = os.pipe()
    async with trio.lowlevel.FdStream(ours) as stderr, trio.open_nursery() as nursery:
        nursery.start_soon(words.read, stderr)
        with open(its, "w", encoding="utf-8") as errlog:  # noqa: ASYNC230 - a pipe, and never written to here
            async with stdio_client(server, errlog=errlog) as streams:
                yield streams
        nursery.cancel_scope.deadline = trio.current_time() + LAST_WORDS_S


def _text_of(result: Any) -> str:
    texts = [block.text if block.type == "text" else f"[{block.type}]" for block in result.content]
    text = "\n".join(texts)
    if not text and result.structured_content is not None:
        text = str(result.structured_content)
    if result.is_error:
        raise ToolFailed(text or "It failed.")
    return text or "Done."


def _is_gone(exc: Exception) -> bool:
    """The connection is of no use any more, as the package's code of that says."""
    import mcp_types  # noqa: PLC0415 - comes with the extra

    return getattr(exc, "code", None) == mcp_types.CONNECTION_CLOSED or isinstance(exc, OSError)
