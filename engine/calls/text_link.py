"""The text line of one call: words to a provider that speaks them itself, and what it heard.

Only the writer task sends. The socket belongs to whoever accepted it and is closed there, never here. How long words
take to say is estimated, and put right by providers that tell what they have said.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from engine.dialogue.heard import CHARS_PER_S
from engine.errors import TOO_MANY_UNUSABLE, BadMessage, ProtocolError, SlowPeer
from engine.events import CutOff, RelayEvent, Speaking, Stopped, TextPlayed
from engine.ports import TextCodec
from engine.runtime.background import beside
from engine.runtime.sockets import Socket

MAX_BAD_MESSAGES: Final = 20
"""Unusable messages that a call survives."""
MAX_WAITING: Final = 1000
"""Messages to be written; a provider that is so far behind does not read."""
FINISH_S: Final = 0.3
"""How long leaving the link politely waits for what is still to be written."""
SETTLE_S: Final = 0.1
"""How long the end of the socket waits for the writer to say whether the peer had stopped reading."""
_CLEAN_CLOSES: Final = frozenset({1000, 1001, 1005})


class TextLink:
    """One task receives; nothing else waits. Made by :func:`open_text_link`."""

    def __init__(self, socket: Socket, codec: TextCodec, on_bad: Callable[[str], None]) -> None:
        self.said_s = 0.0
        """Seconds of all that was ever sent."""
        self.changed = trio.Event()
        """Set, and replaced, when ``remaining_s`` did not just run down."""
        self._socket = socket
        self._codec = codec
        self._on_bad = on_bad
        self._bad_messages = 0
        self._has_stopped = False
        self.says_until_s = -math.inf
        """When all that was sent has been said, about."""
        self._unplayed_chars = 0
        self._is_in_utterance = False
        self._waiting: deque[str] = deque()
        self._wake = trio.Event()
        self._is_stopping = False
        self._writer_left = trio.Event()
        self._failure: SlowPeer | None = None

    # --- what comes -----------------------------------------------------------------------------------------

    async def receive(self) -> RelayEvent:
        """The next event. Raises trio.EndOfChannel when the socket is gone, SlowPeer when it went because the peer did
        not read, ProtocolError when it cannot go on or more than ``MAX_BAD_MESSAGES`` were unusable."""
        while True:
            try:
                message = await self._socket.receive()
            except trio.EndOfChannel:
                return await self._end()
            try:
                event = self._codec.decode(message)
            except BadMessage as bad:
                self._bad_messages += 1
                self._on_bad(bad.kind)
                if self._bad_messages > MAX_BAD_MESSAGES:
                    raise ProtocolError(TOO_MANY_UNUSABLE) from bad
                continue
            match event:
                case TextPlayed(text):
                    self._was_played(text)
                case Speaking(is_agent=True, is_on=is_on):
                    self._speaks(is_on=is_on)
                case CutOff():
                    self._was_cut()
                case None:
                    continue
            return event

    async def ping(self) -> None:
        """A WebSocket ping; returns on the pong. The caller sets the deadline."""
        await self._socket.ping()

    async def _end(self) -> Stopped:
        if self._codec.ends_by_close and not self._has_stopped and self._socket.close_code in _CLEAN_CLOSES:
            self._has_stopped = True
            return Stopped()
        with trio.move_on_after(SETTLE_S):
            self.stop()
            await self._writer_left.wait()
        if self._failure is not None:
            raise self._failure from None
        if self._socket.fault is not None:
            raise ProtocolError("the peer's bytes were refused") from None
        raise trio.EndOfChannel from None

    # --- what is said ---------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """A piece of an utterance, with its spaces. It is said right away, behind what was sent before."""
        if text:
            self._put(self._codec.encode_text(text, is_last=False))
            self._is_in_utterance = True
            seconds = self.seconds_of(text)
            self.said_s += seconds
            if not self.remaining_s():
                self._unplayed_chars = 0
            self._unplayed_chars += len(text)
            self.says_until_s = max(self.says_until_s, trio.current_time()) + seconds

    @staticmethod
    def seconds_of(text: str) -> float:
        """How long it takes to say, about."""
        return len(text) / CHARS_PER_S

    def end_utterance(self) -> None:
        """What comes next is another one. Harmless between two."""
        if self._is_in_utterance:
            self._is_in_utterance = False
            self._put(self._codec.encode_text("", is_last=True))

    def press(self, digits: str) -> None:
        """Key tones into the call."""
        self._put(self._codec.encode_digits(digits))

    def hang_up(self) -> None:
        """End the call, once what was sent before has been said."""
        self.end_utterance()
        self._put(self._codec.encode_end())

    def remaining_s(self) -> float:
        """Seconds until all that was sent has been said, about."""
        return max(0.0, self.says_until_s - trio.current_time())

    async def until_said(self) -> None:
        """Until all that was sent has been said, or cut off."""
        while (left_s := self.remaining_s()) > 0:
            with trio.move_on_after(left_s):
                await self.changed.wait()

    def stop(self) -> None:
        """Write what waits, and then no more."""
        self._is_stopping = True
        self._wake.set()

    def _was_played(self, text: str) -> None:
        self._unplayed_chars = max(0, self._unplayed_chars - len(text))
        self.says_until_s = trio.current_time() + self._unplayed_chars / CHARS_PER_S
        self._change()

    def _speaks(self, *, is_on: bool) -> None:
        """It begins to speak what it was sent some time ago; or it has spoken all of it that it had."""
        if not is_on:
            self._unplayed_chars = 0
        self.says_until_s = trio.current_time() + self._unplayed_chars / CHARS_PER_S
        self._change()

    def _was_cut(self) -> None:
        self._unplayed_chars = 0
        self.says_until_s = -math.inf
        self._change()

    def _change(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    def _put(self, message: str) -> None:
        if self._is_stopping:
            return
        if len(self._waiting) >= MAX_WAITING:
            self._failure = SlowPeer("the provider does not read")
            self._socket.abort()
            return
        self._waiting.append(message)
        self._wake.set()

    # --- the writer -----------------------------------------------------------------------------------------

    async def write(self) -> None:
        """The one task that sends; runs until ``stop`` or until the socket is gone."""
        try:
            while self._waiting or not self._is_stopping:
                self._wake = trio.Event()
                messages = tuple(self._waiting)
                self._waiting.clear()
                if messages:
                    await self._socket.send(*messages)
                else:
                    await self._wake.wait()
        except SlowPeer as exc:
            self._failure = exc
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the reader learns of it by itself
        finally:
            self._writer_left.set()

    async def finish(self) -> None:
        """Until all that waits has been written, for at most ``FINISH_S``."""
        self.stop()
        with trio.move_on_after(FINISH_S):
            await self._writer_left.wait()


@asynccontextmanager
async def open_text_link(
    socket: Socket, codec: TextCodec, *, on_bad: Callable[[str], None] = lambda _: None
) -> AsyncIterator[TextLink]:
    """The line over a socket whose start message ``codec`` has decoded already. ``on_bad`` is told the kind of each
    unusable message.

    Left politely, what waits is written, for at most ``FINISH_S``; cancelled or left by an exception, it is dropped.
    The socket stays open. An exception of the block comes out as it is, in no group.
    """
    link = TextLink(socket, codec, on_bad)
    async with beside(link.write):
        yield link
        await link.finish()
