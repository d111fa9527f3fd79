"""What was said, in the order in which it was said, where the news of it comes in another one.

A speech-to-speech model answers before it has written down what it answers; a provider that speaks for us tells late
how far it came. So every say gets its place when it begins, and goes to the session from there on.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from engine.events import Noted

MAX_SAYS = 50
"""With more of them waiting, the oldest is taken as it is."""


@dataclass(eq=False, slots=True)
class CallerSay:
    """Of the caller: words that are known, and words that are still to come."""

    awaited: int = 0
    due_at_s: float = math.inf
    """Words that have not come by then never come."""
    words: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(word for word in self.words if word)

    def is_due(self, now_s: float) -> bool:
        return not self.awaited or now_s >= self.due_at_s


@dataclass(eq=False, slots=True)
class AgentSay:
    """Of the agent: begun, then heard so far and no further, which may still be corrected for a moment."""

    reply_id: str = ""
    is_opening: bool = False
    text: str = ""
    interrupted: bool = False
    response_ms: int | None = None
    noted: list[Noted] = field(default_factory=list)
    due_at_s: float = math.inf
    """It is written down as it is then."""
    is_corrected: bool = False

    def was_heard(self, text: str, *, interrupted: bool, response_ms: int | None, due_at_s: float) -> None:
        """All that was heard of it. A correction that came before stays."""
        self.response_ms = response_ms
        if self.is_corrected:
            self.due_at_s = -math.inf
        else:
            self.text, self.interrupted, self.due_at_s = text, interrupted, due_at_s

    def correct(self, text: str) -> None:
        """Somebody who knows better says what was heard of it, before it was cut off."""
        is_over = not math.isinf(self.due_at_s)
        self.text, self.interrupted, self.is_corrected = text, True, True
        if is_over:
            self.due_at_s = -math.inf

    def is_due(self, now_s: float) -> bool:
        return now_s >= self.due_at_s


Say = CallerSay | AgentSay


class Minutes:
    """Pure: whoever holds it keeps the time, and takes what is due."""

    def __init__(self) -> None:
        self._says: deque[Say] = deque()

    def __contains__(self, say: Say) -> bool:
        return say in self._says

    def due_at_s(self) -> float:
        """When there is something to take, if nothing happens before; infinite: nothing is to be expected."""
        return self._says[0].due_at_s if self._says else math.inf

    def awaits_words(self, now_s: float) -> bool:
        """The caller made a sound whose words, if any, have not come yet."""
        return any(isinstance(say, CallerSay) and not say.is_due(now_s) for say in self._says)

    def caller_began(self) -> None:
        """Words will come, or the news that there were none."""
        last = self._says[-1] if self._says else None
        if not isinstance(last, CallerSay):
            last = CallerSay()
            self._says.append(last)
        last.awaited += 1
        last.due_at_s = math.inf

    def caller_stopped(self, due_at_s: float) -> None:
        """Words that are still to come do so by then."""
        for say in self._says:
            if isinstance(say, CallerSay) and math.isinf(say.due_at_s):
                say.due_at_s = due_at_s

    def caller_said(self, text: str, *, before: AgentSay | None = None) -> bool:
        """Words, or none: of the oldest sound that waits for some; else from right ``before`` this, or from now. True
        if the agent has begun to say nothing since."""
        for say in self._says:
            if isinstance(say, CallerSay) and say.awaited:
                say.awaited -= 1
                say.words.append(text)
                return say is self._says[-1]
        told = CallerSay(words=[text])
        if before is not None and before in self._says:
            self._says.insert(self._says.index(before), told)
            return False
        self._says.append(told)
        return True

    def agent_began(self, say: AgentSay, words_due_at_s: float) -> None:
        """What the caller said before is over, and its words come by then. Begun twice, it stays where it is."""
        self.caller_stopped(words_due_at_s)
        if say not in self._says:
            self._says.append(say)

    def of(self, reply_id: str) -> AgentSay | None:
        return next((say for say in self._says if isinstance(say, AgentSay) and say.reply_id == reply_id), None)

    def settle(self) -> None:
        """Whatever of the agent is over is not corrected any more."""
        for say in self._says:
            if isinstance(say, AgentSay) and not math.isinf(say.due_at_s):
                say.due_at_s = -math.inf

    def take(self, now_s: float) -> list[Say]:
        """What is to be written down now, in order; with an infinite time, all."""
        taken: list[Say] = []
        while self._says and (self._says[0].is_due(now_s) or len(self._says) > MAX_SAYS):
            taken.append(self._says.popleft())
        return taken
