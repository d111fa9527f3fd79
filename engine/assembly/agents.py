"""The agents of the settings: scripts on the embedded speech, and factories of somebody else's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapters import catalog
from engine.errors import SettingsError
from engine.ports import Agent, Phrases
from engine.settings import AgentSettings, Settings

if TYPE_CHECKING:
    from adapters.models.script import Script
    from adapters.speech.embedded import EmbeddedSpeech


async def load_speech(settings: Settings) -> EmbeddedSpeech:
    """The embedded speech. Raises SettingsError when its packages are not installed."""
    from adapters.speech.embedded import EmbeddedSpeech  # noqa: PLC0415 - numpy and onnxruntime are an extra

    return await EmbeddedSpeech.load(worker_threads=settings.speech.worker_threads)


def check_agents(settings: Settings) -> list[tuple[str, str]]:
    """Agents that cannot be made, and why: their scripts are read and their factories called, as at a start."""
    wrong: list[tuple[str, str]] = []
    for name, agent in settings.agents.items():
        try:
            if agent.factory:
                agent_from_factory(name, agent)
            else:
                script_of(name, settings)
        except SettingsError as exc:
            wrong.append((name, str(exc)))
    return wrong


def script_of(name: str, settings: Settings) -> Script:
    """Raises SettingsError naming the agent whose script cannot be used."""
    try:
        script = catalog.agent_script(settings.agents[name].script)
    except SettingsError as exc:
        raise SettingsError(f"agents.{name}.script: {exc}") from None
    for intent in script.intents.values():
        if intent.hand_over and intent.hand_over not in settings.agents:
            raise SettingsError(
                f"agents.{name}.script: the intent {intent.name!r} hands over to {intent.hand_over!r}, and there is no "
                f"such agent; there are: {', '.join(settings.agents)}"
            )
    return script


def agent_from_factory(name: str, settings: AgentSettings) -> Agent:
    """Raises SettingsError whatever goes wrong in the factory, or when what it makes is no agent."""
    where = f"agents.{name}.factory: {settings.factory!r}"
    try:
        agent = catalog.agent_from_factory(name, settings.factory, settings.options)
    except SettingsError:
        raise
    except Exception as exc:  # the edge to somebody else's code
        raise SettingsError(f"{where} failed ({type(exc).__name__}: {exc})") from exc
    wanted = [*Agent.__annotations__, *(member for member in vars(Agent) if not member.startswith("_"))]
    missing = [member for member in wanted if not hasattr(agent, member)]
    if missing:
        raise SettingsError(f"{where}: expected an agent, got {type(agent).__name__} without {', '.join(missing)}")
    if not isinstance(agent.phrases, Phrases):
        raise SettingsError(f"{where}: expected Phrases in its phrases, got {type(agent.phrases).__name__}")
    return agent
