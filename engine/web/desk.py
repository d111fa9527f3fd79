"""What the web side asks of the sessions behind it: written turns, their history, and people's control over it.

Every question of these raises StoreDown when the store fails, trio.TooSlowError when an answer took too long.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from engine.dialogue.history import Entry, TraceEvent
from engine.ports import IncomingText
from engine.sessions.answers import TurnAnswer
from engine.storage.record import SessionRecord, Stored


class Sessions(Protocol):
    """The live sessions. Besides StoreDown and TooSlowError a turn raises Busy, RateLimited and VendorError."""

    @property
    def agents(self) -> Collection[str]: ...

    async def turn(self, text: str, *, stream_id: str = "default", agent: str = "") -> TurnAnswer:
        """One written turn on this stream's session. ``agent``: who answers; else whoever did last, or the first."""
        ...

    async def text(self, provider: str, incoming: IncomingText) -> TurnAnswer:
        """One SMS, on the session of its sender."""
        ...

    async def reset(self, stream_id: str) -> bool:
        """End and clear the session of this stream; whether there was one."""
        ...

    async def hand_over(self, session_id: str, agent: str) -> bool:
        """From its next turn on this agent answers; False if there is no such session."""
        ...


class SearchHit(Protocol):
    @property
    def session_id(self) -> str: ...

    @property
    def entry(self) -> Entry: ...


class SearchResult(Protocol):
    @property
    def hits(self) -> Sequence[SearchHit]:
        """Newest first."""
        ...

    @property
    def is_complete(self) -> bool:
        """Everything was looked through."""
        ...


class Problem(Protocol):
    """Something that is wrong with what a model was shown."""

    @property
    def turn_id(self) -> str: ...

    @property
    def rule(self) -> str: ...

    @property
    def detail(self) -> str: ...


class Report(Protocol):
    @property
    def turns(self) -> int:
        """How many were looked at."""
        ...

    @property
    def problems(self) -> Sequence[Problem]: ...


class History(Protocol):
    """What was said. None: there is no such session, or no such message in it."""

    async def session(self, session_id: str) -> Stored | None: ...

    async def of_number(self, number: str) -> list[Stored]:
        """Of a caller in E.164, oldest first."""
        ...

    async def search(self, words: str, *, session_id: str = "", limit: int) -> SearchResult: ...

    async def export(self, session_id: str, format: Literal["json", "markdown"]) -> str | None:  # noqa: A002 - the field's word
        ...

    async def edit(self, session_id: str, entry_id: str, text: str, by: str) -> Entry | None: ...

    async def branch(self, session_id: str, entry_id: str, by: str) -> SessionRecord | None:
        """A new session that goes on after this message."""
        ...

    async def trace(self, session_id: str) -> list[TraceEvent] | None: ...

    async def validate(self, session_id: str) -> Report | None: ...


class AuditEvent(Protocol):
    """Who did what to whose data, without the number."""

    @property
    def at(self) -> float: ...

    @property
    def by(self) -> str: ...

    @property
    def what(self) -> str: ...

    @property
    def subject(self) -> str: ...

    @property
    def outcome(self) -> str: ...

    @property
    def detail(self) -> str: ...


class Privacy(Protocol):
    async def export(self, number: str, by: str) -> Mapping[str, object]:
        """All that is kept of a caller in E.164, as JSON values with the schema's ``version``; ``sessions`` is empty
        when that is nothing."""
        ...

    async def delete(self, number: str, by: str) -> int:
        """No byte of the caller is left afterwards. How many sessions there were."""
        ...

    async def audit(self, limit: int) -> Sequence[AuditEvent]:
        """Newest first."""
        ...


@dataclass(frozen=True, slots=True)
class Desk:
    """All of it."""

    sessions: Sessions
    history: History
    privacy: Privacy
    default_region: str = "US"
    """What a number without a country code is read in."""
