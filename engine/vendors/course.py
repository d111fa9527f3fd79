"""Where a conversation with a speech-to-speech model stands: who speaks, what is owed, what ends with its connection.
Pure: whoever uses it keeps the time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from engine.events import (
    AudioFormat,
    Heard,
    Missed,
    RealtimeEvent,
    ReplyAudio,
    ReplyOver,
    ReplyStarted,
    SpeechStarted,
    SpeechStopped,
    ToolCall,
    ToolResult,
)


class Course:
    """Of one connection after the other: ``ended`` begins the next."""

    def __init__(self, line: AudioFormat, *, reply_s: float, gap_s: float) -> None:
        self.changes = 0
        """Whatever happens counts."""
        self.is_caller_speaking = False
        """As far as the model tells."""
        self.heard_until_s = -math.inf
        """What came of replies has been heard by then."""
        self.stirred_at_s = -math.inf
        """Something happened."""
        self.is_missed = False
        """What the caller has said went unheard, and is to be asked for again at the end of the connection."""
        self._line = line
        self._reply_s = reply_s
        self._gap_s = gap_s
        self._reply_id = ""
        self._is_cut = False
        """The caller cut that reply off: no more of it is owed."""
        self._awaited = 0
        """Sounds whose words have not come."""
        self._is_answered = True
        """A reply has begun since the caller spoke last."""
        self._owed_since_s = math.inf
        self._asked: list[tuple[bool, str]] = []
        """What it was asked to say (True) or was told, and has not begun to answer."""
        self._calls: set[str] = set()

    # --- what happens ---------------------------------------------------------------------------------------

    def event(self, event: RealtimeEvent, now_s: float) -> None:
        self._stir(now_s)
        match event:
            case SpeechStarted():
                self.is_caller_speaking, self._is_answered = True, False
                self._awaited += 1
            case SpeechStopped():
                self.is_caller_speaking = False
            case Heard(text, True, is_certain):
                self._awaited = max(0, self._awaited - 1)
                if (text or not is_certain) and not self._is_answered:
                    self._owed_since_s = now_s
            case ReplyStarted(reply_id):
                self._reply_id, self._is_answered, self._is_cut = reply_id, True, False
                self._owed_since_s = math.inf
                self._asked.clear()
            case ReplyAudio(_, audio):
                self.heard_until_s = max(self.heard_until_s, now_s) + self._line.duration_s(audio)
            case ReplyOver(reply_id) if reply_id == self._reply_id:
                self._reply_id = ""
            case ToolCall(call_id):
                self._calls.add(call_id)
                self._owed_since_s = math.inf

    def asked(self, text: str, now_s: float, *, to_say: bool) -> None:
        self._stir(now_s)
        self._asked.append((to_say, text))
        self._owed_since_s = now_s

    def interrupted(self, now_s: float) -> None:
        self._stir(now_s)
        self.heard_until_s = min(self.heard_until_s, now_s)
        self._is_cut = True
        self._owed_since_s = math.inf
        self._asked.clear()

    def known(self, results: Sequence[ToolResult], now_s: float) -> list[ToolResult]:
        """Of these results, those that this connection waits for."""
        self._stir(now_s)
        wanted = [result for result in results if result.call_id in self._calls]
        self._calls.difference_update(result.call_id for result in wanted)
        if wanted and not self._calls:
            self._owed_since_s = now_s
        return wanted

    # --- what follows ---------------------------------------------------------------------------------------

    def is_of_another(self, event: RealtimeEvent) -> bool:
        """Of a reply that is not the one that goes on now."""
        return isinstance(event, ReplyAudio | ReplyOver) and event.reply_id != self._reply_id

    def quiet_in_s(self, now_s: float, quiet_s: float) -> float:
        """Until neither side has made a sound for ``quiet_s``, if none is made; infinite while something is under
        way."""
        is_busy = self.owes_reply or self.is_caller_speaking or self._calls
        if is_busy:
            return math.inf
        return max(0.0, max(self.heard_until_s, self.stirred_at_s) + quiet_s - now_s)

    @property
    def owes_reply(self) -> bool:
        """Or the rest of one."""
        return (self._reply_id != "" and not self._is_cut) or self._owed_since_s < math.inf

    @property
    def due_at_s(self) -> float:
        """Nothing having come by then of what is owed, the connection is of no use."""
        if self._reply_id and not self._is_cut:
            return max(self.heard_until_s, self.stirred_at_s) + self._gap_s
        return max(self._owed_since_s, self.stirred_at_s) + self._reply_s

    def ended(self, now_s: float, *, is_lost: bool) -> Iterator[RealtimeEvent]:
        """What the call is told at the end of a connection. ``is_lost``: not because another one takes its place at a
        quiet moment."""
        owes = (self.owes_reply or bool(self._calls)) and not self._asked
        if self._reply_id:
            yield ReplyOver(self._reply_id, is_whole=False)
        if self.is_caller_speaking:
            yield SpeechStopped(now_s)
        if self.is_missed or (is_lost and owes and not self.is_caller_speaking):
            yield Missed()
        for _ in range(self._awaited):
            yield Heard("", is_certain=False)
        self._reply_id, self.is_caller_speaking, self._is_answered = "", False, True
        self._awaited, self._owed_since_s, self.is_missed = 0, math.inf, False
        self._calls.clear()

    def unanswered(self) -> list[tuple[bool, str]]:
        """What is to be asked of the next connection again."""
        asked, self._asked = self._asked, []
        return asked

    def _stir(self, now_s: float) -> None:
        self.changes += 1
        self.stirred_at_s = now_s
