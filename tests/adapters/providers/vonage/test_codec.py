"""Vonage's wire: binary frames of exactly 20 ms, text for the rest, and what strangers send instead."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.providers.vonage.codec import VonageCodec
from engine.errors import BadMessage, ProtocolError
from engine.events import PCM16_8K, PCM16_16K, PCM16_24K, AudioFormat, Cleared, Dtmf, MarkPlayed, Stopped, StreamStarted
from engine.ports import Codec

CALL = "63f61863-4a51-4f6b-86e1-46edebcf9356"


def connected(rate: int = 16000, content_type: str | None = "audio/l16", **changes: Any) -> str:
    message = {
        "event": "websocket:connected",
        "content-type": content_type and f"{content_type};rate={rate}",
        "call_id": CALL,
        "token": "t0ken",
        **changes,
    }
    return json.dumps({name: value for name, value in message.items() if value is not None})


def started(rate: int = 16000) -> VonageCodec:
    codec = VonageCodec()
    codec.decode_start(connected(rate))
    return codec


def test_it_is_a_codec_whose_clean_close_is_a_hang_up() -> None:
    codec: Codec = VonageCodec()
    assert codec.paced
    assert codec.ends_by_close


@pytest.mark.parametrize(
    ("rate", "audio_format", "frame_bytes"), [(8000, PCM16_8K, 320), (16000, PCM16_16K, 640), (24000, PCM16_24K, 960)]
)
def test_the_first_message_tells_the_call_the_token_and_the_rate(
    rate: int, audio_format: AudioFormat, frame_bytes: int
) -> None:
    codec = VonageCodec()
    assert codec.decode_start(connected(rate, tenant="t1")) == StreamStarted(
        CALL, CALL, audio_format, "t0ken", {"tenant": "t1"}
    )
    assert codec.decode(bytes(frame_bytes)) == bytes(frame_bytes)
    assert codec.encode_audio(bytes(frame_bytes)) == bytes(frame_bytes)


def test_headers_that_are_no_strings_are_not_ours_and_do_no_harm() -> None:
    stream = VonageCodec().decode_start(connected(version=2, nested={"a": 1}))
    assert stream.parameters == {}


@pytest.mark.parametrize(
    "message",
    [
        bytes(640),
        b"",
        "",
        "hello",
        "[]",
        "[" * 100_000,
        '{"event":"websocket:cleared"}',
        '{"event":"websocket:dtmf","digit":"5"}',
        connected(event="connected"),
        connected(44100),
        connected(content_type="audio/x-mulaw"),
        connected(content_type=None),
        connected(call_id=None),
        connected(call_id="../x"),
        connected(call_id=["a"]),
        connected(token="x" * 100_000),
        connected(**dict.fromkeys(map(str, range(1000)), "")),  # type: ignore[arg-type] # none of them is `rate`
    ],
)
def test_anything_else_as_the_first_message_ends_the_socket(message: str | bytes) -> None:
    with pytest.raises(ProtocolError):
        VonageCodec().decode_start(message)


def test_a_second_connected_ends_the_socket() -> None:
    with pytest.raises(ProtocolError):
        started().decode(connected())


@pytest.mark.parametrize(
    ("message", "event"),
    [
        ('{"event":"websocket:dtmf","digit":"5","duration":260}', Dtmf("5")),
        ('{"event":"websocket:dtmf","dtmf":{"digit":"*"}}', Dtmf("*")),
        ('{"event":"websocket:cleared"}', Cleared()),
        ('{"event":"websocket:notify","payload":{"mark":"u42"}}', MarkPlayed("u42")),
        ('{"event":"websocket:notify","payload":{"id":"of somebody else"}}', None),
        ('{"event":"websocket:invented"}', None),
    ],
)
def test_the_text_events(message: str, event: object) -> None:
    assert started().decode(message) == event


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (b"", "length"),
        (b"\0", "length"),
        (bytes(639), "length"),
        (bytes(320), "length"),
        (bytes(64000), "length"),
        ("junk", "json"),
        ("[" * 100_000, "json"),
        ('"text"', "shape"),
        ("{}", "shape"),
        ('{"event":5}', "shape"),
        ('{"event":"media"}', "type"),
        ('{"event":"websocket:dtmf"}', "shape"),
        ('{"event":"websocket:dtmf","digit":"55"}', "shape"),
        ('{"event":"websocket:dtmf","dtmf":{"digit":5}}', "shape"),
        ('{"event":"websocket:notify"}', "shape"),
        ('{"event":"websocket:notify","payload":{"mark":5}}', "shape"),
        (json.dumps({"event": "websocket:notify", "payload": {"mark": "x" * 1000}}), "shape"),
    ],
)
def test_an_unusable_message_is_named_by_its_kind(message: str | bytes, kind: str) -> None:
    codec = started()
    with pytest.raises(BadMessage) as caught:
        codec.decode(message)
    assert caught.value.kind == kind
    assert codec.decode(bytes(640)) == bytes(640), "and the call goes on"


def test_frames_that_are_not_exactly_20_ms_are_never_written() -> None:
    for size in (0, 320, 639, 1280):
        with pytest.raises(ValueError, match="20 ms"):
            started().encode_audio(bytes(size))


def test_clear_and_notify_are_written_as_vonage_reads_them() -> None:
    assert json.loads(started().encode_clear()) == {"action": "clear"}
    assert json.loads(started().encode_mark("u42")) == {"action": "notify", "payload": {"mark": "u42"}}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
nearly_vonage = st.fixed_dictionaries(
    {
        "event": st.sampled_from(["connected", "dtmf", "notify", "cleared"]).map("websocket:".__add__) | json_values,
    },
    optional={
        "content-type": st.just("audio/l16;rate=8000") | json_values,
        "call_id": st.just(CALL) | json_values,
        "token": json_values,
        "digit": json_values,
        "dtmf": json_values,
        "payload": st.fixed_dictionaries({}, optional={"mark": json_values}) | json_values,
    },
)
anything = st.text(max_size=60) | st.binary(max_size=700) | json_values.map(json.dumps) | nearly_vonage.map(json.dumps)


@given(message=anything)
@settings(max_examples=50, deadline=None)
def test_any_message_gives_a_value_or_one_of_the_two_errors(message: str | bytes) -> None:
    try:
        event = started().decode(message)
    except (BadMessage, ProtocolError):
        return
    assert event is None or isinstance(event, bytes | Dtmf | MarkPlayed | Cleared | Stopped)
    if isinstance(event, bytes):
        assert event
        assert len(event) % 640 == 0


@given(message=anything)
@settings(max_examples=50, deadline=None)
def test_any_first_message_gives_a_stream_or_ends_the_socket(message: str | bytes) -> None:
    try:
        stream = VonageCodec().decode_start(message)
    except ProtocolError:
        return
    assert stream.call_id
