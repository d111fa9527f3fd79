"""A conversation as the call and its watchdogs know it, whoever hears, thinks and speaks in it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from engine.calls.returning import Resumption
from engine.calls.talks.pulse import Ground
from engine.errors import CallEnd
from engine.observe.labels import DeadAir
from engine.ports import Phrases

TOOK_OVER = (
    "[Another agent has just handed this conversation over to you. Answer the caller's last words now, without a "
    "greeting and without a word about this message.]"
)
"""What a model is told that is to go on in the middle of a conversation. Nobody has said it: it is in no history."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """Something the agent says of its own accord."""

    text: str
    then: CallEnd | None = None
    """The call ends with this once it has been heard; nothing interrupts it, and nothing is said after it."""
    is_opening: bool = False


@dataclass(frozen=True, slots=True)
class Succession:
    """How one talk takes the line from another."""

    is_owed: bool = False
    """The caller waits for an answer."""
    words: str = ""
    """What the caller has said since the next talk was prepared; in the session already."""


class Sound(Protocol):
    """What of the agent goes to the caller, over all talks of a call."""

    @property
    def audio_out_s(self) -> float:
        """Seconds of audio queued for the caller so far; of these, made by a vendor: ``spoken_s``."""
        ...

    @property
    def spoken_s(self) -> float: ...

    @property
    def remaining_s(self) -> float:
        """Seconds queued and not heard yet."""
        ...

    @property
    def is_audible(self) -> bool:
        """Something queued has not been heard yet."""
        ...

    async def ping(self) -> None:
        """Of the media socket; returns on the pong. Raises trio.EndOfChannel."""
        ...


class Conversing(Protocol):
    """One talk. A call has one after the other on the same line, where agents hand it over that do not hear, think and
    speak in the same way."""

    ground: Ground

    @property
    def voice(self) -> Sound: ...

    @property
    def phrases(self) -> Phrases: ...

    @property
    def is_idle(self) -> bool:
        """The agent says nothing, thinks of nothing and has nothing waiting; the caller is silent."""
        ...

    @property
    def unfinished(self) -> Resumption | None:
        """Once ``run`` is over: what the agent was about to say or to answer, for the next line of the same call; an
        empty one if that is nothing. None: nothing was heard of the agent yet."""
        ...

    def awaited(self) -> tuple[DeadAir | None, float]:
        """Who is waited for while neither side is audible, and since when."""
        ...

    async def fill(self) -> None:
        """Tell the caller, once for each answer, that it takes a moment, if that can be said without the vendors."""
        ...

    def say(self, text: str, *, then: CallEnd | None = None) -> None:
        """Say it when nothing else is being said; or at once, as the last words of the call, with a verdict."""
        ...

    def follow(self) -> None:
        """Somebody outside may have handed the session over: see to it, where the next answer does not."""
        ...

    async def prepare(self, on_the_line: str) -> None:
        """Open what hears, thinks and speaks, while another talk has the line. ``on_the_line``: what its agent is
        saying, which the session does not know yet. Raises VendorError."""
        ...

    def take_over(self, succession: Succession) -> None:
        """Before ``run``: it goes on with a conversation, and does not open one."""
        ...

    async def run(
        self, watch: Callable[[Conversing], Awaitable[None]], early: Iterable[Any] = ()
    ) -> CallEnd | Conversing:
        """Until the call is over; returns the verdict, or the talk that goes on with it. ``watch`` keeps the time
        beside it; ``early`` are events that came on the line before it could begin. Raises what a vendor's failure
        raises (VendorError), in a group."""
        ...
