"""ConversationRelay: the document as the official package writes it, and text both ways."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from twilio.twiml.voice_response import Connect, VoiceResponse  # type: ignore[import-untyped] # ships no types

from adapters.providers.documents import again_at
from adapters.providers.twilio.provider import TwilioConfig, TwilioProvider
from adapters.providers.twilio.relay import RelayConfig, TwilioRelay, TwilioRelayCodec
from engine.errors import BadMessage, ProtocolError
from engine.events import CutOff, Dtmf, Prompt, Speaking, StreamStarted, TextPlayed
from engine.ports import IncomingCall, Relay, TextCodec

SESSION, CALL = "VX" + "a" * 32, "CA" + "b" * 32
CALL_INFO = IncomingCall(CALL, "+15550001111", "+15550002222")


def setup(**changes: Any) -> str:
    message = {
        "type": "setup",
        "sessionId": SESSION,
        "accountSid": "AC" + "c" * 32,
        "parentCallSid": "",
        "callSid": CALL,
        "from": "+15550001111",
        "to": "+15550002222",
        "forwardedFrom": "",
        "callType": "PSTN",
        "callerName": "",
        "direction": "inbound",
        "callStatus": "RINGING",
        "customParameters": {"token": "t0ken", "tenant": "t1"},
    }
    return json.dumps(message | changes)


def started() -> TwilioRelayCodec:
    codec = TwilioRelayCodec()
    assert codec.decode_start(setup())
    return codec


def test_it_is_a_relay_of_twilio() -> None:
    relay: Relay = TwilioRelay()
    codec: TextCodec = relay.new_codec()
    assert codec
    assert TwilioProvider(TwilioConfig()).relay is not None
    assert relay.media_path == "/media/twilio-relay"


# --- the document -----------------------------------------------------------------------------------------------


def test_the_document_is_the_one_that_the_official_package_writes() -> None:
    config = RelayConfig(
        language="en-US",
        voice="UgBBYS2sOqTuMpoF3BR0",
        tts_provider="ElevenLabs",
        transcription_provider="Deepgram",
        speech_model="nova-3-general",
        interruptible="speech",
        interrupt_sensitivity="low",
        hints="offhook,trio",
        options={"ignoreBackchannel": "true"},
    )
    ours = TwilioRelay(config).connect(CALL_INFO, "wss://h/media/twilio-relay", "t0ken")
    response = VoiceResponse()
    connect = Connect()
    relay = connect.conversation_relay(
        url="wss://h/media/twilio-relay",
        language="en-US",
        voice="UgBBYS2sOqTuMpoF3BR0",
        tts_provider="ElevenLabs",
        transcription_provider="Deepgram",
        speech_model="nova-3-general",
        interruptible="speech",
        interrupt_sensitivity="low",
        hints="offhook,trio",
        ignore_backchannel=True,
        dtmf_detection=True,
        events="speaker-events tokens-played",
    )
    relay.parameter(name="token", value="t0ken")
    response.append(connect)
    response.redirect(again_at("https://h/voice", "t0ken"), method="POST")
    assert ET.canonicalize(ours.body.decode()) == ET.canonicalize(str(response))
    assert ours.content_type.startswith("text/xml")


def test_nothing_is_said_by_the_document_and_what_is_not_set_is_left_to_twilio() -> None:
    root = ET.fromstring(TwilioRelay().connect(CALL_INFO, "wss://h/r", "t").body)
    (relay,) = root.iter("ConversationRelay")
    assert relay.attrib == {"url": "wss://h/r", "dtmfDetection": "true", "events": "speaker-events tokens-played"}


@given(token=st.text(), voice=st.text())
@settings(max_examples=50, deadline=None)
def test_no_token_and_no_setting_breaks_out_of_the_document(token: str, voice: str) -> None:
    document = TwilioRelay(RelayConfig(voice=voice)).connect(CALL_INFO, "wss://h/r", token).body
    tags = [element.tag for element in ET.fromstring(document).iter()]
    assert tags == ["Response", "Connect", "ConversationRelay", "Parameter", "Redirect"]


# --- what comes -------------------------------------------------------------------------------------------------


def test_setup_makes_the_stream_and_the_token_is_set_apart() -> None:
    stream = TwilioRelayCodec().decode_start(setup())
    assert isinstance(stream, StreamStarted)
    assert (stream.call_id, stream.stream_id, stream.token) == (CALL, SESSION, "t0ken")
    assert stream.parameters == {"tenant": "t1"}
    bare = TwilioRelayCodec().decode_start(setup(customParameters=None))
    assert bare is not None
    assert bare.token == ""


@pytest.mark.parametrize(
    "message",
    [
        json.dumps({"type": "prompt", "voicePrompt": "hello"}),
        setup(callSid="../x"),
        setup(callSid=None),
        setup(sessionId=5),
        setup(customParameters=[1]),
        setup(customParameters={"token": 5}),
        setup(customParameters={str(number): "" for number in range(1000)}),
        "[]",
        "",
        "[" * 100_000,
        b"{}",
    ],
)
def test_anything_else_before_the_setup_ends_the_socket(message: str | bytes) -> None:
    with pytest.raises(ProtocolError):
        TwilioRelayCodec().decode_start(message)


@pytest.mark.parametrize(
    ("message", "event"),
    [
        ({"type": "prompt", "voicePrompt": "hello", "lang": "en-US", "last": True}, Prompt("hello")),
        ({"type": "prompt", "voicePrompt": "hel", "lang": "en-US", "last": False}, Prompt("hel", is_last=False)),
        ({"type": "prompt", "voicePrompt": "hello"}, Prompt("hello")),
        ({"type": "dtmf", "digit": "#"}, Dtmf("#")),
        (
            {"type": "interrupt", "utteranceUntilInterrupt": "So far", "durationUntilInterruptMs": 460},
            CutOff("So far", 0.46),
        ),
        (
            {"type": "interrupt", "utteranceUntilInterrupt": "So far", "durationUntilInterruptMs": "460"},
            CutOff("So far", 0.46),
        ),
        ({"type": "interrupt", "utteranceUntilInterrupt": ""}, CutOff("")),
        ({"type": "interrupt", "utteranceUntilInterrupt": "", "durationUntilInterruptMs": "soon"}, CutOff("")),
        ({"type": "interrupt", "utteranceUntilInterrupt": "", "durationUntilInterruptMs": "nan"}, CutOff("")),
        ({"type": "interrupt", "utteranceUntilInterrupt": "", "durationUntilInterruptMs": -5}, CutOff("")),
        ({"type": "interrupt", "utteranceUntilInterrupt": "", "durationUntilInterruptMs": "9" * 400}, CutOff("")),
        ({"type": "info", "name": "tokensPlayed", "value": "just said"}, TextPlayed("just said")),
        ({"type": "info", "name": "agentSpeaking", "value": "on", "ts": 1764000000000}, Speaking(True, True)),
        ({"type": "info", "name": "clientSpeaking", "value": "off"}, Speaking(False, False)),
        ({"type": "info", "name": "agentSpeaking", "value": []}, None),
        ({"type": "invented-next-year"}, None),
    ],
)
def test_what_comes_is_understood(message: dict[str, Any], event: object) -> None:
    assert started().decode(json.dumps(message)) == event


def test_a_complaint_is_logged_without_what_we_said_and_not_for_ever() -> None:
    codec = started()
    error = {"type": "error", "description": 'Invalid message received: {"token":"the words of an agent"}'}
    with structlog.testing.capture_logs() as logs:
        for _ in range(50):
            assert codec.decode(json.dumps(error)) is None
    assert 0 < len(logs) < 10
    assert logs[0]["code"] == "Invalid message received"
    assert "words" not in str(logs)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (b"\0", "type"),
        ("{", "json"),
        ("[]", "shape"),
        ("{}", "shape"),
        ('{"type":["prompt"]}', "shape"),
        ('{"type":"prompt","voicePrompt":5}', "shape"),
        ('{"type":"interrupt","utteranceUntilInterrupt":null}', "shape"),
        ('{"type":"dtmf","digit":"12"}', "shape"),
        ('{"type":"dtmf"}', "shape"),
        ('{"type":"info","name":"tokensPlayed","value":[]}', "shape"),
    ],
)
def test_an_unusable_message_is_named_by_its_kind(message: str | bytes, kind: str) -> None:
    codec = started()
    with pytest.raises(BadMessage) as caught:
        codec.decode(message)
    assert caught.value.kind == kind


def test_a_second_setup_ends_the_socket() -> None:
    with pytest.raises(ProtocolError):
        started().decode(setup())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("voicePrompt", "last", "utteranceUntilInterrupt", "durationUntilInterruptMs", "digit", "value", "description")
nearly = st.fixed_dictionaries(
    {"type": st.sampled_from(["setup", "prompt", "interrupt", "dtmf", "info", "error"]) | json_values},
    optional=dict.fromkeys(FIELDS, json_values) | {"name": st.just("tokensPlayed") | json_values},
)


@given(message=st.text(max_size=40) | st.binary(max_size=40) | json_values.map(json.dumps) | nearly.map(json.dumps))
@settings(max_examples=50, deadline=None)
def test_any_message_gives_a_value_or_one_of_the_two_errors(message: str | bytes) -> None:
    with structlog.testing.capture_logs():
        try:
            event = started().decode(message)
        except (BadMessage, ProtocolError):
            return
    assert event is None or isinstance(event, Prompt | CutOff | TextPlayed | Dtmf)


# --- what we write ----------------------------------------------------------------------------------------------


@given(text=st.text(), is_last=st.booleans())
def test_text_is_written_with_its_blanks_and_nothing_that_cannot_be_said(text: str, is_last: bool) -> None:
    message = json.loads(started().encode_text(text, is_last=is_last))
    assert message.keys() == {"type", "token", "last"}
    assert message["last"] is is_last
    assert len(message["token"]) == len(text)
    assert not set(message["token"]) & {"\0", "\n", "\ud800"}


def test_digits_and_the_end_are_written_as_twilio_takes_them() -> None:
    assert json.loads(started().encode_text(" and so on ", is_last=False))["token"] == " and so on "
    assert json.loads(started().encode_digits("1w#")) == {"type": "sendDigits", "digits": "1w#"}
    assert json.loads(started().encode_end()) == {"type": "end", "handoffData": "{}"}
