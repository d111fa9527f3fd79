"""What a call opens besides its socket and its session, by how its agent hears, thinks and speaks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from engine.calls.control import LiveControl
from engine.calls.meters import CallMeters
from engine.calls.returning import Resumption
from engine.calls.talks.duplex import DuplexTalk
from engine.calls.talks.mind import Errands
from engine.calls.talks.pulse import Conversing
from engine.calls.talks.relay import RelayControl, RelayTalk
from engine.calls.talks.talk import Talk
from engine.calls.text_link import TextLink
from engine.errors import ModelFailed, Why
from engine.events import CallInfo, Context, ProviderEvent, RelayEvent
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
        transfer: Callable[[str], Awaitable[bool]],
    ) -> None:
        self._line = line
        self._limits = limits
        self._meters = meters
        self._timeline = timeline
        self._ledger = ledger
        self._transfer = transfer
        self._live = control
        self._control: CallControl = control
        self._minds: dict[str, LanguageModel] = {}
        """By agent: the models of all who have answered so far; handed back, a session finds its own again."""

    async def open(self, holdings: Holdings, link: AnyLink, session: CallSession) -> Conversing:
        """A conversation that can begin. What hears and speaks is opened by the conversation itself, while the
        caller is greeted. Raises VendorError."""
        if isinstance(link, TextLink):
            return await self._relayed(holdings, link, session)
        if self._line.agent.mode is Mode.REALTIME:
            return self._duplex(holdings, link, session)
        return self._pipeline(holdings, link, session)

    def _pipeline(self, holdings: Holdings, link: ProviderLink, session: CallSession) -> Talk:
        agent, info, ledger = self._line.agent, self._line.info, self._ledger

        async def open_parts() -> tuple[Transcriber, Synthesizer, LanguageModel]:
            transcriber, synthesizer, model = await holdings.open_all(
                [
                    self._own(agent, VendorKind.STT, agent.transcriber_vendor, agent.open_transcriber(info, ledger)),
                    self._own(agent, VendorKind.TTS, agent.synthesizer_vendor, agent.open_synthesizer(info, ledger)),
                    self._mind(agent, session),
                ]
            )
            self._minds[agent.name] = model
            return transcriber, synthesizer, model

        return Talk(
            info,
            link,
            open_parts,
            agent,
            self._limits,
            self._meters,
            self._timeline,
            session,
            self._errands(holdings, session),
            self._line.goes_on,
        )

    async def _relayed(self, holdings: Holdings, link: TextLink, session: CallSession) -> RelayTalk:
        agent = self._line.agent
        self._control = RelayControl(self._live, link)
        model = self._minds[agent.name] = await holdings.open(self._mind(agent, session))
        return RelayTalk(
            self._line.info,
            link,
            model,
            agent,
            self._limits,
            self._meters,
            self._timeline,
            session,
            self._errands(holdings, session),
            self._line.goes_on,
        )

    def _duplex(self, holdings: Holdings, link: ProviderLink, session: CallSession) -> DuplexTalk:
        agent, info = self._line.agent, self._line.info
        if not isinstance(agent, RealtimeAgent):
            raise ModelFailed(agent.model_vendor, "not an agent of the mode realtime", why=Why.BAD_REQUEST)

        async def open_model(context: Callable[[], Context]) -> RealtimeModel:
            opening = agent.open_realtime(info, session.info(agent.name), context, self._ledger, self._control)
            owned: AbstractAsyncContextManager[RealtimeModel] = self._own(
                agent, VendorKind.REALTIME, agent.model_vendor, opening
            )
            return await holdings.open(owned)

        return DuplexTalk(
            info,
            link,
            open_model,
            agent.use_tools(session.info(agent.name), self._control),
            agent,
            self._limits,
            self._meters,
            self._timeline,
            session,
            self._errands(holdings, session),
            self._line.goes_on,
        )

    def _errands(self, holdings: Holdings, session: CallSession) -> Errands:
        async def hand_over(name: str) -> tuple[Agent, LanguageModel]:
            return await self._hand_over(holdings, session, name)

        return Errands(hand_over, self._transfer, self._live.thinking)

    async def _hand_over(self, holdings: Holdings, session: CallSession, name: str) -> tuple[Agent, LanguageModel]:
        """Another agent's mind for the same voice. Raises ModelFailed."""
        agent = self._line.agents.get(name)
        if agent is None:
            raise ModelFailed(
                self._line.agent.model_vendor, "handed over to an agent that there is not", why=Why.BAD_REQUEST
            )
        if name not in self._minds:
            self._minds[name] = await holdings.open(self._mind(agent, session))
        log.info("handed_over", call_id=self._line.info.call_id, agent=name)
        return agent, self._minds[name]

    def _mind(self, agent: Agent, session: CallSession) -> Any:
        opening = agent.open_model(session.info(agent.name), self._ledger, self._control)
        return self._own(agent, VendorKind.LLM, agent.model_vendor, opening)

    def _own(self, agent: Agent, role: VendorKind, vendor: str, opening: AbstractAsyncContextManager[Part]) -> Any:
        """A vendor's part, counted, and in the ledger once it is open, unless it sees to that itself."""
        if counts_itself(agent):
            return opening
        counted = self._meters.opening(role, vendor, opening, within_s=self._limits.open_s)
        log.debug("vendor_opens", call_id=self._line.info.call_id, kind=str(role), vendor=vendor)
        return self._ledger.own(_RESOURCES[role], vendor, counted, is_closed=lambda part: part.is_closed)
