"""The lean codec says what wsproto says, for any frames in any pieces."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Message, Ping, Pong, Request, TextMessage

from engine.runtime.frames import LeanConnection
from tests.fakes.hostile import frame, upgrade_request

LIMIT = 65536


class Notes:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.said: list[object] = []
        self.ended = False

    def messages(self, messages: Sequence[str | bytes]) -> None:
        assert not self.ended
        self.said.extend(messages)

    def pong(self, payload: bytes) -> None:
        self.said.append(("pong", payload))

    def end(self) -> None:
        self.ended = True


def by_lean(pieces: list[bytes], *, is_short_cut: bool = False) -> tuple[list[object], int | None]:
    notes = Notes()
    codec = LeanConnection(ConnectionType.SERVER, notes, LIMIT)
    codec.receive_data(upgrade_request())
    assert [type(event) for event in codec.events()] == [Request]
    codec.send(AcceptConnection())
    for piece in pieces:
        if rest := codec.take(piece) if is_short_cut else piece:
            codec.receive_data(rest)
        for event in codec.events():
            if isinstance(event, Ping):
                notes.said.append(("ping", bytes(event.payload)))
            elif isinstance(event, CloseConnection):
                codec.send(event.response())
                assert codec.state is ConnectionState.CLOSED
                assert notes.ended
                return notes.said, int(event.code)
    return notes.said, None


def by_wsproto(pieces: list[bytes]) -> tuple[list[object], int | None]:
    said: list[object] = []
    parts: list[str | bytes] = []
    codec = WSConnection(ConnectionType.SERVER)
    codec.receive_data(upgrade_request())
    list(codec.events())
    codec.send(AcceptConnection())
    for piece in pieces:
        codec.receive_data(piece)
        for event in codec.events():
            if isinstance(event, Message):
                parts.append(event.data)
                if event.message_finished:
                    whole = "" if isinstance(event, TextMessage) else b""
                    said.append(whole.join(parts))  # type: ignore[arg-type]  # of one kind
                    parts = []
                assert isinstance(event, TextMessage | BytesMessage)
            elif isinstance(event, Ping):
                said.append(("ping", bytes(event.payload)))
            elif isinstance(event, Pong):
                said.append(("pong", bytes(event.payload)))
            elif isinstance(event, CloseConnection):
                return said, int(event.code)
    return said, None


def in_order(said: list[object]) -> list[object]:
    """Messages, then pongs, then pings: messages and pongs are told at once, pings with the read's other events."""
    return sorted(said, key=lambda item: {"pong": 1, "ping": 2}[item[0]] if isinstance(item, tuple) else 0)


payloads = st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode), st.just(b"x" * 40_000))
sane = st.builds(frame, st.sampled_from([1, 2, 9, 10]), st.text(max_size=40).map(str.encode))
wild = st.builds(
    frame,
    st.sampled_from([0, 1, 2, 8, 9, 10, 3, 15]),
    payloads,
    fin=st.booleans(),
    rsv=st.sampled_from([0, 0, 0, 4]),
    masked=st.sampled_from([True, True, True, False]),
)
fragmented = st.lists(st.text(max_size=20).map(str.encode), min_size=1, max_size=4).map(
    lambda parts: b"".join(frame(1 if n == 0 else 0, part, fin=n == len(parts) - 1) for n, part in enumerate(parts))
)


@settings(max_examples=40, deadline=None)
@given(
    frames=st.lists(st.one_of(sane, sane, fragmented, wild), max_size=6),
    cuts=st.lists(st.integers(1, 400), min_size=1, max_size=8),
    is_short_cut=st.booleans(),
)
def test_any_frames_in_any_pieces_read_as_wsproto_reads_them(
    frames: list[bytes], cuts: list[int], is_short_cut: bool
) -> None:
    data = b"".join(frames)
    pieces, at = [], 0
    for n in range(len(data)):
        size = cuts[n % len(cuts)] if len(data) - at < 5000 else 4096
        pieces.append(data[at : at + size])
        at += size
        if at >= len(data):
            break
    said, code = by_lean(pieces, is_short_cut=is_short_cut)
    expected, expected_code = by_wsproto(pieces)
    said, expected = in_order(said), in_order(expected)
    if code == 1009:  # wsproto knows no limit
        assert all(item in expected for item in said)
    elif code is not None and expected_code is None:
        # wsproto waits for the whole length before it looks at the rest of a header
        assert code == 1002
    else:
        assert (said, code) == (expected, expected_code)


_INNER = b"\x81\x85\0\0\0\0inner"


@pytest.mark.parametrize(
    "pieces",
    [
        [b"\x82\x8b\0\0\0\0", _INNER],
        [frame(9, b"")[:1], frame(9, b"")[1:] + frame(1, b"behind")],
        [frame(1, b"a", fin=False), frame(1, b"b")],
        [frame(1, b"a") + frame(8, b"\x03\xe8") + frame(1, b"after the close")],
        [frame(1, b"\xff"), frame(1, b"after the fault")],
    ],
    ids=["a frame in a frame", "a ping in two", "in the middle of a message", "behind a close", "behind a fault"],
)
def test_no_cut_makes_the_short_way_read_anything_else(pieces: list[bytes]) -> None:
    assert by_lean(pieces, is_short_cut=True) == by_lean(pieces)


@settings(max_examples=50, deadline=None)
@given(messages=st.lists(st.one_of(st.text(max_size=200), payloads), min_size=1, max_size=5))
def test_what_a_client_encodes_a_server_reads(messages: list[str | bytes]) -> None:
    client = LeanConnection(ConnectionType.CLIENT, Notes(), LIMIT)
    assert by_lean([client.encode(message) for message in messages]) == (messages, None)


def test_masks_differ_from_frame_to_frame() -> None:
    client = LeanConnection(ConnectionType.CLIENT, Notes(), LIMIT)
    assert len({client.encode(b"")[2:6] for _ in range(500)}) == 500
