"""A call that we make, as a value: what is wanted, how far it has come, and what providers' words mean for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from engine.calls.slots import Slot
from engine.errors import OffhookError, VendorError


class DialState(StrEnum):
    """How far it has come. The last five are ends; a ``machine`` may still be listening to what is left on it."""

    QUEUED = "queued"
    RINGING = "ringing"
    ANSWERED = "answered"
    MACHINE = "machine"
    COMPLETED = "completed"
    BUSY = "busy"
    NO_ANSWER = "no_answer"
    FAILED = "failed"


_RANK: Final = {
    DialState.QUEUED: 0,
    DialState.RINGING: 1,
    DialState.ANSWERED: 2,
    DialState.MACHINE: 3,
}

STATE_OF: Final[Mapping[str, DialState]] = {
    "queued": DialState.QUEUED,
    "initiated": DialState.QUEUED,
    "started": DialState.QUEUED,
    "ringing": DialState.RINGING,
    "in-progress": DialState.ANSWERED,
    "answered": DialState.ANSWERED,
    "human": DialState.ANSWERED,
    "completed": DialState.COMPLETED,
    "busy": DialState.BUSY,
    "rejected": DialState.BUSY,
    "no-answer": DialState.NO_ANSWER,
    "timeout": DialState.NO_ANSWER,
    "unanswered": DialState.NO_ANSWER,
    "cancel": DialState.NO_ANSWER,
    "canceled": DialState.NO_ANSWER,
    "cancelled": DialState.NO_ANSWER,
    "failed": DialState.FAILED,
}
"""The providers' words."""


class DialFault(StrEnum):
    """Why a call is not made."""

    DISABLED = "outbound_disabled"
    NOT_ALLOWED = "not_allowed"
    NO_SENDER = "no_sender"
    NO_AGENT = "no_agent"
    NOT_ABLE = "not_able"
    CONFLICT = "conflict"
    RATE_LIMIT = "rate_limit"
    TOO_MANY = "too_many"
    NO_ROOM = "no_room"


class DialRefused(OffhookError):
    """Nothing was dialled. The message says why, without a number."""

    def __init__(self, fault: DialFault, message: str, wait_s: float = 1.0) -> None:
        super().__init__(message)
        self.fault = fault
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class Wanted:
    """A call to be made. What is empty or None is as the settings say."""

    to: str
    """In E.164."""
    sender: str = ""
    agent: str = ""
    provider: str = ""
    detects_machine: bool | None = None
    voicemail: str | None = None
    """Left after the beep of an answering machine, which is hung up on if it is empty."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """For the agent."""


@dataclass(eq=False, slots=True)
class Dialled:
    """A call that we make. Numbers and words in it go once its number is forgotten."""

    dial_id: str
    token: str
    """Stands in the addresses that the provider asks for this call."""
    held: str
    """Its place at the registry."""
    to: str
    sender: str
    provider: str
    agent: str
    detects_machine: bool
    voicemail: str
    parameters: Mapping[str, str]
    made_at: float
    """Unix seconds."""
    made_at_s: float
    until_s: float
    """For somebody to answer."""
    call_id: str = ""
    """The provider's; empty until it is known."""
    state: DialState = DialState.QUEUED
    answered_by: str = ""
    is_connected: bool = False
    """Its answer webhook has come: the token is good for this call alone from then on."""
    is_audited: bool = False
    """The audit has it: whoever asks for it again, with the same key, makes no second call."""
    was_joined: bool = False
    """Its media has come."""
    ended_at: float | None = None
    slot: Slot | None = None
    failure: VendorError | None = None
    """Why the provider did not take it."""

    @property
    def is_over(self) -> bool:
        return self.ended_at is not None

    def reach(self, state: DialState) -> None:
        """News may come in any order: it never goes back."""
        if not self.is_over and _RANK.get(state, 0) > _RANK.get(self.state, 0):
            self.state = state

    def forget(self) -> None:
        self.to = self.voicemail = ""
        self.parameters = {}
