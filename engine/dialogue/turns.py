"""When the caller's turn is over."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from engine.events import Dtmf, Heard, SpeechStarted, SpeechStopped, TranscriberEvent


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


@dataclass(frozen=True, slots=True)
class Turn:
    """One say of the caller."""

    text: str
    ended_at_s: float
    """When its last sound was received (or its last key pressed): turn latency counts from here."""


MAX_DIGITS = 64
"""Of one turn; whoever presses more keys is no caller."""

_DANGLING = re.compile(
    r"(?:\b(?:and|or|but|to|the|a|an|of|for|with|at|on|in|is|my|your|i|we|so|because|um|uh|er|like|about|from|number|"
    r"name is|would|could|can|want|need)|,)[\s.…,]*$",
    re.IGNORECASE,
)


class TurnTaker:
    """Collects what the caller says and decides when it is the agent's turn. Pure: the caller of it keeps the time.

    Feed events as they come; when ``due_at_s`` has passed, ``take`` the turn.
    """

    def __init__(self, endpointing: Endpointing = Endpointing()) -> None:
        self._endpointing = endpointing
        self._words: list[str] = []
        self._digits = ""
        self._is_speaking = False
        self._awaited = 0
        self._last_sound_s = -math.inf
        self._wait_s = endpointing.finished_s

    @property
    def is_caller_speaking(self) -> bool:
        return self._is_speaking

    @property
    def is_waiting_for_words(self) -> bool:
        """The caller made a sound whose words, if any, have not come yet."""
        return self._awaited > 0

    def on_speech(self, event: TranscriberEvent) -> None:
        match event:
            case SpeechStarted(at_s):
                self._is_speaking = True
                self._awaited += 1
                self._last_sound_s = max(self._last_sound_s, at_s)
            case SpeechStopped(at_s):
                self._is_speaking = False
                self._last_sound_s = max(self._last_sound_s, at_s)
            case Heard(text, True):
                self._awaited = max(0, self._awaited - 1)
                if self._awaited == 0:
                    self._is_speaking = False
                if text.strip():
                    self._words.append(text.strip())
                    self._wait_s = self._wait_after(text)
            case Heard():
                pass

    def on_digit(self, event: Dtmf, now_s: float) -> None:
        if event.digit != "#" and len(self._digits) < MAX_DIGITS:
            self._digits += event.digit
        self._last_sound_s = now_s
        self._wait_s = 0.0 if event.digit == "#" else self._endpointing.digits_s

    def due_at_s(self) -> float:
        """When the turn is over if nothing more comes; infinite while it cannot be."""
        if self._is_speaking:
            return math.inf
        if self._awaited:
            return self._last_sound_s + self._endpointing.lost_words_s
        if not self._words and not self._digits:
            return math.inf
        return self._last_sound_s + self._wait_s

    def take(self) -> Turn | None:
        """The turn, and start collecting the next. None if it held nothing."""
        text = " ".join([*self._words, *([self._digits] if self._digits else [])])
        ended_at_s = self._last_sound_s
        self._words, self._digits, self._awaited = [], "", 0
        self._wait_s = self._endpointing.finished_s
        return Turn(text, ended_at_s) if text else None

    def _wait_after(self, text: str) -> float:
        return self._endpointing.unfinished_s if _DANGLING.search(text) else self._endpointing.finished_s
