"""Twilio's SMS and its attestation of callers: judged by the official package in both directions."""

from __future__ import annotations

import base64
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
from twilio.base.exceptions import TwilioRestException  # type: ignore[import-untyped] # ships no types
from twilio.request_validator import RequestValidator  # type: ignore[import-untyped] # ships no types
from twilio.rest import Client  # type: ignore[import-untyped] # ships no types
from twilio.twiml.messaging_response import MessagingResponse  # type: ignore[import-untyped] # ships no types

from adapters.providers.twilio.provider import TwilioConfig, TwilioProvider
from engine.errors import BadRequest, BadSignature, VendorError
from engine.ports import Ability, IncomingText, WebhookRequest
from tests.adapters.providers.rest_api import ApiRequest, rest_api
from tests.adapters.providers.twilio.test_provider import LoopbackClient, canonical

TOKEN, ACCOUNT, MESSAGE = "12345", "AC" + "c" * 32, "SM" + "d" * 32
URL = "https://engine.example.com/sms"
FORM = {
    "ToCountry": "US",
    "SmsMessageSid": MESSAGE,
    "NumMedia": "0",
    "SmsSid": MESSAGE,
    "Body": "Is Tuesday still free?",
    "To": "+15551230002",
    "NumSegments": "1",
    "MessageSid": MESSAGE,
    "AccountSid": ACCOUNT,
    "From": "+15551230001",
    "ApiVersion": "2010-04-01",
}

provider = TwilioProvider(TwilioConfig(TOKEN, ACCOUNT))


def post(changes: dict[str, Any] | None = None, *, signature: str | None = None) -> WebhookRequest:
    form = {**FORM, **(changes or {})}
    form = {name: value for name, value in form.items() if value is not None}
    signature = RequestValidator(TOKEN).compute_signature(URL, form) if signature is None else signature
    headers = {"content-type": "application/x-www-form-urlencoded; charset=UTF-8", "x-twilio-signature": signature}
    return WebhookRequest("POST", URL, headers, urlencode(form, doseq=True, errors="surrogatepass").encode())


# --- texts in ---------------------------------------------------------------------------------------------------


def test_a_text_is_genuine_and_read() -> None:
    assert provider.verify(post())
    assert provider.read_text(post()) == IncomingText(MESSAGE, "+15551230001", "+15551230002", "Is Tuesday still free?")


def test_a_text_that_was_changed_on_its_way_is_not_genuine() -> None:
    signature = RequestValidator(TOKEN).compute_signature(URL, FORM)
    with pytest.raises(BadSignature):
        provider.verify(post({"Body": "Delete everything."}, signature=signature))


@pytest.mark.parametrize("body", ["", None])
def test_a_message_that_is_only_a_picture_has_an_empty_text(body: str | None) -> None:
    request = post({"Body": body, "NumMedia": "1", "MediaUrl0": "https://api.twilio.com/x"})
    assert provider.read_text(request).text == ""


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("one\r\ntwo", "one\ntwo"),
        ("Grüße 👨‍👩‍👧", "Grüße 👨‍👩‍👧"),
        ("a\0b\x1b\u202e", "a b"),
        ("<Response><Hangup/></Response>", "<Response><Hangup/></Response>"),
        ("x" * 50_000, "x" * 1600),
    ],
)
def test_strange_bodies_are_bounded_and_readable(body: str, text: str) -> None:
    assert provider.read_text(post({"Body": body})).text == text


