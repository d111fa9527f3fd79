"""Twilio's webhooks, answers and REST: judged by the official package in both directions."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlencode
from xml.etree import ElementTree as ET

import httpx
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from twilio.http.http_client import TwilioHttpClient  # type: ignore[import-untyped] # ships no types
from twilio.request_validator import RequestValidator  # type: ignore[import-untyped] # ships no types
from twilio.rest import Client  # type: ignore[import-untyped] # ships no types
from twilio.twiml.voice_response import Connect, VoiceResponse  # type: ignore[import-untyped] # ships no types

from adapters.providers.twilio.provider import TwilioConfig, TwilioProvider
from adapters.providers.twilio.signature import sign
from engine.errors import BadRequest, BadSignature, VendorError
from engine.ports import Ability, CallStatus, IncomingCall, Provider, WebhookKind, WebhookRequest
from tests.adapters.providers.rest_api import ApiRequest, rest_api

TOKEN, SHARED = "12345", "a shared secret"
ACCOUNT, CALL = "AC" + "c" * 32, "CA" + "b" * 32
URL = "https://engine.example.com/voice"
FORM = {"CallSid": CALL, "From": "+15551230001", "To": "+15551230002", "CallStatus": "ringing", "Digits": ""}
KEY_SETTINGS = "key=webhooks_sharedkey_1,algorithm=HMAC_SHA256"

provider = TwilioProvider(TwilioConfig(TOKEN, ACCOUNT, shared_keys={"webhooks_sharedkey_1": SHARED}))


def post(
    form: dict[str, Any] | None = None, *, url: str = URL, signature: str | None = None, settings_header: str = ""
) -> WebhookRequest:
    form = FORM if form is None else form
    headers = {"content-type": "application/x-www-form-urlencoded; charset=UTF-8"}
    if signature is None:
        signature = RequestValidator(TOKEN).compute_signature(URL, form)
    if signature:
        headers["x-twilio-signature"] = signature
    if settings_header:
        headers["x-twilio-webhooks-signature-settings"] = settings_header
    return WebhookRequest("POST", url, headers, urlencode(form, doseq=True).encode())


def why(request: WebhookRequest, by: TwilioProvider = provider) -> str:
    with pytest.raises(BadSignature) as caught:
        by.verify(request)
    return caught.value.why


def test_it_is_a_provider_with_its_webhooks() -> None:
    port: Provider = provider
    assert port.webhooks == {
        "/voice": (WebhookKind.CALL, frozenset({"POST"})),
        "/twilio/status": (WebhookKind.STATUS, frozenset({"POST"})),
        "/twilio/whisper": (WebhookKind.WHISPER, frozenset({"POST"})),
        "/sms": (WebhookKind.TEXT, frozenset({"POST"})),
    }


def test_secrets_are_not_shown() -> None:
    config = TwilioConfig("s3cret", ACCOUNT, shared_keys={"k": "s3cret too"})
    assert "s3cret" not in repr(config)
    assert "s3cret" not in repr(TwilioProvider(config))


# --- signatures -------------------------------------------------------------------------------------------------


def test_what_the_official_package_signs_is_genuine() -> None:
    assert provider.verify(post())


def test_what_we_sign_is_genuine_to_the_official_package() -> None:
    signature = sign(URL, list(FORM.items()), TOKEN)
    assert RequestValidator(TOKEN).validate(URL, FORM, signature)
    signature = sign(URL, list(FORM.items()), SHARED, "HMAC_SHA256")
    assert RequestValidator(SHARED).validate(URL, FORM, signature, "HMAC_SHA256")


def test_requests_signed_with_a_shared_key_are_genuine() -> None:
    signature = RequestValidator(SHARED).compute_signature(URL, FORM, "HMAC_SHA256")
    assert provider.verify(post(signature=signature, settings_header=KEY_SETTINGS))


@pytest.mark.parametrize(
    ("settings_header", "reason"),
    [
        ("key=another,algorithm=HMAC_SHA256", "mismatch"),
        ("key=webhooks_sharedkey_1,algorithm=HMAC_MD5", "malformed"),
        ("key=webhooks_sharedkey_1,algorithm=none", "malformed"),
        ("key=webhooks_sharedkey_1", "mismatch"),
        ("algorithm=HMAC_SHA256", "mismatch"),
        ("", "mismatch"),
        ("é,=,,==", "mismatch"),
    ],
)
def test_other_signature_settings_do_not_pass(settings_header: str, reason: str) -> None:
    signature = RequestValidator(SHARED).compute_signature(URL, FORM, "HMAC_SHA256")
    assert why(post(signature=signature, settings_header=settings_header)) == reason


def test_a_missing_signature_is_named_so() -> None:
    assert why(post(signature="")) == "missing"


@pytest.mark.parametrize(
    "request_",
    [
        post({**FORM, "From": "+15551230009"}, signature=RequestValidator(TOKEN).compute_signature(URL, FORM)),
        post({**FORM, "Extra": "x"}, signature=RequestValidator(TOKEN).compute_signature(URL, FORM)),
        post({**FORM, "From": [FORM["From"], "+1"]}, signature=RequestValidator(TOKEN).compute_signature(URL, FORM)),
        post(url=URL + "?x=1"),
        post(url="https://other.example.com/voice"),
        post(url="http://engine.example.com/voice"),
        post(url="https://engine.example.com:8443/voice", signature=sign(URL + "x", list(FORM.items()), TOKEN)),
        post(signature=RequestValidator("wrong").compute_signature(URL, FORM)),
        post(signature="not base64 at all"),
        post(signature="é" * 28),
        post(signature="\udcff"),
    ],
)
def test_a_tampered_request_does_not_pass(request_: WebhookRequest) -> None:
    assert why(request_) == "mismatch"


def test_a_doubled_parameter_is_signed_as_the_official_package_does() -> None:
    form: dict[str, Any] = {**FORM, "Tag": ["b", "a", "b"]}

    class Multi(dict[str, Any]):
        def getlist(self, name: str) -> list[str]:
            value = self[name]
            return value if isinstance(value, list) else [value]

    assert provider.verify(post(form, signature=RequestValidator(TOKEN).compute_signature(URL, Multi(form))))


@pytest.mark.parametrize(
    ("signed", "called"),
    [
        ("https://h.example.com/voice?a=b%20c&d", "https://h.example.com/voice?a=b%20c&d"),
        ("https://h.example.com:443/voice", "https://h.example.com/voice"),
        ("https://h.example.com/voice", "https://h.example.com:443/voice"),
        ("https://h.example.com/voice", "https://h.example.com:8443/voice"),
        ("http://h.example.com:80/voice", "http://h.example.com/voice"),
        ("wss://h.example.com/media/twilio", "wss://h.example.com/media/twilio"),
        ("wss://h.example.com:443/media/twilio", "wss://h.example.com/media/twilio"),
        ("ws://h.example.com:80/media/twilio", "ws://h.example.com/media/twilio"),
        ("https://[2001:db8::1]:443/voice", "https://[2001:db8::1]/voice"),
        ("https://[2001:db8::1]/voice", "https://[2001:db8::1]:443/voice"),
    ],
)
def test_the_url_is_signed_with_or_without_its_port(signed: str, called: str) -> None:
    signature = RequestValidator(TOKEN).compute_signature(signed, {})
    assert provider.verify(WebhookRequest("GET", called, {"x-twilio-signature": signature}))


def test_a_json_body_is_genuine_by_its_hash_in_the_url() -> None:
    body = b'{"a":"\xc3\xa9"}'
    url = f"{URL}?bodySHA256={hashlib.sha256(body).hexdigest()}"
    signature = RequestValidator(TOKEN).compute_signature(url, {})
    assert RequestValidator(TOKEN).validate(url, body.decode(), signature)
    headers = {"content-type": "application/json", "x-twilio-signature": signature}
    assert provider.verify(WebhookRequest("POST", url, headers, body))
    assert why(WebhookRequest("POST", url, headers, body + b" ")) == "mismatch"
    assert why(WebhookRequest("POST", url, headers)) == "mismatch"


def test_a_body_that_no_signature_covers_does_not_pass() -> None:
    signature = RequestValidator(TOKEN).compute_signature(URL, {})
    headers = {"content-type": "application/json", "x-twilio-signature": signature}
    assert why(WebhookRequest("POST", URL, headers, b"{}")) == "mismatch"
    assert why(WebhookRequest("POST", URL, {"x-twilio-signature": signature}, b"From=x")) == "mismatch"


def test_a_form_that_is_none_is_malformed() -> None:
    headers = {"content-type": "application/x-www-form-urlencoded", "x-twilio-signature": "x"}
    assert why(WebhookRequest("POST", URL, headers, b"\xff\xfe")) == "malformed"
    assert why(WebhookRequest("POST", URL, headers, b"a=1&" * 100_000)) == "malformed"
    assert why(WebhookRequest("POST", "https://[bad", headers, b"")) in ("malformed", "mismatch")


def test_without_a_secret_nothing_is_genuine() -> None:
    forged = post(signature=sign(URL, list(FORM.items()), ""))
    assert why(forged, TwilioProvider(TwilioConfig())) == "mismatch"


def test_insecure_takes_unsigned_webhooks() -> None:
    assert TwilioProvider(TwilioConfig(), insecure=True).verify(post(signature=""))


@pytest.mark.parametrize("insecure", [False, True])
def test_the_replay_key_is_equal_for_a_replay_and_for_nothing_else(insecure: bool) -> None:
    by = TwilioProvider(TwilioConfig(TOKEN), insecure=insecure)
    other = {**FORM, "CallSid": "CA" + "d" * 32}
    assert by.verify(post()) == by.verify(post())
    other_request = post(other, signature=RequestValidator(TOKEN).compute_signature(URL, other))
    assert by.verify(post()) != by.verify(other_request)


def test_a_replay_with_its_fields_in_another_order_is_still_a_replay() -> None:
    signature = RequestValidator(TOKEN).compute_signature(URL, FORM)
    reordered = post(dict(reversed(FORM.items())), signature=signature)
    assert provider.verify(reordered) == provider.verify(post())


@given(
    url=st.text(max_size=40),
    headers=st.dictionaries(
        st.sampled_from(["x-twilio-signature", "x-twilio-webhooks-signature-settings", "content-type"]), st.text()
    ),
    body=st.binary(max_size=60),
)
@settings(max_examples=100, deadline=None)
def test_any_request_at_all_is_refused_in_order(url: str, headers: dict[str, str], body: bytes) -> None:
    with pytest.raises(BadSignature):
        provider.verify(WebhookRequest("POST", url, headers, body))


# --- reading ----------------------------------------------------------------------------------------------------


def test_a_call_is_read_with_what_an_agent_may_want() -> None:
    form = {**FORM, "FromCity": "OAKLAND\r\n", "CallerName": "<b>Ann\u202e</b>", "AccountSid": ACCOUNT, "New": "x"}
    assert provider.read_call(post(form)) == IncomingCall(
        CALL, "+15551230001", "+15551230002", {"FromCity": "OAKLAND", "CallerName": "<b>Ann </b>"}
    )


@pytest.mark.parametrize("caller", ["", "anonymous", "client:alice_1", "sip:bob@example.com:5060;transport=udp"])
def test_callers_come_in_many_spellings(caller: str) -> None:
    assert provider.read_call(post({**FORM, "From": caller})).caller == caller


def test_a_plus_that_a_form_turned_into_a_blank_is_put_back() -> None:
    request = WebhookRequest("POST", URL, post().headers, f"CallSid={CALL}&From=+15551230001&To=+1555".encode())
    call = provider.read_call(request)
    assert (call.caller, call.dialled) == ("+15551230001", "+1555")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("CallSid", ""),
        ("CallSid", "../../etc/passwd"),
        ("CallSid", "%2f"),
        ("CallSid", "{{7*7}}"),
        ("CallSid", "CA" * 50_000),
        ("CallSid", "CA1\r\nX: y"),
        ("CallSid", ["CA1", "CA2"]),
        ("From", "<Response/>"),
        ("From", "+1555\r\nEvil: 1"),
        ("From", "+1555\0"),
        ("From", "\u202e+1555"),
        ("From", "1" * 1000),
        ("From", ["+1", "+2"]),
        ("To", "'; DROP TABLE calls; --\""),
    ],
)
def test_a_bad_field_is_named_and_its_value_is_not(field: str, value: str) -> None:
    with pytest.raises(BadRequest) as caught:
        provider.read_call(post({**FORM, field: value}, signature="unread"))
    assert str(caught.value) == field


def test_a_body_that_is_no_form_is_a_bad_request() -> None:
    with pytest.raises(BadRequest):
        provider.read_call(WebhookRequest("POST", URL, {"content-type": "application/json"}, b"{}"))
    with pytest.raises(BadRequest):
        provider.read_call(WebhookRequest("POST", URL, post().headers, b"\xff"))


@pytest.mark.parametrize(
    ("status", "read", "is_over"),
    [
        ("in-progress", "in-progress", False),
        ("completed", "completed", True),
        ("no-answer", "no-answer", True),
        ("canceled", "canceled", True),
        ("<script>", "unknown", False),
    ],
)
def test_a_status_is_read(status: str, read: str, is_over: bool) -> None:
    assert provider.read_status(post({**FORM, "CallStatus": status})) == CallStatus(CALL, read, is_over)


def test_news_of_a_stream_is_no_status_of_a_call() -> None:
    assert provider.read_status(post({"CallSid": CALL, "StreamSid": "MZ1", "StreamEvent": "stream-started"})) is None


# --- answers ----------------------------------------------------------------------------------------------------

CALL_INFO = IncomingCall(CALL, "+15551230001", "+15551230002")


def canonical(twiml: bytes | str) -> str:
    return ET.canonicalize(twiml.decode() if isinstance(twiml, bytes) else twiml)


def test_the_answer_is_the_twiml_that_the_official_package_writes() -> None:
    answer = provider.connect(CALL_INFO, "wss://engine.example.com/media/twilio", "t0<ken>&")
    response = VoiceResponse()
    connect = Connect()
    connect.stream(url="wss://engine.example.com/media/twilio").parameter(name="token", value="t0<ken>&")
    response.append(connect)
    again = ET.fromstring(answer.body)[1].text
    response.redirect(again, method="POST")
    assert canonical(answer.body) == canonical(str(response))
    assert answer.content_type.startswith("text/xml")


def test_the_refusal_is_the_twiml_that_the_official_package_writes() -> None:
    response = VoiceResponse()
    response.say("All lines are busy. Äöü & <co>")
    response.hangup()
    assert canonical(provider.refuse("All lines are busy. Äöü & <co>").body) == canonical(str(response))


def test_a_status_is_answered_with_an_empty_document() -> None:
    assert canonical(provider.acknowledge(post()).body) == canonical(str(VoiceResponse()))


# --- REST -------------------------------------------------------------------------------------------------------


class LoopbackClient(TwilioHttpClient):  # type: ignore[misc] # ships no types
    """The official client, led to loopback."""

    def __init__(self, base: str) -> None:
        super().__init__(pool_connections=False)
        self.base = base

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        return super().request(method, url.replace("https://api.twilio.com", self.base), *args, **kwargs)


def strict_twilio(request: ApiRequest) -> tuple[int, bytes]:
    """What Twilio answers to the update of a call, as far as its official client and we need it."""
    expected = base64.b64encode(f"{ACCOUNT}:{TOKEN}".encode()).decode()
    if request.headers.get("authorization") != f"Basic {expected}":
        return 401, b'{"code":20003}'
    if request.method != "POST" or request.path != f"/2010-04-01/Accounts/{ACCOUNT}/Calls/{CALL}.json":
        return 404, b'{"code":20404,"message":"not found","status":404}'
    if parse_qs(request.body.decode()) != {"Status": ["completed"]}:
        return 400, b'{"code":21218}'
    return 200, json.dumps({"sid": CALL, "status": "completed"}).encode()


async def hang_up(base: str, call_id: str = CALL, token: str = TOKEN) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        by = TwilioProvider(TwilioConfig(token, ACCOUNT, base))
        assert Ability.HANG_UP in by.control.abilities
        await by.control.hang_up(call_id, client)


async def test_hang_up_asks_what_the_official_client_asks() -> None:
    async with rest_api(strict_twilio) as api:
        official = Client(ACCOUNT, TOKEN, http_client=LoopbackClient(api.base))
        call = await trio.to_thread.run_sync(partial(official.calls(CALL).update, status="completed"))
        assert call.status == "completed"
        await hang_up(api.base)
        theirs, ours = api.requests
    assert (ours.method, ours.path, ours.body) == (theirs.method, theirs.path, theirs.body)
    assert ours.headers["authorization"] == theirs.headers["authorization"]
    assert ours.headers["content-type"] == theirs.headers["content-type"]


async def test_a_call_that_is_over_already_is_a_success() -> None:
    async with rest_api(strict_twilio) as api:
        await hang_up(api.base, call_id="CA" + "0" * 32)
        assert len(api.requests) == 1
    async with rest_api(lambda _: (400, b'{"code":21220}')) as api:
        await hang_up(api.base)


@pytest.mark.parametrize(
    "answer", [(401, b'{"code":20003}'), (404, b"<html>"), (500, b""), (302, b""), (429, b'{"code":20429}')]
)
async def test_any_other_answer_is_a_vendor_error_without_a_secret(answer: tuple[int, bytes]) -> None:
    async with rest_api(lambda _: answer) as api:
        with pytest.raises(VendorError) as caught:
            await hang_up(api.base)
    assert str(answer[0]) in str(caught.value)
    assert TOKEN not in str(caught.value)


async def test_an_api_that_is_not_there_is_a_vendor_error() -> None:
    with pytest.raises(VendorError):
        await hang_up("http://127.0.0.1:1")


async def test_an_id_that_is_none_never_gets_into_a_url() -> None:
    async with rest_api(strict_twilio) as api:
        with pytest.raises(VendorError):
            await hang_up(api.base, call_id="../../Accounts")
        assert api.requests == []


async def test_without_credentials_nothing_is_asked() -> None:
    async with rest_api(strict_twilio) as api, httpx.AsyncClient(trust_env=False) as client:
        for config in (TwilioConfig(TOKEN, api_base=api.base), TwilioConfig("", ACCOUNT, api.base)):
            by = TwilioProvider(config)
            assert Ability.HANG_UP not in by.control.abilities
            await by.control.hang_up(CALL, client)
        assert api.requests == []
