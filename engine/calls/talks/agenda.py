"""What the agent says next."""

from __future__ import annotations

from typing import Generic, TypeVar

import trio

from engine.calls.talks.conversing import Announcement

T = TypeVar("T")


class Agenda(Generic[T]):
    """One thing at most waits: an announcement, or an answer (``T``) of whatever kind the talk has.

    What ends the call is never pushed aside; an answer is pushed aside by a newer one, and by the end alone.
    """

    def __init__(self) -> None:
        self.next: Announcement | T | None = None
        self.changed = trio.Event()
        """Set, and replaced by whoever waits, when there is something to be said."""

    @property
    def is_last(self) -> bool:
        """What waits ends the call."""
        return isinstance(self.next, Announcement) and self.next.then is not None

    def put(self, what: Announcement | T) -> None:
        if self.is_last:
            return
        waiting = self.next
        is_answer_waiting = waiting is not None and not isinstance(waiting, Announcement)
        if isinstance(what, Announcement) and what.then is None and is_answer_waiting:
            return
        self.next = what
        self.changed.set()

    def drop(self) -> None:
        """Nothing waits any more."""
        self.next = None

    async def take(self) -> Announcement | T:
        while self.next is None:
            self.changed = trio.Event()
            await self.changed.wait()
        what, self.next = self.next, None
        return what
