"""What a call leaves when its media socket goes away under it: the next stream of the same call goes on with that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from engine.dialogue.turns import Turn
from engine.errors import Cause
from engine.events import HangUp, Transfer

RETURN_S: Final = 10.0
"""For the provider to connect a caller again whose line was lost: the call's place and its session are kept."""
MOST_RETURNS: Final = 5
"""Of one call: a line that is lost more often is of no use."""
RETURNS: Final = frozenset({Cause.PROVIDER_LOST, Cause.DUPLICATE})
"""Ends of a media socket after which the caller may be there still: the provider connects the call once more."""


@dataclass(frozen=True, slots=True)
class Resumption:
    """The rest of an answer that a sound without words had stopped, or that the line was lost under."""

    sentences: tuple[str, ...] = ()
    """Of the agent, not heard to their end."""
    turn: Turn | None = None
    """The caller's words that are answered by them; or, without any, that nobody has answered yet."""
    after: HangUp | Transfer | None = None
    """What is to be done once they have been heard."""


@dataclass(frozen=True, slots=True)
class Left:
    """By a stream that is gone; ``stream_id`` is the first one's, by which its session is known."""

    stream_id: str
    agent: str
    """Who answered last."""
    began_at_s: float
    """When the first one was admitted, on the engine's clock: the longest call counts from then."""
    unfinished: Resumption | None = None
    """None: nothing was heard of the agent yet, so the call begins anew."""
    times: int = 1
    """How often the call has lost its stream."""
    keep_s: float = RETURN_S
    """For the caller to be back."""
    whisper: str = ""
    """The caller is being transferred: what whoever picks up is told."""
