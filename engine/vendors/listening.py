"""What of the caller's audio no recogniser has answered yet: to be played to the next one, and to notice by that one
has gone deaf, or that the caller waits. Pure."""

from __future__ import annotations

import math
from collections import deque

from engine.events import FRAME_S, AudioFormat

LEAST_VOICE_S = 1.0
"""Of sound that no recogniser answers, before anything is made of it: a door that slams is none."""
CLEAR_VOICE_S = 0.4
"""The same where it is known that nobody hears."""
PAUSE_S = 1.0
"""Between two sounds that are too short to be words by themselves; farther apart, they are not one voice."""
THINKING_S = 2.0
"""A caller in the middle of a sentence is let think for so much longer than one who has finished it."""
WAIT_S = 6.5
"""After the caller's last sound, for the rest of what was begun to be heard: then something must be said."""


class Unanswered:
    """The newest ``keep_s`` of audio, without what is behind the last word that is final; and, up to ``most_s``, what
    is held besides."""

    def __init__(self, line: AudioFormat, keep_s: float, most_s: float = 0.0) -> None:
        self._held_from_s = math.inf
        self._keep_bytes = int(keep_s * line.bytes_per_s)
        self._most_bytes = max(self._keep_bytes, int(most_s * line.bytes_per_s))
        self._frames: deque[tuple[float, bytes]] = deque()
        self._bytes = 0

    def add(self, at_s: float, audio: bytes) -> None:
        self._frames.append((at_s, audio))
        self._bytes += len(audio)
        if self._bytes > self._keep_bytes:
            self._trim()

    def hold(self, from_s: float) -> None:
        """Everything since then is wanted again, whatever its age. Infinite: no more than usual."""
        self._held_from_s = from_s
        self._trim()

    def answered(self, until_s: float) -> None:
        """Up to this time everything has its words."""
        frames = self._frames
        while frames and frames[0][0] <= until_s:
            self._bytes -= len(frames.popleft()[1])

    def hold_too(self, from_s: float) -> None:
        """The same, besides what is held already."""
        self._held_from_s = min(self._held_from_s, from_s)

    @property
    def since_s(self) -> float:
        """When the oldest of it came; infinite if there is none."""
        return self._frames[0][0] if self._frames else math.inf

    def all(self) -> list[bytes]:
        return [audio for _, audio in self._frames]

    def last(self, since_s: float) -> list[bytes]:
        """What came since then."""
        return [audio for at_s, audio in self._frames if at_s >= since_s]

    def _trim(self) -> None:
        frames = self._frames
        while frames and self._bytes > (self._most_bytes if frames[0][0] >= self._held_from_s else self._keep_bytes):
            self._bytes -= len(frames.popleft()[1])


class Voice:
    """What we can tell of the caller's voice ourselves, by its level alone: whether somebody speaks of whom nobody has
    told anything yet, since when and until when."""

    def __init__(self) -> None:
        self.began_at_s = math.inf
        self.until_s = -math.inf
        """Of the last sound, told of or not."""
        self._voiced_s = 0.0

    @property
    def is_clear(self) -> bool:
        return self._voiced_s >= CLEAR_VOICE_S

    def sound(self, now_s: float, seconds: float) -> None:
        if not self.is_clear and now_s - self.until_s > PAUSE_S:
            self.forget()
        self.began_at_s = min(self.began_at_s, now_s)
        self.until_s = now_s
        self._voiced_s += seconds

    def forget(self) -> None:
        """It has been told of."""
        self.began_at_s, self._voiced_s = math.inf, 0.0


class Deafness:
    """Notices that the caller speaks and no event comes. Each time in a row it is slower to: a line may be noisy."""

    def __init__(self, after_s: float) -> None:
        self.times = 0
        """In a row."""
        self._after_s = after_s
        self._since_s = math.inf
        self._voice_s = 0.0

    @property
    def due_at_s(self) -> float:
        return self._since_s + self._after_s * (1 << self.times)

    @property
    def is_likely(self) -> bool:
        """That was no noise, and there should have been an event."""
        return self._voice_s >= LEAST_VOICE_S and not self.times

    def sound(self, now_s: float, seconds: float) -> bool:
        """Of the caller, and not silent. True if ``due_at_s`` has changed."""
        self._voice_s += max(FRAME_S, seconds)
        if self._since_s < math.inf:
            return False
        self._since_s = now_s
        return True

    def event(self) -> None:
        """It hears."""
        self.times = 0
        self.reset()

    def reset(self) -> None:
        self._since_s, self._voice_s = math.inf, 0.0

    def is_deaf(self, now_s: float) -> bool:
        """Asked at ``due_at_s``. What was too short to be words is forgotten."""
        if now_s < self.due_at_s:
            return False
        is_deaf = self._voice_s >= LEAST_VOICE_S
        self.times += is_deaf
        self.reset()
        return is_deaf
