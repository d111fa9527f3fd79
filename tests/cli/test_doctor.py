"""``offhook doctor`` finds what would keep ``offhook serve`` from answering."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import trio

from engine.assembly import check_agents
from engine.cli.doctor import _show, examine
from engine.cli.findings import Finding, Verdict
from engine.settings import (
    AgentSettings,
    Secrets,
    Server,
    SessionSettings,
    Settings,
    StoreSettings,
    WebhookSettings,
    load_settings,
)
from engine.storage.keyring import new_key
from tests.cli.stored import Stored
from tests.system.rig import running_engine


def make_nothing(_name: str, options: dict[str, Any]) -> object:
    return SimpleNamespace(**options)


def make_trouble(_name: str, _options: dict[str, Any]) -> object:
    raise ZeroDivisionError("oh")


def finding_on(agent: AgentSettings) -> Finding:
    [finding] = [
        finding
        for finding in examine(Settings(server=Server(port=0), agents={"desk": agent}))
        if finding.check == "agent desk"
    ]
    return finding


@pytest.mark.parametrize(
    ("factory", "detail"),
    [
        ("no.such:thing", "agents.desk.factory: 'no.such:thing' cannot be imported"),
        (f"{__name__}:nope", "cannot be imported"),
        ("no_colon", "cannot be imported"),
        (f"{__name__}:make_trouble", "failed (ZeroDivisionError: oh)"),
        (f"{__name__}:make_nothing", "expected an agent, got SimpleNamespace without name, pipeline, mode, phrases"),
    ],
)
def test_a_factory_that_makes_no_agent_is_found(factory: str, detail: str) -> None:
    finding = finding_on(AgentSettings(factory=factory))
    assert finding.verdict is Verdict.FAILED
    assert detail in finding.detail


def test_a_factory_that_makes_an_agent_is_fine() -> None:
    options = {"url": "http://127.0.0.1:1"}
    finding = finding_on(AgentSettings(factory="tests.fakes.agents:make_agent", options=options))
    assert (finding.verdict, finding.detail) == (Verdict.OK, "made by tests.fakes.agents:make_agent")


def test_what_is_shown_is_text_and_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    _show([Finding("speech", Verdict.FAILED, "install offhook[local]")])
    assert "install offhook[local]" in capsys.readouterr().out


def test_a_script_that_cannot_be_read_is_found_under_its_agents_name() -> None:
    settings = Settings(agents={"good": AgentSettings(), "bad": AgentSettings(script="nowhere")})
    [(name, why)] = check_agents(settings)
    assert name == "bad"
    assert why.startswith("agents.bad.script: script 'nowhere': expected")


# --- keys, store, trust -------------------------------------------------------------------------------------


def findings_on(settings: Settings) -> dict[str, Finding]:
    agents = {
        name: replace(agent, factory="tests.fakes.agents:make_memory_agent") for name, agent in settings.agents.items()
    }
    return {found.check: found for found in examine(replace(settings, server=Server(port=0), agents=agents))}


@pytest.mark.parametrize(
    ("secrets", "check", "verdict", "detail"),
    [
        (Secrets(), "encryption", Verdict.WARNING, "store new-key"),
        (Secrets(encryption_keys="a:b"), "encryption", Verdict.FAILED, "ENCRYPTION_KEYS: entry 1: expected"),
        (Secrets(encryption_keys=f"{new_key()} {new_key()}"), "encryption", Verdict.OK, "2 keys"),
        (Secrets(), "api keys", Verdict.WARNING, "API_KEYS"),
        (Secrets(api_keys="a:b"), "api keys", Verdict.FAILED, "API_KEYS: entry 1: expected"),
        (Secrets(api_keys="a:turn+admin:0123456789abcdef"), "api keys", Verdict.OK, "1 key"),
    ],
)
def test_keys_are_read_before_the_engine_is(secrets: Secrets, check: str, verdict: Verdict, detail: str) -> None:
    found = findings_on(Settings(secrets=secrets, store=StoreSettings(path="none.db")))[check]
    assert found.verdict is verdict
    assert detail in found.detail


def port_of(port: int) -> Finding:
    return next(found for found in examine(Settings(server=Server(port=port))) if found.check == "port")


async def test_a_port_at_which_an_engine_runs_is_told_from_one_that_somebody_else_has() -> None:
    async with running_engine() as rig:
        told = await trio.to_thread.run_sync(port_of, httpx.URL(rig.engine.url).port or 0)
    assert (told.verdict, "an engine runs there already, version" in told.detail) == (Verdict.OK, True)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        told = port_of(other.getsockname()[1])
    assert (told.verdict, "Address already in use" in told.detail) == (Verdict.FAILED, True)


def test_events_that_cannot_be_sent_are_found() -> None:
    settings = Settings(webhooks=WebhookSettings(url="https://example.com/events"))
    found = findings_on(settings)["webhooks"]
    assert (found.verdict, "WEBHOOK_SECRET" in found.detail) == (Verdict.FAILED, True)


def test_the_store_is_opened_if_it_is_there_and_not_made_if_it_is_not(stored: Stored, tmp_path: Path) -> None:
    found = findings_on(load_settings(stored.config, {}))
    assert (found["store"].verdict, "can be read" in found["store"].detail) == (Verdict.OK, True)
    assert "journal" not in found
    (tmp_path / "j").write_bytes(b"1234")
    assert "4 bytes wait" in findings_on(load_settings(stored.config, {}))["journal"].detail

    path = tmp_path / "new.db"
    assert "first start" in findings_on(Settings(store=StoreSettings(path=str(path))))["store"].detail
    assert not path.exists()
    nowhere = findings_on(Settings(store=StoreSettings(path="/nowhere/at/all.db")))["store"]
    assert (nowhere.verdict, "store.path" in nowhere.detail) == (Verdict.FAILED, True)
    (tmp_path / "bad.db").write_bytes(b"no database" * 100)
    bad = findings_on(Settings(store=StoreSettings(path=str(tmp_path / "bad.db"))))["store"]
    assert bad.verdict is Verdict.FAILED
    assert findings_on(Settings(store=StoreSettings(kind="memory")))["store"].verdict is Verdict.WARNING


def test_a_store_that_cannot_be_reached_is_told_with_its_place(tmp_path: Path) -> None:
    journal = str(tmp_path / "none")
    for kind in ("postgresql", "redis"):
        pytest.importorskip({"postgresql": "psycopg", "redis": "coredis"}[kind])
        store = StoreSettings(kind=kind, url="postgresql://u:hush@127.0.0.1:1/d", port=1, journal=journal)
        found = findings_on(Settings(store=store))["store"]
        assert found.verdict is Verdict.FAILED
        assert f"({kind} at 127.0.0.1 port 1 cannot be reached)" in found.detail
        assert "hush" not in found.detail


def test_an_agent_that_remembers_callers_nobody_vouches_for_is_pointed_out() -> None:
    remembering = Settings(
        agents={"desk": AgentSettings(scope="caller")},
        secrets=Secrets(vonage_signature_secret="x" * 32),
        store=StoreSettings(kind="memory"),
    )
    assert "sessions.trusted_lines" in findings_on(remembering)["trust"].detail
    trusting = replace(remembering, sessions=SessionSettings(trusted_lines=("+15005550001",)))
    assert "trust" not in findings_on(trusting)
    over_twilio = replace(remembering, secrets=Secrets(twilio_auth_token="x"))
    assert "trust" not in findings_on(over_twilio)
    nobody = replace(over_twilio, sessions=SessionSettings(trusted_attestations=()))
    assert "nobody is trusted" in findings_on(nobody)["trust"].detail


def test_vendors_are_told_and_whether_their_machines_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    with socket.create_server(("127.0.0.1", 0)) as there, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        config = tmp_path / "offhook.toml"
        config.write_text(
            f"""
            [store]
            kind = "memory"
            [agents.desk]
            transcriber = "embedded"
            model = ["anthropic", "local"]
            [vendors.anthropic]
            model = "m"
            url = "http://127.0.0.1:{nobody.getsockname()[1]}"
            [vendors.local]
            kind = "compatible"
            model = "m"
            url = "http://127.0.0.1:{there.getsockname()[1]}/v1"
            """
        )
        findings = {finding.check: finding for finding in examine(load_settings(config))}
    assert findings["agent desk"].detail == "anthropic then local"
    assert (findings["vendor anthropic"].verdict, findings["vendor local"].verdict) == (Verdict.WARNING, Verdict.OK)
    assert "cannot be reached" in findings["vendor anthropic"].detail


# --- tools and programs -------------------------------------------------------------------------------------


def area(radius: float) -> float:
    """Of a circle."""
    return 3 * radius * radius


@pytest.fixture
def somewhere(tmp_path: Path) -> Path:
    """A folder with a program in it."""
    program = tmp_path / "there"
    program.write_text(
        '#!/bin/sh\nread request\ncase "$1" in --dies) echo "no such file: $2" >&2; exit 3;; esac\necho "{}"\n'
    )
    program.chmod(0o755)
    return tmp_path


def findings_in(folder: Path, text: str) -> dict[str, Finding]:
    config = folder / "offhook.toml"
    config.write_text(f'[store]\nkind = "memory"\n{text}')
    return findings_on(load_settings(config, {}))


@pytest.mark.parametrize(
    ("tool", "verdict", "detail"),
    [
        ('python = "tests.cli.test_doctor:area"', Verdict.OK, "calls tests.cli.test_doctor:area"),
        (
            'python = "tests.cli.test_doctor:nope"',
            Verdict.FAILED,
            "tools.it.python: 'tests.cli.test_doctor:nope'",
        ),
        ('url = "https://shop.example.com/slots"\ndescription = "d"', Verdict.OK, "asks shop.example.com"),
        ('url = "http://127.0.0.1/"\ndescription = "d"', Verdict.FAILED, "allow_private allows it"),
        ('mcp = "https://crm.example.com/mcp"', Verdict.OK, "MCP server at crm.example.com"),
        ('mcp = "https://crm.example.com/mcp"\nheaders = { A = "${NOT_SET}" }', Verdict.FAILED, "set NOT_SET"),
        ('mcp = ["FOLDER/there", "--quiet"]', Verdict.OK, "/there"),
        ('mcp = "there"\nenv = { PATH = "FOLDER" }', Verdict.OK, "/there"),
        (
            'mcp = ["FOLDER/there", "--dies", "shop.toml"]',
            Verdict.FAILED,
            "/there' ended at its start with exit code 3: no such file: shop.toml",
        ),
        ('mcp = ["there", "--quiet"]', Verdict.FAILED, "tools.it.mcp: 'there' is not on the PATH"),
        ('mcp = ["FOLDER/offhook.toml"]', Verdict.FAILED, "is not there, or cannot be run"),
    ],
)
def test_a_tool_that_cannot_be_used_is_found(somewhere: Path, tool: str, verdict: Verdict, detail: str) -> None:
    if "mcp" in tool:
        pytest.importorskip("mcp", reason="the extra mcp is not installed")
    text = f'[agents.desk]\ntools = ["hang_up", "it"]\n[tools.it]\n{tool}\n[tools.unused]\npython = "no:where"\n'
    found = findings_in(somewhere, text.replace("FOLDER", str(somewhere)))
    assert (found["tool it"].verdict, detail in found["tool it"].detail) == (verdict, True), found["tool it"]
    assert "tool unused" not in found


@pytest.mark.parametrize(
    ("vendor", "verdict", "detail"),
    [
        ('command = ["there", "{text}"]', Verdict.FAILED, "vendors.mind.command: 'there' is not on the PATH"),
        ('command = "FOLDER/there"', Verdict.OK, "/there"),
        ('command = ["./there"]\ndirectory = "FOLDER"', Verdict.OK, "/there"),
        ('command = ["./there"]', Verdict.FAILED, "'./there' is not there"),
    ],
)
def test_a_vendor_whose_program_is_not_there_is_found(
    somewhere: Path, vendor: str, verdict: Verdict, detail: str
) -> None:
    text = f'[agents.desk]\nmodel = "mind"\n[vendors.mind]\nkind = "program"\n{vendor}\n'
    found = findings_in(somewhere, text.replace("FOLDER", str(somewhere)))["vendor mind"]
    assert (found.verdict, detail in found.detail) == (verdict, True), found
