"""What the port of telephony providers promises, of every provider."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from html import unescape
from typing import Any
from urllib.parse import urlencode, urlsplit
from xml.etree import ElementTree as ET

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.providers.plivo.provider import PlivoConfig, PlivoProvider
from adapters.providers.signalwire.provider import SignalWireConfig, SignalWireProvider
from adapters.providers.telnyx.provider import TelnyxConfig, TelnyxProvider
from adapters.providers.twilio.provider import TwilioConfig, TwilioProvider
from adapters.providers.vonage.provider import VonageConfig, VonageProvider
from engine.errors import BadRequest, BadSignature, VendorError, Why
from engine.phone.phone import SIDES
from engine.phone.side import Callee
from engine.phone.telnyx import new_keys
from engine.ports import Ability, Answer, Dial, IncomingCall, Provider, WarmTransfer, WebhookRequest
from tests.adapters.providers.rest_api import new_key, pem_of

SECRET, PUBLIC_KEY, PEM = "a-secret-of-more-than-thirty-two-bytes", new_keys()[1], pem_of(new_key())
SPACE = "https://example.signalwire.com"
ABLE: Mapping[str, Provider] = {
    "twilio": TwilioProvider(TwilioConfig(SECRET, "AC1")),
    "vonage": VonageProvider(VonageConfig(SECRET, "app", PEM)),
    "telnyx": TelnyxProvider(TelnyxConfig(PUBLIC_KEY, SECRET, "a1", "t1")),
    "plivo": PlivoProvider(PlivoConfig(SECRET, "MA1", transfer_url="https://h/plivo/status")),
    "signalwire": SignalWireProvider(SignalWireConfig(SECRET, SECRET, "p1", SPACE)),
}
UNABLE: Mapping[str, Provider] = {
    "twilio": TwilioProvider(TwilioConfig(), insecure=True),
    "vonage": VonageProvider(VonageConfig(), insecure=True),
    "telnyx": TelnyxProvider(TelnyxConfig(), insecure=True),
    "plivo": PlivoProvider(PlivoConfig(), insecure=True),
    "signalwire": SignalWireProvider(SignalWireConfig(), insecure=True),
}
every = pytest.mark.parametrize("name", ABLE)
DIAL = Dial("+15551230009", "+15551230002", "https://h/v?dial=t", "https://h/s", detects_machine=True)
WARM = WarmTransfer("+15551230009", "+15551230002", "https://h")
ASKS: Mapping[Ability, Callable[[Provider, httpx.AsyncClient], Any]] = {
    Ability.HANG_UP: lambda by, http: by.control.hang_up("c1", http),
    Ability.SEND_TEXT: lambda by, http: by.control.send_text("+15551230002", "+15551230009", "hello", http),
    Ability.TRANSFER: lambda by, http: by.control.transfer("c1", "+15551230009", "+15551230002", http),
    Ability.WARM_TRANSFER: lambda by, http: by.control.introduce("c1", WARM, http),
    Ability.PRESS_DIGITS: lambda by, http: by.control.press("c1", "12w#", http),
    Ability.DIAL: lambda by, http: by.control.dial(DIAL, http),
}


def failing_with(error: Exception) -> httpx.AsyncClient:
    def fail(request: httpx.Request) -> httpx.Response:
        raise error

    return httpx.AsyncClient(transport=httpx.MockTransport(fail))


# --- strangers --------------------------------------------------------------------------------------------------

NAMES = (
    *("CallSid", "CallUUID", "uuid", "From", "To", "from", "to", "CallStatus", "status", "sub_state", "AnsweredBy"),
    *("Machine", "Event", "Direction", "direction", "StreamSid", "StreamEvent", "StreamID", "Body", "Text", "text"),
    *("MessageSid", "MessageUUID", "messageId", "message_uuid", "msisdn", "channel", "type", "concat-ref"),
    *("concat-part", "concat-total", "StirVerstat", "ShakenStirAttestation", "region_url", "data", "Status"),
)
words = st.sampled_from(["c1", "+15551230001", "15551230001", "completed", "human", "sms", "text", "1", ""]) | st.text(
    max_size=12
)
fields = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), words | st.lists(words, max_size=2), max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=8,
)
bodies = st.one_of(
    fields.map(lambda pairs: ("application/x-www-form-urlencoded", _form(pairs))),
    fields.map(lambda pairs: ("application/json", json.dumps(pairs).encode())),
    json_values.map(lambda value: ("application/json", json.dumps(value).encode())),
    st.tuples(st.sampled_from(["", "application/json", "application/x-www-form-urlencoded", "a/b"]), st.binary()),
)


def _form(pairs: Mapping[str, Any]) -> bytes:
    return urlencode(pairs, doseq=True, errors="replace").encode()


@st.composite
def requests(draw: st.DrawFn) -> WebhookRequest:
    kind, body = draw(bodies.filter(lambda made: made is not None))
    query = draw(fields.map(_form)).decode()
    method = draw(st.sampled_from(["GET", "POST"]))
    path = draw(st.sampled_from(["/voice", "/vonage/sms", "/telnyx/voice", "/plivo/status?transfer=%2B15551230009"]))
    url = f"https://h{path}{'&' if '?' in path else '?'}{query}"
    headers = draw(
        st.dictionaries(
            st.sampled_from(
                [
                    "authorization",
                    "x-twilio-signature",
                    "x-plivo-signature-v3",
                    "x-plivo-signature-v3-nonce",
                    "telnyx-timestamp",
                    "telnyx-signature-ed25519",
                    "x-signalwire-signature",
                ]
            ),
            st.text(max_size=40),
            max_size=3,
        )
    )
    return WebhookRequest(method, url, headers | {"content-type": kind}, body)


@every
@given(request_=requests())
@settings(max_examples=25, deadline=None)
def test_a_stranger_gets_no_further_than_the_signature(name: str, request_: WebhookRequest) -> None:
    with pytest.raises(BadSignature) as caught:
        ABLE[name].verify(request_)
    assert caught.value.why in {"missing", "mismatch", "expired", "malformed"}


@every
@given(request_=requests())
@settings(max_examples=50, deadline=None)
def test_whatever_a_provider_sends_is_read_or_refused_by_a_field(name: str, request_: WebhookRequest) -> None:
    by = UNABLE[name]
    assert by.verify(request_) == by.verify(request_)
    reads: tuple[Callable[[WebhookRequest], object], ...] = (by.read_call, by.read_status, by.read_text)
    for read in reads:
        with suppress(BadRequest):
            read(request_)
    assert by.acknowledge(request_).status in (200, 204)


@every
@given(sentence=st.text(), token=st.text(max_size=80), call_id=st.sampled_from(["c1", "v3:c1"]))
@settings(max_examples=25, deadline=None)
def test_documents_are_made_of_whatever_is_to_be_said(name: str, sentence: str, token: str, call_id: str) -> None:
    by = ABLE[name]
    call = IncomingCall(call_id, "+15551230001", "+15551230002")
    try:
        answer = by.connect(call, "wss://h/m", token)
    except ValueError:
        assert name == "vonage", "its headers hold no more"
    else:
        assert answer.status == 200
        assert _bones(answer) == _bones(by.connect(call, "wss://h/m", "t")), "nothing breaks out of a document"
    assert by.refuse(sentence).status == by.answer_text(sentence).status == 200
    assert _bones(by.refuse(sentence)) == _bones(by.refuse("No."))
    codec = by.new_codec()
    assert codec is not by.new_codec(), "one object per socket"


def _bones(answer: Answer) -> list[Any]:
    """A document without its words."""
    if answer.content_type == "application/json":
        return [sorted(action) for action in json.loads(answer.body)]
    return [element.tag for element in ET.fromstring(answer.body).iter()]


@every
def test_a_preface_is_said_before_the_call_is_connected(name: str) -> None:
    by, call = UNABLE[name], IncomingCall("c1", "+15551230001", "+15551230002", preface="Recorded & kept.")
    plain = by.connect(replace(call, preface=""), f"wss://h{by.media_path}", "t1")
    told = by.connect(call, f"wss://h{by.media_path}", "t1")
    if name == "vonage":
        said, *rest = json.loads(told.body)
        assert (said["action"], unescape(said["text"])) == ("talk", "Recorded & kept.")
        assert rest == json.loads(plain.body)
    else:
        said, *rest = ET.fromstring(told.body)
        assert (said.tag, said.text) == ("Speak" if name == "plivo" else "Say", "Recorded & kept.")
        assert [ET.tostring(verb) for verb in rest] == [ET.tostring(verb) for verb in ET.fromstring(plain.body)]


@every
def test_after_its_stream_a_call_is_asked_about_again_and_may_be_dismissed(name: str) -> None:
    by, call = UNABLE[name], IncomingCall("c1", "+15551230001", "+15551230002")
    asked = []
    for token in ("t1", "t2"):
        text = by.connect(call, f"wss://h:8443/base{by.media_path}", token).body.decode()
        (url,) = re.findall(r"https://h:8443/base(?:/\w+)+\?[\w=]+", text)
        fields = {"CallSid": "c1", "CallUUID": "c1", "From": "1", "To": "2", "status": "disconnected", "uuid": "leg"}
        kind = "application/json" if name == "vonage" else "application/x-www-form-urlencoded"
        body = json.dumps(fields).encode() if name == "vonage" else _form(fields)
        back = by.read_call(WebhookRequest("POST", url, {"content-type": kind}, body))
        assert back is not None
        assert (back.call_id, back.is_back) == ("c1", True)
        assert urlsplit(url).path.removeprefix("/base") in by.webhooks
        asked.append(by.verify(WebhookRequest("POST", url, {"content-type": kind}, body)))
    assert name == "vonage" or asked[0] != asked[1], "the second time is no replay of the first"
    assert by.dismiss().status == 200
    assert by.whispered_of(WebhookRequest("POST", "https://h/w?call=c1", {})) == "c1"
    with pytest.raises(BadRequest):
        by.whispered_of(WebhookRequest("POST", "https://h/w", {}))
    assert "Ann &" in unescape(by.whisper("Ann & <co>").body.decode())
    assert _bones(by.dismiss()) in ([], ["Response", "Hangup"])


@pytest.mark.parametrize("name", ["twilio", "telnyx", "plivo"])
def test_frames_that_are_missing_are_told_by_the_providers_count_of_them(name: str) -> None:
    side, codec, gaps = SIDES[name](Callee("http://h")), ABLE[name].new_codec(), list[int]()
    for message in side.opening():
        codec.decode_start(message)
    codec.on_gap = lambda: gaps.append(1)
    frames = [side.media(side.format.silence(0.02)) for _ in range(20)]
    for frame in (*frames[:5], *frames[8:], frames[19]):
        codec.decode(frame)
    assert len(gaps) == 1
    codec.decode(side.dtmf("5"))
    codec.decode(side.media(side.format.silence(0.02)))
    assert len(gaps) == 1, "a message of another kind in between is no frame that is missing"


# --- REST -------------------------------------------------------------------------------------------------------


@every
async def test_what_it_is_able_to_do_it_asks_for_and_nothing_else(name: str) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        made = {"sid": "c2", "uuid": "c2", "call_sid": "c2", "request_uuid": "c2"}
        return httpx.Response(201, json=made)

    by = ABLE[name]
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        for ability, ask in ASKS.items():
            asked.clear()
            if ability in by.control.abilities:
                assert await ask(by, client) in (None, "c2")
                assert len(asked) == 1, ability
                assert asked[0].url.scheme == "https"
            else:
                with pytest.raises(VendorError) as caught:
                    await ask(by, client)
                assert caught.value.why is Why.BAD_REQUEST
                assert not asked
    assert Ability.DETECT_MACHINE in by.control.abilities


@every
async def test_without_keys_it_is_able_to_do_nothing_and_asks_nobody(name: str) -> None:
    by = UNABLE[name]
    assert by.control.abilities == frozenset()
    async with failing_with(AssertionError("asked")) as client:
        for ability, ask in ASKS.items():
            if ability is Ability.HANG_UP:
                await ask(by, client)
                continue
            with pytest.raises(VendorError) as caught:
                await ask(by, client)
            assert not caught.value.why.may_pass, "asked again it would be the same"


@every
@pytest.mark.parametrize(
    ("error", "why"),
    [
        (httpx.ConnectError("x"), Why.UNREACHABLE),
        (httpx.ConnectTimeout("x"), Why.TIMEOUT),
        (httpx.ReadTimeout("x"), Why.TIMEOUT),
        (httpx.ReadError("x"), Why.CUT),
        (httpx.RemoteProtocolError("x"), Why.CUT),
        (httpx.DecodingError("x"), Why.NONSENSE),
    ],
)
async def test_whatever_goes_wrong_on_the_way_comes_out_with_its_reason_and_no_secret(
    name: str, error: Exception, why: Why
) -> None:
    by = ABLE[name]
    async with failing_with(error) as client:
        for ability in by.control.abilities & ASKS.keys():
            with pytest.raises(VendorError) as caught:
                await ASKS[ability](by, client)
            assert caught.value.why is why
            assert caught.value.vendor == name
            assert not any(word in str(caught.value) for word in (SECRET, "5551230", "hello", "http"))


@every
async def test_a_provider_that_is_asked_too_often_says_when_to_ask_again(name: str) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(429, headers={"retry-after": "7"})

    by = ABLE[name]
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        for ability in by.control.abilities & ASKS.keys():
            with pytest.raises(VendorError) as caught:
                await ASKS[ability](by, client)
            assert (caught.value.why, caught.value.retry_after_s) == (Why.RATE_LIMITED, 7.0)
