"""Search in histories: by the store's index, or by reading what is sealed."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import trio

from engine.dialogue.history import Entry
from engine.observe.labels import StoreOp
from engine.ports import Found, MessageRow
from engine.storage.keyring import Unreadable
from engine.storage.shelf import Shelf

MAX_SESSIONS = 2000
MAX_S = 5.0
PAGE = 100

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class SearchResult:
    hits: tuple[tuple[str, Entry], ...]
    """Session ids and messages, newest first."""
    is_complete: bool
    """False: there was more to look through than the bound allows, or some of it does not open."""


async def search(shelf: Shelf, words: str, *, session_id: str, limit: int, last: int) -> SearchResult:
    """As ``Vault.search``; ``last`` messages of each session are there at most."""
    await shelf.open()
    wanted = _words(words)
    if not wanted or limit <= 0:
        return SearchResult((), is_complete=True)
    if shelf.store.has_full_text and not shelf.keys.is_encrypting:
        return await _by_index(shelf, words, session_id, limit)
    return await _by_reading(shelf, wanted, session_id, limit, last)


async def _by_index(shelf: Shelf, words: str, session_id: str, limit: int) -> SearchResult:
    with shelf.watched(StoreOp.SEARCH):
        rows = await shelf.store.search(words, session_id=session_id, limit=limit)
    hits = [(id_, _entry(shelf, id_, row)) for id_, row in rows]
    opened = tuple((id_, entry) for id_, entry in hits if entry is not None)
    return SearchResult(opened, is_complete=len(opened) == len(hits))


async def _by_reading(shelf: Shelf, wanted: set[str], session_id: str, limit: int, last: int) -> SearchResult:
    hits: list[tuple[str, Entry]] = []
    deadline_s, count, is_complete = trio.current_time() + MAX_S, 0, True
    async with aclosing(_one(session_id) if session_id else _all(shelf)) as ids:
        async for id_ in ids:
            if count >= MAX_SESSIONS or trio.current_time() > deadline_s:
                is_complete = False
                break
            count += 1
            with shelf.watched(StoreOp.SEARCH):
                found = await shelf.store.get(id_, last=last)
            entries = _entries(shelf, found)
            is_complete = is_complete and None not in entries
            hits += [(id_, entry) for entry in entries if entry is not None and wanted <= _words(entry.text)]
            hits = sorted(hits, key=lambda hit: -hit[1].at)[:limit]
    return SearchResult(tuple(hits), is_complete)


async def _one(session_id: str) -> AsyncGenerator[str, None]:
    yield session_id


async def _all(shelf: Shelf) -> AsyncGenerator[str, None]:
    after = ""
    while True:
        with shelf.watched(StoreOp.SCAN):
            rows = await shelf.store.scan(after, limit=PAGE)
        for row in rows:
            yield row.session_id
        if len(rows) < PAGE:
            return
        after = rows[-1].session_id


def _entries(shelf: Shelf, found: Found | None) -> list[Entry | None]:
    if found is None:
        return []
    return [_entry(shelf, found.row.session_id, row) for row in found.messages]


def _entry(shelf: Shelf, session_id: str, row: MessageRow) -> Entry | None:
    try:
        return shelf.sealing.entry(session_id, row)
    except Unreadable as exc:
        shelf.unreadable(session_id, exc)
        return None


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.casefold()))
