"""The mailbox of an actor: `tell` never waits and never fails, `ask` waits for an answer."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

import trio

M = TypeVar("M")
A = TypeVar("A")


class MailboxClosed(Exception):
    """The actor has stopped; nobody will answer."""


class MailboxFull(Exception):
    """More questions wait than the actor is allowed to owe answers to."""


class Answer(Generic[A]):
    """The way back of one question. Set once; later settings are ignored, as is an answer nobody waits for."""

    __slots__ = ("_done", "_error", "_value")

    def __init__(self) -> None:
        self._done = trio.Event()
        self._value: A | None = None
        self._error: Exception | None = None

    def give(self, value: A) -> None:
        if not self._done.is_set():
            self._value = value
            self._done.set()

    def fail(self, error: Exception) -> None:
        if not self._done.is_set():
            self._error = error
            self._done.set()

    async def wait(self) -> A:
        await self._done.wait()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # set together with _done, and A may be None


class Mailbox(Generic[M]):
    """Messages for one actor, in order.

    Questions are bounded: one more than ``capacity`` waiting raises MailboxFull at the asker. Tells are always taken:
    they are how something dying lets go, and there are never more of them than there were things to let go of.
    """

    def __init__(self, name: str, *, capacity: int = 1024, on_depth: Callable[[int], None] | None = None) -> None:
        self.name = name
        self._capacity = capacity
        self._messages: deque[M] = deque()
        self._unanswered: set[Answer[object]] = set()
        self._lot = trio.lowlevel.ParkingLot()
        self._closed = False
        self._on_depth = on_depth

    @property
    def is_closed(self) -> bool:
        return self._closed

    def __len__(self) -> int:
        return len(self._messages)

    def tell(self, message: M) -> None:
        """Deliver without waiting; a stopped actor's mail is dropped."""
        if self._closed:
            return
        self._messages.append(message)
        self._changed()
        self._lot.unpark()

    async def ask(self, make_message: Callable[[Answer[A]], M], *, within_s: float = math.inf) -> A:
        """Deliver a question and wait for its answer.

        Raises MailboxFull, MailboxClosed, trio.TooSlowError, or what the actor failed the answer with. A cancelled
        asker's question may already have been, or may still be, acted upon: let go of it with a tell.
        """
        if self._closed:
            raise MailboxClosed(self.name)
        if len(self._unanswered) >= self._capacity:
            raise MailboxFull(self.name)
        answer: Answer[A] = Answer()
        self._unanswered.add(answer)  # type: ignore[arg-type]  # only ever failed from here, which fits any A
        try:
            self.tell(make_message(answer))
            if within_s == math.inf:  # most: a scope around each costs more than the question
                return await answer.wait()
            with trio.fail_after(within_s):
                return await answer.wait()
        finally:
            self._unanswered.discard(answer)

    def __aiter__(self) -> AsyncIterator[M]:
        """Messages as they come, for ever; for the one task that runs the actor."""
        return self  # no generator: one that a crash leaves half-way is the collector's to close

    async def __anext__(self) -> M:
        return await self.receive()

    async def receive(self) -> M:
        """The next message; each receive is a checkpoint, so that a flood of mail does not starve the loop."""
        if self._messages:
            await trio.lowlevel.checkpoint()
        while not self._messages:
            await self._lot.park()
        message = self._messages.popleft()
        self._changed()
        return message

    def close(self) -> list[M]:
        """The actor has stopped: drop what waits, and return it; fail every open question."""
        self._closed = True
        dropped = list(self._messages)
        self._messages.clear()
        self._changed()
        for answer in list(self._unanswered):
            answer.fail(MailboxClosed(self.name))
        return dropped

    def _changed(self) -> None:
        if self._on_depth is not None:
            self._on_depth(len(self._messages))
