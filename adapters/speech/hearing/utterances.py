"""What vendors say of the caller's speech, in the order that the port promises. Pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from engine.audio.audio_clock import AudioClock
from engine.errors import BadMessage
from engine.events import (
    Heard,
    SpeechStarted,
    SpeechStopped,
    TranscriberEvent,
    TurnLikelyOver,
    TurnOver,
    TurnResumed,
)
from engine.runtime.vendor_json import MAX_TEXT

WORDLESS_S = 2.0
"""A sound of which no word has come for so long held none."""
LOST_S = 5.0
"""Words that have not changed for so long, and were never said to be final, are taken as they are."""
LOST_WHILE_LOUD_S = 25.0
"""The same while the caller goes on making a sound: some vendors say nothing new until there is a pause."""


class Utterances:
    """One segment after the other: ``start``, ``interim``..., ``finish``, in any order that a vendor may come up with.

    What goes out is ``SpeechStarted``, interims, perhaps ``TurnLikelyOver`` and ``TurnResumed``, ``SpeechStopped``, one
    final ``Heard`` and, if it held words and the vendor decides on turns, ``TurnOver``. Places are seconds of audio
    sent; None is now.
    """

    def __init__(
        self, clock: AudioClock, now: Callable[[], float], *, decides_turns: bool, lost_s: float = LOST_S
    ) -> None:
        self.events: deque[TranscriberEvent] = deque()
        """To be taken from the left."""
        self.decides_turns = decides_turns
        self.is_open = False
        self.text = ""
        """Of the open segment, so far."""
        self.due_at_s = math.inf
        """When ``expire`` is to be called."""
        self.clock = clock
        self.now = now
        self._lost_s = lost_s
        self._started_at_s = 0.0
        self._ends_at_s = 0.0
        self._changed_at_s = 0.0
        self._is_likely_over = False

    def start(self, position_s: float | None = None) -> None:
        """The caller makes a sound. Nothing new if that is known."""
        if self.is_open:
            return
        self.is_open = True
        self._started_at_s = self._ends_at_s = self._time_of(position_s)
        self.due_at_s = self.now() + WORDLESS_S
        self.events.append(SpeechStarted(self._started_at_s))

    def interim(self, text: str, start_s: float | None = None, end_s: float | None = None) -> None:
        """All words of the segment so far, and where the first begins and the last ends. Raises BadMessage."""
        text = _checked(text)
        if not text:
            return
        self.start(start_s)
        if text == self.text:
            return
        self.resumed()
        self.text = text
        self._changed_at_s = self.now()
        self._ends_at_s = max(self._ends_at_s, self._time_of(end_s))
        self.due_at_s = self.now() + self._lost_s
        self.events.append(Heard(text, is_final=False))

    def likely_over(self, wait_s: float | None = None) -> None:
        """And over for good, if nothing else comes within ``wait_s``."""
        if self.is_open and self.text:
            self.due_at_s = self.now() + (self._lost_s if wait_s is None else wait_s)
            if not self._is_likely_over:
                self._is_likely_over = True
                self.events.append(TurnLikelyOver())

    def resumed(self) -> None:
        if self._is_likely_over:
            self._is_likely_over = False
            self.due_at_s = self.now() + self._lost_s
            self.events.append(TurnResumed())

    def finish(self, text: str, start_s: float | None = None, end_s: float | None = None) -> None:
        """The final words of the segment. Raises BadMessage."""
        text = _checked(text)
        if not self.is_open and not text:
            return
        self.start(start_s)
        if end_s is not None or self.text == "":
            self._ends_at_s = self._time_of(end_s)
        self.events.append(SpeechStopped(max(self._started_at_s, self._ends_at_s)))
        self.events.append(Heard(text))
        if self._is_likely_over or (text and self.decides_turns):
            self.events.append(TurnOver())
        self.is_open = self._is_likely_over = False
        self.text = ""
        self.due_at_s = math.inf

    def expire(self, *, is_loud: bool = False) -> bool:
        """Called at ``due_at_s`` or later: what has not come by now is not waited for, unless the caller is loud and
        has not been for too long. True if a segment ended."""
        now_s = self.now()
        if now_s < self.due_at_s:
            return False
        if is_loud and self.text and not self._is_likely_over and now_s < self._changed_at_s + LOST_WHILE_LOUD_S:
            self.due_at_s = now_s + 1.0
            return False
        self.finish(self.text)
        return True

    def _time_of(self, position_s: float | None) -> float:
        now_s = self.now()
        return now_s if position_s is None else min(now_s, self.clock.time_of(position_s))


def _checked(text: str) -> str:
    if len(text) > MAX_TEXT:
        raise BadMessage("length")
    return text.strip()
