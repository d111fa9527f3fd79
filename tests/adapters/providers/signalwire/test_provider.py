"""SignalWire: its signatures judged by the official package, the rest as on Twilio."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from urllib.parse import parse_qs, urlencode

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twilio.request_validator import RequestValidator  # type: ignore[import-untyped] # ships no types

from adapters.providers.signalwire.provider import SignalWireConfig, SignalWireProvider
from adapters.providers.signalwire.signature import sign
from adapters.providers.twilio.provider import TwilioConfig, TwilioProvider
from adapters.providers.twilio.signature import sign as sign_as_twilio
from engine.errors import BadSignature, VendorError, Why
from engine.ports import Ability, Dial, IncomingCall, Provider, WebhookKind, WebhookRequest
from tests.adapters.providers.rest_api import ApiRequest, rest_api

KEY, TOKEN, PROJECT = "a signing key", "PT0123", "6f7e0f5a-3f3c-4f0e-8a5e-1f2e3d4c5b6a"
CALL = "c0ffee00-1111-4222-8333-444455556666"
URL = "https://engine.example.com/signalwire/voice"
FORM = {"CallSid": CALL, "From": "+15551230001", "To": "+15551230002", "CallStatus": "ringing"}
BODY = urlencode(FORM).encode()

provider = SignalWireProvider(SignalWireConfig(KEY, TOKEN, PROJECT, "https://example.signalwire.com"))
Sign = Callable[[str, bytes, str], dict[str, str]]


def by_sha1(url: str, body: bytes, key: str) -> dict[str, str]:
    return {"x-signalwire-signature": sign(url, body, key, "sha1")}


def by_sha256(url: str, body: bytes, key: str) -> dict[str, str]:
    return {"x-signalwire-sha256-signature": sign(url, body, key), "x-signalwire-signature": "not looked at"}


def by_form(url: str, body: bytes, key: str) -> dict[str, str]:
    return {"x-signalwire-signature": sign_as_twilio(url, list(FORM.items()), key)}


def by_form_under_twilios_name(url: str, body: bytes, key: str) -> dict[str, str]:
    return {"x-twilio-signature": sign_as_twilio(url, list(FORM.items()), key)}


SCHEMES = [by_sha1, by_sha256, by_form, by_form_under_twilios_name]


def post(headers: dict[str, str], url: str = URL, body: bytes = BODY) -> WebhookRequest:
    return WebhookRequest("POST", url, {"content-type": "application/x-www-form-urlencoded"} | headers, body)


def why(request: WebhookRequest, by: SignalWireProvider = provider) -> str:
    with pytest.raises(BadSignature) as caught:
        by.verify(request)
    return caught.value.why


def official_takes(request: WebhookRequest) -> bool:
    from signalwire.core.security.webhook_validator import (
        validate_webhook_signature,
        validate_webhook_signature_sha256,
    )

    body = request.body.decode()
    if given := request.headers.get("x-signalwire-sha256-signature"):
        return bool(validate_webhook_signature_sha256(KEY, given, request.url, body))
    given = request.headers.get("x-signalwire-signature") or request.headers["x-twilio-signature"]
    return bool(validate_webhook_signature(KEY, given, request.url, body))


def test_it_is_a_provider_with_its_webhooks() -> None:
    port: Provider = provider
    assert port.webhooks == {
        "/signalwire/voice": (WebhookKind.CALL, frozenset({"POST"})),
        "/signalwire/status": (WebhookKind.STATUS, frozenset({"POST"})),
        "/signalwire/whisper": (WebhookKind.WHISPER, frozenset({"POST"})),
        "/signalwire/sms": (WebhookKind.TEXT, frozenset({"POST"})),
    }
    assert "s3cret" not in repr(SignalWireConfig("s3cret", "s3cret"))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_scheme_is_genuine_to_us_and_to_the_official_package(scheme: Sign) -> None:
    good = post(scheme(URL, BODY, KEY))
    assert official_takes(good)
    assert provider.verify(good)
    for bad in (
        post(scheme(URL, BODY, KEY), body=BODY + b"&x=1"),
        post(scheme(URL, BODY, KEY), url=f"{URL}?x=1"),
        post(scheme(URL, BODY, "another key")),
    ):
        assert not official_takes(bad)
        assert why(bad) == "mismatch"


@pytest.mark.parametrize("url", [URL, "https://engine.example.com:443/signalwire/voice"])
def test_twilios_scheme_is_genuine_with_and_without_the_port(url: str) -> None:
    for signed_url in (URL, "https://engine.example.com:443/signalwire/voice"):
        request = post(by_form(signed_url, BODY, KEY), url=url)
        assert official_takes(request)
        assert provider.verify(request)


def test_a_body_that_is_no_form_is_genuine_by_its_hash_in_the_url() -> None:
    body = b'{"a":1}'
    url = f"{URL}?bodySHA256={hashlib.sha256(body).hexdigest()}"
    headers = {"content-type": "application/json", "x-signalwire-signature": sign_as_twilio(url, (), KEY)}
    assert provider.verify(WebhookRequest("POST", url, headers, body))
    assert why(WebhookRequest("POST", url, headers, b'{"a":2}')) == "mismatch"


def test_a_bad_sha256_is_not_made_good_by_a_weaker_one() -> None:
    headers = by_sha1(URL, BODY, KEY) | {"x-signalwire-sha256-signature": "0" * 64}
    assert why(post(headers)) == "mismatch"


def test_without_signature_or_key_nothing_is_genuine() -> None:
    assert why(post({})) == "missing"
    for scheme in SCHEMES:
        assert why(post(scheme(URL, BODY, "")), SignalWireProvider(SignalWireConfig())) == "mismatch"
    assert SignalWireProvider(SignalWireConfig(), insecure=True).verify(post({}))


@given(signature=st.text(max_size=100))
@settings(max_examples=50, deadline=None)
def test_any_signature_is_refused_by_name(signature: str) -> None:
    for name in ("x-signalwire-signature", "x-signalwire-sha256-signature", "x-twilio-signature"):
        assert why(post({name: signature})) in {"missing", "mismatch"}


def test_a_replay_is_known_again_whatever_it_is_signed_with() -> None:
    keys = {provider.verify(post(scheme(URL, BODY, KEY))) for scheme in SCHEMES}
    assert len(keys) == 1
    other = urlencode(FORM | {"CallSid": "x"}).encode()
    assert provider.verify(post(by_sha1(URL, other, KEY), body=other)) not in keys


def test_calls_and_documents_are_twilios() -> None:
    like = TwilioProvider(TwilioConfig())
    request, call = post({}), IncomingCall(CALL, "+15551230001", "+15551230002")
    assert provider.read_call(request) == like.read_call(request) == call
    assert provider.read_status(request) == like.read_status(request)
    theirs = like.connect(call, "wss://h/m", "t").body.replace(b"/voice?", b"/signalwire/voice?")
    assert provider.connect(call, "wss://h/m", "t").body == theirs
    assert provider.refuse("No.") == like.refuse("No.")
    assert provider.answer_text("Yes") == like.answer_text("Yes")
    assert RequestValidator(KEY).validate(URL, FORM, sign_as_twilio(URL, list(FORM.items()), KEY))


async def test_rest_goes_to_the_space() -> None:
    def answer(request: ApiRequest) -> tuple[int, bytes]:
        assert request.headers["authorization"].startswith("Basic ")
        return 201, json.dumps({"sid": CALL}).encode()

    async with rest_api(answer) as api, httpx.AsyncClient(trust_env=False) as client:
        by = SignalWireProvider(SignalWireConfig(KEY, TOKEN, PROJECT, f"{api.base}/"))
        await by.control.hang_up(CALL, client)
        await by.control.transfer(CALL, "+15551230009", "+15551230002", client)
        assert await by.control.dial(Dial("+15551230009", "+15551230002", URL, URL), client) == CALL
        await by.control.send_text("+15551230002", "+15551230001", "hello", client)
        account = f"/api/laml/2010-04-01/Accounts/{PROJECT}"
        assert [(request.method, request.path) for request in api.requests] == [
            ("POST", f"{account}/Calls/{CALL}.json"),
            ("POST", f"{account}/Calls/{CALL}.json"),
            ("POST", f"{account}/Calls.json"),
            ("POST", f"{account}/Messages.json"),
        ]
        assert parse_qs(api.requests[0].body.decode()) == {"Status": ["completed"]}


async def test_without_a_space_nothing_is_asked_and_keys_cannot_be_pressed() -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        for config in (SignalWireConfig(KEY, TOKEN, PROJECT), SignalWireConfig(KEY, "", PROJECT, "http://127.0.0.1:1")):
            by = SignalWireProvider(config)
            assert by.control.abilities == frozenset()
            await by.control.hang_up(CALL, client)
        assert Ability.PRESS_DIGITS not in provider.control.abilities
        with pytest.raises(VendorError) as caught:
            await provider.control.press(CALL, "1", client)
        assert caught.value.why is Why.BAD_REQUEST
