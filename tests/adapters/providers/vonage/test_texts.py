"""Vonage's SMS: judged by the official package, and beyond it where it does not look."""

from __future__ import annotations

import hashlib
import json
import ssl
import uuid
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import jwt
import pytest
import trio

from adapters.providers.vonage.provider import VonageConfig, VonageProvider
from adapters.providers.vonage.texts import MAX_UNFINISHED, PARTS_S
from engine.errors import BadRequest, BadSignature, VendorError
from engine.ports import Ability, IncomingText, WebhookRequest
from tests.adapters.providers.rest_api import ApiRequest, loopback_tls, new_key, pem_of, rest_api

SECRET = "a signature secret of thirty-two bytes"
URL = "https://engine.example.com/vonage/sms"
NOW = 1_700_000_000.0
KEY = new_key()
PEM = pem_of(KEY)

SMS = {
    "msisdn": "14155550100",
    "to": "14155550111",
    "messageId": "0A0000000123ABCD1",
    "text": "Is Tuesday still free?",
    "type": "text",
    "keyword": "IS",
    "api-key": "abcd1234",
    "message-timestamp": "2023-11-14 22:13:20",
    "timestamp": str(int(NOW)),
    "nonce": "aaaaaaaa-bbbb-cccc-dddd-0123456789ab",
}
MESSAGE: dict[str, Any] = {
    "channel": "sms",
    "message_uuid": "aaaaaaaa-bbbb-4ccc-8ddd-0123456789ab",
    "to": "14155550111",
    "from": "14155550100",
    "timestamp": "2023-11-14T22:13:20Z",
    "text": "Is Tuesday still free?",
    "message_type": "text",
    "sms": {"num_messages": "1", "keyword": "IS"},
}

FORM, JSON = "application/x-www-form-urlencoded", "application/json"


def new_provider(now: float = NOW, secret: str = SECRET) -> VonageProvider:
    return VonageProvider(VonageConfig(secret, "app", PEM), now=lambda: now)


def body_of(fields: dict[str, Any], kind: str) -> bytes:
    return urlencode(fields, doseq=True).encode() if kind == FORM else json.dumps(fields).encode()


def request_of(fields: dict[str, Any], kind: str, headers: dict[str, str] | None = None) -> WebhookRequest:
    """``kind`` is a content type, or ``GET``."""
    if kind == "GET":
        return WebhookRequest("GET", f"{URL}?{urlencode(fields, doseq=True)}", headers or {})
    return WebhookRequest("POST", URL, {"content-type": kind, **(headers or {})}, body_of(fields, kind))


def with_token(fields: dict[str, Any], kind: str, secret: str = SECRET) -> WebhookRequest:
    body = b"" if kind == "GET" else body_of(fields, kind)
    claims = {
        "iat": int(NOW),
        "jti": str(uuid.uuid4()),
        "iss": "Vonage",
        "payload_hash": hashlib.sha256(body).hexdigest(),
    }
    return request_of(fields, kind, {"authorization": f"Bearer {jwt.encode(claims, secret, algorithm='HS256')}"})


def with_sig(fields: dict[str, Any], kind: str, method: str = "sha256", secret: str = SECRET) -> WebhookRequest:
    """Signed by the official package."""
    from tests.adapters.providers.vonage.official import Auth

    official = Auth(api_key="abcd1234", signature_secret=secret, signature_method=method)
    return request_of({**fields, "sig": official.sign_params(dict(fields)).upper()}, kind)


def why(request: WebhookRequest, by: VonageProvider | None = None) -> str:
    with pytest.raises(BadSignature) as caught:
        (by or new_provider()).verify(request)
    return caught.value.why


# --- texts in ---------------------------------------------------------------------------------------------------

READ = IncomingText("0A0000000123ABCD1", "+14155550100", "+14155550111", "Is Tuesday still free?")


@pytest.mark.parametrize("sign", [with_token, with_sig])
@pytest.mark.parametrize("kind", ["GET", FORM, JSON])
def test_a_text_of_the_sms_api_is_genuine_and_read_in_each_form(kind: str, sign: Any) -> None:
    provider = new_provider()
    request = sign(SMS, kind)
    assert provider.verify(request) == provider.verify(request)
    assert provider.read_text(request) == READ


def test_a_text_of_the_messages_api_is_genuine_and_read() -> None:
    provider = new_provider()
    request = with_token(MESSAGE, JSON)
    assert provider.verify(request)
    text = provider.read_text(request)
    assert text == IncomingText(MESSAGE["message_uuid"], "+14155550100", "+14155550111", "Is Tuesday still free?")


