"""Telnyx' webhooks, answers and REST: judged by the official package in both directions."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import urlencode
from xml.etree import ElementTree as ET

import httpx
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.providers.telnyx.provider import TelnyxConfig, TelnyxProvider
from engine.errors import BadRequest, BadSignature, SettingsError, VendorError, Why
from engine.ports import (
    Ability,
    CallStatus,
    Dial,
    IncomingCall,
    IncomingText,
    Provider,
    WebhookKind,
    WebhookRequest,
)
from tests.adapters.providers.rest_api import ApiRequest, rest_api

SIGNER = Ed25519PrivateKey.generate()
PUBLIC_KEY = base64.b64encode(SIGNER.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
KEY, ACCOUNT, APPLICATION = "KEY0123", "f5586561-8ff0-4291-a51b-c7dfe4139ff9", "1293384261075731499"
CALL = "v3:9X2vxPDFY2RHSJ1EdMS0RHRksMTg7ldNxdjWbVr9zBjbGjGsSe-aiQ"
URL = "https://engine.example.com/telnyx/voice"
FORM = {"CallSid": CALL, "From": "+15551230001", "To": "+15551230002", "CallStatus": "ringing"}

provider = TelnyxProvider(TelnyxConfig(PUBLIC_KEY, KEY, ACCOUNT, APPLICATION))


def signed(body: bytes, at: float | None = None, by: Ed25519PrivateKey = SIGNER) -> dict[str, str]:
    timestamp = str(int(time.time() if at is None else at))
    signature = base64.b64encode(by.sign(timestamp.encode() + b"|" + body)).decode()
    return {"telnyx-signature-ed25519": signature, "telnyx-timestamp": timestamp}


def post(form: Mapping[str, Any], url: str = URL, headers: Mapping[str, str] | None = None) -> WebhookRequest:
    body = urlencode(form, doseq=True).encode()
    kind = {"content-type": "application/x-www-form-urlencoded"}
    return WebhookRequest("POST", url, kind | dict(signed(body) if headers is None else headers), body)


def post_json(value: Any, headers: Mapping[str, str] | None = None) -> WebhookRequest:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    kind = {"content-type": "application/json"}
    return WebhookRequest("POST", URL, kind | dict(signed(body) if headers is None else headers), body)


def message(**changes: Any) -> dict[str, Any]:
    payload = {
        "id": "40385f64-5717-4562-b3fc-2c963f66afa6",
        "direction": "inbound",
        "type": "SMS",
        "from": {"phone_number": "+15551230001", "carrier": "x"},
        "to": [{"phone_number": "+15551230002", "status": "webhook_delivered"}],
        "text": "hello",
    } | changes
    return {"data": {"event_type": "message.received", "id": "e1", "record_type": "event", "payload": payload}}


def why(request: WebhookRequest, by: TelnyxProvider = provider) -> str:
    with pytest.raises(BadSignature) as caught:
        by.verify(request)
    return caught.value.why


def test_it_is_a_provider_with_its_webhooks() -> None:
    port: Provider = provider
    assert port.webhooks == {
        "/telnyx/voice": (WebhookKind.CALL, frozenset({"POST"})),
        "/telnyx/status": (WebhookKind.STATUS, frozenset({"POST"})),
        "/telnyx/sms": (WebhookKind.TEXT, frozenset({"POST"})),
    }


def test_secrets_are_not_shown() -> None:
    config = TelnyxConfig(PUBLIC_KEY, "s3cret")
    assert "s3cret" not in repr(config)
    assert "s3cret" not in repr(TelnyxProvider(config))


@pytest.mark.parametrize("key", ["no base64!", "QUJD", "é"])
def test_a_public_key_of_no_use_is_a_settings_error(key: str) -> None:
    with pytest.raises(SettingsError, match="TELNYX_PUBLIC_KEY"):
        TelnyxProvider(TelnyxConfig(key))


# --- signatures -------------------------------------------------------------------------------------------------


def official_takes(body: str, headers: Mapping[str, str]) -> bool:
    from telnyx import Telnyx

    try:
        Telnyx(api_key=KEY, public_key=PUBLIC_KEY).webhooks.unwrap(body, headers=headers)
    except ValueError:
        return False
    return True


def test_what_the_official_package_takes_is_genuine_and_what_it_refuses_is_not() -> None:
    pytest.importorskip("nacl", reason="the official package verifies with PyNaCl")
    body = json.dumps(message())
    good = signed(body.encode())
    assert official_takes(body, good)
    assert provider.verify(post_json(body.encode(), good))
    for tampered in (body.replace("hello", "hullo"), body + " "):
        assert not official_takes(tampered, good)
        assert why(post_json(tampered.encode(), good)) == "mismatch"
    for at in (time.time() - 310, time.time() + 310):
        assert not official_takes(body, signed(body.encode(), at))
        assert why(post_json(body.encode(), signed(body.encode(), at))) == "expired"
    stranger = signed(body.encode(), by=Ed25519PrivateKey.generate())
    assert not official_takes(body, stranger)
    assert why(post_json(body.encode(), stranger)) == "mismatch"


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "missing"),
        ({"telnyx-timestamp": "1764000000"}, "missing"),
        ({"telnyx-signature-ed25519": "QUJD"}, "missing"),
        ({"telnyx-signature-ed25519": "QUJD", "telnyx-timestamp": "1764000000"}, "malformed"),
        ({"telnyx-signature-ed25519": "%%", "telnyx-timestamp": "1764000000"}, "malformed"),
        ({"telnyx-signature-ed25519": "é", "telnyx-timestamp": "1764000000"}, "malformed"),
        ({"telnyx-signature-ed25519": "QUJD" * 22, "telnyx-timestamp": "1e9"}, "malformed"),
        ({"telnyx-signature-ed25519": "QUJD" * 22, "telnyx-timestamp": "²"}, "malformed"),
    ],
)
def test_a_signature_that_is_none_is_named_so(headers: dict[str, str], reason: str) -> None:
    assert why(post(FORM, headers=headers)) == reason


def test_without_a_key_nothing_is_genuine() -> None:
    assert why(post(FORM), TelnyxProvider(TelnyxConfig(api_key=KEY))) == "mismatch"


def test_news_told_twice_have_the_same_key_although_they_are_signed_anew() -> None:
    earlier = time.time() - 20
    for make in (partial(post, FORM), partial(post_json, message())):
        request = make()
        again = WebhookRequest("POST", URL, dict(request.headers) | signed(request.body, earlier), request.body)
        assert provider.verify(again) == provider.verify(request)
    assert provider.verify(post(FORM)) != provider.verify(post(FORM | {"CallSid": "v3:another"}))


def test_insecure_takes_what_is_unsigned() -> None:
    assert TelnyxProvider(TelnyxConfig(), insecure=True).verify(post(FORM, headers={}))


@given(signature=st.text(max_size=100), timestamp=st.text(max_size=20))
@settings(max_examples=50, deadline=None)
def test_any_headers_are_refused_by_name(signature: str, timestamp: str) -> None:
    headers = {"telnyx-signature-ed25519": signature, "telnyx-timestamp": timestamp}
    assert why(post(FORM, headers=headers)) in {"missing", "malformed", "mismatch"}


# --- calls ------------------------------------------------------------------------------------------------------


def test_a_call_is_read_with_who_vouches_for_its_number() -> None:
    form = FORM | {"CallerId": "J\0ohn", "ShakenStirAttestation": "A", "ShakenStirValidated": "true"}
    assert provider.read_call(post(form)) == IncomingCall(
        CALL, "+15551230001", "+15551230002", {"CallerId": "J ohn"}, "A"
    )
    for level, validated in (("A", "false"), ("A", ""), ("D", "true"), ("a", "true")):
        assert not provider.read_call(
            post(FORM | {"ShakenStirAttestation": level, "ShakenStirValidated": validated})
        ).attestation


@pytest.mark.parametrize(
    ("form", "url"), [(FORM | {"Direction": "outbound-api"}, URL), (FORM, f"{URL}?dial=t&direction=outbound")]
)
def test_of_a_call_that_we_made_the_caller_is_whom_we_called(form: dict[str, str], url: str) -> None:
    call = provider.read_call(post(form | {"AnsweredBy": "human", "ShakenStirAttestation": "A"}, url))
    assert (call.caller, call.dialled) == ("+15551230002", "+15551230001")
    assert call.is_outbound
    assert call.answered_by == "human"
    assert not call.attestation


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"CallSid": "v3/../x"}, "CallSid"),
        ({"CallSid": ""}, "CallSid"),
        ({"CallSid": [CALL, "v3:b"]}, "CallSid"),
        ({"From": "<script>"}, "From"),
        ({"To": ["+1", "+2"]}, "To"),
        ({"Direction": ["inbound", "outbound"]}, "Direction"),
    ],
)
def test_a_call_with_an_unusable_field_is_refused_by_its_name(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(BadRequest, match=field):
        provider.read_call(post(FORM | changes))


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"CallStatus": "completed"}, CallStatus(CALL, "completed", is_over=True)),
        ({"CallStatus": "no-answer"}, CallStatus(CALL, "no-answer", is_over=True)),
        ({"CallStatus": "in-progress"}, CallStatus(CALL, "in-progress", is_over=False)),
        ({"CallStatus": "invented"}, CallStatus(CALL, "unknown", is_over=False)),
        ({"AnsweredBy": "human"}, CallStatus(CALL, "in-progress", False, "human")),
        ({"AnsweredBy": "machine_end_beep"}, CallStatus(CALL, "in-progress", False, "machine")),
        ({"AnsweredBy": "unknown"}, CallStatus(CALL, "in-progress", False, "")),
        ({"StreamSid": "s", "StreamEvent": "stream-started"}, None),
        ({}, None),
    ],
)
def test_the_states_of_a_call(form: dict[str, str], status: CallStatus | None) -> None:
    assert provider.read_status(post({"CallSid": CALL} | form)) == status


def test_news_of_another_kind_are_none() -> None:
    assert provider.read_status(post_json({"data": {"event_type": "streaming.started", "id": "e"}})) is None


# --- documents --------------------------------------------------------------------------------------------------


def test_the_answer_connects_both_ways_and_then_asks_again() -> None:
    answer = provider.connect(IncomingCall(CALL, "", ""), "wss://h/media/telnyx", "t0ken\x01")
    root = ET.fromstring(answer.body)
    connect, redirect = root
    assert (connect.tag, redirect.tag, redirect.attrib) == ("Connect", "Redirect", {"method": "POST"})
    (stream,) = connect
    assert stream.attrib == {
        "url": "wss://h/media/telnyx",
        "track": "inbound_track",
        "codec": "PCMU",
        "bidirectionalMode": "rtp",
        "bidirectionalCodec": "PCMU",
    }
    assert [dict(parameter.attrib) for parameter in stream] == [{"name": "token", "value": "t0ken "}]
    assert answer.content_type.startswith("text/xml")


# --- texts ------------------------------------------------------------------------------------------------------


def test_a_text_is_read_and_receipts_are_not() -> None:
    assert provider.read_text(post_json(message())) == IncomingText(
        "40385f64-5717-4562-b3fc-2c963f66afa6", "+15551230001", "+15551230002", "hello"
    )
    picture = provider.read_text(post_json(message(text=None)))
    assert picture is not None
    assert picture.text == ""
    receipt = message()
    receipt["data"]["event_type"] = "message.finalized"
    assert provider.read_text(post_json(receipt)) is None
    assert not provider.answers_texts
    assert provider.answer_text("hello").body == b""


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"data": 1}, "data"),
        (message(id="../x"), "id"),
        (message(**{"from": "+1"}), "from"),
        (message(to=[]), "to"),
        (message(to=[{"phone_number": "<>"}]), "to"),
        (message(text=["a"]), "text"),
        ({"data": {"event_type": "message.received", "payload": None}}, "payload"),
        ([], "body"),
    ],
)
def test_an_unusable_text_is_refused_by_its_field(value: Any, field: str) -> None:
    with pytest.raises(BadRequest, match=field):
        provider.read_text(post_json(value))


# --- REST -------------------------------------------------------------------------------------------------------

OVER = b'{"errors":[{"code":"90018","title":"Call has already ended"}]}'
DIAL = Dial("+15551230009", "+15551230002", f"{URL}?dial=t", "https://engine.example.com/telnyx/status", 20.5, True)


def strict_telnyx(request: ApiRequest) -> tuple[int, bytes]:
    """What Telnyx answers to what its official client and we ask."""
    if request.headers.get("authorization") != f"Bearer {KEY}":
        return 401, b'{"errors":[{"code":"10009"}]}'
    content = json.loads(request.body)
    path = request.path.replace("%3A", ":")
    if path == f"/v2/texml/Accounts/{ACCOUNT}/Calls":
        is_whole = content.keys() >= {"ApplicationSid", "To", "From", "Url"}
        return (
            (200, json.dumps({"from": content["From"], "to": content["To"], "call_sid": CALL}).encode())
            if (is_whole)
            else (422, b"{}")
        )
    if path == "/v2/messages":
        return (200, b'{"data":{"id":"m"}}') if content.keys() == {"from", "to", "text"} else (422, b"{}")
    wanted = {"hangup": set[str](), "transfer": {"to", "from"}, "send_dtmf": {"digits"}}
    for action, names in wanted.items():
        if path == f"/v2/calls/{CALL}/actions/{action}":
            return (200, b'{"data":{"result":"ok"}}') if content.keys() == names else (422, b"{}")
    return 404, b'{"errors":[{"code":"10005","title":"Resource not found"}]}'


def official(base: str) -> Any:
    from telnyx import Telnyx

    return Telnyx(api_key=KEY, base_url=f"{base}/v2", max_retries=0)


async def both(base: str, theirs: Any, ours: Any) -> None:
    await trio.to_thread.run_sync(theirs)
    async with httpx.AsyncClient(trust_env=False) as client:
        await ours(TelnyxProvider(TelnyxConfig(PUBLIC_KEY, KEY, ACCOUNT, APPLICATION, base)), client)


@pytest.mark.parametrize("what", ["hang_up", "transfer", "press", "text", "dial"])
@pytest.mark.proves("official client", adapter="telnyx")
async def test_we_ask_what_the_official_client_asks(what: str) -> None:
    async with rest_api(strict_telnyx) as api:
        they, actions = official(api.base), official(api.base).calls.actions
        dialled = {
            "ApplicationSid": APPLICATION,
            "To": DIAL.to,
            "From": DIAL.sender,
            "Url": f"{URL}?dial=t&direction=outbound",
            "UrlMethod": "POST",
            "StatusCallback": DIAL.status_url,
            "StatusCallbackMethod": "POST",
            "StatusCallbackEvent": "initiated ringing answered completed",
            "Timeout": 21,
            "MachineDetection": "DetectMessageEnd",
            "AsyncAmd": True,
            "AsyncAmdStatusCallback": DIAL.status_url,
            "AsyncAmdStatusCallbackMethod": "POST",
        }
        asks: dict[str, tuple[Any, Any]] = {
            "hang_up": (partial(actions.hangup, CALL), lambda by, http: by.control.hang_up(CALL, http)),
            "transfer": (
                partial(actions.transfer, CALL, to="+15551230009", from_="+15551230002"),
                lambda by, http: by.control.transfer(CALL, "+15551230009", "+15551230002", http),
            ),
            "press": (
                partial(actions.send_dtmf, CALL, digits="1w#"),
                lambda by, http: by.control.press(CALL, "1w#", http),
            ),
            "text": (
                partial(they.messages.send, from_="+15551230002", to="+15551230001", text="hello & ü"),
                lambda by, http: by.control.send_text("+15551230002", "+15551230001", "hello & ü", http),
            ),
            "dial": (
                partial(they.texml.accounts.calls.calls, ACCOUNT, body=dialled),
                lambda by, http: by.control.dial(DIAL, http),
            ),
        }
        await both(api.base, *asks[what])
        theirs, ours = api.requests
    assert (ours.method, ours.path) == (theirs.method, theirs.path.replace("%3A", ":"))
    assert json.loads(ours.body) == json.loads(theirs.body)
    assert ours.headers["authorization"] == theirs.headers["authorization"]


async def ask(base: str, what: str, *words: Any, config: TelnyxConfig | None = None) -> Any:
    async with httpx.AsyncClient(trust_env=False) as client:
        by = TelnyxProvider(config or TelnyxConfig(PUBLIC_KEY, KEY, ACCOUNT, APPLICATION, base))
        return await getattr(by.control, what)(*words, client)


async def test_a_dialled_call_has_its_id_or_none_if_the_answer_tells_none() -> None:
    async with rest_api(strict_telnyx) as api:
        assert await ask(api.base, "dial", DIAL) == CALL
    async with rest_api(lambda _: (200, b'{"status":"queued"}')) as api:
        assert await ask(api.base, "dial", DIAL) == ""


@pytest.mark.parametrize("answer", [(422, OVER), (404, b"{}")])
async def test_a_call_that_is_over_already_is_a_success(answer: tuple[int, bytes]) -> None:
    async with rest_api(lambda _: answer) as api:
        await ask(api.base, "hang_up", CALL)


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, Why.AUTH), (422, Why.BAD_REQUEST), (429, Why.RATE_LIMITED), (500, Why.UNREACHABLE), (302, Why.NONSENSE)],
)
async def test_any_other_answer_is_a_vendor_error_with_its_reason_and_no_secret(status: int, reason: Why) -> None:
    async with rest_api(lambda _: (status, b"<html>")) as api:
        for words in (("hang_up", CALL), ("transfer", CALL, "+15551230009", ""), ("dial", DIAL), ("press", CALL, "1")):
            with pytest.raises(VendorError, match=str(status)) as caught:
                await ask(api.base, *words)
            assert caught.value.why is reason
            assert KEY not in str(caught.value)


async def test_an_api_that_is_not_there_is_a_vendor_error() -> None:
    with pytest.raises(VendorError) as caught:
        await ask("http://127.0.0.1:1", "hang_up", CALL)
    assert caught.value.why is Why.UNREACHABLE


@pytest.mark.parametrize(
    "words",
    [
        ("hang_up", "../../x"),
        ("transfer", CALL, "5551230009", "+15551230002"),
        ("transfer", CALL, "sip:a@b/../c", "+15551230002"),
        ("press", CALL, "12x"),
        ("press", CALL, ""),
        ("dial", Dial("911; DROP", "+15551230002", URL, URL)),
        ("send_text", "", "+1", "hello"),
    ],
)
async def test_what_is_no_id_number_or_key_is_asked_of_nobody(words: tuple[Any, ...]) -> None:
    async with rest_api(strict_telnyx) as api:
        with pytest.raises(VendorError) as caught:
            await ask(api.base, *words)
        assert caught.value.why is Why.BAD_REQUEST
        assert api.requests == []


async def test_without_a_key_nothing_is_asked() -> None:
    async with rest_api(strict_telnyx) as api:
        config = TelnyxConfig(PUBLIC_KEY, api_base=api.base)
        assert TelnyxProvider(config).control.abilities == frozenset()
        await ask(api.base, "hang_up", CALL, config=config)
        for words in (("transfer", CALL, "+15551230009", ""), ("dial", DIAL), ("press", CALL, "1")):
            with pytest.raises(VendorError):
                await ask(api.base, *words, config=config)
        assert api.requests == []
    without_application = TelnyxProvider(TelnyxConfig(PUBLIC_KEY, KEY)).control.abilities
    assert without_application == frozenset(Ability) - {Ability.DIAL, Ability.DETECT_MACHINE, Ability.WARM_TRANSFER}
