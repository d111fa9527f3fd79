"""The thread of a conversation from one model to the next: what is noted, and taken up again."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from adapters.scripted.script import Script
from adapters.scripted.state import VALUE_CHARS, State, dump, load
from engine.events import Context, MemoryItem, Modality, Noted

KNOWN_STATES = 8
"""How many of its own states a model knows again."""


class Thread:
    """Of one model. A state in the memory that was not noted here is another model's, and goes before."""

    def __init__(self, script: Script, call_id: str) -> None:
        self._script = script
        self._call_id = call_id
        self._shown: str | None = None
        self._mine: deque[str] = deque(maxlen=KNOWN_STATES)

    def has_moved(self, context: Context) -> bool:
        """Another model has answered since, or all was erased; true at first."""
        shown = context.memory.states.get(context.agent, "")
        return shown != self._shown and shown not in self._mine

    def take_up(self, state: State, context: Context) -> State:
        """The state to go on from, with what is known by now."""
        is_first, has_moved = self._shown is None, self.has_moved(context)
        self._shown = context.memory.states.get(context.agent, "")
        if has_moved:
            kind = "voice" if context.modality is Modality.VOICE else "text"
            state = load(self._shown, self._script).over(f"{kind}:{self._call_id}")
        given = state.given
        told = {
            name: value[:VALUE_CHARS]
            for name, value in context.memory.entities.items()
            # The memory may be older than what was said in this call, but not than a state that comes from it.
            if value and name in self._script.names and name not in given and (is_first or name not in state.known)
        }
        return replace(state, known={**state.known, **told})

    def noted(self, before: State, after: State, items: Sequence[MemoryItem]) -> list[Noted]:
        """What a turn has changed. Compared with what the last context held, because a turn's notes may be void."""
        was, now, state = before.entities, after.entities, dump(after)
        entities = {name: value for name, value in now.items() if was.get(name) != value}
        entities |= dict.fromkeys(was.keys() - now.keys(), "")
        if not (entities or items) and state == self._shown:
            return []
        self._mine.append(state)
        return [Noted(entities, tuple(items), state)]
