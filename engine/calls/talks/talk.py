"""The conversation inside a call with a transcriber, a language model and a synthesizer: listen, think, speak, be
interrupted, fall silent, end.

Tasks: the pump (provider to recogniser), ``_listen`` (speech onset and words to turns), ``_speak`` (one utterance at a
time) and the watch of :mod:`engine.calls.talks.watch`. They share this object and one loop, so a plain attribute is
enough between them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import structlog
import trio

from engine.calls.gate import Gate
from engine.calls.meters import CallMeters, outcome_of
from engine.calls.returning import Resumption
from engine.calls.talks.mind import Errands, Mind, leave
from engine.calls.talks.pulse import Announcement, Conversing, Pulse, verdict_of_run
from engine.calls.talks.pump import pump
from engine.calls.talks.voice import FILL_AGAIN_S, Utterance, Voice
from engine.dialogue.turns import Endpointing, Turn, TurnTaker, asks_for_presence
from engine.errors import CallEnd, Cause, ModelFailed, SpeechFailed, VendorError, Why
from engine.events import (
    CallInfo,
    Dtmf,
    Heard,
    MarkPlayed,
    Missed,
    ProviderEvent,
    SpeechStarted,
    SpeechStopped,
    TurnResumed,
)
from engine.observe.labels import BargeIn, DeadAir, Stage, TurnOutcome
from engine.observe.timeline import Timeline, What
from engine.ports import Agent, LanguageModel, Phrases, ProviderLink, Synthesizer, Transcriber, patience_with, vendor_of
from engine.sessions.call_session import CallSession
from engine.settings import Limits

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Parts:
    transcriber: Transcriber
    synthesizer: Synthesizer
    mind: Mind


@dataclass(frozen=True, slots=True)
class Draft:
    """An answer to what the caller has said so far."""

    turn: Turn


Say = Turn | Draft | Announcement | Resumption


OpenParts = Callable[[], Awaitable[tuple[Transcriber, Synthesizer, LanguageModel]]]
"""Raises VendorError."""

EARLY_FRAMES = 100
"""Of the caller, kept while the parts open: the last two seconds."""


class Talk:
    """``run`` it once. Implements :class:`engine.calls.talks.pulse.Conversing`.

    ``open_parts`` is asked for what hears, thinks and speaks while the greeting is heard already, if there is a clip of
    it.
    """

    def __init__(  # noqa: PLR0917 - the parts of one call, made in one place
        self,
        call: CallInfo,
        link: ProviderLink,
        open_parts: OpenParts,
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
        self.voice = Voice(link, agent, meters, patience_s=self._patience_s)
        self.turns = TurnTaker(Endpointing(limits.finished_turn_s, limits.unfinished_turn_s))
        self.utterance: Utterance | None = None
        """What is being said, or thought about, now."""
        self._link = link
        self._open_parts = open_parts
        self._parts: _Parts | None = None
        self._is_open = trio.Event()
        self._early: deque[bytes] = deque(maxlen=EARLY_FRAMES)
        self._was_greeted = trio.Event()
        self._filled_opening = False
        self._agent = agent
        self._timeline = timeline
        self._session = session
        self._errands = errands
        self._next: Say | None = None
        self._something_to_say = trio.Event()
        self._endpoint = trio.CancelScope()
        self._resumable: Resumption | Turn | None = None
        self._goes_on = goes_on
        self._cut_off: Resumption | None = None
        """What is left of the last utterance, if it was neither heard whole nor interrupted."""
        self._words_at_s = -math.inf
        self._onset_s = -math.inf
        """Of speech into the agent's words that may be too short to stop it."""
        self._failures = 0
        """Of the model, in a row."""
        self._said: list[str] = []
        """Of the caller, while an answer has not ended."""

    @property
    def phrases(self) -> Phrases:
        return self._agent.phrases

    @property
    def is_idle(self) -> bool:
        return (
            self.utterance is None
            and self._next is None
            and not self.turns.is_caller_speaking
            and not self.turns.is_waiting_for_words
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
        utterance = self.utterance
        if self.voice.is_audible or self.turns.is_caller_speaking:
            return None, 0.0
        if self._parts is None:
            return DeadAir.STT, max(self.pulse.started_at_s, self.voice.queued_until_s)
        if utterance is not None and utterance.turn is not None:
            if utterance.is_queued or utterance.is_draft:  # only the mark is missing; or it is the caller's turn still
                return None, 0.0
            since_s = max(utterance.turn.ended_at_s, self.voice.queued_until_s)
            return DeadAir.TTS if utterance.spoken else DeadAir.LLM, since_s
        if utterance is None and self.turns.is_waiting_for_words:
            return DeadAir.STT, self.pulse.last_sound_s
        return None, 0.0

    @property
    def unfinished(self) -> Resumption | None:
        match self._next:
            case Turn():
                return Resumption(turn=self._next)
            case Resumption():
                return self._next
        if self._cut_off is None and not self._was_greeted.is_set():
            return self._goes_on
        return self._cut_off or Resumption()

    async def fill(self) -> None:
        utterance = self.utterance
        if self._parts is None:
            if self._filled_opening:
                return
            self._filled_opening = True
        elif utterance is None or trio.current_time() < utterance.filled_until_s + FILL_AGAIN_S:
            return
        if await self.voice.say_clip(self.phrases.filler, utterance):
            if utterance is not None:
                utterance.filled_until_s = self.voice.queued_until_s
            self._timeline.note(What.FILLER)

    def say(self, text: str, *, then: CallEnd | None = None) -> None:
        utterance = self.utterance
        if utterance is not None and (utterance.is_draft or (then is not None and utterance.is_interruptible)):
            self.voice.hush(utterance)
        self._say_next(Announcement(text, then))

    async def ping(self) -> None:
        await self._link.ping()

    async def run(self, watch: Callable[[Conversing], Awaitable[None]], early: Iterable[ProviderEvent] = ()) -> CallEnd:
        with self.pulse.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen)
                nursery.start_soon(self._speak)
                nursery.start_soon(watch, self)
                await pump(
                    self._link,
                    self.pulse,
                    early,
                    send=self._hear,
                    signal=self._signal,
                    on_gap=self.meters.on_gap,
                )
        return verdict_of_run(self.pulse)

    def _signal(self, event: ProviderEvent) -> None:
        """Of the provider, everything but audio and the end."""
        if isinstance(event, MarkPlayed):
            self.voice.mark_played(event.name)
        elif isinstance(event, Dtmf):
            self._key_pressed(event)

    def _key_pressed(self, event: Dtmf) -> None:
        now = trio.current_time()
        self.pulse.last_activity_s = now
        self._timeline.note(What.DTMF)
        self._interrupt(BargeIn.DTMF, now, may_resume=False)
        self.turns.on_digit(event, now)
        self._endpoint.deadline = self.turns.due_at_s()

    # --- its beginning --------------------------------------------------------------------------------------

    def _hear(self, audio: bytes) -> None:
        if self._parts is not None:
            self._parts.transcriber.send(audio)
        else:
            if len(self._early) == EARLY_FRAMES:
                self.meters.early_frame_dropped()
            self._early.append(audio)

    async def _open(self) -> Transcriber:
        """What hears, thinks and speaks. Raises VendorError, once the caller has heard the greeting."""
        try:
            with trio.move_on_after(self.limits.open_s) as opening:
                transcriber, synthesizer, model = await self._open_parts()
            if opening.cancelled_caught:
                raise SpeechFailed(self._agent.transcriber_vendor, "a vendor did not open in time", why=Why.TIMEOUT)
        except VendorError:
            if self.utterance is not None and self.utterance.has_sounded:
                await self._was_greeted.wait()
            raise
        mind = Mind(self._agent, model, self._session, self._errands, self.meters, longest_s=self.limits.max_answer_s)
        self._parts = _Parts(transcriber, synthesizer, mind)
        for audio in self._early:
            transcriber.send(audio)
        self._early.clear()
        self._is_open.set()
        return transcriber

    # --- recogniser -> turns --------------------------------------------------------------------------------

    async def _listen(self) -> None:
        transcriber = await self._open()
        while True:
            with trio.CancelScope(deadline=self.turns.due_at_s()) as self._endpoint:
                event = await transcriber.receive()
                self.pulse.last_activity_s = trio.current_time()
                self.turns.decides_turns = transcriber.decides_turns  # another one may have taken over
                self.turns.on_speech(event)
                match event:
                    case SpeechStarted(at_s):
                        self._onset(at_s)
                    case SpeechStopped(at_s):
                        self.pulse.last_sound_s = at_s
                    case TurnResumed():
                        self._drop_draft()
                    case Heard():
                        self._heard(event)
                    case Missed():
                        self._resumable = None
                        self._say_next(Announcement(self.phrases.say_again))
                self._consider_draft()
            if trio.current_time() >= self.turns.due_at_s():
                self._turn_is_over()

    def _heard(self, event: Heard) -> None:
        text, utterance = event.text.strip(), self.utterance
        is_sounding = utterance is not None and utterance.has_sounded and not utterance.was_interrupted
        if self.limits.barge_in_words and is_sounding and text:
            self._heard_into_speech(text, is_final=event.is_final)
        if not event.is_final:
            return
        self._words_at_s = self.pulse.last_activity_s
        if not text:
            self._nothing_was_said()
            return
        self.pulse.last_progress_s = self.pulse.last_activity_s
        if utterance is not None and not utterance.gate.is_open and not utterance.is_draft and asks_for_presence(text):
            # An answer is being thought of; asked anew at each "hello?", it would never come.
            self.turns.forget()
            self._timeline.note(What.HEARD, text=text)
            utterance.gate.open()

    def _heard_into_speech(self, text: str, *, is_final: bool) -> None:
        """Words, where only so many of them stop the agent."""
        if len(text.split()) >= self.limits.barge_in_words:
            self._interrupt(BargeIn.SPEECH, self._onset_s, may_resume=True)
        elif is_final:
            self.turns.forget()  # "mhm"

    def _onset(self, at_s: float) -> None:
        """The caller begins to speak."""
        self._onset_s = at_s
        utterance = self.utterance
        self._drop_draft()
        if utterance is None or utterance.is_draft:
            return
        if not utterance.has_sounded and utterance.turn is not None:
            utterance.gate.close()  # whether it is words, and an answer is still wanted, is to be seen
        elif not (self.limits.barge_in_words and self.voice.is_audible):
            self._interrupt(BargeIn.SPEECH, at_s, may_resume=True)

    def _consider_draft(self) -> None:
        likely = self.turns.likely if self.limits.drafts else None
        if likely is not None and self.utterance is None and self._next is None and self._resumable is None:
            self._say_next(Draft(likely))

    def _drop_draft(self) -> None:
        """The caller goes on."""
        if isinstance(self._next, Draft):
            self._next = None
        if self.utterance is not None and self.utterance.is_draft:
            self.utterance.was_interrupted = True
            self.utterance.scope.cancel()

    def _turn_is_over(self) -> None:
        turn = self.turns.take()
        if turn is None:
            self._nothing_was_said()
            return
        self._resumable = None
        pulse, transcriber = self.pulse, self._parts.transcriber if self._parts else None
        vendor = vendor_of(transcriber, self._agent.transcriber_vendor)
        pulse.turns_taken += 1
        pulse.last_progress_s = trio.current_time()
        self._timeline.note(What.HEARD, text=turn.text)
        words_at_s = max(turn.ended_at_s, self._words_at_s)
        self.meters.stage(Stage.STT_FINAL, vendor, words_at_s - turn.ended_at_s)
        self.meters.stage(Stage.ENDPOINTING, vendor, pulse.last_progress_s - words_at_s)
        if self._keep_draft(turn):
            return
        utterance = self.utterance
        if utterance is not None and utterance.is_interruptible:
            # Words without an onset (a recogniser may send them), or into an answer that was being thought of.
            if not utterance.is_draft and not utterance.has_sounded:
                self.turns.was_too_early()
            self.voice.hush(utterance)
        self._said.append(turn.text)
        if self.utterance is None:
            self._tell_session()
        self._say_next(turn)

    def _keep_draft(self, turn: Turn) -> bool:
        """The caller has said no more than what the draft answers: it may be heard."""
        draft = self.utterance
        if draft is None or draft.unsaid != turn.text or draft.was_interrupted:
            return False
        draft.turn, draft.unsaid = turn, ""
        self._session.caller_said(turn.text)
        self._let_sound(draft)
        return True

    def _let_sound(self, utterance: Utterance) -> None:
        for noted in utterance.pending:
            self._session.note(noted)
        utterance.pending.clear()
        self.voice.be_patient(utterance)
        utterance.gate.open()

    def _tell_session(self) -> None:
        """What the caller said into an answer comes behind what was heard of that, which is known once it is over."""
        for text in self._said:
            self._session.caller_said(text)
        self._said.clear()

    def _interrupt(self, kind: BargeIn, onset_s: float, *, may_resume: bool) -> None:
        """The caller began to speak, or pressed a key, into the agent's words or thoughts."""
        utterance = self.utterance
        self._drop_draft()
        if utterance is None or not utterance.is_interruptible or utterance.was_interrupted:
            return
        was_audible = self.voice.is_audible
        utterance.may_resume = may_resume
        self.voice.hush(utterance)
        if was_audible:
            stop_s = max(0.0, trio.current_time() - onset_s)
            self.meters.barge_in(kind)
            self.meters.silenced(stop_s)
            self._timeline.note(What.BARGE_IN, stop_ms=round(stop_s * 1000))

    def _nothing_was_said(self) -> None:
        """The sound that stopped an answer, or held it back, held no words: go on with the answer."""
        if self.utterance is not None and not self.utterance.is_draft and not self.utterance.gate.is_open:
            self._let_sound(self.utterance)
        is_quiet = not self.turns.is_caller_speaking and not self.turns.is_waiting_for_words
        if self._resumable is None or self._next is not None or not is_quiet or not math.isinf(self.turns.due_at_s()):
            return
        resumable, self._resumable = self._resumable, None
        self.meters.barge_in(BargeIn.FALSE)
        self._say_next(resumable)

    # --- turns -> words -> line -----------------------------------------------------------------------------

    def _say_next(self, what: Say) -> None:
        """At most one thing waits. What ends the call is never pushed aside; the caller's newest turn is next to it."""
        if isinstance(self._next, Announcement) and self._next.then is not None:
            return
        if isinstance(what, Announcement) and what.then is None and isinstance(self._next, Turn | Resumption):
            return
        self._next = what
        self._something_to_say.set()

    async def _speak(self) -> None:
        if self._goes_on is None:
            await self._announce(Announcement(self._session.opening(self.phrases), is_opening=True))
        elif self._next is None:
            self._next = self._goes_on if self._goes_on.sentences else _asked_again(self._goes_on.turn)
        self._was_greeted.set()
        while True:
            while self._next is None:
                self._something_to_say = trio.Event()
                await self._something_to_say.wait()
            what, self._next = self._next, None
            match what:
                case Announcement():
                    await self._announce(what)
                case Resumption(sentences, turn, after):
                    await self._utter(Utterance(turn, after=after), sentences=sentences)
                case Turn():
                    await self._answer(Utterance(what))
                case Draft(turn):
                    await self._answer(Utterance(turn, gate=Gate(is_open=False), unsaid=turn.text))

    async def _announce(self, what: Announcement) -> None:
        utterance = Utterance(is_interruptible=what.then is None, is_opening=what.is_opening)
        if what.then is None:
            await self._utter(utterance, sentences=(what.text,))
            return
        with trio.move_on_after(self.limits.goodbye_s):
            await self._utter(utterance, sentences=(what.text,))
        self.pulse.end(what.then)

    async def _answer(self, utterance: Utterance) -> None:
        """The model's answer. It may fail now and then, which the caller is told."""
        try:
            await self._utter(utterance)
        except ModelFailed as exc:
            if utterance.is_draft or utterance.was_interrupted:
                return  # it is asked again, if the caller is to be answered at all
            self._failures += 1
            self.meters.turn(TurnOutcome.ERROR)
            if self._failures > self.limits.model_failures or not exc.why.may_pass:
                raise
            log.warning("answer_failed", call_id=self.call.call_id, detail=str(exc))
            self._say_next(Announcement(self.phrases.sorry))

    async def _utter(self, utterance: Utterance, *, sentences: tuple[str, ...] = ()) -> None:
        """Say these sentences, or what the model answers, to the last sound the caller hears of it."""
        self.utterance, self._cut_off = utterance, None
        self.voice.be_patient(utterance)
        is_whole = False
        try:
            with utterance.scope:
                if sentences:
                    for sentence in sentences:
                        await self._say(utterance, sentence)
                else:
                    await self._think(utterance)
                await utterance.gate.wait()
                utterance.is_queued = True
                await self.voice.until_heard()
                is_whole = True
        finally:
            self._utterance_is_over(utterance, is_whole=is_whole)
            if not is_whole and not utterance.was_interrupted:
                self._note_cut_off(utterance, sentences)
        if utterance.was_interrupted:
            return
        if not is_whole:
            if utterance.spoken and not utterance.spoken[-1].is_whole:
                self.meters.turn(TurnOutcome.ERROR)
                self.pulse.end(CallEnd(Cause.SPEECH_FAILED, "no answer in time"))
                return
            vendor = self._parts.mind.vendor if self._parts else self._agent.model_vendor
            raise ModelFailed(vendor, "no answer in time", why=Why.TIMEOUT)
        if utterance.turn is not None:
            self._failures = 0
        if utterance.after is not None and not await leave(utterance.after, self.pulse, self._errands):
            self._say_next(Announcement(self.phrases.not_connected))

    async def _opened(self) -> _Parts:
        """Once everything has opened."""
        await self._is_open.wait()
        assert self._parts is not None  # noqa: S101 - set before the event is
        return self._parts

    async def _think(self, utterance: Utterance) -> None:
        try:
            await (await self._opened()).mind.answer(utterance, partial(self._say, utterance))
        except ModelFailed:
            if utterance.has_sounded:
                await self.voice.until_heard()  # what is whole of it
            raise

    async def _say(self, utterance: Utterance, sentence: str, _began_at_s: float = 0.0) -> None:
        was_silent = utterance.first_audio_at_s is None
        if self._parts is None and await self.voice.say_ready(utterance, sentence):
            return
        synthesizer, asked_at_s = (await self._opened()).synthesizer, trio.current_time()
        await self.voice.say(utterance, sentence, synthesizer)
        if utterance.turn is not None and was_silent and utterance.first_audio_at_s is not None:
            vendor = vendor_of(synthesizer, self._agent.synthesizer_vendor)
            self.meters.stage(Stage.TTS_FIRST_AUDIO, vendor, utterance.first_audio_at_s - asked_at_s)
            self.meters.stage(Stage.PLAYOUT, self.call.provider, utterance.behind_s)

    def _patience_s(self) -> float:
        agent = self._agent if self._parts is None else self._parts.mind.agent
        return self.limits.reply_s + patience_with(agent)

    def _utterance_is_over(self, utterance: Utterance, *, is_whole: bool) -> None:
        self.utterance = None
        if utterance.is_draft:
            return  # it has never been
        now = trio.current_time()
        self.pulse.last_activity_s = now
        self.pulse.last_progress_s = now
        heard = utterance.text if is_whole else self.voice.heard_of(utterance)
        self._session.agent_was_heard(
            heard,
            interrupted=not is_whole,
            is_opening=utterance.is_opening,
            response_ms=utterance.response_ms,
        )
        self._count(utterance, heard, is_whole=is_whole)
        was_answered_back = bool(self._said)
        self._tell_session()
        if utterance.was_interrupted and utterance.may_resume and not was_answered_back:
            rest = tuple(self.voice.unheard_of(utterance))
            self._resumable = (
                Resumption(rest, utterance.turn, utterance.after) if rest else None if heard else utterance.turn
            )
            self._nothing_was_said()  # the sound may be over already, before the answer had stopped

    def _note_cut_off(self, utterance: Utterance, sentences: tuple[str, ...]) -> None:
        if utterance.is_draft or (utterance.is_opening and not self.voice.heard_s(utterance)):
            return
        left = (*self.voice.rest_of(utterance), *sentences[len(utterance.spoken) :])
        self._cut_off = Resumption(left, utterance.turn, utterance.after)

    def _count(self, utterance: Utterance, heard: str, *, is_whole: bool) -> None:
        fields: dict[str, object] = {"text": heard, "interrupted": not is_whole}
        turn, first_s = utterance.turn, utterance.first_audio_at_s
        if is_whole and heard == self.phrases.greeting:
            self.meters.greeted()
        if turn is not None:
            if first_s is not None:
                self.meters.latency(turn, first_s)
                fields["response_ms"] = utterance.response_ms
            self.meters.turn(outcome_of(heard, is_whole=is_whole))
        if heard:
            self._timeline.note(What.SAID, **fields)


def _asked_again(turn: Turn | None) -> Turn | None:
    """A turn that nobody has answered: its caller waits from now on."""
    return None if turn is None else replace(turn, ended_at_s=trio.current_time())
