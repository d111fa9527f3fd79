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
    pieces: list[str] = field(default_factory=list)
    """Sent to the provider, in order: sentences, and fillers between them."""
    fillers: set[int] = field(default_factory=set)
    """Which of these are nobody's words."""
    base_s: float = 0.0
    """The link's ``said_s`` at which it begins."""
    first_said_at_s: float | None = None
    cut_at: CutOff | None = None
    was_interrupted: bool = False
    is_sent: bool = False
    """All of it."""

    def fill(self, text: str) -> None:
        self.fillers.add(len(self.pieces))
        self.pieces.append(text)

    @property
    def has_words(self) -> bool:
        return len(self.pieces) > len(self.fillers)

    @property
    def text(self) -> str:
        return " ".join(piece for at, piece in enumerate(self.pieces) if at not in self.fillers)

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
            return self._words_in(_first_words_like(" ".join(self.pieces), " ".join(cut.heard.split())))
        if cut is not None:
            heard_s = cut.heard_s
        elif self.was_interrupted:
            return self.text  # nobody has stopped the provider
        return self._words_in(heard_text(list(map(Spoken, self.pieces)), heard_s))

    def left(self, text: str, heard_s: float) -> tuple[str, ...]:
        """What was to be heard after that long; of ``text``, if it was to be that and nothing was sent."""
        left = rest(list(map(Spoken, self.pieces)), heard_s)
        first = len(self.pieces) - len(left)
        words = tuple(piece for at, piece in enumerate(left, first) if at not in self.fillers)
        return words if self.has_words else tuple(filter(None, [text]))

    def _words_in(self, beginning: str) -> str:
        """Of the pieces, one space between them."""
        words, left = [], len(beginning)
        for at, piece in enumerate(self.pieces):
            if left > 0 and at not in self.fillers:
                words.append(piece[:left])
            left -= len(piece) + 1
        return " ".join(words).strip()


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
