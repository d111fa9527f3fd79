"""``offhook doctor``: whether this machine can answer calls, and what to do if not."""

from __future__ import annotations

import errno
import json as json_text
import os
import resource
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import trio
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from engine.assembly import (
    PROVIDER_KEYS,
    check_agents,
    check_tools,
    configured_providers,
    load_speech,
    needs_speech,
    open_vault,
    used_tools,
    vendor_url,
    why_not_started,
)
from engine.cli.doctor_calls import outbound_findings, recording_findings
from engine.cli.findings import Finding, Verdict
from engine.cli.store import journal_bytes
from engine.cli.tools import counted, where
from engine.errors import SettingsError, SpeechFailed, StoreDown
from engine.events import MULAW_8K
from engine.sessions.webhooks import check_webhooks
from engine.settings import AgentSettings, Settings, load_settings
from engine.settings.tables import ToolSettings
from engine.settings.tools import filled, is_address
from engine.settings.vendors import EMBEDDED, SCRIPT, VendorTable, used_vendors
from engine.storage.keyring import KeyRing
from engine.web.keys import parse_keys

REACH_S = 3.0
"""For a vendor's machine to answer."""
FILES_A_CALL = 4
"""Descriptors of one call with vendors over the network: provider, recogniser, synthesizer, model."""
FILES_OF_THE_PROCESS = 64
SENTENCE = "What are your opening hours?"


def doctor(*, config: Path | None = None, json: bool = False) -> int:
    """Check settings, port, file descriptors, providers, keys, the store, tools, vendors, recording, outbound calls and
    the embedded speech.

    Parameters
    ----------
    config
        Settings file; default ./offhook.toml if there is one.
    json
        Print the findings as one JSON line.
    """
    settings = load_settings(config)
    findings = list(examine(settings))
    if json:
        print(json_text.dumps([asdict(finding) for finding in findings]))
    else:
        _show(findings)
    return 1 if any(finding.verdict is Verdict.FAILED for finding in findings) else 0


def examine(settings: Settings) -> Iterator[Finding]:
    """Every finding, as it is made."""
    yield Finding("settings", Verdict.OK, f"agents: {', '.join(settings.agents)}; up to {settings.max_calls} calls")
    yield _port(settings)
    yield _files(settings)
    yield from _providers(settings)
    yield from _keys(settings)
    yield from trio.run(_store, settings)
    yield from _trust(settings)
    yield from trio.run(_agents, settings)
    yield from trio.run(_tools, settings)
    yield from trio.run(_vendors, settings)
    yield from _programs(settings)
    yield from trio.run(recording_findings, settings)
    yield from outbound_findings(settings)
    if needs_speech(settings):
        yield _speech(settings)


def _port(settings: Settings) -> Finding:
    host, port = settings.server.host, settings.server.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE and (version := _engine_at(host, port)):
                return Finding("port", Verdict.OK, f"{host} port {port}: an engine runs there already, {version}")
            return Finding("port", Verdict.FAILED, f"{host} port {port}: {exc.strerror}; set server.port or --port")
    return Finding("port", Verdict.OK, f"{host} port {port} is free")


