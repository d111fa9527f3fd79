"""The open end of a history: one side has spoken, the other has not been heard yet."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from engine.dialogue.history import Entry, TraceEvent, TraceWhat, TurnRecord
from engine.events import Modality, Noted, Role

MAX_HANDOVERS = 3
"""In one turn, so that two agents do not hand it to and fro for ever."""


class Conversation:
    """Puts together what the two sides say to whole turns, which ``on_turn`` gets once the agent has been heard.

    ``now`` gives Unix seconds. ``agent`` is whoever answers now; ``line`` whose line it is, if that is another one's.
    """

    def __init__(
        self,
        *,
        agent: str,
        modality: Modality,
        now: Callable[[], float],
        on_turn: Callable[[TurnRecord], None],
        call_id: str = "",
        line: str = "",
    ) -> None:
        self.agent = agent
        self._line = line or agent
        self._modality = modality
        self._call_id = call_id
        self._now = now
        self._on_turn = on_turn
        self.turn_id = _new_turn_id()
        """Of the turn that is open, or comes next."""
        self._entries: list[Entry] = []
        self._noted: list[tuple[str, Noted]] = []
        self._trace: list[TraceEvent] = []

    @property
    def open_entries(self) -> Sequence[Entry]:
        """What was said since the last whole turn: the caller's words, if any."""
        return tuple(self._entries)

    def open_entries_with(self, words: str) -> Sequence[Entry]:
        """``open_entries`` as they would be if the caller had said these words; empty: as they are."""
        if not words:
            return self.open_entries
        before = self._entries[-1].text if self._entries else ""
        return (*self._entries[:-1], self._entry(Role.CALLER, f"{before} {words}".strip()))

    def caller_said(self, text: str) -> None:
        """Words of the caller.

        Words that follow others without an answer between belong to one turn: the caller paused, was taken to be
        done, and went on before anything of the answer was heard. What the agent noted for that answer is void.
        """
        self._noted.clear()
        if self._entries:
            text = f"{self._entries.pop().text} {text}"
        self._entries.append(self._entry(Role.CALLER, text))

    def agent_was_heard(
        self, text: str, *, interrupted: bool = False, is_opening: bool = False, response_ms: int | None = None
    ) -> None:
        """What the caller heard of the agent, which ends the turn; nothing, if nothing was heard."""
        if not text:
            return
        self._entries.append(
            self._entry(Role.AGENT, text, interrupted=interrupted, is_opening=is_opening, response_ms=response_ms)
        )
        self.close()

    def note(self, noted: Noted) -> None:
        """To be remembered with this turn."""
        self._noted.append((self.agent, noted))

    def trace(self, what: TraceWhat, session_id: str, **fields: object) -> None:
        self._trace.append(TraceEvent(self._now(), what, {"session_id": session_id, **fields}))

    def bridged(self, session_id: str) -> None:
        """This turn is shown what came over another modality."""
        if not any(event.what is TraceWhat.CONTEXT_BRIDGED for event in self._trace):
            self.trace(TraceWhat.CONTEXT_BRIDGED, session_id, turn_id=self.turn_id, modality=str(self._modality))

    def close(self) -> None:
        """What is open is a turn of its own: nobody answered it, or nobody was asked."""
        if not (self._entries or self._noted or self._trace):
            return
        turn = TurnRecord(self.turn_id, tuple(self._entries), tuple(self._noted), tuple(self._trace), self._line)
        self.forget()
        self._on_turn(turn)

    def forget(self) -> None:
        """Nothing is open any more, and nobody is told."""
        self._entries, self._noted, self._trace = [], [], []
        self.turn_id = _new_turn_id()

    def _entry(
        self,
        role: Role,
        text: str,
        *,
        interrupted: bool = False,
        is_opening: bool = False,
        response_ms: int | None = None,
    ) -> Entry:
        return Entry(
            entry_id=f"{self.turn_id}.{len(self._entries)}",
            turn_id=self.turn_id,
            at=self._now(),
            role=role,
            text=text,
            agent=self.agent,
            modality=self._modality,
            call_id=self._call_id,
            interrupted=interrupted,
            is_opening=is_opening,
            response_ms=response_ms,
        )


def _new_turn_id() -> str:
    return f"t_{secrets.token_hex(16)}"
