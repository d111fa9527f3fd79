"""What a vendor makes of the caller's speech, as the port promises it: each beginning has one end and one final text.
Pure."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from adapters.realtime.lanes import Lanes
from engine.events import Heard, SpeechStarted, SpeechStopped
from engine.runtime.vendor_json import MAX_TEXT

LOST_S = 5.0
"""Words that have not come so long after the speech has ended are not waited for."""
MAX_OPEN = 16
"""Stretches of speech whose words are awaited."""
MAX_KNOWN = 64


@dataclass(slots=True)
class _Speech:
    started_at_s: float
    has_stopped: bool = False
    text: str = ""
    due_at_s: float = math.inf


class CallerSpeech:
    """Stretches of speech by the vendor's name for each. The words of one may come after the next has begun."""

    def __init__(self, lanes: Lanes, now: Callable[[], float], *, noise_s: float | None = None) -> None:
        """``noise_s``: a stretch of which no word has come so long after its end was noise; None: nobody knows what it
        was."""
        self._lanes = lanes
        self._noise_s = noise_s
        self._now = now
        self._open: OrderedDict[str, _Speech] = OrderedDict()
        self._known: deque[str] = deque(maxlen=MAX_KNOWN)

    @property
    def is_open(self) -> bool:
        """The words of some stretch are awaited."""
        return bool(self._open)

    @property
    def is_speaking(self) -> bool:
        return any(not speech.has_stopped for speech in self._open.values())

    @property
    def due_at_s(self) -> float:
        """When ``expire`` is to be called."""
        return min((speech.due_at_s for speech in self._open.values()), default=math.inf)

    def started(self, name: str, at_s: float) -> bool:
        """False if that is known."""
        if name in self._open or name in self._known:
            return False
        for other in list(self._open):
            self.stopped(other, at_s)
        while len(self._open) >= MAX_OPEN:
            self.finished(next(iter(self._open)), None)
        self._open[name] = _Speech(at_s)
        self._known.append(name)
        self._lanes.put(SpeechStarted(at_s))
        return True

    def stopped(self, name: str, at_s: float) -> None:
        speech = self._open.get(name)
        if speech is None or speech.has_stopped:
            return
        speech.has_stopped = True
        speech.due_at_s = self._now() + (self._noise_s if self._noise_s and not speech.text else LOST_S)
        self._lanes.put(SpeechStopped(max(at_s, speech.started_at_s)))

    def goes_on(self, name: str, text: str) -> None:
        """All its words so far."""
        speech = self._open.get(name)
        if speech is None or text == speech.text or len(text) > MAX_TEXT:
            return
        speech.text = text
        if speech.has_stopped:
            speech.due_at_s = self._now() + LOST_S
        self._lanes.put(Heard(text.strip(), is_final=False))

    def more(self, name: str, piece: str) -> None:
        """Further words of it."""
        if (speech := self._open.get(name)) is not None:
            self.goes_on(name, speech.text + piece)

    def finished(self, name: str, text: str | None) -> None:
        """Its words; None: those that are known, which may not be all. What was finished before, or never began and
        holds no words, is nothing."""
        speech = self._open.get(name)
        if speech is None:
            if text and text.strip() and name not in self._known:
                self._known.append(name)
                self._lanes.put(Heard(text.strip()))
            return
        self.stopped(name, self._now())
        del self._open[name]
        is_certain = text is not None or self._noise_s is not None
        self._lanes.put(Heard((speech.text if text is None else text).strip(), is_certain=is_certain))

    def expire(self) -> None:
        """What is overdue is finished with the words there are."""
        for name in [name for name, speech in self._open.items() if speech.due_at_s <= self._now()]:
            self.finished(name, None)
