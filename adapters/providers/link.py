"""The line of one call over any provider's socket: what is played, what has been heard, what the caller sends.

Only the writer task sends, so that a cancelled reply never leaves half a frame behind: what is cancelled is an item of
the queue. The socket belongs to whoever accepted it and is closed there, never here.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, Protocol

import trio

from adapters.providers.outbox import PIECE_S, Outbox
from adapters.providers.probe import Probe
from engine.errors import TOO_MANY_UNUSABLE, BadMessage, ProtocolError, SlowPeer
from engine.events import FRAME_S, AudioFormat, MarkPlayed, ProviderEvent, Stopped
from engine.ports import Codec
from engine.runtime.ticker import Ticker

AHEAD_S: Final = 2.0
"""How far ``play`` gets ahead of the caller's ear."""

MAX_BAD_MESSAGES: Final = 20
"""Unusable messages that a call survives."""

LATE_MARK_S: Final = 0.5
"""A mark that a ``clear`` forgets has not come back in time if its audio had ended so long ago."""

FINISH_S: Final = 0.3
"""How long leaving the link politely waits for the write under way, so that the socket stays fit for its close."""

SETTLE_S: Final = 0.1
"""How long the end of the socket waits for the writer to say whether the peer had stopped reading."""

_EPSILON_S: Final = 1e-6
_CLEAN_CLOSES: Final = frozenset({1000, 1001, 1005})


class LinkSocket(Protocol):
    """The part of ``engine.runtime.sockets.Socket`` that a link uses."""

    @property
    def close_code(self) -> int | None:
        """The peer's; 1005 for a close frame without one, 1006 for a loss."""
        ...

    @property
    def fault(self) -> int | None:
        """The code under which the peer's bytes were refused."""
        ...

    @property
    def slow(self) -> bool:
        """A write was given up because the peer did not read."""
        ...

    async def receive(self) -> str | bytes:
        """Raises trio.EndOfChannel when the socket is gone."""
        ...

    async def pour(self, take: Callable[[Sequence[str | bytes]], None]) -> None:
        """Instead of ``receive``: hand all messages to ``take``, each read's at once, until cancelled. Raises
        trio.EndOfChannel when the socket is gone."""
        ...

    async def send(self, *messages: str | bytes) -> None:
        """All in one write. Raises SlowPeer when the peer does not read, after which the socket is closed; and
        trio.BrokenResourceError or trio.ClosedResourceError when it is gone. Cancelled in mid-write, it closes too."""
        ...

    async def ping(self) -> None: ...

    def abort(self) -> None: ...

    def hold(self, is_held: bool) -> bool:
        """Read what has come at each ``look`` alone. Returns whether it does."""
        ...

    def look(self) -> None: ...


@asynccontextmanager
async def open_link(
    socket: LinkSocket,
    codec: Codec,
    form: AudioFormat,
    *,
    ticker: Ticker,
    on_bad: Callable[[str], None] = lambda _: None,
    on_late: Callable[[float], None] = lambda _: None,
    on_dry: Callable[[float], None] = lambda _: None,
    on_drop: Callable[[str, float], None] = lambda *_: None,
) -> AsyncIterator[Link]:
    """The line over a socket whose start message ``codec`` has decoded already.

    ``on_bad`` is told the kind of each unusable message; ``on_late`` how many seconds after its time audio that was
    held back had been written; ``on_dry`` for how long the provider had run out of it meanwhile; ``on_drop`` the
    seconds of audio that nobody will hear, with ``cleared`` or ``closed``. They must not wait.

    Left politely, the write under way is finished, for at most ``FINISH_S``; cancelled or left by an exception, it is
    broken off. Then nothing is sent any more, and what was still queued is dropped. The socket stays open. An exception
    of the block comes out as it is, in no group.
    """
    link = Link(socket, codec, form, ticker, on_bad, on_late, on_dry, on_drop)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.write)
        nursery.start_soon(link.probe)
        try:
            yield link
        except Exception as exc:  # noqa: BLE001 - raised again below, outside of the nursery that would group it
            failure = exc
            nursery.cancel_scope.cancel()
        else:
            nursery.cancel_scope.deadline = trio.current_time() + FINISH_S
        finally:
            link.stop()
    if failure is not None:
        raise failure


def _rest() -> None: ...


