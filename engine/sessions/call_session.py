"""A call's seat at its session: what a call reads of it and adds to it, without ever waiting for a store."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from engine.dialogue.context import ContextLimits, FactsKnown
from engine.dialogue.conversation import Conversation
from engine.dialogue.history import Entry, TraceWhat, TurnRecord
from engine.events import CallInfo, Context, Modality, Noted, SessionInfo
from engine.observe.metrics import Metrics
from engine.ports import Agent, Phrases
from engine.sessions.showing import Showing
from engine.storage.record import Scope, SessionRecord, new_session_id, with_turn


class Seat(Protocol):
    """The session as a call sees it."""

    @property
    def record(self) -> SessionRecord: ...

    @property
    def entries(self) -> Sequence[Entry]: ...

    @property
    def facts(self) -> FactsKnown:
        """Of what is in ``entries``."""
        ...

    @property
    def has_calls(self) -> bool:
        """Another call has a seat already: its opening is the session's."""
        ...

    def take(self, turn: TurnRecord, applied: Callable[[], None]) -> None:
        """Add a whole turn; never waits. ``applied`` is called once ``entries`` has it."""
        ...


class CallSession:
    """One call's part of a session. Used by the tasks of that call only.

    A turn enters the session once the agent has been heard, or the call is over. Until the session has taken it, it is
    kept here, so that the next context has it in any case.
    """

    def __init__(self, seat: Seat, call: CallInfo, showing: Showing, now: Callable[[], float]) -> None:
        self.is_closed = False
        self.returns_within_s = 0.0
        """The call has lost its line, and may come back: for so long the session does not end with it."""
        self.is_returning = bool(seat.entries) or seat.record.was_opened or seat.record.turns > 0 or seat.has_calls
        """There is something from before this call, or beside it."""
        self._seat = seat
        self._call = call
        self._showing = showing
        self._told: deque[TurnRecord] = deque()
        self._assignments = seat.record.assignments
        self._conversation = Conversation(
            agent=call.agent, modality=Modality.VOICE, now=now, on_turn=self._tell, call_id=call.call_id
        )

    @property
    def session_id(self) -> str:
        return self._seat.record.session_id

    @property
    def number(self) -> str:
        """Whose it is, in E.164; empty if that is not known, or not any more."""
        return self._seat.record.number

    @property
    def call_id(self) -> str:
        return self._call.call_id

    @property
    def agent(self) -> str:
        """Who answers the caller now."""
        return self._conversation.agent

    def info(self, agent: str) -> SessionInfo:
        """For the model of this agent."""
        call = self._call
        return SessionInfo(
            self.session_id,
            agent,
            Modality.VOICE,
            caller=self._seat.record.number,
            dialled=call.dialled,
            call_id=call.call_id,
            parameters=call.parameters,
        )

    def opening(self, phrases: Phrases) -> str:
        """What to say first: the opening, once in a session's life; afterwards a welcome back (C4, D2)."""
        return phrases.returning if self.is_returning else phrases.greeting

    def context(self, agent: Agent, *, unsaid: str = "", vendor: str = "") -> Context:
        """What the model is shown for the turn that is open. ``unsaid``: words of the caller, of whom it is not certain
        yet that they were all; they are not in the session. ``vendor``: whose model, if not the agent's first."""
        told = [entry for turn in self._told for entry in turn.entries]
        return self._showing.context(
            self._seat.record,
            (*self._seat.entries, *told),
            self._conversation,
            agent=agent,
            modality=Modality.VOICE,
            call_id=self._call.call_id,
            is_returning=self.is_returning,
            facts=self._seat.facts,
            unsaid=unsaid,
            vendor=vendor,
        )

    def recalled(self, agent: Agent) -> Context:
        """What was said so far, for a model that follows the conversation itself from here on."""
        told = [entry for turn in self._told for entry in turn.entries]
        return self._showing.recalled(
            self._seat.record,
            (*self._seat.entries, *told),
            self._conversation,
            agent=agent,
            is_returning=self.is_returning,
            facts=self._seat.facts,
        )

    def caller_said(self, text: str) -> None:
        self._conversation.caller_said(text)

    def agent_was_heard(
        self, text: str, *, interrupted: bool = False, is_opening: bool = False, response_ms: int | None = None
    ) -> None:
        is_opening = is_opening and not self.is_returning
        if text and is_opening:
            agent = self._conversation.agent
            self._conversation.trace(
                TraceWhat.OPENING_SAID, self.session_id, agent=agent, text=text, call_id=self._call.call_id
            )
        self._conversation.agent_was_heard(
            text, interrupted=interrupted, is_opening=is_opening, response_ms=response_ms
        )

    def model_answered(self, agent: Agent, text: str, *, status: str, took_s: float, vendor: str = "") -> None:
        self._showing.answered(
            self._conversation, self.session_id, agent=agent, text=text, status=status, took_s=took_s, vendor=vendor
        )

    def note(self, noted: Noted) -> None:
        """The model wants this remembered."""
        self._conversation.note(noted)

    @property
    def unanswered(self) -> str:
        """What the caller has said and nothing was heard to; empty if there is nothing."""
        return " ".join(entry.text for entry in self._conversation.open_entries)

    @property
    def successor(self) -> str:
        """Whom somebody outside has handed the session over to since the call began; empty: nobody, or ``follow`` was
        called since."""
        record = self._seat.record
        return record.agent if record.assignments > self._assignments else ""

    def follow(self) -> None:
        """From here on ``successor`` answers, if there is one."""
        self._conversation.agent = self.successor or self._conversation.agent
        self._assignments = self._seat.record.assignments

    def hand_over(self, agent: str) -> None:
        """From here on this agent answers, at the wish of the one who did."""
        self._conversation.trace(TraceWhat.HANDED_OVER, self.session_id, origin=self._conversation.agent, target=agent)
        self._conversation.agent = agent

    def forget(self) -> None:
        """The caller has been erased: nothing of what was said is kept here either."""
        self._assignments = 0
        self._told.clear()
        self._conversation.forget()

    def close(self) -> None:
        """The call is over: what is open goes to the session. Idempotent."""
        if not self.is_closed:
            self.is_closed = True
            self._conversation.close()

    def _tell(self, turn: TurnRecord) -> None:
        turn = replace(turn, assignments=self._assignments)
        self._told.append(turn)
        self._seat.take(turn, partial(self._applied, turn))

    def _applied(self, turn: TurnRecord) -> None:
        if turn in self._told:
            self._told.remove(turn)


@dataclass(slots=True)
class LoneSeat:
    """A session of one call that nobody else knows: where there is no house, or it is out of order."""

    record: SessionRecord
    retention: int = 50
    entries: deque[Entry] = field(default_factory=deque)
    facts: FactsKnown = field(default_factory=FactsKnown)
    has_calls: bool = False

    def take(self, turn: TurnRecord, applied: Callable[[], None]) -> None:
        self.record = with_turn(self.record, turn)
        self.entries.extend(turn.entries)
        while len(self.entries) > self.retention:
            self.entries.popleft()
        applied()


def lone_session(call: CallInfo, metrics: Metrics, *, now: Callable[[], float] = time.time) -> CallSession:
    """A session that begins and ends with this call, and is kept nowhere."""
    at = now()
    record = SessionRecord(new_session_id(), f"stream:{call.stream_id}", Scope.CALL, at, at, call.agent, Modality.VOICE)
    return CallSession(LoneSeat(record), call, Showing(metrics, ContextLimits(), keeps_trace=False), now)


@asynccontextmanager
async def open_lone_session(call: CallInfo, metrics: Metrics) -> AsyncIterator[CallSession]:
    session = lone_session(call, metrics)
    try:
        yield session
    finally:
        session.close()
