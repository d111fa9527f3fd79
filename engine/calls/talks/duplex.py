"""The conversation inside a call with a speech-to-speech model, which hears, thinks and speaks over one connection.

Tasks: the pump (provider to model), ``_listen`` (opens the model, then takes what it says), ``_speak`` (one reply at a
time to the line), those of the keys and of the scribe, one for each tool at work, and the watch of
:mod:`engine.calls.talks.watch`. Replies come faster than they are heard: they wait in
:mod:`engine.calls.talks.replies`, and nothing of one that was cut off is played.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

import structlog
import trio

from engine.calls.meters import CallMeters, outcome_of
from engine.calls.returning import Resumption
from engine.calls.talks.keys import Keys
from engine.calls.talks.mind import After, Errands, leave
from engine.calls.talks.pulse import Announcement, Conversing, Pulse, verdict_of_run
from engine.calls.talks.pump import pump
from engine.calls.talks.replies import Replies, Reply, clip_reply, reply_to
from engine.calls.talks.scribe import Account, Scribe
from engine.calls.talks.voice import FILL_AGAIN_S, Utterance, Voice
from engine.dialogue.turns import Endpointing, Turn
from engine.errors import CallEnd, ModelFailed, Why
from engine.events import (
    CallInfo,
    Context,
    Dtmf,
    HandOver,
    HangUp,
    Heard,
    MarkPlayed,
    Message,
    Missed,
    Noted,
    ProviderEvent,
    RealtimeEvent,
    ReplyAudio,
    ReplyCorrected,
    ReplyOver,
    ReplyStarted,
    ReplyText,
    Role,
    SpeechStarted,
    SpeechStopped,
    ToolCall,
    ToolResult,
    Transfer,
)
from engine.observe.labels import BargeIn, DeadAir, Stage, TurnOutcome, VendorKind, VendorStatus
from engine.observe.timeline import Timeline, What
from engine.ports import Action, Agent, CallTools, Phrases, ProviderLink, RealtimeModel, vendor_of
from engine.sessions.call_session import CallSession
from engine.settings import Limits

log = structlog.get_logger()

EARLY_FRAMES = 100
"""Of the caller, kept while the model opens: the last two seconds."""
CORRECTION_S = 1.0
"""For the vendor's own account of what was heard of a reply that was cut off."""
TOOL_S = 15.0
"""A tool has a deadline of its own; this one is for a tool that has lost it."""
MAX_TOOLS = 16
"""At work at once; a model that calls more is told so."""

MAX_REPLIES = 8
"""Whole and waiting to be heard; a model that makes more is not listened to."""
MAX_TEXT_CHARS = 20_000
"""Of one reply."""

OpenModel = Callable[[Callable[[], Context]], Awaitable[RealtimeModel]]
"""It is given what gives what was said so far. Raises ModelFailed."""


