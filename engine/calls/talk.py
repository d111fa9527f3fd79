"""The conversation inside a call: listen, think, speak, be interrupted, fall silent, end.

Tasks: ``_pump`` (provider to recogniser; waits for nothing slow, so that a hang-up is seen at once), ``_listen``
(speech onset and words to turns), ``_speak`` (one utterance at a time) and the watch of :mod:`engine.calls.watch`.
They share this object and one loop, so a plain attribute is enough between them.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import trio

from engine.calls.meters import CallMeters
from engine.calls.voice import Utterance, Voice
from engine.dialogue.conversation import MAX_HANDOVERS
from engine.dialogue.sentences import SentenceSplitter
from engine.dialogue.turns import Endpointing, Turn, TurnTaker
from engine.errors import BadMessage, CallEnd, Cause, ModelFailed, ProtocolError, SlowPeer, VendorError
from engine.events import (
    FRAME_S,
    CallInfo,
    Dtmf,
    HandOver,
    HangUp,
    Heard,
    MarkPlayed,
    Noted,
    ProviderEvent,
    SpeechStarted,
    SpeechStopped,
    Stopped,
    Transfer,
)
from engine.observe.labels import BargeIn, Stage, TurnOutcome, VendorKind, VendorStatus
from engine.observe.timeline import Timeline, What
from engine.ports import Agent, LanguageModel, Phrases, ProviderLink, Synthesizer, Transcriber
from engine.sessions.call_session import CallSession
from engine.settings import Limits

LATE_S = 2 * FRAME_S
"""With so much time between two frames of the caller, one is late by a whole frame."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """Something the agent says of its own accord."""

    text: str
    then: CallEnd | None = None
    """The call ends with this once it has been heard; nothing interrupts it, and nothing is said after it."""
    is_opening: bool = False


@dataclass(frozen=True, slots=True)
class Resumption:
    """The rest of an answer that a sound without words had stopped."""

    sentences: tuple[str, ...]
    turn: Turn | None
    hangs_up: bool


Say = Turn | Announcement | Resumption


class Talk:
    """``run`` it once. ``end`` and ``drain`` may be called from any task."""

    def __init__(  # noqa: PLR0917 - the parts of one call, made in one place
        self,
        call: CallInfo,
        link: ProviderLink,
        transcriber: Transcriber,
        synthesizer: Synthesizer,
        model: LanguageModel,
        agent: Agent,
        limits: Limits,
        meters: CallMeters,
        timeline: Timeline,
        session: CallSession,
        hand_over: Callable[[str], Awaitable[tuple[Agent, LanguageModel]]],
    ) -> None:
        self.call = call
        self.limits = limits
        self.meters = meters
        self.voice = Voice(link, synthesizer, agent, meters, patience_s=limits.reply_s)
        self.turns = TurnTaker(Endpointing(limits.finished_turn_s, limits.unfinished_turn_s))
        self.link = link
        self.utterance: Utterance | None = None
        """What is being said, or thought about, now."""
        self.turns_taken = 0
        self.audio_in_s = 0.0
        now = trio.current_time()
        self.started_at_s = now
        self.last_media_s = now
        self.last_sound_s = now
        """The caller fell silent."""
        self.last_activity_s = now
        """Somebody spoke, or a key was pressed."""
        self.last_progress_s = now
        """A say of either side was finished."""
        self.verdict: CallEnd | None = None
        self._transcriber = transcriber
        self._model = model
        self._agent = agent
        self._timeline = timeline
        self._mind = agent
        """Whose model answers: another agent's, once the session has been handed over."""
        self._session = session
        self._hand_over = hand_over
        self._scope = trio.CancelScope()
        self._next: Say | None = None
        self._something_to_say = trio.Event()
        self._endpoint = trio.CancelScope()
        self._resumable: Resumption | Turn | None = None
        self._words_at_s = -math.inf
        self._said: list[str] = []
        """Of the caller, while an answer has not ended."""

    @property
    def phrases(self) -> Phrases:
        return self._agent.phrases

    @property
    def is_idle(self) -> bool:
        """The agent says nothing, thinks of nothing and has nothing waiting; the caller is silent."""
        return (
            self.utterance is None
            and self._next is None
            and not self.turns.is_caller_speaking
            and not self.turns.is_waiting_for_words
        )

    async def run(self, watch: Callable[[Talk], Awaitable[None]], early: Iterable[ProviderEvent] = ()) -> CallEnd:
        """Until the call is over; returns the verdict. ``watch`` keeps the time beside it; ``early`` came on the line
        before the talk could begin.

        Raises what a vendor's failure raises (VendorError), in a group.
        """
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen)
                nursery.start_soon(self._speak)
                nursery.start_soon(watch, self)
                await self._pump(early)
        return self.verdict or CallEnd(Cause.INTERNAL_ERROR, "the talk was cut off")

    def end(self, verdict: CallEnd) -> None:
        """End the call now. The first verdict counts."""
        if self.verdict is None:
            self.verdict = verdict
        self._scope.cancel()

    def drain(self) -> None:
        """Say goodbye and end."""
        self.say_of_own_accord(self.phrases.drain, then=CallEnd(Cause.DRAIN))

    def say_of_own_accord(self, text: str, *, then: CallEnd | None = None) -> None:
        """Say it when nothing else is being said; or at once, as the last words of the call, with a verdict."""
        if then is not None and self.utterance is not None and self.utterance.is_interruptible:
            self.voice.hush(self.utterance)
        self._say_next(Announcement(text, then))

    def note_audio(self) -> None:
        """Figures that run with the call."""
        self.meters.audio(in_s=self.audio_in_s, out_s=self.voice.audio_out_s, spoken_s=self.voice.spoken_s)
        self.meters.buffered(self.voice.remaining_s)

    async def say_filler(self) -> None:
        """Tell the caller that the answer takes a moment, if that can be said without the vendors."""
        if await self.voice.say_clip(self.phrases.filler):
            self._timeline.note(What.FILLER)

    # --- provider -> recogniser -----------------------------------------------------------------------------

    async def _pump(self, early: Iterable[ProviderEvent]) -> None:
        receive, send, on_gap = self.link.receive, self._transcriber.send, self.meters.on_gap
        frame_s = 1.0 / self.link.format.bytes_per_s
        for event in early:
            if isinstance(event, bytes):
                send(event)
            else:
                self._signal(event)
        try:
            while True:
                event = await receive()
                if type(event) is bytes:
                    now = trio.current_time()
                    if now - self.last_media_s >= LATE_S:
                        on_gap(now - self.last_media_s - FRAME_S)
                    self.last_media_s = now
                    self.audio_in_s += len(event) * frame_s
                    send(event)
                elif self._signal(event):
                    return
        except trio.EndOfChannel:
            self.end(CallEnd(Cause.PROVIDER_LOST, "the media socket went away"))
        except SlowPeer:
            self.end(CallEnd(Cause.SLOW_PEER, "the provider stopped reading"))
        except (ProtocolError, BadMessage) as exc:
            self.end(CallEnd(Cause.PROTOCOL_ERROR, str(exc)))

    def _signal(self, event: ProviderEvent) -> bool:
        """Everything but audio. True when the call is over."""
        match event:
            case MarkPlayed(name):
                self.voice.mark_played(name)
            case Dtmf():
                self._key_pressed(event)
            case Stopped():
                self.end(CallEnd(Cause.CALLER_HANGUP))
                return True
        return False

    def _key_pressed(self, event: Dtmf) -> None:
        now = trio.current_time()
        self.last_activity_s = now
        self._timeline.note(What.DTMF)
        self._interrupt(BargeIn.DTMF, now, may_resume=False)
        self.turns.on_digit(event, now)
        self._endpoint.deadline = self.turns.due_at_s()

    # --- recogniser -> turns --------------------------------------------------------------------------------

    async def _listen(self) -> None:
        while True:
            with trio.CancelScope(deadline=self.turns.due_at_s()) as self._endpoint:
                event = await self._transcriber.receive()
                self.last_activity_s = trio.current_time()
                self.turns.on_speech(event)
                if isinstance(event, SpeechStarted):
                    self._interrupt(BargeIn.SPEECH, event.at_s, may_resume=True)
                elif isinstance(event, SpeechStopped):
                    self.last_sound_s = event.at_s
                elif isinstance(event, Heard) and event.is_final:
                    self._words_at_s = self.last_activity_s
                    if event.text.strip():
                        self.last_progress_s = self.last_activity_s
                    else:
                        self._nothing_was_said()
            if trio.current_time() >= self.turns.due_at_s():
                self._turn_is_over()

    def _turn_is_over(self) -> None:
        turn = self.turns.take()
        if turn is None:
            self._nothing_was_said()
            return
        self._resumable = None
        self.turns_taken += 1
        self.last_progress_s = trio.current_time()
        self._timeline.note(What.HEARD, text=turn.text)
        words_at_s = max(turn.ended_at_s, self._words_at_s)
        vendor = self._agent.transcriber_vendor
        self.meters.stage(Stage.STT_FINAL, vendor, words_at_s - turn.ended_at_s)
        self.meters.stage(Stage.ENDPOINTING, vendor, self.last_progress_s - words_at_s)
        if self.utterance is not None and self.utterance.is_interruptible:
            # Words without an onset (a recogniser may send them): the answer to the older turn is void.
            self.voice.hush(self.utterance)
        self._said.append(turn.text)
        if self.utterance is None:
            self._tell_session()
        self._say_next(turn)

    def _tell_session(self) -> None:
        """What the caller said into an answer comes behind what was heard of that, which is known once it is over."""
        for text in self._said:
            self._session.caller_said(text)
        self._said.clear()

    def _interrupt(self, kind: BargeIn, onset_s: float, *, may_resume: bool) -> None:
        """The caller began to speak, or pressed a key, into the agent's words or thoughts."""
        utterance = self.utterance
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
        """The sound that stopped an answer held no words: go on with the answer."""
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
        if isinstance(what, Announcement) and what.then is None and self._next is not None:
            return
        self._next = what
        self._something_to_say.set()

    async def _speak(self) -> None:
        await self._announce(Announcement(self._session.opening(self.phrases), is_opening=True))
        while True:
            while self._next is None:
                self._something_to_say = trio.Event()
                await self._something_to_say.wait()
            what, self._next = self._next, None
            match what:
                case Announcement():
                    await self._announce(what)
                case Resumption(sentences, turn, hangs_up):
                    await self._utter(Utterance(turn, hangs_up=hangs_up), sentences=sentences)
                case Turn():
                    await self._utter(Utterance(what))

    async def _announce(self, what: Announcement) -> None:
        utterance = Utterance(is_interruptible=what.then is None, is_opening=what.is_opening)
        if what.then is None:
            await self._utter(utterance, sentences=(what.text,))
            return
        with trio.move_on_after(self.limits.goodbye_s):
            await self._utter(utterance, sentences=(what.text,))
        self.end(what.then)

    async def _utter(self, utterance: Utterance, *, sentences: tuple[str, ...] = ()) -> None:
        """Say these sentences, or what the model answers, to the last sound the caller hears of it."""
        self.utterance = utterance
        self.voice.be_patient(utterance)
        is_whole = False
        try:
            with utterance.scope:
                if sentences:
                    for sentence in sentences:
                        await self._say(utterance, sentence)
                else:
                    await self._think(utterance)
                utterance.is_queued = True
                await self.voice.until_heard()
                is_whole = True
        finally:
            self._utterance_is_over(utterance, is_whole=is_whole)
        if not is_whole and not utterance.was_interrupted:
            cause = Cause.SPEECH_FAILED if utterance.spoken else Cause.LLM_FAILED
            self.meters.turn(TurnOutcome.ERROR)
            self.end(CallEnd(cause, "no answer in time"))
        elif utterance.hangs_up and is_whole:
            self.end(CallEnd(Cause.AGENT_HANGUP))

    async def _think(self, utterance: Utterance) -> None:
        """The model's answer; one that holds nothing is asked for once more."""
        if self._session.successor:
            # Somebody outside has handed the session over: from this turn on it is that agent's.
            self._mind, self._model = await self._hand_over(self._session.successor)
            self._session.follow()
        for _ in range(2):
            for _ in range(MAX_HANDOVERS):
                successor = await self._answer(utterance)
                if successor is None:
                    break
                # The answer goes on with the next agent's words.
                self._mind, self._model = await self._hand_over(successor)
                self._session.hand_over(successor)
            if utterance.hangs_up or utterance.spoken:
                return
        raise ModelFailed(self._mind.model_vendor, "empty answer")

    async def _answer(self, utterance: Utterance) -> str | None:
        """The model's reply, sentence by sentence; and the agent that it hands over to, if it does."""
        vendor, said, successor = self._mind.model_vendor, list[str](), None
        splitter = SentenceSplitter()
        asked_at_s = trio.current_time()
        first_at_s: float | None = None
        status = VendorStatus.CANCELLED
        try:
            with self.meters.asked(VendorKind.LLM, vendor, utterance.scope):
                async with self._model.open_reply(self._session.context(self._mind)) as parts:
                    async for part in parts:
                        if isinstance(part, Noted):
                            self._session.note(part)
                            continue
                        if first_at_s is None:
                            first_at_s = trio.current_time()
                            self.meters.stage(Stage.LLM_FIRST_TOKEN, vendor, first_at_s - asked_at_s)
                        if isinstance(part, HangUp):
                            utterance.hangs_up = True
                            break
                        if isinstance(part, Transfer):
                            continue
                        if isinstance(part, HandOver):
                            successor = part.agent
                            break
                        said.append(part)
                        for sentence in splitter.feed(part):
                            await self._say(utterance, sentence, first_at_s)
            status = VendorStatus.OK
        except VendorError:
            status = VendorStatus.ERROR
            raise
        finally:
            took_s = trio.current_time() - asked_at_s
            self._session.model_answered(self._mind, "".join(said), status=status, took_s=took_s)
        for sentence in splitter.flush():
            await self._say(utterance, sentence, first_at_s)
        return successor

    async def _say(self, utterance: Utterance, sentence: str, first_token_at_s: float | None = None) -> None:
        """``first_token_at_s``: when the model began to answer, if it is the model's."""
        was_silent = utterance.first_audio_at_s is None
        asked_at_s = trio.current_time()
        if first_token_at_s is not None and not utterance.spoken:
            self.meters.stage(Stage.LLM_FIRST_SENTENCE, self._mind.model_vendor, asked_at_s - first_token_at_s)
        await self.voice.say(utterance, sentence)
        if utterance.turn is not None and was_silent and utterance.first_audio_at_s is not None:
            vendor = self._agent.synthesizer_vendor
            self.meters.stage(Stage.TTS_FIRST_AUDIO, vendor, utterance.first_audio_at_s - asked_at_s)
            self.meters.stage(Stage.PLAYOUT, self.call.provider, utterance.behind_s)

    def _utterance_is_over(self, utterance: Utterance, *, is_whole: bool) -> None:
        now = trio.current_time()
        self.utterance = None
        self.last_activity_s = now
        self.last_progress_s = now
        heard = utterance.text if is_whole else self.voice.heard_of(utterance)
        self._session.agent_was_heard(
            heard,
            interrupted=not is_whole,
            is_opening=utterance.is_opening,
            response_ms=_response_ms(utterance),
        )
        self._count(utterance, heard, is_whole=is_whole)
        was_answered_back = bool(self._said)
        self._tell_session()
        if utterance.was_interrupted and utterance.may_resume and not was_answered_back:
            rest = tuple(self.voice.unheard_of(utterance))
            self._resumable = (
                Resumption(rest, utterance.turn, utterance.hangs_up) if rest else None if heard else utterance.turn
            )
            self._nothing_was_said()  # the sound may be over already, before the answer had stopped

    def _count(self, utterance: Utterance, heard: str, *, is_whole: bool) -> None:
        fields: dict[str, object] = {"text": heard, "interrupted": not is_whole}
        turn, first_s = utterance.turn, utterance.first_audio_at_s
        if is_whole and heard == self.phrases.greeting:
            self.meters.greeted()
        if turn is not None:
            if first_s is not None:
                self.meters.latency(turn, first_s)
                fields["response_ms"] = _response_ms(utterance)
            self.meters.turn(_outcome(heard, is_whole=is_whole))
        if heard:
            self._timeline.note(What.SAID, **fields)


def _response_ms(utterance: Utterance) -> int | None:
    """From the caller's last sound to the agent's first."""
    turn, first_s = utterance.turn, utterance.first_audio_at_s
    return None if turn is None or first_s is None else round((first_s - turn.ended_at_s) * 1000)


def _outcome(heard: str, *, is_whole: bool) -> TurnOutcome:
    if is_whole:
        return TurnOutcome.COMPLETED
    return TurnOutcome.INTERRUPTED if heard else TurnOutcome.SUPERSEDED
