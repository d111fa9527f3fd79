from __future__ import annotations

import pytest

from adapters.catalog import Role
from adapters.speech.embedded import packages
from engine.assembly import check_agents
from engine.assembly.agents import Workshop, load_activity
from engine.assembly.tools import Tools
from engine.assembly.vendors import Vendors
from engine.ports import patience_with
from engine.runtime.network import Network
from engine.runtime.phrases import PhraseCache
from engine.settings import AgentSettings, Settings
from tests.vendors.puppets import CALL, House


def test_a_script_that_hands_over_to_an_agent_there_is_not_is_found_at_the_start() -> None:
    agents = {"front": AgentSettings(script="reception"), "desk": AgentSettings()}
    ((name, why),) = check_agents(Settings(agents=agents))
    assert name == "front"
    assert "agents.front.script" in why
    assert "there are: front, desk" in why


def test_a_script_that_hands_over_to_agents_there_are_is_sound() -> None:
    agents = {
        "front": AgentSettings(script="reception"),
        "desk": AgentSettings(),
        "classifier": AgentSettings(script="classifier"),
    }
    assert check_agents(Settings(agents=agents)) == []


async def test_a_caller_waits_longer_for_an_agent_that_a_program_thinks_for() -> None:
    settings = Settings(
        agents={
            "desk": AgentSettings(relay=True),
            "thinker": AgentSettings(relay=True, model=("script", "brain")),
        },
        vendors={"brain": {"kind": "program", "command": ["/bin/cat"], "timeout_s": 20.0, "close_s": 1.0}},
    )
    house, network = House(), Network()
    tools = Tools(settings, house.metrics, network)
    workshop = Workshop(settings, Vendors(settings, network), house.around, house.metrics, tools, None, PhraseCache())
    assert {name: patience_with(workshop.agent(name)) for name in settings.agents} == {"desk": 0.0, "thinker": 21.0}


async def test_a_recogniser_of_whole_sounds_is_told_of_a_voice_by_the_embedded_model_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only that model is loaded, and only where such a recogniser wants it; else loudness tells."""
    pytest.importorskip("onnxruntime", reason="needs the extra offhook[local]")
    tables: dict[str, dict[str, object]] = {
        "model": {"kind": "openai_transcription", "url": "http://127.0.0.1:9/v1"},
        "loud": {"kind": "openai_transcription", "url": "http://127.0.0.1:9/v1", "by_loudness": True},
    }

    def settings(*transcribers: str) -> Settings:
        return Settings(agents={"desk": AgentSettings(transcriber=transcribers)}, vendors=tables)

    assert await load_activity(settings("loud")) is None
    both = settings("model", "loud")
    activity = await load_activity(both)
    assert activity is not None
    vendors, house = Vendors(both, Network(), activity), House()
    for name, lanes in (("model", 1), ("loud", 0)):
        async with vendors.vendor("desk", Role.TRANSCRIBER, name).open(CALL, house.ledger):
            assert activity.lanes == lanes
    async with Vendors(both, Network()).vendor("desk", Role.TRANSCRIBER, "model").open(CALL, house.ledger):
        assert activity.lanes == 0
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    assert await load_activity(both) is None
