"""What is Telnyx' own of its wire; the rest is in ../test_json_codecs.py."""

from __future__ import annotations

import json

import pytest
import structlog

from adapters.providers.telnyx.codec import TelnyxCodec
from engine.errors import BadMessage
from engine.events import MULAW_8K, StreamStarted
from tests.adapters.providers.test_json_codecs import DIALECTS, STREAM, b64

TELNYX = DIALECTS["telnyx"]
CALL = "v3:9X2vxPDFY2RHSJ1EdMS0RHRksMTg7ldNxdjWbVr9zBjbGjGsSe-aiQ"


def test_its_ids_are_longer_than_those_of_others() -> None:
    stream = TelnyxCodec().decode_start(TELNYX.start(call=CALL))
    assert stream
    assert stream.call_id == CALL


def test_the_other_spellings_of_its_documents_are_understood() -> None:
    message = json.loads(TELNYX.start())
    start = message["start"]
    start["customParameters"] = start.pop("custom_parameters")
    start["mediaFormat"] = {"encoding": "audio/x-mulaw", "sampleRate": "8000"}
    del start["media_format"]
    stream = TelnyxCodec().decode_start(json.dumps(message))
    assert stream == StreamStarted(start["call_control_id"], STREAM, MULAW_8K, "t0ken", {"tenant": "t1"})


def test_audio_that_overtakes_other_audio_is_heard_behind_it() -> None:
    codec = TELNYX.started()
    chunks = [(1, b"\2"), (3, b"\4"), (2, b"\3"), (4, b"\5")]
    decoded = [codec.decode(TELNYX.media(b64(audio * 160), chunk=str(chunk))) for chunk, audio in chunks]
    assert decoded == [b"\2" * 160, None, b"\3" * 160 + b"\4" * 160, b"\5" * 160]


def test_a_count_below_nothing_is_a_bad_shape() -> None:
    with pytest.raises(BadMessage, match="shape"):
        TELNYX.started().decode(TELNYX.media(chunk=-1))


def test_a_complaint_is_logged_by_its_code_alone_and_not_for_ever() -> None:
    codec = TELNYX.started()
    payload = {"code": 100003, "title": "malformed_frame", "detail": "the words of a caller"}
    with structlog.testing.capture_logs() as logs:
        for _ in range(50):
            assert codec.decode(TELNYX.of("error", payload=payload)) is None
    assert 0 < len(logs) < 10
    assert (logs[0]["provider"], logs[0]["code"]) == ("telnyx", 100003)
    assert "words" not in str(logs)


def test_we_write_the_fields_that_telnyx_accepts_and_no_others() -> None:
    codec = TELNYX.started()
    assert json.loads(codec.encode_audio(b"\1" * 320)) == {"event": "media", "media": {"payload": b64(b"\1" * 320)}}
    assert json.loads(codec.encode_mark('"x"')) == {"event": "mark", "mark": {"name": '"x"'}}
    assert json.loads(codec.encode_clear()) == {"event": "clear"}
