"""People's control over what is kept of them: all of it handed out, all of it gone, and who asked for either."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import structlog

from engine.errors import StoreDown
from engine.sessions.export import session_document
from engine.storage.codec import AuditEvent
from engine.storage.vault import Vault

log = structlog.get_logger()

SCHEMA = "offhook/caller"
SCHEMA_VERSION = 1
MAX_AUDITS = 1000
"""Entries of the audit that are handed out at once, or looked through for a caller's own."""
EXPORTED = "privacy_export"
DELETED = "privacy_delete"


class Forgets(Protocol):
    """Keeps something of callers besides the store: a live session, a journal, events on their way out."""

    async def forget(self, number: str) -> None:
        """Of this number (E.164) nothing is kept any more, and nothing on its way here is written later; when this
        returns, also after a crash. Asked twice it does no harm. Raises StoreDown."""
        ...


@dataclass(frozen=True, slots=True)
class Audited:
    """Who did what to whose data. ``at`` in Unix seconds."""

    at: float
    by: str
    what: str
    subject: str
    """A keyed fingerprint of the number; the number is not kept."""
    outcome: str = ""
    detail: str = ""


class Privacy:
    """Numbers are in E.164. ``forgetters`` in the order in which words travel: live sessions, the writer with its
    journal, what waits to be sent out. Everything raises StoreDown, and what is interrupted may simply be asked again.
    """

    def __init__(self, vault: Vault, forgetters: Sequence[Forgets], *, now: Callable[[], float] = time.time) -> None:
        self._vault = vault
        self._forgetters = tuple(forgetters)
        self._now = now

    async def export(self, number: str, by: str) -> dict[str, Any]:
        """All that is kept of this number and nothing of any other, as plain JSON values with the schema's version."""
        stored = await self._vault.of_number(number)
        sessions = []
        for one in stored:
            traces = await self._vault.traces(one.record.session_id)
            document = session_document(one, with_number=True)
            sessions.append(document | {"trace": [msgspec.to_builtins(event) for event in traces]})
        await self._note(number, by, EXPORTED, f"{len(sessions)} sessions")
        return {
            "schema": SCHEMA,
            "version": SCHEMA_VERSION,
            "exported_at": self._now(),
            "number": number,
            "sessions": sessions,
            "audit": [msgspec.to_builtins(event) for event in await self._audits_of(number)],
        }

    async def delete(self, number: str, by: str) -> int:
        """Erase this number everywhere. Returns how many stored sessions there were.

        A live call goes on without memory, and nothing of it is written back. With StoreDown the process itself keeps
        nothing of the number any more, but the store does: ask again.
        """
        began_at = self._now()
        await self._forget(number)
        count = await self._vault.erase(number, self._now())
        # What was loaded or begun while the store was at it.
        await self._forget(number)
        await self._note(number, by, DELETED, f"{count} sessions")
        log.info("caller_erased", by=by, sessions=count, took_s=round(self._now() - began_at, 3))
        return count

    async def note(self, by: str, action: str, number: str, detail: str) -> None:
        """For the audit: somebody did something else to a caller. Of the number only a fingerprint is kept. Raises
        StoreDown."""
        subject = self._vault.fingerprint(number) if number else ""
        await self._vault.audit(AuditEvent(self._now(), by, action, subject, "done", detail))

    async def audit(self, limit: int = 100) -> list[Audited]:
        """Newest first."""
        events = await self._vault.audits(max(0, min(limit, MAX_AUDITS)))
        return [_audited(event) for event in events]

    async def _forget(self, number: str) -> None:
        """One that cannot now keeps no other from it."""
        failed: StoreDown | None = None
        for forgetter in self._forgetters:
            try:
                await forgetter.forget(number)
            except StoreDown as exc:
                failed = exc
        if failed is not None:
            raise failed

    async def _note(self, number: str, by: str, action: str, detail: str) -> None:
        subject = self._vault.fingerprint(number)
        await self._vault.audit(AuditEvent(self._now(), by, action, subject, "done", detail))

    async def _audits_of(self, number: str) -> list[Audited]:
        subject = self._vault.fingerprint(number)
        return [event for event in await self.audit(MAX_AUDITS) if event.subject == subject]


def _audited(event: AuditEvent) -> Audited:
    return Audited(event.at, event.who, event.action, event.subject, event.outcome, event.detail)
