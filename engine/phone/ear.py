"""What a provider plays to the caller: its buffer, emptied at the speed of the line, and what has been heard of it.

Pure arithmetic on time stamps that the caller of these functions brings along; no timer runs for it.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from engine.audio.levels import is_silent
from engine.events import FRAME_S, AudioFormat

GAP_MIN_S = FRAME_S
"""The buffer ran dry for less: nobody hears it."""
GAP_MAX_S = 1.0
"""The buffer was empty for longer: the agent had finished, and began something new."""
_TOUCHING_S = 0.001
_EPSILON = 1e-6


@dataclass(slots=True)
class Piece:
    """Audio on its way to the ear, or past it."""

    start_s: float
    audio: bytes


@dataclass(slots=True)
class Stretch:
    """Sound without a pause, from the first voiced frame to the end of the last."""

    start_s: float
    end_s: float
    arrived_s: float
    """When its first frame came in over the socket."""


@dataclass(frozen=True, slots=True)
class Gap:
    """The buffer was empty in the middle of what the agent was saying."""

    at_s: float
    length_s: float


class Ear:
    """``now`` is the same clock throughout; times that come back are on it, too.

    With ``record`` off the audio itself is not kept, only when there was sound: for load runs.
    """

    def __init__(self, format: AudioFormat, *, record: bool = True) -> None:  # noqa: A002 - the field's word
        self.format = format
        self.gaps: list[Gap] = []
        self.stretches: list[Stretch] = []
        """Sound, played and still to be played."""
        self.cleared_at_s: list[float] = []
        self.record = record
        self._pieces: deque[Piece] = deque()
        self._end_s = 0.0  # when what is queued will have been played
        self._marks: deque[tuple[float, str]] = deque()
        self._may_gap = False

    def queue(self, audio: bytes, now: float) -> None:
        """Play this after everything queued before; at once if there is nothing."""
        start_s = max(self._end_s, now)
        if self._may_gap and start_s > self._end_s:
            self._note_gap(start_s)
        self._end_s = start_s + self.format.duration_s(audio)
        if not self.record:
            self._forget(now)
        self._pieces.append(Piece(start_s, audio))
        self._note_sound(audio, start_s, now)

    def mark(self, name: str) -> None:
        """Comes out of :meth:`due_marks` when everything queued before it has been played."""
        self._marks.append((self._end_s, name))

    def due_marks(self, now: float) -> list[str]:
        due = []
        while self._marks and self._marks[0][0] <= now:
            due.append(self._marks.popleft()[1])
        return due

    def clear(self, now: float) -> list[str]:
        """Drop what has not begun to be played; the frame under way is finished. Returns the marks still pending."""
        if self._end_s > now:
            start_s = next((piece.start_s for piece in reversed(self._pieces) if piece.start_s <= now), now)
            frames = math.ceil((now - start_s) / FRAME_S - _EPSILON)
            self._end_s = min(self._end_s, start_s + frames * FRAME_S)
            self._cut(self._end_s)
        self._may_gap = False
        self.cleared_at_s.append(now)
        pending = [name for _, name in self._marks]
        self._marks.clear()
        return pending

    def caller_spoke(self) -> None:
        """What comes next answers the caller: a pause before it is no gap."""
        self._may_gap = False

    def remaining_s(self, now: float) -> float:
        return max(0.0, self._end_s - now)

    def sounds_at(self, now: float, within_s: float = 0.0) -> bool:
        """Sound is being played, or was or will be within so many seconds, as far as is known."""
        for stretch in reversed(self.stretches):
            if stretch.end_s <= now - within_s:
                return False
            if stretch.start_s <= now + within_s:
                return True
        return False

    def next_sound_s(self, arrived_after_s: float) -> float | None:
        """When the first sound begins that came in after this instant and does not continue an older one."""
        found = None
        for stretch in reversed(self.stretches):
            if stretch.arrived_s < arrived_after_s:
                break
            found = stretch.start_s
        return found

    def heard(self, now: float) -> list[tuple[float, bytes]]:
        """All audio played so far, whole frames: when each piece began, and its bytes. Empty without ``record``."""
        played = []
        for piece in self._pieces:
            if piece.start_s >= now:
                break
            is_whole = piece.start_s + self.format.duration_s(piece.audio) <= now + _EPSILON
            frames = len(piece.audio) if is_whole else int((now - piece.start_s) / FRAME_S + _EPSILON)
            played.append((piece.start_s, piece.audio[: frames * self.format.frame_bytes]))
        return played

    def _forget(self, now: float) -> None:
        while self._pieces and self._pieces[0].start_s + self.format.duration_s(self._pieces[0].audio) <= now:
            self._pieces.popleft()

    def _cut(self, at_s: float) -> None:
        while self._pieces and self._pieces[-1].start_s >= at_s - _EPSILON:
            self._pieces.pop()
        if self._pieces:
            last = self._pieces[-1]
            frames = round((at_s - last.start_s) / FRAME_S)
            last.audio = last.audio[: max(0, frames) * self.format.frame_bytes]
        while self.stretches and self.stretches[-1].start_s >= at_s - _EPSILON:
            self.stretches.pop()
        if self.stretches:
            self.stretches[-1].end_s = min(self.stretches[-1].end_s, at_s)

    def _note_gap(self, now: float) -> None:
        length_s = now - self._end_s
        if GAP_MIN_S <= length_s <= GAP_MAX_S:
            self.gaps.append(Gap(self._end_s, length_s))

    def _note_sound(self, audio: bytes, start_s: float, now: float) -> None:
        size = self.format.frame_bytes
        for at in range(0, len(audio), size):
            if is_silent(audio[at : at + size], self.format):
                continue
            self._may_gap = True
            frame_s = start_s + at / self.format.bytes_per_s
            last = self.stretches[-1] if self.stretches else None
            if last is not None and frame_s - last.end_s < _TOUCHING_S:
                last.end_s = frame_s + FRAME_S
            else:
                self.stretches.append(Stretch(frame_s, frame_s + FRAME_S, now))
