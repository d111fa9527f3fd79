"""The conversation inside a call whose provider hears and speaks itself: text comes, text goes.

Tasks: the reader (``_listen``), ``_speak`` (one utterance at a time), those of the keys and of the scribe, and the
watch of :mod:`engine.calls.talks.watch`. There is no audio: how far the caller has heard an answer is what the provider
tells, or what is estimated.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import structlog
import trio

from engine.calls.gate import Gate
from engine.calls.meters import CallMeters, outcome_of
from engine.calls.returning import Resumption
from engine.calls.talks.keys import Keys
from engine.calls.talks.mind import After, Errands, Mind, leave
from engine.calls.talks.minutes import AgentSay
from engine.calls.talks.pulse import Announcement, Conversing, Pulse, verdict_of_run
from engine.calls.talks.scribe import Account, Scribe
from engine.calls.talks.voice import FILL_AGAIN_S
from engine.calls.text_link import TextLink
from engine.dialogue.heard import CHARS_PER_S, Spoken, heard_text, rest
from engine.dialogue.turns import Endpointing, Turn, asks_for_presence
from engine.errors import BadMessage, CallEnd, Cause, ModelFailed, ProtocolError, SlowPeer, Why
from engine.events import CallInfo, CutOff, Dtmf, Noted, Prompt, RelayEvent, Stopped
from engine.observe.labels import BargeIn, DeadAir, TurnOutcome
from engine.observe.timeline import Timeline, What
from engine.ports import Ability, Agent, CallControl, LanguageModel, Phrases, patience_with
from engine.sessions.call_session import CallSession
from engine.settings import Limits

log = structlog.get_logger()

SETTLE_S = 3.0
"""An utterance that is over as far as can be told may still be cut off: the estimate was short."""
PARTIAL_S = 3.0
"""The caller goes on speaking for so long after words that are not their last."""


@dataclass(eq=False, slots=True)
class Said:
    """One utterance. Implements :class:`engine.calls.talks.mind.Saying`."""

    turn: Turn | None = None
    """What it answers; None for what the agent says of its own accord."""
    is_interruptible: bool = True
    say: AgentSay = field(default_factory=AgentSay)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    gate: Gate = field(default_factory=Gate)
    unsaid: str = ""
    pending: list[Noted] = field(default_factory=list)
    after: After | None = None
    sentences: list[str] = field(default_factory=list)
    """Sent to the provider."""
    base_s: float = 0.0
    """The link's ``said_s`` at which it begins."""
    first_said_at_s: float | None = None
    cut_at: CutOff | None = None
    was_interrupted: bool = False
    filler: str = ""
    is_sent: bool = False
    """All of it."""

    @property
    def has_words(self) -> bool:
        return bool(self.sentences)

    @property
    def text(self) -> str:
        return " ".join(self.sentences)

    @property
    def seconds(self) -> float:
        return len(self.text) / CHARS_PER_S

    @property
    def response_ms(self) -> int | None:
        if self.turn is None or self.first_said_at_s is None:
            return None
        return round((self.first_said_at_s - self.turn.ended_at_s) * 1000)


class RelayControl:
    """A call's control where keys are pressed over its socket. Implements ``engine.ports.CallControl``."""

    def __init__(self, inner: CallControl, link: TextLink) -> None:
        self._inner = inner
        self._link = link

    @property
    def abilities(self) -> frozenset[Ability]:
        return self._inner.abilities | {Ability.PRESS_DIGITS}

    async def send_text(self, text: str) -> None:
        await self._inner.send_text(text)

    async def press(self, digits: str) -> None:
        await trio.lowlevel.checkpoint()
        self._link.press(digits)

    async def certain(self) -> None:
        await self._inner.certain()


