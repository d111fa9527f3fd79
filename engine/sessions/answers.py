"""What a written turn comes to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TurnAnswer:
    """The answer to one text, and where it went into the history."""

    session_id: str
    turn_id: str
    text: str
    """All that the agent said; empty when it said nothing."""
    agent: str
    """Who answered: another one than was asked, if the session was handed over."""
    is_over: bool = False
    """The agent has said goodbye: the conversation is at its end."""
