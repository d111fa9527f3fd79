"""The agent's voice on the line of one call, over all its talks: sound goes out, and what of it was heard is known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from engine.calls.gate import Gate
from engine.calls.meters import CallMeters
from engine.calls.talks.errands import After
from engine.dialogue.heard import Spoken, heard_text, rest, unheard
from engine.dialogue.turns import Turn
from engine.errors import SpeechFailed
from engine.events import Noted
from engine.observe.labels import VendorKind
from engine.ports import Agent, ProviderLink, Synthesizer

MARK_GRACE_S = 2.0
"""A mark that has not come back this long after its audio was due is taken for lost."""

FILL_AGAIN_S = 5.0
"""Between two fillers: a model, or the tools that it uses, may take long."""

DRY_S = 0.001
"""A line that has had nothing to play for longer than this ran dry."""


@dataclass(eq=False, slots=True)
class Utterance:
    """One say of the agent. Its scope is cancelled by a barge-in and by the end of the call, and has a deadline that is
    pushed forward while it makes progress."""

    turn: Turn | None = None
    """What it answers; None for what the agent says of its own accord."""
    is_interruptible: bool = True
    is_opening: bool = False
    """The first words of the call."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    spoken: list[Spoken] = field(default_factory=list)
    began_at_s: float = field(default_factory=trio.current_time)
    first_audio_at_s: float | None = None
    was_interrupted: bool = False
    may_resume: bool = False
    """What interrupted it may turn out to be no words at all."""
    filled_until_s: float = -math.inf
    """The end of the last filler in it."""
    is_queued: bool = False
    """All of it is with the provider, or waits for its turn there."""
    after: After | None = None
    """What is to be done once it has been heard."""
    gate: Gate = field(default_factory=Gate)
    """Nothing of it sounds while it is closed."""
    unsaid: str = ""
    """The caller's words that it answers, as far as the session does not have them."""
    is_draft: bool = False
    """They may not be all: nobody knows of it but us."""
    pending: list[Noted] = field(default_factory=list)
    base_s: float = 0.0
    """The link's ``heard_s`` at which its first sound begins."""
    behind_s: float = 0.0
    """What was still to be heard before its first sound."""

    @property
    def has_words(self) -> bool:
        return bool(self.spoken)

    @property
    def seconds(self) -> float:
        return sum(spoken.audio_s for spoken in self.spoken)

    @property
    def has_sounded(self) -> bool:
        return self.first_audio_at_s is not None

    @property
    def text(self) -> str:
        return " ".join(spoken.text for spoken in self.spoken)

    @property
    def response_ms(self) -> int | None:
        """From the caller's last sound to its first."""
        if self.turn is None or self.first_audio_at_s is None:
            return None
        return round((self.first_audio_at_s - self.turn.ended_at_s) * 1000)


