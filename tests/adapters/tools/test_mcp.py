"""Servers of the Model Context Protocol, made with the package's own server: over stdio, over HTTP and in memory."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
import trio
import trio.testing
import uvicorn
from trio.testing import MockClock

from adapters.tools.mcp import CONNECT_S, LOOK_S, LastWords, McpConfig, McpServer
from engine.errors import ToolFailed
from engine.ports import ToolScope
from engine.tools.toolbox import Toolbox
from tests.tools.scripted import NUMBER, SESSION, Control, call, context, metrics

SCOPE = ToolScope(SESSION, Control(), context())


@asynccontextmanager
async def running(server: McpServer, *, within_s: float = 60.0) -> AsyncIterator[McpServer]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        with trio.fail_after(within_s):
            await until(lambda: server.is_connected)
        yield server
        nursery.cancel_scope.cancel()


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110 - the server is another program's
        await trio.sleep(0.02)


async def used(server: McpServer, name: str, **arguments: Any) -> str:
    """As a model calls it."""
    tools = Toolbox([], metrics(), sources=[server])
    return (await tools.use(SESSION, Control()).run([call(name, **arguments)], context())).results[0].text


@pytest.mark.heavy
async def test_a_program_is_started_asked_lost_started_again_and_ended() -> None:
    command = (sys.executable, "-m", "tests.adapters.tools.shop")
    server = McpServer(McpConfig("shop", command=command, tells_caller=True))
    assert server.tools == ()
    async with running(server):
        assert await used(server, "shop_price", item="pen", count=2) == "2 pen: 6 euros"
        assert "count: expected integer" in await used(server, "shop_price", item="pen", count="2")
        assert await used(server, "shop_who_asks") == f"s-1 {NUMBER}"
        first = int(await used(server, "shop_pid"))

        assert await used(server, "shop_die") == "It cannot be reached at the moment."
        assert await used(server, "shop_price", item="pen") == "It cannot be reached at the moment."
        with trio.fail_after(60):
            await until(lambda: server.is_connected)
        second = int(await used(server, "shop_pid"))
        assert second != first
    for pid in (first, second):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_program_that_dies_at_its_start_tells_why() -> None:
    """What it says once it has started is nobody's business."""
    dies = "import sys; print('usage:\\n shop: no such file: /etc/\\x07shop.toml\\n', file=sys.stderr); sys.exit(3)"
    server = McpServer(McpConfig("shop", command=(sys.executable, "-c", dies)))
    with structlog.testing.capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            with trio.fail_after(60):
                await until(lambda: bool(logs))
            nursery.cancel_scope.cancel()
    assert (logs[0]["event"], logs[0]["error"]) == ("mcp_server_lost", "NotStarted")
    assert logs[0]["why"] == "shop: no such file: /etc/shop.toml"


async def test_what_a_program_says_once_it_has_started_is_read_and_forgotten() -> None:
    words, (theirs, ours) = LastWords(), trio.testing.memory_stream_one_way_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(words.read, ours)
        await theirs.send_all(b"starting\n" * 10_000 + b"\n \n")
        await trio.testing.wait_all_tasks_blocked()
        assert words.line == "starting"
        words.ignore()
        await theirs.send_all(b"canary")
        await trio.testing.wait_all_tasks_blocked()
        assert words.line == ""
        await theirs.aclose()


