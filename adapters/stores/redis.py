"""Sessions in Redis, 6.0 or later: every operation is one script there, which is done whole or not at all."""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from adapters.stores.redis_link import RedisLink, Word, open_link
from engine.errors import StoreDown
from engine.ports import (
    Append,
    AuditRow,
    Conflict,
    Found,
    Gone,
    Lost,
    MessageRow,
    Outcome,
    Rekey,
    Remove,
    Replace,
    SessionRow,
    TraceRow,
    Write,
    Written,
)

CONNECT_S = 5.0
PURGED_AT_ONCE = 200
_MESSAGE = struct.Struct(">dI")
"""The time and the length of the text; both follow: the text, the body."""
_AT = struct.Struct(">d")
_SCRIPT = Path(__file__).with_name("redis.lua").read_text("utf-8")
_DIGEST = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()


@asynccontextmanager
async def open_redis(
    host: str,
    port: int,
    *,
    database: int = 0,
    password: str = "",
    prefix: str = "sessions",
    now: Callable[[], float] = time.time,
    connections: int = 8,
    must_connect: bool = True,
) -> AsyncIterator[RedisStore]:
    """A store on a Redis server, all of it in keys that begin with ``prefix`` and a colon.

    Raises SettingsError for a wrong password or database, StoreDown if the server cannot be reached. With
    ``must_connect`` false opening does not try: then every operation raises StoreDown until the server is there.
    Leaving the block closes every connection.
    """
    async with open_link(host, port, database=database, password=password, connections=connections) as link:
        if must_connect:
            try:
                with trio.fail_after(CONNECT_S):
                    await link.check()
            except trio.TooSlowError:
                raise StoreDown("timeout", f"{link.place} does not answer") from None
        yield RedisStore(link, prefix, now)


class RedisStore:
    """RecordStore on Redis, made by :func:`open_redis`. It has no index of words: :meth:`search` finds nothing.

    How safe a write is, the server decides: without an append-only file what is there is gone with its process, and
    with ``appendfsync everysec``, Redis' default, a crash of its machine takes up to one second of writes (a crash of
    this process takes nothing). ``maxmemory-policy`` should be ``noeviction``: any other drops sessions too early.
    Of one that is in use the engine then writes all that it knows anew (``Lost``).

    A session's keys expire by the server's clock, those that list them by :meth:`purge`. After :meth:`erase` no key
    holds anything of the subject but a fingerprint and a time. An append-only file keeps what was written until it is
    rewritten, which :meth:`erase` asks for (and, if a rewrite was under way, the next purge again); an RDB file, a
    replica's files and backups keep it until the next one is saved.
    """

    backend = "redis"
    has_full_text = False

    def __init__(self, link: RedisLink, prefix: str, now: Callable[[], float]) -> None:
        self._link = link
        self._prefix = _bytes(prefix)
        self._now = now
        self._owes_rewrite = False

    @property
    def connections_in_use(self) -> int:
        return self._link.in_use

    async def find(self, key: str, *, last: int) -> Found | None:
        return _found(await self._run("find", key, last))

    async def get(self, session_id: str, *, last: int) -> Found | None:
        return _found(await self._run("get", session_id, last))

    async def of_subject(self, subject: str) -> list[SessionRow]:
        rows = [_row(row) for row in await self._run("of_subject", subject)] if subject else []
        return sorted(rows, key=lambda row: (row.started_at, row.session_id))

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        if not writes:
            return []
        return [_outcome(answer) for answer in await self._run("write", *_words(writes))]

    async def traces(self, session_id: str) -> list[TraceRow]:
        return [TraceRow(*_unstamped(data)) for data in await self._run("traces", session_id)]

    async def search(self, words: str, *, session_id: str = "", limit: int = 50) -> list[tuple[str, MessageRow]]:
        await trio.lowlevel.checkpoint()
        return []

    async def scan(self, after: str = "", *, limit: int = 100) -> list[SessionRow]:
        return [_row(row) for row in await self._run("scan", after, limit)]

    async def erase(self, subject: str, at: float) -> int:
        if not subject:
            return 0
        count = int(await self._run("erase", subject, repr(at)))
        self._owes_rewrite = True
        await self._rewrite()
        return count

    async def erased_at(self, subject: str) -> float:
        return float(await self._run("erased_at", subject) or 0.0)

    async def purge(self, now: float) -> int:
        count = 0
        while True:
            purged = int(await self._run("purge", repr(now), PURGED_AT_ONCE))
            count += purged
            if purged < PURGED_AT_ONCE:
                break
        if self._owes_rewrite:
            await self._rewrite()
        return count

    async def meta(self, name: str, default: bytes) -> bytes:
        return bytes(await self._run("meta", name, default))

    async def set_meta(self, name: str, value: bytes, *, was: bytes) -> bool:
        return bool(await self._run("set_meta", name, value, was))

    async def add_audit(self, row: AuditRow) -> None:
        await self._run("add_audit", _stamped(row))

    async def audit(self, *, limit: int = 100) -> list[AuditRow]:
        return [AuditRow(*_unstamped(data)) for data in await self._run("audit", limit)]

    async def exchange_audit(self, bodies: Mapping[bytes, bytes]) -> int:
        pairs = [body for pair in bodies.items() for body in pair]
        return int(await self._run("exchange_audit", *pairs))

    async def _run(self, operation: str, *words: Word) -> Any:
        plain = [_bytes(word) if isinstance(word, str) else word for word in words]
        return await self._link.script(_DIGEST, _SCRIPT, operation, self._prefix, repr(self._now()), *plain)

    async def _rewrite(self) -> None:
        """Have the append-only file written anew, without what is gone."""
        persistence = await self._link.command(b"INFO", "persistence")
        if b"aof_enabled:1" not in persistence:
            self._owes_rewrite = False
        elif b"aof_rewrite_in_progress:0" in persistence:
            # One under way has begun before the erasing, and may hold what was erased.
            await self._link.command(b"BGREWRITEAOF")
            self._owes_rewrite = False