class Link:
    """A ``ProviderLink``. One task receives, one plays; ``mark`` and ``clear`` never wait."""

    def __init__(  # noqa: PLR0917 - made in one place, by open_link
        self,
        socket: LinkSocket,
        codec: Codec,
        form: AudioFormat,
        ticker: Ticker,
        on_bad: Callable[[str], None],
        on_late: Callable[[float], None],
        on_dry: Callable[[float], None],
        on_drop: Callable[[str, float], None],
    ) -> None:
        self.format = form
        self._socket = socket
        self._codec = codec
        self._ticker = ticker
        self._on_bad = on_bad
        self._on_late = on_late
        self._on_dry = on_dry
        self._on_drop = on_drop
        codec.on_gap = partial(on_bad, "gap")
        self._outbox = Outbox(codec, form)
        self._probe = Probe(socket.ping, self._deaf)
        self._cleared = trio.Event()
        self._bad_messages = 0
        self._has_stopped = False
        self._is_stopping = False
        self._wake = trio.Event()
        self._unlook: Callable[[], None] | None = None
        self._looks: Iterator[Callable[[], None]] = iter(())
        """What is done on each beat of a line that is looked at every few beats."""
        self._untick: Callable[[], None] | None = None
        self._writer_left = trio.Event()
        self._writer_failure: SlowPeer | None = None

    # --- what the caller sends ------------------------------------------------------------------------------

    async def receive(self) -> ProviderEvent:
        """The next event. A mark that the provider never echoes comes too, 2 s after its audio should have ended;
        one from before a ``clear`` does not.

        Raises trio.EndOfChannel when the socket is gone, SlowPeer when it went because the peer did not read, and
        ProtocolError when the socket cannot go on or more than ``MAX_BAD_MESSAGES`` were unusable.
        """
        while True:
            if (mark := self._overdue()) is not None:
                return mark
            try:
                message = await self._socket.receive()
            except trio.EndOfChannel:
                return await self._end()
            if (event := self._read(message)) is not None:
                return event

    async def deliver(self, take: Callable[[ProviderEvent], None]) -> None:
        """See the port. Marks that are never echoed come as with ``receive``. Raises as that does, and what ``take``
        raises."""
        delivery = _Delivery(self._read, self._overdue, take)
        with delivery.scope:
            try:
                await self._socket.pour(delivery.messages)
            except trio.EndOfChannel:
                await self._end()
                return
        if delivery.failure is not None:
            raise delivery.failure

    async def ping(self) -> None:
        """A WebSocket ping; returns on the pong. The caller sets the deadline."""
        await self._socket.ping()

    def pace(self, every_s: float) -> None:
        """See the port."""
        if self._unlook is not None:
            self._unlook()
            self._unlook = None
        if self._socket.hold(every_s > 0 and not self._is_stopping):
            self._looks = itertools.cycle([self._socket.look] + [_rest] * (round(every_s / FRAME_S) - 1))
            self._unlook = self._ticker.add(self._look)

    def _look(self, _due: float) -> None:
        next(self._looks)()

    def _read(self, message: str | bytes) -> ProviderEvent | None:
        """None for what is of no use. Raises ProtocolError."""
        try:
            event = self._codec.decode(message)
        except BadMessage as bad:
            self._count(bad)
            return None
        return self._confirmed(event.name) if type(event) is MarkPlayed else event

    def _overdue(self) -> MarkPlayed | None:
        name = self._outbox.overdue(trio.current_time())
        if name is None:
            return None
        self._probe.marks_given_up += 1
        return MarkPlayed(name)

    def _count(self, bad: BadMessage) -> None:
        self._bad_messages += 1
        self._on_bad(bad.kind)
        if self._bad_messages > MAX_BAD_MESSAGES:
            raise ProtocolError(TOO_MANY_UNUSABLE) from bad

    def _confirmed(self, wire_name: str) -> MarkPlayed | None:
        self._probe.marks_echoed += 1
        name = self._outbox.confirm(wire_name, trio.current_time())
        return None if name is None else MarkPlayed(name)

    async def _end(self) -> Stopped:
        if self._codec.ends_by_close and not self._has_stopped and self._socket.close_code in _CLEAN_CLOSES:
            self._has_stopped = True
            return Stopped()
        with trio.move_on_after(SETTLE_S):
            self.stop()
            await self._writer_left.wait()
        if self._writer_failure is not None:
            raise self._writer_failure from None
        if self._socket.slow:  # it was a ping that got stuck
            raise SlowPeer("the provider does not read") from None
        if self._socket.fault is not None:
            raise ProtocolError("the peer's bytes were refused") from None
        raise trio.EndOfChannel from None

    # --- what the caller hears ------------------------------------------------------------------------------

    async def play(self, audio: bytes) -> None:
        """Queue audio in the line's format; the last frame is filled up with silence.

        Waits while the line is ``AHEAD_S`` ahead of the ear. A ``clear`` ends the wait, and drops the rest of this
        audio as well. On a socket that is gone it waits for ever: ``receive`` tells. Safe to cancel.
        """
        generation = self._outbox.generation
        await trio.lowlevel.checkpoint()
        audio = self._whole_frames(audio)
        piece_bytes = round(PIECE_S * self.format.bytes_per_s)
        for start in range(0, len(audio), piece_bytes):
            piece = audio[start : start + piece_bytes]
            await self._wait_for_room(len(piece) / self.format.bytes_per_s)
            if generation != self._outbox.generation:
                return
            self._outbox.put_audio(piece)
            self._wake.set()

    def mark(self, name: str) -> None:
        """Ask for a MarkPlayed with this name once all queued before has been heard. Beyond ``playout.MAX_MARKS``
        the oldest is forgotten."""
        self._outbox.put_mark(name)
        self._wake.set()

    def clear(self) -> None:
        """Drop what is queued but not yet heard, here and at the provider, and the marks with it."""
        self._drop("cleared")
        now = trio.current_time()
        self._probe.marks_given_up += self._outbox.clock.late(now, LATE_MARK_S)
        self._outbox.clear(now)
        self._cleared.set()
        self._cleared = trio.Event()
        self._wake.set()

    def heard_s(self) -> float:
        """Seconds of all audio ever queued by ``play`` that the caller has heard by now: monotone."""
        return self._outbox.clock.heard(trio.current_time())

    def remaining_s(self) -> float:
        """Seconds of audio queued and not heard yet."""
        return self._outbox.remaining_s(trio.current_time())

    def stop(self) -> None:
        """Send nothing any more."""
        if not self._is_stopping:
            self._drop("closed")
        self._is_stopping = True
        self._probe.stop()
        self.pace(0.0)
        self._wake.set()

    def _drop(self, why: str) -> None:
        if (unheard_s := self.remaining_s()) > _EPSILON_S:
            self._on_drop(why, unheard_s)

    async def _wait_for_room(self, duration_s: float) -> None:
        while (excess_s := self.remaining_s() + duration_s - AHEAD_S) > _EPSILON_S:
            with trio.move_on_after(max(excess_s, FRAME_S)):
                await self._cleared.wait()
                return

    def _whole_frames(self, audio: bytes) -> bytes:
        missing = -len(audio) % self.format.frame_bytes
        return audio + self.format.silence(FRAME_S)[-missing:] if missing else audio

    # --- the writer -----------------------------------------------------------------------------------------

    async def write(self) -> None:
        """The one task that sends; runs until ``stop`` or until the socket is gone."""
        try:
            while not self._is_stopping:
                self._wake = trio.Event()
                messages = self._outbox.take(trio.current_time())
                self._follow_beat()
                due_at, dry_s = self._outbox.taken_due_at, self._outbox.taken_dry_s
                if messages:
                    await self._socket.send(*messages)
                    self._probe.fed()
                    if due_at is not None:
                        self._on_late(trio.current_time() - due_at)
                    if dry_s:
                        self._on_dry(dry_s)
                else:
                    await self._wake.wait()
        except SlowPeer as exc:
            self._writer_failure = exc
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the reader learns of it by itself
        finally:
            self._leave_beat()
            self._writer_left.set()

    async def probe(self) -> None:
        """Beside ``write``: finds out a peer that does not read, however much its kernel takes in."""
        await self._probe.run()

    def _deaf(self) -> None:
        self._writer_failure = SlowPeer("the provider does not answer what it is sent")
        self._socket.abort()

    def _follow_beat(self) -> None:
        """Only a line that holds something back is on the shared beat."""
        if not self._outbox:
            self._leave_beat()
        elif self._untick is None:
            self._untick = self._ticker.add(self._tick)

    def _leave_beat(self) -> None:
        if self._untick is not None:
            self._untick()
            self._untick = None

    def _tick(self, due: float) -> None:
        if due >= self._outbox.due_at:
            self._wake.set()


