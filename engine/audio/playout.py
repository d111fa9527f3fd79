"""What is queued at a provider and what the caller has heard of it, by arithmetic alone."""

from __future__ import annotations

GIVE_UP_S = 2.0
"""How long after its audio should have ended a mark is still waited for."""

MAX_MARKS = 256
"""Marks waited for at once; the oldest is forgotten beyond that."""


class PlayoutClock:
    """The playout of one line, in seconds, by the clock that is passed in as ``now`` (monotonic seconds).

    Audio is taken to play gaplessly from the moment it is queued. A mark that the provider echoes confirms that all
    queued before it has been heard, which may move the estimate forward, never back. A ``now`` that lies before one
    seen earlier counts as the later one.
    """

    __slots__ = ("_at", "_heard", "_marks", "_queued")

    def __init__(self) -> None:
        self._at = float("-inf")
        self._queued = 0.0  # all audio ever queued, less what was dropped
        self._heard = 0.0  # of that, heard at self._at
        self._marks: dict[str, tuple[float, float]] = {}  # name -> position in the audio, when to give up

    def queue(self, duration_s: float, now: float) -> None:
        """Audio of this length goes to the provider."""
        self._advance(now)
        self._queued += duration_s

    def heard(self, now: float) -> float:
        """Seconds of all audio ever queued that have been heard: monotone; what ``clear`` dropped never counts."""
        self._advance(now)
        return self._heard

    def remaining(self, now: float) -> float:
        """Seconds queued and not heard yet."""
        self._advance(now)
        return self._queued - self._heard

    def clear(self, now: float) -> None:
        """The provider drops what has not been heard. Marks sent before are not waited for any more."""
        self._advance(now)
        self._queued = self._heard
        self._marks.clear()

    @property
    def waits_for_marks(self) -> bool:
        return bool(self._marks)

    def mark(self, name: str, now: float) -> None:
        """A mark goes to the provider, behind all that is queued."""
        remaining = self.remaining(now)
        self._marks.pop(name, None)
        self._marks[name] = (self._queued, self._at + remaining + GIVE_UP_S)
        if len(self._marks) > MAX_MARKS:
            del self._marks[next(iter(self._marks))]

    def confirm(self, name: str, now: float) -> bool:
        """The provider echoed this mark. False for one that is not waited for: unknown, or from before a clear."""
        self._advance(now)
        waited_for = self._marks.pop(name, None)
        if waited_for is None:
            return False
        self._heard = max(self._heard, waited_for[0])
        return True

    def late(self, now: float, by_s: float) -> int:
        """How many marks are waited for whose audio should have ended so long ago."""
        return sum(give_up_at - GIVE_UP_S + by_s <= now for _, give_up_at in self._marks.values())

    def overdue(self, now: float) -> str | None:
        """A mark that is given up: its audio should have ended ``GIVE_UP_S`` ago. Asked again, the next one."""
        for name, (_, give_up_at) in self._marks.items():
            if give_up_at <= now:
                del self._marks[name]
                return name
        return None

    def _advance(self, now: float) -> None:
        if now > self._at:
            if self._heard < self._queued:
                self._heard = min(self._queued, self._heard + (now - self._at))
            self._at = now
