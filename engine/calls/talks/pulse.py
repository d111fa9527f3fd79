"""What every talk of one call stands on, whichever talks there are, one after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import trio

from engine.calls.meters import CallMeters
from engine.calls.returning import Resumption
from engine.errors import CallEnd, Cause
from engine.events import CallInfo
from engine.observe.labels import BargeIn
from engine.observe.timeline import Timeline, What
from engine.ports import Agent
from engine.sessions.call_session import CallSession
from engine.settings import Limits

_OF_LEAVING = frozenset({Cause.CALLER_HANGUP, Cause.PROVIDER_LOST})
"""How a media socket ends when the provider connects its caller to somebody else."""


class Pulse:
    """The times of one call's conversation, on the engine's clock, and its end."""

    def __init__(self, began_at_s: float) -> None:
        """``began_at_s``: of the call, over all its lines."""
        now = trio.current_time()
        self.began_at_s = began_at_s
        self.verdict: CallEnd | None = None
        self.leaving: CallEnd | None = None
        """The call is being handed to somebody else: its media ends by that, and not because the caller hung up."""
        self.started_at_s = now
        """The conversation, on this line."""
        self.last_media_s = now
        """Audio came from the provider. Infinite where none ever comes."""
        self.last_sound_s = now
        """The caller fell silent."""
        self.last_activity_s = now
        """Somebody spoke, or a key was pressed."""
        self.last_progress_s = now
        """A say of either side was finished."""
        self.turns_taken = 0
        self.handovers = 0
        """From one agent to another since the caller's last turn."""
        self.audio_in_s = 0.0
        self._scope = trio.CancelScope()

    def expect_no_media(self) -> None:
        self.last_media_s = math.inf

    def begin(self) -> trio.CancelScope:
        """The scope around the whole of one talk: ``end`` leaves it."""
        self._scope = trio.CancelScope()
        if self.verdict is not None:
            self._scope.cancel()
        return self._scope

    def end(self, verdict: CallEnd) -> None:
        """End the conversation now. The first verdict counts."""
        if self.verdict is None:
            self.verdict = self.leaving if self.leaving and verdict.cause in _OF_LEAVING else verdict
        self._scope.cancel()

    def pass_on(self) -> bool:
        """The talk that has the line leaves it to the next one. False: the call ends, or is being handed to somebody
        else, and it does not."""
        if self.verdict is not None or self.leaving is not None:
            return False
        self._scope.cancel()
        return True

    def active(self) -> float:
        """Somebody speaks, or presses a key: now, which is returned."""
        self.last_activity_s = trio.current_time()
        return self.last_activity_s

    def said(self) -> None:
        """A say of either side is over."""
        self.last_progress_s = self.active()

    def turn_taken(self) -> None:
        """The caller has said something that is to be answered."""
        self.turns_taken += 1
        self.handovers = 0
        self.last_progress_s = trio.current_time()


@dataclass(frozen=True, slots=True)
class Ground:
    """Made by the call, handed to each of its talks."""

    call: CallInfo
    limits: Limits
    meters: CallMeters
    timeline: Timeline
    session: CallSession
    pulse: Pulse
    goes_on: Resumption | None = None
    """What was left of the call's last line, if it was lost: its first talk goes on with that, without an opening."""

    def taken_over(self, agent: Agent) -> None:
        """From here on this agent answers: at the wish of the one before, or of somebody outside."""
        self.pulse.handovers += 1
        self.meters.answered_by(agent)
        if self.session.successor == agent.name:
            self.session.follow()
        else:
            self.session.hand_over(agent.name)

    def barge_in(self, kind: BargeIn, onset_s: float) -> None:
        """The caller began at ``onset_s`` to speak into the agent's words, which are not heard any more."""
        stop_s = max(0.0, trio.current_time() - onset_s)
        self.meters.barge_in(kind)
        self.meters.silenced(stop_s)
        self.timeline.note(What.BARGE_IN, stop_ms=round(stop_s * 1000))
