"""The phone speaks as the providers do, and takes from an engine only what they take."""

from __future__ import annotations

import base64
import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twilio.request_validator import RequestValidator  # type: ignore[import-untyped]  # ships no types
from vonage_jwt import verify_signature  # type: ignore[import-untyped]  # ships no types

from engine.events import PCM16_16K
from engine.phone import vonage
from engine.phone.errors import CallFailed, CallRefused
from engine.phone.side import Callee, Clear, Mark, Play
from engine.phone.twilio import TwilioSide, read_twiml, sign
from engine.phone.vonage import VonageSide, read_ncco

SIDE = TwilioSide(Callee("http://engine"))
SID = SIDE.stream_id
AUDIO = base64.b64encode(b"\x10" * 160).decode()


def read(message: Any) -> tuple[object, str]:
    violations: Counter[str] = Counter()
    text = message if isinstance(message, str | bytes) else json.dumps(message)
    command = SIDE.read(text, lambda what: violations.update([what]))
    return command, ", ".join(violations)


def test_twilio_takes_media_marks_and_clear() -> None:
    assert read({"event": "media", "streamSid": SID, "media": {"payload": AUDIO}}) == (Play(b"\x10" * 160), "")
    assert read({"event": "mark", "streamSid": SID, "mark": {"name": "m1"}}) == (Mark("m1"), "")
    assert read({"event": "clear", "streamSid": SID}) == (Clear(), "")


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b"\x00", "a binary message"),
        ("{", "not JSON"),
        ("[]", "not an object"),
        ({"event": "stop", "streamSid": SID}, "unknown event"),
        ({"event": "clear"}, "missing field streamSid"),
        ({"event": "clear", "streamSid": SID, "sequenceNumber": "1"}, "extra field sequenceNumber"),
        ({"event": "clear", "streamSid": "MZ0"}, "wrong streamSid"),
        ({"event": "media", "streamSid": SID, "media": {"payload": "%%"}}, "payload is not base64"),
        ({"event": "media", "streamSid": SID, "media": {"payload": ""}}, "empty payload"),
        ({"event": "media", "streamSid": SID, "media": {"payload": AUDIO, "track": "x"}}, "extra field track"),
        ({"event": "media", "streamSid": SID, "media": {"payload": "UklGRgAA"}}, "payload has a WAV header"),
        ({"event": "mark", "streamSid": SID, "mark": {}}, "missing field name"),
        ({"event": "mark", "streamSid": SID, "mark": {"name": 1}}, "mark name is not a string"),
    ],
)
def test_twilio_warns_of_anything_else_and_ignores_it(message: Any, why: str) -> None:
    assert read(message) == (None, f"31951: {why}")


@given(st.one_of(st.text(), st.binary(), st.recursive(st.none() | st.text(), st.lists).map(json.dumps)))
def test_no_message_of_an_engine_stops_the_phone(message: str | bytes) -> None:
    assert read(message)[0] is None
    VonageSide(Callee("http://engine")).read(message, lambda _: None)


@pytest.mark.proves("official client", adapter="twilio")
def test_the_signature_is_twilios() -> None:
    form = {"CallSid": "CA1", "From": "+1500", "To": "ü"}
    assert RequestValidator("key").validate("http://engine/voice", form, sign("key", "http://engine/voice", form))


@pytest.mark.proves("official client", adapter="vonage")
def test_the_token_is_vonages() -> None:
    headers = vonage.signed(Callee("http://engine", secret="a" * 32), b"{}")
    assert verify_signature(headers["Authorization"].removeprefix("Bearer "), "a" * 32)
    assert not verify_signature(headers["Authorization"].removeprefix("Bearer "), "b" * 32)


