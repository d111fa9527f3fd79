"""When the caller's turn is over."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from engine.events import (
    Dtmf,
    Heard,
    SpeechStarted,
    SpeechStopped,
    TranscriberEvent,
    TurnLikelyOver,
    TurnOver,
    TurnResumed,
)


@dataclass(frozen=True, slots=True)
class Endpointing:
    """Silence after the last sound that ends a turn, by how finished its words look."""

    finished_s: float = 0.4
    unfinished_s: float = 1.2
    """After "and", "to", "my number is": the caller is thinking."""
    digits_s: float = 2.0
    """After a key press, unless it was #."""
    lost_words_s: float = 5.0
    """A recogniser that has announced words and sends none is waited for no longer than this."""
    undecided_s: float = 3.0
    """A recogniser that decides when a turn is over, and does not, is waited for no longer than this."""


MAX_PATIENCE = 2.0
PATIENCE_GROWS = 1.4
PATIENCE_FADES = 0.9
"""How a caller who was answered too early makes the silences longer, and a turn that was not takes some of it back."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One say of the caller."""

    text: str
    ended_at_s: float
    """When its last sound was received (or its last key pressed): turn latency counts from here."""


MAX_DIGITS = 64
"""Of one turn; whoever presses more keys is no caller."""

_PRESENCE = re.compile(
    r"(?:hello|hi|hey|are you (?:still )?there|you there|anybody there|can you hear me|hello hello)[\s?.!,]*",
    re.IGNORECASE,
)


def asks_for_presence(text: str) -> bool:
    """The caller only wants to know whether anybody is there."""
    return _PRESENCE.fullmatch(text.strip()) is not None


_DANGLING = re.compile(
    r"(?:\b(?:and|or|but|to|the|a|an|of|for|with|at|on|in|is|my|your|i|we|so|because|um|uh|er|like|about|from|number|"
    r"name is|would|could|can|want|need)|,)[\s.…,]*$",
    re.IGNORECASE,
)


class TurnTaker:
    """Collects what the caller says and decides when it is the agent's turn. Pure: the caller of it keeps the time.

    Feed events as they come; when ``due_at_s`` has passed, ``take`` the turn. ``decides_turns``: the recogniser says
    when one is over, and is believed; it may be set at any time, as another recogniser takes over.
    """

    def __init__(self, endpointing: Endpointing = Endpointing(), *, decides_turns: bool = False) -> None:
        self._endpointing = endpointing
        self.decides_turns = decides_turns
        self._words: list[str] = []
        self._interim = ""
        self._digits = ""
        self._is_speaking = False
        self._is_likely_over = False
        self._is_over = False
        self._awaited = 0
        self._last_sound_s = -math.inf
        self._wait_s = endpointing.finished_s
        self._patience = 1.0

    @property
    def is_caller_speaking(self) -> bool:
        return self._is_speaking

    @property
    def is_waiting_for_words(self) -> bool:
        """The caller made a sound whose words, if any, have not come yet."""
        return self._awaited > 0

    @property
    def likely(self) -> Turn | None:
        """The turn as it will be if the caller does not go on, once that is likely: time to think of an answer."""
        if self._is_likely_over:
            return self._turn([*self._words, self._interim])
        is_quiet = not self._is_speaking and not self._awaited and not self.decides_turns
        looks_finished = self._wait_s <= self._endpointing.finished_s * self._patience and not self._digits
        return self._turn(self._words) if is_quiet and looks_finished else None

    def on_speech(self, event: TranscriberEvent) -> None:
        match event:
            case SpeechStarted(at_s):
                self._is_speaking = True
                self._is_likely_over = False
                self._awaited += 1
                self._last_sound_s = max(self._last_sound_s, at_s)
            case SpeechStopped(at_s):
                self._is_speaking = False
                self._last_sound_s = max(self._last_sound_s, at_s)
            case Heard(text, True):
                self._final(text.strip())
            case Heard(text):
                self._interim = text.strip()
            case TurnLikelyOver():
                self._is_likely_over = True
            case TurnResumed():
                self._is_likely_over = False
                self._is_speaking = True
            case TurnOver():
                self._is_speaking = self._is_likely_over = False
                self._awaited = 0
                self._is_over = bool(self._words)

    def on_digit(self, event: Dtmf, now_s: float) -> None:
        if event.digit != "#" and len(self._digits) < MAX_DIGITS:
            self._digits += event.digit
        self._last_sound_s = now_s
        self._wait_s = 0.0 if event.digit == "#" else self._endpointing.digits_s

    def due_at_s(self) -> float:
        """When the turn is over if nothing more comes; infinite while it cannot be."""
        if self._is_over:
            return self._last_sound_s
        if self._is_speaking:
            return math.inf
        if self._awaited:
            return self._last_sound_s + self._endpointing.lost_words_s
        if not self._words and not self._digits:
            return math.inf
        if self.decides_turns and not self._digits:
            return self._last_sound_s + max(self._wait_s, self._endpointing.undecided_s)
        return self._last_sound_s + self._wait_s

    def take(self) -> Turn | None:
        """The turn, and start collecting the next. None if it held nothing."""
        turn = self._turn(self._words)
        self.forget()
        self._patience = max(1.0, self._patience * PATIENCE_FADES)
        return turn

    def forget(self) -> None:
        """What was said so far is to be answered by nobody."""
        self._words, self._interim, self._digits, self._awaited = [], "", "", 0
        self._is_likely_over = self._is_over = False
        self._wait_s = self._endpointing.finished_s

    def was_too_early(self) -> None:
        """The caller went on after a turn was taken, before anything of the answer was heard: this one pauses longer
        than others, and is waited for a little longer from now on."""
        self._patience = min(MAX_PATIENCE, self._patience * PATIENCE_GROWS)

    def _final(self, text: str) -> None:
        self._awaited = max(0, self._awaited - 1)
        self._interim = ""
        if self._awaited == 0:
            self._is_speaking = False
        if text:
            self._words.append(text)
            is_dangling = _DANGLING.search(text) is not None
            limits = self._endpointing
            self._wait_s = (limits.unfinished_s if is_dangling else limits.finished_s) * self._patience

    def _turn(self, words: Iterable[str]) -> Turn | None:
        text = " ".join(word for word in (*words, self._digits) if word)
        return Turn(text, self._last_sound_s) if text else None