class _Delivery:
    """What is read of a socket on its way to whoever takes it, in the task that reads. ``scope`` is cancelled when
    nothing more is to come of it: the caller has hung up, or ``failure``."""

    def __init__(
        self,
        read: Callable[[str | bytes], ProviderEvent | None],
        overdue: Callable[[], MarkPlayed | None],
        take: Callable[[ProviderEvent], None],
    ) -> None:
        self.scope = trio.CancelScope()
        self.failure: Exception | None = None
        self._read = read
        self._overdue = overdue
        self._take = take

    def messages(self, messages: Sequence[str | bytes]) -> None:
        """Never raises."""
        if self.scope.cancel_called:
            return
        try:
            self._deliver(messages)
        except Exception as exc:  # noqa: BLE001 - raised again in the task that waits in the scope
            self.failure = exc
            self.scope.cancel()

    def _deliver(self, messages: Sequence[str | bytes]) -> None:
        read, take = self._read, self._take
        audio = b""
        while (mark := self._overdue()) is not None:
            take(mark)
        for message in messages:
            event = read(message)
            if type(event) is bytes:
                audio = audio + event if audio else event
                continue
            if audio:
                take(audio)
                audio = b""
            if isinstance(event, Stopped):
                self.scope.cancel()
                return
            if event is not None:
                take(event)
        if audio:
            take(audio)
