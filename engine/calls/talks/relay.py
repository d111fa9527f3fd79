"""The conversation inside a call whose provider hears and speaks itself: text comes, text goes.

Tasks: the reader (``_listen``), ``_speak`` (one utterance at a time), those of the keys and of the scribe, and the
watch of :mod:`engine.calls.talks.watch`. There is no audio: how far the caller has heard an answer is what the provider
tells, or what is estimated.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import trio

from engine.calls.meters import outcome_of
from engine.calls.returning import Resumption
from engine.calls.talks.agenda import Agenda
from engine.calls.talks.conversing import Announcement, Conversing, Succession
from engine.calls.talks.errands import Errands, leave, outcome_of_run
from engine.calls.talks.keys import Keys
from engine.calls.talks.leftover import Leftover
from engine.calls.talks.mind import Mind
from engine.calls.talks.minutes import AgentSay
from engine.calls.talks.pulse import Ground
from engine.calls.talks.regrets import Regrets
from engine.calls.talks.said import Said, TextVoice
from engine.calls.talks.scribe import Account, Scribe
from engine.calls.talks.voice import FILL_AGAIN_S
from engine.calls.text_link import TextLink
from engine.dialogue.turns import Endpointing, Turn, asks_for_presence
from engine.errors import BadMessage, CallEnd, Cause, ModelFailed, ProtocolError, SlowPeer, Why
from engine.events import CutOff, Dtmf, Prompt, RelayEvent, Speaking, Stopped
from engine.observe.labels import BargeIn, DeadAir
from engine.observe.timeline import What
from engine.ports import Agent, LanguageModel, Phrases, patience_with

SETTLE_S = 3.0
"""An utterance that is over as far as can be told may still be cut off: the estimate was short."""
GRACE_S = 2.0
"""For last words that take longer than estimated."""
PARTIAL_S = 3.0
"""The caller goes on speaking for so long after words that are not their last."""


class RelayTalk:
    """``run`` it once. Implements :class:`engine.calls.talks.conversing.Conversing`.

    It is the only talk of its call: an agent that takes over does so with its language model.
    """

    def __init__(self, ground: Ground, link: TextLink, agent: Agent, model: LanguageModel, errands: Errands) -> None:
        self.ground = ground
        self.voice = TextVoice(link)
        self._link = link
        self._agent = agent
        self._errands = errands
        self._mind = Mind(agent, model, ground, errands)
        self._regrets = Regrets(ground)
        self._left = Leftover(ground.goes_on)
        self._scribe = Scribe(ground.session, ground.timeline, words_s=Endpointing().lost_words_s)
        self._keys = Keys(self._typed)
        self._agenda: Agenda[Turn] = Agenda()
        self._saying: Said | None = None
        self._last: Said | None = None
        """It is over, as far as can be told."""
        self._caller_speaks_until_s = -math.inf

    @property
    def phrases(self) -> Phrases:
        return self._agent.phrases

    @property
    def is_idle(self) -> bool:
        is_quiet = not self._is_caller_speaking and not self.voice.is_audible and self._keys.is_idle
        return self._saying is None and self._agenda.next is None and is_quiet

    @property
    def unfinished(self) -> Resumption | None:
        waiting = self._agenda.next
        return self._left.of(Resumption(turn=waiting) if isinstance(waiting, Turn) else None)

    def awaited(self) -> tuple[DeadAir | None, float]:
        saying = self._saying
        if saying is None or saying.turn is None or saying.is_sent:
            return None, 0.0
        if self.voice.is_audible or self._is_caller_speaking:
            return None, 0.0
        return DeadAir.LLM, max(saying.turn.ended_at_s, self._link.says_until_s)

    async def fill(self) -> None:
        saying = self._saying
        if saying is None:
            return
        if saying.fillers and trio.current_time() < self._link.says_until_s + FILL_AGAIN_S:
            return
        saying.fill(self.phrases.filler)
        self.voice.put(self.phrases.filler)
        self.ground.timeline.note(What.FILLER)

    def say(self, text: str, *, then: CallEnd | None = None) -> None:
        saying = self._saying
        if then is not None and saying is not None and saying.is_interruptible:
            self._stop(saying)
        self._agenda.put(Announcement(text, then))

    def follow(self) -> None:
        """The mind does, with its next answer."""

    async def prepare(self, on_the_line: str) -> None:
        """Nothing is to be opened."""

    def take_over(self, succession: Succession) -> None:
        """Never: see above."""

    async def run(
        self, watch: Callable[[Conversing], Awaitable[None]], early: Iterable[Any] = ()
    ) -> CallEnd | Conversing:
        self.ground.pulse.expect_no_media()
        try:
            with self.ground.pulse.begin():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._speak)
                    nursery.start_soon(self._keys.run)
                    nursery.start_soon(self._scribe.run)
                    nursery.start_soon(watch, self)
                    await self._listen(early)
        finally:
            self._scribe.close()
        return outcome_of_run(self.ground, None, self._errands)

    # --- provider -> turns ----------------------------------------------------------------------------------

    async def _listen(self, early: Iterable[RelayEvent]) -> None:
        pulse = self.ground.pulse
        try:
            for event in early:
                self._take(event)
            while not isinstance(event := await self._link.receive(), Stopped):
                self._take(event)
            pulse.end(CallEnd(Cause.CALLER_HANGUP))
        except trio.EndOfChannel:
            pulse.end(CallEnd(Cause.PROVIDER_LOST, "the media socket went away"))
        except SlowPeer:
            pulse.end(CallEnd(Cause.SLOW_PEER, "the provider stopped reading"))
        except (ProtocolError, BadMessage) as exc:
            pulse.end(CallEnd(Cause.PROTOCOL_ERROR, str(exc)))

    def _take(self, event: RelayEvent) -> None:
        now = self.ground.pulse.active()
        match event:
            case Prompt(text, is_last):
                self._prompted(text.strip(), now, is_last=is_last)
            case Speaking(is_agent=False, is_on=True):
                self._caller_speaks_until_s = now + PARTIAL_S
            case CutOff():
                self._was_cut_off(event)
            case Dtmf():
                self.ground.timeline.note(What.DTMF)
                self._interrupt(BargeIn.DTMF)
                self._keys.press(event)

    @property
    def _is_caller_speaking(self) -> bool:
        return trio.current_time() < self._caller_speaks_until_s

    def _prompted(self, text: str, now: float, *, is_last: bool) -> None:
        if not is_last:
            self._caller_speaks_until_s = now + PARTIAL_S
            return
        self._caller_speaks_until_s = -math.inf
        saying = self._saying
        if not text:
            return
        if saying is not None and saying.turn is not None and not saying.has_words and asks_for_presence(text):
            self.ground.timeline.note(What.HEARD, text=text)
            return  # an answer is being thought of; asked anew at each "hello?", it would never come
        self._turn_was_taken(Turn(text, now))

    async def _typed(self, turn: Turn) -> None:
        self._turn_was_taken(turn)

    def _turn_was_taken(self, turn: Turn) -> None:
        self.ground.pulse.turn_taken()
        if self._saying is not None and self._saying.is_interruptible:
            self._stop(self._saying)
        self._scribe.caller_said(turn.text)
        self._last = None
        self._scribe.settle()
        self._agenda.put(turn)

    def _was_cut_off(self, event: CutOff) -> None:
        """The provider has stopped to speak; nothing of what it had been sent is said any more."""
        self.ground.meters.barge_in(BargeIn.SPEECH)
        self.ground.timeline.note(What.BARGE_IN)
        saying = self._saying
        if saying is not None:
            saying.cut_at = event
            if saying.is_interruptible:
                self._stop(saying)
        elif self._last is not None:  # the estimate was short
            self._last.cut_at = event
            self._last.say.correct(self._last.heard(math.inf))
            self._scribe.settle()

    def _interrupt(self, kind: BargeIn) -> None:
        saying = self._saying
        if saying is None or not saying.is_interruptible or saying.was_interrupted:
            return
        if saying.has_words:
            self.ground.meters.barge_in(kind)
        self._stop(saying)

    def _stop(self, saying: Said) -> None:
        """No more of it."""
        saying.was_interrupted = True
        saying.scope.cancel()

    # --- turns -> words -------------------------------------------------------------------------------------

    async def _speak(self) -> None:
        goes_on = self.ground.goes_on
        if goes_on is None:
            await self._announce(Announcement(self.ground.session.opening(self.phrases), is_opening=True))
        elif self._agenda.next is None:
            self._go_on_with(goes_on)
        self._left.opened()
        while True:
            what = await self._agenda.take()
            if isinstance(what, Announcement):
                await self._announce(what)
            else:
                await self._answer(Said(what))

    def _go_on_with(self, left: Resumption) -> None:
        if left.sentences:
            self._agenda.put(Announcement(" ".join(left.sentences)))
        elif left.turn is not None:
            self._agenda.put(left.turn)

    async def _announce(self, what: Announcement) -> None:
        said = Said(is_interruptible=what.then is None, say=AgentSay(is_opening=what.is_opening))
        if what.then is None:
            await self._utter(said, what.text)
            return
        takes_s = self.voice.remaining_s + self._link.seconds_of(what.text) + GRACE_S
        with trio.move_on_after(max(self.ground.limits.goodbye_s, takes_s)):
            await self._utter(said, what.text)
        self.ground.pulse.end(what.then)

    async def _answer(self, said: Said) -> None:
        """The model's answer. It may fail now and then, which the caller is told."""
        try:
            await self._utter(said)
        except ModelFailed as exc:
            if said.was_interrupted:
                return
            self._regrets.failed(exc)
            self._agenda.put(Announcement(self.phrases.sorry))

    async def _utter(self, said: Said, text: str = "") -> None:
        """Say this, or what the model answers, to the last word that the caller hears of it."""
        self._saying, self._last = said, None
        self._left.begins()
        self._scribe.agent_began(said.say)
        said.base_s = self._link.said_s
        self._be_patient(said)
        is_whole = False
        try:
            with said.scope:
                if text:
                    await self._send(said, text)
                else:
                    await self._mind.answer(said, lambda sentence, _: self._send(said, sentence))
                self._link.end_utterance()
                said.is_sent = True
                said.scope.deadline = math.inf
                await self._link.until_said()
                is_whole = True
        finally:
            self._link.end_utterance()
            self._saying = None
            self._is_over(said, is_whole=is_whole)
            if not is_whole and not said.was_interrupted:
                self._note_cut_off(said, text)
        if said.was_interrupted:
            return
        if not is_whole:
            raise ModelFailed(self._mind.vendor, "no answer in time", why=Why.TIMEOUT)
        if said.turn is not None:
            self._regrets.answered()
        if said.after is not None and not await leave(said.after, self.ground.pulse, self._errands.transfer):
            self._agenda.put(Announcement(self.phrases.not_connected))

    def _heard_s(self, said: Said) -> float:
        return self._link.said_s - self.voice.remaining_s - said.base_s

    def _note_cut_off(self, said: Said, text: str) -> None:
        heard_s = self._heard_s(said)
        if not said.say.is_opening or heard_s > 0:
            self._left.cut_off(Resumption(said.left(text, heard_s), said.turn))

    async def _send(self, said: Said, sentence: str) -> None:
        await trio.sleep_until(max(self._caller_speaks_until_s, trio.current_time()))
        if said.first_said_at_s is None:
            said.first_said_at_s = trio.current_time()
            self.ground.meters.first_audio()
        said.pieces.append(sentence)
        self.voice.put(sentence)
        self._be_patient(said)

    def _be_patient(self, said: Said) -> None:
        patience_s = self.ground.limits.reply_s + patience_with(self._mind.agent)
        said.scope.deadline = trio.current_time() + self.voice.remaining_s + patience_s

    def _is_over(self, said: Said, *, is_whole: bool) -> None:
        meters = self.ground.meters
        self.ground.pulse.said()
        is_whole = is_whole and said.cut_at is None
        heard = said.text if is_whole else said.heard(self._heard_s(said))
        settles_in_s = SETTLE_S if is_whole else 0.0
        self._scribe.agent_was_heard(said.say, Account(heard, not is_whole, said.response_ms, settles_in_s))
        self._last = said if is_whole else None
        if is_whole and heard == self.phrases.greeting:
            meters.greeted()
        if said.turn is not None:
            if said.first_said_at_s is not None:
                meters.latency(said.turn, said.first_said_at_s)
            if is_whole or said.was_interrupted:
                meters.turn(outcome_of(heard, is_whole=is_whole))
