"""``offhook doctor``: whether this machine can answer calls, and what to do if not."""

from __future__ import annotations

import json as json_text
import resource
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

import trio
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from engine.assembly import check_agents, configured_providers, load_speech
from engine.errors import SettingsError, SpeechFailed
from engine.events import MULAW_8K
from engine.settings import AgentSettings, Settings, load_settings

FILES_A_CALL = 4
"""Descriptors of one call with vendors over the network: provider, recogniser, synthesizer, model."""
FILES_OF_THE_PROCESS = 64
SENTENCE = "What are your opening hours?"


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    verdict: Verdict
    detail: str


def doctor(*, config: Path | None = None, json: bool = False) -> int:
    """Check settings, port, file descriptors, providers and the embedded speech.

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
    yield from trio.run(_agents, settings)
    if any(not agent.factory for agent in settings.agents.values()):
        yield _speech(settings)


def _port(settings: Settings) -> Finding:
    host, port = settings.server.host, settings.server.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            return Finding("port", Verdict.FAILED, f"{host} port {port}: {exc.strerror}; set server.port or --port")
    return Finding("port", Verdict.OK, f"{host} port {port} is free")


def _files(settings: Settings) -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_calls * FILES_A_CALL + FILES_OF_THE_PROCESS
    detail = f"{soft} descriptors; {settings.max_calls} calls want about {wanted}"
    if soft < wanted:
        return Finding("files", Verdict.FAILED, f"{detail}: raise the limit with ulimit -n")
    return Finding("files", Verdict.OK, detail)


def _providers(settings: Settings) -> Iterator[Finding]:
    is_open = configured_providers(settings)
    variables = {"twilio": "TWILIO_AUTH_TOKEN", "vonage": "VONAGE_SIGNATURE_SECRET"}
    for name, is_configured in is_open.items():
        if is_configured:
            yield Finding(name, Verdict.OK, "its routes are open")
        else:
            yield Finding(name, Verdict.WARNING, f"its routes are closed; set {variables[name]} to open them")
    if any(is_open.values()) and not settings.server.public_url:
        yield Finding("public_url", Verdict.WARNING, "server.public_url is not set: only this machine can call")


async def _agents(settings: Settings) -> list[Finding]:
    """Inside trio, as when serving: a factory may want to know where it runs."""
    wrong = dict(check_agents(settings))
    return [
        Finding(f"agent {name}", Verdict.FAILED if name in wrong else Verdict.OK, wrong.get(name) or _source(agent))
        for name, agent in settings.agents.items()
    ]


def _source(agent: AgentSettings) -> str:
    return f"made by {agent.factory}" if agent.factory else f"script {agent.script}"


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
