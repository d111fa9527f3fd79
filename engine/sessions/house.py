"""Every session that is in use: found, made, joined, and let go of when nobody needs it."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import structlog
import trio

from engine.errors import StoreDown
from engine.events import CallInfo, Modality
from engine.observe.labels import WebhookEvent
from engine.observe.logs import mask_number
from engine.ports import Agent, IncomingText
from engine.runtime.mailbox import MailboxClosed
from engine.sessions.actor import Session
from engine.sessions.answers import TurnAnswer
from engine.sessions.around import Around
from engine.sessions.call_session import CallSession, lone_session
from engine.settings import Settings
from engine.storage.identity import caller_key, e164, stream_key
from engine.storage.record import Scope, SessionRecord, Stored, new_session_id

log = structlog.get_logger()

SWEEP_S = 5.0
"""How often sessions that nobody uses are looked for."""
MAX_SESSIONS = 20_000
"""In memory at once; beyond it a written turn is refused until some have gone."""
PASSING_S = 600.0
"""Beyond the longest call, how long a session of one call is kept at most."""
OPEN_AGAIN = 3
"""A session may end while somebody is about to use it: so often it is tried again."""


@dataclass(frozen=True, slots=True)
class _Who:
    """Whose session is wanted, and how it begins if it is new."""

    key: str
    scope: Scope
    agent: str
    modality: Modality
    number: str = ""
    keep_s: float = 0.0

    def as_record(self, at: float) -> SessionRecord:
        return SessionRecord(
            new_session_id(),
            self.key,
            self.scope,
            at,
            at,
            self.agent,
            self.modality,
            number=self.number,
            keep_s=self.keep_s,
        )


class Sessions:
    """``run`` it in a task that outlives the calls; all else may be called from any."""

    def __init__(self, around: Around, settings: Settings, agents: Mapping[str, Agent]) -> None:
        self._around = around
        self._settings = settings
        self._agents = agents
        self._all: set[Session] = set()
        self._live: dict[str, Session] = {}
        """By key: whom the next one with this key joins."""
        self._streams: dict[str, Session] = {}
        """Media stream to the session that its call goes on with."""
        self._loading: dict[str, trio.Event] = {}
        self._left_over: deque[str] = deque(maxlen=MAX_SESSIONS)
        """Ids of sessions that ended with their calls while the store was down."""
        self._nursery: trio.Nursery | None = None

    @property
    def agents(self) -> Collection[str]:
        return self._agents.keys()

    async def run(self) -> None:
        """Sessions live in here; until cancelled. Then what they hold is with the writer already."""
        try:
            async with trio.open_nursery() as self._nursery:
                while True:
                    await trio.sleep(SWEEP_S)
                    self._sweep()
                    await self._remove_left_over()
        finally:
            self._nursery = None
            for session in self._all:
                session.unloaded("shutdown")
            self._all.clear()
            self._live.clear()
            self._streams.clear()

    async def settle(self) -> None:
        """Until every session has handed on what it holds. The caller sets the deadline."""
        while not all(session.is_settled for session in self._all):  # noqa: ASYNC110 - of many at once
            await trio.sleep(0.02)

    # --- calls ----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def joined(self, call: CallInfo) -> AsyncIterator[CallSession]:
        """A call's seat at its session. Never fails and never takes longer than ``store.load_s``: what cannot be had in
        that time is not spoken of, and the call begins without it."""
        found = await self._session_of_call(call)
        if found is None:
            lone = lone_session(call, self._around.metrics, now=self._around.now)
            try:
                yield lone
            finally:
                lone.close()
            return
        session, is_new = found
        seat = CallSession(session, call, self._around.showing, self._around.now)
        session.join(seat, is_new=is_new)
        self._streams[call.stream_id] = session
        try:
            yield seat
        finally:
            seat.close()
            session.leave(seat)
            if self._streams.get(call.stream_id) is session:
                del self._streams[call.stream_id]

    async def _session_of_call(self, call: CallInfo) -> tuple[Session, bool] | None:
        number = self.number(call.caller)
        scope = self._scope_of(call.agent)
        if scope is Scope.CALLER and not (number and self._trusts(call)):
            # Whoever calls under a number that nobody vouches for gets a session that is his alone: he neither hears
            # of the number's owner nor adds to what is known of him.
            scope = Scope.CALL
            if number:
                self._around.metrics.untrusted_callers_total.inc()
                log.info("caller_not_trusted", call_id=call.call_id, caller=mask_number(number))
        key = caller_key(number) if scope is Scope.CALLER else stream_key(call.stream_id)
        # Gone with the call, or soon after a process that died in mid call.
        passes = scope is Scope.CALL and not self._settings.sessions.keep_calls
        keep_s = self._settings.limits.max_call_s + PASSING_S if passes else 0.0
        who = _Who(key, scope, call.agent, Modality.VOICE, number, keep_s)
        until_s = trio.current_time() + self._settings.store.load_s
        for _ in range(OPEN_AGAIN):
            try:
                session, is_new = await self._open(who, until_s - trio.current_time(), may_be_blank=True)
            except StoreDown:
                return None
            with trio.move_on_at(until_s), suppress(MailboxClosed):
                await session.catch_up()  # the last call's words may be on their way yet
            if session.is_usable:
                return session, is_new
        return None

    def _trusts(self, call: CallInfo) -> bool:
        if call.is_outbound:
            return True  # we called the number ourselves
        sessions = self._settings.sessions
        lines, dialled = {self.number(line) for line in sessions.trusted_lines}, self.number(call.dialled)
        return call.attestation in sessions.trusted_attestations or (bool(dialled) and dialled in lines)

    # --- texts ----------------------------------------------------------------------------------------------

    async def turn(self, text: str, *, stream_id: str = "default", agent: str = "") -> TurnAnswer:
        """One written turn of a stream (A2); of a live call's, if there is one with this stream.

        Raises StoreDown, Busy, VendorError, trio.TooSlowError.
        """
        live, at = self._streams.get(stream_id), self._around.now()
        if live is not None:
            with suppress(MailboxClosed):  # else the call has ended just now
                return await live.answer(text, Modality.TEXT, agent, at=at)
        name = agent or self._settings.first_agent
        who = _Who(stream_key(stream_id), Scope.CALL, name, Modality.TEXT)
        return await self._answer(who, text, asked=agent)

    async def text(self, provider: str, incoming: IncomingText) -> TurnAnswer:
        """One SMS, on its sender's session. The answer goes to the number itself, so nobody else hears of it. Raises as
        ``turn`` does."""
        name = self._settings.agent_for(incoming.recipient)
        number = self.number(incoming.sender)
        if not number:
            key, scope = f"text:{provider}:{incoming.text_id}", Scope.CALL
        elif self._scope_of(name) is Scope.CALLER:
            key, scope = caller_key(number), Scope.CALLER
        else:
            key, scope = f"texts:{name}:{number}", Scope.CALL
        return await self._answer(_Who(key, scope, name, Modality.SMS, number), incoming.text, line=name)

    async def _answer(self, who: _Who, text: str, *, asked: str = "", line: str = "") -> TurnAnswer:
        at = self._around.now()
        for _ in range(OPEN_AGAIN):
            was_live = who.key in self._live
            session, is_new = await self._open(who, self._settings.store.operation_s, may_be_blank=False)
            if not (was_live or is_new):
                session.reused(who.modality)
            with suppress(MailboxClosed):  # else it ended just now
                return await session.answer(text, who.modality, asked, line, at=at)
        raise StoreDown("error", "the session kept ending")

    async def reset(self, stream_id: str) -> bool:
        """End and clear a stream's conversation (A3). False if there is none. Raises StoreDown."""
        live = self._streams.get(stream_id) or self._live.get(stream_key(stream_id))
        if live is not None:
            with suppress(MailboxClosed):  # else it ended just now
                await live.catch_up()
                if not live.entries:
                    return False
                await live.clear("reset")
                return True
        with trio.fail_after(self._settings.store.operation_s):
            stored = await self._around.vault.load(stream_key(stream_id), last=1)
            if stored is None:
                return False
            was_there = await self._around.vault.remove(stored.record.session_id)
        if was_there:
            record = stored.record
            fields = {"reason": "reset", "turns": record.turns}
            self._around.tell(WebhookEvent.SESSION_ENDED, record.session_id, record.number, fields)
        return was_there

    # --- what others do to sessions -------------------------------------------------------------------------

    async def hand_over(self, session_id: str, agent: str) -> bool:
        """The next turn of this session is that agent's (E4). False if there is no such session. Raises StoreDown."""
        for _ in range(OPEN_AGAIN):
            session = self._by_id(session_id) or await self._awakened(session_id)
            if session is None:
                return False
            with suppress(MailboxClosed):  # else it ended just now
                await session.hand_over(agent)
                return True
        raise StoreDown("error", "the session kept ending")

    def changed(self, session_id: str) -> None:
        """What is stored of it was changed by other hands."""
        session = self._by_id(session_id)
        if session is not None:
            session.changed()

    async def forget(self, number: str) -> None:
        """Live sessions of this number (E.164) go on, if they must, without memory, and write nothing back."""
        for session in [one for one in self._all if one.record.number == number and not one.is_over]:
            key = session.record.key
            with suppress(MailboxClosed):  # else it ended just now
                await session.forget()
            if self._live.get(key) is session:
                del self._live[key]

    def now(self) -> float:
        """Unix seconds."""
        return self._around.now()

    def number(self, text: str) -> str:
        """In E.164, or empty."""
        return e164(text, self._settings.sessions.default_region)

    async def _awakened(self, session_id: str) -> Session | None:
        """The session out of the store, if it can be gone on with. By its key, as everybody else finds it: there must
        never be two of it."""
        stored = await self._around.vault.get(session_id, last=1)
        if stored is None or stored.record.ended_at is not None:
            return None
        record = stored.record
        who = _Who(record.key, record.scope, record.agent, record.modality, record.number)
        session, _ = await self._open(who, self._settings.store.operation_s, may_be_blank=False)
        return session if session.record.session_id == session_id else None

    # --- finding and making ---------------------------------------------------------------------------------

    async def _open(self, who: _Who, within_s: float, *, may_be_blank: bool) -> tuple[Session, bool]:
        """The session, and whether it is new. With ``may_be_blank`` a store that does not answer in time gives a new
        one; else raises StoreDown."""
        key, until_s = who.key, trio.current_time() + within_s
        while True:
            session = self._holder(key)
            if session is not None and not session.is_over:
                return session, False
            on_its_way = session.gone if session is not None else self._loading.get(key)
            if on_its_way is None:
                break
            # Somebody with more time than we have may be waiting for the store.
            with trio.move_on_at(until_s):
                await on_its_way.wait()
            if not on_its_way.is_set():
                if may_be_blank:
                    return self._begin_blank(who)
                raise StoreDown("timeout")
            if session is not None and self._live.get(key) is session:
                del self._live[key]
        self._loading[key] = trio.Event()
        try:
            stored = await self._load(key, within_s, may_be_blank=may_be_blank)
            session = self._holder(key)
            if session is not None and not session.is_over:
                return session, False  # a call could not wait for us
            if stored is not None:
                return self._begin(stored, is_new=False)
            return self._begin_blank(who)
        finally:
            self._loading.pop(key).set()

    def _holder(self, key: str) -> Session | None:
        """Whoever has this key. One that has been erased has it no more."""
        session = self._live.get(key)
        if session is not None and session.is_forgotten and not session.is_over:
            del self._live[key]
            return None
        return session

    def _begin_blank(self, who: _Who) -> tuple[Session, bool]:
        return self._begin(Stored(who.as_record(self._around.now()), 0, ()), is_new=True)

    async def _load(self, key: str, within_s: float, *, may_be_blank: bool) -> Stored | None:
        try:
            with trio.fail_after(within_s):
                return await self._around.vault.load(key, last=self._settings.sessions.retention)
        except (StoreDown, trio.TooSlowError) as exc:
            if may_be_blank:
                log.warning("session_not_loaded", why=type(exc).__name__)
                return None
            raise exc if isinstance(exc, StoreDown) else StoreDown("timeout") from exc

    def _begin(self, stored: Stored, *, is_new: bool) -> tuple[Session, bool]:
        if self._nursery is None:
            raise StoreDown("error", "sessions are not being served")
        if len(self._live) >= MAX_SESSIONS:
            raise StoreDown("full", "too many sessions at once")
        session = Session(stored, self._around, is_new=is_new)
        self._all.add(session)
        self._live[stored.record.key] = session
        self._around.metrics.sessions_active.labels(scope=stored.record.scope).inc()
        self._nursery.start_soon(self._live_through, stored.record.key, session)
        return session, is_new

    async def _live_through(self, key: str, session: Session) -> None:
        scope = session.record.scope
        try:
            await session.run()
        except Exception as exc:  # the edge of one session: no other one, and no call, ends with it
            log.error("session_crashed", session_id=session.record.session_id, exc_info=exc)
        finally:
            self._around.metrics.sessions_active.labels(scope=scope).dec()
            session.unloaded("idle")
            if session.is_left_over:
                self._left_over.append(session.record.session_id)
            self._all.discard(session)
            if self._live.get(key) is session:
                del self._live[key]

    def _sweep(self) -> None:
        idle_s = self._settings.sessions.idle_s
        for session in self._all:
            if session.is_abandoned:
                session.abandon()
            unused_s = trio.current_time() - session.last_used_s
            if session.is_idle and (session.is_forgotten or unused_s >= idle_s):
                session.stop()

    async def _remove_left_over(self) -> None:
        """What the store did not let go of at the end of a call; once it has what waits in the journal."""
        while self._left_over and not self._around.writer.backlog:
            try:
                await self._around.vault.remove(self._left_over[0])
            except StoreDown:
                return
            self._left_over.popleft()

    def _by_id(self, session_id: str) -> Session | None:
        return next((one for one in self._all if one.record.session_id == session_id and not one.is_over), None)

    def _scope_of(self, agent: str) -> Scope:
        settings = self._settings.agents.get(agent)
        return Scope(settings.scope) if settings else Scope.CALL
