"""``offhook converse``: test conversations, held with an engine of its own or with a running one."""

from __future__ import annotations

import json as json_text
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import trio
from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from engine.cli.call import ProviderName
from engine.cli.engines import own_engine, running_engine, settings_of_agents
from engine.converse.report import Exchange, Report, show
from engine.converse.runner import NotHeld, Options
from engine.converse.runner import converse as hold
from engine.converse.script import Script, load, shipped, source
from engine.errors import SettingsError
from engine.events import Modality
from engine.observe.logs import configure_logs
from engine.storage.identity import e164

ALL = "all"
NOT_FOR_IT = 2
"""The exit code of a conversation that the engine cannot hold as it is."""


def converse(
    *scripts: Annotated[str, Parameter(help='Conversations that ship with Offhook, by name; TOML files; or "all".')],
    print_script: Annotated[bool, Parameter(name="--print", help="Print the scripts and hold none.")] = False,
    url: Annotated[str, Parameter(help="Talk to a running engine there, with the API key in API_KEY.")] = "",
    over: Annotated[
        Literal["text", "voice", "sms"] | None, Parameter(help="What goes where the script itself does not say it.")
    ] = None,
    provider: Annotated[ProviderName, Parameter(help="Whose wire calls and SMS come over.")] = "twilio",
    caller: Annotated[str, Parameter(name="--from", help="The caller's number, over the script's.")] = "",
    public_url: Annotated[
        str, Parameter(help="The engine's server.public_url, if it has one: webhooks are signed for it.")
    ] = "",
    keep: Annotated[bool, Parameter(help="Leave what was said in the store, and tell where.")] = False,
    json: Annotated[bool, Parameter(help="End with one line of JSON.")] = False,
) -> int:
    """See the help in ``engine.cli``."""
    configure_logs(level="error")
    console = Console(stderr=json, highlight=False)
    if not scripts:
        _list(console, json=json)
        return 0
    if print_script:
        for name in _names(scripts):
            print(source(name), end="")
        return 0
    modality = Modality(over) if over else None
    wanted = [_with_caller(load(name, over=modality), caller) for name in _names(scripts)]
    options = Options(provider=provider, keep=keep)
    held = trio.run(_hold_all, wanted, options, url.rstrip("/"), public_url, console)
    reports, not_held = held.reports, held.not_held
    for why in not_held.values():
        print(f"offhook: not held: {why}", file=sys.stderr)
    # Of all of them those are held that can be; what was asked for by name must be.
    is_lacking = bool(not_held) and ALL not in scripts
    ok = bool(reports) and all(report.ok for report in reports) and not is_lacking
    if json:
        conversations = [report.as_json() for report in reports]
        print(json_text.dumps({"ok": ok, "conversations": conversations, "not_held": not_held}))
    return NOT_FOR_IT if is_lacking else 0 if ok else 1


def _names(scripts: Sequence[str]) -> list[str]:
    names = [name for script in scripts for name in (shipped() if script == ALL else (script,))]
    return list(dict.fromkeys(names))


def _with_caller(script: Script, caller: str) -> Script:
    if not caller:
        return script
    number = e164(caller, "US")
    if not number:
        raise SettingsError(f"--from: expected a phone number such as +15005550006, got {caller!r}")
    return replace(script, caller=number)


def _list(console: Console, *, json: bool) -> None:
    scripts = [load(name) for name in shipped()]
    if json:
        rows = [{"name": item.name, "turns": len(item.turns), "description": item.description} for item in scripts]
        print(json_text.dumps(rows))
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for item in scripts:
        table.add_row(f"[bold]{escape(item.name)}", f"{len(item.turns)} turns", escape(item.description))
    console.print(table)
    console.print("[dim]Run one with `offhook converse NAME`, all of them with `offhook converse all`.[/]")


@dataclass
class _Held:
    reports: list[Report] = field(default_factory=list)
    not_held: dict[str, str] = field(default_factory=dict)
    """Name to why the engine there cannot, and what to do about it."""


async def _hold_all(scripts: Sequence[Script], options: Options, url: str, public_url: str, console: Console) -> _Held:
    held = _Held()
    for script in scripts:
        target = running_engine(script, url, public_url) if url else own_engine(script, keep=options.keep)
        try:
            async with target as engine:
                report = await hold(script, engine, options, _progress(console))
                report.kept = engine.kept if options.keep else ""
        except NotHeld as exc:
            held.not_held[script.name] = _why_not(script, exc)
            continue
        show(report, console)
        held.reports.append(report)
    return held


def _why_not(script: Script, exc: NotHeld) -> str:
    if not exc.lacks_agents:
        return str(exc)
    snippet = settings_of_agents(script)
    return f"{exc}. Give it to that engine, in its settings:\n\n{snippet}\nOr leave --url: an engine of its own has it."


def _progress(console: Console) -> Callable[[Exchange], None]:
    def told(exchange: Exchange) -> None:
        if console.is_terminal:
            console.print(f"[dim]{exchange.number:>4}  {escape(exchange.said)}[/]", soft_wrap=True)

    return told
