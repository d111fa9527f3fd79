"""What a conversation asks of its call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from engine.calls.gate import Gate
from engine.calls.talks.conversing import Conversing
from engine.calls.talks.pulse import Ground, Pulse
from engine.errors import CallEnd, Cause
from engine.events import HangUp, Transfer
from engine.ports import Agent, LanguageModel

After = HangUp | Transfer
"""What an agent wants done once it has been heard."""


@dataclass(frozen=True, slots=True)
class Minded:
    """Another agent's mind for the same ear and voice."""

    agent: Agent
    model: LanguageModel


@dataclass(frozen=True, slots=True)
class Errands:
    """Done by the call, one set for each talk."""

    transfer: Callable[[Transfer], Awaitable[bool]]
    """Connect the caller to somebody else. False if that could not be done, and the call goes on."""
    hand_over: Callable[[str, str], Awaitable[Minded | Conversing]]
    """The agent of this name is to go on; then, what is being said meanwhile. Its mind, where that is all that changes;
    else the talk that is to have the line, prepared. Raises VendorError."""
    let_go: Callable[[], None] = lambda: None
    """Close all that was opened for this talk. Never waits."""
    thinking: Callable[[Gate], None] = lambda _: None
    """Told the gate of the answer that is thought of: the agent's tools wait at it, too."""


async def leave(after: After, pulse: Pulse, transfer: Callable[[Transfer], Awaitable[bool]]) -> bool:
    """Do what an agent wants once it has been heard. False: the caller could not be connected, and is to be told."""
    match after:
        case HangUp():
            pulse.end(CallEnd(Cause.AGENT_HANGUP))
        case Transfer():
            pulse.leaving = CallEnd(Cause.TRANSFERRED)
            if not await transfer(after):
                pulse.leaving = None
                return False
            pulse.end(pulse.leaving)
    return True


def outcome_of_run(ground: Ground, heir: Conversing | None, errands: Errands) -> CallEnd | Conversing:
    """What a talk returns, once it has left the pulse's scope."""
    if ground.pulse.verdict is None and heir is not None:
        errands.let_go()
        return heir
    return ground.pulse.verdict or CallEnd(Cause.INTERNAL_ERROR, "the talk was cut off")