class RelayTalk:
    """``run`` it once. Implements :class:`engine.calls.talks.pulse.Conversing`."""

    def __init__(  # noqa: PLR0917 - the parts of one call, made in one place
        self,
        call: CallInfo,
        link: TextLink,
        model: LanguageModel,
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
        self.pulse.expect_no_media()
        self._link = link
        self._agent = agent
        self._mind = Mind(agent, model, session, errands, meters, longest_s=limits.max_answer_s)
        self._timeline = timeline
        self._session = session
        self._errands = errands
        self._scribe = Scribe(session, timeline, words_s=Endpointing().lost_words_s)
        self._keys = Keys(self._typed)
        self._saying: Said | None = None
        self._last: Said | None = None
        """It is over, as far as can be told."""
        self._next: Turn | Announcement | None = None
        self._goes_on = goes_on
        self._cut_off: Resumption | None = None
        """What is left of the last utterance, if it was neither heard whole nor interrupted."""
        self._was_opened = False
        self._something_to_say = trio.Event()
        self._caller_speaks_until_s = -math.inf
        self._failures = 0
        """Of the model, in a row."""
        self.audio_out_s = 0.0

    @property
    def phrases(self) -> Phrases:
        return self._agent.phrases

    @property
    def is_idle(self) -> bool:
        is_quiet = not self._is_caller_speaking and not self.is_audible and self._keys.is_idle
        return self._saying is None and self._next is None and is_quiet

    @property
    def is_audible(self) -> bool:
        return self._link.remaining_s() > 0

    @property
    def spoken_s(self) -> float:
        return 0.0

    @property
    def buffered_s(self) -> float:
        return self._link.remaining_s()

    def awaited(self) -> tuple[DeadAir | None, float]:
        saying = self._saying
        if saying is None or saying.turn is None or saying.is_sent or self.is_audible or self._is_caller_speaking:
            return None, 0.0
        return DeadAir.LLM, max(saying.turn.ended_at_s, self._link.says_until_s)

    @property
    def unfinished(self) -> Resumption | None:
        if isinstance(self._next, Turn):
            return Resumption(turn=self._next)
        if self._cut_off is None and not self._was_opened:
            return self._goes_on
        return self._cut_off or Resumption()

    async def fill(self) -> None:
        saying = self._saying
        if saying is None or saying.has_words:
            return
        if saying.filler and trio.current_time() < self._link.says_until_s + FILL_AGAIN_S:
            return
        saying.filler = f"{saying.filler} {self.phrases.filler}".lstrip()
        self._put(self.phrases.filler)
        self._timeline.note(What.FILLER)

    def say(self, text: str, *, then: CallEnd | None = None) -> None:
        saying = self._saying
        if then is not None and saying is not None and saying.is_interruptible:
            self._stop(saying)
        self._say_next(Announcement(text, then))

    async def ping(self) -> None:
        await self._link.ping()

    async def run(self, watch: Callable[[Conversing], Awaitable[None]], early: Iterable[Any] = ()) -> CallEnd:
        try:
            with self.pulse.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._speak)
                    nursery.start_soon(self._keys.run)
                    nursery.start_soon(self._scribe.run)
                    nursery.start_soon(watch, self)
                    await self._listen(early)
        finally:
            self._scribe.close()
        return verdict_of_run(self.pulse)

    # --- provider -> turns ----------------------------------------------------------------------------------

    async def _listen(self, early: Iterable[RelayEvent]) -> None:
        try:
            for event in early:
                self._take(event)
            while not isinstance(event := await self._link.receive(), Stopped):
                self._take(event)
            self.pulse.end(CallEnd(Cause.CALLER_HANGUP))
        except trio.EndOfChannel:
            self.pulse.end(CallEnd(Cause.PROVIDER_LOST, "the media socket went away"))
        except SlowPeer:
            self.pulse.end(CallEnd(Cause.SLOW_PEER, "the provider stopped reading"))
        except (ProtocolError, BadMessage) as exc:
            self.pulse.end(CallEnd(Cause.PROTOCOL_ERROR, str(exc)))

    def _take(self, event: RelayEvent) -> None:
        now = self.pulse.last_activity_s = trio.current_time()
        match event:
            case Prompt(text, is_last):
                self._prompted(text.strip(), now, is_last=is_last)
            case CutOff():
                self._was_cut_off(event)
            case Dtmf():
                self._timeline.note(What.DTMF)
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
            self._timeline.note(What.HEARD, text=text)
            return  # an answer is being thought of; asked anew at each "hello?", it would never come
        self._turn_was_taken(Turn(text, now))

    async def _typed(self, turn: Turn) -> None:
        self._turn_was_taken(turn)

    def _turn_was_taken(self, turn: Turn) -> None:
        self.pulse.turns_taken += 1
        self.pulse.last_progress_s = trio.current_time()
        if self._saying is not None and self._saying.is_interruptible:
            self._stop(self._saying)
        self._scribe.caller_said(turn.text)
        self._last = None
        self._scribe.settle()
        self._say_next(turn)

    def _was_cut_off(self, event: CutOff) -> None:
        """The provider has stopped to speak; nothing of what it had been sent is said any more."""
        self.meters.barge_in(BargeIn.SPEECH)
        self._timeline.note(What.BARGE_IN)
        saying = self._saying
        if saying is not None:
            saying.cut_at = event
            if saying.is_interruptible:
                self._stop(saying)
        elif self._last is not None:  # the estimate was short
            self._last.cut_at = event
            self._last.say.correct(_heard_of(self._last, math.inf))
            self._scribe.settle()

    def _interrupt(self, kind: BargeIn) -> None:
        saying = self._saying
        if saying is None or not saying.is_interruptible or saying.was_interrupted:
            return
        if saying.has_words:
            self.meters.barge_in(kind)
        self._stop(saying)

    def _stop(self, saying: Said) -> None:
        """No more of it."""
        saying.was_interrupted = True
        saying.scope.cancel()

    # --- turns -> words -------------------------------------------------------------------------------------

    def _say_next(self, what: Turn | Announcement) -> None:
        """At most one thing waits. What ends the call is never pushed aside; the caller's newest turn is next to it."""
        if isinstance(self._next, Announcement) and self._next.then is not None:
            return
        if isinstance(what, Announcement) and what.then is None and isinstance(self._next, Turn):
            return
        self._next = what
        self._something_to_say.set()

    async def _speak(self) -> None:
        left = self._goes_on
        if left is None:
            await self._announce(Announcement(self._session.opening(self.phrases), is_opening=True))
        elif self._next is None:
            self._next = Announcement(" ".join(left.sentences)) if left.sentences else left.turn
        self._was_opened = True
        while True:
            while self._next is None:
                self._something_to_say = trio.Event()
                await self._something_to_say.wait()
            what, self._next = self._next, None
            if isinstance(what, Announcement):
                await self._announce(what)
            else:
                await self._answer(Said(what))

    async def _announce(self, what: Announcement) -> None:
        said = Said(is_interruptible=what.then is None, say=AgentSay(is_opening=what.is_opening))
        if what.then is None:
            await self._utter(said, what.text)
            return
        with trio.move_on_after(max(self.limits.goodbye_s, len(what.text) / CHARS_PER_S)):
            await self._utter(said, what.text)
        self.pulse.end(what.then)

    async def _answer(self, said: Said) -> None:
        """The model's answer. It may fail now and then, which the caller is told."""
        try:
            await self._utter(said)
        except ModelFailed as exc:
            if said.was_interrupted:
                return
            self._failures += 1
            self.meters.turn(TurnOutcome.ERROR)
            if self._failures > self.limits.model_failures or not exc.why.may_pass:
                raise
            log.warning("answer_failed", call_id=self.call.call_id, detail=str(exc))
            self._say_next(Announcement(self.phrases.sorry))

    async def _utter(self, said: Said, text: str = "") -> None:
        """Say this, or what the model answers, to the last word that the caller hears of it."""
        self._saying, self._last, self._cut_off = said, None, None
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
            self._failures = 0
        if said.after is not None and not await leave(said.after, self.pulse, self._errands):
            self._say_next(Announcement(self.phrases.not_connected))

    def _note_cut_off(self, said: Said, text: str) -> None:
        heard_s = self._link.said_s - self._link.remaining_s() - said.base_s
        if said.say.is_opening and heard_s <= 0:
            return
        left = rest([Spoken(sentence) for sentence in said.sentences or [text] if sentence], heard_s)
        self._cut_off = Resumption(tuple(left), said.turn)

    async def _send(self, said: Said, sentence: str) -> None:
        await trio.sleep_until(max(self._caller_speaks_until_s, trio.current_time()))
        if said.first_said_at_s is None:
            said.first_said_at_s = trio.current_time()
            self.meters.first_audio()
        said.sentences.append(sentence)
        self._put(sentence)
        self._be_patient(said)

    def _put(self, text: str) -> None:
        self.audio_out_s += self._link.seconds_of(text)
        self._link.say(f"{text} ")

    def _be_patient(self, said: Said) -> None:
        # No filler comes between its words.
        more_s = 0.0 if said.has_words else patience_with(self._mind.agent)
        said.scope.deadline = trio.current_time() + self._link.remaining_s() + self.limits.reply_s + more_s

    def _is_over(self, said: Said, *, is_whole: bool) -> None:
        self.pulse.last_activity_s = self.pulse.last_progress_s = trio.current_time()
        is_whole = is_whole and said.cut_at is None
        heard = said.text if is_whole else _heard_of(said, self._link.said_s - self._link.remaining_s() - said.base_s)
        settles_in_s = SETTLE_S if is_whole else 0.0
        self._scribe.agent_was_heard(said.say, Account(heard, not is_whole, said.response_ms, settles_in_s))
        self._last = said if is_whole else None
        if is_whole and heard == self.phrases.greeting:
            self.meters.greeted()
        if said.turn is not None:
            if said.first_said_at_s is not None:
                self.meters.latency(said.turn, said.first_said_at_s)
            if is_whole or said.was_interrupted:
                self.meters.turn(outcome_of(heard, is_whole=is_whole))


def _heard_of(said: Said, heard_s: float) -> str:
    """Of an utterance that was cut off: as the provider tells; else what it may have said in that time."""
    cut = said.cut_at
    if cut is not None and cut.heard.strip():
        return " ".join(cut.heard.split()).removeprefix(said.filler).strip()[: len(said.text)]
    if cut is not None:
        heard_s = cut.heard_s
    elif said.was_interrupted:
        return said.text  # nobody has stopped the provider
    return heard_text([Spoken(sentence) for sentence in said.sentences], heard_s)
