from __future__ import annotations

from engine.assembly import check_agents
from engine.settings import AgentSettings, Settings


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
