"""What recognisers say, one after the other, as the words of one caller: a sound in the middle of which one of them was
lost is carried over to the next. Pure: whoever uses it keeps the time."""

from __future__ import annotations

import math
from collections.abc import Iterator

from engine.events import (
    Heard,
    Missed,
    SpeechStarted,
    SpeechStopped,
    TranscriberEvent,
    TurnLikelyOver,
    TurnOver,
    TurnResumed,
)
from engine.vendors.merging import merged


class Carrying:
    """``take`` what a recogniser says; ``lost`` when it goes, ``taken_over`` when the next one has what is to be
    replayed. Each gives what the call is to be told."""

    def __init__(self) -> None:
        self.began_at_s = math.inf
        """Of the open sound; infinite while there is none."""
        self.due_at_s = math.inf
        """When ``expire`` is to be called."""
        self._text = ""
        """Of the open sound, as the call knows it."""
        self._kept = ""
        """Of that, what no later recogniser hears again."""
        self._last = ""
        """The final before."""
        self._is_likely_over = False
        self.is_carried = False
        """The sound began with a recogniser that is gone, or while there was none."""
        self.is_going_on = False
        """The caller makes the open sound still, as far as recognisers tell."""
        self._is_voice = False
        """Of a sound that is carried: it was heard by ourselves as well, so that there are words to be asked for."""

    @property
    def is_open(self) -> bool:
        return self.began_at_s < math.inf

    def take(self, event: TranscriberEvent) -> Iterator[TranscriberEvent]:
        match event:
            case SpeechStarted(at_s):
                yield from self._start(at_s)
            case Heard(text, False):
                yield from self._interim(text)
            case Heard(text, True):
                yield from self._final(text)
            case TurnLikelyOver():
                if self.is_open and not self._is_likely_over:
                    self._is_likely_over = True
                    yield event
            case TurnResumed():
                if self._is_likely_over:
                    self._is_likely_over = False
                    yield event
            case TurnOver():
                self._is_likely_over = False
                yield event
            case SpeechStopped():
                self.is_going_on = False
                yield event
            case _:
                yield event

    def lost(self, replayed_from_s: float) -> Iterator[TranscriberEvent]:
        """The recogniser is gone. The next one hears what came since ``replayed_from_s``."""
        if self._is_likely_over:
            self._is_likely_over = False
            yield TurnResumed()
        if self.is_open:
            self.is_carried = True
            self._kept = "" if self.began_at_s >= replayed_from_s else self._text

    def overheard(self, at_s: float) -> Iterator[TranscriberEvent]:
        """The caller began to speak then, when there was no recogniser. Nothing new if a sound is open."""
        if not self.is_open:
            yield from self._start(at_s)
            self.is_carried = True

    def taken_over(self, due_at_s: float, *, is_voice: bool) -> None:
        """The next one takes the open sound up until then, or it was over. ``is_voice``: there was a voice in it, by
        its level."""
        if self.is_carried:
            self.due_at_s, self._is_voice = due_at_s, is_voice

    def wait_until(self, at_s: float) -> None:
        """The next one has until then at least."""
        if self.due_at_s < math.inf:
            self.due_at_s = max(self.due_at_s, at_s)

    def missed(self, now_s: float) -> Iterator[TranscriberEvent]:
        """Sounds went unheard. Words that were understood so far are kept; else they are to be asked for again."""
        if not self.is_open:
            yield Missed()
        self._is_voice = True
        yield from self.finish(now_s, decides_turns=True)

    def expire(self, now_s: float, *, decides_turns: bool) -> Iterator[TranscriberEvent]:
        """The next recogniser has not taken up the sound: it was over."""
        if now_s >= self.due_at_s:
            yield from self.finish(now_s, decides_turns=decides_turns)

    def finish(self, now_s: float, *, decides_turns: bool) -> Iterator[TranscriberEvent]:
        """The open sound, if there is one, holds the words that are known of it."""
        if self.is_open:
            yield from self._ask_for(self._text)
            yield SpeechStopped(now_s)
            text = self._text
            yield from self._close(text)
            if text and decides_turns:
                yield TurnOver()

    def _start(self, at_s: float) -> Iterator[TranscriberEvent]:
        self.due_at_s = math.inf
        if not self.is_open:
            self.began_at_s, self.is_going_on = at_s, True
            yield SpeechStarted(at_s)

    def _interim(self, text: str) -> Iterator[TranscriberEvent]:
        if not self.is_open and self._last.startswith(text):
            return  # late, of what was final already
        self.due_at_s = math.inf
        text = merged(self._kept, text) if self._kept else text
        if text != self._text:
            self._text = text
            yield Heard(text, is_final=False)

    def _final(self, text: str) -> Iterator[TranscriberEvent]:
        if not self.is_open and text == self._last:
            return  # it came twice
        is_taken_up = self.is_carried and not text
        if self._kept:
            text = merged(self._kept, text)
        elif self.is_carried and not text:
            text = self._text
        yield from self._ask_for(text)
        yield from self._close(text)
        if is_taken_up and text:
            yield TurnOver()

    def _ask_for(self, text: str) -> Iterator[TranscriberEvent]:
        """What was said in the open sound, if that is not known though there was a voice."""
        if self._is_voice and not text:
            yield Missed()

    def _close(self, text: str) -> Iterator[TranscriberEvent]:
        self.began_at_s = self.due_at_s = math.inf
        self._last, self._text, self._kept = text, "", ""
        self._is_likely_over = self.is_carried = self.is_going_on = self._is_voice = False
        yield Heard(text)
