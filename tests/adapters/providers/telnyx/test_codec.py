"""Telnyx' wire: what it may say, what strangers say instead, and that we write only what it accepts."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.providers.telnyx.codec import TelnyxCodec
from engine.errors import BadMessage, ProtocolError
from engine.events import MULAW_8K, Cleared, Dtmf, MarkPlayed, Stopped, StreamStarted
from engine.ports import Codec

STREAM, CALL = "32DE0DEA-53CB-4B21-89A4-9E1819C043BC", "v3:9X2vxPDFY2RHSJ1EdMS0RHRksMTg7ldNxdjWbVr9zBjbGjGsSe-aiQ"
MULAW = {"encoding": "PCMU", "sample_rate": 8000, "channels": 1}


def start_message(**changes: Any) -> dict[str, Any]:
    start = {
        "user_id": "u1",
        "call_control_id": CALL,
        "call_session_id": "s1",
        "from": "+15550001111",
        "to": "+15550002222",
        "client_state": "",
        "custom_parameters": {"token": "t0ken", "tenant": "t1"},
        "media_format": MULAW,
    }
    message = {"event": "start", "sequence_number": "1", "stream_id": STREAM, "start": start}
    for name, value in changes.items():
        (message if name in message else start)[name] = value
    return message


def started() -> TelnyxCodec:
    codec = TelnyxCodec()
    assert codec.decode_start(json.dumps(start_message()))
    return codec


def b64(audio: bytes) -> str:
    return base64.b64encode(audio).decode()


def media(payload: str | None = None, **changes: Any) -> str:
    audio = b64(bytes(160)) if payload is None else payload
    message: dict[str, Any] = {
        "event": "media",
        "sequence_number": "4",
        "stream_id": STREAM,
        "media": {"track": "inbound", "chunk": "1", "timestamp": "5", "payload": audio},
    }
    for name, value in changes.items():
        (message if name in message else message["media"])[name] = value
    return json.dumps(message)


def test_it_is_a_codec() -> None:
    codec: Codec = TelnyxCodec()
    assert not codec.paced
    assert not codec.ends_by_close


# --- the start --------------------------------------------------------------------------------------------------


def test_connected_and_start_make_the_stream_and_the_token_is_set_apart() -> None:
    codec = TelnyxCodec()
    assert codec.decode_start('{"event":"connected","version":"1.0.0"}') is None
    assert codec.decode_start(json.dumps(start_message())) == StreamStarted(
        CALL, STREAM, MULAW_8K, "t0ken", {"tenant": "t1"}
    )


def test_the_other_spellings_of_its_documents_are_understood() -> None:
    message = start_message()
    start = message["start"]
    start["customParameters"] = start.pop("custom_parameters")
    start["mediaFormat"] = {"encoding": "audio/x-mulaw", "sampleRate": "8000"}
    del start["media_format"]
    stream = TelnyxCodec().decode_start(json.dumps(message))
    assert stream == StreamStarted(CALL, STREAM, MULAW_8K, "t0ken", {"tenant": "t1"})


@pytest.mark.parametrize(
    "message",
    [
        media(),
        json.dumps({"event": "stop", "stream_id": STREAM}),
        json.dumps(start_message(stream_id="../../etc/passwd")),
        json.dumps(start_message(call_control_id="v3/x")),
        json.dumps(start_message(call_control_id=None)),
        json.dumps(start_message(call_control_id="x" * 100_000)),
        json.dumps(start_message(media_format={**MULAW, "encoding": "L16"})),
        json.dumps(start_message(media_format={**MULAW, "sample_rate": 16000})),
        json.dumps(start_message(media_format={**MULAW, "channels": 2})),
        json.dumps(start_message(media_format=None)),
        json.dumps(start_message(custom_parameters={"token": ["a"]})),
        json.dumps(start_message(custom_parameters={str(number): "" for number in range(1000)})),
        json.dumps({"event": "start", "stream_id": STREAM, "start": None}),
        json.dumps({"event": ["start"]}),
        "[]",
        "{}",
        "",
        "[" * 100_000,
        b"\0" * 160,
    ],
)
def test_anything_else_before_the_start_ends_the_socket(message: str | bytes) -> None:
    with pytest.raises(ProtocolError):
        TelnyxCodec().decode_start(message)


def test_a_second_start_ends_the_socket() -> None:
    with pytest.raises(ProtocolError):
        started().decode(json.dumps(start_message()))


# --- the stream -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "event"),
    [
        ({"event": "mark", "mark": {"name": "u42"}}, MarkPlayed("u42")),
        ({"event": "dtmf", "occurred_at": "2026-11-21T00:00:00Z", "dtmf": {"digit": "#"}}, Dtmf("#")),
        ({"event": "stop", "stop": {"user_id": "u1", "call_control_id": CALL}}, Stopped()),
        ({"event": "invented-next-year"}, None),
    ],
)
def test_the_rarer_events(message: dict[str, Any], event: object) -> None:
    assert started().decode(json.dumps({"sequence_number": "7", "stream_id": STREAM, **message})) == event


def test_audio_that_overtakes_other_audio_is_heard_behind_it() -> None:
    codec = started()
    chunks = [(1, b"\2"), (3, b"\4"), (2, b"\3"), (4, b"\5")]
    decoded = [codec.decode(media(b64(audio * 160), chunk=str(chunk))) for chunk, audio in chunks]
    assert decoded == [b"\2" * 160, None, b"\3" * 160 + b"\4" * 160, b"\5" * 160]


def test_a_peer_that_does_not_count_is_still_heard() -> None:
    codec, message = started(), json.loads(media())
    del message["media"]["chunk"]
    assert codec.decode(json.dumps(message)) == codec.decode(json.dumps(message)) == bytes(160)


def test_a_complaint_is_logged_by_its_code_alone_and_not_for_ever() -> None:
    codec = started()
    payload = {"code": 100003, "title": "malformed_frame", "detail": "the words of a caller"}
    with structlog.testing.capture_logs() as logs:
        for _ in range(50):
            assert codec.decode(json.dumps({"event": "error", "stream_id": STREAM, "payload": payload})) is None
    assert 0 < len(logs) < 10
    assert logs[0]["code"] == 100003
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
        (json.dumps({"event": "connected"}), "type"),
        (media(stream_id="another"), "stream"),
        (json.dumps({"event": "stop", "stream_id": "another"}), "stream"),
        (json.dumps({"event": "stop", "stream_id": STREAM, "stop": {"call_control_id": "v3:x"}}), "stream"),
        (media(media=None), "shape"),
        (media(media={}), "shape"),
        (media(chunk="x"), "shape"),
        (media(chunk=-1), "shape"),
        (media(chunk=True), "shape"),
        (media(chunk="9" * 5000), "shape"),
        (media("%%%%"), "base64"),
        (media("QUJD\nQUJD"), "base64"),
        (media(""), "length"),
        (media(b64(bytes(159))), "length"),
        (media(b64(bytes(256 * 1024))), "length"),
        (json.dumps({"event": "mark", "stream_id": STREAM, "mark": {"name": 5}}), "shape"),
        (json.dumps({"event": "mark", "stream_id": STREAM}), "shape"),
        (json.dumps({"event": "dtmf", "stream_id": STREAM, "dtmf": {"digit": "12"}}), "shape"),
    ],
)
def test_an_unusable_message_is_named_by_its_kind(message: str | bytes, kind: str) -> None:
    codec = started()
    with pytest.raises(BadMessage) as caught:
        codec.decode(message)
    assert caught.value.kind == kind
    assert codec.decode(media()) == bytes(160), "and the call goes on"


def test_the_other_side_of_the_call_is_not_taken_for_the_caller() -> None:
    assert started().decode(media(track="outbound")) is None


# --- what we write ----------------------------------------------------------------------------------------------


def test_we_write_the_fields_that_telnyx_accepts_and_no_others() -> None:
    codec = started()
    assert json.loads(codec.encode_audio(b"\1" * 320)) == {"event": "media", "media": {"payload": b64(b"\1" * 320)}}
    assert json.loads(codec.encode_mark('"x"')) == {"event": "mark", "mark": {"name": '"x"'}}
    assert json.loads(codec.encode_clear()) == {"event": "clear"}


# --- any bytes at all -------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
nearly_telnyx = st.fixed_dictionaries(
    {"event": st.sampled_from(["connected", "start", "media", "mark", "dtmf", "stop", "error"]) | json_values},
    optional={
        "stream_id": st.just(STREAM) | json_values,
        "sequence_number": json_values,
        "media": st.fixed_dictionaries(
            {},
            optional={"payload": st.just(b64(bytes(160))) | json_values, "chunk": st.integers(-9, 999) | json_values},
        )
        | json_values,
        "mark": json_values,
        "dtmf": json_values,
        "stop": json_values,
        "payload": json_values,
        "start": st.fixed_dictionaries(
            {},
            optional={
                "call_control_id": st.just(CALL) | json_values,
                "media_format": st.just(MULAW) | json_values,
                "custom_parameters": json_values,
            },
        )
        | json_values,
    },
)
anything = st.text(max_size=60) | st.binary(max_size=60) | json_values.map(json.dumps) | nearly_telnyx.map(json.dumps)


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
def test_any_first_message_gives_a_stream_or_nothing_or_ends_the_socket(message: str | bytes) -> None:
    try:
        stream = TelnyxCodec().decode_start(message)
    except ProtocolError:
        return
    assert stream is None or re.fullmatch(r"[A-Za-z0-9_:-]+", stream.call_id)
