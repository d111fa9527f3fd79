"""The supervisor: admission, one edge per call, and the drain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import structlog
import trio

from engine.calls.call import Call, Surroundings
from engine.calls.parts import Line, Words
from engine.calls.registry import ASKED_S, Registry
from engine.calls.slots import NotAdmitted, Over, Refusal, Slot
from engine.errors import CallEnd, Cause, OffhookError
from engine.events import CallInfo, StreamStarted
from engine.observe.labels import VendorKind
from engine.ports import Agent, CallStatus, Codec, IncomingCall, Mode, Provider, Relay, TextCodec
from engine.runtime.mailbox import MailboxClosed, MailboxFull
from engine.runtime.rates import RateLimiter, number_key
from engine.runtime.sockets import Socket
from engine.settings import Settings

log = structlog.get_logger()

REPLACE_S = 3.0
"""For a live call to be closed completely when its id arrives again."""
CUT_S = 3.0
"""For calls that did not end with their goodbye."""
STALLED_LOOP_S = 2.0
"""An event loop this late takes no new calls."""


class Outbound(Protocol):
    """Who makes calls, as the supervisor knows it."""

    def recognise(self, provider: str, call: IncomingCall, token: str) -> IncomingCall | None:
        """A call that was answered, with its held place; None if we have not made it, or it is over."""
        ...

    def on_status(self, provider: str, status: CallStatus, token: str) -> None: ...

    def joined(self, slot: Slot) -> None:
        """It has its place; nothing of it is open yet. Never raises."""
        ...

    def left(self, slot: Slot) -> None: ...


class Supervisor:
    """What the web side hands calls to. ``registry.run`` must be running."""

    def __init__(
        self, registry: Registry, agents: Mapping[str, Agent], settings: Settings, around: Surroundings
    ) -> None:
        self.registry = registry
        self._agents = agents
        self._settings = settings
        self._around = around
        self._metrics = around.metrics
        self._limiter = RateLimiter(settings.limits.calls_per_minute_per_caller)
        self.outbound: Outbound | None = None
        """Whoever makes calls, if somebody does."""
        self.is_started = False
        """Set once everything that calls need is up."""
        self.loop_lag_s = 0.0
        """Kept up to date by whoever watches the loop."""
        self.lacks_store_keys = False
        """The store cannot be read or written for want of a key. Kept up to date by whoever looks after the store."""
        self.store_is_down = False
        """What is said goes to the journal. Kept up to date likewise."""
        self.vendors_down: Sequence[tuple[str, VendorKind]] = ()
        """Vendors that are not asked for now, having failed too often. Kept up to date by whoever has the breakers."""

    # --- the switchboard of engine.web ----------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        return self.registry.capacity

    @property
    def draining(self) -> bool:
        return self.registry.refusing == "draining"

    @property
    def ready(self) -> tuple[bool, str]:
        """Whether new calls are accepted, and if not, why: ``starting``, ``draining``, ``full``, ``loop_lag`` or
        ``store_keys``."""
        why = self._why_not_ready()
        self._metrics.ready.set(0 if why else 1)
        return not why, why

    @property
    def lacks(self) -> list[str]:
        """What calls go on without: ``store_down``, ``stt:deepgram`` for a vendor in its role."""
        store = ["store_down"] if self.store_is_down else []
        return [*store, *(f"{kind}:{vendor}" for vendor, kind in self.vendors_down)]

    def live_calls(self) -> list[str]:
        return self.registry.live_calls()

    async def admit(self, provider: str, call: IncomingCall, replay_key: str = "") -> str | Refusal | Over:
        """A media token, or why the call is refused. Nothing is opened by a refusal."""
        answer = await self._admit(provider, call, replay_key)
        if isinstance(answer, Refusal):
            self._metrics.calls_rejected_total.labels(provider=provider, reason=answer.reason).inc()
            log.info("call_rejected", provider=provider, call_id=call.call_id, reason=answer.reason)
        return answer

    async def serve(self, provider: Provider, socket: Socket) -> None:
        """The whole life of one media socket; it is closed when this returns."""
        await self._serve(provider, provider.new_codec(), socket)

    async def serve_relay(self, provider: Provider, relay: Relay, socket: Socket) -> None:
        """The same of a socket over which the provider sends what it has heard, and says what we send."""
        await self._serve(provider, Words(relay.new_codec()), socket)

    def wants_relay(self, call: IncomingCall) -> bool:
        """Who answers leaves it to the provider to hear and to speak."""
        return self._agents[self._agent_of(call)].mode is Mode.RELAY

    def preface(self, call: IncomingCall) -> str:
        """The announcement of a recording, where who answers has no voice for fixed words."""
        agent, recordings = self._agents[self._agent_of(call)], self._around.recordings
        if recordings is None or agent.mode is not Mode.REALTIME or not recordings.are_wanted(agent.name):
            return ""
        return recordings.announcement

    def recognise(self, provider: str, call: IncomingCall, token: str) -> IncomingCall | None:
        """The call that we made under this token, with its place; None if there is none."""
        known = self.outbound.recognise(provider, call, token) if self.outbound else None
        if known is None:
            self._metrics.calls_rejected_total.labels(provider=provider, reason="unknown_dial").inc()
            log.warning("dial_unknown", provider=provider, call_id=call.call_id)
        return known

    def whisper(self, provider: str, call_id: str) -> str:
        """What somebody is told who is about to be joined with this call's caller."""
        return self.registry.whisper(provider, call_id)

    def call_has_news(self, provider: str, status: CallStatus, token: str) -> None:
        """The provider tells of a call; with a token, of one that we make."""
        if self.outbound is not None:
            self.outbound.on_status(provider, status, token)
        if status.is_over:
            self.call_is_over(provider, status.call_id, is_ours=bool(token))

    async def _serve(self, provider: Provider, codec: Codec | Words, socket: Socket) -> None:
        start = await self._start_of(provider, codec.codec if isinstance(codec, Words) else codec, socket)
        if start is None:
            return
        try:
            async with self.registry.admitted(provider.name, start.call_id, start.token) as slot:
                await self._replace(slot)
                await self._run_call(self._line(provider, codec, socket, start, slot), slot)
        except NotAdmitted as refusal:
            self._metrics.handshake_failures_total.labels(why="bad_token").inc()
            self._reject(provider, "bad_start")
            log.warning("media_refused", provider=provider.name, call_id=start.call_id, why=refusal.why)
            await socket.aclose(1008, "not admitted")
        except (MailboxClosed, MailboxFull, trio.TooSlowError):
            self._reject(provider, "not_ready")
            await socket.aclose(1013, "try again later")

    async def _run_call(self, line: Line, slot: Slot) -> None:
        slot.answers = lambda: line.agent.name
        call = Call(line, slot, self._around)
        if self.outbound is None or not slot.incoming.dial:
            await call.run()
            return
        self.outbound.joined(slot)
        try:
            await call.run()
        finally:
            self.outbound.left(slot)

    def call_is_over(self, provider: str, call_id: str, *, is_ours: bool = False) -> None:
        """The provider says so, by webhook: before, with or after the end of its media. Unknown ids do no harm; of a
        call that we made the media may never have come."""
        slot = self.registry.find(provider, call_id)
        if slot is not None:
            slot.end_it(CallEnd(Cause.CALLER_HANGUP, "the provider says that the call is over"))
        elif not is_ours and not self.registry.has_ended(provider, call_id):
            log.warning("call_not_live", provider=provider, call_id=call_id)
        self.registry.withdraw(provider, call_id)

    # --- drain ----------------------------------------------------------------------------------------------

    def refuse_new(self) -> None:
        """From now on every new call is refused, audibly."""
        self.registry.refusing = "draining"
        self._metrics.draining.set(1)
        self._metrics.ready.set(0)

    async def drain(self, within_s: float) -> int:
        """Refuse new calls, let live ones finish, then say goodbye to the rest. Returns how many were cut short."""
        self.refuse_new()
        log.info("draining", live=len(self.registry.live_calls()), within_s=within_s)
        with trio.move_on_after(within_s):
            await self._until_promises_are_kept()
            await self.registry.wait_empty()
        late = self.registry.live_slots()
        for slot in late:
            slot.drain_it()
        with trio.move_on_after(self._settings.limits.goodbye_s + self._settings.limits.close_s):
            await self.registry.wait_empty()
        self.cut()
        with trio.move_on_after(CUT_S):
            await self.registry.wait_empty()
        with trio.move_on_after(ASKED_S):
            while self.registry.will_be_asked:  # noqa: ASYNC110 - it ends by the clock, too, which sets no event
                await trio.sleep(0.05)
        log.info("drained", cut_short=len(late), left=len(self.registry.live_calls()))
        return len(late)

    def cut(self) -> None:
        """End every call now, as politely as can be done at once."""
        for slot in self.registry.live_slots():
            slot.end_it(CallEnd(Cause.DRAIN, "cut off"))

    async def _until_promises_are_kept(self) -> None:
        """A caller whose webhook was answered is let in; the provider connects within a second or two."""
        with trio.move_on_after(self._settings.limits.start_s):
            while self.registry.has_promises:  # noqa: ASYNC110 - promises also end by the clock, which sets no event
                await trio.sleep(0.1)

    # --- admission ------------------------------------------------------------------------------------------

    def _why_not_ready(self) -> str:
        if self.draining:
            return "draining"
        if not self.is_started:
            return "starting"
        if self.loop_lag_s > STALLED_LOOP_S:
            return "loop_lag"
        if self.lacks_store_keys:
            return "store_keys"
        return "full" if self.registry.is_full else ""

    async def _admit(self, provider: str, call: IncomingCall, replay_key: str) -> str | Refusal | Over:
        if not self.is_started and not self.draining:
            return Refusal("not_ready")
        if not (call.dial or call.is_back) and not self._limiter.allows(number_key(call.caller)):
            return Refusal("rate_limit")
        try:
            return await self.registry.reserve(provider, call, replay_key)
        except (MailboxClosed, MailboxFull, trio.TooSlowError, ArithmeticError, LookupError):
            return Refusal("not_ready")

    async def _start_of(self, provider: Provider, codec: Codec | TextCodec, socket: Socket) -> StreamStarted | None:
        """The start message; None if the socket was closed instead."""
        try:
            with trio.fail_after(self._settings.limits.start_s):
                while (start := codec.decode_start(await socket.receive())) is None:
                    pass
            return start
        except trio.TooSlowError:
            why, detail = "timeout", "no start message in time"
        except trio.EndOfChannel:
            why, detail = "closed", ""
        except OffhookError as exc:
            why, detail = "protocol", str(exc)
        self._metrics.handshake_failures_total.labels(why=why).inc()
        self._reject(provider, "bad_start")
        log.warning("media_not_started", provider=provider.name, why=why, detail=detail, peer=socket.peer)
        await socket.aclose(1008, detail)
        return None

    def _reject(self, provider: Provider, reason: str) -> None:
        self._metrics.calls_rejected_total.labels(provider=provider.name, reason=reason).inc()

    async def _replace(self, slot: Slot) -> None:
        """The same call id lives already: that call is closed completely before this one opens anything (B2)."""
        predecessor = slot.predecessor
        if predecessor is None:
            return
        log.warning("duplicate_call", provider=slot.provider, call_id=slot.call_id)
        predecessor.end_it(CallEnd(Cause.DUPLICATE))
        with trio.move_on_after(REPLACE_S) as waiting:
            await predecessor.gone.wait()
        slot.predecessor, slot.goes_on = None, predecessor.left
        if waiting.cancelled_caught:
            slot.end = CallEnd(Cause.DUPLICATE, "the older call did not close")
            raise NotAdmitted("the older call with this id did not close in time")

    def _line(self, provider: Provider, codec: Codec | Words, socket: Socket, start: StreamStarted, slot: Slot) -> Line:
        goes_on = slot.goes_on
        agent = self._agents[goes_on.agent if goes_on else self._agent_of(slot.incoming)]
        info = CallInfo(
            provider=provider.name,
            call_id=start.call_id,
            stream_id=goes_on.stream_id if goes_on else start.stream_id,
            format=start.format,
            agent=agent.name,
            caller=slot.incoming.caller,
            dialled=slot.incoming.dialled,
            parameters={**slot.incoming.parameters, **start.parameters},
            attestation=slot.incoming.attestation,
            is_outbound=bool(slot.incoming.dial),
        )
        settings = self._settings.agents[agent.name]
        rescue = settings.transfers.get(settings.failure_transfer, "")
        if goes_on is not None:
            log.info("call_returned", provider=provider.name, call_id=start.call_id, times=goes_on.times)
        unfinished = goes_on.unfinished if goes_on else None
        began_at_s = goes_on.began_at_s if goes_on else slot.began_at_s
        return Line(info, provider, agent, socket, codec, began_at_s, self._agents, unfinished, rescue)

    def _agent_of(self, call: IncomingCall) -> str:
        return call.agent if call.agent in self._agents else self._settings.agent_for(call.dialled)
