"""A session actor: the one writer of one session's history, for as long as the session is in use.

Calls add whole turns by a tell; written turns are answered here, one after the other; what enters the history is
written through to the store, in order, and a written turn is acknowledged only once it is there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog
import trio

from engine.dialogue.context import FactsKnown
from engine.dialogue.history import Entry, TraceWhat, TurnRecord
from engine.errors import StoreDown
from engine.events import Modality
from engine.observe.labels import WebhookEvent
from engine.runtime.mailbox import Answer, Mailbox, MailboxClosed
from engine.sessions.answers import TurnAnswer
from engine.sessions.around import Around
from engine.sessions.call_session import CallSession
from engine.sessions.messages import (
    Abandoned,
    Acknowledge,
    Clear,
    Forget,
    HandOver,
    Left,
    Message,
    Recollected,
    Refresh,
    Stop,
    Take,
    Text,
)
from engine.sessions.notebook import Notebook
from engine.sessions.summarising import Summarising
from engine.sessions.written_turns import WrittenTurns
from engine.storage.record import Scope, SessionRecord, Stored, with_recollection

log = structlog.get_logger()


class Session:
    """``run`` it in a task; all else may be called from any. ``is_over`` once nobody must use it any more."""

    def __init__(self, stored: Stored, around: Around, *, is_new: bool) -> None:
        self.is_over = False
        self.gone = trio.Event()
        """It has left its key to whoever comes next."""
        self.last_used_s = trio.current_time()
        self._ends_at_s = math.inf
        """When it ends with the call that has lost its line."""
        self.is_left_over = False
        """It is over, and the store has it still or will get it out of the journal."""
        self._around = around
        self._pages = Notebook(stored, around)
        self._mailbox: Mailbox[Message] = Mailbox("session")
        self._texts = WrittenTurns(self._pages, around, self.catch_up, self._keep)
        self._summaries = Summarising(self._pages, around, self._mailbox.tell)
        self._calls: set[CallSession] = set()
        self._is_handling = False
        self._begun(is_new=is_new)

    # --- what others see ------------------------------------------------------------------------------------

    @property
    def record(self) -> SessionRecord:
        return self._pages.record

    @property
    def entries(self) -> Sequence[Entry]:
        return tuple(self._pages.entries)

    @property
    def facts(self) -> FactsKnown:
        """Of what is in ``entries``."""
        return self._pages.facts

    @property
    def has_calls(self) -> bool:
        return bool(self._calls)

    @property
    def is_forgotten(self) -> bool:
        """The caller has been erased: nothing is known here and nothing is written."""
        return self._pages.is_forgotten

    @property
    def is_usable(self) -> bool:
        """It may be gone on with."""
        return not (self.is_over or self.is_forgotten)

    @property
    def is_idle(self) -> bool:
        """Nobody uses it, and nothing is left to do."""
        return self.is_settled and not (self._calls or len(self._texts) or self._summaries.is_running)

    @property
    def is_settled(self) -> bool:
        """What it was told is with the writer."""
        return not (len(self._mailbox) or self._is_handling)

    def take(self, turn: TurnRecord, applied: Callable[[], None]) -> None:
        """A whole turn of a call."""
        self.last_used_s = trio.current_time()
        if self._mailbox.is_closed:
            self._around.metrics.store_lost_total.inc()
        self._mailbox.tell(Take(turn, applied))

    def join(self, call: CallSession, *, is_new: bool) -> None:
        """A call goes on with this session."""
        self._calls.add(call)
        self._ends_at_s = math.inf
        self.last_used_s = trio.current_time()
        record = self._pages.record
        self._pages.record = replace(record, calls=record.calls + 1)
        if not is_new:
            self.reused(Modality.VOICE, call.call_id)

    def reused(self, modality: Modality, call_id: str = "") -> None:
        """A further call, or the first text after a while, goes on with it."""
        self._pages.note(
            TraceWhat.REUSED,
            modality=str(modality),
            agent=self.record.agent,
            call_id=call_id,
            messages=len(self._pages.entries),
        )

    def leave(self, call: CallSession) -> None:
        """The call is over, and has closed its seat."""
        self._mailbox.tell(Left(call))

    async def answer(self, text: str, modality: Modality, agent: str = "", line: str = "", *, at: float) -> TurnAnswer:
        """One written turn, which came ``at`` (Unix seconds); returns once the answer is made and the turn is stored.

        Raises Busy, StoreDown, VendorError, trio.TooSlowError, MailboxClosed. Whatever is raised, nothing of the turn
        is kept.
        """
        if self.is_over:
            raise MailboxClosed("session")
        self.last_used_s = trio.current_time()
        try:
            return await self._texts.answer(Text(text, modality, agent, line, at, Answer()))
        finally:
            self.last_used_s = trio.current_time()

    async def clear(self, reason: str) -> None:
        """End the conversation and begin a new one in its place. Raises StoreDown."""
        await self._mailbox.ask(lambda answer: Clear(reason, answer))

    async def forget(self) -> None:
        """The caller is being erased: from now on nothing of this session is written any more, and nothing of what
        was said is kept. What was on its way to the store is there, or not, when this returns."""
        self._pages.is_forgotten = True
        await self._mailbox.ask(Forget)

    async def hand_over(self, agent: str) -> None:
        """The next turn is this agent's. Raises StoreDown."""
        await self._mailbox.ask(lambda answer: HandOver(agent, answer))

    async def catch_up(self) -> None:
        """Until it has taken what it was told before, and read what others have changed. Raises MailboxClosed."""
        self.last_used_s = trio.current_time()
        await self._mailbox.ask(Refresh)

    def changed(self) -> None:
        """Somebody has edited what is stored."""
        self._pages.is_stale = True
        self._mailbox.tell(Refresh(Answer()))

    @property
    def is_abandoned(self) -> bool:
        """Its call had lost its line, and has not come back in time."""
        is_of_call = self.record.scope is Scope.CALL and self.record.modality is Modality.VOICE
        return is_of_call and not (self._calls or self.is_over) and trio.current_time() >= self._ends_at_s

    def abandon(self) -> None:
        """End it, if ``is_abandoned``."""
        self._mailbox.tell(Abandoned())

    def stop(self) -> None:
        """Nobody uses it any more: ``run`` returns once what is waiting has been done."""
        self._mailbox.tell(Stop())

    # --- the actor ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the mailbox until stopped."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._texts.run)
                async for message in self._mailbox:
                    if isinstance(message, Stop):
                        if self.is_over or self.is_idle:
                            break
                        continue  # somebody has come in the meantime
                    self._is_handling = True
                    try:
                        await self._handle(message)
                        self._sum_up(nursery)
                    except Exception as exc:  # noqa: BLE001 - the edge of one message: those behind it are not lost
                        await self._crashed(message, exc)
                    self._is_handling = self._pages.is_fresh = False
                nursery.cancel_scope.cancel()
        finally:
            self.is_over = True
            self._lost(self._mailbox.close())
            self._texts.close()
            self.gone.set()

    async def _handle(self, message: Message) -> None:
        match message:
            case Take(turn, applied):
                await self._take(turn, applied)
            case Left(call):
                await self._left(call)
            case Recollected():
                await self._recollected(message)
            case Abandoned():
                if self.is_abandoned:
                    await self._end_of_call()
            case Forget(answer):
                self._forget()
                answer.give(None)
            case Refresh(answer):
                await self._pages.catch_up()
                answer.give(None)
            case Acknowledge(answer=answer) | Clear(answer=answer) | HandOver(answer=answer):
                try:
                    await self._asked(message)
                except (StoreDown, MailboxClosed) as exc:
                    answer.fail(exc)
                else:
                    answer.give(None)

    async def _crashed(self, message: Message, exc: Exception) -> None:
        """A bug. Whoever asked is told; a turn is kept as it was said, if that can still be done."""
        log.error("session_crashed", session_id=self.record.session_id, doing=type(message).__name__, exc_info=exc)
        match message:
            case Take(turn, applied):
                try:
                    await self._pages.rescue(turn)
                    applied()
                except Exception as again:  # noqa: BLE001 - the edge again
                    log.error("turn_not_kept", session_id=self.record.session_id, error=type(again).__name__)
                    self._lost([message])
            case Forget(answer) | Refresh(answer):
                answer.fail(MailboxClosed("session"))
            case Acknowledge(answer=answer) | Clear(answer=answer) | HandOver(answer=answer):
                answer.fail(MailboxClosed("session"))

    def _lost(self, messages: Sequence[Message]) -> None:
        """Nobody handles these any more: turns among them are counted."""
        count = sum(isinstance(message, Take) for message in messages)
        if count and not self.is_forgotten:
            self._around.metrics.store_lost_total.inc(count)
            log.error("turns_lost", session_id=self.record.session_id, count=count)

    async def _asked(self, message: Message) -> None:
        """What somebody waits for, and hears of if the store fails."""
        match message:
            case Acknowledge(turn, session_id):
                # A turn that was answered for what has been erased or reset in between is kept nowhere.
                if session_id == self.record.session_id:
                    if not await self._pages.acknowledge(turn):
                        # Erased, expired or reset by another process: answered from what must not be known any more.
                        raise MailboxClosed("session")
                    await self._pages.refresh()
            case Clear(reason):
                await self._clear(reason)
            case HandOver(agent):
                await self._handed_over(agent)

    async def _take(self, turn: TurnRecord, applied: Callable[[], None]) -> None:
        if not self.is_forgotten:
            self._pages.apply(turn)
        applied()
        await self._pages.save(turn.entries, turn.trace)
        await self._pages.refresh()

    async def _handed_over(self, agent: str) -> None:
        before = self.record
        event = self._pages.event(TraceWhat.HANDED_OVER, origin=before.agent, target=agent)
        self._pages.record = replace(
            before, agent=agent, handovers=before.handovers + 1, assignments=before.assignments + 1
        )
        try:
            is_kept = await self._pages.save(traces=[event], may_wait=False)
        except StoreDown:
            self._pages.record = before
            raise
        if not is_kept:
            raise MailboxClosed("session")
        self._pages.tell_of(event)

    async def _keep(self, turn: TurnRecord, session_id: str) -> None:
        """A written turn that was answered for that session. Raises StoreDown, MailboxClosed."""
        await self._mailbox.ask(lambda stored: Acknowledge(turn, session_id, stored))

    def _sum_up(self, nursery: trio.Nursery) -> None:
        if not self.is_over:
            is_quiet = not self._calls and self.record.modality is Modality.VOICE
            self._summaries.start_if_due(nursery, is_quiet=is_quiet)

    async def _recollected(self, message: Recollected) -> None:
        self._summaries.arrived()
        if message.session_id != self.record.session_id:
            return
        self._pages.record = with_recollection(self.record, message.recollection, message.upto)
        self._pages.note(TraceWhat.SUMMARISED)
        await self._pages.save()

    # --- its beginning and its end --------------------------------------------------------------------------

    def _begun(self, *, is_new: bool) -> None:
        """The world hears of it once in its life, however often it is loaded."""
        record, pages = self.record, self._pages
        scope, modality = str(record.scope), str(record.modality)
        log.info("session_started" if is_new else "session_loaded", session_id=record.session_id, scope=scope)
        if is_new:
            pages.tell(WebhookEvent.SESSION_STARTED, scope=scope, agent=record.agent, modality=modality)
            pages.note(TraceWhat.CREATED, scope=scope, modality=modality, agent=record.agent)

    def _ended(self, reason: str) -> None:
        record = self.record
        log.info("session_ended", session_id=record.session_id, reason=reason, turns=record.turns)
        self._pages.tell(WebhookEvent.SESSION_ENDED, reason=reason, turns=record.turns)

    def unloaded(self, reason: str) -> None:
        """It leaves the memory of the process, and goes on when somebody comes back."""
        if not self.is_forgotten:
            log.info("session_unloaded", session_id=self.record.session_id, reason=reason)

    async def _left(self, call: CallSession) -> None:
        self._calls.discard(call)
        self.last_used_s = trio.current_time()
        if self.is_forgotten:
            return
        self._pages.note(TraceWhat.CALL_LEFT, call_id=call.call_id)
        if self.record.scope is Scope.CALL and not self._calls and not call.returns_within_s:
            await self._end_of_call()
        else:
            if call.returns_within_s:
                self._ends_at_s = self.last_used_s + call.returns_within_s
            await self._pages.save()

    async def _end_of_call(self) -> None:
        """Scope ``call``: gone with the call, or kept as history that nobody goes on with."""
        self.is_over = True
        vault, session_id = self._around.vault, self.record.session_id
        self._ended("call_over")
        try:
            if self._around.settings.keep_calls:
                await vault.retire(session_id)
                self.gone.set()
                await self._keep_as_history()
            else:
                self.is_left_over = True
                await vault.remove(session_id)
                self.is_left_over = self._around.writer.backlog > 0
                self.gone.set()
        except StoreDown:
            log.warning("session_not_removed", session_id=session_id)
        self._pages.is_forgotten = True
        self.stop()

    async def _keep_as_history(self) -> None:
        made = await self._summaries.recollection()
        if made is not None:
            self._pages.record = with_recollection(self.record, *made)
        self._pages.record = replace(self.record, ended_at=self._around.now(), end_reason="call_over")
        self._pages.note(TraceWhat.ENDED, reason="call_over")
        await self._pages.save()

    async def _clear(self, reason: str) -> None:
        await self._around.vault.remove(self.record.session_id)
        self._ended(reason)
        self._pages.begin_anew()
        for call in self._calls:
            call.forget()
        self._begun(is_new=True)

    def _forget(self) -> None:
        self._pages.forget()
        for call in self._calls:
            call.forget()