def test_a_picture_has_an_empty_text() -> None:
    picture = {**MESSAGE, "channel": "mms", "message_type": "image", "image": {"url": "https://x"}}
    del picture["text"]
    read = new_provider().read_text(request_of(picture, JSON))
    assert read is not None
    assert read.text == ""


@pytest.mark.parametrize(
    "fields",
    [
        {**SMS, "type": "binary", "data": "00"},
        {**SMS, "status": "delivered", "err-code": "0"},
        {"msisdn": "14155550100", "to": "AcmeInc", "messageId": "1", "status": "delivered", "scts": "2001011400"},
        {**MESSAGE, "status": "delivered"},
        {**MESSAGE, "channel": "whatsapp"},
        {**MESSAGE, "channel": None},
    ],
)
def test_receipts_and_what_is_no_sms_have_nothing_to_answer(fields: dict[str, Any]) -> None:
    assert new_provider().read_text(request_of(fields, JSON)) is None


@pytest.mark.parametrize("text", ["one\r\ntwo\0\u202e", "one\ntwo"])
def test_a_text_is_made_readable(text: str) -> None:
    for fields in ({**SMS, "text": text}, {**MESSAGE, "text": text}):
        read = new_provider().read_text(request_of(fields, JSON))
        assert read is not None
        assert read.text == "one\ntwo"


@pytest.mark.parametrize(
    ("base", "field", "value"),
    [
        (SMS, "messageId", "../x"),
        (SMS, "msisdn", "<x>"),
        (SMS, "to", ["1", "2"]),
        (SMS, "text", 5),
        (MESSAGE, "message_uuid", ""),
        (MESSAGE, "from", {"number": "1"}),
        (MESSAGE, "to", None),
        (MESSAGE, "text", ["x"]),
        ({**SMS, "concat-ref": "1", "concat-part": "1", "concat-total": "2"}, "concat-total", "0"),
        ({**SMS, "concat-ref": "1", "concat-part": "1", "concat-total": "2"}, "concat-total", "99999999999999999999"),
        ({**SMS, "concat-ref": "1", "concat-part": "1", "concat-total": "2"}, "concat-total", True),
        ({**SMS, "concat-ref": "1", "concat-part": "1", "concat-total": "2"}, "concat-part", "3"),
        ({**SMS, "concat-ref": "1", "concat-part": "1", "concat-total": "2"}, "concat-part", "\u0661"),
        ({**SMS, "concat-ref": "1", "concat-part": "1", "concat-total": "2"}, "concat-ref", None),
    ],
)
def test_a_bad_field_is_named_and_its_value_is_not(base: dict[str, Any], field: str, value: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        new_provider().read_text(request_of({**base, field: value}, JSON))
    assert str(caught.value) == field


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_object_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadRequest):
        new_provider().read_text(WebhookRequest("POST", URL, {"content-type": JSON}, body))


# --- parts of a text --------------------------------------------------------------------------------------------


def part(place: int, total: int, text: str, reference: str = "7", sender: str = "14155550100") -> WebhookRequest:
    fields = {**SMS, "msisdn": sender, "messageId": f"M{place}", "text": text, "concat": "true"}
    places = {"concat-ref": reference, "concat-part": str(place), "concat-total": str(total)}
    return request_of({**fields, **places}, JSON)


def test_a_text_in_parts_is_read_once_whole_and_in_order() -> None:
    provider = new_provider()
    assert provider.read_text(part(3, 3, "free?")) is None
    assert provider.read_text(part(1, 3, "Is Tues")) is None
    assert provider.read_text(part(1, 3, "Is Tues")) is None, "asked twice, a part is still one part"
    assert provider.read_text(part(2, 3, "day still ")) == IncomingText(
        "M1", "+14155550100", "+14155550111", "Is Tuesday still free?"
    )
    assert provider.read_text(part(2, 3, "another")) is None, "nothing is left of it"


def test_parts_of_two_texts_and_of_two_senders_do_not_mix() -> None:
    provider = new_provider()
    assert provider.read_text(part(1, 2, "mine, ")) is None
    assert provider.read_text(part(2, 2, "yours.", sender="14155550199")) is None
    assert provider.read_text(part(2, 2, "another.", reference="8")) is None
    whole = provider.read_text(part(2, 2, "and whole."))
    assert whole is not None
    assert whole.text == "mine, and whole."


