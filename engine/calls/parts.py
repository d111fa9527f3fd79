"""What a call opens besides its socket and its session, by how its agent hears, thinks and speaks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import structlog
import trio

from engine.calls.control import LiveControl
from engine.calls.meters import CallMeters
from engine.calls.returning import Resumption
from engine.calls.talks.conversing import Conversing
from engine.calls.talks.duplex import DuplexTalk
from engine.calls.talks.errands import Errands, Minded
from engine.calls.talks.pulse import Ground, Pulse
from engine.calls.talks.relay import RelayTalk
from engine.calls.talks.relay_control import RelayControl
from engine.calls.talks.talk import Talk
from engine.calls.talks.voice import Voice
from engine.calls.text_link import TextLink
from engine.dialogue.conversation import MAX_HANDOVERS
from engine.errors import ModelFailed, Why
from engine.events import CallInfo, Context, ProviderEvent, RelayEvent, Transfer
from engine.observe.labels import VendorKind
from engine.observe.timeline import Timeline
from engine.ports import (
    Agent,
    CallControl,
    Codec,
    LanguageModel,
    Mode,
    Provider,
    ProviderLink,
    RealtimeAgent,
    RealtimeModel,
    ResourceKind,
    Synthesizer,
    TextCodec,
    Transcriber,
    counts_itself,
)
from engine.runtime.holdings import Holdings
from engine.runtime.ledger import Ledger
from engine.runtime.sockets import Socket
from engine.sessions.call_session import CallSession
from engine.settings import Limits

log = structlog.get_logger()

_RESOURCES = {
    VendorKind.STT: ResourceKind.SPEECH_CLIENT,
    VendorKind.TTS: ResourceKind.TTS_CLIENT,
    VendorKind.LLM: ResourceKind.LLM_CONNECTION,
    VendorKind.REALTIME: ResourceKind.LLM_CONNECTION,
}


AnyLink = ProviderLink | TextLink
AnyEvent = ProviderEvent | RelayEvent


@dataclass(frozen=True, slots=True)
class Words:
    """The wire of a socket that carries text: its provider hears and speaks itself."""

    codec: TextCodec


@dataclass(frozen=True, slots=True)
class Line:
    """An admitted media socket: who calls, over what, and who answers."""

    info: CallInfo
    provider: Provider
    agent: Agent
    socket: Socket
    codec: Codec | Words
    began_at_s: float
    """When the call did, over all lines that it has had."""
    agents: Mapping[str, Agent] = field(default_factory=dict)
    """Whom the call may be handed over to, by name."""
    goes_on: Resumption | None = None
    """The call has lost its line before: this is what was left of it."""
    rescue: str = ""
    """Who takes the call when it would end with an apology: a number or a SIP address."""


class Part(Protocol):
    """What the vendors' parts of a call have in common."""

    @property
    def is_closed(self) -> bool: ...


P = TypeVar("P", bound=Part)


class Parts:
    """Of one call; all of them are entered in its ledger, and held by ``holdings``."""

    def __init__(  # noqa: PLR0917 - of one call, made in one place
        self,
        line: Line,
        limits: Limits,
        meters: CallMeters,
        timeline: Timeline,
        ledger: Ledger,
        control: LiveControl,
        transfer: Callable[[Transfer], Awaitable[bool]],
    ) -> None:
        self.line = line
        self.limits = limits
        self.ledger = ledger
        self.transfer = transfer
        self.live = control
        self.control: CallControl = control
        self._meters = meters
        self._timeline = timeline

    async def open(self, holdings: Holdings, link: AnyLink, session: CallSession) -> Conversing:
        """A conversation that can begin. What hears and speaks is opened by the conversation itself, while the
        caller is greeted. Raises VendorError."""
        line = self.line
        pulse = Pulse(line.began_at_s)
        ground = Ground(line.info, self.limits, self._meters, self._timeline, session, pulse, line.goes_on)
        if isinstance(link, TextLink):
            self.control = RelayControl(self.live, link)
            return await _Cast(self, holdings, ground).relayed(link)
        voice = Voice(link, line.agent, self._meters)
        return _Stage(self, holdings, ground, link, voice).talk_of(line.agent)

    def mind(self, agent: Agent, session: CallSession) -> AbstractAsyncContextManager[LanguageModel]:
        opening = agent.open_model(session.info(agent.name), self.ledger, self.control)
        return self.own(agent, VendorKind.LLM, agent.model_vendor, opening)

    def agent(self, name: str) -> Agent:
        """Raises ModelFailed if there is none of this name."""
        agent = self.line.agents.get(name)
        if agent is None:
            vendor = self.line.agent.model_vendor
            raise ModelFailed(vendor, "handed over to an agent that there is not", why=Why.BAD_REQUEST)
        return agent

    def own(
        self, agent: Agent, role: VendorKind, vendor: str, opening: AbstractAsyncContextManager[P]
    ) -> AbstractAsyncContextManager[P]:
        """A vendor's part, counted, and in the ledger once it is open, unless it sees to that itself."""
        if counts_itself(agent):
            return opening
        counted = self._meters.opening(role, vendor, opening, within_s=self.limits.open_s)
        log.debug("vendor_opens", call_id=self.line.info.call_id, kind=str(role), vendor=vendor)
        return self.ledger.own(_RESOURCES[role], vendor, counted, is_closed=lambda part: part.is_closed)


