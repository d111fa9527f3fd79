"""What happens in a call, as it happens: for whoever shows it (the demo, later the console and the trace)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import trio


class What(StrEnum):
    """What a moment tells; its ``fields`` in brackets, times in the unit of their suffix."""

    CALL_STARTED = "call_started"
    """[provider, agent]"""
    HEARD = "heard"
    """The caller's turn is over. [text]"""
    SAID = "said"
    """The agent's say is over, as far as the caller heard it. [text, interrupted, response_ms: from the caller's last
    sound to the agent's first, absent where nobody had asked]"""
    BARGE_IN = "barge_in"
    """The caller spoke into the agent's words. [stop_ms: from the caller's first sound to the clear]"""
    DTMF = "dtmf"
    """[] The digit itself is nobody's business."""
    FILLER = "filler"
    RESOURCE_OPENED = "resource_opened"
    """[kind, vendor]"""
    RESOURCE_CLOSED = "resource_closed"
    """[kind, vendor, how, close_ms]"""
    CALL_ENDED = "call_ended"
    """The verdict. [reason, cause]"""
    CALL_RELEASED = "call_released"
    """[opened, left, released_ms: from the verdict to the last resource closed]"""


@dataclass(frozen=True, slots=True)
class Moment:
    call_id: str
    at_s: float
    what: What
    fields: Mapping[str, object]


Watcher = Callable[[Moment], None]
"""Called on the event loop; must neither wait nor raise."""


class Timeline:
    """One call's moments, handed to every watcher at once. Keeps nothing."""

    def __init__(self, call_id: str, watchers: Sequence[Watcher] = ()) -> None:
        self._call_id = call_id
        self._watchers = watchers

    def note(self, what: What, **fields: object) -> None:
        if self._watchers:
            moment = Moment(self._call_id, trio.current_time(), what, fields)
            for watcher in self._watchers:
                watcher(moment)