def _engine_at(host: str, port: int) -> str:
    """The version of the engine that listens there; empty if it is none."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - not to listen on
    url = f"http://[{here}]:{port}/api/health" if ":" in here else f"http://{here}:{port}/api/health"
    try:
        with httpx.Client(trust_env=False, timeout=REACH_S) as client:
            told = client.get(url).json()
    except (httpx.HTTPError, ValueError):
        return ""
    return f"version {told['version']}" if isinstance(told, dict) and {"version", "capacity"} <= told.keys() else ""


def _files(settings: Settings) -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_calls * FILES_A_CALL + FILES_OF_THE_PROCESS
    detail = f"{soft} descriptors; {settings.max_calls} calls want about {wanted}"
    if soft < wanted:
        return Finding("files", Verdict.FAILED, f"{detail}: raise the limit with ulimit -n")
    return Finding("files", Verdict.OK, detail)


def _providers(settings: Settings) -> Iterator[Finding]:
    is_open = configured_providers(settings)
    for name, is_configured in is_open.items():
        if is_configured:
            yield Finding(name, Verdict.OK, "its routes are open")
        else:
            yield Finding(name, Verdict.WARNING, f"its routes are closed; set {PROVIDER_KEYS[name]} to open them")
    if any(is_open.values()) and not settings.server.public_url:
        yield Finding("public_url", Verdict.WARNING, "server.public_url is not set: only this machine can call")


def _keys(settings: Settings) -> Iterator[Finding]:
    """Whether they can be read. Of none it is told what stays closed without."""
    secrets = settings.secrets
    try:
        keys = KeyRing.parse(secrets.encryption_keys)
    except SettingsError as exc:
        yield Finding("encryption", Verdict.FAILED, str(exc))
    else:
        if keys.is_encrypting:
            yield Finding("encryption", Verdict.OK, f"{counted(len(keys.ids), 'key')}; {keys.ids[0]} seals")
        elif settings.store.kind != "memory":
            detail = "what is stored is plain: set ENCRYPTION_KEYS, `offhook store new-key` makes one"
            yield Finding("encryption", Verdict.WARNING, detail)
    try:
        count = len(parse_keys(secrets.api_keys))
    except SettingsError as exc:
        yield Finding("api keys", Verdict.FAILED, str(exc))
    else:
        closed = "the HTTP API is closed: set API_KEYS to name:scope+scope:key"
        yield Finding("api keys", Verdict.OK if count else Verdict.WARNING, counted(count, "key") if count else closed)
    try:
        check_webhooks(settings.webhooks, secrets.webhook_secret)
    except SettingsError as exc:
        yield Finding("webhooks", Verdict.FAILED, str(exc))
    else:
        if settings.webhooks.url:
            yield Finding("webhooks", Verdict.OK, "session events are signed and sent")


async def _store(settings: Settings) -> list[Finding]:
    store, place = settings.store, where(settings)
    waiting = journal_bytes(settings)
    found = []
    if store.kind == "memory":
        found.append(Finding("store", Verdict.WARNING, "memory: a restart forgets everything; set store.kind"))
    elif store.kind == "sqlite" and not await trio.Path(store.path).exists():
        found.append(_new_file(Path(store.path)))
    else:
        try:
            async with open_vault(settings) as vault:
                await vault.sessions(limit=1)
        except (SettingsError, StoreDown) as exc:
            found.append(Finding("store", Verdict.FAILED, f"{store.kind}, {place}: {exc}"))
        else:
            found.append(Finding("store", Verdict.OK, f"{store.kind}, {place}: it opens and can be read"))
    if waiting and store.kind != "memory":
        detail = f"store.journal: {waiting} bytes wait for the store; the engine writes them when it starts"
        found.append(Finding("journal", Verdict.WARNING, detail))
    return found


def _new_file(path: Path) -> Finding:
    """Made by the engine, and not by whoever only asks."""
    folder = path.absolute().parent
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding("store", Verdict.FAILED, f"store.path: {path} is not there, and cannot be made in {folder}")
    return Finding("store", Verdict.OK, f"sqlite, store.path {str(path)!r}: made at the first start")


def _trust(settings: Settings) -> Iterator[Finding]:
    """Agents that remember their callers, and calls that nobody vouches for."""
    sessions = settings.sessions
    remembering = [name for name, agent in settings.agents.items() if agent.scope == "caller"]
    if not remembering or sessions.trusted_lines:
        return
    who = ", ".join(remembering)
    if configured_providers(settings)["vonage"]:
        yield Finding(
            "trust",
            Verdict.WARNING,
            f"{who} remembers callers, but Vonage does not tell who vouches for a number: callers over it begin anew; "
            "name the dialled numbers whose carrier does in sessions.trusted_lines",
        )
    elif not sessions.trusted_attestations:
        yield Finding(
            "trust",
            Verdict.WARNING,
            f"{who} remembers callers, but nobody is trusted, so every call begins anew: set "
            "sessions.trusted_attestations or sessions.trusted_lines",
        )


async def _agents(settings: Settings) -> list[Finding]:
    """Inside trio, as when serving: a factory may want to know where it runs."""
    wrong = dict(check_agents(settings))
    return [
        Finding(f"agent {name}", Verdict.FAILED if name in wrong else Verdict.OK, wrong.get(name) or _source(agent))
        for name, agent in settings.agents.items()
    ]


def _source(agent: AgentSettings) -> str:
    if agent.factory:
        return f"made by {agent.factory}"
    mind = " then ".join(f"script {agent.script}" if name == SCRIPT else name for name in agent.model)
    if agent.realtime:
        return f"speech to speech: {' then '.join(agent.realtime)}; texts: {mind}"
    if agent.relay:
        return f"the provider hears and speaks; thinks: {mind}"
    ear, voice = (" then ".join(names) for names in (agent.transcriber, agent.synthesizer))
    return mind if (ear, voice) == (EMBEDDED, EMBEDDED) else f"hears: {ear}; thinks: {mind}; speaks: {voice}"


async def _tools(settings: Settings) -> list[Finding]:
    """Inside trio for the same reason: callables are imported."""
    wrong = dict(check_tools(settings))
    findings = [
        Finding(f"tool {name}", Verdict.FAILED, wrong[name])
        if name in wrong
        else _tool(name, settings.tools[name], settings.secrets.vendor_keys)
        for name in used_tools(settings)
    ]
    async with trio.open_nursery() as nursery:
        for at, name in enumerate(used_tools(settings)):
            table = settings.tools[name]
            if findings[at].verdict is Verdict.OK and table.mcp and not is_address(table.mcp):
                nursery.start_soon(_start, name, settings, findings, at)
    return findings


async def _start(name: str, settings: Settings, findings: list[Finding], at: int) -> None:
    """The program of an MCP server, which is there, for a moment."""
    if why := await why_not_started(name, settings):
        program = settings.tools[name].mcp[0]
        findings[at] = Finding(f"tool {name}", Verdict.FAILED, f"tools.{name}.mcp: {program!r} {why}")


def _tool(name: str, table: ToolSettings, keys: Mapping[str, str]) -> Finding:
    """One that can be made."""
    check = f"tool {name}"
    if table.python:
        return Finding(check, Verdict.OK, f"calls {table.python}")
    if table.url or is_address(table.mcp):
        host = urlsplit(table.url or table.mcp[0]).hostname
        return Finding(check, Verdict.OK, f"{'asks' if table.url else 'MCP server at'} {host}")
    path = filled(table.env, keys, "env").get("PATH")
    return _program(check, f"tools.{name}.mcp", table.mcp[0], path=path)


def _programs(settings: Settings) -> Iterator[Finding]:
    """Vendors that are programs here. What else is wrong with them is told with the agents."""
    try:
        tables = [table for table in used_vendors(settings) if table.kind == "program"]
    except SettingsError:
        return
    for table in tables:
        command, folder = table.options.get("command", ()), table.options.get("directory", "")
        if isinstance(command, str):
            command = (command,)
        if command and isinstance(command[0], str):
            key = f"vendors.{table.name}.command"
            yield _program(f"vendor {table.name}", key, command[0], folder=str(folder))


def _program(check: str, key: str, program: str, *, folder: str = "", path: str | None = None) -> Finding:
    """``path``: where it is looked for; ours if None. A name with a folder in it is taken from where it runs."""
    is_placed = os.sep in program
    found = shutil.which(Path(folder, program).absolute() if is_placed else program, path=path)
    if found is None:
        where_not = "not there" if is_placed else "not on the PATH"
        return Finding(check, Verdict.FAILED, f"{key}: {program!r} is {where_not}, or cannot be run")
    return Finding(check, Verdict.OK, f"runs {found}")


async def _vendors(settings: Settings) -> list[Finding]:
    """Whether the machines of the vendors answer, side by side. Their keys are looked at with the agents."""
    findings: list[Finding] = []
    try:
        tables = [table for table in used_vendors(settings) if table.kind != "program"]
    except SettingsError:
        return []  # told with the agents
    async with trio.open_nursery() as nursery:
        for table in tables:
            nursery.start_soon(_reach, table, findings)
    return sorted(findings, key=lambda finding: finding.check)


async def _reach(table: VendorTable, findings: list[Finding]) -> None:
    check, url = f"vendor {table.name}", urlsplit(vendor_url(table))
    host, port = url.hostname or "", url.port or (80 if url.scheme in ("http", "ws") else 443)
    try:
        with trio.fail_after(REACH_S):
            await (await trio.open_tcp_stream(host, port)).aclose()
    except (OSError, trio.TooSlowError) as exc:
        detail = f"{host} port {port} cannot be reached from here ({type(exc).__name__})"
        findings.append(Finding(check, Verdict.WARNING, detail))
    else:
        untried = "; its key is not tried" if table.key_variable else ""
        findings.append(Finding(check, Verdict.OK, f"{host} port {port} answers{untried}"))


def _speech(settings: Settings) -> Finding:
    try:
        heard, seconds = trio.run(_hear_itself, settings)
    except (SettingsError, SpeechFailed) as exc:
        return Finding("speech", Verdict.FAILED, str(exc))
    if not _is_alike(heard, SENTENCE):
        return Finding("speech", Verdict.FAILED, f"said {SENTENCE!r} and heard {heard!r}")
    return Finding("speech", Verdict.OK, f"spoke and recognised a sentence over a phone line in {seconds:.1f} s")


async def _hear_itself(settings: Settings) -> tuple[str, float]:
    speech = await load_speech(settings)
    start = trio.current_time()
    heard = await speech.recognise(await speech.render(SENTENCE, MULAW_8K), MULAW_8K)
    return heard, trio.current_time() - start


def _is_alike(one: str, other: str) -> bool:
    words: Callable[[str], set[str]] = lambda text: {word.strip(".,?!").lower() for word in text.split()}  # noqa: E731
    return len(words(one) & words(other)) >= 0.6 * len(words(other))


def _show(findings: list[Finding]) -> None:
    styles = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.FAILED: "bold red"}
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for finding in findings:
        table.add_row(f"[{styles[finding.verdict]}]{finding.verdict}", escape(finding.check), escape(finding.detail))
    Console().print(table)
