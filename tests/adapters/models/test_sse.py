"""The parser of server-sent events, by examples and against every way of cutting a stream."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.models.sse import ServerEvent, SseParser
from engine.errors import BadMessage


def parse(*pieces: bytes, limit: int = 1000) -> list[ServerEvent]:
    parser = SseParser(limit)
    return [event for piece in pieces for event in parser.feed(piece)] + parser.end()


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\ndata: b\n\n", [("message", "a"), ("message", "b")]),
        (b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", [("message", "a"), ("message", "b"), ("message", "c")]),
        (b"data: a\r\ndata: b\r\n\r\n", [("message", "a\nb")]),
        (b": a comment\n\n:\n\ndata: a\n\n", [("message", "a")]),
        (b"event: ping\ndata: {}\n\n", [("ping", "{}")]),
        (b"data: a\nevent: late\nid: 7\nretry: 3\nunknown: x\n\n", [("late", "a")]),
        (b"data: a\ndata:  b\ndata\n\n", [("message", "a\n b\n")]),
        (b"data:a", [("message", "a")]),
        (b"data: a\n", [("message", "a")]),
        (b"event: lonely\n\ndata: a\n\n", [("message", "a")]),
        (b"\xef\xbb\xbfdata: a\n\n", [("message", "a")]),
        (b"data: \xff\n\n", [("message", "\ufffd")]),
        (b"data: \xe2\x82", [("message", "\ufffd")]),
        (b"data: a\x0bb\xc2\x85c\xe2\x80\xa8d\n\n", [("message", "a\x0bb\x85c\u2028d")]),
        (b"", []),
        (b"\n\n\r\n", []),
    ],
)
def test_a_stream_is_read_the_same_however_it_is_cut(stream: bytes, events: list[tuple[str, str]]) -> None:
    wanted = [ServerEvent(*event) for event in events]
    assert parse(stream) == wanted
    assert parse(*(stream[at : at + 1] for at in range(len(stream)))) == wanted
    for cut in range(len(stream)):
        assert parse(stream[:cut], b"", stream[cut:]) == wanted


@given(st.binary(max_size=80), st.lists(st.integers(0, 80), max_size=5))
def test_any_bytes_are_read_the_same_however_they_are_cut(stream: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(stream)]
    assert parse(*(stream[a:b] for a, b in pairwise(places))) == parse(stream)


@given(
    st.lists(st.text(st.characters(blacklist_characters="\r\n", blacklist_categories=["Cs"]), max_size=10), min_size=1)
)
def test_what_was_written_is_read(lines: list[str]) -> None:
    stream = "".join(f"data: {line}\n" for line in lines) + "\n"
    assert parse(stream.encode()) == [ServerEvent("message", "\n".join(lines))]


@pytest.mark.parametrize("stream", [b"data: " + b"x" * 1000, b"x" * 1001, b"data: xxxxxxxxx\n" * 101])
def test_what_is_too_long_is_refused(stream: bytes) -> None:
    with pytest.raises(BadMessage, match="length"):
        parse(*(stream[at : at + 7] for at in range(0, len(stream), 7)))


def test_a_line_may_be_as_long_as_the_limit() -> None:
    assert parse(b"data: " + b"x" * 994 + b"\n\n") == [ServerEvent("message", "x" * 994)]
