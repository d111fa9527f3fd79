"""Plivo's wire: what it may say, what strangers say instead, and that we write only what it accepts."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.providers.plivo.codec import PlivoCodec, decode_value, encode_value
from engine.errors import BadMessage, ProtocolError
from engine.events import MULAW_8K, Cleared, Dtmf, MarkPlayed, Stopped, StreamStarted
from engine.ports import Codec

STREAM, CALL = "87654321-4321-4321-4321-cba987654321", "12345678-1234-1234-1234-123456789abc"
MULAW = {"encoding": "audio/x-mulaw", "sampleRate": 8000}
TOKEN = "t0-ken_é"


def start_message(**changes: Any) -> dict[str, Any]:
    start = {"callId": CALL, "streamId": STREAM, "accountId": "MA1", "tracks": ["inbound"], "mediaFormat": MULAW}
    headers = f"token={encode_value(TOKEN)};tenant=t1"
    message = {"sequenceNumber": 0, "event": "start", "start": start, "extra_headers": headers}
    for name, value in changes.items():
        (message if name in message else start)[name] = value
    return message


def started() -> PlivoCodec:
    codec = PlivoCodec()
    assert codec.decode_start(json.dumps(start_message()))
    return codec


def b64(audio: bytes) -> str:
    return base64.b64encode(audio).decode()


def media(payload: str | None = None, **changes: Any) -> str:
    audio = b64(bytes(160)) if payload is None else payload
    message: dict[str, Any] = {
        "sequenceNumber": 1,
        "event": "media",
        "media": {"track": "inbound", "chunk": 1, "timestamp": "1764000000000", "payload": audio},
        "streamId": STREAM,
        "extra_headers": "{}",
    }
    for name, value in changes.items():
        (message if name in message else message["media"])[name] = value
    return json.dumps(message)


def test_it_is_a_codec() -> None:
    codec: Codec = PlivoCodec()
    assert not codec.paced
    assert not codec.ends_by_close


# --- the start --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        f"token={encode_value(TOKEN)};tenant=t1",
        f"token={encode_value(TOKEN)}, tenant=t1",
        f"{{X-PH-token={encode_value(TOKEN)}; x-ph-tenant=t1}}",
        json.dumps({"token": encode_value(TOKEN), "tenant": "t1"}),
        json.dumps({"X-PH-token": encode_value(TOKEN), "X-PH-tenant": "t1"}),
        {"token": encode_value(TOKEN), "tenant": "t1"},
    ],
)
def test_the_start_is_understood_however_its_headers_are_written(headers: object) -> None:
    stream = PlivoCodec().decode_start(json.dumps(start_message(extra_headers=headers)))
    assert stream == StreamStarted(CALL, STREAM, MULAW_8K, TOKEN, {"tenant": "t1"})


@pytest.mark.parametrize("headers", ["", "{}", "token=zz;x", "token=", "=;=;;", "token=ff"])
def test_headers_without_a_token_of_ours_give_none(headers: str) -> None:
    assert PlivoCodec().decode_start(json.dumps(start_message(extra_headers=headers))).token == ""


@given(st.text(max_size=80).filter(lambda text: not re.search("[\ud800-\udfff]", text)))
def test_a_token_comes_through_as_letters_and_digits_alone(token: str) -> None:
    assert re.fullmatch("[0-9a-z]*", encode_value(token))
    assert decode_value(encode_value(token)) == token


@pytest.mark.parametrize(
    "message",
    [
        media(),
        json.dumps({"event": "connected"}),
        json.dumps({"event": "stop"}),
        json.dumps(start_message(streamId="../../etc/passwd")),
        json.dumps(start_message(callId="a/b")),
        json.dumps(start_message(callId=None)),
        json.dumps(start_message(callId="x" * 100_000)),
        json.dumps(start_message(mediaFormat={"encoding": "audio/x-l16", "sampleRate": 8000})),
        json.dumps(start_message(mediaFormat={**MULAW, "sampleRate": 16000})),
        json.dumps(start_message(mediaFormat=None)),
        json.dumps(start_message(extra_headers={"token": ["a"]})),
        json.dumps(start_message(extra_headers=["token"])),
        json.dumps(start_message(extra_headers="token=" + "x" * 100_000)),
        json.dumps(start_message(extra_headers=";".join(f"k{n}=v" for n in range(1000)))),
        json.dumps({"event": "start", "start": None}),
        "[]",
        "{}",
        "",
        "[" * 100_000,
        b"\0" * 160,
    ],
)
def test_anything_else_before_the_start_ends_the_socket(message: str | bytes) -> None:
    with pytest.raises(ProtocolError):
        PlivoCodec().decode_start(message)


def test_a_second_start_ends_the_socket() -> None:
    with pytest.raises(ProtocolError):
        started().decode(json.dumps(start_message()))


# --- the stream -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "event"),
    [
        ({"event": "playedStream", "streamId": STREAM, "name": "cp1"}, MarkPlayed("cp1")),
        ({"event": "clearedAudio", "streamId": STREAM}, Cleared()),
        (
            {"event": "dtmf", "streamId": STREAM, "dtmf": {"track": "inbound", "digit": "1", "timestamp": "1"}},
            Dtmf("1"),
        ),
        ({"event": "stop"}, Stopped()),
        ({"event": "invented-next-year"}, None),
    ],
)
def test_the_rarer_events(message: dict[str, Any], event: object) -> None:
    assert started().decode(json.dumps(message)) == event


def test_repeats_are_dropped_and_gaps_are_not_and_numbers_may_be_strings() -> None:
    codec = started()
    decoded = [codec.decode(media(chunk=chunk)) for chunk in (1, "2", 2, 1, 9, "10", 100_000, 1, 2)]
    assert [audio is not None for audio in decoded] == [True, True, False, False, True, True, True, True, True]


def test_the_other_side_of_the_call_is_not_taken_for_the_caller() -> None:
    assert started().decode(media(track="outbound")) is None


def test_a_complaint_is_logged_without_its_reason_and_not_for_ever() -> None:
    codec = started()
    with structlog.testing.capture_logs() as logs:
        for event in ["playFailed", "error"] * 20:
            assert codec.decode(json.dumps({"event": event, "reason": "the words of a caller"})) is None
    assert 0 < len(logs) < 10
    assert "words" not in str(logs)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (b"\0" * 160, "type"),
        ("no json", "json"),
        ("[" * 100_000, "json"),
        ("[]", "shape"),
        ("{}", "shape"),
        ('{"event":["media"]}', "shape"),
        (media(streamId="another"), "stream"),
        (json.dumps({"event": "stop", "streamId": "another"}), "stream"),
        (media(media=None), "shape"),
        (media(chunk="x"), "shape"),
        (media(chunk=1.5), "shape"),
        (media("%%%%"), "base64"),
        (media(""), "length"),
        (media(b64(bytes(159))), "length"),
        (media(b64(bytes(256 * 1024))), "length"),
        (json.dumps({"event": "playedStream", "name": 5}), "shape"),
        (json.dumps({"event": "playedStream"}), "shape"),
        (json.dumps({"event": "dtmf", "dtmf": {"digit": "12"}}), "shape"),
    ],
)
def test_an_unusable_message_is_named_by_its_kind(message: str | bytes, kind: str) -> None:
    codec = started()
    with pytest.raises(BadMessage) as caught:
        codec.decode(message)
    assert caught.value.kind == kind
    assert codec.decode(media()) == bytes(160), "and the call goes on"


# --- what we write ----------------------------------------------------------------------------------------------


def test_we_write_the_fields_that_plivo_accepts_and_no_others() -> None:
    codec = started()
    assert json.loads(codec.encode_audio(b"\1" * 320)) == {
        "event": "playAudio",
        "media": {"contentType": "audio/x-mulaw", "sampleRate": 8000, "payload": b64(b"\1" * 320)},
    }
    assert json.loads(codec.encode_mark('"x"')) == {"event": "checkpoint", "streamId": STREAM, "name": '"x"'}
    assert json.loads(codec.encode_clear()) == {"event": "clearAudio", "streamId": STREAM}


# --- any bytes at all -------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
nearly_plivo = st.fixed_dictionaries(
    {"event": st.sampled_from(["start", "media", "dtmf", "playedStream", "clearedAudio", "stop", "error"])},
    optional={
        "streamId": st.just(STREAM) | json_values,
        "extra_headers": st.text(max_size=30) | json_values,
        "name": json_values,
        "dtmf": json_values,
        "media": st.fixed_dictionaries(
            {}, optional={"payload": st.just(b64(bytes(160))) | json_values, "chunk": st.integers() | json_values}
        )
        | json_values,
        "start": st.fixed_dictionaries(
            {},
            optional={
                "callId": st.just(CALL) | json_values,
                "streamId": st.just(STREAM) | json_values,
                "mediaFormat": st.just(MULAW) | json_values,
            },
        )
        | json_values,
    },
)
anything = st.text(max_size=60) | st.binary(max_size=60) | json_values.map(json.dumps) | nearly_plivo.map(json.dumps)


@given(messages=st.lists(anything, max_size=12))
@settings(max_examples=60, deadline=None)
def test_any_message_gives_a_value_or_one_of_the_two_errors(messages: list[str | bytes]) -> None:
    codec = started()
    with structlog.testing.capture_logs():
        for message in messages:
            try:
                event = codec.decode(message)
            except (BadMessage, ProtocolError):
                continue
            assert event is None or isinstance(event, bytes | Dtmf | MarkPlayed | Cleared | Stopped)
            if isinstance(event, bytes):
                assert event
                assert len(event) % 160 == 0


@given(message=anything)
@settings(max_examples=80, deadline=None)
def test_any_first_message_gives_a_stream_or_ends_the_socket(message: str | bytes) -> None:
    try:
        stream = PlivoCodec().decode_start(message)
    except ProtocolError:
        return
    assert re.fullmatch(r"[A-Za-z0-9_-]+", stream.call_id)
