"""A record store that works, fails, hangs or does the work without saying so, as it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import trio

from adapters.stores.memory import MemoryStore
from engine.errors import StoreDown
from engine.ports import AuditRow, Found, MessageRow, Outcome, SessionRow, TraceRow, Write


class FlakyStore:
    """A RecordStore over ``inner``. Set ``fails`` to a reason, ``hangs``, or ``swallows`` (it is done, and reported as
    failed); ``bug`` is raised as it is."""

    has_full_text = True
    connections_in_use = 0

    def __init__(self, inner: MemoryStore | None = None) -> None:
        self.inner = inner or MemoryStore(lambda: 0.0)
        self.backend = self.inner.backend
        self.fails = ""
        self.hangs = False
        self.swallows = False
        self.bug: Exception | None = None
        self.asked = 0
        """Operations so far, also those that failed."""
        self.writes: list[int] = []
        """Of each write that was asked for, how many rows."""

    async def _before(self) -> None:
        self.asked += 1
        if self.hangs:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        if self.fails:
            raise StoreDown(self.fails)

    async def find(self, key: str, *, last: int) -> Found | None:
        await self._before()
        return await self.inner.find(key, last=last)

    async def get(self, session_id: str, *, last: int) -> Found | None:
        await self._before()
        return await self.inner.get(session_id, last=last)

    async def of_subject(self, subject: str) -> list[SessionRow]:
        await self._before()
        return await self.inner.of_subject(subject)

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        self.writes.append(len(writes))
        await self._before()
        if self.bug is not None:
            raise self.bug
        outcomes = await self.inner.write(writes)
        if self.swallows:
            raise StoreDown("timeout")
        return outcomes

    async def traces(self, session_id: str) -> list[TraceRow]:
        await self._before()
        return await self.inner.traces(session_id)

    async def search(self, words: str, *, session_id: str = "", limit: int = 50) -> list[tuple[str, MessageRow]]:
        await self._before()
        return await self.inner.search(words, session_id=session_id, limit=limit)

    async def scan(self, after: str = "", *, limit: int = 100) -> list[SessionRow]:
        await self._before()
        return await self.inner.scan(after, limit=limit)

    async def erase(self, subject: str, at: float) -> int:
        await self._before()
        return await self.inner.erase(subject, at)

    async def erased_at(self, subject: str) -> float:
        await self._before()
        return await self.inner.erased_at(subject)

    async def purge(self, now: float) -> int:
        await self._before()
        return await self.inner.purge(now)

    async def meta(self, name: str, default: bytes) -> bytes:
        await self._before()
        return await self.inner.meta(name, default)

    async def set_meta(self, name: str, value: bytes, *, was: bytes) -> bool:
        await self._before()
        return await self.inner.set_meta(name, value, was=was)

    async def add_audit(self, row: AuditRow) -> None:
        await self._before()
        await self.inner.add_audit(row)

    async def audit(self, *, limit: int = 100) -> list[AuditRow]:
        await self._before()
        return await self.inner.audit(limit=limit)

    async def exchange_audit(self, bodies: Mapping[bytes, bytes]) -> int:
        await self._before()
        return await self.inner.exchange_audit(bodies)
