"""A media socket in memory, with the provider at its other end; it keeps the rules of the real one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import trio

from engine.errors import SlowPeer

SEND_S = 2.0


class FakeSocket:
    """Both ends of one socket. The engine's side has the names of the real one; the provider's side is ``say``,
    ``close`` and the lists of what arrived.

    ``stalled`` is a peer that does not read: a send waits, and after ``SEND_S`` fails as SlowPeer. A send that is
    cancelled while it waits has written half a frame: the socket is closed, and ``torn`` says so.
    """

    def __init__(self) -> None:
        self.received: list[tuple[float, str | bytes]] = []
        self.writes: list[int] = []
        self.torn = False
        self.closed = False
        self.close_code: int | None = None
        self.fault: int | None = None
        self.slow = False
        self.on_message: Callable[[str | bytes], None] = lambda _: None
        self._inbox: deque[str | bytes] = deque()
        self._said = trio.Event()
        self._reading = trio.Event()
        self._reading.set()

    # --- the engine's side ----------------------------------------------------------------------------------

    async def receive(self) -> str | bytes:
        await trio.lowlevel.checkpoint()
        while not self._inbox:
            if self.closed:
                raise trio.EndOfChannel
            self._said = trio.Event()
            await self._said.wait()
        return self._inbox.popleft()

    async def pour(self, take: Callable[[Sequence[str | bytes]], None]) -> None:
        while True:
            messages = [await self.receive(), *self._inbox]
            self._inbox.clear()
            take(messages)

    async def send(self, *messages: str | bytes) -> None:
        assert messages, "an empty write"
        await trio.lowlevel.checkpoint()
        if self.closed:
            raise trio.BrokenResourceError
        if not self._reading.is_set():
            await self._wait_for_the_reader()
        self.writes.append(len(messages))
        for message in messages:
            self.received.append((trio.current_time(), message))
            self.on_message(message)

    def hold(self, is_held: bool) -> bool:
        """It never is."""
        return False

    def look(self) -> None: ...

    async def ping(self) -> None:
        await trio.lowlevel.checkpoint()
        if not self._reading.is_set():
            await trio.sleep_forever()

    def abort(self) -> None:
        self.close(1006)

    async def _wait_for_the_reader(self) -> None:
        try:
            with trio.move_on_after(SEND_S) as waiting:
                await self._reading.wait()
        except trio.Cancelled:
            self.torn = True
            self.close(1006)
            raise
        if waiting.cancelled_caught:
            self.close(1006)
            raise SlowPeer("no progress")
        if self.closed:
            raise trio.BrokenResourceError

    # --- the provider's side --------------------------------------------------------------------------------

    def say(self, *messages: str | bytes) -> None:
        self._inbox.extend(messages)
        self._said.set()

    def close(self, code: int = 1000) -> None:
        if not self.closed:
            self.closed = True
            self.close_code = code
        self._said.set()
        self._reading.set()

    def stall(self) -> None:
        self._reading = trio.Event()

    def read_again(self) -> None:
        self._reading.set()
