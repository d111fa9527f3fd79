"""What the agent of a pipeline says: one utterance at a time, from its model's answer to the last sound of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import trio

from engine.calls.gate import Gate
from engine.calls.meters import outcome_of
from engine.calls.returning import Resumption
from engine.calls.talks.agenda import Agenda
from engine.calls.talks.conversing import TOOK_OVER, Announcement, Conversing, Succession
from engine.calls.talks.errands import After, Errands, leave
from engine.calls.talks.leftover import Leftover
from engine.calls.talks.mind import Mind
from engine.calls.talks.opening import Opening
from engine.calls.talks.pulse import Ground
from engine.calls.talks.regrets import Regrets
from engine.calls.talks.voice import Utterance, Voice
from engine.dialogue.turns import Turn
from engine.errors import CallEnd, Cause, ModelFailed, Why
from engine.observe.labels import BargeIn, Stage, TurnOutcome
from engine.observe.timeline import What
from engine.ports import Agent, Synthesizer, Transcriber, vendor_of


@dataclass(frozen=True, slots=True)
class Parts:
    """What hears, speaks and thinks."""

    transcriber: Transcriber
    synthesizer: Synthesizer
    mind: Mind


@dataclass(frozen=True, slots=True)
class Draft:
    """An answer to what the caller has said so far."""

    turn: Turn


Answer = Turn | Draft | Resumption


class Mouth:
    """``run`` it in a task. ``utterance`` is what is being said, or thought about, now."""

    def __init__(self, ground: Ground, voice: Voice, agent: Agent, opening: Opening[Parts], errands: Errands) -> None:
        self.utterance: Utterance | None = None
        self.agenda: Agenda[Answer] = Agenda()
        self.resumable: Resumption | Turn | None = None
        """What a sound has stopped that may turn out to hold no words."""
        self.on_stopped: Callable[[], None] = lambda: None
        """Told when there is something to resume."""
        self.was_greeted = trio.Event()
        self.heir: Conversing | None = None
        """Who goes on with the call, as soon as what is being said has been heard."""
        self._ground = ground
        self._voice = voice
        self._agent = agent
        self._opening = opening
        self._errands = errands
        self._regrets = Regrets(ground)
        self._left = Leftover(ground.goes_on)
        self._said: list[str] = []
        """By the caller, while an answer has not ended."""

    async def run(self, succession: Succession | None) -> None:
        """Until cancelled: from the opening on, or from what another agent has left to be said."""
        goes_on = self._ground.goes_on
        if succession is not None:
            self._inherit(succession)
        elif goes_on is None:
            await self._announce(Announcement(self._ground.session.opening(self._agent.phrases), is_opening=True))
        elif self.agenda.next is None:
            self._go_on_with(goes_on)
        self.was_greeted.set()
        self._left.opened()
        while True:
            what = await self.agenda.take()
            if isinstance(what, Turn) and self._pass_on(what.text):
                continue
            match what:
                case Announcement():
                    await self._announce(what)
                case Resumption(sentences, turn, after):
                    await self._utter(Utterance(turn, after=after), sentences=sentences)
                case Turn(text):
                    await self._answer(Utterance(what, unsaid="" if text else TOOK_OVER))
                case Draft(turn):
                    gate = Gate(is_open=False)
                    await self._answer(Utterance(turn, gate=gate, unsaid=turn.text, is_draft=True))

    @property
    def unfinished(self) -> Resumption | None:
        waiting = self.agenda.next
        if isinstance(waiting, Turn):
            waiting = Resumption(turn=waiting)
        return self._left.of(waiting if isinstance(waiting, Resumption) else None)

    @property
    def is_idle(self) -> bool:
        """Nothing is being said, thought about, or waiting to be."""
        return self.utterance is None and self.agenda.next is None and self.resumable is None

    # --- what is wanted of it -------------------------------------------------------------------------------

    def announce(self, text: str, then: CallEnd | None = None) -> None:
        """See :meth:`engine.calls.talks.conversing.Conversing.say`."""
        utterance = self.utterance
        if utterance is not None and (utterance.is_draft or (then is not None and utterance.is_interruptible)):
            self._voice.hush(utterance)
        if isinstance(self.agenda.next, Draft):
            self.agenda.drop()
        self.agenda.put(Announcement(text, then))

    def draft(self, likely: Turn) -> None:
        """Think of an answer to this, if there is nothing else to be said."""
        if self.utterance is None and self.agenda.next is None and self.resumable is None and self.heir is None:
            self.agenda.put(Draft(likely))

    def drop_draft(self) -> None:
        """The caller goes on."""
        if isinstance(self.agenda.next, Draft):
            self.agenda.drop()
        if self.utterance is not None and self.utterance.is_draft:
            self.utterance.was_interrupted = True
            self.utterance.scope.cancel()

    def answer(self, turn: Turn) -> bool:
        """This is to be answered. True if it cuts off an answer of which nothing has been heard: the last turn was
        taken too early."""
        if self._keep_draft(turn):
            return False
        utterance, was_too_early = self.utterance, False
        if utterance is not None and utterance.is_interruptible:
            # Words without an onset (a recogniser may send them), or into an answer that was being thought of.
            was_too_early = not utterance.is_draft and not utterance.has_sounded
            self._voice.hush(utterance)
        self._said.append(turn.text)
        if self.utterance is None:
            self._tell_session()
        self.agenda.put(turn)
        return was_too_early

    def interrupt(self, kind: BargeIn, onset_s: float, *, may_resume: bool) -> None:
        """The caller began to speak, or pressed a key, into the agent's words or thoughts."""
        utterance = self.utterance
        self.drop_draft()
        if utterance is None or not utterance.is_interruptible or utterance.was_interrupted:
            return
        was_audible = self._voice.is_audible
        utterance.may_resume = may_resume
        self._voice.hush(utterance)
        if was_audible:
            self._ground.barge_in(kind, onset_s)

    def go_on(self) -> None:
        """The sound that held an answer back held no words."""
        if self.utterance is not None and not self.utterance.is_draft and not self.utterance.gate.is_open:
            self._let_sound(self.utterance)

    def resume(self) -> None:
        """The sound that stopped an answer held no words."""
        if self.resumable is None or self.agenda.next is not None:
            return
        resumable, self.resumable = self.resumable, None
        self._ground.meters.barge_in(BargeIn.FALSE)
        self.agenda.put(resumable)

    def _go_on_with(self, left: Resumption) -> None:
        """A turn that nobody has answered: its caller waits from now on."""
        if left.sentences:
            self.agenda.put(left)
        elif left.turn is not None:
            self.agenda.put(replace(left.turn, ended_at_s=trio.current_time()))

    def _inherit(self, succession: Succession) -> None:
        """A turn without words is one that the agent before has said something to."""
        if succession.is_owed:
            self.agenda.put(Turn(self._ground.session.unanswered, self._ground.pulse.last_sound_s))

    def _pass_on(self, words: str = "") -> bool:
        """To the heir, if there is one and nothing else is to be said before."""
        if self.heir is None or self.agenda.next is not None or not self._ground.pulse.pass_on():
            return False
        self.heir.take_over(Succession(is_owed=True, words=words))
        return True

    # --- words -> line --------------------------------------------------------------------------------------

    def _keep_draft(self, turn: Turn) -> bool:
        """The caller has said no more than what the draft answers: it may be heard."""
        draft = self.utterance
        if draft is None or not draft.is_draft or draft.unsaid != turn.text or draft.was_interrupted:
            return False
        draft.turn, draft.unsaid, draft.is_draft = turn, "", False
        self._ground.session.caller_said(turn.text)
        self._let_sound(draft)
        return True

    def _let_sound(self, utterance: Utterance) -> None:
        for noted in utterance.pending:
            self._ground.session.note(noted)
        utterance.pending.clear()
        self._voice.be_patient(utterance)
        utterance.gate.open()

    def _tell_session(self) -> None:
        """What the caller said into an answer comes behind what was heard of that, which is known once it is over."""
        for text in self._said:
            self._ground.session.caller_said(text)
        self._said.clear()

    async def _announce(self, what: Announcement) -> None:
        utterance = Utterance(is_interruptible=what.then is None, is_opening=what.is_opening)
        if what.then is None:
            await self._utter(utterance, sentences=(what.text,))
            return
        with trio.move_on_after(self._ground.limits.goodbye_s):
            await self._utter(utterance, sentences=(what.text,))
        self._ground.pulse.end(what.then)

    async def _answer(self, utterance: Utterance) -> None:
        """The model's answer. It may fail now and then, which the caller is told."""
        try:
            await self._utter(utterance)
        except ModelFailed as exc:
            if utterance.is_draft or utterance.was_interrupted:
                return  # it is asked again, if the caller is to be answered at all
            self._regrets.failed(exc)
            self.agenda.put(Announcement(self._agent.phrases.sorry))

    async def _utter(self, utterance: Utterance, *, sentences: tuple[str, ...] = ()) -> None:
        """Say these sentences, or what the model answers, to the last sound the caller hears of it."""
        self.utterance = utterance
        self._left.begins()
        self._voice.be_patient(utterance)
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
                await self._voice.until_heard()
                is_whole = True
        finally:
            self._is_over(utterance, is_whole=is_whole)
            if not is_whole and not utterance.was_interrupted:
                self._note_cut_off(utterance, sentences)
        if utterance.was_interrupted:
            return
        if not is_whole:
            self._is_too_late(utterance)
            return
        if utterance.turn is not None:
            self._regrets.answered()
        if not self._pass_on() and utterance.after is not None:
            await self._leave(utterance.after)

    async def _leave(self, after: After) -> None:
        if not await leave(after, self._ground.pulse, self._errands.transfer):
            self.agenda.put(Announcement(self._agent.phrases.not_connected))

    def _is_too_late(self, utterance: Utterance) -> None:
        """Raises ModelFailed if that is its model's fault."""
        if utterance.spoken and not utterance.spoken[-1].is_whole:
            self._ground.meters.turn(TurnOutcome.ERROR)
            self._ground.pulse.end(CallEnd(Cause.SPEECH_FAILED, "no answer in time"))
            return
        parts = self._opening.parts
        vendor = parts.mind.vendor if parts else self._agent.model_vendor
        raise ModelFailed(vendor, "no answer in time", why=Why.TIMEOUT)

    async def _think(self, utterance: Utterance) -> None:
        mind = (await self._opening.wait()).mind
        try:
            self.heir = await mind.answer(utterance, partial(self._say, utterance)) or self.heir
        except ModelFailed:
            if utterance.has_sounded:
                await self._voice.until_heard()  # what is whole of it
            raise

    async def _say(self, utterance: Utterance, sentence: str, _began_at_s: float = 0.0) -> None:
        was_silent = utterance.first_audio_at_s is None
        if not self._opening.is_open and await self._voice.say_ready(utterance, sentence):
            return
        synthesizer, asked_at_s = (await self._opening.wait()).synthesizer, trio.current_time()
        await self._voice.say(utterance, sentence, synthesizer)
        if utterance.turn is not None and was_silent and utterance.first_audio_at_s is not None:
            meters, vendor = self._ground.meters, vendor_of(synthesizer, self._agent.synthesizer_vendor)
            meters.stage(Stage.TTS_FIRST_AUDIO, vendor, utterance.first_audio_at_s - asked_at_s)
            meters.stage(Stage.PLAYOUT, self._ground.call.provider, utterance.behind_s)

    def _is_over(self, utterance: Utterance, *, is_whole: bool) -> None:
        self.utterance = None
        if utterance.is_draft:
            return  # it has never been
        self._ground.pulse.said()
        heard = utterance.text if is_whole else self._voice.heard_of(utterance)
        self._ground.session.agent_was_heard(
            heard,
            interrupted=not is_whole,
            is_opening=utterance.is_opening,
            response_ms=utterance.response_ms,
        )
        self._count(utterance, heard, is_whole=is_whole)
        was_answered_back = bool(self._said)
        self._tell_session()
        if utterance.was_interrupted and utterance.may_resume and not was_answered_back:
            rest = tuple(self._voice.unheard_of(utterance))
            self.resumable = (
                Resumption(rest, utterance.turn, utterance.after) if rest else None if heard else utterance.turn
            )
            self.on_stopped()  # the sound may be over already, before the answer had stopped

    def _note_cut_off(self, utterance: Utterance, sentences: tuple[str, ...]) -> None:
        if utterance.is_draft or (utterance.is_opening and not self._voice.heard_s(utterance)):
            return
        left = (*self._voice.rest_of(utterance), *sentences[len(utterance.spoken) :])
        self._left.cut_off(Resumption(left, utterance.turn, utterance.after))

    def _count(self, utterance: Utterance, heard: str, *, is_whole: bool) -> None:
        meters, fields = self._ground.meters, dict[str, object](text=heard, interrupted=not is_whole)
        turn, first_s = utterance.turn, utterance.first_audio_at_s
        if is_whole and heard == self._agent.phrases.greeting:
            meters.greeted()
        if turn is not None:
            if first_s is not None:
                meters.latency(turn, first_s)
                fields["response_ms"] = utterance.response_ms
            meters.turn(outcome_of(heard, is_whole=is_whole))
        if heard:
            self._ground.timeline.note(What.SAID, **fields)
