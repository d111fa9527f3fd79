"""A proxy between the engine and a vendor, and what may go wrong on that way. Over TCP (:func:`proxying`), or between
memory streams on the virtual clock (:func:`faulty`, for ``clouds.loopback.dialled``). ``up`` is towards the vendor."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import trio
from trio.testing import memory_stream_pair

from engine.runtime.wire import abort_stream, close_stream

MakePair = Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]]
Connect = Callable[[], Awaitable[trio.abc.Stream]]
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


@dataclass
class Way:
    """One direction. Places are counted in bytes of each connection."""

    blackhole: bool = False
    """What comes is read and lost."""
    stall_after: float = math.inf
    """Then nothing is read any more, and the sender's buffers fill up."""
    truncate_after: float = math.inf
    """Then the connection ends, as if that were all."""
    corrupt_at: float = math.inf
    """This byte arrives as another one."""
    dup_at: float = math.inf
    """The piece that holds this byte arrives twice."""
    rate: float = math.inf
    """Bytes a second."""
    latency_s: float = 0.0


@dataclass
class Faults:
    """May be changed at any time, and holds for connections that are open too."""

    up: Way = field(default_factory=Way)
    down: Way = field(default_factory=Way)
    refuses: bool = False
    """A connection is reset at once."""
    hangs: bool = False
    """A connection is accepted, and that is all."""
    rst_after_s: float = math.inf
    """Each connection is reset at this age."""
    connections: int = 0
    """There ever were; and are open now:"""
    open: int = 0
    _cuts: set[trio.CancelScope] = field(default_factory=set)

    def cut(self) -> None:
        """Every connection that is open is reset now."""
        for scope in self._cuts:
            scope.cancel()

    async def relay(self, near: trio.abc.Stream, connect: Connect) -> None:
        """One connection, to its end. ``near``: of the engine."""
        self.connections += 1
        if self.refuses:
            abort_stream(near)
            return
        self.open += 1
        try:
            if self.hangs:
                await _until_gone(near)
            else:
                await self._relay(near, await connect())
        finally:
            self.open -= 1
            close_stream(near)

    async def _relay(self, near: trio.abc.Stream, far: trio.abc.Stream) -> None:
        try:
            with trio.move_on_after(self.rst_after_s) as cut:
                self._cuts.add(cut)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_pass_on, near, far, self.up, nursery.cancel_scope)
                    nursery.start_soon(_pass_on, far, near, self.down, nursery.cancel_scope)
            if cut.cancelled_caught:
                abort_stream(near)
                abort_stream(far)
        finally:
            self._cuts.discard(cut)
            close_stream(far)


def faulty(faults: Faults, nursery: trio.Nursery, make_pair: MakePair = memory_stream_pair) -> MakePair:
    """Makes pairs of memory streams with these faults between them: the engine's end and the vendor's. ``make_pair``
    makes the engine's half: ``lockstep_stream_pair`` is one in which a sender waits for its reader."""

    def pair() -> tuple[trio.abc.Stream, trio.abc.Stream]:
        ours, near = make_pair()
        far, theirs = memory_stream_pair()

        async def connect() -> trio.abc.Stream:
            return far

        nursery.start_soon(faults.relay, near, connect)
        return ours, theirs

    return pair


@asynccontextmanager
async def proxying(host: str, port: int, faults: Faults) -> AsyncIterator[int]:
    """A port of this machine that leads to that one. Left, it takes its connections with it."""
    connect = partial(trio.open_tcp_stream, host, port)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:

        async def serve(stream: trio.SocketStream) -> None:
            with suppress(OSError):
                await faults.relay(stream, connect)

        nursery.start_soon(partial(trio.serve_listeners, serve, listeners))
        try:
            yield listeners[0].socket.getsockname()[1]
        finally:
            nursery.cancel_scope.cancel()


async def _pass_on(source: trio.abc.Stream, target: trio.abc.Stream, way: Way, both: trio.CancelScope) -> None:
    """Until either side is gone, and then the other direction ends, too."""
    count = 0
    with suppress(*_GONE):
        while count < way.truncate_after:
            if count >= way.stall_after:
                await trio.sleep_forever()
            data = bytes(await source.receive_some(16 * 1024))
            if not data:
                break
            begin, count = count, count + len(data)
            if way.latency_s:
                await trio.sleep(way.latency_s)
            if not way.blackhole:
                await _send(target, _changed(data, begin, way), way)
    both.cancel()


def _changed(data: bytes, begin: int, way: Way) -> bytes:
    if begin <= way.corrupt_at < begin + len(data):
        place = int(way.corrupt_at) - begin
        data = data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]
    if begin + len(data) > way.truncate_after:
        data = data[: int(way.truncate_after) - begin]
    return data * 2 if begin <= way.dup_at < begin + len(data) else data


async def _send(target: trio.abc.Stream, data: bytes, way: Way) -> None:
    if way.rate == math.inf:
        await target.send_all(data)
        return
    step = max(1, int(way.rate / 10))
    for at in range(0, len(data), step):
        await trio.sleep(step / way.rate)
        await target.send_all(data[at : at + step])


async def _until_gone(stream: trio.abc.Stream) -> None:
    with suppress(*_GONE):
        while await stream.receive_some(16 * 1024):
            pass
