"""Saves into the store: many in one transaction, and where somebody else was quicker the two become one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import overload

import trio

from engine.dialogue.history import Entry, TraceEvent
from engine.errors import StoreDown
from engine.observe.labels import StoreOp
from engine.ports import Append, Conflict, Lost, Outcome, Rekey, SessionRow, Written
from engine.storage.keyring import Unreadable
from engine.storage.record import Save, Saved, SessionRecord, merged
from engine.storage.sealing import Sealing, quarantine_key, retired_key
from engine.storage.shelf import Shelf

MAX_ROUNDS = 40
"""Conflicts in a row before a save is given up."""
GIVE_WAY_S = 0.001
MAX_DOUBLINGS = 5


@dataclass(frozen=True, slots=True)
class Kept:
    """How much of each session stays."""

    messages: int
    traces: int


@dataclass(slots=True)
class _Pending:
    """The saves of one session that were made from the same version: the later records follow from the earlier ones, so
    that together they are one addition."""

    record: SessionRecord
    version: int
    base: SessionRecord | None = None
    places: list[int] = field(default_factory=list)
    """Which of the saves they are."""
    entries: list[Entry] = field(default_factory=list)
    traces: list[TraceEvent] = field(default_factory=list)
    was_merged: bool = False
    conflicts: int = 0

    def add(self, place: int, save: Save) -> None:
        self.record = save.record
        self.places.append(place)
        self.entries += save.entries
        self.traces += save.traces

    def append(self, sealing: Sealing, kept: Kept) -> Append:
        session_id = self.record.session_id
        return Append(
            sealing.head(self.record, self.version),
            tuple(sealing.message(session_id, entry) for entry in self.entries[-kept.messages :]),
            tuple(sealing.trace(session_id, event) for event in self.traces[-kept.traces :]),
            kept.messages,
            kept.traces,
        )


class _Rows(Sequence[Append]):
    """What is pending as rows, encoded and sealed when they are first looked at: by a store that works in threads
    there, and not on the event loop. Nobody changes what is pending meanwhile."""

    def __init__(self, pending: Sequence[_Pending], sealing: Sealing, kept: Kept) -> None:
        self._pending = pending
        self._sealing = sealing
        self._kept = kept

    def __len__(self) -> int:
        return len(self._pending)

    @overload
    def __getitem__(self, place: int) -> Append: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Append]: ...

    def __getitem__(self, place: int | slice) -> Append | Sequence[Append]:
        return self._made[place]

    @cached_property
    def _made(self) -> list[Append]:
        return [pending.append(self._sealing, self._kept) for pending in self._pending]


async def write(shelf: Shelf, saves: Sequence[Save], kept: Kept) -> list[Saved | Lost | None]:
    """As ``Vault.write``."""
    results: list[Saved | Lost | None] = [None] * len(saves)
    waiting = _gathered(saves)
    while waiting:
        sealing = await shelf.open()
        now, later = _first_of_each(waiting)
        with shelf.watched(StoreOp.WRITE):
            outcomes = await shelf.store.write(_Rows(now, sealing, kept))
        conflicting: list[_Pending] = []
        for pending, outcome in zip(now, outcomes, strict=True):
            if isinstance(outcome, Conflict):
                await _reconcile(shelf, pending, outcome.current)
                conflicting.append(pending)
            else:
                _settle(results, pending, outcome)
        waiting = conflicting + later
        await _give_way(max((pending.conflicts for pending in conflicting), default=0))
    return results


async def _give_way(conflicts: int) -> None:
    """After every second conflict wait a little, each writer for another time, so that not all come back at once. What
    was learnt before a wait is old after it: the next conflict tells the news, and is acted on at once."""
    if conflicts and conflicts % 2 == 0:
        await trio.sleep(random.uniform(0, GIVE_WAY_S * 2 ** min(conflicts, MAX_DOUBLINGS)))  # noqa: S311 - no secret


def _gathered(saves: Sequence[Save]) -> list[_Pending]:
    gathered: list[_Pending] = []
    latest: dict[str, _Pending] = {}
    for place, save in enumerate(saves):
        session_id = save.record.session_id
        pending = latest.get(session_id)
        if pending is None or pending.version != save.version:
            pending = latest[session_id] = _Pending(save.record, save.version, save.base)
            gathered.append(pending)
        pending.add(place, save)
    return gathered


def _first_of_each(waiting: list[_Pending]) -> tuple[list[_Pending], list[_Pending]]:
    """One of each session, and the rest: a version that another one has just made is not known yet."""
    now: dict[str, _Pending] = {}
    later = [pending for pending in waiting if now.setdefault(pending.record.session_id, pending) is not pending]
    return list(now.values()), later


def _settle(results: list[Saved | Lost | None], pending: _Pending, outcome: Outcome) -> None:
    result: Saved | Lost | None = None
    if isinstance(outcome, Written):
        result = Saved(pending.record, outcome.version, pending.was_merged)
    elif isinstance(outcome, Lost):
        result = outcome
    for place in pending.places:
        results[place] = result


async def _reconcile(shelf: Shelf, pending: _Pending, current: SessionRow) -> None:
    """What to try next, in the face of what is there."""
    pending.conflicts += 1
    if pending.conflicts > MAX_ROUNDS:
        raise StoreDown("error", "too many write to one session at once")
    ours = pending.record
    is_own = current.session_id == ours.session_id
    try:
        theirs = shelf.sealing.record(current)
    except Unreadable as exc:
        shelf.unreadable(current.session_id, exc)
        if is_own:
            pending.version = current.version  # what we know of the session takes the damaged one's place
        else:
            await quarantine(shelf, current.session_id)
        return
    if not is_own and pending.version > 0:
        # Ours is still there, but has lost its key to a newer one.
        pending.record = replace(ours, key=retired_key(ours.session_id))
        return
    pending.record = merged(theirs, ours, pending.base)
    pending.base = theirs if pending.base is not None else None
    pending.version = current.version
    pending.was_merged = True


async def quarantine(shelf: Shelf, session_id: str) -> None:
    """The session gives its key free, unopened."""
    key = shelf.sealing.key(quarantine_key(session_id))
    with shelf.watched(StoreOp.OTHER):
        await shelf.store.write([Rekey(session_id, key)])
