"""Where sessions are kept: the port of the stores, and the rows that cross it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SessionRow:
    """The head of one session as a store holds it."""

    session_id: str
    key: str
    """What it is looked up by: opaque, and unique in the store."""
    subject: str
    """Whose it is: an opaque fingerprint of a number, or empty: nobody's, and never found or erased by it."""
    version: int
    """1 when made, and one more with every change. 0 in what was never stored."""
    started_at: float
    last_at: float
    expires_at: float
    """Unix seconds, all three. From ``expires_at`` on the session is not there any more, whatever else happens."""
    body: bytes


@dataclass(frozen=True, slots=True)
class MessageRow:
    message_id: str
    """Unique in its session; the same message written twice is there once."""
    at: float
    body: bytes
    text: str = ""
    """The words, for a full text index; empty when the body is sealed."""


@dataclass(frozen=True, slots=True)
class TraceRow:
    at: float
    body: bytes


@dataclass(frozen=True, slots=True)
class Found:
    row: SessionRow
    messages: tuple[MessageRow, ...]
    """In the order in which they were written."""


@dataclass(frozen=True, slots=True)
class Append:
    """Messages added to a session, and its head replaced.

    ``head.version`` is the version that the head was made from. The session is looked up by ``head.session_id``:

    * there, same version: written, with the version one higher -> ``Written``
    * there, other version: nothing is written -> ``Conflict``
    * not there, ``head.version`` above 0: it has been erased or has expired; nothing is written -> ``Gone``, or, where
      the store can tell that it has lost the session by itself -> ``Lost``
    * not there, ``head.version`` 0: made anew, unless its subject was erased at or after ``head.started_at``
      (-> ``Gone``, which goes before the next) or ``head.key`` is taken (-> ``Conflict`` with whoever has it, and
      nothing is written).

    A session that is there gets the whole head, key and subject too; if that key is another one's: ``Conflict`` with
    that one. What has expired counts as not there, and gives its key free. Afterwards the last ``retention`` messages
    and the last ``traces_kept`` traces are there, the older ones are not.
    """

    head: SessionRow
    messages: tuple[MessageRow, ...] = ()
    traces: tuple[TraceRow, ...] = ()
    retention: int = 50
    traces_kept: int = 500


@dataclass(frozen=True, slots=True)
class Replace:
    """A message's body and text are exchanged, if its body is still ``was``; its place and time stay. The session's
    version rises by one. -> ``Written``, or ``Gone`` when there is no such message with this body."""

    session_id: str
    message: MessageRow
    was: bytes


@dataclass(frozen=True, slots=True)
class Rekey:
    """A session gives up its key for another one, so that a new session can take it; its version rises by one.
    -> ``Written``, or ``Gone`` when it is not there or the key is another one's."""

    session_id: str
    key: str


@dataclass(frozen=True, slots=True)
class Remove:
    """A session with all that belongs to it, gone without a trace. -> ``Written`` with the version it had, else
    ``Gone``."""

    session_id: str


Write = Append | Replace | Rekey | Remove


@dataclass(frozen=True, slots=True)
class Written:
    version: int


@dataclass(frozen=True, slots=True)
class Conflict:
    current: SessionRow


@dataclass(frozen=True, slots=True)
class Gone:
    pass


@dataclass(frozen=True, slots=True)
class Lost:
    """Nobody has erased the session and it has not expired, but its head is not there: the store has let go of it to
    make room. Whoever still knows all of it may make it anew (version 0)."""


Outcome = Written | Conflict | Gone | Lost


@dataclass(frozen=True, slots=True)
class AuditRow:
    at: float
    body: bytes


class RecordStore(Protocol):
    """Where sessions are kept: opaque bodies under opaque names. Shared by all sessions of the engine.

    Nothing here blocks the event loop. Every operation raises StoreDown, and nothing else, when it cannot be done; then
    all of it was done or nothing. The caller sets the deadline: a cancelled operation may or may not have happened, and
    leaves nothing behind that would harm the next.
    """

    backend: str
    """``memory``, ``sqlite``, ``postgresql`` or ``redis``: a metric label."""

    @property
    def has_full_text(self) -> bool:
        """``search`` finds by an index."""
        ...

    @property
    def connections_in_use(self) -> int:
        """Of its pool, at this moment; 0 where there is none."""
        ...

    async def find(self, key: str, *, last: int) -> Found | None:
        """The session with this key and its last messages."""
        ...

    async def get(self, session_id: str, *, last: int) -> Found | None: ...

    async def of_subject(self, subject: str) -> list[SessionRow]:
        """All sessions of one subject, oldest first."""
        ...

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """In this order, in one transaction: what was written survives a crash of this process once this returns.

        ``writes`` may make what is in it when it is first looked at, which takes computing: a store that works in
        threads looks at it there, and it stays as it is until this returns, also in a thread that nobody waits for."""
        ...

    async def traces(self, session_id: str) -> list[TraceRow]: ...

    async def search(self, words: str, *, session_id: str = "", limit: int = 50) -> list[tuple[str, MessageRow]]:
        """Session ids and messages that hold all the words, newest first; in one session if one is named. Of sealed
        messages it knows nothing. Empty where there is no index."""
        ...

    async def scan(self, after: str = "", *, limit: int = 100) -> list[SessionRow]:
        """Sessions in the order of their ids, from the first one after ``after``: for work through all of them."""
        ...

    async def erase(self, subject: str, at: float) -> int:
        """Every session of the subject, leaving no byte where the store can help it. What is left is a tombstone: no
        session of this subject that started at or before ``at`` is ever made again. Returns how many there were."""
        ...

    async def erased_at(self, subject: str) -> float:
        """The latest ``at`` that the subject was erased with; 0.0 if it never was, or that is not known any more."""
        ...

    async def purge(self, now: float) -> int:
        """Let go of the bytes of what has expired. Returns how many sessions."""
        ...

    async def meta(self, name: str, default: bytes) -> bytes:
        """A small value of the store's own; ``default`` is kept if there is none yet. Of several askers one wins."""
        ...

    async def set_meta(self, name: str, value: bytes, *, was: bytes) -> bool:
        """Exchange it if it is still ``was``."""
        ...

    async def add_audit(self, row: AuditRow) -> None: ...

    async def audit(self, *, limit: int = 100) -> list[AuditRow]:
        """Newest first."""
        ...

    async def exchange_audit(self, bodies: Mapping[bytes, bytes]) -> int:
        """Old bodies to new ones: every entry of the audit with an old one gets the new one; its time and its place
        stay. Returns how many entries."""
        ...
