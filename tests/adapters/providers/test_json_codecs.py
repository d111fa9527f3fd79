"""The wires that speak JSON with mu-law inside: what all of them may say, and what strangers say instead."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.providers.json_codec import JsonCodec
from adapters.providers.plivo.codec import PlivoCodec, encode_value
from adapters.providers.telnyx.codec import TelnyxCodec
from adapters.providers.twilio.codec import TwilioCodec
from engine.errors import BadMessage, ProtocolError
from engine.events import MULAW_8K, Cleared, Dtmf, MarkPlayed, Stopped, StreamStarted
from engine.ports import Codec

STREAM, CALL = "MZ" + "a" * 32, "CA" + "b" * 32
Object = dict[str, Any]


@dataclass(frozen=True)
class Dialect:
    """How one provider spells what all of them say."""

    make: Callable[[], JsonCodec]
    stream: str
    call: str
    form: str
    parameters: str
    number: str
    """The names of fields."""
    mulaw: Object
    is_stream_within: bool = False
    """The start message names its stream in its content."""
    are_parameters_outside: bool = False

    def start(self, **changes: Any) -> str:
        """``changes`` by what they are here; None for a field of that value, and ``...`` for none."""
        found = {"stream": STREAM, "call": CALL, "form": self.mulaw, "parameters": self.spelt("t0ken")} | changes
        message: Object = {"event": "start", self.number: "1"}
        content: Object = {self.call: found["call"], self.form: found["form"]}
        (content if self.is_stream_within else message)[self.stream] = found["stream"]
        if found["parameters"] is not ...:
            (message if self.are_parameters_outside else content)[self.parameters] = found["parameters"]
        return json.dumps({**message, "start": content})

    def spelt(self, token: str) -> Object:
        return {"token": encode_value(token) if self.make is PlivoCodec else token, "tenant": "t1"}

    def media(self, payload: object = None, **changes: Any) -> str:
        """As for ``start``; ``media`` is the content."""
        audio = b64(bytes(160)) if payload is None else payload
        content = {"track": "inbound", "chunk": "1", "timestamp": "5", "payload": audio}
        content |= {name: value for name, value in changes.items() if name in content}
        return self.of("media", **{"media": content, self.number: "2", **changes})

    def of(self, event: object, *, stream: object = STREAM, **content: Any) -> str:
        return json.dumps({"event": event, self.stream: stream, **content})

    def mark(self, *name: object) -> str:
        if self.make is PlivoCodec:
            return self.of("playedStream", **({"name": name[0]} if name else {}))
        return self.of("mark", **({"mark": {"name": name[0]}} if name else {}))

    def started(self) -> JsonCodec:
        codec = self.make()
        assert codec.decode_start(self.start())
        return codec


DIALECTS = {
    "twilio": Dialect(
        make=TwilioCodec,
        stream="streamSid",
        call="callSid",
        form="mediaFormat",
        parameters="customParameters",
        number="sequenceNumber",
        mulaw={"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
    ),
    "telnyx": Dialect(
        make=TelnyxCodec,
        stream="stream_id",
        call="call_control_id",
        form="media_format",
        parameters="custom_parameters",
        number="sequence_number",
        mulaw={"encoding": "PCMU", "sample_rate": 8000, "channels": 1},
    ),
    "plivo": Dialect(
        make=PlivoCodec,
        stream="streamId",
        call="callId",
        form="mediaFormat",
        parameters="extra_headers",
        number="sequenceNumber",
        mulaw={"encoding": "audio/x-mulaw", "sampleRate": 8000},
        is_stream_within=True,
        are_parameters_outside=True,
    ),
}


@pytest.fixture(params=DIALECTS, name="wire")
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return DIALECTS[request.param]


def b64(audio: bytes) -> str:
    return base64.b64encode(audio).decode()


def test_it_is_a_codec(wire: Dialect) -> None:
    codec: Codec = wire.make()
    assert not codec.paced
    assert not codec.ends_by_close


# --- the start --------------------------------------------------------------------------------------------------


def test_connected_and_start_make_the_stream_and_the_token_is_set_apart(wire: Dialect) -> None:
    codec = wire.make()
    assert codec.decode_start('{"event":"connected","protocol":"Call","version":"1.0.0"}') is None
    assert codec.decode_start(wire.start()) == StreamStarted(CALL, STREAM, MULAW_8K, "t0ken", {"tenant": "t1"})


def test_a_start_without_parameters_has_no_token(wire: Dialect) -> None:
    stream = wire.make().decode_start(wire.start(parameters=...))
    assert stream
    assert (stream.token, stream.parameters) == ("", {})


NO_START: dict[str, Callable[[Dialect], str | bytes]] = {
    "media": lambda wire: wire.media(),
    "stop": lambda wire: wire.of("stop"),
    "mark": lambda wire: wire.mark("m"),
    "stream a path": lambda wire: wire.start(stream="../../etc/passwd"),
    "call a path": lambda wire: wire.start(call="CA%2f"),
    "call a slash": lambda wire: wire.start(call="v3/x"),
    "no call": lambda wire: wire.start(call=None),
    "long call": lambda wire: wire.start(call="x" * 100_000),
    "encoding": lambda wire: wire.start(form={**wire.mulaw, "encoding": "audio/x-l16"}),
    "rate": lambda wire: wire.start(form={**wire.mulaw, "sampleRate": 16000, "sample_rate": 16000}),
    "channels": lambda wire: wire.start(form={**wire.mulaw, "channels": 2}),
    "no encoding": lambda wire: wire.start(form={"sampleRate": 8000, "sample_rate": 8000}),
    "no format": lambda wire: wire.start(form=None),
    "token a list": lambda wire: wire.start(parameters={"token": ["a"]}),
    "token long": lambda wire: wire.start(parameters={"token": "x" * 100_000}),
    "parameters many": lambda wire: wire.start(parameters={str(number): "" for number in range(1000)}),
    "parameters a list": lambda wire: wire.start(parameters=[]),
    "content none": lambda _: json.dumps({"event": "start", "streamSid": STREAM, "start": None}),
    "event a list": lambda _: json.dumps({"event": ["start"]}),
    "list": lambda _: "[]",
    "null": lambda _: "null",
    "object": lambda _: "{}",
    "nothing": lambda _: "",
    "http": lambda _: "GET / HTTP/1.1",
    "deep list": lambda _: "[" * 100_000,
    "deep object": lambda _: '{"event":' * 50_000,
    "binary": lambda _: b"\0" * 160,
    "binary connected": lambda _: b'{"event":"connected"}',
}


@pytest.mark.parametrize("what", NO_START)
def test_anything_else_before_the_start_ends_the_socket(wire: Dialect, what: str) -> None:
    with pytest.raises(ProtocolError):
        wire.make().decode_start(NO_START[what](wire))


def test_a_second_start_ends_the_socket(wire: Dialect) -> None:
    with pytest.raises(ProtocolError):
        wire.started().decode(wire.start())


# --- the stream -------------------------------------------------------------------------------------------------


def test_media_is_the_audio_itself_and_single_frames_or_several(wire: Dialect) -> None:
    assert wire.started().decode(wire.media(b64(b"\x7f" * 160))) == b"\x7f" * 160
    assert wire.started().decode(wire.media(b64(b"\x7f" * 480))) == b"\x7f" * 480


def test_the_rarer_events(wire: Dialect) -> None:
    codec = wire.started()
    assert codec.decode(wire.mark("u42")) == MarkPlayed("u42")
    assert codec.decode(wire.of("dtmf", dtmf={"track": "inbound_track", "digit": "#"})) == Dtmf("#")
    assert codec.decode(wire.of("stop", stop={wire.call: CALL})) == Stopped()
    assert codec.decode(wire.of("stop")) == Stopped()
    assert codec.decode(wire.of("invented-next-year")) is None


UNUSABLE: dict[str, tuple[Callable[[Dialect], str | bytes], str]] = {
    "binary": (lambda _: b"\0" * 160, "type"),
    "no json": (lambda _: "no json", "json"),
    "not a number": (lambda _: "NaN", "json"),
    "deep list": (lambda _: "[" * 100_000, "json"),
    "deep object": (lambda _: '{"a":' * 100_000, "json"),
    "half a surrogate": (lambda _: "\ud800", "json"),
    "list": (lambda _: "[]", "shape"),
    "null": (lambda _: "null", "shape"),
    "object": (lambda _: "{}", "shape"),
    "event a list": (lambda wire: wire.of(["media"]), "shape"),
    "event none": (lambda wire: wire.of(None), "shape"),
    "connected": (lambda _: json.dumps({"event": "connected"}), "type"),
    "media of another": (lambda wire: wire.media(stream="MZother"), "stream"),
    "media of none": (lambda wire: wire.media(stream=None), "stream"),
    "stop of another": (lambda wire: wire.of("stop", stream="MZother"), "stream"),
    "stop of another call": (lambda wire: wire.of("stop", stop={wire.call: "CAother"}), "stream"),
    "media none": (lambda wire: wire.media(media=None), "shape"),
    "media a list": (lambda wire: wire.media(media=[]), "shape"),
    "media empty": (lambda wire: wire.media(media={}), "shape"),
    "payload a number": (lambda wire: wire.media(5), "shape"),
    "payload a list": (lambda wire: wire.media(["QUJD"]), "shape"),
    "payload an object": (lambda wire: wire.media({"a": 1}), "shape"),
    "no base64": (lambda wire: wire.media("%%%%"), "base64"),
    "half of base64": (lambda wire: wire.media("QUJ"), "base64"),
    "base64 in lines": (lambda wire: wire.media("QUJD\nQUJD"), "base64"),
    "not ascii": (lambda wire: wire.media("ÄÖÜß"), "base64"),
    "padding": (lambda wire: wire.media("="), "base64"),
    "no audio": (lambda wire: wire.media(""), "length"),
    "a byte": (lambda wire: wire.media(b64(b"\0")), "length"),
    "not a frame": (lambda wire: wire.media(b64(bytes(159))), "length"),
    "far too much": (lambda wire: wire.media(b64(bytes(256 * 1024))), "length"),
    "mark a number": (lambda wire: wire.mark(5), "shape"),
    "mark long": (lambda wire: wire.mark("x" * 10_000), "shape"),
    "mark of nothing": (lambda wire: wire.mark(), "shape"),
    "two digits": (lambda wire: wire.of("dtmf", dtmf={"digit": "12"}), "shape"),
    "no digit": (lambda wire: wire.of("dtmf", dtmf={"digit": "x"}), "shape"),
    "dtmf of nothing": (lambda wire: wire.of("dtmf", dtmf=None), "shape"),
}
COUNTS = {"a word": "NaN", "long": "9" * 5000, "broken": 1.5, "a truth": True, "a list": [1]}


@pytest.mark.parametrize("what", UNUSABLE)
def test_an_unusable_message_is_named_by_its_kind(wire: Dialect, what: str) -> None:
    codec, (message, kind) = wire.started(), UNUSABLE[what]
    with pytest.raises(BadMessage) as caught:
        codec.decode(message(wire))
    assert caught.value.kind == kind
    assert codec.decode(wire.media()) == bytes(160), "and the call goes on"


@pytest.mark.parametrize("what", COUNTS)
def test_a_count_that_is_none_is_a_bad_shape(wire: Dialect, what: str) -> None:
    codec = wire.started()
    changed = wire.number if wire.make is TwilioCodec else "chunk"
    with pytest.raises(BadMessage, match="shape"):
        codec.decode(wire.media(**{changed: COUNTS[what]}))
    assert codec.decode(wire.media()) == bytes(160)


def test_the_other_side_of_the_call_is_not_taken_for_the_caller(wire: Dialect) -> None:
    assert wire.started().decode(wire.media(track="outbound")) is None


def test_a_peer_that_does_not_count_at_all_is_still_heard(wire: Dialect) -> None:
    codec, message = wire.started(), json.loads(wire.media())
    del message[wire.number], message["media"]["chunk"]
    assert codec.decode(json.dumps(message)) == codec.decode(json.dumps(message)) == bytes(160)


@given(name=st.sampled_from(sorted(DIALECTS)), audio=st.binary(min_size=1, max_size=50).map(lambda piece: piece * 160))
@settings(max_examples=40, deadline=None)
def test_audio_that_we_write_and_a_peer_sends_back_is_the_same(name: str, audio: bytes) -> None:
    wire = DIALECTS[name]
    payload = json.loads(wire.started().encode_audio(audio))["media"]["payload"]
    assert wire.started().decode(wire.media(payload)) == audio


# --- any bytes at all -------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
EVENTS = ["connected", "start", "media", "mark", "dtmf", "stop", "error", "playedStream", "clearedAudio", "playFailed"]


def nearly(wire: Dialect) -> st.SearchStrategy[str]:
    """What this provider might say, with anything in some of its fields."""
    content = st.fixed_dictionaries(
        {},
        optional={
            "payload": st.just(b64(bytes(160))) | json_values,
            "chunk": st.integers(-9, 999) | json_values,
            wire.call: st.just(CALL) | json_values,
            wire.stream: st.just(STREAM) | json_values,
            wire.form: st.just(wire.mulaw) | json_values,
            wire.parameters: json_values,
        },
    )
    return st.fixed_dictionaries(
        {"event": st.sampled_from(EVENTS) | json_values},
        optional={
            wire.stream: st.just(STREAM) | json_values,
            wire.number: st.integers().map(str) | json_values,
            wire.parameters: st.text(max_size=30) | json_values,
            "media": content | json_values,
            "start": content | json_values,
            "stop": content | json_values,
            "mark": json_values,
            "dtmf": json_values,
            "name": json_values,
            "payload": json_values,
        },
    ).map(json.dumps)


junk: st.SearchStrategy[str | bytes] = st.text(max_size=60) | st.binary(max_size=60) | json_values.map(json.dumps)
anything = st.sampled_from(sorted(DIALECTS)).flatmap(
    lambda name: st.tuples(st.just(DIALECTS[name]), st.lists(junk | nearly(DIALECTS[name]), max_size=8))
)


@given(said=anything)
@settings(max_examples=50, deadline=None)
def test_any_message_gives_a_value_or_one_of_the_two_errors(said: tuple[Dialect, list[str | bytes]]) -> None:
    wire, messages = said
    codec = wire.started()
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


@given(said=anything)
@settings(max_examples=40, deadline=None)
def test_any_first_message_gives_a_stream_or_nothing_or_ends_the_socket(
    said: tuple[Dialect, list[str | bytes]],
) -> None:
    wire, messages = said
    for message in messages:
        try:
            stream = wire.make().decode_start(message)
        except ProtocolError:
            continue
        assert stream is None or re.fullmatch(r"[A-Za-z0-9_:-]+", stream.call_id)
