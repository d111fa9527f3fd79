"""Vonage's webhooks, answers and REST: judged by the official package, and beyond it where it does not look."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import uuid
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import jwt
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.providers.vonage.provider import MAX_HEADERS_BYTES, VonageConfig, VonageProvider
from engine.errors import BadRequest, BadSignature, SettingsError, VendorError
from engine.ports import Ability, CallStatus, IncomingCall, Provider, WebhookKind, WebhookRequest
from tests.adapters.providers.rest_api import ApiRequest, loopback_tls, new_key, pem_of, rest_api

SECRET = "a signature secret of thirty-two bytes"
CALL = "63f61863-4a51-4f6b-86e1-46edebcf9356"
NOW = 1_700_000_000.0  # past, because the official package looks at the real clock
KEY = new_key()
PEM = pem_of(KEY)
ANSWER = {"uuid": CALL, "from": "14155550100", "to": "14155550111", "conversation_uuid": "CON-1"}
URL = "https://engine.example.com/vonage/answer"

provider = VonageProvider(VonageConfig(SECRET), now=lambda: NOW)


def token_for(body: bytes, *, secret: str = SECRET, algorithm: str = "HS256", **changes: Any) -> str:
    claims = {
        "iat": int(NOW),
        "jti": str(uuid.uuid4()),
        "iss": "Vonage",
        "api_key": "abcd1234",
        "application_id": "app",
        "payload_hash": hashlib.sha256(body).hexdigest(),
        **changes,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, secret, algorithm=algorithm)


def post(body: Any = ANSWER, token: str | None = None, **changes: Any) -> WebhookRequest:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    token = token_for(content, **changes) if token is None else token
    headers = {"content-type": "application/json", "authorization": f"Bearer {token}"}
    return WebhookRequest("POST", URL, headers, content)


def get(query: dict[str, Any], token: str | None = None) -> WebhookRequest:
    token = token_for(b"", payload_hash=None) if token is None else token
    return WebhookRequest("GET", f"{URL}?{urlencode(query, doseq=True)}", {"authorization": f"Bearer {token}"})


def why(request: WebhookRequest, by: VonageProvider = provider) -> str:
    with pytest.raises(BadSignature) as caught:
        by.verify(request)
    return caught.value.why


def b64(part: Any) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(header: Any, claims: Any, secret: str = SECRET) -> str:
    """A token made by hand, for what no library will make."""
    head = f"{b64(header)}.{b64(claims)}"
    return f"{head}.{b64(hmac.new(secret.encode(), head.encode(), hashlib.sha256).digest())}"


def test_it_is_a_provider_with_its_webhooks() -> None:
    port: Provider = provider
    assert port.webhooks == {
        "/vonage/answer": (WebhookKind.CALL, frozenset({"GET", "POST"})),
        "/vonage/stream": (WebhookKind.CALL, frozenset({"POST"})),
        "/vonage/transfer": (WebhookKind.CALL, frozenset({"POST"})),
        "/vonage/whisper": (WebhookKind.WHISPER, frozenset({"GET", "POST"})),
        "/vonage/event": (WebhookKind.STATUS, frozenset({"POST"})),
        "/vonage/sms": (WebhookKind.TEXT, frozenset({"GET", "POST"})),
    }


def test_secrets_are_not_shown() -> None:
    config = VonageConfig("s3cret", "app", PEM)
    assert "s3cret" not in repr(config)
    assert "PRIVATE" not in repr(config)
    assert "s3cret" not in repr(VonageProvider(config))


@pytest.mark.parametrize("pem", ["not a key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"])
def test_a_private_key_of_no_use_is_a_settings_error_that_does_not_repeat_it(pem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        VonageProvider(VonageConfig(private_key=pem))
    assert pem not in str(caught.value)


def test_a_key_of_another_kind_and_a_rate_of_no_use_are_settings_errors() -> None:
    curve = ec.generate_private_key(ec.SECP256R1())
    pem = curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    with pytest.raises(SettingsError):
        VonageProvider(VonageConfig(private_key=pem))
    with pytest.raises(SettingsError):
        VonageProvider(VonageConfig(rate_hz=44100))


# --- signatures -------------------------------------------------------------------------------------------------


def test_a_signed_webhook_is_genuine_to_us_and_to_the_official_package() -> None:
    from tests.adapters.providers.vonage.official import verify_signature

    request = post()
    assert provider.verify(request)
    assert verify_signature(request.headers["authorization"].removeprefix("Bearer "), SECRET)


def test_a_signed_get_is_genuine_without_a_hash() -> None:
    assert provider.verify(get(ANSWER))


def test_the_word_bearer_may_be_spelt_in_any_case() -> None:
    request = post()
    headers = {"authorization": request.headers["authorization"].replace("Bearer", "bearer")}
    assert provider.verify(WebhookRequest("POST", URL, headers, request.body))


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": ""}, {"authorization": "Bearer"}, {"authorization": "Basic x"}]
)
def test_a_missing_token_is_named_so(headers: dict[str, str]) -> None:
    assert why(WebhookRequest("POST", URL, headers, b"{}")) == "missing"


CLAIMS = {"iat": int(NOW), "jti": "j", "payload_hash": hashlib.sha256(b"{}").hexdigest()}


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (token_for(b"{}", secret="another secret of thirty-two bytes!"), "mismatch"),
        (token_for(b"{ }"), "mismatch"),
        (token_for(b"{}", payload_hash=None), "mismatch"),
        (token_for(b"{}", payload_hash=5), "mismatch"),
        (token_for(b"{}", payload_hash="é"), "mismatch"),
        (token_for(b"{}", iat=int(NOW) - 301), "expired"),
        (token_for(b"{}", iat=int(NOW) + 301), "expired"),
        (token_for(b"{}", exp=int(NOW) - 1), "expired"),
        (token_for(b"{}", exp="soon"), "malformed"),
        (token_for(b"{}", jti=None), "malformed"),
        (token_for(b"{}", jti=""), "malformed"),
        (token_for(b"{}", jti="x" * 1000), "malformed"),
        (signed({"alg": "none"}, CLAIMS), "malformed"),
        (jwt.encode(CLAIMS, SECRET * 2, algorithm="HS512"), "malformed"),
        (jwt.encode(CLAIMS, KEY, algorithm="RS256"), "malformed"),
        (signed({"alg": "None"}, CLAIMS), "malformed"),
        (f"{b64({'alg': 'none'})}.{b64(CLAIMS)}.", "malformed"),
        (signed({"alg": ["HS256"]}, CLAIMS), "malformed"),
        (signed({"alg": "HS256", "crit": ["x"]}, CLAIMS), "malformed"),
        (signed({"alg": "HS256"}, {**CLAIMS, "iat": None}), "malformed"),
        (signed({"alg": "HS256"}, {**CLAIMS, "iat": True}), "malformed"),
        (signed({"alg": "HS256"}, {**CLAIMS, "iat": "1700000000"}), "malformed"),
        (signed({"alg": "HS256"}, ["no", "claims"]), "malformed"),
        (signed(["HS256"], CLAIMS), "malformed"),
        (signed(b"[" * 3000, CLAIMS), "malformed"),
        ("a.b.c", "malformed"),
        ("..", "malformed"),
        ("é.é.é", "malformed"),
        ("\udcff", "malformed"),
        ("x" * 100_000, "malformed"),
    ],
)
def test_a_token_of_no_use_is_refused_and_the_reason_named(token: str, reason: str) -> None:
    assert why(post(b"{}", token)) == reason


def test_the_official_package_does_not_check_the_body_and_we_do() -> None:
    from tests.adapters.providers.vonage.official import verify_signature

    token = token_for(b"another body")
    assert verify_signature(token, SECRET)
    assert why(post(ANSWER, token)) == "mismatch"


def test_a_changed_signature_does_not_pass() -> None:
    request = post()
    head, _, mac = request.headers["authorization"].rpartition(".")
    changed = ("A" if mac[0] != "A" else "B") + mac[1:]
    assert why(WebhookRequest("POST", URL, {"authorization": f"{head}.{changed}"}, request.body)) == "mismatch"


def test_without_a_secret_nothing_is_genuine() -> None:
    forged = signed({"alg": "HS256"}, CLAIMS, secret="")
    assert why(post(b"{}", forged), VonageProvider(VonageConfig(), now=lambda: NOW)) == "mismatch"


def test_insecure_takes_unsigned_webhooks() -> None:
    by = VonageProvider(VonageConfig(), insecure=True)
    first, again = WebhookRequest("POST", URL, {}, b"{}"), WebhookRequest("POST", URL, {}, b"{}")
    assert by.verify(first) == by.verify(again) != by.verify(WebhookRequest("POST", URL, {}, b"[]"))


def test_the_replay_key_is_equal_for_a_replay_and_for_nothing_else() -> None:
    request = post()
    assert provider.verify(request) == provider.verify(request) != provider.verify(post())


@given(authorization=st.text() | st.text().map("Bearer ".__add__), body=st.binary(max_size=20))
@settings(max_examples=100, deadline=None)
def test_any_request_at_all_is_refused_in_order(authorization: str, body: bytes) -> None:
    with pytest.raises(BadSignature):
        provider.verify(WebhookRequest("POST", URL, {"authorization": authorization}, body))


# --- reading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", [post(), get(ANSWER)])
def test_a_call_is_read_from_a_get_and_from_a_post(request_: WebhookRequest) -> None:
    call = provider.read_call(request_)
    assert call == IncomingCall(CALL, "+14155550100", "+14155550111", {"conversation_uuid": "CON-1"})


@pytest.mark.parametrize("make", [post, get])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("uuid", ""),
        ("uuid", "../../x"),
        ("uuid", "x" * 100_000),
        ("from", "<speak>"),
        ("from", "1\r\n2"),
        ("to", "1" * 1000),
        ("to", ["1", "2"]),
    ],
)
def test_a_bad_field_is_named_and_its_value_is_not(make: Any, field: str, value: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        provider.read_call(make({**ANSWER, field: value}))
    assert str(caught.value) == field


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"[" * 100_000, b"uuid=1"])
def test_a_body_that_is_no_object_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadRequest):
        provider.read_call(post(body))
    with pytest.raises(BadRequest):
        provider.read_status(post(body))


def test_a_query_of_a_hundred_thousand_fields_is_a_bad_request() -> None:
    with pytest.raises(BadRequest):
        provider.read_call(WebhookRequest("GET", URL + "?" + "a=1&" * 100_000, {}))


@pytest.mark.parametrize(
    ("status", "read", "is_over"),
    [
        ("answered", "answered", False),
        ("disconnected", "disconnected", False),
        ("completed", "completed", True),
        ("unanswered", "unanswered", True),
        ("<script>", "unknown", False),
    ],
)
def test_a_status_is_read(status: str, read: str, is_over: bool) -> None:
    assert provider.read_status(post({"uuid": CALL, "status": status})) == CallStatus(CALL, read, is_over)


def test_news_without_a_status_is_none_of_a_calls_state() -> None:
    assert provider.read_status(post({"recording_url": "https://x", "conversation_uuid": "CON-1"})) is None
    with pytest.raises(BadRequest):
        provider.read_status(post({"uuid": CALL, "status": 5}))


# --- answers ----------------------------------------------------------------------------------------------------

CALL_INFO = IncomingCall(CALL, "14155550100", "14155550111")


def connect_of(by: VonageProvider, call: IncomingCall = CALL_INFO) -> dict[str, Any]:
    (action,) = json.loads(by.connect(call, "wss://engine.example.com/media/vonage", "t0ken").body)
    assert isinstance(action, dict)
    return action


def test_the_answer_is_an_ncco_that_the_official_package_knows() -> None:
    from tests.adapters.providers.vonage.official import Connect

    by = VonageProvider(VonageConfig(rate_hz=8000))
    action = connect_of(by)
    endpoint = action["endpoint"][0]
    official = Connect(
        endpoint=[{**endpoint, "contentType": endpoint["content-type"]}],
        from_=action["from"],
        eventType=action["eventType"],
        eventUrl=action["eventUrl"],
    )
    assert json.loads(official.model_dump_json(by_alias=True, exclude_none=True)) == action
    assert endpoint["content-type"] == "audio/l16;rate=8000"
    assert endpoint["headers"] == {"call_id": CALL, "token": "t0ken"}


def test_a_call_to_something_that_is_no_number_is_connected_from_any() -> None:
    action = connect_of(provider, IncomingCall(CALL, "", "sip:x@example.com"))
    assert action["randomFromNumber"] is True
    assert "from" not in action


def test_headers_beyond_what_vonage_takes_are_an_error_of_ours() -> None:
    with pytest.raises(ValueError, match="headers"):
        provider.connect(CALL_INFO, "wss://h/media", "x" * MAX_HEADERS_BYTES)


@given(sentence=st.text(min_size=1))
@settings(max_examples=50, deadline=None)
def test_the_refusal_is_a_talk_without_markup(sentence: str) -> None:
    from tests.adapters.providers.vonage.official import Talk

    (action,) = json.loads(provider.refuse(sentence).body)
    assert action.keys() == {"action", "text"}
    assert Talk(text=action["text"]).action.value == action["action"]
    assert not set("<>\0\r\n") & set(action["text"])


def test_a_status_is_answered_with_nothing() -> None:
    answer = provider.acknowledge(post({"status": "started"}))
    assert (answer.status, answer.body) == (204, b"")


# --- REST -------------------------------------------------------------------------------------------------------


def strict_vonage(request: ApiRequest) -> tuple[int, bytes]:
    """What Vonage answers to the update of a call, as far as its official client and we need it."""
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    claims = jwt.decode(token, KEY.public_key(), algorithms=["RS256"], options={"require": ["iat", "exp", "jti"]})
    if claims["application_id"] != "app" or jwt.get_unverified_header(token) != {"alg": "RS256", "typ": "JWT"}:
        return 401, b"{}"
    if request.method != "PUT" or request.path != f"/v1/calls/{CALL}":
        return 404, b'{"title":"Not found"}'
    return (204, b"") if json.loads(request.body) == {"action": "hangup"} else (400, b"{}")


async def hang_up(base: str, call_id: str = CALL, verify: ssl.SSLContext | bool = True) -> None:
    async with httpx.AsyncClient(trust_env=False, verify=verify) as client:
        by = VonageProvider(VonageConfig(SECRET, "app", PEM, base))
        assert Ability.HANG_UP in by.control.abilities
        await by.control.hang_up(call_id, client)


async def test_hang_up_asks_what_the_official_client_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.adapters.providers.vonage.official import Auth, HttpClientOptions, Vonage

    tls, authority = loopback_tls(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
    async with rest_api(strict_vonage, tls) as api:
        options = HttpClientOptions(api_host=api.base.removeprefix("https://"), max_retries=0)
        official = Vonage(Auth(application_id="app", private_key=PEM), options)
        await trio.to_thread.run_sync(partial(official.voice.hangup, CALL))
        await hang_up(api.base, verify=ssl.create_default_context(cafile=str(authority)))
        theirs, ours = api.requests
    assert (ours.method, ours.path) == (theirs.method, theirs.path)
    assert json.loads(ours.body) == json.loads(theirs.body)


async def test_a_call_that_is_over_already_is_a_success() -> None:
    async with rest_api(strict_vonage) as api:
        await hang_up(api.base, call_id=str(uuid.uuid4()))
        assert len(api.requests) == 1


@pytest.mark.parametrize("status", [301, 400, 401, 429, 500])
async def test_any_other_answer_is_a_vendor_error(status: int) -> None:
    async with rest_api(lambda _: (status, b"{}")) as api:
        with pytest.raises(VendorError, match=str(status)):
            await hang_up(api.base)


async def test_an_api_that_is_not_there_is_a_vendor_error() -> None:
    with pytest.raises(VendorError):
        await hang_up("http://127.0.0.1:1")


async def test_an_id_that_is_none_never_gets_into_a_url() -> None:
    async with rest_api(strict_vonage) as api:
        with pytest.raises(VendorError):
            await hang_up(api.base, call_id="../x")
        assert api.requests == []


async def test_without_credentials_nothing_is_asked() -> None:
    async with rest_api(strict_vonage) as api, httpx.AsyncClient(trust_env=False) as client:
        for config in (VonageConfig(SECRET, "app", api_base=api.base), VonageConfig(SECRET, "", PEM, api.base)):
            by = VonageProvider(config)
            assert Ability.HANG_UP not in by.control.abilities
            await by.control.hang_up(CALL, client)
        assert api.requests == []


# --- a websocket that has gone --------------------------------------------------------------------------------


def asked_after(call: IncomingCall, by: VonageProvider) -> str:
    """The address at which Vonage tells that the websocket of this call has gone."""
    ncco = json.loads(by.connect(call, "wss://engine.example.com/media/vonage", "t").body)
    (url,) = ncco[-1]["eventUrl"]
    return str(url)


def gone(url: str, by: VonageProvider = provider) -> IncomingCall | None:
    return by.read_call(replace(post({"status": "disconnected", "uuid": "leg"}), url=url))


@pytest.mark.parametrize("is_outbound", [False, True])
def test_after_its_websocket_a_call_has_its_numbers_though_vonage_tells_none(is_outbound: bool) -> None:
    """Also in an engine that was started anew: all it needs is the secret."""
    call = IncomingCall(CALL, "+14155550100", "sip:desk@example.com", is_outbound=is_outbound)
    url = asked_after(call, provider)
    assert "4155550100" not in url
    assert "desk" not in url
    assert gone(url, VonageProvider(VonageConfig(SECRET))) == replace(call, is_back=True)


def test_numbers_that_were_not_sealed_for_this_call_are_nobodys() -> None:
    call = IncomingCall(CALL, "+14155550100", "+14155550111")
    url = asked_after(call, provider)
    nobody = IncomingCall(CALL, "", "", is_back=True)
    assert gone(url, VonageProvider(VonageConfig("another secret"))) == nobody
    assert gone(asked_after(replace(call, call_id="other"), provider).replace("call=other", f"call={CALL}")) == nobody
    place, _, sealed = url.partition("numbers=")
    for broken in ("", "A", "AAAA", sealed[:-4], sealed[4:], "%ff", "a" * 5000):
        assert gone(f"{place}numbers={broken}") == nobody
    insecure = VonageProvider(VonageConfig(), insecure=True)
    assert gone(asked_after(call, insecure), insecure) == nobody