class _Cast:
    """What was opened for one talk: let go of together, when another talk takes the line."""

    def __init__(self, parts: Parts, holdings: Holdings, ground: Ground) -> None:
        self._parts = parts
        self._holdings = holdings
        self._ground = ground
        self._opened: list[Part] = []
        self._minds: dict[str, LanguageModel] = {}
        """By agent: the models of all who have answered in this talk; handed back, a session finds its own again."""
        self.errands = Errands(parts.transfer, self._hand_over, self._let_go, parts.live.thinking)
        self.succeed: Callable[[Agent, str], Awaitable[Conversing | None]] = _nobody
        """The talk of an agent, prepared, where a mind is not enough."""

    async def open_all(self, *openings: AbstractAsyncContextManager[Any]) -> list[Any]:
        opened = await self._holdings.open_all(openings)
        self._opened += opened
        return opened

    async def mind(self, agent: Agent, *besides: AbstractAsyncContextManager[Any]) -> tuple[Any, ...]:
        """What is opened besides, then the model."""
        *others, model = await self.open_all(*besides, self._parts.mind(agent, self._ground.session))
        self._minds[agent.name] = model
        return (*others, model)

    async def relayed(self, link: TextLink) -> RelayTalk:
        agent = self._parts.line.agent
        (model,) = await self.mind(agent)
        return RelayTalk(self._ground, link, agent, model, self.errands)

    async def _hand_over(self, name: str, on_the_line: str) -> Minded | Conversing:
        agent = self._parts.agent(name)
        if self._ground.pulse.handovers >= MAX_HANDOVERS:
            raise ModelFailed(agent.model_vendor, "handed over too often")
        heir = await self.succeed(agent, on_the_line)
        if heir is None and name not in self._minds:
            await self.mind(agent)
        log.info("handed_over", call_id=self._ground.call.call_id, agent=name)
        return heir or Minded(agent, self._minds[name])

    def _let_go(self) -> None:
        for part in self._opened:
            self._holdings.let_go_of(part)


async def _nobody(_agent: Agent, _on_the_line: str) -> Conversing | None:
    await trio.lowlevel.checkpoint()
    return None


class _Stage:
    """The talks on a line of audio, one after the other."""

    def __init__(self, parts: Parts, holdings: Holdings, ground: Ground, link: ProviderLink, voice: Voice) -> None:
        self._parts = parts
        self._holdings = holdings
        self._ground = ground
        self._link = link
        self._voice = voice

    def talk_of(self, agent: Agent) -> Conversing:
        """Raises ModelFailed."""
        return self._duplex(agent) if agent.mode is Mode.REALTIME else self._pipeline(agent)

    async def _prepared(self, agent: Agent, on_the_line: str) -> Conversing:
        if agent.mode is Mode.RELAY:
            raise ModelFailed(agent.model_vendor, "its agent can neither hear nor speak by itself", why=Why.BAD_REQUEST)
        heir = self.talk_of(agent)
        await heir.prepare(on_the_line)
        return heir

    def _pipeline(self, agent: Agent) -> Talk:
        parts, info = self._parts, self._ground.call
        cast = _Cast(parts, self._holdings, self._ground)

        async def open_parts() -> tuple[Transcriber, Synthesizer, LanguageModel]:
            ear = agent.open_transcriber(info, parts.ledger)
            voice = agent.open_synthesizer(info, parts.ledger)
            transcriber, synthesizer, model = await cast.mind(
                agent,
                parts.own(agent, VendorKind.STT, agent.transcriber_vendor, ear),
                parts.own(agent, VendorKind.TTS, agent.synthesizer_vendor, voice),
            )
            return transcriber, synthesizer, model

        async def succeed(next_agent: Agent, on_the_line: str) -> Conversing | None:
            """Whoever has a mind of the same kind goes on with this ear and this voice."""
            return await self._prepared(next_agent, on_the_line) if next_agent.mode is Mode.REALTIME else None

        cast.succeed = succeed
        return Talk(self._ground, self._link, self._voice, agent, open_parts, cast.errands)

    def _duplex(self, agent: Agent) -> DuplexTalk:
        if not isinstance(agent, RealtimeAgent):
            raise ModelFailed(agent.model_vendor, "not an agent of the mode realtime", why=Why.BAD_REQUEST)
        parts, info = self._parts, self._ground.call
        session = self._ground.session.info(agent.name)
        cast = _Cast(parts, self._holdings, self._ground)
        cast.succeed = self._prepared

        async def open_model(context: Callable[[], Context]) -> RealtimeModel:
            opening = agent.open_realtime(info, session, context, parts.ledger, parts.control)
            (model,) = await cast.open_all(parts.own(agent, VendorKind.REALTIME, agent.model_vendor, opening))
            return model  # type: ignore[no-any-return]  # as it was opened

        tools = agent.use_tools(session, parts.control)
        return DuplexTalk(self._ground, self._link, self._voice, agent, open_model, tools, cast.errands)
