"""What a vendor has said and nobody has taken yet: the caller's side at once, the reply in its order. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import replace

from engine.errors import ModelFailed, Why
from engine.events import (
    AudioFormat,
    Heard,
    RealtimeEvent,
    ReplyAudio,
    ReplyOver,
    ReplyStarted,
    ReplyText,
    SpeechStarted,
    SpeechStopped,
)

MAX_HELD_S = 120.0
"""Of sound that nobody has taken. Replies come faster than they are heard; more than this is no reply."""
MAX_HELD = 20_000
"""Events of any kind: pieces of text, words of a caller who never stops."""
_OF_A_REPLY = (ReplyStarted, ReplyAudio, ReplyText, ReplyOver)


class Lanes:
    """Two lanes: that the caller speaks is told before the minute of reply that still waits in front of it."""

    def __init__(self, vendor: str, line: AudioFormat) -> None:
        self.held_s = 0.0
        """Sound that waits to be taken."""
        self._vendor = vendor
        self._line = line
        self._caller: deque[RealtimeEvent] = deque()
        self._reply: deque[RealtimeEvent] = deque()

    def put(self, *events: RealtimeEvent) -> None:
        """Raises ModelFailed (CUT) when more waits than can be held."""
        for event in events:
            if isinstance(event, SpeechStarted | SpeechStopped | Heard):
                self._caller.append(event)
            else:
                self._reply.append(event)
                if isinstance(event, ReplyAudio):
                    self.held_s += self._line.duration_s(event.audio)
        if self.held_s > MAX_HELD_S or len(self._caller) + len(self._reply) > MAX_HELD:
            raise ModelFailed(self._vendor, "speaks more than anybody can hear", why=Why.CUT)

    def take(self) -> RealtimeEvent | None:
        """The next event, if there is one."""
        if self._caller:
            return self._caller.popleft()
        if not self._reply:
            return None
        event = self._reply.popleft()
        if isinstance(event, ReplyAudio):
            self.held_s -= self._line.duration_s(event.audio)
        return event

    def void(self, reply_ids: Collection[str]) -> set[str]:
        """Nobody is to hear more of these replies. Returns those of which nothing was taken: they never were."""
        unseen = {event.reply_id for event in self._reply if isinstance(event, ReplyStarted)} & set(reply_ids)
        kept: deque[RealtimeEvent] = deque()
        for event in self._reply:
            if (
                not isinstance(event, ReplyStarted | ReplyAudio | ReplyText | ReplyOver)
                or event.reply_id not in reply_ids
            ):
                kept.append(event)
            elif isinstance(event, ReplyOver) and event.reply_id not in unseen:
                kept.append(replace(event, is_whole=False))
        self._reply = kept
        self.held_s = sum(self._line.duration_s(event.audio) for event in kept if isinstance(event, ReplyAudio))
        return unseen