def test_a_sender_on_whatsapp_keeps_its_name() -> None:
    assert provider.read_text(post({"From": "whatsapp:+15551230001"})).sender == "whatsapp:+15551230001"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("MessageSid", None),
        ("MessageSid", "../x"),
        ("From", "<x>"),
        ("To", "+1\r\n2"),
        ("Body", ["one", "two"]),
    ],
)
def test_a_bad_field_is_named_and_its_value_is_not(field: str, value: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        provider.read_text(post({field: value}, signature="unread"))
    assert str(caught.value) == field


# --- answers ----------------------------------------------------------------------------------------------------


def test_the_answer_is_the_twiml_that_the_official_package_writes() -> None:
    response = MessagingResponse()
    response.message("Yes: 9 & 10 <o'clock>\nGrüße 👨‍👩‍👧")
    answer = provider.answer_text("Yes: 9 & 10 <o'clock>\nGrüße 👨‍👩‍👧")
    assert canonical(answer.body) == canonical(str(response))
    assert (answer.status, answer.content_type) == (200, "text/xml; charset=utf-8")
    assert provider.answers_texts


def test_no_answer_is_an_empty_document() -> None:
    assert canonical(provider.answer_text("").body) == canonical(str(MessagingResponse()))


def test_a_long_answer_is_several_messages() -> None:
    messages = ET.fromstring(provider.answer_text("word " * 500).body)
    assert [(child.tag, len(child.text or "")) for child in messages] == [("Message", 1599), ("Message", 899)]


@given(text=st.text())
@settings(max_examples=50, deadline=None)
def test_no_text_changes_the_elements_of_an_answer(text: str) -> None:
    answer = ET.fromstring(provider.answer_text(text).body)
    assert {element.tag for element in answer.iter()} <= {"Response", "Message"}


# --- texts out --------------------------------------------------------------------------------------------------


def strict_twilio(request: ApiRequest) -> tuple[int, bytes]:
    """What Twilio answers to a new message, as far as its official client and we need it."""
    expected = base64.b64encode(f"{ACCOUNT}:{TOKEN}".encode()).decode()
    if request.headers.get("authorization") != f"Basic {expected}":
        return 401, b'{"code":20003,"message":"Authenticate","status":401}'
    if request.method != "POST" or request.path != f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json":
        return 404, b'{"code":20404,"message":"not found","status":404}'
    fields = parse_qs(request.body.decode())
    if fields.keys() != {"From", "To", "Body"}:
        return 400, b'{"code":21604,"message":"missing","status":400}'
    if len(fields["Body"][0]) > 1600:
        return 400, b'{"code":21617,"message":"too long","status":400}'
    return 201, json.dumps({"sid": MESSAGE, "status": "queued", "body": fields["Body"][0]}).encode()


async def send(
    base: str, text: str = "Yes, at 9 & 10 + a bit: ü", recipient: str = "+15551230001", token: str = TOKEN
) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        by = TwilioProvider(TwilioConfig(token, ACCOUNT, base))
        assert Ability.SEND_TEXT in by.control.abilities
        await by.control.send_text("+15551230002", recipient, text, client)


async def test_a_text_asks_what_the_official_client_asks() -> None:
    async with rest_api(strict_twilio) as api:
        official = Client(ACCOUNT, TOKEN, http_client=LoopbackClient(api.base))
        create = partial(
            official.messages.create, from_="+15551230002", to="+15551230001", body="Yes, at 9 & 10 + a bit: ü"
        )
        assert (await trio.to_thread.run_sync(create)).sid == MESSAGE
        await send(api.base)
        theirs, ours = api.requests
    assert (ours.method, ours.path) == (theirs.method, theirs.path)
    assert parse_qs(ours.body.decode()) == parse_qs(theirs.body.decode())
    assert ours.headers["authorization"] == theirs.headers["authorization"]
    assert ours.headers["content-type"] == theirs.headers["content-type"]


async def test_a_text_that_the_official_client_cannot_send_is_sent_in_pieces() -> None:
    text = "word " * 500
    async with rest_api(strict_twilio) as api:
        official = Client(ACCOUNT, TOKEN, http_client=LoopbackClient(api.base))
        create = partial(official.messages.create, from_="+15551230002", to="+15551230001", body=text)
        with pytest.raises(TwilioRestException):
            await trio.to_thread.run_sync(create)
        await send(api.base, text)
        bodies = [parse_qs(request.body.decode())["Body"][0] for request in api.requests[1:]]
    assert [len(body) for body in bodies] == [1599, 899]


async def test_nothing_to_say_sends_nothing() -> None:
    async with rest_api(strict_twilio) as api:
        await send(api.base, " \0 ")
        assert api.requests == []


@pytest.mark.parametrize(
    "answer", [(401, b'{"code":20003}'), (404, b"<html>"), (429, b'{"code":20429}'), (500, b""), (302, b"")]
)
async def test_any_other_answer_is_a_vendor_error_without_secret_text_or_number(answer: tuple[int, bytes]) -> None:
    async with rest_api(lambda _: answer) as api:
        with pytest.raises(VendorError) as caught:
            await send(api.base, "word " * 500)
        assert len(api.requests) == 1, "the rest of a text is not sent when its beginning was not"
    assert str(answer[0]) in str(caught.value)
    assert not any(word in str(caught.value) for word in (TOKEN, "word", "555"))


async def test_an_api_that_is_not_there_and_a_number_that_is_none_are_vendor_errors() -> None:
    with pytest.raises(VendorError):
        await send("http://127.0.0.1:1")
    async with rest_api(strict_twilio) as api:
        with pytest.raises(VendorError):
            await send(api.base, recipient="")
        assert api.requests == []


async def test_without_credentials_no_text_can_be_sent() -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        for config in (TwilioConfig(TOKEN), TwilioConfig("", ACCOUNT)):
            by = TwilioProvider(config)
            assert Ability.SEND_TEXT not in by.control.abilities
            with pytest.raises(VendorError):
                await by.control.send_text("+1", "+2", "x", client)


# --- attestation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verstat", "attestation"),
    [
        ("TN-Validation-Passed-A", "A"),
        ("TN-Validation-Passed-B", "B"),
        ("TN-Validation-Passed-C", "C"),
        ("TN-Validation-Passed-A-Diverted", "A"),
        ("TN-Validation-Passed-B-Passthrough", "B"),
        ("TN-Validation-Failed-A", ""),
        ("TN-Validation-Failed-A-Diverted", ""),
        ("TN-Validation-Failed-A-Passthrough", ""),
        ("TN-Validation-Failed", ""),
        ("TN-Validation-Passed", ""),
        ("No-TN-Validation", ""),
        ("NULL", ""),
        ("tn-validation-passed-a", ""),
        (" TN-Validation-Passed-A", ""),
        ("TN-Validation-Passed-A\n", ""),
        ("TN-Validation-Passed-A-New", ""),
        (["TN-Validation-Failed-A", "TN-Validation-Passed-A"], ""),
        (["TN-Validation-Passed-A", "TN-Validation-Failed-A"], ""),
        (None, ""),
    ],
)
def test_a_number_is_vouched_for_only_by_a_signature_that_was_found_genuine(verstat: Any, attestation: str) -> None:
    request = post({"CallSid": "CA" + "b" * 32, "StirVerstat": verstat}, signature="unread")
    assert provider.read_call(request).attestation == attestation