class Voice:
    """One utterance at a time. ``play`` and ``until_heard`` run in the utterance's own task; ``hush`` from any.

    Implements :class:`engine.calls.talks.conversing.Sound`.
    """

    def __init__(self, link: ProviderLink, agent: Agent, meters: CallMeters) -> None:
        self.agent = agent
        """Whose phrases are at hand as audio; set by the talk that has the line."""
        self.patience_s: Callable[[], float] = lambda: 0.0
        """How long an utterance may make no progress, by whoever answers now; likewise."""
        self._link = link
        self._meters = meters
        self.queued_until_s = -math.inf
        """When the line runs dry, or ran dry last."""
        self._marks: dict[str, trio.Event] = {}
        self._mark_numbers = itertools.count(1)
        self.audio_out_s = 0.0
        """Seconds of audio queued since the call began; of that, made by the vendor:"""
        self.spoken_s = 0.0

    @property
    def is_audible(self) -> bool:
        """Something queued has not been heard yet."""
        return self.remaining_s > 0

    @property
    def remaining_s(self) -> float:
        """Seconds queued and not heard yet."""
        return self._link.remaining_s()

    async def ping(self) -> None:
        """Of the media socket; returns on the pong. Raises trio.EndOfChannel."""
        await self._link.ping()

    def be_patient(self, utterance: Utterance) -> None:
        """Progress was made: from now on the utterance may take ``patience_s`` to make more."""
        utterance.scope.deadline = trio.current_time() + self._link.remaining_s() + self.patience_s()

    async def say(self, utterance: Utterance, sentence: str, synthesizer: Synthesizer) -> None:
        """Queue one sentence; returns when all of its audio is queued, up to a couple of seconds ahead of the ear.

        Raises SpeechFailed.
        """
        if await self.say_ready(utterance, sentence):
            return
        spoken = Spoken(sentence)
        utterance.spoken.append(spoken)
        self._meters.characters(sentence)
        with self._meters.asked(VendorKind.TTS, self.agent.synthesizer_vendor, utterance.scope):
            async with synthesizer.open_speech(sentence) as audio:
                async for piece in audio:
                    spoken.audio_s += self._link.format.duration_s(piece)
                    await self.play(utterance, piece)
            # Else a vendor that answers every sentence with nothing leaves its callers in silence.
            if not spoken.audio_s and any(map(str.isalnum, sentence)):
                raise SpeechFailed(self.agent.synthesizer_vendor, "no audio for a sentence")
        spoken.is_whole = True

    async def say_ready(self, utterance: Utterance, sentence: str) -> bool:
        """The same of a phrase that is at hand as audio. False if it is not."""
        clip = self.agent.clip(sentence, self._link.format)
        if clip is None:
            return False
        spoken = Spoken(sentence, self._link.format.duration_s(clip))
        utterance.spoken.append(spoken)
        await self.play(utterance, clip, is_clip=True)
        spoken.is_whole = True
        return True

    async def play(self, utterance: Utterance, audio: bytes, *, is_clip: bool = False) -> None:
        """Queue sound of an utterance that is accounted for in its ``spoken``; waits for its gate, and for the line."""
        # A task that was already on its way when its utterance was cut must not queue one more piece after the clear.
        await trio.lowlevel.checkpoint_if_cancelled()
        if utterance.first_audio_at_s is None:
            await utterance.gate.wait()
            utterance.behind_s = self.remaining_s
            utterance.base_s = self._link.heard_s() + utterance.behind_s
            utterance.first_audio_at_s = trio.current_time()
            self._meters.first_audio()
        elif (dry_s := trio.current_time() - self.queued_until_s) > DRY_S and not self.is_audible:
            self._meters.on_dry(dry_s)
        # Waiting for the line to catch up is no lack of progress.
        utterance.scope.deadline = math.inf
        seconds = self._link.format.duration_s(audio)
        self.audio_out_s += seconds
        if not is_clip:
            self.spoken_s += seconds
        await self._link.play(audio)
        self.queued_until_s = trio.current_time() + self.remaining_s
        self.be_patient(utterance)

    def clear(self) -> None:
        """Silence on the line, whatever is on it. Never waits."""
        self._link.clear()

    async def say_clip(self, text: str, within: Utterance | None = None) -> bool:
        """Queue a fixed phrase that is at hand as audio, beside any utterance: it is in nobody's history. ``within``:
        the utterance that it may come in the middle of."""
        clip = self.agent.clip(text, self._link.format)
        if clip is None:
            return False
        seconds = self._link.format.duration_s(clip)
        self.audio_out_s += seconds
        if within is not None and within.has_sounded:
            within.base_s += seconds  # what is heard of the clip is nothing of it
        await self._link.play(clip)
        self.queued_until_s = trio.current_time() + self.remaining_s
        return True

    async def until_heard(self) -> None:
        """Until everything queued has been heard, or its mark must be taken for lost."""
        name = f"m{next(self._mark_numbers)}"
        played = self._marks[name] = trio.Event()
        try:
            self._link.mark(name)
            with trio.move_on_after(self._link.remaining_s() + MARK_GRACE_S):
                await played.wait()
        finally:
            del self._marks[name]

    def mark_played(self, name: str) -> None:
        """The provider's echo. One that nobody waits for is ignored."""
        played = self._marks.get(name)
        if played is not None:
            played.set()

    def hush(self, utterance: Utterance) -> None:
        """Silence on the line, then no more of this utterance. Never waits.

        The clear goes first: the provider may hold seconds of audio.
        """
        self._link.clear()
        utterance.was_interrupted = True
        utterance.scope.cancel()

    def heard_s(self, utterance: Utterance) -> float:
        """Seconds of it that the caller has heard."""
        if utterance.first_audio_at_s is None:
            return 0.0
        return max(0.0, self._link.heard_s() - utterance.base_s)

    def heard_of(self, utterance: Utterance) -> str:
        return heard_text(utterance.spoken, self.heard_s(utterance))

    def unheard_of(self, utterance: Utterance) -> list[str]:
        return unheard(utterance.spoken, self.heard_s(utterance))

    def rest_of(self, utterance: Utterance) -> list[str]:
        """What is left of it for another line: from the sentence on that the caller did not hear to its end."""
        return rest(utterance.spoken, self.heard_s(utterance))
