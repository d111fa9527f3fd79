from __future__ import annotations

from engine.assembly import check_agents
from engine.assembly.agents import Workshop
from engine.assembly.tools import Tools
from engine.assembly.vendors import Vendors
from engine.ports import patience_with
from engine.runtime.network import Network
from engine.settings import AgentSettings, Settings
from tests.vendors.puppets import House


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
    workshop = Workshop(settings, Vendors(settings, network), house.around, house.metrics, tools, None)
    assert {name: patience_with(workshop.agent(name)) for name in settings.agents} == {"desk": 0.0, "thinker": 21.0}
