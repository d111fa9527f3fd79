"""A session actor: the one writer of one session's history, for as long as the session is in use.

Calls add whole turns by a tell; written turns are answered here, one after the other; what enters the history is
written through to the store, in order, and a written turn is acknowledged only once it is there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import structlog
import trio

from engine.dialogue.conversation import Conversation
from engine.dialogue.history import Entry, TraceEvent, TraceWhat, TurnRecord
from engine.errors import Busy, ModelFailed, StoreDown, VendorError
from engine.events import HandOver, HangUp, Modality, Noted, Recollection, SessionInfo
from engine.observe.labels import VendorKind, VendorStatus, WebhookEvent
from engine.observe.metrics import Metrics
from engine.observe.timeline import Timeline
from engine.ports import Agent, ResourceKind
from engine.runtime.book import Book
from engine.runtime.ledger import Ledger
from engine.runtime.mailbox import Answer, Mailbox, MailboxClosed
from engine.sessions.answers import TurnAnswer
from engine.sessions.call_session import CallSession
from engine.sessions.record import (
    Save,
    Saved,
    Scope,
    SessionRecord,
    Stored,
    merged,
    new_session_id,
    with_recollection,
    with_turn,
)
from engine.sessions.showing import Showing
from engine.sessions.writer import Journaled
from engine.settings import SessionSettings

log = structlog.get_logger()

MAX_WAITING_TEXTS = 8
MAX_HANDOVERS = 3
"""In one written turn, so that two agents do not hand it to and fro for ever."""
SUMMARY_S = 30.0
"""For a summary, made in the background."""


class Saves(Protocol):
    """The writer, as sessions see it."""

    def save(
        self, save: Save, on_done: Callable[[Saved | StoreDown | Journaled | None], None], *, may_wait: bool
    ) -> None: ...

    @property
    def backlog(self) -> int:
        """Saves that wait for the store to come back."""
        ...


class Stores(Protocol):
    """The vault, as sessions see it."""

    async def load(self, key: str, *, last: int) -> Stored | None: ...

    async def get(self, session_id: str, *, last: int) -> Stored | None: ...

    async def remove(self, session_id: str) -> bool: ...

    async def retire(self, session_id: str) -> bool: ...


Tell = Callable[[WebhookEvent, str, str, Mapping[str, object]], None]
"""An event for the world outside: which, session id, number or empty, fields. Never waits."""


@dataclass(frozen=True, slots=True)
class Around:
    """What the process gives to every session; it keeps nothing of any."""

    settings: SessionSettings
    agents: Mapping[str, Agent]
    vault: Stores
    writer: Saves
    showing: Showing
    metrics: Metrics
    tell: Tell
    now: Callable[[], float]
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class _Take:
    turn: TurnRecord
    applied: Callable[[], None]


@dataclass(frozen=True, slots=True)
class _Acknowledge:
    """A written turn that the store must have before anybody hears that it was answered."""

    turn: TurnRecord
    session_id: str
    """What it was answered for: another one by now if it was forgotten or reset in between."""
    answer: Answer[None]


@dataclass(frozen=True, slots=True)
class _Recollected:
    session_id: str
    recollection: Recollection
    upto: float
    """Unix seconds: of the newest message that is in it."""


@dataclass(frozen=True, slots=True)
class _Clear:
    reason: str
    answer: Answer[None]


@dataclass(frozen=True, slots=True)
class _Forget:
    answer: Answer[None]


@dataclass(frozen=True, slots=True)
class _HandOver:
    agent: str
    answer: Answer[None]


@dataclass(frozen=True, slots=True)
class _Left:
    call: CallSession


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


@dataclass(frozen=True, slots=True)
class _Refresh:
    answer: Answer[None]


_Message = _Refresh | _Take | _Acknowledge | _Recollected | _Clear | _Forget | _HandOver | _Left | _Stop


@dataclass(frozen=True, slots=True)
class _Text:
    text: str
    modality: Modality
    agent: str
    answer: Answer[TurnAnswer]


@dataclass(eq=False, slots=True)
class _Book:
    """What the session has of the store's, and what the store has not got yet."""

    record: SessionRecord
    version: int
    entries: deque[Entry] = field(default_factory=deque)
    is_stale: bool = False
    """Somebody else has written to it."""


