"""The conversation inside a call with a transcriber, a language model and a synthesizer: listen, think, speak, be
interrupted, fall silent, end.

Tasks: the pump (provider to recogniser), the ear (speech onset and words to turns), the mouth (one utterance at a time)
and the watch of :mod:`engine.calls.talks.watch`. They share these objects and one loop, so a plain attribute is enough
between them.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable

import trio

from engine.calls.returning import Resumption
from engine.calls.talks.conversing import Conversing, Succession
from engine.calls.talks.ear import Ear
from engine.calls.talks.errands import Errands, outcome_of_run
from engine.calls.talks.mind import Mind
from engine.calls.talks.mouth import Mouth, Parts
from engine.calls.talks.opening import Opening
from engine.calls.talks.pulse import Ground
from engine.calls.talks.pump import pump
from engine.calls.talks.voice import FILL_AGAIN_S, Voice
from engine.errors import CallEnd, SpeechFailed, Why
from engine.events import Dtmf, MarkPlayed, ProviderEvent
from engine.observe.labels import DeadAir
from engine.observe.timeline import What
from engine.ports import (
    Agent,
    LanguageModel,
    Phrases,
    ProviderLink,
    Synthesizer,
    Transcriber,
    patience_with,
    unheard_since_s,
)

OpenParts = Callable[[], Awaitable[tuple[Transcriber, Synthesizer, LanguageModel]]]
"""Raises VendorError."""


class Talk:
    """``run`` it once. Implements :class:`engine.calls.talks.conversing.Conversing`.

    ``open_parts`` is asked for what hears, thinks and speaks while the greeting is heard already, if there is a clip of
    it.
    """

    def __init__(  # noqa: PLR0917 - the parts of one call, made in one place
        self,
        ground: Ground,
        link: ProviderLink,
        voice: Voice,
        agent: Agent,
        open_parts: OpenParts,
        errands: Errands,
    ) -> None:
        self.ground = ground
        self.voice = voice
        self._link = link
        self._agent = agent
        self._open_parts = open_parts
        self._errands = errands
        self._opening: Opening[Parts] = Opening(
            self._opened,
            within_s=ground.limits.open_s,
            late=SpeechFailed(agent.transcriber_vendor, "a vendor did not open in time", why=Why.TIMEOUT),
            on_dropped=ground.meters.early_frame_dropped,
        )
        self._mouth = Mouth(ground, voice, agent, self._opening, errands)
        self._ear = Ear(ground, voice, agent, self._opening, self._mouth)
        self._mouth.on_stopped = self._ear.nothing_was_said
        self._succession: Succession | None = None
        self._filled_opening = False
        self._filled_until_s = -math.inf
        """The end of the last filler."""

    @property
    def phrases(self) -> Phrases:
        return self._agent.phrases

    @property
    def is_idle(self) -> bool:
        turns, mouth = self._ear.turns, self._mouth
        is_agent_silent = mouth.utterance is None and mouth.agenda.next is None
        is_caller_waited_for = turns.is_caller_speaking or turns.is_waiting_for_words
        return is_agent_silent and not is_caller_waited_for and math.isinf(self._unheard_since_s)

    @property
    def unfinished(self) -> Resumption | None:
        return self._mouth.unfinished

    def awaited(self) -> tuple[DeadAir | None, float]:
        if self.voice.is_audible:
            return None, 0.0
        cause, since_s = self._awaited()
        return cause, max(since_s, self.voice.queued_until_s)

    def _awaited(self) -> tuple[DeadAir | None, float]:
        """The same, from the caller's last sound on."""
        utterance, turns, pulse = self._mouth.utterance, self._ear.turns, self.ground.pulse
        if not math.isinf(unheard_s := self._unheard_since_s):
            return DeadAir.STT, unheard_s
        if turns.is_caller_speaking:
            return None, 0.0
        if not self._opening.is_open:
            return DeadAir.STT, pulse.started_at_s
        # Else only the mark is missing; or it is the caller's turn still.
        is_awaited = utterance is not None and not (utterance.is_queued or utterance.is_draft)
        if is_awaited and utterance is not None and utterance.turn is not None:
            return DeadAir.TTS if utterance.spoken else DeadAir.LLM, utterance.turn.ended_at_s
        if utterance is None and turns.is_waiting_for_words:
            return DeadAir.STT, pulse.last_sound_s
        return None, 0.0

    @property
    def _unheard_since_s(self) -> float:
        parts = self._opening.parts
        return unheard_since_s(parts.transcriber if parts else None)

    async def fill(self) -> None:
        utterance = self._mouth.utterance
        if not self._opening.is_open:
            if self._filled_opening:
                return
            self._filled_opening = True
        filled_until_s = self._filled_until_s if utterance is None else utterance.filled_until_s
        if trio.current_time() < filled_until_s + FILL_AGAIN_S:
            return
        if await self.voice.say_clip(self.phrases.filler, utterance):
            self._filled_until_s = self.voice.queued_until_s
            if utterance is not None:
                utterance.filled_until_s = self._filled_until_s
            self.ground.timeline.note(What.FILLER)

    def say(self, text: str, *, then: CallEnd | None = None) -> None:
        self._mouth.announce(text, then)

    def follow(self) -> None:
        """The mind does, with its next answer."""

    async def prepare(self, on_the_line: str) -> None:
        """Its model is shown what was said when it is asked."""
        await self._opening.open()

    def take_over(self, succession: Succession) -> None:
        self._succession = succession

    async def run(
        self, watch: Callable[[Conversing], Awaitable[None]], early: Iterable[ProviderEvent] = ()
    ) -> CallEnd | Conversing:
        self.voice.agent, self.voice.patience_s = self._agent, self._patience_s
        if self._succession is not None:
            self.ground.taken_over(self._agent)
            self._link.pace(0.0)
        with self.ground.pulse.begin():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._ear.run)
                nursery.start_soon(self._mouth.run, self._succession)
                nursery.start_soon(watch, self)
                await pump(
                    self._link,
                    self.ground.pulse,
                    early,
                    send=self._hear,
                    signal=self._signal,
                    on_gap=self.ground.meters.on_gap,
                )
        return outcome_of_run(self.ground, self._mouth.heir, self._errands)

    def _signal(self, event: ProviderEvent) -> None:
        """Of the provider, everything but audio and the end."""
        if isinstance(event, MarkPlayed):
            self.voice.mark_played(event.name)
        elif isinstance(event, Dtmf):
            self._ear.press(event)

    def _hear(self, audio: bytes) -> None:
        if (parts := self._opening.parts) is not None:
            parts.transcriber.send(audio)
        else:
            self._opening.keep(audio)

    async def _opened(self) -> Parts:
        transcriber, synthesizer, model = await self._open_parts()
        return Parts(transcriber, synthesizer, Mind(self._agent, model, self.ground, self._errands))

    def _patience_s(self) -> float:
        parts = self._opening.parts
        return self.ground.limits.reply_s + patience_with(self._agent if parts is None else parts.mind.agent)