def test_parts_wait_ten_minutes_for_the_others() -> None:
    clock = [NOW]
    provider = VonageProvider(VonageConfig(SECRET), now=lambda: clock[0])
    assert provider.read_text(part(1, 2, "too ")) is None
    clock[0] += PARTS_S + 1
    assert provider.read_text(part(2, 2, "late")) is None


def test_a_flood_of_parts_takes_the_room_of_the_oldest_and_no_more() -> None:
    provider = new_provider()
    for reference in range(MAX_UNFINISHED + 1):
        assert provider.read_text(part(1, 2, "x" * 10_000, reference=str(reference))) is None
    assert provider.read_text(part(2, 2, "!", reference="0")) is None, "the oldest is gone"
    newest = provider.read_text(part(2, 2, "!", reference=str(MAX_UNFINISHED)))
    assert newest is not None
    assert newest.text == "x" * 160 + "!", "a part is no longer than a part can be"


# --- the older signature ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["md5", "sha1", "sha256", "sha512"])
def test_what_the_official_package_signs_is_genuine_with_each_of_its_hashes(method: str) -> None:
    fields = {**SMS, "text": "a=b & c"}
    request = with_sig(fields, FORM, method)
    assert new_provider().verify(request) == new_provider().verify(request)
    assert new_provider().verify(request) != new_provider().verify(with_sig({**fields, "nonce": "x"}, FORM, method))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"text": "Delete everything."}, "mismatch"),
        ({"msisdn": "14155550199"}, "mismatch"),
        ({"extra": "x"}, "mismatch"),
        ({"sig": ""}, "missing"),
        ({"sig": "0" * 64}, "mismatch"),
        ({"sig": "0" * 63}, "malformed"),
        ({"sig": "é" * 64}, "malformed"),
        ({"text": ["one", "two"]}, "malformed"),
    ],
)
@pytest.mark.parametrize("kind", ["GET", FORM])
def test_a_text_that_was_changed_on_its_way_is_not_genuine(kind: str, change: dict[str, Any], reason: str) -> None:
    from tests.adapters.providers.vonage.official import Auth

    sig = Auth(api_key="abcd1234", signature_secret=SECRET, signature_method="sha256").sign_params(dict(SMS))
    assert why(request_of({**SMS, "sig": sig, **change}, kind)) == reason


def test_a_plain_hash_with_the_secret_in_it_is_no_signature() -> None:
    text = "".join(f"&{name}={SMS[name]}" for name in sorted(SMS)) + SECRET
    plain = hashlib.md5(text.encode()).hexdigest()
    assert why(request_of({**SMS, "sig": plain}, FORM)) == "mismatch"


@pytest.mark.parametrize("offset", [-301, 301])
def test_an_old_text_is_not_genuine(offset: int) -> None:
    assert why(with_sig(SMS, FORM), new_provider(NOW + offset)) == "expired"
    assert why(with_sig({**SMS, "timestamp": "soon"}, FORM)) == "malformed"


def test_without_a_secret_nothing_is_genuine() -> None:
    assert why(with_sig(SMS, FORM, secret="\0"), new_provider(secret="")) == "mismatch"
    assert why(with_token(SMS, FORM, "wrong" * 10)) == "mismatch"


def test_a_call_is_never_genuine_by_the_older_signature() -> None:
    request = with_sig(SMS, "GET")
    elsewhere = WebhookRequest("GET", request.url.replace("/vonage/sms", "/vonage/answer"), {})
    assert why(elsewhere) == "missing"


def test_a_token_of_no_use_is_not_made_good_by_a_signature() -> None:
    request = with_sig(SMS, FORM)
    headers = {**request.headers, "authorization": "Bearer a.b.c"}
    assert why(WebhookRequest("POST", URL, headers, request.body)) == "malformed"


@pytest.mark.parametrize("body", [b"[]", b"\xff", b"a=1&" * 100_000])
def test_fields_that_cannot_be_read_are_not_genuine(body: bytes) -> None:
    assert why(WebhookRequest("POST", URL, {"content-type": JSON}, body)) == "malformed"
    assert why(WebhookRequest("POST", URL, {"content-type": FORM}, body)) in ("malformed", "missing")


def test_insecure_takes_unsigned_texts() -> None:
    assert VonageProvider(VonageConfig(), insecure=True).verify(request_of(SMS, FORM))


# --- texts out --------------------------------------------------------------------------------------------------


