"""An utterance that the provider speaks, and what of it the caller has heard."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from engine.calls.gate import Gate
from engine.calls.talks.errands import After
from engine.calls.talks.minutes import AgentSay
from engine.calls.text_link import TextLink
from engine.dialogue.heard import CHARS_PER_S, Spoken, heard_text, rest
from engine.dialogue.turns import Turn
from engine.events import CutOff, Noted


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

    def heard(self, heard_s: float) -> str:
        """Of an utterance that was cut off: as the provider tells; else what it may have said in that time."""
        cut = self.cut_at
        if cut is not None and cut.heard.strip():
            told = " ".join(cut.heard.split())
            return _first_words_like(self.text, told.removeprefix(self.filler).strip())
        if cut is not None:
            heard_s = cut.heard_s
        elif self.was_interrupted:
            return self.text  # nobody has stopped the provider
        return heard_text([Spoken(sentence) for sentence in self.sentences], heard_s)

    def left(self, text: str, heard_s: float) -> tuple[str, ...]:
        """What was to be heard after that long; of ``text``, if it was to be that and nothing was sent."""
        return tuple(rest([Spoken(sentence) for sentence in self.sentences or [text] if sentence], heard_s))


class TextVoice:
    """Implements :class:`engine.calls.talks.conversing.Sound` for words that the provider speaks."""

    spoken_s = 0.0
    """No vendor of ours makes it."""

    def __init__(self, link: TextLink) -> None:
        self.audio_out_s = 0.0
        self._link = link

    @property
    def remaining_s(self) -> float:
        return self._link.remaining_s()

    @property
    def is_audible(self) -> bool:
        return self._link.remaining_s() > 0

    async def ping(self) -> None:
        await self._link.ping()

    def put(self, text: str) -> None:
        self.audio_out_s += self._link.seconds_of(text)
        self._link.say(f"{text} ")


def _first_words_like(text: str, told: str) -> str:
    """What of ``text`` was heard, by what the provider tells of it: its beginning, or a piece of it that was heard
    last; where these are other words (numbers written out, say), so many."""
    at = text.lower().find(told.lower()) if told else -1
    if at >= 0:
        return text[: at + len(told)]
    return " ".join(text.split()[: len(told.split())])