def test_twilio_counts_and_stamps_its_messages_as_strings() -> None:
    side = TwilioSide(Callee("http://engine"))
    connected, start = map(json.loads, side.opening())
    assert connected == {"event": "connected", "protocol": "Call", "version": "1.0.0"}
    assert start["start"]["mediaFormat"] == {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
    media = [json.loads(side.media(b"\xff" * 160)) for _ in range(2)]
    assert [message["sequenceNumber"] for message in media] == ["2", "3"]
    assert [message["media"]["chunk"] for message in media] == ["1", "2"]
    assert [message["media"]["timestamp"] for message in media] == ["0", "20"]
    assert json.loads(side.dtmf("5"))["dtmf"] == {"track": "inbound_track", "digit": "5"}
    assert [json.loads(str(message))["mark"]["name"] for message in side.cleared(["a", "b"])] == ["a", "b"]


def test_twiml_that_connects_gives_address_and_parameters() -> None:
    stream = '<Stream url="wss://h/media"><Parameter name="token" value="t"/></Stream>'
    assert read_twiml(f"<Response><Connect>{stream}</Connect></Response>".encode()) == (
        "wss://h/media",
        {"token": "t"},
    )


@pytest.mark.parametrize(
    "inside",
    [
        "",
        '<Stream url="https://h/media"/>',
        '<Stream url="wss://h/media?token=t"/>',
        '<Stream url="wss://h/media" track="both_tracks"/>',
        '<Stream url="wss://h/media"><Token/></Stream>',
        f'<Stream url="wss://h/media"><Parameter name="t" value="{"x" * 500}"/></Stream>',
    ],
)
def test_twiml_that_twilio_would_not_run_is_a_failed_call(inside: str) -> None:
    with pytest.raises(CallFailed):
        read_twiml(f"<Response><Connect>{inside}</Connect></Response>".encode())


@pytest.mark.parametrize("document", [b"", b"<Answer/>", b"<!DOCTYPE x><Response/>", b"<Response><Dial/></Response>"])
def test_an_answer_that_is_no_twiml_is_a_failed_call(document: bytes) -> None:
    with pytest.raises(CallFailed):
        read_twiml(document)


def test_a_refusal_carries_its_sentence() -> None:
    with pytest.raises(CallRefused) as twilio_refusal:
        read_twiml(b"<Response><Say>We are full.</Say><Hangup/></Response>")
    with pytest.raises(CallRefused) as vonage_refusal:
        read_ncco(b'[{"action":"talk","text":"We are full."}]')
    assert twilio_refusal.value.sentence == vonage_refusal.value.sentence == "We are full."


def ncco(**changes: object) -> bytes:
    endpoint = {"type": "websocket", "uri": "wss://h/vg", "content-type": "audio/l16;rate=16000"} | changes
    return json.dumps([{"action": "connect", "from": "1500", "endpoint": [endpoint]}]).encode()


def test_an_ncco_that_connects_gives_its_endpoint() -> None:
    assert read_ncco(ncco(headers={"token": "t"}))["headers"] == {"token": "t"}


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "phone"},
        {"uri": "https://h"},
        {"content-type": "audio/l16;rate=44100"},
        {"headers": {"token": "t" * 600}},
        {"authorization": {"type": "custom"}},
        {"color": "red"},
    ],
)
def test_an_ncco_that_vonage_would_not_run_is_a_failed_call(changes: dict[str, object]) -> None:
    with pytest.raises(CallFailed):
        read_ncco(ncco(**changes))


def test_vonage_takes_frames_of_20_ms_clear_and_notify_alone() -> None:
    side, violations = VonageSide(Callee("http://engine")), list[str]()
    assert side.format == PCM16_16K
    assert side.read(b"\1" * 640, violations.append) == Play(b"\1" * 640)
    assert side.read('{"action":"clear"}', violations.append) == Clear()
    notify = side.read('{"action":"notify","payload":{"id":"u1"}}', violations.append)
    assert isinstance(notify, Mark)
    assert json.loads(side.mark_played(notify.key)) == {"event": "websocket:notify", "payload": {"id": "u1"}}
    assert not violations
    for wrong in (b"\1" * 320, '{"action":"stop"}', '{"action":"notify","payload":"u1"}'):
        assert side.read(wrong, violations.append) is None
    assert len(violations) == 3
    assert vonage.BUFFERED_MESSAGES == 3072
