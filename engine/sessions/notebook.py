"""One session's pages: what it has of the store's, and what the store is to get."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import structlog
import trio

from engine.dialogue.context import FactsKnown
from engine.dialogue.history import Entry, TraceEvent, TraceWhat, TurnRecord
from engine.errors import StoreDown
from engine.events import Modality
from engine.observe.labels import WebhookEvent
from engine.ports import Lost
from engine.runtime.mailbox import Answer
from engine.sessions.around import Around
from engine.storage.record import Save, Saved, SessionRecord, Stored, merged, new_session_id, uncounted, with_turn
from engine.storage.writer import Journaled

log = structlog.get_logger()


class Notebook:
    """Used by the session's actor alone. ``record`` and ``entries`` may be read by anybody."""

    def __init__(self, stored: Stored, around: Around) -> None:
        self.record = stored.record
        self.entries = deque(stored.entries, around.settings.retention)
        self.facts = FactsKnown()
        """Of the entries."""
        self.is_stale = False
        """Somebody else has written to the session."""
        self.is_fresh = True
        """It has been read just now."""
        self.is_forgotten = False
        """Nothing is written any more."""
        self.is_gone = False
        """Because the store has it no more: whoever uses it needs another one."""
        self._version = stored.version
        self._base = stored.record if stored.version else uncounted(stored.record)
        """What the store has counted, or will have once the journal is back."""
        self._around = around
        self._waiting: tuple[TraceEvent, ...] = ()
        """Moments that are written with whatever is written next."""

    # --- what happens ---------------------------------------------------------------------------------------

    def note(self, what: TraceWhat, **fields: object) -> None:
        """A moment of the session's life; written with whatever is written next."""
        if self._around.settings.trace:
            self._waiting = (*self._waiting, self.event(what, **fields))

    def event(self, what: TraceWhat, **fields: object) -> TraceEvent:
        return TraceEvent(self._around.now(), what, {"session_id": self.record.session_id, **fields})

    def tell(self, event: WebhookEvent, **fields: object) -> None:
        """The world outside, if it may know."""
        if not self.is_forgotten:
            self._around.tell(event, self.record.session_id, self.record.number, fields)

    def apply(self, turn: TurnRecord) -> None:
        """The turn enters the history."""
        before = self.record
        self.entries.extend(turn.entries)
        self.record = with_turn(before, turn)
        for entry in turn.entries[:1]:
            self._around.metrics.session_turns_total.labels(modality=entry.modality).inc()
        if before.turns and self.record.modality is not before.modality and turn.entries:
            self._switched(before.modality, self.record.modality)
        for event in turn.trace:
            self.tell_of(event)

    def tell_of(self, event: TraceEvent) -> None:
        """Count what is counted of it, and tell the world outside."""
        metrics = self._around.metrics
        if event.what is TraceWhat.CONTEXT_BRIDGED:
            modality = str(event.fields["modality"])
            metrics.context_bridges_total.labels(modality=modality).inc()
            self.tell(WebhookEvent.CONTEXT_BRIDGED, modality=modality)
        elif event.what is TraceWhat.HANDED_OVER:
            metrics.session_handovers_total.inc()
            self.tell(WebhookEvent.HANDED_OVER, origin=event.fields["origin"], target=event.fields["target"])

    def _switched(self, origin: Modality, target: Modality) -> None:
        self.record = replace(self.record, switches=self.record.switches + 1)
        self._around.metrics.modality_switches_total.labels(origin=origin, target=target).inc()
        self.tell(WebhookEvent.MODALITY_SWITCHED, origin=str(origin), target=str(target))
        self.note(TraceWhat.MODALITY_SWITCHED, origin=str(origin), target=str(target))

    async def rescue(self, turn: TurnRecord) -> None:
        """The turn could not enter the history as it should: its words do, and nothing else of it."""
        if self.is_forgotten:
            return
        there = {entry.entry_id for entry in self.entries}
        self.entries.extend(entry for entry in turn.entries if entry.entry_id not in there)
        await self.save(turn.entries)

    # --- the store ------------------------------------------------------------------------------------------

    async def save(
        self, entries: Sequence[Entry] = (), traces: Sequence[TraceEvent] = (), *, may_wait: bool = True
    ) -> bool:
        """False: the store has the session no more, and took nothing. Raises StoreDown for what may not wait; the rest
        is kept, or counted as lost, by the writer."""
        if self.is_forgotten:
            return True
        waiting, self._waiting = self._waiting, ()
        kept = (*waiting, *traces) if self._around.settings.trace else ()
        save = Save(self.record, self._version, tuple(entries), kept, self._base)
        try:
            result = await self._written(save, may_wait=may_wait)
            if isinstance(result, Lost) and not self.is_forgotten:
                log.warning("session_lost_by_store", session_id=self.record.session_id)
                save = replace(save, version=0, entries=tuple(self.entries), base=None)
                result = await self._written(save, may_wait=may_wait)
            return self._saved(save.record, result)
        except StoreDown:
            if may_wait:
                return True
            self._waiting = (*waiting, *self._waiting)
            raise

    async def _written(self, save: Save, *, may_wait: bool) -> Saved | Lost | Journaled | None:
        """Raises StoreDown."""
        done: Answer[Saved | Lost | Journaled | None] = Answer()

        def on_done(result: Saved | Lost | StoreDown | Journaled | None) -> None:
            if isinstance(result, StoreDown):
                done.fail(result)
            else:
                done.give(result)

        self._around.writer.save(save, on_done, may_wait=may_wait)
        return await done.wait()

    def _saved(self, sent: SessionRecord, result: Saved | Lost | Journaled | None) -> bool:
        if isinstance(result, Journaled):
            self._base = sent
        elif isinstance(result, Saved):
            self._version, self._base = result.version, result.record
            if result.was_merged:
                self.is_stale = True
                self.record = merged(result.record, self.record, sent)
        else:
            self._found_gone()
            return not self.is_gone
        return True

    def _found_gone(self) -> None:
        log.warning("session_gone", session_id=self.record.session_id)
        self.is_gone = not self.is_forgotten  # else it is being erased here
        self.forget()

    async def acknowledge(self, turn: TurnRecord) -> bool:
        """Apply and save it, or neither. False: the store has the session no more, and has not taken the turn. Raises
        StoreDown."""
        record, entries = self.record, tuple(self.entries)
        try:
            self.apply(turn)
            return await self.save(turn.entries, turn.trace, may_wait=False)
        except Exception:
            self.record, self.entries = record, deque(entries, self._around.settings.retention)
            raise

    async def catch_up(self) -> None:
        """Read what others have written, if they have. What the store does not tell within ``load_s`` is not waited
        for: what is held goes on, and the next one tries again."""
        if self.is_forgotten or self._around.writer.backlog:
            return
        with trio.move_on_after(self._around.load_s), suppress(StoreDown):
            if self._version and not (self.is_stale or self.is_fresh):
                self.is_stale = await self._around.vault.version(self.record.session_id) != self._version
            await self.refresh()

    async def refresh(self) -> None:
        """Read again what somebody else has changed. Not to be had now, it is tried again after the next turn."""
        if not self.is_stale or self.is_forgotten or self._around.writer.backlog:
            return
        retention = self._around.settings.retention
        try:
            stored = await self._around.vault.get(self.record.session_id, last=retention)
        except StoreDown:
            return
        if stored is None:
            if self._version:  # else it has not been written yet
                await self.save()  # the store tells whether it was erased, or is to have it anew
            self.is_stale = False
            return
        self.is_stale = False
        self.record, self._version = merged(stored.record, self.record, self._base), stored.version
        self._base = stored.record
        self.entries = deque(stored.entries, retention)
        self.facts.forget()

    # --- its end --------------------------------------------------------------------------------------------

    def begin_anew(self) -> None:
        """Another session under the same key, that knows nothing yet."""
        old, at = self.record, self._around.now()
        self.record = SessionRecord(
            new_session_id(), old.key, old.scope, at, at, old.agent, old.modality, number=old.number, keep_s=old.keep_s
        )
        self._version, self._waiting, self._base = 0, (), self.record
        self.entries.clear()
        self.facts.forget()
        self.is_stale = False

    def forget(self) -> None:
        """Nothing is known any more, not even whose it was, and nothing is written."""
        self.begin_anew()
        self.record = self._base = replace(self.record, key="", number="")
        self.is_forgotten = True