class Session:
    """``run`` it in a task; all else may be called from any. ``is_over`` once nobody must use it any more."""

    def __init__(self, stored: Stored, around: Around, *, is_new: bool) -> None:
        self._around = around
        self._book = _Book(stored.record, stored.version, deque(stored.entries, around.settings.retention))
        self._mailbox: Mailbox[_Message] = Mailbox("session")
        self._texts = trio.open_memory_channel[_Text](MAX_WAITING_TEXTS)
        self._waiting_texts: set[Answer[TurnAnswer]] = set()
        self._is_handling = False
        self._calls: set[CallSession] = set()
        self._summarising = False
        self.is_over = False
        self.gone = trio.Event()
        """It has left its key to whoever comes next."""
        self.is_forgotten = False
        self.last_used_s = trio.current_time()
        self._birth: tuple[TraceEvent, ...] = ()
        """How it came to life: written with what comes first."""
        self._note_birth(is_new=is_new)

    # --- what others see ------------------------------------------------------------------------------------

    @property
    def record(self) -> SessionRecord:
        return self._book.record

    @property
    def entries(self) -> Sequence[Entry]:
        return tuple(self._book.entries)

    @property
    def is_idle(self) -> bool:
        """Nobody uses it, and nothing is left to do."""
        return self.is_settled and not (self._calls or self._waiting_texts or self._summarising)

    @property
    def is_settled(self) -> bool:
        """What it was told is with the writer."""
        return not (len(self._mailbox) or self._is_handling)

    def take(self, turn: TurnRecord, applied: Callable[[], None]) -> None:
        """A whole turn of a call."""
        self.last_used_s = trio.current_time()
        if self._mailbox.is_closed:
            self._around.metrics.store_lost_total.inc()
        self._mailbox.tell(_Take(turn, applied))

    def join(self, call: CallSession, *, is_new: bool) -> None:
        """A call goes on with this session."""
        self._calls.add(call)
        self.last_used_s = trio.current_time()
        record = self._book.record
        self._book.record = replace(record, calls=record.calls + 1)
        if not is_new:
            self.reused(Modality.VOICE, call.call_id)

    def leave(self, call: CallSession) -> None:
        """The call is over, and has closed its seat."""
        self._mailbox.tell(_Left(call))

    async def answer(self, text: str, modality: Modality, agent: str = "") -> TurnAnswer:
        """One written turn; returns once the answer is made and the turn is stored.

        Raises Busy, StoreDown, VendorError, trio.TooSlowError, MailboxClosed. Whatever is raised, nothing of the turn
        is kept.
        """
        if self.is_over:
            raise MailboxClosed("session")
        answer: Answer[TurnAnswer] = Answer()
        self.last_used_s = trio.current_time()
        try:
            self._texts[0].send_nowait(_Text(text, modality, agent, answer))
        except trio.WouldBlock:
            raise Busy from None
        self._waiting_texts.add(answer)
        try:
            return await answer.wait()
        finally:
            self._waiting_texts.discard(answer)
            self.last_used_s = trio.current_time()

    async def clear(self, reason: str) -> None:
        """End the conversation and begin a new one in its place. Raises StoreDown."""
        await self._mailbox.ask(lambda answer: _Clear(reason, answer))

    async def forget(self) -> None:
        """The caller is being erased: from now on nothing of this session is written any more, and nothing of what
        was said is kept. What was on its way to the store is there, or not, when this returns."""
        self.is_forgotten = True
        await self._mailbox.ask(_Forget)

    async def hand_over(self, agent: str) -> None:
        """The next turn is this agent's. Raises StoreDown."""
        await self._mailbox.ask(lambda answer: _HandOver(agent, answer))

    def changed(self) -> None:
        """Somebody has edited what is stored."""
        self._book.is_stale = True
        self._mailbox.tell(_Refresh(Answer()))

    def stop(self) -> None:
        """Nobody uses it any more: ``run`` returns once what is waiting has been done."""
        self._mailbox.tell(_Stop())

    # --- the actor ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the mailbox until stopped."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._answer_texts)
                async for message in self._mailbox:
                    if isinstance(message, _Stop):
                        if self.is_over or self.is_idle:
                            break
                        continue  # somebody has come in the meantime
                    self._is_handling = True
                    await self._handle(message, nursery)
                    self._is_handling = False
                nursery.cancel_scope.cancel()
        finally:
            self.is_over = True
            self._mailbox.close()
            for answer in self._waiting_texts:
                answer.fail(MailboxClosed("session"))
            self.gone.set()

    async def _handle(self, message: _Message, nursery: trio.Nursery) -> None:
        match message:
            case _Take(turn, applied):
                await self._take(turn, applied)
            case _Acknowledge():
                await self._acknowledge(message)
            case _Recollected():
                await self._recollected(message)
            case _Clear(reason, answer):
                await self._guarded(self._clear(reason), answer)
            case _HandOver(agent, answer):
                await self._guarded(self._handed_over(agent), answer)
            case _Refresh(answer):
                await self._refresh()
                answer.give(None)
            case _Forget(answer):
                self._forget()
                answer.give(None)
            case _Left(call):
                await self._left(call, nursery)
        if self._overflows and not self._summarising:
            nursery.start_soon(self._summarise)
            self._summarising = True

    async def _guarded(self, work: object, answer: Answer[None]) -> None:
        try:
            await work  # type: ignore[misc]  # a coroutine of this class
        except StoreDown as exc:
            answer.fail(exc)
        else:
            answer.give(None)

    # --- turns ----------------------------------------------------------------------------------------------

    async def _take(self, turn: TurnRecord, applied: Callable[[], None]) -> None:
        if self.is_forgotten:
            applied()
            return
        traces = self._apply(turn)
        applied()
        await self._save(turn.entries, traces, may_wait=True)
        await self._refresh()

    async def _acknowledge(self, message: _Acknowledge) -> None:
        turn = message.turn
        if self.is_forgotten or message.session_id != self.record.session_id:
            message.answer.give(None)  # answered, and of what has been erased nothing is kept
            return
        before = (self._book.record, tuple(self._book.entries))
        traces = self._apply(turn)
        try:
            await self._save(turn.entries, traces, may_wait=False)
        except StoreDown as exc:
            self._book.record = before[0]
            self._book.entries = deque(before[1], self._around.settings.retention)
            message.answer.fail(exc)
            return
        message.answer.give(None)
        await self._refresh()

    def _apply(self, turn: TurnRecord) -> list[TraceEvent]:
        """The turn enters the history; what it tells besides its own trace."""
        book, traces = self._book, list(turn.trace)
        before = book.record
        book.entries.extend(turn.entries)
        book.record = with_turn(before, turn)
        for entry in turn.entries[:1]:
            self._around.metrics.session_turns_total.labels(modality=entry.modality).inc()
        if before.turns and book.record.modality is not before.modality and turn.entries:
            traces.append(self._switched(before.modality, book.record.modality))
        for event in turn.trace:
            self._tell_of(event)
        return traces

    def _switched(self, origin: Modality, target: Modality) -> TraceEvent:
        self._book.record = replace(self._book.record, switches=self._book.record.switches + 1)
        self._around.metrics.modality_switches_total.labels(origin=origin, target=target).inc()
        self._tell(WebhookEvent.MODALITY_SWITCHED, origin=str(origin), target=str(target))
        return self._event(TraceWhat.MODALITY_SWITCHED, origin=str(origin), target=str(target))

    def _tell_of(self, event: TraceEvent) -> None:
        metrics = self._around.metrics
        if event.what is TraceWhat.CONTEXT_BRIDGED:
            modality = str(event.fields["modality"])
            metrics.context_bridges_total.labels(modality=modality).inc()
            self._tell(WebhookEvent.CONTEXT_BRIDGED, modality=modality)
        elif event.what is TraceWhat.HANDED_OVER:
            metrics.session_handovers_total.inc()
            self._tell(WebhookEvent.HANDED_OVER, origin=event.fields["origin"], target=event.fields["target"])

    # --- the store ------------------------------------------------------------------------------------------

    async def _save(self, entries: Sequence[Entry], traces: Sequence[TraceEvent], *, may_wait: bool) -> None:
        """Raises StoreDown for what may not wait; the rest is logged and counted by the writer."""
        if self.is_forgotten:
            return
        book = self._book
        done: Answer[Saved | Journaled | None] = Answer()

        def on_done(result: Saved | StoreDown | Journaled | None) -> None:
            if isinstance(result, StoreDown):
                done.fail(result)
            else:
                done.give(result)

        traces, self._birth = (*self._birth, *traces), ()
        if not self._around.settings.trace:
            traces = ()
        save = Save(book.record, book.version, tuple(entries), traces)
        self._around.writer.save(save, on_done, may_wait=may_wait)
        try:
            result = await done.wait()
        except StoreDown:
            if not may_wait:
                raise
            return
        if isinstance(result, Saved):
            book.version = result.version
            book.is_stale = book.is_stale or result.was_merged
            if result.was_merged:
                book.record = merged(result.record, book.record)
        elif result is None:
            log.warning("session_gone", session_id=book.record.session_id)
            self._forget()

    async def _refresh(self) -> None:
        """Read again what somebody else has changed. Not to be had now, it is tried again after the next turn."""
        book = self._book
        if not book.is_stale or self.is_forgotten or self._around.writer.backlog:
            return
        try:
            stored = await self._around.vault.get(book.record.session_id, last=self._around.settings.retention)
        except StoreDown:
            return
        if stored is None:
            self._forget()
            return
        book.is_stale = False
        book.record, book.version = merged(stored.record, book.record), stored.version
        book.entries = deque(stored.entries, self._around.settings.retention)

    # --- written turns --------------------------------------------------------------------------------------

    async def _answer_texts(self) -> None:
        """One after the other, beside the turns of a call."""
        async for text in self._texts[1]:
            try:
                text.answer.give(await self._answered(text))
            except (VendorError, StoreDown, trio.TooSlowError) as exc:
                text.answer.fail(exc)
            except Exception as exc:
                text.answer.fail(ModelFailed("agent", type(exc).__name__))
                log.exception("text_failed", session_id=self.record.session_id)

    async def _answered(self, text: _Text) -> TurnAnswer:
        if self._book.is_stale:
            await self._mailbox.ask(_Refresh)
        session_id, turns = self.record.session_id, list[TurnRecord]()
        name = text.agent or self.record.agent
        conversation = Conversation(agent=name, modality=text.modality, now=self._around.now, on_turn=turns.append)
        turn_id = conversation.turn_id
        if name != self.record.agent and self.record.turns:
            conversation.trace(TraceWhat.HANDED_OVER, session_id, origin=self.record.agent, target=name)
        conversation.caller_said(text.text)
        began_at_s = trio.current_time()
        with trio.fail_after(self._around.settings.turn_s):
            reply, is_over = await self._reply(conversation, text.modality)
        took_s = trio.current_time() - began_at_s
        conversation.agent_was_heard(reply, response_ms=round(took_s * 1000))
        await self._mailbox.ask(lambda answer: _Acknowledge(turns[0], session_id, answer))
        return TurnAnswer(session_id, turn_id, reply, conversation.agent, is_over)

    async def _reply(self, conversation: Conversation, modality: Modality) -> tuple[str, bool]:
        """The whole answer, by whichever agent gives it; and whether the agent holds the matter for settled."""
        pieces: list[str] = []
        for _ in range(MAX_HANDOVERS + 1):
            part = await self._asked(conversation, modality, pieces)
            if not isinstance(part, HandOver):
                return " ".join(pieces), isinstance(part, HangUp)
            conversation.trace(
                TraceWhat.HANDED_OVER, self.record.session_id, origin=conversation.agent, target=part.agent
            )
            conversation.agent = part.agent
        raise ModelFailed(conversation.agent, "handed over too often")

    async def _asked(
        self, conversation: Conversation, modality: Modality, pieces: list[str]
    ) -> HandOver | HangUp | None:
        """One agent's answer into ``pieces``, and what it wants to be done afterwards."""
        agent = self._agent(conversation.agent)
        record = self.record
        context = self._around.showing.context(
            record,
            self.entries,
            conversation,
            agent=agent,
            modality=modality,
            is_returning=bool(self.entries) or record.turns > 0,
        )
        info = SessionInfo(record.session_id, agent.name, modality, caller=record.number)
        ledger = Ledger(conversation.turn_id, Book(self._around.metrics, Timeline(conversation.turn_id)))
        began_at_s, status, said = trio.current_time(), VendorStatus.ERROR, list[str]()
        after: HandOver | HangUp | None = None
        opening = agent.open_model(info, ledger)
        try:
            async with (
                ledger.own(
                    ResourceKind.LLM_CONNECTION, agent.model_vendor, opening, is_closed=lambda model: model.is_closed
                ) as model,
                model.open_reply(context) as parts,
            ):
                async for part in parts:
                    if isinstance(part, str):
                        said.append(part)
                    elif isinstance(part, Noted):
                        conversation.note(part)
                    else:
                        after = part
                        break
            status = VendorStatus.OK
        except trio.Cancelled:
            status = VendorStatus.TIMEOUT
            raise
        finally:
            ledger.settle()
            text = "".join(said).strip()
            self._around.metrics.vendor_requests_total.labels(
                vendor=agent.model_vendor, kind=VendorKind.LLM, status=status
            ).inc()
            self._around.showing.answered(
                conversation,
                record.session_id,
                agent=agent,
                text=text,
                status=str(status),
                took_s=trio.current_time() - began_at_s,
            )
        if text:
            pieces.append(text)
        if not pieces and not isinstance(after, HandOver):
            raise ModelFailed(agent.model_vendor, "empty answer")
        return after

    def _agent(self, name: str) -> Agent:
        agents = self._around.agents
        if name in agents:
            return agents[name]
        if not agents:
            raise ModelFailed("agent", "there is none yet")
        log.warning("agent_unknown", agent=name)
        return next(iter(agents.values()))

    # --- summaries ------------------------------------------------------------------------------------------

    @property
    def _overflows(self) -> bool:
        """So much was said since the last summary that some of it is out of a model's sight."""
        return len(self._unsummarised) > self._around.settings.window and not self.is_forgotten

    @property
    def _unsummarised(self) -> list[Entry]:
        return [entry for entry in self._book.entries if entry.at > self._book.record.summary_at]

    async def _summarise(self) -> None:
        """In the background; told to the mailbox."""
        try:
            session_id, made = self.record.session_id, await self._recollection()
            if made is not None:
                self._mailbox.tell(_Recollected(session_id, *made))
        finally:
            self._summarising = False

    async def _recollection(self) -> tuple[Recollection, float] | None:
        """What the agent makes of what was said since the last time, and up to when that was."""
        entries, record = self._unsummarised, self.record
        if not entries:
            return None
        status = VendorStatus.ERROR
        try:
            agent = self._agent(record.agent)
            before = Recollection(record.memory.summary, record.memory.entities, record.memory.items)
            info = SessionInfo(record.session_id, agent.name, record.modality, caller=record.number)
            with trio.fail_after(SUMMARY_S):
                made = await agent.recollect([entry.as_message() for entry in entries], before, info)
            status = VendorStatus.OK
        except trio.TooSlowError:
            status = VendorStatus.TIMEOUT
            return None
        except Exception as exc:  # noqa: BLE001 - the edge of what an agent does besides; the next turn tries again
            log.warning("summary_failed", session_id=record.session_id, error=type(exc).__name__)
            return None
        finally:
            self._around.metrics.summaries_total.labels(status=status).inc()
        return made, entries[-1].at

    async def _recollected(self, message: _Recollected) -> None:
        if self.is_forgotten or message.session_id != self.record.session_id:
            return
        self._book.record = with_recollection(self.record, message.recollection, message.upto)
        await self._save((), [self._event(TraceWhat.SUMMARISED)], may_wait=True)

    # --- its end --------------------------------------------------------------------------------------------

    async def _left(self, call: CallSession, nursery: trio.Nursery) -> None:
        self._calls.discard(call)
        self.last_used_s = trio.current_time()
        if self.is_forgotten:
            return
        traces = [self._event(TraceWhat.CALL_LEFT, call_id=call.call_id)]
        if self.record.scope is Scope.CALL and not self._calls:
            await self._end_of_call(traces)
            return
        await self._save((), traces, may_wait=True)
        if not self._summarising:
            self._summarising = True
            nursery.start_soon(self._summarise)

    async def _end_of_call(self, traces: Sequence[TraceEvent]) -> None:
        """Scope ``call``: gone with the call, or kept as history that nobody goes on with."""
        self.is_over = True
        vault, session_id = self._around.vault, self.record.session_id
        self._ended("call_over")
        try:
            if self._around.settings.keep_calls:
                await vault.retire(session_id)
                self.gone.set()
                await self._keep_as_history(traces)
            else:
                await vault.remove(session_id)
                self.gone.set()
        except StoreDown:
            log.warning("session_not_removed", session_id=session_id)
        self.is_forgotten = True
        self.stop()

    async def _keep_as_history(self, traces: Sequence[TraceEvent]) -> None:
        made = await self._recollection()
        if made is not None:
            self._book.record = with_recollection(self.record, *made)
        self._book.record = replace(self.record, ended_at=self._around.now(), end_reason="call_over")
        await self._save((), [*traces, self._event(TraceWhat.ENDED, reason="call_over")], may_wait=True)

    async def _clear(self, reason: str) -> None:
        old = self.record
        await self._around.vault.remove(old.session_id)
        self._ended(reason)
        at = self._around.now()
        fresh = SessionRecord(new_session_id(), old.key, old.scope, at, at, old.agent, old.modality, number=old.number)
        self._book = _Book(fresh, 0, deque(maxlen=self._around.settings.retention))
        for call in self._calls:
            call.forget()
        self._note_birth(is_new=True)

    async def _handed_over(self, agent: str) -> None:
        before = self.record
        event = self._event(TraceWhat.HANDED_OVER, origin=before.agent, target=agent)
        self._book.record = replace(before, agent=agent, handovers=before.handovers + 1)
        try:
            await self._save((), [event], may_wait=False)
        except StoreDown:
            self._book.record = before
            raise
        self._tell_of(event)

    def _forget(self) -> None:
        self.is_forgotten = True
        old = self.record
        at = self._around.now()
        blank = SessionRecord(new_session_id(), "", old.scope, at, at, old.agent, old.modality)
        self._book = _Book(blank, 0)
        for call in self._calls:
            call.forget()

    def finished(self, reason: str) -> None:
        """It leaves the memory of the process."""
        if not self.is_over and not self.is_forgotten:
            self._ended(reason)
        self.is_over = True

    # --- telling --------------------------------------------------------------------------------------------

    def _note_birth(self, *, is_new: bool) -> None:
        record = self.record
        self._tell(
            WebhookEvent.SESSION_STARTED,
            scope=str(record.scope),
            agent=record.agent,
            modality=str(record.modality),
            is_returning=not is_new,
        )
        log.info("session_started", session_id=record.session_id, scope=str(record.scope), is_new=is_new)
        if is_new:
            scope, modality = str(record.scope), str(record.modality)
            created = self._event(TraceWhat.CREATED, scope=scope, modality=modality, agent=record.agent)
            self._birth = (*self._birth, created)

    def reused(self, modality: Modality, call_id: str = "") -> None:
        """A further call, or the first text after a while, goes on with it."""
        count, agent = len(self._book.entries), self.record.agent
        reused = self._event(TraceWhat.REUSED, modality=str(modality), agent=agent, call_id=call_id, messages=count)
        self._birth = (*self._birth, reused)

    def _ended(self, reason: str) -> None:
        record = self.record
        log.info("session_ended", session_id=record.session_id, reason=reason, turns=record.turns)
        self._tell(WebhookEvent.SESSION_ENDED, reason=reason, turns=record.turns)

    def _tell(self, event: WebhookEvent, **fields: object) -> None:
        if not self.is_forgotten:
            self._around.tell(event, self.record.session_id, self.record.number, fields)

    def _event(self, what: TraceWhat, **fields: object) -> TraceEvent:
        return TraceEvent(self._around.now(), what, {"session_id": self.record.session_id, **fields})
