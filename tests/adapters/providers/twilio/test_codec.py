"""What is Twilio's own of its wire; the rest is in ../test_json_codecs.py."""

from __future__ import annotations

import json

import pytest

from adapters.providers.twilio.codec import TwilioCodec
from engine.errors import BadMessage, ProtocolError
from tests.adapters.providers.test_json_codecs import DIALECTS, STREAM, b64

TWILIO = DIALECTS["twilio"]


def media(number: object, chunk: object) -> str:
    return TWILIO.media(sequenceNumber=number, chunk=chunk)


def test_a_start_whose_two_stream_ids_differ_ends_the_socket() -> None:
    message = json.loads(TWILIO.start())
    message["start"]["streamSid"] = "MZother"
    with pytest.raises(ProtocolError):
        TwilioCodec().decode_start(json.dumps(message))


def test_repeats_are_dropped_and_gaps_are_not() -> None:
    codec = TWILIO.started()
    decoded = [codec.decode(media(str(n), str(n))) for n in (2, 3, 3, 2, 9, 10)]
    assert [audio is not None for audio in decoded] == [True, True, False, False, True, True]


def test_a_peer_whose_sequence_number_stands_still_is_heard_by_its_chunks() -> None:
    codec = TWILIO.started()
    decoded = [codec.decode(media("2", str(chunk))) for chunk in (1, 2, 2, 3)]
    assert [audio is not None for audio in decoded] == [True, True, False, True]
    with pytest.raises(BadMessage, match="shape"):
        codec.decode(media("2", "x"))
    assert codec.decode(media("2", "4"))


def test_a_peer_that_begins_to_count_anew_is_still_heard() -> None:
    codec = TWILIO.started()
    assert codec.decode(media("1000000", "1000000"))
    assert codec.decode(media("2", "1"))
    assert codec.decode(media("3", "2"))
    assert codec.decode(media("3", "2")) is None


def test_we_write_the_fields_that_twilio_accepts_and_no_others() -> None:
    codec = TWILIO.started()
    assert json.loads(codec.encode_audio(b"\1" * 320)) == {
        "event": "media",
        "streamSid": STREAM,
        "media": {"payload": b64(b"\1" * 320)},
    }
    assert json.loads(codec.encode_mark('"x"')) == {"event": "mark", "streamSid": STREAM, "mark": {"name": '"x"'}}
    assert json.loads(codec.encode_clear()) == {"event": "clear", "streamSid": STREAM}


def test_a_start_that_tells_no_rate_ends_the_socket() -> None:
    with pytest.raises(ProtocolError):
        TwilioCodec().decode_start(TWILIO.start(form={"encoding": "audio/x-mulaw", "channels": 1}))
