"""When a place in the audio that a vendor was sent came in: seconds of audio to the engine's clock. Pure."""

from __future__ import annotations

from collections import deque

SLACK_S = 0.06
"""Audio that comes this much sooner or later than its length says is a gap or a burst; less is jitter."""
_MAX_ANCHORS = 256


class AudioClock:
    """Vendors tell places as seconds since the first byte of audio they got. A line that is silent sends nothing at
    times, one that was held up sends much at once, and what was dropped no vendor has ever got."""

    def __init__(self) -> None:
        self.position_s = 0.0
        """Audio sent so far."""
        self._anchors: deque[tuple[float, float]] = deque([(0.0, 0.0)], maxlen=_MAX_ANCHORS)
        """Place and time of its first sample; from there on the audio came as it was spoken."""

    def sent(self, seconds: float, now_s: float) -> None:
        """This much more audio was sent; it came in just now."""
        position, at_s = self._anchors[-1]
        ends_at_s = at_s + self.position_s - position + seconds
        if not -SLACK_S < now_s - ends_at_s < SLACK_S:
            self._anchors.append((self.position_s, now_s - seconds))
        self.position_s += seconds

    def dropped(self, seconds: float, behind_s: float) -> None:
        """So much of what was sent was dropped after all; ``behind_s`` of audio came after it."""
        at_s = self.time_of(self.position_s - behind_s)
        self.position_s -= seconds
        boundary = self.position_s - behind_s
        kept = [anchor for anchor in self._anchors if anchor[0] <= boundary]
        shifted = [(place - seconds, when) for place, when in self._anchors if place - seconds > boundary]
        self._anchors = deque([*kept, (boundary, at_s), *shifted], maxlen=_MAX_ANCHORS)

    def time_of(self, position_s: float) -> float:
        """When the sound at this place came in, give or take ``SLACK_S``; a place beyond the end is the end."""
        position_s = min(max(position_s, 0.0), self.position_s)
        for place, at_s in reversed(self._anchors):
            if place <= position_s:
                return at_s + position_s - place
        place, at_s = self._anchors[0]
        return at_s + position_s - place
