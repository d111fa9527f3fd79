"""What the caller of a pipeline says: speech onset and words to turns, to drafts and to interruptions."""

from __future__ import annotations

import math

import trio

from engine.calls.talks.mouth import Mouth, Parts
from engine.calls.talks.opening import Opening
from engine.calls.talks.pulse import Ground
from engine.calls.talks.voice import Voice
from engine.dialogue.turns import Endpointing, TurnTaker, asks_for_presence
from engine.errors import VendorError
from engine.events import Dtmf, Heard, Missed, SpeechStarted, SpeechStopped, TranscriberEvent, TurnResumed
from engine.observe.labels import BargeIn, Stage
from engine.observe.timeline import What
from engine.ports import Agent, vendor_of


class Ear:
    """``run`` it in a task."""

    def __init__(self, ground: Ground, voice: Voice, agent: Agent, opening: Opening[Parts], mouth: Mouth) -> None:
        limits = ground.limits
        self.turns = TurnTaker(Endpointing(limits.finished_turn_s, limits.unfinished_turn_s))
        self._ground = ground
        self._voice = voice
        self._agent = agent
        self._opening = opening
        self._mouth = mouth
        self._endpoint = trio.CancelScope()
        self._words_at_s = -math.inf
        self._onset_s = -math.inf
        """Of speech into the agent's words that may be too short to stop it."""

    async def run(self) -> None:
        """Opens the talk's parts, then hears. Raises VendorError, once the caller has heard the greeting."""
        try:
            transcriber = (await self._opening.open()).transcriber
        except VendorError:
            if self._mouth.utterance is not None and self._mouth.utterance.has_sounded:
                await self._mouth.was_greeted.wait()
            raise
        self._opening.begin(transcriber.send)
        while True:
            with trio.CancelScope(deadline=self.turns.due_at_s()) as self._endpoint:
                event = await transcriber.receive()
                self.turns.decides_turns = transcriber.decides_turns  # another one may have taken over
                self._take(event)
            if trio.current_time() >= self.turns.due_at_s():
                self._turn_is_over()

    def press(self, event: Dtmf) -> None:
        now = self._ground.pulse.active()
        self._ground.timeline.note(What.DTMF)
        self._mouth.interrupt(BargeIn.DTMF, now, may_resume=False)
        self.turns.on_digit(event, now)
        self._endpoint.deadline = self.turns.due_at_s()

    def nothing_was_said(self) -> None:
        """The sound that stopped an answer, or held it back, held no words: go on with the answer."""
        self._mouth.go_on()
        turns = self.turns
        if not (turns.is_caller_speaking or turns.is_waiting_for_words) and math.isinf(turns.due_at_s()):
            self._mouth.resume()

    def _take(self, event: TranscriberEvent) -> None:
        self._ground.pulse.active()
        self.turns.on_speech(event)
        match event:
            case SpeechStarted(at_s):
                self._onset(at_s)
            case SpeechStopped(at_s):
                self._ground.pulse.last_sound_s = at_s
            case TurnResumed():
                self._mouth.drop_draft()
            case Heard():
                self._heard(event)
            case Missed():
                self._mouth.resumable = None
                self._mouth.announce(self._agent.phrases.say_again)
        if self._ground.limits.drafts and (likely := self.turns.likely) is not None:
            self._mouth.draft(likely)

    def _onset(self, at_s: float) -> None:
        """The caller begins to speak."""
        self._onset_s = at_s
        utterance = self._mouth.utterance
        self._mouth.drop_draft()
        if utterance is None or utterance.is_draft:
            return
        if not utterance.has_sounded and utterance.turn is not None:
            utterance.gate.close()  # whether it is words, and an answer is still wanted, is to be seen
        elif not (self._ground.limits.barge_in_words and self._voice.is_audible):
            self._mouth.interrupt(BargeIn.SPEECH, at_s, may_resume=True)

    def _heard(self, event: Heard) -> None:
        text, utterance, pulse = event.text.strip(), self._mouth.utterance, self._ground.pulse
        is_sounding = utterance is not None and utterance.has_sounded and not utterance.was_interrupted
        if self._ground.limits.barge_in_words and is_sounding and text:
            self._heard_into_speech(text, is_final=event.is_final)
        if not event.is_final:
            return
        self._words_at_s = pulse.last_activity_s
        if not text:
            self.nothing_was_said()
            return
        pulse.last_progress_s = pulse.last_activity_s
        if utterance is not None and not utterance.gate.is_open and not utterance.is_draft and asks_for_presence(text):
            # An answer is being thought of; asked anew at each "hello?", it would never come.
            self.turns.forget()
            self._ground.timeline.note(What.HEARD, text=text)
            utterance.gate.open()

    def _heard_into_speech(self, text: str, *, is_final: bool) -> None:
        """Words, where only so many of them stop the agent."""
        if len(text.split()) >= self._ground.limits.barge_in_words:
            self._mouth.interrupt(BargeIn.SPEECH, self._onset_s, may_resume=True)
        elif is_final:
            self.turns.forget()  # "mhm"

    def _turn_is_over(self) -> None:
        were_words_lost = self.turns.is_waiting_for_words
        turn = self.turns.take()
        if turn is None:
            if were_words_lost and self._mouth.is_idle:
                # Whoever spoke waits for an answer, and would wait until the silence is long enough to be asked about.
                self._mouth.announce(self._agent.phrases.say_again)
            self.nothing_was_said()
            return
        self._mouth.resumable = None
        pulse, meters, parts = self._ground.pulse, self._ground.meters, self._opening.parts
        pulse.turn_taken()
        self._ground.timeline.note(What.HEARD, text=turn.text)
        vendor = vendor_of(parts.transcriber if parts else None, self._agent.transcriber_vendor)
        words_at_s = max(turn.ended_at_s, self._words_at_s)
        meters.stage(Stage.STT_FINAL, vendor, words_at_s - turn.ended_at_s)
        meters.stage(Stage.ENDPOINTING, vendor, pulse.last_progress_s - words_at_s)
        if self._mouth.answer(turn):
            self.turns.was_too_early()
