"""What is Plivo's own of its wire; the rest is in ../test_json_codecs.py."""

from __future__ import annotations

import json
import re

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from adapters.providers.plivo.codec import PlivoCodec, decode_value, encode_value
from engine.errors import ProtocolError
from engine.events import MULAW_8K, Cleared, Dtmf, MarkPlayed, Stopped, StreamStarted
from tests.adapters.providers.test_json_codecs import CALL, DIALECTS, STREAM, b64

PLIVO = DIALECTS["plivo"]
TOKEN = "t0-ken_é"


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
    stream = PlivoCodec().decode_start(PLIVO.start(parameters=headers))
    assert stream == StreamStarted(CALL, STREAM, MULAW_8K, TOKEN, {"tenant": "t1"})


@pytest.mark.parametrize("headers", ["", "{}", "token=zz;x", "token=", "=;=;;", "token=ff"])
def test_headers_without_a_token_of_ours_give_none(headers: str) -> None:
    stream = PlivoCodec().decode_start(PLIVO.start(parameters=headers))
    assert stream
    assert stream.token == ""


@pytest.mark.parametrize("headers", ["token=" + "x" * 100_000, ";".join(f"k{n}=v" for n in range(1000))])
def test_headers_that_are_too_many_or_too_long_end_the_socket(headers: str) -> None:
    with pytest.raises(ProtocolError):
        PlivoCodec().decode_start(PLIVO.start(parameters=headers))


@given(st.text(max_size=80).filter(lambda text: not re.search("[\ud800-\udfff]", text)))
def test_a_token_comes_through_as_letters_and_digits_alone(token: str) -> None:
    assert re.fullmatch("[0-9a-z]*", encode_value(token))
    assert decode_value(encode_value(token)) == token


def test_what_names_no_stream_is_of_this_one() -> None:
    codec = PLIVO.started()
    message = json.loads(PLIVO.media())
    del message["streamId"]
    assert codec.decode(json.dumps(message)) == bytes(160)
    assert codec.decode('{"event":"playedStream","name":"cp1"}') == MarkPlayed("cp1")
    assert codec.decode('{"event":"clearedAudio"}') == Cleared()
    assert codec.decode('{"event":"dtmf","dtmf":{"digit":"1"}}') == Dtmf("1")
    assert codec.decode('{"event":"stop"}') == Stopped()


def test_repeats_are_dropped_and_gaps_are_not_and_numbers_may_be_strings() -> None:
    codec = PLIVO.started()
    decoded = [codec.decode(PLIVO.media(chunk=chunk)) for chunk in (1, "2", 2, 1, 9, "10", 100_000, 1, 2)]
    assert [audio is not None for audio in decoded] == [True, True, False, False, True, True, True, True, True]


def test_a_complaint_is_logged_without_its_reason_and_not_for_ever() -> None:
    codec = PLIVO.started()
    with structlog.testing.capture_logs() as logs:
        for event in ["playFailed", "error"] * 20:
            assert codec.decode(PLIVO.of(event, reason="the words of a caller")) is None
    assert 0 < len(logs) < 10
    assert "words" not in str(logs)


def test_we_write_the_fields_that_plivo_accepts_and_no_others() -> None:
    codec = PLIVO.started()
    assert json.loads(codec.encode_audio(b"\1" * 320)) == {
        "event": "playAudio",
        "media": {"contentType": "audio/x-mulaw", "sampleRate": 8000, "payload": b64(b"\1" * 320)},
    }
    assert json.loads(codec.encode_mark('"x"')) == {"event": "checkpoint", "streamId": STREAM, "name": '"x"'}
    assert json.loads(codec.encode_clear()) == {"event": "clearAudio", "streamId": STREAM}


def test_a_start_that_tells_no_rate_is_of_the_only_one_there_is() -> None:
    stream = PlivoCodec().decode_start(PLIVO.start(form={"encoding": "audio/x-mulaw"}))
    assert stream
    assert stream.format == MULAW_8K
