"""All the bytes that a store keeps, to look for a caller in: his number, however it is spelt, and the words he said."""

from __future__ import annotations

import gc
import inspect
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import trio

from tests.fakes.servers import PostgresqlServer, RedisServer
from tests.system.session_rig import Program


@dataclass(frozen=True)
class Haystack:
    """Where a store keeps its bytes; ``folder`` holds SQLite's files and everybody's journal."""

    folder: Path
    postgresql: PostgresqlServer | None = None
    url: str = ""
    redis: RedisServer | None = None

    async def everything(self, desk: Program) -> bytes:
        """All that is kept now."""
        pieces = list(files_in(self.folder))
        if self.postgresql is not None:
            pieces += rows_of(self.url)
        if self.redis is not None:
            await rewritten(self.redis)
            pieces += [self.redis.everything(), *files_in(self.redis.directory)]
        if desk.settings.store.kind == "memory":
            pieces += values_in(desk.memory.store)
        return b"\0".join(pieces)

    def disk(self) -> bytes:
        """Every file, those of the servers included."""
        pieces = list(files_in(self.folder))
        if self.postgresql is not None:
            self.postgresql.execute("CHECKPOINT")
            pieces += files_in(self.postgresql.directory)
        if self.redis is not None:
            pieces += files_in(self.redis.directory)
        return b"\0".join(pieces)


def needles(number: str, words: Iterable[str] = ()) -> tuple[bytes, ...]:
    """Of a North American number in E.164 all that it might be found under, and the words."""
    assert number.startswith("+1")
    national = number[2:]
    parts = (national[:3], national[3:6], national[6:])
    return tuple(text.encode() for text in (national, "-".join(parts), " ".join(parts), *words))


def found(haystack: bytes, wanted: Iterable[bytes]) -> set[str]:
    return {needle.decode() for needle in wanted if needle in haystack}


def files_in(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.read_bytes()


def rows_of(url: str) -> list[bytes]:
    """Every value of every row of every table."""
    values: list[bytes] = []
    with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        assert names
        for (name,) in names:
            for row in connection.execute(f'SELECT * FROM "{name}"'):
                values += [value if isinstance(value, bytes) else str(value).encode() for value in row]
    return values


async def rewritten(server: RedisServer) -> None:
    """Until the append-only file has been written anew; and with a snapshot beside it, not compressed."""
    while _is_writing(server.command("INFO", "persistence")):  # noqa: ASYNC110 - the server tells nobody
        await trio.sleep(0.02)
    server.command("CONFIG", "SET", "rdbcompression", "no")
    server.command("SAVE")


def _is_writing(info: bytes) -> bool:
    return b"aof_rewrite_in_progress:1" in info or b"aof_rewrite_scheduled:1" in info


_NO_DATA = (types.ModuleType, type, types.FunctionType, types.BuiltinFunctionType, types.CodeType, types.FrameType)


def values_in(*roots: object) -> list[bytes]:
    """Every text and every bytes that these objects hold, however deep."""
    values: list[bytes] = []
    seen: set[int] = set()
    waiting: list[Any] = list(roots)
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, _NO_DATA) or inspect.iscoroutine(item):
            continue
        seen.add(id(item))
        if isinstance(item, str):
            values.append(item.encode("utf-8", "surrogatepass"))
        elif isinstance(item, bytes | bytearray | memoryview):
            values.append(bytes(item))
        else:
            waiting += gc.get_referents(item)
    return values
