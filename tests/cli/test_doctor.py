"""``offhook doctor`` finds what would keep ``offhook serve`` from answering."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from engine.assembly import check_agents
from engine.cli.doctor import Finding, Verdict, _show, examine
from engine.settings import AgentSettings, Server, Settings


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
        (f"{__name__}:make_nothing", "expected an agent, got SimpleNamespace without name, pipeline, phrases"),
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