@asynccontextmanager
async def served() -> AsyncIterator[tuple[str, list[str]]]:
    """The shop over streamable HTTP, as the package serves it; and the authorizations that came."""
    from tests.adapters.tools import shop

    seen: list[str] = []

    def made() -> Any:
        app = shop.server.streamable_http_app()

        async def noting(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                seen.append(dict(scope["headers"]).get(b"authorization", b"").decode())
            await app(scope, receive, send)

        return noting

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        config = uvicorn.Config(made, factory=True, log_config=None, lifespan="on", timeout_graceful_shutdown=1)
        program = uvicorn.Server(config)
        thread = threading.Thread(target=program.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", seen
        finally:
            program.should_exit = True
            thread.join(10)


async def test_a_server_over_http_is_asked_with_its_headers() -> None:
    async with served() as (url, seen):
        server = McpServer(McpConfig("shop", url=url, headers={"Authorization": "Bearer k"}))
        async with running(server):
            assert await used(server, "shop_price", item="pen") == "1 pen: 3 euros"
            assert await used(server, "shop_who_asks") == "s-1 None"
        assert set(seen) == {"Bearer k"}


# --- in memory ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def in_memory(_: McpConfig) -> AsyncIterator[Any]:
    import mcp

    from tests.adapters.tools import shop

    async with mcp.Client(shop.server, cache=None) as client:
        yield client


async def test_tools_bear_the_name_of_their_server(autojump_clock: MockClock) -> None:
    async with running(McpServer(McpConfig("shop"), connect=in_memory)) as server:
        names = [tool.spec.name for tool in server.tools]
        assert names == [f"shop_{name}" for name in ("price", "who_asks", "broken", "slow", "pid", "die")]
        (price, *_) = server.tools
        assert price.spec.description == "What something costs."
        assert price.label == "shop"
    async with running(McpServer(McpConfig("shop", only=("price",)), connect=in_memory)) as server:
        assert [tool.spec.name for tool in server.tools] == ["shop_price"]


async def test_a_call_that_takes_too_long_is_given_up(autojump_clock: MockClock) -> None:
    async with running(McpServer(McpConfig("shop", timeout_s=2.0), connect=in_memory)) as server:
        began_s = trio.current_time()
        assert "No answer within 2 s" in await used(server, "shop_slow")
        assert trio.current_time() - began_s == 2.0
        assert await used(server, "shop_price", item="pen") == "1 pen: 3 euros"


async def test_a_tool_that_raises_over_there_says_so_and_nothing_is_logged(autojump_clock: MockClock) -> None:
    async with running(McpServer(McpConfig("shop"), connect=in_memory)) as server:
        with structlog.testing.capture_logs() as logs:
            assert "Error executing tool broken" in await used(server, "shop_broken")
    assert "canary" not in repr(logs)


# --- servers of bad manners -------------------------------------------------------------------------------------


class Manners:
    """A client of the package, as far as it is used, on a server that behaves as the test wants."""

    def __init__(self, *names: str) -> None:
        self.names: Sequence[str] = names or ("price",)
        self.connects: list[float] = []
        self.open = 0
        self.hangs_at: set[str] = set()
        self.fails_at: set[str] = set()
        self.abandoned_s = 0.0
        """How long the package holds on to a call that nobody waits for."""

    @asynccontextmanager
    async def connect(self, _: McpConfig) -> AsyncIterator[Any]:
        self.connects.append(trio.current_time())
        await self._step("connect")
        self.open += 1
        try:
            yield self
        finally:
            self.open -= 1

    async def list_tools(self, *, cursor: str | None) -> Any:
        await self._step("list")
        tools = [
            SimpleNamespace(name=name, description="d" * 5000, title=None, input_schema={"type": "object"})
            for name in self.names
        ]
        return SimpleNamespace(tools=tools, next_cursor="again")  # without an end

    async def call_tool(self, name: str, arguments: Any, *, meta: Any) -> Any:
        try:
            await self._step("call")
        finally:
            with trio.move_on_after(self.abandoned_s, shield=True):
                await trio.sleep_forever()
        return SimpleNamespace(content=[], structured_content=None, is_error=False)

    async def _step(self, step: str) -> None:
        await trio.lowlevel.checkpoint()
        if step in self.hangs_at:
            await trio.sleep_forever()
        if step in self.fails_at:
            raise ExceptionGroup("unhandled", [ConnectionResetError("canary")])


@pytest.mark.parametrize("step", ["connect", "list"])
async def test_a_server_that_cannot_be_had_is_tried_again_with_growing_pauses(
    step: str, autojump_clock: MockClock
) -> None:
    there = Manners()
    there.fails_at.add(step)
    server = McpServer(McpConfig("shop"), connect=there.connect)
    with trio.move_on_after(60):
        await server.run()
    pauses = [round(b - a, 1) for a, b in zip(there.connects, there.connects[1:], strict=False)]
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    assert there.open == 0


@pytest.mark.parametrize("step", ["connect", "list"])
async def test_a_server_that_hangs_is_given_up_and_tried_again(step: str, autojump_clock: MockClock) -> None:
    there = Manners()
    there.hangs_at.add(step)
    server = McpServer(McpConfig("shop"), connect=there.connect)
    with trio.move_on_after(CONNECT_S + 1):
        await server.run()
    assert len(there.connects) == 2
    assert there.open == 0
    there.hangs_at.clear()
    async with running(server):
        assert there.open == 1


async def test_a_server_that_falls_silent_is_noticed_without_a_call(autojump_clock: MockClock) -> None:
    there = Manners()
    async with running(McpServer(McpConfig("shop"), connect=there.connect)) as server:
        there.hangs_at.add("list")
        await trio.sleep(LOOK_S + CONNECT_S + 0.1)
        assert not server.is_connected
        assert server.tools  # they answer, with an error
        with pytest.raises(ToolFailed, match="at the moment"):
            await server.tools[0].run({}, SCOPE)
        there.hangs_at.clear()
        await trio.sleep(1)
        assert server.is_connected


async def test_a_hang_up_waits_for_nothing_of_a_server(autojump_clock: MockClock) -> None:
    """The package may take seconds to tell a server that nobody waits any more."""
    there = Manners()
    there.hangs_at.add("call")
    there.abandoned_s = 5.0
    async with running(McpServer(McpConfig("shop"), connect=there.connect)) as server:
        began_s = trio.current_time()
        with trio.move_on_after(1):
            await server.tools[0].run({}, SCOPE)
        assert trio.current_time() - began_s == 1.0


async def test_calls_on_their_way_end_with_the_connection(autojump_clock: MockClock) -> None:
    there = Manners()
    there.hangs_at.add("call")
    failures: list[str] = []
    async with running(McpServer(McpConfig("shop"), connect=there.connect)) as server:

        async def asks() -> None:
            try:
                await server.tools[0].run({}, SCOPE)
            except ToolFailed as exc:
                failures.append(str(exc))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(asks)
            await trio.sleep(1)
            there.fails_at.add("list")
    assert failures == ["It cannot be reached at the moment."] * 3


async def test_names_that_no_model_takes_are_changed_or_left_out(autojump_clock: MockClock) -> None:
    there = Manners("a.b", "a b", "ä" * 80, "fine", *(f"t{n}" for n in range(300)))
    async with running(McpServer(McpConfig("shop"), connect=there.connect)) as server:
        specs = [tool.spec for tool in server.tools]
    assert [spec.name for spec in specs[:2]] == ["shop_a_b", "shop_fine"]
    assert len(specs) <= 100
    assert all(len(spec.description) == 1024 for spec in specs)


async def test_what_went_wrong_is_logged_without_its_words(autojump_clock: MockClock) -> None:
    there = Manners()
    there.fails_at.add("connect")
    with structlog.testing.capture_logs() as logs, trio.move_on_after(2), suppress(ToolFailed):
        await McpServer(McpConfig("shop", headers={"Authorization": "canary"}), connect=there.connect).run()
    assert logs
    assert "canary" not in repr(logs)
    assert "canary" not in repr(McpConfig("shop", headers={"Authorization": "canary"}))
