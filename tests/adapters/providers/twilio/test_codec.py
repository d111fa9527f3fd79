"""Twilio's wire: what it may say, what strangers say instead, and that we write only what it accepts."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.providers.twilio.codec import TwilioCodec
from engine.errors import BadMessage, ProtocolError
from engine.events import MULAW_8K, Cleared, Dtmf, MarkPlayed, Stopped, StreamStarted
from engine.ports import Codec

STREAM, CALL = "MZ" + "a" * 32, "CA" + "b" * 32
MULAW = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}


def start_message(**changes: Any) -> dict[str, Any]:
    start = {
        "accountSid": "AC" + "c" * 32,
        "streamSid": STREAM,
        "callSid": CALL,
        "tracks": ["inbound"],
        "mediaFormat": MULAW,
        "customParameters": {"token": "t0ken", "tenant": "t1"},
    }
    message = {"event": "start", "sequenceNumber": "1", "streamSid": STREAM, "start": start}
    for name, value in changes.items():
        (message if name in message else start)[name] = value
    return message


def started() -> TwilioCodec:
    codec = TwilioCodec()
    assert codec.decode_start(json.dumps(start_message()))
    return codec


def media(payload: str | None = None, **changes: Any) -> str:
    audio = base64.b64encode(bytes(160)).decode() if payload is None else payload
    message = {
        "event": "media",
        "sequenceNumber": "2",
        "streamSid": STREAM,
        "media": {"track": "inbound", "chunk": "1", "timestamp": "0", "payload": audio},
    }
    for name, value in changes.items():
        if name in message:
            message[name] = value
        else:
            message["media"][name] = value  # type: ignore[index] # a plain nested dict
    return json.dumps(message)


def b64(audio: bytes) -> str:
    return base64.b64encode(audio).decode()


def test_it_is_a_codec() -> None:
    codec: Codec = TwilioCodec()
    assert not codec.paced
    assert not codec.ends_by_close


# --- the start --------------------------------------------------------------------------------------------------


def test_connected_and_start_make_the_stream_and_the_token_is_set_apart() -> None:
    codec = TwilioCodec()
    assert codec.decode_start('{"event":"connected","protocol":"Call","version":"1.0.0"}') is None
    assert codec.decode_start(json.dumps(start_message())) == StreamStarted(
        CALL, STREAM, MULAW_8K, "t0ken", {"tenant": "t1"}
    )


def test_a_start_without_parameters_has_no_token() -> None:
    message = start_message()
    del message["start"]["customParameters"]
    stream = TwilioCodec().decode_start(json.dumps(message))
    assert stream
    assert stream.token == ""


@pytest.mark.parametrize(
    "message",
    [
        media(),
        json.dumps({"event": "stop", "streamSid": STREAM, "stop": {"callSid": CALL}}),
        json.dumps({"event": "mark", "streamSid": STREAM, "mark": {"name": "m"}}),
        json.dumps(start_message(streamSid="../../etc/passwd")),
        json.dumps(start_message(callSid="CA%2f")),
        json.dumps(start_message(callSid=None)),
        json.dumps(start_message(callSid="x" * 100_000)),
        json.dumps(start_message(mediaFormat={**MULAW, "encoding": "audio/x-l16"})),
        json.dumps(start_message(mediaFormat={**MULAW, "sampleRate": 16000})),
        json.dumps(start_message(mediaFormat={**MULAW, "channels": 2})),
        json.dumps(start_message(mediaFormat=None)),
        json.dumps(start_message(customParameters={"token": ["a"]})),
        json.dumps(start_message(customParameters={"token": "x" * 100_000})),
        json.dumps(start_message(customParameters={str(number): "" for number in range(1000)})),
        json.dumps(start_message(customParameters=[])),
        json.dumps({"event": "start", "streamSid": STREAM, "start": None}),
        json.dumps({"event": ["start"]}),
        "[]",
        "null",
        "{}",
        "",
        "GET / HTTP/1.1",
        "[" * 100_000,
        '{"event":' * 50_000,
        b"\0" * 160,
        b'{"event":"connected"}',
    ],
)
def test_anything_else_before_the_start_ends_the_socket(message: str | bytes) -> None:
    with pytest.raises(ProtocolError):
        TwilioCodec().decode_start(message)


def test_a_start_whose_two_stream_ids_differ_ends_the_socket() -> None:
    message = start_message()
    message["start"]["streamSid"] = "MZother"
    with pytest.raises(ProtocolError):
        TwilioCodec().decode_start(json.dumps(message))


def test_a_second_start_ends_the_socket() -> None:
    with pytest.raises(ProtocolError):
        started().decode(json.dumps(start_message()))


# --- the stream -------------------------------------------------------------------------------------------------


def test_media_is_the_audio_itself() -> None:
    assert started().decode(media(b64(b"\x7f" * 160))) == b"\x7f" * 160


@pytest.mark.parametrize(
    ("message", "event"),
    [
        ({"event": "mark", "mark": {"name": "u42"}}, MarkPlayed("u42")),
        ({"event": "dtmf", "dtmf": {"track": "inbound_track", "digit": "#"}}, Dtmf("#")),
        ({"event": "stop", "stop": {"accountSid": "AC", "callSid": CALL}}, Stopped()),
        ({"event": "invented-next-year"}, None),
    ],
)
def test_the_rarer_events(message: dict[str, Any], event: object) -> None:
    assert started().decode(json.dumps({"sequenceNumber": "7", "streamSid": STREAM, **message})) == event


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (b"\0" * 160, "type"),
        ("no json", "json"),
        ("NaN", "json"),
        ("[" * 100_000, "json"),
        ('{"a":' * 100_000, "json"),
        ("\ud800", "json"),
        ("[]", "shape"),
        ("null", "shape"),
        ("{}", "shape"),
        ('{"event":["media"]}', "shape"),
        ('{"event":null}', "shape"),
        (json.dumps({"event": "connected"}), "type"),
        (media(streamSid="MZother"), "stream"),
        (media(streamSid=None), "stream"),
        (json.dumps({"event": "stop", "streamSid": "MZother"}), "stream"),
        (json.dumps({"event": "stop", "streamSid": STREAM, "stop": {"callSid": "CAother"}}), "stream"),
        (json.dumps({"event": "invented"}), "stream"),
        (media(media=None), "shape"),
        (media(media=[]), "shape"),
        (media(media={}), "shape"),
        (media(payload=None, sequenceNumber="NaN"), "shape"),
        (media(sequenceNumber="9" * 5000), "shape"),
        (media(sequenceNumber=1.5), "shape"),
        (media(sequenceNumber=True), "shape"),
        (media("%%%%"), "base64"),
        (media("QUJ"), "base64"),
        (media("QUJD\nQUJD"), "base64"),
        (media("ÄÖÜß"), "base64"),
        (media("="), "base64"),
        (media(""), "length"),
        (media(b64(b"\0")), "length"),
        (media(b64(bytes(159))), "length"),
        (media(b64(bytes(256 * 1024))), "length"),
        (json.dumps({"event": "mark", "streamSid": STREAM, "mark": {"name": 5}}), "shape"),
        (json.dumps({"event": "mark", "streamSid": STREAM, "mark": {"name": "x" * 10_000}}), "shape"),
        (json.dumps({"event": "mark", "streamSid": STREAM}), "shape"),
        (json.dumps({"event": "dtmf", "streamSid": STREAM, "dtmf": {"digit": "12"}}), "shape"),
        (json.dumps({"event": "dtmf", "streamSid": STREAM, "dtmf": {"digit": "x"}}), "shape"),
        (json.dumps({"event": "dtmf", "streamSid": STREAM, "dtmf": None}), "shape"),
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


def test_payload_of_another_type_is_a_bad_shape() -> None:
    for payload in (5, None, ["QUJD"], {"a": 1}):
        message = json.loads(media())
        message["media"]["payload"] = payload
        with pytest.raises(BadMessage, match="shape"):
            started().decode(json.dumps(message))


def test_repeats_are_dropped_and_gaps_are_not() -> None:
    codec = started()
    decoded = [codec.decode(media(sequenceNumber=str(n), chunk=str(n))) for n in (2, 3, 3, 2, 9, 10)]
    assert [audio is not None for audio in decoded] == [True, True, False, False, True, True]


def test_a_peer_whose_sequence_number_stands_still_is_heard_by_its_chunks() -> None:
    codec = started()
    decoded = [codec.decode(media(chunk=str(chunk))) for chunk in (1, 2, 2, 3)]
    assert [audio is not None for audio in decoded] == [True, True, False, True]
    with pytest.raises(BadMessage, match="shape"):
        codec.decode(media(chunk="x"))
    assert codec.decode(media(chunk="4"))


def test_a_peer_that_begins_to_count_anew_is_still_heard() -> None:
    codec = started()
    assert codec.decode(media(sequenceNumber="1000000", chunk="1000000"))
    assert codec.decode(media(sequenceNumber="2", chunk="1"))
    assert codec.decode(media(sequenceNumber="3", chunk="2"))
    assert codec.decode(media(sequenceNumber="3", chunk="2")) is None


def test_a_peer_that_does_not_count_at_all_is_still_heard() -> None:
    codec, message = started(), json.loads(media())
    del message["sequenceNumber"]
    assert codec.decode(json.dumps(message)) == bytes(160)
    assert codec.decode(json.dumps(message)) == bytes(160)


# --- what we write ----------------------------------------------------------------------------------------------


def test_we_write_the_fields_that_twilio_accepts_and_no_others() -> None:
    codec = started()
    assert json.loads(codec.encode_audio(b"\1" * 320)) == {
        "event": "media",
        "streamSid": STREAM,
        "media": {"payload": b64(b"\1" * 320)},
    }
    assert json.loads(codec.encode_mark('"x"')) == {"event": "mark", "streamSid": STREAM, "mark": {"name": '"x"'}}
    assert json.loads(codec.encode_clear()) == {"event": "clear", "streamSid": STREAM}


@given(audio=st.binary(min_size=1, max_size=50).map(lambda piece: piece * 160))
@settings(max_examples=50, deadline=None)
def test_audio_that_we_write_and_a_peer_sends_back_is_the_same(audio: bytes) -> None:
    payload = json.loads(started().encode_audio(audio))["media"]["payload"]
    assert started().decode(media(payload)) == audio


# --- any bytes at all -------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
nearly_twilio = st.fixed_dictionaries(
    {"event": st.sampled_from(["connected", "start", "media", "mark", "dtmf", "stop"]) | json_values},
    optional={
        "streamSid": st.just(STREAM) | json_values,
        "sequenceNumber": st.integers().map(str) | json_values,
        "media": st.fixed_dictionaries({}, optional={"payload": json_values, "chunk": json_values}) | json_values,
        "mark": json_values,
        "dtmf": json_values,
        "stop": json_values,
        "start": st.fixed_dictionaries(
            {},
            optional={
                "callSid": st.just(CALL) | json_values,
                "streamSid": st.just(STREAM) | json_values,
                "mediaFormat": st.just(MULAW) | json_values,
                "customParameters": json_values,
            },
        )
        | json_values,
    },
)
anything = st.text(max_size=60) | st.binary(max_size=60) | json_values.map(json.dumps) | nearly_twilio.map(json.dumps)


@given(message=anything)
@settings(max_examples=100, deadline=None)
def test_any_message_gives_a_value_or_one_of_the_two_errors(message: str | bytes) -> None:
    try:
        event = started().decode(message)
    except (BadMessage, ProtocolError):
        return
    assert event is None or isinstance(event, bytes | Dtmf | MarkPlayed | Cleared | Stopped)
    if isinstance(event, bytes):
        assert event
        assert len(event) % 160 == 0


@given(message=anything)
@settings(max_examples=100, deadline=None)
def test_any_first_message_gives_a_stream_or_nothing_or_ends_the_socket(message: str | bytes) -> None:
    try:
        stream = TwilioCodec().decode_start(message)
    except ProtocolError:
        return
    assert stream is None or stream.call_id == CALL or re.fullmatch(r"[A-Za-z0-9_-]+", stream.call_id)
