"""What a session actor is told and asked: the messages of its mailbox, and a written turn that waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.dialogue.history import TurnRecord
from engine.events import Modality, Recollection
from engine.runtime.mailbox import Answer
from engine.sessions.answers import TurnAnswer
from engine.sessions.call_session import CallSession


@dataclass(frozen=True, slots=True)
class Take:
    """A whole turn of a call."""

    turn: TurnRecord
    applied: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """A written turn that the store must have before anybody hears that it was answered."""

    turn: TurnRecord
    session_id: str
    """What it was answered for: another one by now if it was forgotten or reset in between."""
    answer: Answer[None]


@dataclass(frozen=True, slots=True)
class Recollected:
    """A summary has been made in the background."""

    session_id: str
    recollection: Recollection
    upto: float
    """Unix seconds: of the newest message that is in it."""


@dataclass(frozen=True, slots=True)
class Clear:
    """The conversation ends, and a new one begins in its place."""

    reason: str
    answer: Answer[None]


@dataclass(frozen=True, slots=True)
class Forget:
    """The caller is being erased."""

    answer: Answer[None]


@dataclass(frozen=True, slots=True)
class HandOver:
    """The next turn is another agent's."""

    agent: str
    answer: Answer[None]


@dataclass(frozen=True, slots=True)
class Left:
    """A call is over."""

    call: CallSession


@dataclass(frozen=True, slots=True)
class Abandoned:
    """Its call had lost its line, and has not come back."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Nobody uses it any more."""


@dataclass(frozen=True, slots=True)
class Refresh:
    """Others may have changed what is stored."""

    answer: Answer[None]


Message = Refresh | Take | Acknowledge | Recollected | Clear | Forget | HandOver | Left | Abandoned | Stop


@dataclass(frozen=True, slots=True)
class Text:
    """A written turn, to be answered here."""

    text: str
    modality: Modality
    agent: str
    line: str
    at: float
    """When it came, in Unix seconds."""
    answer: Answer[TurnAnswer]
