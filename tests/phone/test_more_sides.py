"""The phone as Telnyx, Plivo and SignalWire: it takes what they take, and what it signs is signed as they do."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plivo.utils import validate_v3_signature  # type: ignore[import-untyped] # ships no types

from adapters.providers.plivo.provider import PlivoConfig, PlivoProvider
from adapters.providers.telnyx.provider import TelnyxConfig, TelnyxProvider
from engine.phone import plivo, telnyx
from engine.phone.errors import CallFailed, CallRefused
from engine.phone.phone import SIDES
from engine.phone.side import Callee, Clear, Mark, Play, ProviderSide
from engine.ports import IncomingCall, WebhookRequest

CALL = IncomingCall("c1", "+15550001111", "+15550002222")
AUDIO = b"\x10" * 160
PAYLOAD = base64.b64encode(AUDIO).decode()
TELNYX: ProviderSide = telnyx.TelnyxSide(Callee("http://engine"))
PLIVO: ProviderSide = plivo.PlivoSide(Callee("http://engine"))
STREAM = PLIVO.stream_id
PLAYED = {"contentType": "audio/x-mulaw", "sampleRate": 8000, "payload": PAYLOAD}


def read(side: ProviderSide, message: Any) -> tuple[object, str]:
    violations: Counter[str] = Counter()
    text = message if isinstance(message, str | bytes) else json.dumps(message)
    command = side.read(text, lambda what: violations.update([what]))
    return command, ", ".join(violations)


def test_telnyx_takes_media_marks_and_clear() -> None:
    assert read(TELNYX, {"event": "media", "media": {"payload": PAYLOAD}}) == (Play(AUDIO), "")
    assert read(TELNYX, {"event": "mark", "mark": {"name": "m1"}}) == (Mark("m1"), "")
    assert read(TELNYX, {"event": "clear"}) == (Clear(), "")


def test_plivo_takes_audio_checkpoints_and_clear() -> None:
    assert read(PLIVO, {"event": "playAudio", "media": PLAYED}) == (Play(AUDIO), "")
    assert read(PLIVO, {"event": "checkpoint", "streamId": STREAM, "name": "m1"}) == (Mark("m1"), "")
    assert read(PLIVO, {"event": "clearAudio", "streamId": STREAM}) == (Clear(), "")


@pytest.mark.parametrize(
    "message",
    [
        b"\x00",
        "{",
        "[]",
        {"event": "stop"},
        {"event": "clear", "stream_id": "x"},
        {"event": "media", "media": {"payload": "%%"}},
        {"event": "media", "media": {"payload": PAYLOAD, "track": "x"}},
        {"event": "media", "media": {"payload": PAYLOAD}, "stream_id": "x"},
        {"event": "media", "media": {"payload": base64.b64encode(b"\1" * 100).decode()}},
        {"event": "media", "media": {"payload": base64.b64encode(b"\1" * 250_000).decode()}},
        {"event": "mark", "mark": {"name": ""}},
        {"event": "mark", "mark": {"name": 1}},
        {"event": "mark"},
    ],
)
def test_telnyx_complains_of_anything_else(message: Any) -> None:
    command, violations = read(TELNYX, message)
    assert command is None
    assert violations.startswith("100003")


@pytest.mark.parametrize(
    "message",
    [
        b"\x00",
        "{",
        "[]",
        {"event": "media", "media": {"payload": PAYLOAD}},
        {"event": "playAudio", "media": {"payload": PAYLOAD}},
        {"event": "playAudio", "media": PLAYED | {"sampleRate": 16000}},
        {"event": "playAudio", "media": PLAYED | {"contentType": "audio/x-l16"}},
        {"event": "playAudio", "media": PLAYED, "more": 1},
        {"event": "checkpoint", "name": "m1"},
        {"event": "checkpoint", "streamId": "another", "name": "m1"},
        {"event": "checkpoint", "streamId": STREAM, "name": ""},
        {"event": "clearAudio"},
        {"event": "clearAudio", "streamId": STREAM, "name": "m1"},
    ],
)
def test_plivo_complains_of_anything_else(message: Any) -> None:
    command, violations = read(PLIVO, message)
    assert command is None
    assert violations.startswith("incorrect payload")


@given(st.one_of(st.text(), st.binary(), st.recursive(st.none() | st.text(), st.lists).map(json.dumps)))
def test_no_message_of_an_engine_stops_the_phone(message: str | bytes) -> None:
    assert read(TELNYX, message)[0] is None
    assert read(PLIVO, message)[0] is None


def test_marks_in_a_cleared_buffer_come_back_from_telnyx_and_not_from_plivo() -> None:
    assert [json.loads(message)["event"] for message in TELNYX.cleared(["a", "b"])] == ["mark", "mark"]
    assert [json.loads(message)["event"] for message in PLIVO.cleared(["a", "b"])] == ["clearedAudio"]


# --- documents --------------------------------------------------------------------------------------------------


def test_the_documents_of_our_providers_are_run() -> None:
    document = TelnyxProvider(TelnyxConfig()).connect(CALL, "wss://h/media/telnyx", "t0ken").body
    assert telnyx.read_texml(document) == ("wss://h/media/telnyx", {"token": "t0ken"})
    document = PlivoProvider(PlivoConfig()).connect(CALL, "wss://h/media/plivo", "t-0").body
    assert plivo.read_xml(document) == ("wss://h/media/plivo", f"token={b't-0'.hex()}")
    for refusal, reads in (
        (TelnyxProvider(TelnyxConfig()).refuse("Busy."), telnyx.read_texml),
        (PlivoProvider(PlivoConfig()).refuse("Busy."), plivo.read_xml),
    ):
        with pytest.raises(CallRefused, match="Busy"):
            reads(refusal.body)


RTP = 'bidirectionalMode="rtp" bidirectionalCodec="PCMU" codec="PCMU"'
TWO_WAYS = 'bidirectional="true" keepCallAlive="true" audioTrack="inbound" contentType="audio/x-mulaw;rate=8000"'


@pytest.mark.parametrize(
    ("reads", "inside"),
    [
        (telnyx.read_texml, '<Connect><Stream url="wss://h"/></Connect>'),
        (telnyx.read_texml, f'<Connect><Stream url="https://h" {RTP}/></Connect>'),
        (telnyx.read_texml, f'<Connect><Stream url="wss://h" invented="1" {RTP}/></Connect>'),
        (telnyx.read_texml, f'<Connect><Stream url="wss://h" {RTP}><Parameter name="a"/></Stream></Connect>'),
        (telnyx.read_texml, "<Connect/>"),
        (telnyx.read_texml, "<Play/>"),
        (plivo.read_xml, "<Stream>wss://h</Stream>"),
        (plivo.read_xml, f"<Stream {TWO_WAYS}>https://h</Stream>"),
        (plivo.read_xml, f'<Stream {TWO_WAYS} extraHeaders="token=a-b">wss://h</Stream>'),
        (plivo.read_xml, f'<Stream {TWO_WAYS} extraHeaders="token={"a" * 600}">wss://h</Stream>'),
        (plivo.read_xml, f'<Stream {TWO_WAYS} invented="1">wss://h</Stream>'),
        (plivo.read_xml, "<Play/>"),
    ],
)
def test_a_document_that_would_not_be_run_is_named(reads: Callable[[bytes], object], inside: str) -> None:
    with pytest.raises(CallFailed):
        reads(f"<Response>{inside}</Response>".encode())


# --- signatures -------------------------------------------------------------------------------------------------


async def posted(provider: str, secret: str) -> httpx.Request:
    """The webhook of a call that nobody answers."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(500)

    callee = Callee("http://engine.example.com", secret=secret, attestation="A")
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        with pytest.raises(CallFailed):
            await SIDES[provider](callee).dial(client)
    return asked[0]


@pytest.mark.proves("official client", adapter=("plivo", "signalwire"))
async def test_the_signatures_are_the_providers() -> None:
    from signalwire.core.security.webhook_validator import validate_webhook_signature

    request = await posted("plivo", "key")
    form = dict(httpx.QueryParams(request.content.decode()))
    signature, nonce = request.headers["x-plivo-signature-v3"], request.headers["x-plivo-signature-v3-nonce"]
    assert validate_v3_signature("POST", str(request.url), nonce, "key", signature, form)
    request = await posted("signalwire", "key")
    signature = request.headers["x-signalwire-signature"]
    assert validate_webhook_signature("key", signature, str(request.url), request.content.decode())
    private, public = telnyx.new_keys()
    request = await posted("telnyx", private)
    webhook = WebhookRequest("POST", str(request.url), dict(request.headers), request.content)
    provider = TelnyxProvider(TelnyxConfig(public))
    assert provider.verify(webhook)
    assert provider.read_call(webhook).attestation == "A"