class DuplexTalk:
    """``run`` it once. Implements :class:`engine.calls.talks.pulse.Conversing`.

    ``open_model`` is asked for the model while the greeting is played already, if there is a clip of it.
    """

    def __init__(  # noqa: PLR0917 - the parts of one call, made in one place
        self,
        call: CallInfo,
        link: ProviderLink,
        open_model: OpenModel,
        tools: CallTools,
        agent: Agent,
        limits: Limits,
        meters: CallMeters,
        timeline: Timeline,
        session: CallSession,
        errands: Errands,
        goes_on: Resumption | None = None,
    ) -> None:
        """``goes_on``: with what is left of this call's last line, without an opening."""
        self.call = call
        self.limits = limits
        self.meters = meters
        self.pulse = Pulse()
        self.voice = Voice(link, agent, meters, patience_s=lambda: limits.reply_s)
        self._link = link
        self._open_model = open_model
        self._tools = tools
        self._agent = agent
        self._timeline = timeline
        self._session = session
        self._errands = errands
        self._scribe = Scribe(session, timeline, words_s=Endpointing().lost_words_s)
        self._keys = Keys(self._typed)
        self._replies = Replies()
        self._model: RealtimeModel | None = None
        self._is_open = trio.Event()
        self._for_opening = trio.CancelScope()
        """Around the wait of the opening for the model."""
        self._early: deque[bytes] = deque(maxlen=EARLY_FRAMES)
        self._next: Announcement | None = None
        self._goes_on = goes_on
        self._cut_off: Resumption | None = None
        """What is left of the last reply, if it was neither heard whole nor interrupted."""
        self._was_opened = False
        self._something_to_say = trio.Event()
        self._is_caller_speaking = False
        self._is_leaving = False
        """The last words of the call: nobody interrupts them."""
        self._clip_while_opening: str | None = None
        """What is heard meanwhile, and not in the session yet."""
        self._filled_until_s = -math.inf
        """The end of the last filler, if the caller has said nothing since."""
        self._tools_at_work = 0
        self._last_heard: Reply | None = None
        """The model's last reply, if the caller has said nothing since."""
        self._after: After | None = None
        """What is to be done once what the model says with it has been heard."""
        self._failures = 0
        """Of the model, in a row."""

    @property
    def phrases(self) -> Phrases:
        return self._agent.phrases

    @property
    def _vendor(self) -> str:
        """Of the model that answers now."""
        return vendor_of(self._model, self._agent.model_vendor)

    @property
    def is_idle(self) -> bool:
        return (
            self._replies.current is None
            and not self._replies.waiting
            and self._next is None
            and not self._tools_at_work
            and not self._is_caller_speaking
            and self._keys.is_idle
            and not self._scribe.awaits_words
        )

    @property
    def is_audible(self) -> bool:
        return self.voice.is_audible

    @property
    def audio_out_s(self) -> float:
        return self.voice.audio_out_s

    @property
    def spoken_s(self) -> float:
        return self.voice.spoken_s

    @property
    def buffered_s(self) -> float:
        return self.voice.remaining_s

    def awaited(self) -> tuple[DeadAir | None, float]:
        if self.voice.is_audible or self._is_caller_speaking:
            return None, 0.0
        reply, quiet_since_s = self._replies.current, max(self.pulse.started_at_s, self.voice.queued_until_s)
        if reply is not None and not reply.is_clip:
            if reply.utterance.is_queued:  # only the mark is missing
                return None, 0.0
            turn = reply.utterance.turn
            since_s = max(turn.ended_at_s if turn else reply.utterance.began_at_s, quiet_since_s)
            return DeadAir.TTS if reply.has_sound else DeadAir.LLM, since_s
        if self._model is None or self._tools_at_work:
            return DeadAir.LLM, quiet_since_s
        if reply is None and self._scribe.awaits_words:
            return DeadAir.STT, max(self.pulse.last_sound_s, quiet_since_s)
        return None, 0.0

    @property
    def unfinished(self) -> Resumption | None:
        if self._cut_off is None and not self._was_opened:
            return self._goes_on
        return self._cut_off or Resumption()

    async def fill(self) -> None:
        reply = self._replies.current
        if trio.current_time() < self._filled_until_s + FILL_AGAIN_S:
            return
        if reply is not None and not reply.is_clip:
            if reply.utterance.has_sounded:
                return
        elif self._is_open.is_set() and not self._tools_at_work:
            return
        if await self.voice.say_clip(self.phrases.filler):
            self._filled_until_s = self.voice.queued_until_s
            self._timeline.note(What.FILLER)

    def say(self, text: str, *, then: CallEnd | None = None) -> None:
        if self._is_leaving or (self._next is not None and self._next.then is not None):
            return
        self._next = Announcement(text, then)
        if then is not None:
            self._for_opening.cancel()
            self._cut_all()
        self._something_to_say.set()

    async def ping(self) -> None:
        await self._link.ping()

    async def run(self, watch: Callable[[Conversing], Awaitable[None]], early: Iterable[ProviderEvent] = ()) -> CallEnd:
        try:
            with self.pulse.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._listen, nursery)
                    nursery.start_soon(self._speak)
                    nursery.start_soon(self._keys.run)
                    nursery.start_soon(self._scribe.run)
                    nursery.start_soon(watch, self)
                    await pump(
                        self._link,
                        self.pulse,
                        early,
                        send=self._send,
                        signal=self._signal,
                        on_gap=self.meters.on_gap,
                    )
        finally:
            self._scribe.close()
        return verdict_of_run(self.pulse)

    # --- provider -> model ----------------------------------------------------------------------------------

    def _send(self, audio: bytes) -> None:
        if self._model is None:
            if len(self._early) == EARLY_FRAMES:
                self.meters.early_frame_dropped()
            self._early.append(audio)
        elif not self._is_leaving:  # else the vendor would take a "bye" for an interruption of the goodbye
            self._model.send(audio)

    def _signal(self, event: ProviderEvent) -> None:
        """Of the provider, everything but audio and the end."""
        if isinstance(event, MarkPlayed):
            self.voice.mark_played(event.name)
        elif isinstance(event, Dtmf):
            now = trio.current_time()
            self.pulse.last_activity_s = now
            self._timeline.note(What.DTMF)
            self._interrupt(BargeIn.DTMF, now)
            self._keys.press(event)

    async def _typed(self, turn: Turn) -> None:
        await self._is_open.wait()
        if self._model is None or self._is_leaving:
            return
        self._cut_all()
        self._turn_was_taken()
        self._scribe.caller_said(turn.text)
        self._model.told(turn.text)
        self._expect(reply_to(turn))

    # --- model -> replies -----------------------------------------------------------------------------------

    async def _listen(self, nursery: trio.Nursery) -> None:
        self._model = model = await self._opened()
        for audio in self._early:
            model.send(audio)
        self._early.clear()
        self._is_open.set()
        while True:
            event = await model.receive()
            if isinstance(event, ToolCall):
                self._begin_tool(event, model, nursery)
            else:
                self._take(event)

    async def _opened(self) -> RealtimeModel:
        failure = ModelFailed(self._vendor, "did not open in time", why=Why.TIMEOUT)
        with trio.move_on_after(self.limits.open_s):
            try:
                return await self._open_model(self._recalled)
            except ModelFailed as exc:
                failure = exc
        await trio.sleep(self.voice.remaining_s)  # the greeting is heard before the apology
        raise failure

    def _recalled(self) -> Context:
        """What the model is to know; the greeting is of that, if it is heard while the model opens."""
        context = self._session.recalled(self._agent)
        if self._clip_while_opening is None:
            return context
        return replace(context, messages=(*context.messages, Message(Role.AGENT, self._clip_while_opening)))

    def _take(self, event: RealtimeEvent) -> None:
        match event:
            case ReplyAudio(reply_id, audio):
                self._sound(reply_id, audio)
            case ReplyText(reply_id, text):
                reply = self._replies.of(reply_id)
                if reply is not None and not reply.announced and len(reply.spoken.text) < MAX_TEXT_CHARS:
                    reply.spoken.text += text[:MAX_TEXT_CHARS]
            case ReplyStarted(reply_id):
                self._reply_began(reply_id)
            case ReplyOver(reply_id):
                self._no_more_of(reply_id)
            case ReplyCorrected(reply_id, text):
                self._scribe.corrected(reply_id, text.strip())
            case SpeechStarted(at_s):
                self._onset(at_s)
            case SpeechStopped(at_s):
                self._caller_stopped(at_s)
            case Heard():
                self._heard(event)
            case Missed():
                self._cut(lambda reply: reply.is_awaited)
                self.say(self.phrases.say_again)

    def _reply_began(self, reply_id: str) -> None:
        now = self.pulse.last_activity_s = trio.current_time()
        self._is_caller_speaking = False
        if self._replies.is_one_coming:  # its vendor has given that up for this one
            self._cut(lambda reply: bool(reply.reply_id))
        if len(self._replies.waiting) >= MAX_REPLIES:
            return
        reply = self._replies.awaited or self._expect(reply_to(None))
        reply.reply_id = reply.say.reply_id = reply_id
        reply.began_at_s = now
        self._scribe.agent_began(reply.say)
        if reply.utterance.turn is not None:
            after_s = now - reply.utterance.turn.ended_at_s
            self.meters.stage(Stage.LLM_FIRST_TOKEN, self._vendor, after_s)

    def _sound(self, reply_id: str, audio: bytes) -> None:
        reply = self._replies.of(reply_id)
        if reply is None or reply.is_complete:
            return
        self._cut(lambda other: other.is_awaited and not other.is_owed)  # the model goes on in this one
        reply.add(audio, self._link.format.duration_s(audio))
        if reply.spoken.audio_s >= self.limits.max_answer_s and self._model is not None:
            self._model.interrupt(reply.spoken.audio_s)
            reply.complete()

    def _no_more_of(self, reply_id: str) -> None:
        reply = self._replies.of(reply_id)
        if reply is None:
            return
        is_answer = reply.utterance.turn is not None or reply.announced or self._tools_at_work
        if reply.has_sound or not is_answer:
            reply.complete()
        else:  # a tool was called, or nothing was said: the answer is still to come, and no longer waited for
            reply.reply_id = ""

    # --- what the caller says -------------------------------------------------------------------------------

    def _onset(self, at_s: float) -> None:
        self.pulse.last_activity_s = trio.current_time()
        self._is_caller_speaking = True
        self._filled_until_s = -math.inf
        self._scribe.caller_began()
        self._interrupt(BargeIn.SPEECH, at_s)

    def _caller_stopped(self, at_s: float) -> None:
        self.pulse.last_activity_s = trio.current_time()
        self.pulse.last_sound_s = at_s
        self._is_caller_speaking = False
        self._scribe.caller_stopped(at_s)
        self._expect_answer(Turn("", at_s))

    def _heard(self, event: Heard) -> None:
        now = self.pulse.last_activity_s = trio.current_time()
        if not event.is_final:
            return
        text = event.text.strip()
        answer = next((reply for reply in self._replies if reply.answers_unknown_words), None)
        if text:
            self.meters.stage(Stage.STT_FINAL, self._vendor, now - self.pulse.last_sound_s)
            self._turn_was_taken()
        is_unanswered = self._scribe.caller_said(text, before=answer.say if answer else None)
        if not self._scribe.awaits_words:
            self._is_caller_speaking = False
        if answer is not None and answer.utterance.turn is not None:
            if text:
                answer.utterance.turn = replace(answer.utterance.turn, text=text)
            elif answer.is_awaited and not self._scribe.awaits_words:
                self._cut(lambda reply: reply is answer)  # it was no words
        elif text and is_unanswered:
            self._expect_answer(Turn(text, now))

    def _turn_was_taken(self) -> None:
        self.pulse.turns_taken += 1
        self.pulse.last_progress_s = trio.current_time()
        self._tools.begin_turn()

    def _interrupt(self, kind: BargeIn, onset_s: float) -> None:
        """The caller began to speak, or pressed a key, into the agent's words or thoughts."""
        if self._is_leaving:
            return
        was_audible = self.voice.is_audible
        self._cut_all()
        if was_audible:
            stop_s = max(0.0, trio.current_time() - onset_s)
            self.meters.barge_in(kind)
            self.meters.silenced(stop_s)
            self._timeline.note(What.BARGE_IN, stop_ms=round(stop_s * 1000))

    def _cut_all(self) -> None:
        """Silence on the line; and the model stops, and learns how much of its last reply was heard."""
        newest = self._replies.newest
        is_models = any(not reply.is_clip for reply in self._replies)
        heard_s = min(self.voice.heard_s(newest.utterance), newest.spoken.audio_s) if newest else 0.0
        self._cut(lambda _: True)
        if self.voice.is_audible:
            self._link.clear()  # a filler
        if self._model is not None and is_models:
            self._model.interrupt(heard_s)
        self._after = self._last_heard = None

    def _cut(self, is_wanted: Callable[[Reply], bool]) -> None:
        for reply in filter(is_wanted, list(self._replies)):
            if reply is self._replies.current:
                self.voice.hush(reply.utterance)
            else:
                self._replies.waiting.remove(reply)
                reply.utterance.was_interrupted = True
                self._reply_is_past(reply, is_whole=False)

    # --- tools ----------------------------------------------------------------------------------------------

    def _begin_tool(self, call: ToolCall, model: RealtimeModel, nursery: trio.Nursery) -> None:
        if self._tools_at_work >= MAX_TOOLS:
            model.tool_results([ToolResult(call.call_id, "Too many tools are at work.", is_error=True)])
            return
        self._tools_at_work += 1
        calling = self._replies.newest or self._replies.awaited or self._last_heard
        nursery.start_soon(self._tool, call, model, calling)

    async def _tool(self, call: ToolCall, model: RealtimeModel, calling: Reply | None) -> None:
        """``calling`` is the reply that it was called in, after or instead of."""
        self._be_patient()
        result = ToolResult(call.call_id, "The tool did not answer in time.", is_error=True)
        actions: Sequence[Action] = ()
        with trio.move_on_after(TOOL_S):
            done = await self._tools.run([call], self._session.recalled(self._agent))
            (result,), actions = done.results, done.actions
        self._tools_at_work -= 1
        for action in actions:
            match action:
                case Noted():
                    self._scribe.noted(action, calling.say if calling else None)
                case HandOver():
                    result = ToolResult(call.call_id, "This cannot be done in this call.", is_error=True)
                case HangUp() | Transfer():
                    self._after = action
        model.tool_results([result])
        self._be_patient()
        if calling is None or calling.utterance.was_interrupted:
            return
        if self._after is not None and calling.has_sound:  # these are the last words that go with it
            if calling.is_past:
                await self._leave()
        elif not self._tools_at_work and self._replies.awaited is None:
            reply = reply_to(None)
            reply.is_owed = not calling.has_sound
            self._expect(reply)

    def _be_patient(self) -> None:
        for reply in self._replies:
            if reply.is_awaited:
                self.voice.be_patient(reply.utterance)

    async def _leave(self) -> None:
        after, self._after = self._after, None
        if after is not None and not await leave(after, self.pulse, self._errands):
            self.say(self.phrases.not_connected)

    # --- replies -> line ------------------------------------------------------------------------------------

    def _expect(self, reply: Reply) -> Reply:
        self._replies.waiting.append(reply)
        self._something_to_say.set()
        return reply

    def _expect_answer(self, turn: Turn) -> None:
        if not self._is_leaving and not self._replies:
            self._expect(reply_to(turn))

    async def _speak(self) -> None:
        await self._open_or_go_on()
        self._was_opened = True
        replies = self._replies
        while True:
            while self._next is None and not replies.waiting:
                self._something_to_say = trio.Event()
                await self._something_to_say.wait()
            if self._next is not None and (self._next.then is not None or not replies.waiting):
                what, self._next = self._next, None
                await self._announce(what)
            else:
                await self._utter(replies.waiting.popleft())

    async def _open_or_go_on(self) -> None:
        left = self._goes_on
        if left is None:
            await self._announce(Announcement(self._session.opening(self.phrases), is_opening=True))
        elif left.sentences or left.turn:
            # What the model of the last line had heard is gone with it.
            text = " ".join(left.sentences) or self.phrases.say_again
            await self._announce(Announcement(text))

    async def _announce(self, what: Announcement) -> None:
        if what.then is None:
            if (reply := await self._announced(what)) is not None:
                await self._utter(reply)
            return
        self._is_leaving = True
        with trio.move_on_after(self.limits.goodbye_s):
            if (reply := await self._announced(what)) is not None:
                await self._utter(reply)
        self.pulse.end(what.then)

    async def _announced(self, what: Announcement) -> Reply | None:
        """As a clip, where nothing is said to it in reply, or the model may not be at hand; else by the model. None: a
        last word came before it could be said."""
        clip = self._agent.clip(what.text, self._link.format)
        if clip is not None and not (what.text in self._prompts and self._is_open.is_set()):
            reply = clip_reply(what.text, clip, self._link.format.duration_s(clip), is_opening=what.is_opening)
            self._scribe.agent_began(reply.say)
            self._clip_while_opening = what.text if what.is_opening else None
            return reply
        with self._for_opening if what.is_opening else trio.CancelScope():
            await self._is_open.wait()
        if self._model is None:
            return None
        self._model.say(what.text)
        return reply_to(None, announced=what.text, is_opening=what.is_opening)

    @property
    def _prompts(self) -> tuple[str, ...]:
        """The model should know of these, as the caller answers them."""
        return self.phrases.still_there, self.phrases.last_minute

    async def _utter(self, reply: Reply) -> None:
        """To the last sound that the caller hears of it."""
        self._replies.current, utterance, self._cut_off = reply, reply.utterance, None
        self.voice.be_patient(utterance)
        is_whole = False
        try:
            with utterance.scope:
                await self._play(reply)
                utterance.is_queued = True
                await self.voice.until_heard()
                is_whole = True
        finally:
            self._replies.current = None
            self._reply_is_past(reply, is_whole=is_whole)
            if not is_whole and not utterance.was_interrupted:
                self._note_cut_off(utterance)
        if is_whole:
            self._failures = 0 if reply.reply_id else self._failures
            if reply.reply_id:
                await self._leave()
        elif reply.is_owed and not utterance.was_interrupted and not self._is_leaving:
            await self._is_without_answer(reply)

    def _note_cut_off(self, utterance: Utterance) -> None:
        if utterance.is_opening and not self.voice.heard_s(utterance):
            return
        self._cut_off = Resumption(tuple(filter(None, self.voice.rest_of(utterance))), utterance.turn)

    async def _play(self, reply: Reply) -> None:
        utterance = reply.utterance
        while (piece := await reply.next_piece()) is not None:
            was_silent = not utterance.has_sounded
            await self.voice.play(utterance, piece, is_clip=reply.is_clip)
            if was_silent and utterance.turn is not None and utterance.first_audio_at_s is not None:
                after_s = utterance.first_audio_at_s - reply.began_at_s
                self.meters.stage(Stage.TTS_FIRST_AUDIO, self._vendor, after_s)
                self.meters.stage(Stage.PLAYOUT, self.call.provider, utterance.behind_s)

    async def _is_without_answer(self, reply: Reply) -> None:
        """The model does not go on. That may happen now and then, and the caller is told."""
        self.meters.turn(TurnOutcome.ERROR)
        if self._after is not None:
            await self._leave()  # it was to say goodbye
            return
        self._failures += 1
        failure = ModelFailed(self._vendor, "no answer in time", why=Why.TIMEOUT)
        if self._failures > self.limits.model_failures:
            raise failure
        log.warning("answer_failed", call_id=self.call.call_id, detail=str(failure))
        if self._model is not None:
            self._model.interrupt(self.voice.heard_s(reply.utterance))
        self.say(self.phrases.sorry)

    def _reply_is_past(self, reply: Reply, *, is_whole: bool) -> None:
        reply.is_past = True
        if is_whole and reply.reply_id:
            self._last_heard = reply
        if reply.is_clip:
            self._clip_while_opening = None
        utterance, now = reply.utterance, trio.current_time()
        if utterance.has_sounded:
            self.pulse.last_activity_s = self.pulse.last_progress_s = now
        heard = (utterance.text if is_whole else self.voice.heard_of(utterance)).strip()
        # A correction can only come of what the model has said.
        settles_in_s = CORRECTION_S if reply.reply_id and not is_whole else 0.0
        account = Account(heard, not is_whole, utterance.response_ms, settles_in_s)
        self._scribe.agent_was_heard(reply.say, account)
        self._count(reply, heard, is_whole=is_whole)

    def _count(self, reply: Reply, heard: str, *, is_whole: bool) -> None:
        utterance, vendor = reply.utterance, self._vendor
        if is_whole and reply.announced == self.phrases.greeting:
            self.meters.greeted()
        if reply.reply_id:
            status = VendorStatus.CANCELLED if utterance.was_interrupted else VendorStatus.TIMEOUT
            self.meters.request(VendorKind.REALTIME, vendor, VendorStatus.OK if is_whole else status)
        if utterance.turn is None:
            return
        if utterance.first_audio_at_s is not None:
            self.meters.latency(utterance.turn, utterance.first_audio_at_s)
        if is_whole or (utterance.was_interrupted and reply.reply_id):
            self.meters.turn(outcome_of(heard, is_whole=is_whole))
