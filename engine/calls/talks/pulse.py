"""What every kind of conversation has in common: when things happened last, how it ended, and how it is asked for."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from engine.calls.meters import CallMeters
from engine.calls.returning import Resumption
from engine.errors import CallEnd, Cause
from engine.observe.labels import DeadAir
from engine.ports import Phrases
from engine.settings import Limits

_OF_LEAVING = frozenset({Cause.CALLER_HANGUP, Cause.PROVIDER_LOST})
"""How a media socket ends when the provider connects its caller to somebody else."""


class Pulse:
    """One conversation's times, on the engine's clock, and its end."""

    def __init__(self) -> None:
        now = trio.current_time()
        self.scope = trio.CancelScope()
        """Around the whole conversation."""
        self.verdict: CallEnd | None = None
        self.leaving: CallEnd | None = None
        """The call is being handed to somebody else: its media ends by that, and not because the caller hung up."""
        self.started_at_s = now
        self.last_media_s = now
        """Audio came from the provider. Infinite where none ever comes."""
        self.last_sound_s = now
        """The caller fell silent."""
        self.last_activity_s = now
        """Somebody spoke, or a key was pressed."""
        self.last_progress_s = now
        """A say of either side was finished."""
        self.turns_taken = 0
        self.audio_in_s = 0.0

    def expect_no_media(self) -> None:
        self.last_media_s = math.inf

    def end(self, verdict: CallEnd) -> None:
        """End the conversation now. The first verdict counts."""
        if self.verdict is None:
            self.verdict = self.leaving if self.leaving and verdict.cause in _OF_LEAVING else verdict
        self.scope.cancel()


@dataclass(frozen=True, slots=True)
class Announcement:
    """Something the agent says of its own accord."""

    text: str
    then: CallEnd | None = None
    """The call ends with this once it has been heard; nothing interrupts it, and nothing is said after it."""
    is_opening: bool = False


class Conversing(Protocol):
    """A conversation as the call and its watchdogs know it, whoever hears, thinks and speaks in it."""

    pulse: Pulse
    limits: Limits
    meters: CallMeters

    @property
    def phrases(self) -> Phrases: ...

    @property
    def is_idle(self) -> bool:
        """The agent says nothing, thinks of nothing and has nothing waiting; the caller is silent."""
        ...

    @property
    def is_audible(self) -> bool:
        """Something of the agent is still to be heard."""
        ...

    @property
    def audio_out_s(self) -> float:
        """Seconds of audio queued for the caller so far; of these, made by a vendor: ``spoken_s``."""
        ...

    @property
    def spoken_s(self) -> float: ...

    @property
    def buffered_s(self) -> float:
        """Seconds queued and not heard yet."""
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

    async def ping(self) -> None:
        """Of the media socket; returns on the pong. Raises trio.EndOfChannel."""
        ...

    async def run(self, watch: Callable[[Conversing], Awaitable[None]], early: Iterable[Any] = ()) -> CallEnd:
        """Until the call is over; returns the verdict. ``watch`` keeps the time beside it; ``early`` are events that
        came on the line before it could begin. Raises what a vendor's failure raises (VendorError), in a group."""
        ...


def verdict_of_run(pulse: Pulse) -> CallEnd:
    """Once the scope has been left."""
    return pulse.verdict or CallEnd(Cause.INTERNAL_ERROR, "the talk was cut off")
