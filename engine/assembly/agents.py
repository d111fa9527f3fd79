"""The agents of the settings: vendors put together, scripts on the embedded speech, factories of somebody else's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from adapters import catalog
from adapters.catalog import Role
from adapters.models.recollecting import recollect_by_model
from adapters.scripted.vendor import ScriptVendor
from adapters.speech.embedded.packages import OF_VOICE_ACTIVITY, missing_packages
from engine.assembly.composed import ComposedAgent, Crew, Recollect
from engine.assembly.phrasebook import KeptVoice, Phrasebook
from engine.assembly.tools import Tools
from engine.assembly.vendors import Vendors
from engine.dialogue.recollection import recollect
from engine.errors import SettingsError
from engine.events import Message, Recollection, SessionInfo
from engine.observe.metrics import Metrics
from engine.observe.timeline import Timeline
from engine.ports import Agent, Mode, ModelVendor, Phrases, SynthesizerVendor, TranscriberVendor
from engine.runtime.book import Book
from engine.runtime.network import Network
from engine.runtime.phrases import PhraseCache
from engine.settings import AgentSettings, Settings
from engine.settings.vendors import EMBEDDED, SCRIPT, used_vendors
from engine.vendors.around import Vendoring
from engine.vendors.phrases import CachedVendor, Keeping

if TYPE_CHECKING:
    from adapters.scripted.script import Script
    from adapters.speech.embedded.speech import EmbeddedSpeech
    from adapters.speech.embedded.voice_activity import VoiceActivity

GREETING = "Hello. How can I help you?"


async def load_speech(settings: Settings, cache: PhraseCache | None = None) -> EmbeddedSpeech:
    """The embedded speech, with its phrases in this cache. Raises SettingsError when its packages are not installed."""
    from adapters.speech.embedded.speech import EmbeddedSpeech  # noqa: PLC0415 - numpy and onnxruntime are an extra

    return await EmbeddedSpeech.load(worker_threads=settings.speech.worker_threads, cache=cache)


async def load_activity(settings: Settings) -> VoiceActivity | None:
    """The embedded voice activity alone, if a recogniser of the settings is to be told by it when the caller speaks;
    None where nobody wants it, or its packages are not installed."""
    wanted = [table for table in used_vendors(settings) if table.kind in catalog.SEGMENTED]
    if all(table.options.get("by_loudness") for table in wanted) or missing_packages(OF_VOICE_ACTIVITY):
        return None
    from adapters.speech.embedded.voice_activity import SpeechModel, VoiceActivity  # noqa: PLC0415 - an extra

    return VoiceActivity(await trio.to_thread.run_sync(SpeechModel))


def needs_speech(settings: Settings) -> bool:
    """Whether an agent hears or speaks by the embedded speech."""
    return any(
        EMBEDDED in (*agent.transcriber, *agent.synthesizer)
        for agent in settings.agents.values()
        if not agent.factory and _mode_of(agent) is Mode.PIPELINE
    )


@dataclass(frozen=True, slots=True)
class Workshop:
    """What all agents of the process are made with."""

    settings: Settings
    vendors: Vendors
    around: Vendoring
    metrics: Metrics
    tools: Tools
    speech: EmbeddedSpeech | None
    """None: nobody needs it."""
    cache: PhraseCache
    aside: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(1))
    """A thread for what may take its time."""
    """Of all voices."""

    def agent(self, name: str) -> ComposedAgent:
        """Raises SettingsError naming the setting at fault."""
        settings = self.settings.agents[name]
        mode, phrases = _mode_of(settings), phrases_of(name, self.settings)
        voices = [self._voice(name, vendor) for vendor in settings.synthesizer] if mode is Mode.PIPELINE else []
        crew = self._crew(name, settings, mode, voices)
        return ComposedAgent(
            name,
            crew,
            phrases,
            phrasebook=self._phrasebook(name, voices),
            around=self.around,
            toolbox=self.tools.toolbox(name),
            pipeline=_pipeline_of(settings, mode),
            mode=mode,
            instructions=instructions_of(name, settings),
            recollect=self._recollect(settings, crew),
        )

    def _crew(self, name: str, settings: AgentSettings, mode: Mode, voices: Sequence[SynthesizerVendor]) -> Crew:
        has_ears = mode is Mode.PIPELINE
        return Crew(
            [self._ear(name, vendor) for vendor in settings.transcriber] if has_ears else (),
            voices,
            [self._mind(name, vendor) for vendor in settings.model],
            [self.vendors.vendor(name, Role.REALTIME, vendor) for vendor in settings.realtime],
            is_embedded=_pipeline_of(settings, mode) == EMBEDDED,
        )

    def _ear(self, agent: str, name: str) -> TranscriberVendor:
        if name == EMBEDDED:
            from adapters.speech.embedded.speech import EmbeddedTranscriberVendor  # noqa: PLC0415 - an extra

            assert self.speech is not None  # noqa: S101 - see needs_speech
            return EmbeddedTranscriberVendor(self.speech)
        vendor: TranscriberVendor = self.vendors.vendor(agent, Role.TRANSCRIBER, name)
        return vendor

    def _voice(self, agent: str, name: str) -> KeptVoice:
        if name == EMBEDDED:
            from adapters.speech.embedded.speech import EmbeddedSynthesizerVendor  # noqa: PLC0415 - an extra

            assert self.speech is not None  # noqa: S101 - see needs_speech
            return EmbeddedSynthesizerVendor(self.speech)
        # Two tables of one vendor may be two voices.
        voice = repr(self.settings.vendors.get(name, {}))
        vendor: SynthesizerVendor = self.vendors.vendor(agent, Role.SYNTHESIZER, name)
        return CachedVendor(vendor, Keeping(self.cache, name, voice))

    def _mind(self, agent: str, name: str) -> ModelVendor:
        if name == SCRIPT:
            return ScriptVendor(script_of(agent, self.settings))
        vendor: ModelVendor = self.vendors.vendor(agent, Role.MODEL, name)
        return vendor

    def _phrasebook(self, agent: str, voices: Sequence[KeptVoice]) -> Phrasebook:
        """Who makes the phrases ready: the agent's own voices, and the embedded one where it is loaded anyway, which is
        better than silence."""
        if self.speech is not None and EMBEDDED not in self.settings.agents[agent].synthesizer:
            voices = [*voices, self._voice(agent, EMBEDDED)]
        book = Book(self.metrics, Timeline(f"phrases of {agent}"))
        return Phrasebook(agent, voices, self.cache, book)

    def _recollect(self, settings: AgentSettings, crew: Crew) -> Recollect:
        if settings.model[0] == SCRIPT:
            return self._recollect_by_rule

        async def by_model(messages: Sequence[Message], before: Recollection, session: SessionInfo) -> Recollection:
            return await recollect_by_model(crew.models[0], messages, before, session)

        return by_model

    async def _recollect_by_rule(
        self, messages: Sequence[Message], before: Recollection, _session: SessionInfo
    ) -> Recollection:
        # Some milliseconds of computing for a long conversation: not on the event loop, and not in many threads, among
        # which the loop would wait for its turn.
        return await trio.to_thread.run_sync(recollect, messages, before, limiter=self.aside)


def check_agents(settings: Settings) -> list[tuple[str, str]]:
    """Agents that cannot be made, and why: their scripts are read, their vendors made and their factories called, as at
    a start."""
    wrong: list[tuple[str, str]] = []
    vendors = Vendors(settings, Network())
    for name, agent in settings.agents.items():
        try:
            if agent.factory:
                agent_from_factory(name, agent)
            else:
                check_composed(name, settings, vendors)
        except SettingsError as exc:
            wrong.append((name, str(exc)))
    return wrong


def check_composed(name: str, settings: Settings, vendors: Vendors) -> None:
    """All that can be wrong with an agent of vendors, and is known without the embedded speech, whose loading takes
    seconds. Raises SettingsError."""
    agent = settings.agents[name]
    if SCRIPT in agent.model:
        script_of(name, settings)
    phrases_of(name, settings)
    instructions_of(name, agent)
    for role in Role:
        for vendor in getattr(agent, role):
            if vendor not in (EMBEDDED, SCRIPT):
                vendors.vendor(name, role, vendor)


def phrases_of(name: str, settings: Settings) -> Phrases:
    """What the agent says of its own accord. Raises SettingsError naming a phrase that there is not."""
    agent = settings.agents[name]
    phrases = script_of(name, settings).phrases if agent.model == (SCRIPT,) else Phrases(GREETING)
    known = [item.name for item in fields(Phrases)]
    for phrase in agent.phrases:
        if phrase not in known:
            there_are = ", ".join(known)
            raise SettingsError(f"agents.{name}.phrases.{phrase}: there is no such phrase; there are: {there_are}")
    return replace(phrases, **agent.phrases)


def instructions_of(name: str, agent: AgentSettings) -> str:
    """Raises SettingsError for a file that cannot be read."""
    if not agent.instructions_file:
        return agent.instructions
    if agent.instructions:
        raise SettingsError(f"agents.{name}.instructions_file: either this or instructions, not both")
    try:
        return Path(agent.instructions_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(
            f"agents.{name}.instructions_file: {agent.instructions_file!r} cannot be read ({type(exc).__name__})"
        ) from None


def _mode_of(agent: AgentSettings) -> Mode:
    if agent.realtime:
        return Mode.REALTIME
    return Mode.RELAY if agent.relay else Mode.PIPELINE


def _pipeline_of(agent: AgentSettings, mode: Mode) -> str:
    """The metric label."""
    if mode is not Mode.PIPELINE:
        return str(mode)
    is_embedded = (agent.transcriber, agent.synthesizer, agent.model) == ((EMBEDDED,), (EMBEDDED,), (SCRIPT,))
    return EMBEDDED if is_embedded else "cascade"


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