# --- what is sent -------------------------------------------------------------------------------------------


def _words(writes: Sequence[Write]) -> Iterator[Word]:
    for write in writes:
        match write:
            case Append():
                yield from _append(write)
            case Replace():
                yield from ("replace", write.session_id, write.message.message_id, _message(write.message), write.was)
            case Rekey():
                yield from ("rekey", write.session_id, write.key)
            case Remove():
                yield from ("remove", write.session_id)


def _append(write: Append) -> Iterator[Word]:
    head = write.head
    yield from ("append", head.session_id, head.key, head.subject, head.version)
    yield from (repr(head.started_at), repr(head.last_at), repr(head.expires_at), head.body)
    yield from (write.retention, write.traces_kept, len(write.messages))
    for message in write.messages:
        yield from (message.message_id, _message(message))
    yield len(write.traces)
    yield from map(_stamped, write.traces)


def _message(message: MessageRow) -> bytes:
    text = _bytes(message.text)
    return _MESSAGE.pack(message.at, len(text)) + text + message.body


def _stamped(row: TraceRow | AuditRow) -> bytes:
    return _AT.pack(row.at) + row.body


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


# --- what is answered ---------------------------------------------------------------------------------------


def _outcome(answer: list[Any]) -> Outcome:
    match answer:
        case [b"written", version]:
            return Written(int(version))
        case [b"conflict", *row]:
            return Conflict(_row(row))
        case [b"lost"]:
            return Lost()
        case _:
            return Gone()


def _found(answer: list[Any] | None) -> Found | None:
    if answer is None:
        return None
    row, flat = answer
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return Found(_row(row), tuple(_read(message_id, data) for message_id, data in pairs if data is not None))


def _row(row: list[Any]) -> SessionRow:
    session_id, key, subject, version, started_at, last_at, expires_at, body = row
    return SessionRow(
        _str(session_id),
        _str(key),
        _str(subject),
        int(version),
        float(started_at),
        float(last_at),
        float(expires_at),
        body,
    )


def _read(message_id: bytes, data: bytes) -> MessageRow:
    at, size = _MESSAGE.unpack_from(data)
    end = _MESSAGE.size + size
    return MessageRow(_str(message_id), at, data[end:], _str(data[_MESSAGE.size : end]))


def _unstamped(data: bytes) -> tuple[float, bytes]:
    return _AT.unpack_from(data)[0], data[_AT.size :]


def _str(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")
