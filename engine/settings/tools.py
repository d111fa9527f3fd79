"""What the settings say of tools, checked; and the environment variables that they name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from engine.errors import SettingsError
from engine.settings.tables import AgentSettings, Settings, ToolSettings

BUILT_IN: Final = ("hang_up", "transfer", "send_text", "press_digits", "remember", "recall", "hand_over")
WARMTH: Final = ("never", "if_able", "always")
"""Of transfers: whether whoever picks up is told a few words first."""
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NUMBER: Final = re.compile(r"\+[1-9][0-9]{6,14}")
_SIP: Final = re.compile(r"sips?:[^\s@]+@[^\s@]+")


def check_tools(settings: Settings) -> None:
    """Raises SettingsError naming the key at fault."""
    for name, table in settings.tools.items():
        _check_table(f"tools.{name}", name, table)
    for name, agent in settings.agents.items():
        _check_agent(f"agents.{name}", agent, settings)


def variables_of(table: ToolSettings) -> Iterator[str]:
    """Environment variables that a tool needs."""
    if table.secret_variable:
        yield table.secret_variable
    for text in (*table.headers.values(), *table.env.values()):
        yield from _VARIABLE.findall(text)


def filled(texts: Mapping[str, str], values: Mapping[str, str], where: str) -> dict[str, str]:
    """The texts with the values of their variables. Raises SettingsError naming a variable that is not set."""

    def value(found: re.Match[str]) -> str:
        if not values.get(found[1]):
            raise SettingsError(f"{where}: set {found[1]} in the environment")
        return values[found[1]]

    return {name: _VARIABLE.sub(value, text) for name, text in texts.items()}


def is_address(mcp: tuple[str, ...]) -> bool:
    """An MCP server is reached over HTTP, and is not a program."""
    return len(mcp) == 1 and mcp[0].startswith(("http://", "https://"))


def _check_table(where: str, name: str, table: ToolSettings) -> None:
    if name in BUILT_IN:
        raise SettingsError(f"{where}: {name} is built in; choose another name")
    if not _NAME.fullmatch(name):
        raise SettingsError(f"{where}: expected a name of letters, digits, _ and -, at most 40")
    given = [key for key in ("url", "python", "mcp") if getattr(table, key)]
    if len(given) != 1:
        raise SettingsError(
            f"{where}: expected exactly one of url, python and mcp, got {' and '.join(given) or 'none'}"
        )
    if table.url and not table.description:
        raise SettingsError(f"{where}.description: must be given, the model is told what the tool is for")
    if table.parameters.get("type", "object") != "object":
        raise SettingsError(f"{where}.parameters: expected the JSON Schema of an object")
    _check_belongs(where, table, given[0])


def _check_belongs(where: str, table: ToolSettings, kind: str) -> None:
    """Nothing is set that would not be used."""
    is_http = kind == "url" or (kind == "mcp" and is_address(table.mcp))
    unused = {
        "method": table.method != "POST" and kind != "url",
        "headers": bool(table.headers) and not is_http,
        "secret_variable": bool(table.secret_variable) and kind != "url",
        "tells_caller": table.tells_caller and kind == "python",
        "allow_private": table.allow_private and kind != "url",
        "env": bool(table.env) and (kind != "mcp" or is_http),
        "only": bool(table.only) and kind != "mcp",
        "description": bool(table.description) and kind == "mcp",
        "parameters": bool(table.parameters) and kind == "mcp",
    }
    for key, is_so in unused.items():
        if is_so:
            raise SettingsError(f"{where}.{key}: is of no use with {kind} = {getattr(table, kind)!r}")


def _check_agent(where: str, agent: AgentSettings, settings: Settings) -> None:
    for tool in agent.tools:
        if tool not in BUILT_IN and tool not in settings.tools:
            there_are = ", ".join((*BUILT_IN, *settings.tools))
            raise SettingsError(f"{where}.tools: there is no tool {tool!r}; there are: {there_are}")
    for name, target in agent.transfers.items():
        if not name.strip() or not (_NUMBER.fullmatch(target) or _SIP.fullmatch(target)):
            raise SettingsError(
                f"{where}.transfers.{name}: expected a number such as +15550100000 or an address such as "
                "sip:desk@example.com"
            )
    if agent.warm_transfers not in WARMTH:
        known = ", ".join(WARMTH)
        raise SettingsError(f"{where}.warm_transfers: expected one of {known}, got {agent.warm_transfers!r}")
    if agent.failure_transfer and agent.failure_transfer not in agent.transfers:
        raise SettingsError(f"{where}.failure_transfer: expected one of transfers, got {agent.failure_transfer!r}")
