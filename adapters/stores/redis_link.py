"""Connections to one Redis, on Trio: each carries one command at a time, and is closed when one is cut short."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import trio
from anyio.abc import ByteStream
from coredis.connection import BaseConnection, TCPLocation
from coredis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ConnectionError,  # noqa: A004 - coredis' own
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from engine.errors import SettingsError, StoreDown

Word = bytes | str | int
_FULL = ("OOM ", "-OOM ", "MISCONF ")
"""How Redis says that its memory, or the disk below it, is full; older ones say it in the middle of a line."""


class RedisLink:
    """Up to ``connections`` of them, opened when they are needed; made by :func:`open_link`."""

    def __init__(
        self, nursery: trio.Nursery, location: TCPLocation, *, database: int, password: str, connections: int
    ) -> None:
        self._nursery = nursery
        self._location = location
        self.place = f"redis at {location.host} port {location.port}"
        """The server as we name it in what we tell."""
        self._database = database
        self._password = password
        self._places = trio.CapacityLimiter(connections)
        self._idle: list[_Connection] = []

    @property
    def in_use(self) -> int:
        """Connections that carry a command, or are being opened for one."""
        return self._places.borrowed_tokens

    async def check(self) -> None:
        """Raises SettingsError when the password or the database is a wrong one, and StoreDown."""
        try:
            await self._ask(b"PING")
        except AuthenticationError:
            expected = "another one is expected" if self._password else "one is expected"
            raise SettingsError(f"REDIS_PASSWORD: {expected} at {self._location} (store.host, store.port)") from None
        except ResponseError as exc:
            if "DB index" in str(exc):
                raise SettingsError(f"store.database: {self._location} has no database {self._database}") from None
            raise self._down(exc) from None
        except RedisError as exc:
            raise self._down(exc) from None

    async def command(self, name: bytes, *words: Word) -> Any:
        """The answer as bytes, int, None or lists of those. Raises StoreDown."""
        try:
            return await self._ask(name, *words)
        except RedisError as exc:
            raise self._down(exc) from None

    async def script(self, digest: str, source: str, *words: Word) -> Any:
        """Run a script, which is sent if the server has not got it. Raises StoreDown."""
        try:
            try:
                return await self._ask(b"EVALSHA", digest, 0, *words)
            except NoScriptError:
                return await self._ask(b"EVAL", source, 0, *words)
        except RedisError as exc:
            raise self._down(exc) from None

    async def _ask(self, name: bytes, *words: Word) -> Any:
        async with self._places:
            connection = self._take() or await self._connect()
            try:
                return await connection.create_request(name, *words, decode=False, disconnect_on_cancellation=True)
            except RedisError as exc:
                if _is_of_replica(exc):
                    # It was the primary once. The name may lead to another server by now.
                    self._drop(connection)
                raise
            finally:
                # Cancelled while the answer was on its way it is not reusable, and has been closed.
                if connection.reusable:
                    self._idle.append(connection)
                else:
                    connection.invalidate()

    def _drop(self, *connections: _Connection) -> None:
        """These, and all that rest."""
        for connection in (*connections, *self._idle):
            connection.invalidate()
        self._idle.clear()

    def _down(self, error: RedisError) -> StoreDown:
        return _meaning(error, self.place)

    def _take(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
        return None

    async def _connect(self) -> _Connection:
        try:
            stream = await anyio.connect_tcp(self._location.host, self._location.port)
        except OSError as exc:
            raise ConnectionError("Unable to establish a connection") from exc
        connection = _Connection(self._location, stream, self._database, self._password)
        await self._nursery.start(_serve, connection)
        return connection


class _Connection(BaseConnection):
    """On a stream that is open already: coredis leaves things unclosed when its own way to open one fails."""

    def __init__(self, location: TCPLocation, stream: ByteStream, database: int, password: str) -> None:
        super().__init__(location, db=database, password=password or None)
        self._opened = stream

    async def _connect(self) -> ByteStream:
        return self._opened

    def describe(self) -> str:
        return f"connection to {self.location}"


async def _serve(connection: _Connection, task_status: trio.TaskStatus[None]) -> None:
    """The tasks of one connection. What goes wrong before it is ready is raised at whoever starts it; later it ends."""
    try:
        await connection.run(task_status=task_status)
    except RedisError:
        await trio.lowlevel.checkpoint_if_cancelled()  # coredis turns a cancelled handshake into an error
        raise


@asynccontextmanager
async def open_link(
    host: str, port: int, *, database: int, password: str, connections: int
) -> AsyncIterator[RedisLink]:
    """Does not connect yet. Leaving the block closes every connection at once."""
    # For each handshake that is cut short it logs a traceback, which takes longer to write than a frame lasts. Whatever
    # goes wrong is raised, and told by whoever uses the store.
    logging.getLogger("coredis").setLevel(logging.CRITICAL)
    try:
        async with trio.open_nursery() as nursery:
            yield RedisLink(
                nursery, TCPLocation(host, port), database=database, password=password, connections=connections
            )
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The connections raise nothing, so what is in it is what was raised inside the block.
        if len(group.exceptions) > 1:
            raise
        raise group.exceptions[0] from None


def _meaning(error: RedisError, place: str) -> StoreDown:
    """What it means; ``place`` is the server as we name it. Its text stays here: it may quote a key."""
    text = str(error)
    if isinstance(error, BusyLoadingError):
        return StoreDown("refused", f"{place} is loading")
    if isinstance(error, ConnectionError):
        is_opening = text.startswith(("Unable to establish", "max number"))
        return StoreDown("refused", f"{place} cannot be reached" if is_opening else "redis has closed the connection")
    if isinstance(error, AuthenticationError | AuthorizationError):
        return StoreDown("refused", f"{place} does not accept the password, or it allows too little")
    if _is_of_replica(error):
        return StoreDown("refused", "redis is a read-only replica")
    if any(word in text for word in _FULL):
        return StoreDown("full", "redis is full")
    return StoreDown("error", f"redis {type(error).__name__}")


def _is_of_replica(error: RedisError) -> bool:
    return isinstance(error, ReadOnlyError) or "READONLY " in str(error)
