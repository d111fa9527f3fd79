"""A speech-to-speech model that outlives its connections: tried again, connected anew, and exchanged for a fresh one
before the vendor ends it, at a moment when nobody speaks."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import structlog
import trio

from engine.errors import ModelFailed, VendorError, Why
from engine.events import (
    CallInfo,
    Context,
    Missed,
    RealtimeEvent,
    ReplyAudio,
    ReplyOver,
    ReplyStarted,
    SessionInfo,
    SpeechStarted,
    SpeechStopped,
    ToolResult,
    Usage,
)
from engine.observe.labels import Reconnect, SpeechKind, Token, VendorKind, VendorStatus
from engine.ports import Owner, RealtimeModel, RealtimeVendor, ResourceKind
from engine.runtime.background import beside
from engine.vendors.around import Vendoring
from engine.vendors.course import Course
from engine.vendors.held import Held, Opener
from engine.vendors.lasting import LEAD_S, CallerAudio, Succession, Told
from engine.vendors.listening import PAUSE_S, THINKING_S, WAIT_S
from engine.vendors.tries import Roster

log = structlog.get_logger()

MAX_EVENTS = 500
"""Told and not yet taken; then the model waits."""
RENEW_PAUSE_S = 5.0
"""Between two tries to exchange a connection that still works."""


@asynccontextmanager
async def open_realtime(  # noqa: PLR0917 - the parts of one call, given in one place
    vendors: Sequence[RealtimeVendor],
    call: CallInfo,
    session: SessionInfo,
    context: Callable[[], Context],
    owner: Owner,
    around: Vendoring,
) -> AsyncIterator[Realtime]:
    """A model of the first of these vendors that can be had, and then whatever it takes to go on. ``context`` gives
    what was said up to the moment at which it is asked. Each connection is in the owner's ledger under its vendor.
    Raises ModelFailed. Leaving the block closes politely."""

    def opening(vendor: RealtimeVendor) -> AbstractAsyncContextManager[RealtimeModel]:
        inner = vendor.open(call, session, context(), owner)
        return owner.own(ResourceKind.LLM_CONNECTION, vendor.name, inner, is_closed=lambda model: model.is_closed)

    async with beside() as nursery:
        realtime = Realtime(vendors, call, opening, around, nursery)
        await realtime.connect()
        nursery.start_soon(realtime.run)
        nursery.start_soon(realtime.renew)
        yield realtime
        await realtime.close()


class Realtime:
    """Implements ``engine.ports.RealtimeModel``. ``Usage`` is counted here and not passed on."""

    def __init__(
        self,
        vendors: Sequence[RealtimeVendor],
        call: CallInfo,
        opening: Callable[[RealtimeVendor], AbstractAsyncContextManager[RealtimeModel]],
        around: Vendoring,
        nursery: trio.Nursery,
    ) -> None:
        self._call = call
        self._around = around
        self._policy = policy = around.policy
        self._roster = Roster(vendors, VendorKind.REALTIME, around, ModelFailed, call_id=call.call_id)
        self._opener: Opener[RealtimeVendor, RealtimeModel] = Opener(
            self._roster, nursery, opening, on_gone=self._look_up
        )
        self._held: Held[RealtimeVendor, RealtimeModel] | None = None
        self._succession = Succession(self._roster, self._opener)
        self._model: RealtimeModel | None = None
        """None while there is none."""
        self._course = Course(call.format, reply_s=policy.answer_s, gap_s=policy.token_gap_s)
        self._audio = CallerAudio(call.format, policy, around.metrics)
        self._made: Callable[[float], None]
        """Is told the seconds of sound that the model of now has made."""
        self._opened_at_s = math.inf
        self._was_asked_again = False
        """The caller was, for a sound of which the model said nothing; nor has it since."""
        self._waiting = trio.CancelScope()
        self._working = trio.CancelScope()
        self._renewing = trio.CancelScope()
        self._told: Told[RealtimeEvent] = Told(MAX_EVENTS, self._look_up)
        self._stirred = trio.Event()

    @property
    def is_closed(self) -> bool:
        return self._opener.is_closed

    @property
    def vendor(self) -> str:
        """See ``engine.ports.Backed``."""
        return self._roster.current.name

    # --- the port -------------------------------------------------------------------------------------------

    @property
    def unheard_since_s(self) -> float:
        """See ``engine.ports.Overhearing``."""
        if self._course.is_caller_speaking:
            return self._last_sound_s + THINKING_S
        is_clear = self._was_nobody_there or self._audio.deafness.is_likely
        return self._audio.voice.until_s if is_clear and self._is_voice_owed else math.inf

    def send(self, audio: bytes) -> None:
        if self._audio.send(audio):
            soon_s = trio.current_time() + WAIT_S
            self._waiting.deadline = min(self._waiting.deadline, self._audio.deafness.due_at_s, soon_s)

    async def receive(self) -> RealtimeEvent:
        return await self._told.receive()

    def say(self, text: str) -> None:
        self._ask(text, to_say=True)

    def told(self, text: str) -> None:
        self._ask(text, to_say=False)

    def interrupt(self, heard_s: float) -> None:
        self._course.interrupted(trio.current_time())
        if self._model is not None:
            self._model.interrupt(heard_s)
        self._stir()

    def heard_on(self, text: str) -> None:
        if self._model is not None:  # else the next one is shown it
            self._model.heard_on(text)
        self._stir()

    def tool_results(self, results: Sequence[ToolResult]) -> None:
        wanted = self._course.known(results, trio.current_time())
        if self._model is not None and wanted:
            self._model.tool_results(wanted)
        self._stir()

    # --- its life -------------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Raises ModelFailed."""
        self._go_on_with(await self._opener.open(within_s=self._policy.open_s), [])

    async def run(self) -> None:
        """Until closed, or until nobody is left who could answer, which ``receive`` tells."""
        with self._working:
            try:
                while True:
                    await self._reconnect(await self._until_lost())
            except VendorError as exc:
                self._told.fail(exc)

    async def renew(self) -> None:
        """Until closed: a new connection beside the old one, in time."""
        with self._renewing:
            while True:
                await self._until_due()
                await self._until_quiet()
                await self._renew()

    async def close(self) -> None:
        self._model = None
        self._audio.take_away()
        self._working.cancel()
        self._renewing.cancel()
        await self._opener.close()

    # --- one connection -------------------------------------------------------------------------------------

    async def _until_lost(self) -> VendorError:
        """Pass on what the model says, until its connection is of no use any more: why."""
        while True:
            held = self._held
            assert held is not None  # noqa: S101 - connected
            event: RealtimeEvent | None = None
            due_at_s = min(self._audio.deafness.due_at_s, self._course.due_at_s, self._unheard_at_s)
            with trio.CancelScope(deadline=due_at_s) as self._waiting:
                if self._told.is_full:
                    await trio.sleep_forever()  # until some have been taken
                elif not held.gone.is_set():
                    try:
                        event = await held.part.receive()
                    except ModelFailed as exc:
                        if held is self._held:
                            return exc
            if held is not self._held:
                continue  # exchanged meanwhile: what still came of the old one is void
            if event is not None:
                self._take(event)
            elif held.gone.is_set():
                return held.failure or ModelFailed(held.vendor.name, "went away", why=Why.CUT)
            elif (what := self._overdue()) is not None:
                failure = ModelFailed(held.vendor.name, what, why=Why.TIMEOUT)
                self._around.breakers.of(held.vendor.name, VendorKind.REALTIME).failed(failure.why)
                return failure

    def _take(self, event: RealtimeEvent) -> None:
        now_s = trio.current_time()
        if isinstance(event, Usage):
            self._count(event)
            return
        if self._course.is_of_another(event):
            return
        self._was_asked_again = False
        self._audio.deafness.event()
        self._audio.voice.forget()
        self._course.event(event, now_s)
        match event:
            case SpeechStarted(at_s):
                self._audio.unanswered.hold(at_s - LEAD_S)
            case SpeechStopped(at_s):
                self._is_answered(at_s)
            case ReplyStarted():
                self._is_answered(now_s)
            case ReplyAudio(_, audio):
                self._made(self._call.format.duration_s(audio))
            case ReplyOver(_, is_whole):
                self._asked_for_reply(VendorStatus.OK if is_whole else VendorStatus.CANCELLED)
                self._audio.count()
        self._told.tell([event])
        self._stir()

    def _is_answered(self, until_s: float) -> None:
        """What the caller said up to then is with the model."""
        self._audio.unanswered.answered(until_s)
        self._audio.unanswered.hold(math.inf)

    def _asked_for_reply(self, status: VendorStatus) -> None:
        """A reply is a request, too."""
        requests = self._around.metrics.vendor_requests_total
        requests.labels(vendor=self._roster.current.name, kind=VendorKind.REALTIME, status=status).inc()

    @property
    def _last_sound_s(self) -> float:
        """Of the caller, as we hear it, or as the model tells."""
        return max(self._audio.voice.until_s, self._course.stirred_at_s)

    @property
    def _is_voice_owed(self) -> bool:
        """The caller has spoken, as we hear it, and not into the agent's words; the model has said nothing since."""
        voice = self._audio.voice
        is_answer = self._was_nobody_there or voice.began_at_s >= self._course.heard_until_s
        return voice.is_clear and is_answer and not self._was_asked_again

    @property
    def _was_nobody_there(self) -> bool:
        """When the caller began to speak: then or since then, the connection was lost."""
        return self._audio.voice.began_at_s < self._opened_at_s

    @property
    def _unheard_at_s(self) -> float:
        """The caller is left no longer than that with what the model does not go on with."""
        if self._course.is_caller_speaking:
            return self._last_sound_s + WAIT_S
        return self._audio.voice.until_s + WAIT_S if self._is_voice_owed else math.inf

    def _overdue(self) -> str | None:
        now_s, course, deafness = trio.current_time(), self._course, self._audio.deafness
        if now_s >= course.due_at_s:
            return "owes an answer"
        is_unheard, was_likely = now_s >= self._unheard_at_s, deafness.is_likely
        is_deaf = deafness.is_deaf(now_s)
        if not (is_unheard or is_deaf):
            return None
        is_missed = is_unheard or (deafness.times == 1 and not self._was_asked_again)
        self._was_asked_again = self._was_asked_again or is_missed
        self._is_answered(now_s)  # it is asked for again
        self._audio.voice.forget()
        if is_deaf or was_likely or course.is_caller_speaking:
            course.is_missed = is_missed
            return "heard nothing of a caller who spoke"
        self._told.tell([Missed()])
        return None

    def _ask(self, text: str, *, to_say: bool) -> None:
        self._course.asked(text, trio.current_time(), to_say=to_say)
        if self._model is not None:
            (self._model.say if to_say else self._model.told)(text)
        self._waiting.deadline = min(self._waiting.deadline, self._course.due_at_s)
        self._stir()

    def _look_up(self) -> None:
        """There is something else to be seen than an event."""
        self._waiting.cancel()

    def _stir(self) -> None:
        self._stirred.set()

    def _count(self, usage: Usage) -> None:
        vendor = self._roster.current.name
        for count, kind in ((usage.input_tokens, Token.INPUT), (usage.output_tokens, Token.OUTPUT)):
            self._around.metrics.llm_tokens_total.labels(vendor=vendor, type=kind).inc(count)

    # --- the next one ---------------------------------------------------------------------------------------

    async def _reconnect(self, failure: VendorError) -> None:
        """Raises ModelFailed when there is nobody left."""
        assert self._held is not None  # noqa: S101 - connected
        now_s, audio = trio.current_time(), self._audio
        self._model = None
        audio.take_away()
        if not self._course.is_caller_speaking and audio.voice.until_s < now_s - PAUSE_S:
            audio.voice.forget()  # that was nothing to a model that heard it
        if self._course.owes_reply:
            is_late = failure.why is Why.TIMEOUT
            self._asked_for_reply(VendorStatus.TIMEOUT if is_late else VendorStatus.ERROR)
        self._opened_at_s = math.inf
        self._told.tell(self._course.ended(now_s, is_lost=True))
        held = await self._succession.after(self._held, failure)
        self._go_on_with(held, audio.unanswered.all())
        await audio.catch_up()

    def _go_on_with(self, held: Held[RealtimeVendor, RealtimeModel], audio: Sequence[bytes]) -> None:
        self._held, self._model = held, held.part
        self._opened_at_s = trio.current_time()
        made = self._around.metrics.speech_audio_seconds_total.labels(vendor=held.vendor.name, kind=SpeechKind.TTS)
        self._made = made.inc
        self._audio.give_to(held.part, held.vendor.name, audio)
        for to_say, text in self._course.unanswered():
            self._ask(text, to_say=to_say)
        self._stir()

    # --- renewal --------------------------------------------------------------------------------------------

    async def _until_due(self) -> None:
        """Until the connection is as old as it may become."""
        while True:
            held = self._held
            due_at_s = self._opened_at_s + held.vendor.renew_after_s if held is not None else math.inf
            if trio.current_time() >= due_at_s:
                return
            self._stirred = trio.Event()
            with trio.move_on_at(due_at_s):
                await self._stirred.wait()

    async def _until_quiet(self) -> None:
        while wait_s := self._course.quiet_in_s(trio.current_time(), self._policy.quiet_s):
            self._stirred = trio.Event()
            with trio.move_on_after(wait_s):
                await self._stirred.wait()

    async def _renew(self) -> None:
        """A new connection, with all that was said; taken if nothing has been said while it was opened."""
        old, changes = self._held, self._course.changes
        assert old is not None  # noqa: S101 - connected
        try:
            new = await self._opener.try_once(old.vendor, self._policy.try_s)
        except VendorError as exc:
            log.warning("renewal_failed", call_id=self._call.call_id, vendor=old.vendor.name, detail=str(exc))
            await trio.sleep(RENEW_PAUSE_S)
            return
        if self._held is not old or self._course.changes != changes or new.gone.is_set():
            new.let_go()  # it does not know of what was said meanwhile
            return
        self._around.reconnected(old.vendor.name, VendorKind.REALTIME, Reconnect.RENEWED)
        log.info("connection_renewed", call_id=self._call.call_id, vendor=old.vendor.name)
        self._told.tell(self._course.ended(trio.current_time(), is_lost=False))
        self._audio.voice.forget()  # whatever it was, the old one has heard it
        self._go_on_with(new, self._audio.unanswered.last(trio.current_time() - self._policy.lead_s))
        self._look_up()
        old.let_go()
