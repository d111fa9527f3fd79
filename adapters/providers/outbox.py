"""What waits to be sent to one provider, and when it is its time. No I/O: the link's writer asks, and sends."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from engine.audio.playout import PlayoutClock
from engine.events import FRAME_S, AudioFormat
from engine.ports import Codec

PIECE_S: Final = 0.5
"""A provider that buffers gets its audio in pieces of this size; smaller ones are held back while it has enough."""

MESSAGE_S: Final = 1.0
"""The most audio in one message to it."""

LOW_S: Final = 0.25
"""With less than this left to play, it is given whatever there is."""

LEAD_S: Final = 0.2
"""How far a paced provider is kept ahead of the ear, at most: several frames go out in one write."""

LEAD_LOW_S: Final = 0.12
"""With less lead than this it is filled up; a beat later, there are still 100 ms."""

_EPSILON_S: Final = 1e-6


class _Mark:
    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Outbox:
    """The queue of one line, its playout clock, and its generation: each ``clear`` begins a new one.

    Marks carry the generation in their name on the wire, so that the echo of a cleared mark never passes for that of a
    later one. ``now`` is in seconds of the line's clock throughout.
    """

    def __init__(self, codec: Codec, form: AudioFormat) -> None:
        self.generation = 0
        self.clock = PlayoutClock()
        self.due_at = -math.inf
        """When what is held back has its time, as things stand."""
        self.taken_due_at: float | None = None
        """When what was taken last had its time; None if it was not held back until then."""
        self.taken_dry_s = 0.0
        """How long the provider had nothing left to play before it was taken."""
        self._codec = codec
        self._bytes_per_s = form.bytes_per_s
        self._frame_bytes = form.frame_bytes
        self._low_s = (LEAD_LOW_S if codec.paced else LOW_S) - _EPSILON_S
        self._queue: deque[bytes | _Mark] = deque()
        self._queued_bytes = 0
        self._queued_marks = 0
        self._clear_due = False
        self._is_fresh = False  # something was put since the last take
        self._is_holding = False  # the last take left something in the queue
        self._planned_at = -math.inf

    def __bool__(self) -> bool:
        """Something waits for its time."""
        return bool(self._queue)

    def put_audio(self, audio: bytes) -> None:
        """Whole frames of 20 ms."""
        self._queue.append(audio)
        self._queued_bytes += len(audio)
        self._is_fresh = True

    def put_mark(self, name: str) -> None:
        self._queue.append(_Mark(f"{self.generation}.{name}"))
        self._queued_marks += 1
        self._is_fresh = True

    def clear(self, now: float) -> None:
        """Drop all, here and at the provider: the next that is taken begins with the provider's clear."""
        self._queue.clear()
        self._is_holding = False
        self._queued_bytes = self._queued_marks = 0
        self.clock.clear(now)
        self.generation += 1
        self._clear_due = True

    def remaining_s(self, now: float) -> float:
        """Seconds queued here and at the provider, not heard yet."""
        return self._queued_bytes / self._bytes_per_s + self.clock.remaining(now)

    def confirm(self, wire_name: str, now: float) -> str | None:
        """The name of the mark whose echo this is. None if it was never sent, or was given up or cleared."""
        if not self.clock.confirm(wire_name, now):
            return None
        self._plan(now)
        return _plain(wire_name)

    def overdue(self, now: float) -> str | None:
        """The name of a mark that is given up."""
        wire_name = self.clock.overdue(now) if self.clock.waits_for_marks else None
        return None if wire_name is None else _plain(wire_name)

    def take(self, now: float) -> list[str | bytes]:
        """All that is due, encoded, in order. From now on it counts as the provider's."""
        messages: list[str | bytes] = []
        self.taken_due_at, self.taken_dry_s = None, 0.0
        if self._clear_due:
            self._clear_due = False
            messages.append(self._codec.encode_clear())
        if self._queue and (self._is_fresh or now >= self.due_at):
            self._is_fresh = False
            if self._is_holding and now >= self.due_at:
                # What an echo made due at once is not late for the time before it.
                self.taken_due_at = max(self.due_at, self._planned_at)
                self.taken_dry_s = max(0.0, now - self.due_at - self._low_s - _EPSILON_S)
            if self._codec.paced:
                self._take_frames(messages, now)
            else:
                self._take_pieces(messages, now)
            self._is_holding = bool(self._queue)
            self._plan(now)
        return messages

    def _plan(self, now: float) -> None:
        self._planned_at = now
        self.due_at = now + self.clock.remaining(now) - self._low_s

    def _take_frames(self, messages: list[str | bytes], now: float) -> None:
        frame_bytes = self._frame_bytes
        lead_s = self.clock.remaining(now)
        # Without need nothing goes, but for a mark at the head of the queue.
        room = int((LEAD_S - lead_s + _EPSILON_S) / FRAME_S) if lead_s <= self._low_s else 0
        while self._queue:
            item = self._queue[0]
            if isinstance(item, _Mark):
                self._take_mark(item, messages, now)
                continue
            frames = min(room, len(item) // frame_bytes)
            if frames == 0:
                return
            room -= frames
            size = frames * frame_bytes
            messages.extend(self._codec.encode_audio(item[i : i + frame_bytes]) for i in range(0, size, frame_bytes))
            if size < len(item):
                self._queue[0] = item[size:]
            else:
                self._queue.popleft()
            self._hand_over(size, now)

    def _take_pieces(self, messages: list[str | bytes], now: float) -> None:
        is_piece = self._queued_bytes >= PIECE_S * self._bytes_per_s
        if not (is_piece or self._queued_marks or self.clock.remaining(now) <= self._low_s):
            return
        pieces: list[bytes] = []
        while self._queue:
            item = self._queue[0]
            if isinstance(item, _Mark):
                self._take_audio(pieces, messages, now)
                self._take_mark(item, messages, now)
            else:
                pieces.append(item)
                self._queue.popleft()
        self._take_audio(pieces, messages, now)

    def _take_audio(self, pieces: list[bytes], messages: list[str | bytes], now: float) -> None:
        audio = b"".join(pieces)
        pieces.clear()
        most = round(MESSAGE_S * self._bytes_per_s)
        messages.extend(self._codec.encode_audio(audio[i : i + most]) for i in range(0, len(audio), most))
        self._hand_over(len(audio), now)

    def _take_mark(self, mark: _Mark, messages: list[str | bytes], now: float) -> None:
        self._queue.popleft()
        self._queued_marks -= 1
        self.clock.mark(mark.name, now)
        messages.append(self._codec.encode_mark(mark.name))

    def _hand_over(self, size: int, now: float) -> None:
        self._queued_bytes -= size
        self.clock.queue(size / self._bytes_per_s, now)


def _plain(wire_name: str) -> str:
    return wire_name.partition(".")[2]