def test_a_text_is_answered_with_nothing_for_vonage_would_not_read_it() -> None:
    provider = new_provider()
    answer = provider.answer_text("Yes.")
    assert (answer.status, answer.body) == (200, b"")
    assert not provider.answers_texts


def strict_vonage(request: ApiRequest) -> tuple[int, bytes]:
    """What Vonage answers to a new message, as far as its official client and we need it."""
    from tests.adapters.providers.vonage.official import Sms

    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    claims = jwt.decode(token, KEY.public_key(), algorithms=["RS256"], options={"require": ["iat", "exp", "jti"]})
    if claims["application_id"] != "app":
        return 401, b"{}"
    if (request.method, request.path) != ("POST", "/v1/messages"):
        return 404, b'{"title":"Not found"}'
    Sms(**{{"from": "from_"}.get(name, name): value for name, value in json.loads(request.body).items()})
    return 202, json.dumps({"message_uuid": str(uuid.uuid4())}).encode()


async def send(
    base: str, text: str = "Yes, at 9 & 10: ü", recipient: str = "+14155550100", verify: ssl.SSLContext | bool = True
) -> None:
    async with httpx.AsyncClient(trust_env=False, verify=verify) as client:
        by = VonageProvider(VonageConfig(SECRET, "app", PEM, base))
        assert Ability.SEND_TEXT in by.control.abilities
        await by.control.send_text("14155550111", recipient, text, client)


async def test_a_text_asks_what_the_official_client_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.adapters.providers.vonage.official import Auth, HttpClientOptions, Sms, Vonage

    tls, authority = loopback_tls(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
    async with rest_api(strict_vonage, tls) as api:
        options = HttpClientOptions(api_host=api.base.removeprefix("https://"), max_retries=0)
        official = Vonage(Auth(application_id="app", private_key=PEM), options)
        message = Sms(to="14155550100", from_="14155550111", text="Yes, at 9 & 10: ü")
        await trio.to_thread.run_sync(partial(official.messages.send, message))
        await send(api.base, verify=ssl.create_default_context(cafile=str(authority)))
        theirs, ours = api.requests
    assert (ours.method, ours.path) == (theirs.method, theirs.path)
    assert json.loads(ours.body) == json.loads(theirs.body)
    assert ours.headers["content-type"] == theirs.headers["content-type"]


async def test_a_long_text_is_sent_in_pieces() -> None:
    async with rest_api(strict_vonage) as api:
        await send(api.base, "word " * 500)
        assert [len(json.loads(request.body)["text"]) for request in api.requests] == [1599, 899]
        await send(api.base, " \0 ")
        assert len(api.requests) == 2


@pytest.mark.parametrize("status", [301, 400, 401, 429, 500])
async def test_any_other_answer_is_a_vendor_error_as_to_the_official_client(
    status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.adapters.providers.vonage.official import Auth, HttpClientOptions, RateLimitedError, Sms, Vonage

    async with rest_api(lambda _: (status, b"{}")) as api:
        with pytest.raises(VendorError, match=str(status)):
            await send(api.base, "word " * 500)
        assert len(api.requests) == 1
    if status == 429:
        tls, authority = loopback_tls(tmp_path)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
        async with rest_api(lambda _: (status, b"{}"), tls) as api:
            options = HttpClientOptions(api_host=api.base.removeprefix("https://"), max_retries=0)
            official = Vonage(Auth(application_id="app", private_key=PEM), options)
            with pytest.raises(RateLimitedError):
                await trio.to_thread.run_sync(
                    partial(official.messages.send, Sms(to="14155550100", from_="14155550111", text="x"))
                )


@pytest.mark.parametrize("recipient", ["", "anonymous", "VERIFY", "+0155", "1" * 16, "1415555\n0100"])
async def test_a_number_that_is_none_is_a_vendor_error_and_nothing_is_asked(recipient: str) -> None:
    async with rest_api(strict_vonage) as api:
        with pytest.raises(VendorError):
            await send(api.base, recipient=recipient)
        assert api.requests == []


async def test_an_api_that_is_not_there_is_a_vendor_error() -> None:
    with pytest.raises(VendorError):
        await send("http://127.0.0.1:1")


async def test_without_credentials_no_text_can_be_sent() -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        for config in (VonageConfig(SECRET, "app"), VonageConfig(SECRET, "", PEM)):
            by = VonageProvider(config)
            assert Ability.SEND_TEXT not in by.control.abilities
            with pytest.raises(VendorError):
                await by.control.send_text("14155550111", "14155550100", "x", client)
