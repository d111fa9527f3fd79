"""The conversation inside a call with a speech-to-speech model, which hears, thinks and speaks over one connection.

Tasks: the pump (provider to model), ``_listen`` (opens the model, then takes what it says), the player (one reply at a
time to the line), those of the keys and of the scribe, one for each tool at work, and the watch of
:mod:`engine.calls.talks.watch`. Replies come faster than they are heard: they wait in
:mod:`engine.calls.talks.replies`, and nothing of one that was cut off is played.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial

import trio

from engine.calls.gate import Gate
from engine.calls.returning import Resumption
from engine.calls.talks.conversing import TOOK_OVER, Conversing, Succession
from engine.calls.talks.errands import Errands, outcome_of_run
from engine.calls.talks.handing import Handing
from engine.calls.talks.keys import Keys
from engine.calls.talks.opening import Opening
from engine.calls.talks.player import Player
from engine.calls.talks.pulse import Ground
from engine.calls.talks.pump import pump
from engine.calls.talks.replies import Reply, reply_to
from engine.calls.talks.scribe import Scribe
from engine.calls.talks.toolwork import ToolWork
from engine.calls.talks.voice import FILL_AGAIN_S, Voice
from engine.dialogue.turns import Endpointing, Turn
from engine.errors import CallEnd, ModelFailed, VendorError, Why
from engine.events import (
    Context,
    Dtmf,
    Heard,
    MarkPlayed,
    Message,
    Missed,
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
)
from engine.observe.labels import BargeIn, DeadAir, Stage
from engine.observe.timeline import What
from engine.ports import Agent, CallTools, Phrases, ProviderLink, RealtimeModel, unheard_since_s

FOLLOW_AGAIN_S = 10.0
"""After a hand-over that somebody outside wanted, and that could not be done."""
MAX_REPLIES = 8
"""Whole and waiting to be heard; a model that makes more is not listened to."""
MAX_TEXT_CHARS = 20_000
"""Of one reply."""

OpenModel = Callable[[Callable[[], Context]], Awaitable[RealtimeModel]]
"""It is given what gives what was said so far. Raises ModelFailed."""


class DuplexTalk:
    """``run`` it once. Implements :class:`engine.calls.talks.conversing.Conversing`.

    ``open_model`` is asked for the model while the greeting is played already, if there is a clip of it.
    """

    def __init__(  # noqa: PLR0917 - the parts of one call, made in one place
        self,
        ground: Ground,
        link: ProviderLink,
        voice: Voice,
        agent: Agent,
        open_model: OpenModel,
        tools: CallTools,
        errands: Errands,
    ) -> None:
        self.ground = ground
        self.voice = voice
        self._link = link
        self._agent = agent
        self._errands = errands
        self._opening: Opening[RealtimeModel] = Opening(
            lambda: open_model(self._recalled),
            within_s=ground.limits.open_s,
            late=ModelFailed(agent.model_vendor, "did not open in time", why=Why.TIMEOUT),
            on_dropped=ground.meters.early_frame_dropped,
        )
        self._scribe = Scribe(ground.session, ground.timeline, words_s=Endpointing().lost_words_s)
        self._player = Player(ground, voice, agent, self._opening, self._scribe, errands)
        self._replies = self._player.replies
        self._handing = Handing(
            ground, self._player, self._scribe, errands, is_caller_quiet=lambda: self._is_caller_quiet
        )
        self._tools = ToolWork(ground, agent, tools, self._player, self._scribe, self._hand_over)
        self._keys = Keys(self._typed)
        self._succession: Succession | None = None
        self._on_the_line = ""
        """What another agent says while this one opens, and is not in the session yet."""
        self._is_caller_speaking = False
        self._onset_s = -math.inf
        """Of speech into the agent's words that may be too short to stop it."""
        self._filled_until_s = -math.inf
        """The end of the last filler, if the caller has said nothing since."""
        self._follow_at_s = -math.inf
        self._nursery: trio.Nursery | None = None

    @property
    def phrases(self) -> Phrases:
        return self._agent.phrases

    @property
    def is_idle(self) -> bool:
        is_waited_for = self._tools.count or not self._keys.is_idle or not math.isinf(self._unheard_since_s)
        return self._player.is_idle and self._is_caller_quiet and not is_waited_for

    @property
    def unfinished(self) -> Resumption | None:
        return self._player.unfinished

    def awaited(self) -> tuple[DeadAir | None, float]:
        if self.voice.is_audible:
            return None, 0.0
        cause, since_s = self._awaited()
        return cause, max(since_s, self.voice.queued_until_s)

    def _awaited(self) -> tuple[DeadAir | None, float]:
        """The same, from the caller's last sound on."""
        pulse, reply = self.ground.pulse, self._replies.current
        if not math.isinf(unheard_s := self._unheard_since_s):
            return DeadAir.STT, unheard_s
        if self._is_caller_speaking:
            return None, 0.0
        if reply is not None and reply.is_to_come:
            return DeadAir.TTS if reply.has_sound else DeadAir.LLM, reply.awaited_since_s
        if not self._opening.is_open or self._tools.count:
            return DeadAir.LLM, pulse.started_at_s
        if reply is None and self._scribe.awaits_words:
            return DeadAir.STT, max(pulse.last_sound_s, pulse.started_at_s)
        return None, 0.0

    @property
    def _unheard_since_s(self) -> float:
        return unheard_since_s(self._opening.parts)

    async def fill(self) -> None:
        reply, is_unheard = self._replies.current, not math.isinf(self._unheard_since_s)
        if is_unheard:
            self._player.be_patient()  # the model has to hear it first
        if trio.current_time() < self._filled_until_s + FILL_AGAIN_S:
            return
        if reply is not None and not reply.is_clip:
            if reply.utterance.has_sounded:
                return
        elif not (is_unheard or self._tools.count or self.ground.pulse.leaving) and self._opening.is_open:
            return
        if await self.voice.say_clip(self.phrases.filler):
            self._filled_until_s = self.voice.queued_until_s
            self.ground.timeline.note(What.FILLER)

    def say(self, text: str, *, then: CallEnd | None = None) -> None:
        self._player.announce(text, then)

    def follow(self) -> None:
        successor, now = self.ground.session.successor, trio.current_time()
        if successor == self._agent.name:
            self.ground.session.follow()
        elif successor and self._nursery is not None and self.is_idle and now >= self._follow_at_s:
            self._follow_at_s = now + FOLLOW_AGAIN_S
            self._nursery.start_soon(partial(self._handing.to, successor, is_owed=False))

    async def _hand_over(self, name: str) -> bool:
        return await self._handing.to(name, is_owed=True)

    async def prepare(self, on_the_line: str) -> None:
        self._on_the_line = on_the_line
        await self._opening.open()

    def take_over(self, succession: Succession) -> None:
        self._succession = succession

    async def run(
        self, watch: Callable[[Conversing], Awaitable[None]], early: Iterable[ProviderEvent] = ()
    ) -> CallEnd | Conversing:
        ground, reply_s, self._on_the_line = self.ground, self.ground.limits.reply_s, ""
        self.voice.agent, self.voice.patience_s = self._agent, lambda: reply_s
        if self._succession is not None:
            ground.taken_over(self._agent)
            self._link.pace(0.0)
            self._errands.thinking(Gate())  # an answer of the agent before may have been thought of in vain
        try:
            with ground.pulse.begin():
                async with trio.open_nursery() as self._nursery:
                    self._nursery.start_soon(self._listen, self._nursery)
                    self._nursery.start_soon(self._player.run, self._succession)
                    self._nursery.start_soon(self._keys.run)
                    self._nursery.start_soon(self._scribe.run)
                    self._nursery.start_soon(watch, self)
                    await pump(
                        self._link,
                        ground.pulse,
                        early,
                        send=self._send,
                        signal=self._signal,
                        on_gap=ground.meters.on_gap,
                    )
        finally:
            self._nursery = None
            self._scribe.close()
        return outcome_of_run(ground, self._handing.heir, self._errands)

    # --- provider -> model ----------------------------------------------------------------------------------

    def _send(self, audio: bytes) -> None:
        if self._opening.parts is None:
            self._opening.keep(audio)
        elif not self._player.is_leaving:  # else the vendor would take a "bye" for an interruption of the goodbye
            self._opening.parts.send(audio)

    def _signal(self, event: ProviderEvent) -> None:
        """Of the provider, everything but audio and the end."""
        if isinstance(event, MarkPlayed):
            self.voice.mark_played(event.name)
        elif isinstance(event, Dtmf):
            now = self.ground.pulse.active()
            self.ground.timeline.note(What.DTMF)
            self._player.interrupt(BargeIn.DTMF, now, may_resume=False)
            self._keys.press(event)

    async def _typed(self, turn: Turn) -> None:
        model = await self._opening.wait()
        if self._player.is_leaving:
            return
        self._player.cut_all()
        self._turn_was_taken()
        self._scribe.caller_said(turn.text)
        self._handing.heard(turn.text)
        if not self._handing.is_under_way:
            model.told(turn.text)
            self._player.expect(reply_to(turn))

    # --- model -> replies -----------------------------------------------------------------------------------

    async def _listen(self, nursery: trio.Nursery) -> None:
        try:
            model = await self._opening.open()
        except VendorError:
            await trio.sleep(self.voice.remaining_s)  # the greeting is heard before the apology
            raise
        self._opening.begin(model.send)
        if (succession := self._succession) is not None and succession.is_owed:
            model.told(succession.words or TOOK_OVER)
            self._player.expect(reply_to(Turn(succession.words or TOOK_OVER, self.ground.pulse.last_sound_s)))
        while True:
            event = await model.receive()
            if isinstance(event, ToolCall):
                self._tools.begin(event, model, nursery)
            else:
                self._take(event)

    def _recalled(self) -> Context:
        """What the model is to know; what is heard while it opens is of that."""
        context = self.ground.session.recalled(self._agent)
        said = self._on_the_line or self._player.clip_while_opening
        return replace(context, messages=(*context.messages, Message(Role.AGENT, said))) if said else context

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
            case ReplyOver(reply_id, is_whole):
                self._no_more_of(reply_id, is_whole=is_whole)
            case ReplyCorrected(reply_id, text):
                self._scribe.corrected(reply_id, text.strip())
            case SpeechStarted(at_s):
                self._onset(at_s)
            case SpeechStopped(at_s):
                self._caller_stopped(at_s)
            case Heard():
                self._heard(event)
            case Missed():
                self._player.give_up()
                self._player.cut(lambda reply: reply.is_awaited)
                self.say(self.phrases.say_again)

    def _reply_began(self, reply_id: str) -> None:
        now = self.ground.pulse.active()
        self._is_caller_speaking = False
        if self._handing.is_under_way:
            return
        if self._replies.is_one_coming:  # its vendor has given that up for this one
            self._player.cut(lambda reply: bool(reply.reply_id))
        if len(self._replies.waiting) >= MAX_REPLIES:
            return
        reply = self._replies.awaited or self._player.expect(reply_to(None))
        reply.reply_id = reply.say.reply_id = reply_id
        reply.began_at_s = now
        self._scribe.agent_began(reply.say)
        if reply.utterance.turn is not None:
            after_s = now - reply.utterance.turn.ended_at_s
            self.ground.meters.stage(Stage.LLM_FIRST_TOKEN, self._player.vendor, after_s)

    def _sound(self, reply_id: str, audio: bytes) -> None:
        reply = self._replies.of(reply_id)
        if reply is None or reply.is_complete:
            return
        self._player.cut(lambda other: other.is_awaited and not other.is_owed)  # the model goes on in this one
        reply.add(audio, self._link.format.duration_s(audio))
        if reply.spoken.audio_s >= self.ground.limits.max_answer_s and self._opening.parts is not None:
            self._opening.parts.interrupt(reply.spoken.audio_s)
            reply.complete(is_broken=True)

    def _no_more_of(self, reply_id: str, *, is_whole: bool) -> None:
        reply = self._replies.of(reply_id)
        if reply is None:
            return
        is_answer = reply.utterance.turn is not None or reply.announced or self._tools.count
        if reply.has_sound or not is_answer:
            reply.complete(is_broken=not is_whole)
        else:  # a tool was called, or nothing was said: the answer is still to come, and no longer waited for
            reply.reply_id = ""

    # --- what the caller says -------------------------------------------------------------------------------

    @property
    def _is_caller_quiet(self) -> bool:
        return not self._is_caller_speaking and not self._scribe.awaits_words

    def _onset(self, at_s: float) -> None:
        self.ground.pulse.active()
        self._is_caller_speaking = True
        self._filled_until_s, self._onset_s = -math.inf, at_s
        self._scribe.caller_began()
        if not self._takes_words_to_stop:
            self._player.interrupt(BargeIn.SPEECH, at_s, may_resume=True)

    @property
    def _takes_words_to_stop(self) -> bool:
        return bool(self.ground.limits.barge_in_words) and self.voice.is_audible

    def _caller_stopped(self, at_s: float) -> None:
        self.ground.pulse.active()
        self.ground.pulse.last_sound_s = at_s
        self._is_caller_speaking = False
        self._scribe.caller_stopped(at_s)
        if not self._handing.is_under_way:
            self._player.expect_answer(Turn("", at_s))

    def _heard(self, event: Heard) -> None:
        now, text = self.ground.pulse.active(), event.text.strip()
        if text and self._takes_words_to_stop:
            if len(text.split()) >= self.ground.limits.barge_in_words:
                self._player.interrupt(BargeIn.SPEECH, self._onset_s, may_resume=False)
            else:
                text = ""  # "mhm"
        if not event.is_final:
            return
        answer = next((reply for reply in self._replies if reply.answers_unknown_words), None)
        if text:
            self._player.give_up()
            self.ground.meters.stage(Stage.STT_FINAL, self._player.vendor, now - self.ground.pulse.last_sound_s)
            self._turn_was_taken()
            self._handing.heard(text)
        is_unanswered = self._scribe.caller_said(text, before=answer.say if answer else None)
        if not self._scribe.awaits_words:
            self._is_caller_speaking = False
        if text or event.is_certain:  # else the model may answer what nobody has written down
            self._words_came(text, answer, now, is_unanswered=is_unanswered)
        if not text and self._is_caller_quiet:
            self._no_words_came(is_certain=event.is_certain)

    def _words_came(self, text: str, answer: Reply | None, now: float, *, is_unanswered: bool) -> None:
        """``answer``: to a sound whose words were not known, and may be these."""
        if answer is not None and answer.utterance.turn is not None:
            if text:
                answer.utterance.turn = replace(answer.utterance.turn, text=text)
            elif answer.is_awaited and not self._scribe.awaits_words:
                self._player.cut(lambda reply: reply is answer)  # it was no words
        elif text and is_unanswered and not self._handing.is_under_way:
            self._player.expect_answer(Turn(text, now))

    def _no_words_came(self, *, is_certain: bool) -> None:
        if is_certain and not self._handing.is_under_way:
            self._player.resume()
        else:
            self._player.give_up()

    def _turn_was_taken(self) -> None:
        self.ground.pulse.turn_taken()
        self._tools.begin_turn()
