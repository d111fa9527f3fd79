"""The replies of a speech-to-speech model on their way to the line: one at a time, cut off, and gone on with where what
cut them off held no words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from engine.calls.meters import outcome_of
from engine.calls.returning import Resumption
from engine.calls.talks.agenda import Agenda
from engine.calls.talks.conversing import Announcement, Succession
from engine.calls.talks.errands import After, Errands, leave
from engine.calls.talks.leftover import Leftover
from engine.calls.talks.opening import Opening
from engine.calls.talks.pulse import Ground
from engine.calls.talks.regrets import Regrets
from engine.calls.talks.replies import Replies, Reply, clip_reply, reply_to, rest_of
from engine.calls.talks.scribe import Account, Scribe
from engine.calls.talks.voice import Utterance, Voice
from engine.dialogue.turns import Turn
from engine.errors import CallEnd, ModelFailed, Why
from engine.events import AudioFormat
from engine.observe.labels import BargeIn, Stage, TurnOutcome, VendorKind, VendorStatus
from engine.ports import Agent, RealtimeModel, vendor_of

CORRECTION_S = 1.0
"""For the vendor's own account of what was heard of a reply that was cut off."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a sound has silenced that may hold no words."""

    rests: Sequence[Reply]
    after: After | None


class Player:
    """``run`` it in a task."""

    def __init__(  # noqa: PLR0917 - of one talk, made in one place
        self,
        ground: Ground,
        voice: Voice,
        agent: Agent,
        opening: Opening[RealtimeModel],
        scribe: Scribe,
        errands: Errands,
    ) -> None:
        self.replies = Replies()
        self.agenda: Agenda[Announcement] = Agenda()
        self.is_leaving = False
        """The last words of the call: nobody interrupts them."""
        self.last_heard: Reply | None = None
        """The model's last reply, if the caller has said nothing since."""
        self.after: After | None = None
        """What is to be done once what the model says with it has been heard."""
        self.clip_while_opening: str | None = None
        """What is heard meanwhile, and not in the session yet."""
        self._ground = ground
        self._voice = voice
        self._agent = agent
        self._opening = opening
        self._scribe = scribe
        self._errands = errands
        self._regrets = Regrets(ground)
        self._left = Leftover(ground.goes_on)
        self._held: Held | None = None
        self._for_opening = trio.CancelScope()
        """Around the wait of the opening for the model."""

    @property
    def vendor(self) -> str:
        """Of the model that answers now."""
        return vendor_of(self._opening.parts, self._agent.model_vendor)

    @property
    def is_idle(self) -> bool:
        return self.replies.current is None and not self.replies.waiting and self.agenda.next is None

    @property
    def unfinished(self) -> Resumption | None:
        return self._left.of(None)

    async def run(self, succession: Succession | None) -> None:
        """Until cancelled: from the opening on, unless the call goes on from another talk, or from another line."""
        if succession is None:
            await self._begin()
        self._left.opened()
        replies, agenda = self.replies, self.agenda
        while True:
            while agenda.next is None and not replies.waiting:
                agenda.changed = trio.Event()
                await agenda.changed.wait()
            if agenda.is_last or not replies.waiting:
                await self._announce(await agenda.take())
            else:
                await self._utter(replies.waiting.popleft())

    async def _begin(self) -> None:
        goes_on, phrases = self._ground.goes_on, self._agent.phrases
        if goes_on is None:
            await self._announce(Announcement(self._ground.session.opening(phrases), is_opening=True))
        elif goes_on.sentences or goes_on.turn:
            # What the model of the last line had heard is gone with it.
            await self._announce(Announcement(" ".join(goes_on.sentences) or phrases.say_again))

    # --- what is wanted of it -------------------------------------------------------------------------------

    def announce(self, text: str, then: CallEnd | None = None) -> None:
        """See :meth:`engine.calls.talks.conversing.Conversing.say`."""
        if self.is_leaving or self.agenda.is_last:
            return
        self.agenda.put(Announcement(text, then))
        if then is not None:
            self._for_opening.cancel()
            self.cut_all()

    def expect(self, reply: Reply) -> Reply:
        self.replies.waiting.append(reply)
        self.agenda.changed.set()
        return reply

    def expect_answer(self, turn: Turn) -> None:
        if not self.is_leaving and not self.replies:
            self.expect(reply_to(turn))

    def be_patient(self) -> None:
        """Something else than the model is waited for."""
        for reply in self.replies:
            if reply.is_awaited:
                self._voice.be_patient(reply.utterance)

    async def leave(self) -> None:
        """Do what the model wanted done once it had been heard."""
        after, self.after = self.after, None
        if after is not None and not await leave(after, self._ground.pulse, self._errands.transfer):
            self.announce(self._agent.phrases.not_connected)

    # --- cut off --------------------------------------------------------------------------------------------

    def interrupt(self, kind: BargeIn, onset_s: float, *, may_resume: bool) -> None:
        """The caller began to speak, or pressed a key, into the agent's words or thoughts."""
        if self.is_leaving:
            return
        was_audible = self._voice.is_audible
        held = self._rests() if may_resume and was_audible else None
        if may_resume and not was_audible:
            held = self._held  # one cough after the other
        self.cut_all()
        self._held = held
        if was_audible:
            self._ground.barge_in(kind, onset_s)

    def cut_all(self) -> None:
        """Silence on the line; and the model stops, and learns how much of its last reply was heard."""
        newest = self.replies.newest
        is_models = any(not reply.is_clip for reply in self.replies)
        heard_s = min(self._voice.heard_s(newest.utterance), newest.spoken.audio_s) if newest else 0.0
        self.cut(lambda _: True)
        if self._voice.is_audible:
            self._voice.clear()  # a filler
        if self._opening.parts is not None and is_models:
            self._opening.parts.interrupt(heard_s)
        self.after = self.last_heard = self._held = None

    def cut(self, is_wanted: Callable[[Reply], bool]) -> None:
        for reply in filter(is_wanted, list(self.replies)):
            if reply is self.replies.current:
                self._voice.hush(reply.utterance)
            else:
                self.replies.waiting.remove(reply)
                reply.utterance.was_interrupted = True
                self._is_past(reply, is_whole=False)

    def give_up(self) -> None:
        """What was silenced is not gone on with."""
        self._held = None

    def resume(self) -> None:
        """The sound that silenced the agent held no words. A model that has begun to answer it is stopped, unless it is
        heard already: then that is how it goes on."""
        held, self._held = self._held, None
        if held is None or self.is_leaving or any(reply.utterance.has_sounded for reply in self.replies):
            return
        if self._opening.parts is not None and self.replies.newest is not None:
            self._opening.parts.interrupt(0.0)
        self.cut(lambda _: True)
        for reply in held.rests:
            self._scribe.agent_began(reply.say)
            self.expect(reply)
        self.after = held.after
        self._ground.meters.barge_in(BargeIn.FALSE)

    def _rests(self) -> Held | None:
        """What the caller has not heard of the replies that are whole; more than that will never come."""
        rests: list[Reply] = []
        for reply in self.replies:
            if not reply.is_complete:
                break
            heard_s = self._voice.heard_s(reply.utterance)
            if audio := reply.rest(self._bytes_in(heard_s)):
                heard = self._voice.heard_of(reply.utterance)
                rests.append(rest_of(reply, heard, audio, self._form.duration_s(audio)))
        return Held(tuple(rests), self.after) if rests else None

    @property
    def _form(self) -> AudioFormat:
        return self._ground.call.format

    def _bytes_in(self, seconds: float) -> int:
        """Of whole frames."""
        return int(seconds * 50 + 1e-6) * self._form.frame_bytes

    # --- replies -> line ------------------------------------------------------------------------------------

    async def _announce(self, what: Announcement) -> None:
        if what.then is None:
            if (reply := await self._announced(what)) is not None:
                await self._utter(reply)
            return
        self.is_leaving = True
        with trio.move_on_after(self._ground.limits.goodbye_s):
            if (reply := await self._announced(what)) is not None:
                await self._utter(reply)
        self._ground.pulse.end(what.then)

    async def _announced(self, what: Announcement) -> Reply | None:
        """As a clip, where nothing is said to it in reply, or the model may not be at hand; else by the model. None: a
        last word came before it could be said."""
        clip = self._agent.clip(what.text, self._form)
        if clip is not None and not (what.text in self._prompts and self._opening.is_open):
            reply = clip_reply(what.text, clip, self._form.duration_s(clip), is_opening=what.is_opening)
            self._scribe.agent_began(reply.say)
            self.clip_while_opening = what.text if what.is_opening else None
            return reply
        with self._for_opening if what.is_opening else trio.CancelScope():
            model = await self._opening.wait()
            model.say(what.text)
            return reply_to(None, announced=what.text, is_opening=what.is_opening)
        return None

    @property
    def _prompts(self) -> tuple[str, ...]:
        """The model should know of these, as the caller answers them."""
        return self._agent.phrases.still_there, self._agent.phrases.last_minute

    async def _utter(self, reply: Reply) -> None:
        """To the last sound that the caller hears of it."""
        self.replies.current, utterance = reply, reply.utterance
        self._left.begins()
        self._voice.be_patient(utterance)
        is_whole = False
        try:
            with utterance.scope:
                await self._play(reply)
                utterance.is_queued = True
                await self._voice.until_heard()
                is_whole = True
        finally:
            self.replies.current = None
            self._is_past(reply, is_whole=is_whole)
            if not is_whole and not utterance.was_interrupted:
                self._note_cut_off(utterance)
        if is_whole:
            if reply.is_models:
                self._regrets.answered()
                await self.leave()
        elif reply.is_owed and not utterance.was_interrupted and not self.is_leaving:
            await self._is_without_answer(reply)

    def _note_cut_off(self, utterance: Utterance) -> None:
        if not utterance.is_opening or self._voice.heard_s(utterance):
            left = tuple(filter(None, self._voice.rest_of(utterance)))
            self._left.cut_off(Resumption(left, utterance.turn))

    async def _play(self, reply: Reply) -> None:
        utterance = reply.utterance
        while (piece := await reply.next_piece(self._bytes_in(self._voice.heard_s(utterance)))) is not None:
            was_silent = not utterance.has_sounded
            await self._voice.play(utterance, piece, is_clip=reply.is_clip)
            if was_silent and utterance.turn is not None and utterance.first_audio_at_s is not None:
                after_s = utterance.first_audio_at_s - reply.began_at_s
                self._ground.meters.stage(Stage.TTS_FIRST_AUDIO, self.vendor, after_s)
                self._ground.meters.stage(Stage.PLAYOUT, self._ground.call.provider, utterance.behind_s)

    async def _is_without_answer(self, reply: Reply) -> None:
        """The model does not go on. That may happen now and then, and the caller is told."""
        if self.after is not None:
            self._ground.meters.turn(TurnOutcome.ERROR)
            await self.leave()  # it was to say goodbye
            return
        self._regrets.failed(ModelFailed(self.vendor, "no answer in time", why=Why.TIMEOUT))
        if self._opening.parts is not None:
            self._opening.parts.interrupt(self._voice.heard_s(reply.utterance))
        self.announce(self._agent.phrases.sorry)

    def _is_past(self, reply: Reply, *, is_whole: bool) -> None:
        reply.is_past, is_whole = True, is_whole and not reply.is_broken
        if is_whole and reply.is_models:
            self.last_heard = reply
        if reply.is_clip:
            self.clip_while_opening = None
        utterance, pulse = reply.utterance, self._ground.pulse
        if utterance.has_sounded:
            pulse.said()
        heard = (utterance.text if is_whole else self._voice.heard_of(utterance)).strip()
        # A correction can only come of what the model has said.
        settles_in_s = CORRECTION_S if reply.reply_id and not is_whole else 0.0
        account = Account(heard, not is_whole, utterance.response_ms, settles_in_s)
        self._scribe.agent_was_heard(reply.say, account)
        if reply.is_rest and heard and self._opening.parts is not None:
            self._opening.parts.heard_on(heard)
        self._count(reply, heard, is_whole=is_whole)

    def _count(self, reply: Reply, heard: str, *, is_whole: bool) -> None:
        utterance, meters = reply.utterance, self._ground.meters
        if is_whole and reply.announced == self._agent.phrases.greeting:
            meters.greeted()
        if reply.reply_id:
            status = VendorStatus.CANCELLED if utterance.was_interrupted else VendorStatus.TIMEOUT
            meters.request(VendorKind.REALTIME, self.vendor, VendorStatus.OK if is_whole else status)
        if utterance.turn is None:
            return
        if utterance.first_audio_at_s is not None:
            meters.latency(utterance.turn, utterance.first_audio_at_s)
        if is_whole or (reply.reply_id and (utterance.was_interrupted or reply.is_broken)):
            meters.turn(outcome_of(heard, is_whole=is_whole))
