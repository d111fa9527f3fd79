"""The tools of the settings, each made once, and every agent's toolbox."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import trio

from adapters.tools import mcp_start
from adapters.tools.mcp import McpConfig, McpServer, check_package
from engine.errors import SettingsError
from engine.events import ToolSpec
from engine.observe.labels import TOOLS
from engine.observe.metrics import Metrics
from engine.ports import Tool
from engine.runtime.guarded_http import GuardedHttp
from engine.runtime.network import Network
from engine.runtime.signing import read_secret
from engine.settings import Settings
from engine.settings.tables import AgentSettings, ToolSettings
from engine.settings.tools import BUILT_IN, filled, is_address
from engine.tools.builtin import built_in
from engine.tools.http import HttpTool, check_endpoint
from engine.tools.python import WORKERS, python_tool
from engine.tools.toolbox import Toolbox


def tool_labels(settings: Settings) -> tuple[str, ...]:
    """Every tool that a metric may name."""
    return (*TOOLS, *settings.tools)


def used_tools(settings: Settings) -> list[str]:
    """Tables of tools that an agent uses, each once."""
    named = (name for agent in settings.agents.values() for name in agent.tools)
    return list(dict.fromkeys(name for name in named if name not in BUILT_IN))


def check_tools(settings: Settings) -> list[tuple[str, str]]:
    """Tools that cannot be made, and why: their callables are imported, as at a start, and nothing is asked of any."""
    wrong: list[tuple[str, str]] = []
    metrics, network = Metrics(), Network()
    for name in used_tools(settings):
        alone = replace(settings, agents={"": AgentSettings(tools=(name,))})
        try:
            Tools(alone, metrics, network)
        except SettingsError as exc:
            wrong.append((name, str(exc)))
    return wrong


async def why_not_started(name: str, settings: Settings) -> str:
    """Starts the program of this tool's MCP server, and ends it. Empty if it answers, else what became of it."""
    table = settings.tools[name]
    return await mcp_start.why_not_started(table.mcp, filled(table.env, settings.secrets.vendor_keys, "env"))


class Tools:
    """Raises SettingsError, naming the key at fault, when made of tools that cannot be used. Nothing is asked of any.

    ``run`` it beside the calls: it keeps the connections to MCP servers.
    """

    def __init__(self, settings: Settings, metrics: Metrics, network: Network) -> None:
        self._settings = settings
        self._metrics = metrics
        self._network = network
        self._limiter = trio.CapacityLimiter(WORKERS)
        self._tools: dict[str, Tool] = {}
        self.servers: dict[str, McpServer] = {}
        """By the name of their table."""
        for name in used_tools(settings):
            try:
                self._make(name, settings.tools[name])
            except SettingsError as exc:
                raise SettingsError(f"tools.{name}.{exc}") from None

    def toolbox(self, agent: str) -> Toolbox:
        """Of this agent of the settings."""
        wanted = self._settings.agents[agent]
        others = [name for name in self._settings.agents if name != agent]
        return Toolbox(
            [
                *built_in(wanted.tools, transfers=wanted.transfers, others=others, warm=wanted.warm_transfers),
                *(self._tools[name] for name in wanted.tools if name in self._tools),
            ],
            self._metrics,
            sources=[self.servers[name] for name in wanted.tools if name in self.servers],
        )

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            for server in self.servers.values():
                nursery.start_soon(server.run)
            await trio.sleep_forever()

    def _make(self, name: str, table: ToolSettings) -> None:
        keys = self._settings.secrets.vendor_keys
        if table.mcp:
            self.servers[name] = McpServer(_server(name, table, keys))
        elif table.python:
            self._tools[name] = python_tool(
                name,
                table.python,
                self._limiter,
                description=table.description,
                parameters=_parameters(table) if table.parameters else None,
                timeout_s=table.timeout_s,
            )
        else:
            self._tools[name] = self._endpoint(name, table, keys)

    def _endpoint(self, name: str, table: ToolSettings, keys: Mapping[str, str]) -> HttpTool:
        headers = filled(table.headers, keys, "headers")
        check_endpoint(table.url, headers, allow_private=table.allow_private)
        secret = ""
        if table.secret_variable:
            secret = filled({"": f"${{{table.secret_variable}}}"}, keys, "secret_variable")[""]
        return HttpTool(
            ToolSpec(name, table.description, _parameters(table)),
            table.url,
            GuardedHttp(
                allow_private=table.allow_private,
                ssl_context=self._network.ssl_context,
                deadline_s=table.timeout_s,
            ),
            method=table.method,
            headers=headers,
            key=read_secret(secret, table.secret_variable) if secret else b"",
            tells_caller=table.tells_caller,
            timeout_s=table.timeout_s,
        )


def _parameters(table: ToolSettings) -> dict[str, object]:
    return {"type": "object", "properties": {}, **table.parameters}


def _server(name: str, table: ToolSettings, keys: Mapping[str, str]) -> McpConfig:
    check_package()
    over_http = is_address(table.mcp)
    return McpConfig(
        name,
        url=table.mcp[0] if over_http else "",
        command=() if over_http else table.mcp,
        headers=filled(table.headers, keys, "headers"),
        env=filled(table.env, keys, "env"),
        only=table.only,
        tells_caller=table.tells_caller,
        timeout_s=table.timeout_s,
    )
