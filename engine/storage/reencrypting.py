"""Sealing with the first key what was written under an older one, or under none, while the engine goes on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from engine.errors import StoreDown
from engine.observe.labels import StoreOp
from engine.ports import Append, Conflict, Found, Outcome, Replace, SessionRow, TraceRow, Written
from engine.storage.keyring import Unreadable
from engine.storage.sealing import quarantine_key
from engine.storage.shelf import INDEX_KEY, Shelf

PAGE = 100
ALL = 1_000_000
MAX_ATTEMPTS = 8
"""At one session that others write to; then it is left to the next time."""


@dataclass(slots=True)
class Reencrypted:
    """How far it has come; at the end, what was done."""

    sessions: int = 0
    """Looked at."""
    heads: int = 0
    messages: int = 0
    traces: int = 0
    audits: int = 0
    """Sealed with the first key, all four."""
    restored: int = 0
    """Sessions that were put aside as unreadable, open again, and have their key back."""
    aside: int = 0
    """Sessions that were put aside and open again, but whose key a newer one has: found by their number only."""
    unreadable: int = 0
    """Heads, messages, traces and entries of the audit that no key opens; left as they are."""
    busy: int = 0
    """Sessions that others kept writing to: do it once more."""


async def reencrypt(shelf: Shelf, on_progress: Callable[[Reencrypted], None]) -> Reencrypted:
    """As ``Vault.reencrypt``."""
    done = Reencrypted()
    await _index_key(shelf)
    after = ""
    while True:
        with shelf.watched(StoreOp.SCAN):
            rows = await shelf.store.scan(after, limit=PAGE)
        for row in rows:
            await _session(shelf, row.session_id, done)
            done.sessions += 1
            on_progress(done)
        if len(rows) < PAGE:
            break
        after = rows[-1].session_id
    await _audits(shelf, done)
    on_progress(done)
    return done


async def _audits(shelf: Shelf, done: Reencrypted) -> None:
    with shelf.watched(StoreOp.OTHER):
        rows = await shelf.store.audit(limit=ALL)
    old = [row for row in rows if not shelf.sealing.is_current(row)]
    for first in range(0, len(old), PAGE):
        bodies: dict[bytes, bytes] = {}
        for row in old[first : first + PAGE]:
            try:
                bodies[row.body] = shelf.sealing.audit(shelf.sealing.audited(row)).body
            except Unreadable as exc:
                shelf.unreadable("audit", exc)
                done.unreadable += 1
        with shelf.watched(StoreOp.OTHER):
            done.audits += await shelf.store.exchange_audit(bodies)


async def _index_key(shelf: Shelf) -> None:
    await shelf.open()
    for _ in range(MAX_ATTEMPTS):
        with shelf.watched(StoreOp.OTHER):
            was = await shelf.store.meta(INDEX_KEY, b"")
        if shelf.keys.is_current(was):
            return
        now = shelf.keys.seal(shelf.keys.open(was, INDEX_KEY), INDEX_KEY)
        with shelf.watched(StoreOp.OTHER):
            await shelf.store.set_meta(INDEX_KEY, now, was=was)
    raise StoreDown("error", "its index key keeps changing")


async def _session(shelf: Shelf, session_id: str, done: Reencrypted) -> None:
    for _ in range(MAX_ATTEMPTS):
        with shelf.watched(StoreOp.LOAD):
            found = await shelf.store.get(session_id, last=ALL)
        if found is None or (not await _messages(shelf, found, done) and await _rest(shelf, found, done)):
            return
    done.busy += 1


async def _messages(shelf: Shelf, found: Found, done: Reencrypted) -> bool:
    """Whether any was changed: then the head has another version now."""
    writes = []
    for row in found.messages:
        if shelf.sealing.is_current(row):
            continue
        with suppress(Unreadable):  # counted at the end, with the rest
            entry = shelf.sealing.entry(found.row.session_id, row)
            writes.append(Replace(found.row.session_id, shelf.sealing.message(found.row.session_id, entry), row.body))
    if not writes:
        return False
    with shelf.watched(StoreOp.WRITE):
        outcomes = await shelf.store.write(writes)
    done.messages += sum(isinstance(outcome, Written) for outcome in outcomes)
    return True


async def _rest(shelf: Shelf, found: Found, done: Reencrypted) -> bool:
    """The head and the traces, in one step that fails if anybody has added to either. False then."""
    row = found.row
    with shelf.watched(StoreOp.LOAD):
        traces = await shelf.store.traces(row.session_id)
    head = _head(shelf, row)
    resealed = [_trace(shelf, row.session_id, trace) for trace in traces]
    changed = sum(new is not old for new, old in zip(resealed, traces, strict=True))
    if head is not row or changed:
        # Appended once more and kept at this number, the traces are the same ones, in their order.
        again = (tuple(resealed), len(resealed)) if changed else ((), ALL)
        outcome = await _write(shelf, Append(head, (), again[0], ALL, again[1]))
        if isinstance(outcome, Conflict) and outcome.current.session_id != row.session_id:
            done.aside += 1
            head = replace(head, key=row.key)
            outcome = await _write(shelf, Append(head, (), again[0], ALL, again[1]))
        if not isinstance(outcome, Written):
            return False
    done.heads += head.body != row.body
    done.restored += head.key != row.key
    done.traces += changed
    done.unreadable += _unreadable(shelf, found, traces)
    return True


def _unreadable(shelf: Shelf, found: Found, traces: list[TraceRow]) -> int:
    sealing, session_id = shelf.sealing, found.row.session_id
    opening: list[Callable[[], object]] = [lambda: sealing.record(found.row)]
    opening += [partial(sealing.entry, session_id, message) for message in found.messages]
    opening += [partial(sealing.event, session_id, trace) for trace in traces]
    count = 0
    for opened in opening:
        try:
            opened()
        except Unreadable:
            count += 1
    return count


def _head(shelf: Shelf, row: SessionRow) -> SessionRow:
    """As it should be; the same object if it is."""
    try:
        record = shelf.sealing.record(row)
    except Unreadable as exc:
        shelf.unreadable(row.session_id, exc)
        return row
    was_aside = row.key == shelf.sealing.key(quarantine_key(row.session_id))
    if shelf.sealing.is_current(row) and not was_aside:
        return row
    head = shelf.sealing.head(record, row.version)
    return replace(head, key=head.key if was_aside else row.key, expires_at=row.expires_at)


def _trace(shelf: Shelf, session_id: str, row: TraceRow) -> TraceRow:
    if not shelf.sealing.is_current(row):
        with suppress(Unreadable):
            return shelf.sealing.trace(session_id, shelf.sealing.event(session_id, row))
    return row


async def _write(shelf: Shelf, append: Append) -> Outcome:
    with shelf.watched(StoreOp.WRITE):
        (outcome,) = await shelf.store.write([append])
    return outcome
