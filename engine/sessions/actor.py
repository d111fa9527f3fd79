"""A session actor: the one writer of one session's history, for as long as the session is in use.

Calls add whole turns by a tell; written turns are answered here, one after the other; what enters the history is
written through to the store, in order, and a written turn is acknowledged only once it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog
import trio

from engine.dialogue.context import FactsKnown, facts_of_each
from engine.dialogue.history import Entry, TraceWhat, TurnRecord
from engine.errors import Busy, ModelFailed, StoreDown, VendorError
from engine.events import Modality, Recollection, SessionInfo
from engine.observe.labels import VendorStatus, WebhookEvent
from engine.runtime.mailbox import Answer, Mailbox, MailboxClosed
from engine.sessions.answering import Answering
from engine.sessions.answers import TurnAnswer
from engine.sessions.around import Around
from engine.sessions.call_session import CallSession
from engine.sessions.notebook import Notebook
from engine.storage.record import Scope, SessionRecord, Stored, new_session_id, with_recollection

log = structlog.get_logger()

MAX_WAITING_TEXTS = 8
A_TURN = 2
"""Messages of it."""
SUMMARY_S = 30.0
"""For a summary, made in the background."""


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
    line: str
    at: float
    """When it came, in Unix seconds."""
    answer: Answer[TurnAnswer]


class Session:
    """``run`` it in a task; all else may be called from any. ``is_over`` once nobody must use it any more."""

    def __init__(self, stored: Stored, around: Around, *, is_new: bool) -> None:
        self.is_over = False
        self.gone = trio.Event()
        """It has left its key to whoever comes next."""
        self.last_used_s = trio.current_time()
        self.is_left_over = False
        """It is over, and the store has it still or will get it out of the journal."""
        self._around = around
        self._pages = Notebook(stored, around)
        self._mailbox: Mailbox[_Message] = Mailbox("session")
        self._texts = trio.open_memory_channel[_Text](MAX_WAITING_TEXTS)
        self._waiting_texts: set[Answer[TurnAnswer]] = set()
        self._calls: set[CallSession] = set()
        self._is_handling = False
        self._is_summarising = False
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
        return self.is_settled and not (self._calls or self._waiting_texts or self._is_summarising)

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
        self._mailbox.tell(_Left(call))

    async def answer(self, text: str, modality: Modality, agent: str = "", line: str = "", *, at: float) -> TurnAnswer:
        """One written turn, which came ``at`` (Unix seconds); returns once the answer is made and the turn is stored.

        Raises Busy, StoreDown, VendorError, trio.TooSlowError, MailboxClosed. Whatever is raised, nothing of the turn
        is kept.
        """
        if self.is_over:
            raise MailboxClosed("session")
        answer: Answer[TurnAnswer] = Answer()
        self.last_used_s = trio.current_time()
        try:
            self._texts[0].send_nowait(_Text(text, modality, agent, line, at, answer))
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
        self._pages.is_forgotten = True
        await self._mailbox.ask(_Forget)

    async def hand_over(self, agent: str) -> None:
        """The next turn is this agent's. Raises StoreDown."""
        await self._mailbox.ask(lambda answer: _HandOver(agent, answer))

    async def catch_up(self) -> None:
        """Until it has taken what it was told before, and read what others have changed. Raises MailboxClosed."""
        self.last_used_s = trio.current_time()
        await self._mailbox.ask(_Refresh)

    def changed(self) -> None:
        """Somebody has edited what is stored."""
        self._pages.is_stale = True
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
                    try:
                        await self._handle(message)
                        self._summarise_what_overflows(nursery)
                    except Exception as exc:  # noqa: BLE001 - the edge of one message: those behind it are not lost
                        await self._crashed(message, exc)
                    self._is_handling = self._pages.is_fresh = False
                nursery.cancel_scope.cancel()
        finally:
            self.is_over = True
            self._lost(self._mailbox.close())
            for answer in self._waiting_texts:
                answer.fail(MailboxClosed("session"))
            self.gone.set()

    async def _handle(self, message: _Message) -> None:
        match message:
            case _Take(turn, applied):
                await self._take(turn, applied)
            case _Left(call):
                await self._left(call)
            case _Recollected():
                await self._recollected(message)
            case _Forget(answer):
                self._forget()
                answer.give(None)
            case _Refresh(answer):
                await self._pages.catch_up()
                answer.give(None)
            case _Acknowledge(answer=answer) | _Clear(answer=answer) | _HandOver(answer=answer):
                try:
                    await self._asked(message)
                except (StoreDown, MailboxClosed) as exc:
                    answer.fail(exc)
                else:
                    answer.give(None)

    async def _crashed(self, message: _Message, exc: Exception) -> None:
        """A bug. Whoever asked is told; a turn is kept as it was said, if that can still be done."""
        log.error("session_crashed", session_id=self.record.session_id, doing=type(message).__name__, exc_info=exc)
        match message:
            case _Take(turn, applied):
                try:
                    await self._pages.rescue(turn)
                    applied()
                except Exception as again:  # noqa: BLE001 - the edge again
                    log.error("turn_not_kept", session_id=self.record.session_id, error=type(again).__name__)
                    self._lost([message])
            case _Forget(answer) | _Refresh(answer):
                answer.fail(MailboxClosed("session"))
            case _Acknowledge(answer=answer) | _Clear(answer=answer) | _HandOver(answer=answer):
                answer.fail(MailboxClosed("session"))

    def _lost(self, messages: Sequence[_Message]) -> None:
        """Nobody handles these any more: turns among them are counted."""
        count = sum(isinstance(message, _Take) for message in messages)
        if count and not self.is_forgotten:
            self._around.metrics.store_lost_total.inc(count)
            log.error("turns_lost", session_id=self.record.session_id, count=count)

    async def _asked(self, message: _Message) -> None:
        """What somebody waits for, and hears of if the store fails."""
        match message:
            case _Acknowledge(turn, session_id):
                # A turn that was answered for what has been erased or reset in between is kept nowhere.
                if session_id == self.record.session_id:
                    if not await self._pages.acknowledge(turn):
                        # Erased, expired or reset by another process: answered from what must not be known any more.
                        raise MailboxClosed("session")
                    await self._pages.refresh()
            case _Clear(reason):
                await self._clear(reason)
            case _HandOver(agent):
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

    # --- written turns --------------------------------------------------------------------------------------

    async def _answer_texts(self) -> None:
        """One after the other, beside the turns of a call."""
        async for text in self._texts[1]:
            try:
                text.answer.give(await self._answered(text))
            except Exception as exc:  # noqa: BLE001 - the edge of what an agent does for one text
                text.answer.fail(self._as_known(exc))

    async def _answered(self, text: _Text) -> TurnAnswer:
        number = self.record.number
        try:
            await self.catch_up()
            if self._pages.is_gone:
                raise MailboxClosed("session")
            if text.at > self.record.started_at or not await self._was_erased(number, text):
                return await self._answered_and_kept(text)
        except MailboxClosed:
            if not await self._was_erased(number, text):
                raise
        return await self._answered_and_forgotten(text)

    async def _was_erased(self, number: str, text: _Text) -> bool:
        """The caller has been erased since he wrote: by another process, or we would know. Raises StoreDown."""
        return await self._around.vault.was_erased(number, text.at)

    async def _answered_and_forgotten(self, text: _Text) -> TurnAnswer:
        """Without anything that was known, and kept nowhere."""
        at = self._around.now()
        nobody = SessionRecord(new_session_id(), "", Scope.CALL, at, at, self.record.agent, text.modality)
        answering = Answering(self._around, nobody, (), text.modality, FactsKnown())
        answer, _ = await answering.answer(text.text, text.agent, text.line)
        return answer

    async def _answered_and_kept(self, text: _Text) -> TurnAnswer:
        record = self.record
        answer, turn = await Answering(self._around, record, self.entries, text.modality, self.facts).answer(
            text.text, text.agent, text.line
        )
        await self._mailbox.ask(lambda stored: _Acknowledge(turn, record.session_id, stored))
        return answer

    def _as_known(self, exc: Exception) -> Exception:
        """What is no error of a port is a bug in an agent, and the caller's text was not answered for it."""
        while isinstance(exc, ExceptionGroup) and len(exc.exceptions) == 1:
            exc = exc.exceptions[0]
        if isinstance(exc, VendorError | StoreDown | trio.TooSlowError | MailboxClosed):
            return exc
        log.error("text_failed", session_id=self.record.session_id, exc_info=exc)
        return ModelFailed("agent", type(exc).__name__)

    # --- summaries ------------------------------------------------------------------------------------------

    def _summarise_what_overflows(self, nursery: trio.Nursery) -> None:
        """So much was said since the last summary that some of it is out of a model's sight; or the call is over."""
        unsummarised = self._unsummarised
        is_quiet = not self._calls and self.record.modality is Modality.VOICE
        settings = self._around.settings
        # Also before a turn more would push any of it out of the history.
        seen = min(settings.window, settings.retention - A_TURN)
        overflows = len(unsummarised) > (0 if is_quiet else seen)
        if overflows and not (self._is_summarising or self.is_forgotten or self.is_over):
            self._is_summarising = True
            nursery.start_soon(self._summarise)
            if not is_quiet:
                nursery.start_soon(self._look_ahead, self.record.session_id, unsummarised)

    @property
    def _unsummarised(self) -> list[Entry]:
        return [entry for entry in self._pages.entries if entry.at > self.record.summary_at]

    async def _summarise(self) -> None:
        """In the background; told to the mailbox."""
        try:
            session_id, made = self.record.session_id, await self._recollection()
            if made is not None:
                self._mailbox.tell(_Recollected(session_id, *made))
        finally:
            self._is_summarising = False

    async def _look_ahead(self, session_id: str, entries: Sequence[Entry]) -> None:
        """What is out of sight soon is looked through in a thread, many messages at once, and not in the next turns."""
        found = await trio.to_thread.run_sync(facts_of_each, [entry.text for entry in entries], abandon_on_cancel=True)
        if session_id == self.record.session_id:  # else it has been forgotten
            self.facts.look_ahead(found)

    async def _recollection(self) -> tuple[Recollection, float] | None:
        """What the agent makes of what was said since the last time, and up to when that was."""
        entries, record = self._unsummarised, self.record
        if not entries:
            return None
        status = VendorStatus.ERROR
        try:
            agent = self._around.agent(record.agent)
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
        if self.record.scope is Scope.CALL and not self._calls:
            await self._end_of_call()
        else:
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
        made = await self._recollection()
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
