"""What was said and is about to be out of a model's sight: summed up, and looked through, beside a session's turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile

import structlog
import trio

from engine.dialogue.context import facts_of_each
from engine.dialogue.history import Entry
from engine.events import Recollection, SessionInfo
from engine.observe.labels import VendorStatus
from engine.sessions.around import Around
from engine.sessions.messages import Recollected
from engine.sessions.notebook import Notebook

log = structlog.get_logger()

A_TURN = 2
"""Messages of it."""
SUMMARY_S = 30.0
"""For a summary, made in the background."""


class Summarising:
    """At most one summary at a time, until the session has it."""

    def __init__(self, pages: Notebook, around: Around, tell: Callable[[Recollected], None]) -> None:
        self.is_running = False
        self._is_looking = False
        self._looked_upto = ""
        """The newest message that was looked through ahead."""
        self._pages = pages
        self._around = around
        self._tell = tell

    def start_if_due(self, nursery: trio.Nursery, *, is_quiet: bool) -> None:
        """So much was said since the last summary that some of it is out of a model's sight; or the call is over."""
        if self._pages.is_forgotten:
            return
        self._look_ahead_if_due(nursery)
        if self.is_running:
            return
        settings = self._around.settings
        # Also before a turn more would push any of it out of the history.
        seen = min(settings.window, settings.retention - A_TURN)
        if self._overflows(0 if is_quiet else seen):
            self.is_running = True
            nursery.start_soon(self._summarise)

    def _overflows(self, seen: int) -> bool:
        """More than that was said since the last summary."""
        entries = self._pages.entries
        return len(entries) > seen and entries[-1 - seen].at > self._pages.record.summary_at

    @property
    def _unsummarised(self) -> list[Entry]:
        return [entry for entry in self._pages.entries if entry.at > self._pages.record.summary_at]

    async def _summarise(self) -> None:
        """In the background; told to the mailbox."""
        is_told = False
        try:
            session_id, made = self._pages.record.session_id, await self.recollection()
            if made is not None:
                self._tell(Recollected(session_id, *made))
                is_told = True
        finally:
            self.is_running = is_told

    def arrived(self) -> None:
        """The session has been told of it: the next one may be made."""
        self.is_running = False

    def _look_ahead_if_due(self, nursery: trio.Nursery) -> None:
        """What is out of sight soon is looked through in a thread, many messages at once, and not in the next
        turns."""
        settings, entries = self._around.settings, self._pages.entries
        new = list(takewhile(lambda entry: entry.entry_id != self._looked_upto, reversed(entries)))
        is_due = len(new) > settings.window
        if is_due and not self._is_looking:
            self._is_looking = True
            nursery.start_soon(self._look_ahead, self._pages.record.session_id, new)

    async def _look_ahead(self, session_id: str, entries: Sequence[Entry]) -> None:
        """``entries``: newest first."""
        try:
            texts = [entry.text for entry in reversed(entries)]
            found = await trio.to_thread.run_sync(
                facts_of_each, texts, abandon_on_cancel=True, limiter=self._around.aside
            )
        finally:
            self._is_looking = False
        if session_id == self._pages.record.session_id:  # else it has been forgotten
            self._pages.facts.look_ahead(found)
            self._looked_upto = entries[0].entry_id

    async def recollection(self) -> tuple[Recollection, float] | None:
        """What the agent makes of what was said since the last time, and up to when that was."""
        entries, record = self._unsummarised, self._pages.record
        if not entries:
            return None
        status = VendorStatus.ERROR
        try:
            agent = self._around.agent(record.agent)
            before = Recollection(record.memory.summary, record.memory.entities, record.memory.items)
            info = SessionInfo(record.session_id, agent.name, record.modality, caller=record.number)
            with trio.fail_after(SUMMARY_S):
                made = await agent.recollect([entry.as_message() for entry in entries], before, info)
            status = VendorStatus.OK
        except trio.TooSlowError:
            status = VendorStatus.TIMEOUT
            return None
        except Exception as exc:  # noqa: BLE001 - the edge of what an agent does besides; the next turn tries again
            log.warning("summary_failed", session_id=record.session_id, error=type(exc).__name__)
            return None
        finally:
            self._around.metrics.summaries_total.labels(status=status).inc()
        return made, entries[-1].at
