"""WebSocket frames at a fraction of wsproto's cost, given to trio-websocket as its ``ws_connection``.

A whole data frame, which is what a call sends fifty times a second, is parsed here, unmasked in C, and handed straight
to a :class:`Sink`. The rest (handshake, control frames, fragments) goes to wsproto frame by frame, so that its
strictness stays ours. Two things are stricter than there: a claimed length above the limit is refused when its header
is read, not waited for, and a peer that breaks the protocol is told so in a close frame.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Sequence
from typing import Protocol

from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    TextMessage,
)
from wsproto.utilities import RemoteProtocolError

HEAD_BYTES = 16 * 1024
"""Most bytes of the HTTP head of a handshake."""

_TEXT, _BINARY = 0x81, 0x82  # FIN set, no reserved bit
_OPCODES = frozenset({0x0, 0x1, 0x2, 0x8, 0x9, 0xA})
_REASONS = {1002: "protocol error", 1007: "not UTF-8", 1009: "message too big"}


class Sink(Protocol):
    """Where a connection puts what it reads. Called by the reader; neither waits nor raises."""

    def messages(self, messages: Sequence[str | bytes]) -> None:
        """At least one; all that one read has brought, as a rule."""
        ...

    def pong(self, payload: bytes) -> None: ...

    def end(self) -> None:
        """No message follows: the peer has closed, or broke the protocol."""
        ...


class LeanConnection(WSConnection):
    """A wsproto connection that keeps data messages to itself: they go to the sink, never through :meth:`events`.

    ``peer_code`` is the code of the peer's close frame (1005 if it named none). ``fault`` is 1002, 1007 or 1009 once
    the peer's bytes were refused; nothing after that is read. ``rejected`` is the status of a server that answered the
    handshake with anything but 101.
    """

    def __init__(self, kind: ConnectionType, sink: Sink, message_bytes: int) -> None:
        super().__init__(kind)
        self.peer_code: int | None = None
        self.fault: int | None = None
        self.rejected: int | None = None
        self._sink = sink
        self._limit = message_bytes
        self._mask_bit = 0 if self.client else 0x80
        self._head: bytearray | None = bytearray()  # None once the whole head has been passed on
        self._buffer = bytearray()
        self._pass_on = 0  # bytes of the current frame still owed to wsproto
        self._parts: list[str | bytes] = []  # of a fragmented message
        self._parts_bytes = 0
        self._in_message = False
        self._pending: deque[Event] = deque()
        self._answered = False  # the close frame that answers a fault has been made
        self._keys = b""

    # --- what trio-websocket calls ---

    @property
    def state(self) -> ConnectionState:
        if self.fault is None:
            return super().state
        # Makes trio-websocket answer a fault as it answers a close; wsproto itself leaves that to its user.
        return ConnectionState.CLOSED if self._answered else ConnectionState.REMOTE_CLOSING

    def send(self, event: Event) -> bytes:
        if self.fault is not None and isinstance(event, CloseConnection):
            self._answered = True
        return super().send(event)

    def receive_data(self, data: bytes | None) -> None:
        if data is None or self.fault is not None:
            return
        if self._head is not None:
            data = self._take_head(self._head, data)
        if self.connection is None:
            self._buffer += data  # the peer talks on before the handshake is over
        elif self._buffer:
            self._buffer += data
            done = self._parse(self._buffer)
            del self._buffer[:done]
        else:
            done = self._parse(data)
            if done < len(data):
                self._buffer += data[done:]

    def events(self) -> Generator[Event, None, None]:
        for event in self.handshake.events():
            if isinstance(event, RejectConnection):
                self.rejected = event.status_code
                yield RejectConnection(status_code=event.status_code, headers=event.headers, has_body=False)
            elif not isinstance(event, RejectData):
                yield event
        while self._pending:
            yield self._pending.popleft()

    # --- what our socket calls ---

    def take(self, data: bytes) -> bytes:
        """Give the sink the whole data frames at the front of what was just read. What is returned must go through
        :meth:`receive_data`: the first frame of any other kind, or that is not whole, and all behind it."""
        is_between_frames = not (self._buffer or self._pass_on or self._in_message)
        if self._head is not None or self.connection is None or not is_between_frames or not self._is_readable:
            return data
        messages: list[str | bytes] = []
        done = self._whole(data, messages)
        if messages:
            self._sink.messages(messages)
        return data[done:] if done else data

    def encode(self, message: str | bytes) -> bytes:
        """One unfragmented data frame. The caller has seen that the connection is open."""
        first, payload = (_TEXT, message.encode()) if isinstance(message, str) else (_BINARY, message)
        size = len(payload)
        # The mask bit of what we send is the opposite of what we want to receive.
        mask_bit = 0x80 ^ self._mask_bit
        if size < 126:
            header = bytes((first, mask_bit | size))
        elif size < 0x10000:
            header = bytes((first, mask_bit | 126, size >> 8, size & 0xFF))
        else:
            header = bytes((first, mask_bit | 127)) + size.to_bytes(8, "big")
        if not mask_bit:
            return header + payload
        if not self._keys:
            self._keys = os.urandom(256)  # unpredictable, as RFC 6455 wants it; one system call for 64 frames
        key, self._keys = self._keys[:4], self._keys[4:]
        return header + key + _masked(payload, key)

    # --- inside ---

    @property
    def _is_readable(self) -> bool:
        return self.fault is None and self.peer_code is None

    def _whole(self, data: bytes, messages: list[str | bytes]) -> int:
        """The messages in whole and usual data frames at the front, and how many bytes they take. All else is left."""
        at, end, mask_bit = 0, len(data), self._mask_bit
        while end - at >= 2:
            first, size, body_at = data[at], data[at + 1] ^ mask_bit, at + 2
            if size == 126 and end - at >= 4:
                size, body_at = data[at + 2] << 8 | data[at + 3], at + 4
                if size < 126:
                    break
            elif size > 125:
                break
            mask_at = body_at
            if mask_bit:
                body_at += 4
            stop = body_at + size
            if stop > end or size > self._limit:
                break
            payload = data[body_at:stop]
            if mask_bit:
                payload = _masked(payload, data[mask_at:body_at])
            if first == _TEXT:
                try:
                    messages.append(str(payload, "utf-8"))
                except UnicodeDecodeError:
                    break
            elif first == _BINARY:
                messages.append(payload)
            else:
                break
            at = stop
        return at

    def _take_head(self, head: bytearray, data: bytes) -> bytes:
        """Pass the handshake's head on once it is whole; what follows it is returned."""
        searched = max(0, len(head) - 3)
        head += data
        end = head.find(b"\r\n\r\n", searched) + 4
        if end < 4:
            if len(head) > HEAD_BYTES:
                raise RemoteProtocolError("handshake too long")
            return b""
        self._head = None
        super().receive_data(bytes(head[:end]))
        return bytes(head[end:])

    def _parse(self, data: bytes | bytearray) -> int:
        """Take whole frames off the front of ``data``; how many bytes were used up."""
        at, end = 0, len(data)
        while at < end:
            if not self._is_readable:
                return end
            if self._pass_on:
                piece = bytes(data[at : at + self._pass_on])
                at += len(piece)
                self._pass_on -= len(piece)
                self._feed(piece)
                continue
            body_at, size = self._header(data, at, end)
            if not body_at:
                break
            if self._pass_on or self.fault is not None:
                continue
            mask_bytes = 4 if self._mask_bit else 0
            if size > self._limit:
                self._fail(1009)
                continue
            stop = body_at + mask_bytes + size
            if stop > end:
                break
            payload = data[body_at + mask_bytes : stop]
            if mask_bytes:
                payload = _masked(payload, data[body_at : body_at + 4])
            if data[at] == _BINARY:
                self._sink.messages((bytes(payload),))
            else:
                try:
                    self._sink.messages((str(payload, "utf-8"),))
                except UnicodeDecodeError:
                    self._fail(1007)
            at = stop
        return at

    def _header(self, data: bytes | bytearray, at: int, end: int) -> tuple[int, int]:
        """Where the header at ``at`` ends (before the mask), and the payload's length; 0 if more bytes are needed.

        For a frame that is wsproto's, ``_pass_on`` is set; for a malformed one, ``fault``.
        """
        if end - at < 2:
            return 0, 0
        first, size = data[at], data[at + 1] ^ self._mask_bit
        if first not in (_TEXT, _BINARY) or self._in_message or size > 127:
            return self._rare_header(data, at, end)
        if size < 126:
            return at + 2, size
        return self._long_header(data, at, end, size)

    def _long_header(self, data: bytes | bytearray, at: int, end: int, size: int) -> tuple[int, int]:
        body_at, least = (at + 4, 126) if size == 126 else (at + 10, 0x10000)
        if body_at > end:
            return 0, 0
        size = int.from_bytes(data[at + 2 : body_at], "big")
        if size < least:
            self._fail(1002)
        return body_at, size

    def _rare_header(self, data: bytes | bytearray, at: int, end: int) -> tuple[int, int]:
        first, size = data[at], data[at + 1] ^ self._mask_bit
        opcode = first & 0x0F
        is_control = opcode >= 0x8
        if first & 0x70 or opcode not in _OPCODES or size > 127 or (is_control and (size > 125 or first < 0x80)):
            self._fail(1002)
            return at + 2, 0
        body_at = at + 2
        if size >= 126:
            body_at, size = self._long_header(data, at, end, size)
            if not body_at or self.fault is not None:
                return body_at, size
        if not is_control:
            self._parts_bytes += size
            if self._parts_bytes > self._limit:
                self._fail(1009)
                return body_at, 0
        self._pass_on = body_at - at + (4 if self._mask_bit else 0) + size
        return body_at, size

    def _feed(self, piece: bytes) -> None:
        """Some bytes of a frame that is wsproto's."""
        connection = self.connection
        if connection is None:  # not before the handshake is over
            return
        connection.receive_data(piece)
        for event in connection.events():
            if isinstance(event, TextMessage | BytesMessage):
                self._take_part(event)
            elif isinstance(event, CloseConnection):
                if connection.state in (ConnectionState.REMOTE_CLOSING, ConnectionState.CLOSED):
                    self.peer_code = int(event.code)
                    self._sink.end()
                    self._pending.append(event)
                else:
                    self._fail(int(event.code))  # how wsproto reports bytes it refuses
                return
            elif isinstance(event, Ping):
                # A pong after our own close frame would be an error of ours.
                if connection.state is ConnectionState.OPEN:
                    self._pending.append(event)
            elif isinstance(event, Pong):
                self._sink.pong(bytes(event.payload))

    def _take_part(self, event: TextMessage | BytesMessage) -> None:
        self._in_message = not event.message_finished
        self._parts.append(event.data if isinstance(event.data, str) else bytes(event.data))
        if event.message_finished:
            empty: str | bytes = "" if isinstance(event, TextMessage) else b""
            whole = empty.join(self._parts)  # type: ignore[arg-type]  # all parts are of the event's kind
            self._sink.messages((whole,))
            self._parts, self._parts_bytes = [], 0

    def _fail(self, code: int) -> None:
        self.fault = code
        self._parts = []
        self._buffer.clear()
        self._answered = super().state is not ConnectionState.OPEN
        self._sink.end()
        self._pending.append(CloseConnection(code=code, reason=_REASONS.get(code, "protocol error")))


def _masked(payload: bytes | bytearray, key: bytes | bytearray) -> bytes:
    """XOR with the repeated key, as two big integers: in C, and several times as fast as slices."""
    size = len(payload)
    mask = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(mask, "little")).to_bytes(size, "little")
