"""What the process gives to every session."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import structlog
import trio

from engine.errors import ModelFailed, StoreDown
from engine.observe.labels import WebhookEvent
from engine.observe.metrics import Metrics
from engine.ports import Agent, Lost
from engine.sessions.showing import Showing
from engine.settings import SessionSettings
from engine.storage.record import Save, Saved, Stored
from engine.storage.writer import Journaled

log = structlog.get_logger()


class Saves(Protocol):
    """The writer, as sessions see it."""

    def save(
        self, save: Save, on_done: Callable[[Saved | Lost | StoreDown | Journaled | None], None], *, may_wait: bool
    ) -> None: ...

    @property
    def backlog(self) -> int:
        """Saves that wait for the store to come back."""
        ...


class Stores(Protocol):
    """The vault, as sessions see it."""

    async def load(self, key: str, *, last: int) -> Stored | None: ...

    async def get(self, session_id: str, *, last: int) -> Stored | None: ...

    async def version(self, session_id: str) -> int: ...

    async def was_erased(self, number: str, since: float) -> bool: ...

    async def remove(self, session_id: str) -> bool: ...

    async def retire(self, session_id: str) -> bool: ...


Tell = Callable[[WebhookEvent, str, str, Mapping[str, object]], None]
"""An event for the world outside: which, session id, number or empty, fields. Never waits."""


@dataclass(frozen=True, slots=True)
class Around:
    """What the process gives to every session; it keeps nothing of any."""

    settings: SessionSettings
    agents: Mapping[str, Agent]
    vault: Stores
    writer: Saves
    showing: Showing
    metrics: Metrics
    tell: Tell
    now: Callable[[], float]
    """Unix seconds."""
    load_s: float = 0.3
    aside: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(1))
    """A thread for what may take its time: with many of them the event loop would wait for its turn among them."""
    """For what a session reads of the store before it goes on with what it holds."""

    def agent(self, name: str) -> Agent:
        """The agent of this name; the first one if there is none any more. Raises ModelFailed if there are none."""
        if name in self.agents:
            return self.agents[name]
        if not self.agents:
            raise ModelFailed("agent", "there is none yet")
        log.warning("agent_unknown", agent=name)
        return next(iter(self.agents.values()))
