"""Plivo's webhooks, answers and REST: judged by the official package in both directions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlencode
from xml.etree import ElementTree as ET

import httpx
import plivo  # type: ignore[import-untyped] # ships no types
import plivo.rest.client  # type: ignore[import-untyped] # ships no types
import pytest
import trio
from plivo.utils import validate_v3_signature  # type: ignore[import-untyped] # ships no types
from plivo.utils.signature_v3 import (  # type: ignore[import-untyped] # ships no types
    construct_get_url,
    construct_post_url,
    get_signature_v3,
)

from adapters.providers.plivo.codec import decode_value
from adapters.providers.plivo.provider import PlivoConfig, PlivoProvider
from adapters.providers.plivo.signature import sign
from engine.errors import BadRequest, BadSignature, VendorError, Why
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

TOKEN, ACCOUNT, NONCE = "a plivo token", "MA" + "A" * 18, "05429567804466091622"
CALL = "12345678-1234-1234-1234-123456789abc"
URL = "https://engine.example.com/plivo/voice"
STATUS_URL = "https://engine.example.com/plivo/status"
FORM = {"CallUUID": CALL, "From": "15551230001", "To": "15551230002", "CallStatus": "ringing", "Direction": "inbound"}

provider = PlivoProvider(PlivoConfig(TOKEN, ACCOUNT, transfer_url=STATUS_URL))


def official_signature(method: str, url: str, form: Mapping[str, Any], token: str = TOKEN) -> str:
    base = construct_get_url(url, dict(form)) if method == "GET" else construct_post_url(url, dict(form))
    return bytes(get_signature_v3(token.encode(), base.decode(), NONCE.encode())).decode()


def post(form: Mapping[str, Any] | None = None, url: str = URL, signature: str | None = None) -> WebhookRequest:
    form = FORM if form is None else form
    given_signature = official_signature("POST", url, form) if signature is None else signature
    headers = {
        "content-type": "application/x-www-form-urlencoded",
        "x-plivo-signature-v3": given_signature,
        "x-plivo-signature-v3-nonce": NONCE,
    }
    return WebhookRequest("POST", url, headers, urlencode(form, doseq=True).encode())


def why(request: WebhookRequest, by: PlivoProvider = provider) -> str:
    with pytest.raises(BadSignature) as caught:
        by.verify(request)
    return caught.value.why


def test_it_is_a_provider_with_its_webhooks() -> None:
    port: Provider = provider
    both = frozenset({"GET", "POST"})
    assert port.webhooks == {
        "/plivo/voice": (WebhookKind.CALL, both),
        "/plivo/status": (WebhookKind.STATUS, both),
        "/plivo/whisper": (WebhookKind.WHISPER, frozenset({"GET", "POST"})),
        "/plivo/sms": (WebhookKind.TEXT, both),
    }


def test_secrets_are_not_shown() -> None:
    assert "s3cret" not in repr(PlivoConfig("s3cret", ACCOUNT))
    assert "s3cret" not in repr(PlivoProvider(PlivoConfig("s3cret", ACCOUNT)))


# --- signatures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", [URL, f"{URL}?b=2&a=1", f"{URL}?a=1&a=0&q=x%20y", f"{URL}?empty="])
@pytest.mark.parametrize("form", [FORM, {}, {"Text": "a & b = ü", "Empty": ""}, {"Two": ["b", "a"]}])
def test_what_the_official_package_signs_is_genuine_and_what_we_sign_is_to_it(url: str, form: dict[str, Any]) -> None:
    assert provider.verify(post(form, url))
    lists = {name: value if isinstance(value, list) else [value] for name, value in form.items()}
    assert validate_v3_signature("POST", url, NONCE, TOKEN, sign("POST", url, lists, NONCE, TOKEN), dict(form))


@pytest.mark.parametrize("query", ["", "?b=2&a=1&CallUUID=x", "?a=1&a=0"])
def test_a_get_is_signed_over_its_query(query: str) -> None:
    headers = {"x-plivo-signature-v3-nonce": NONCE, "x-plivo-signature-v3": official_signature("GET", URL + query, {})}
    assert provider.verify(WebhookRequest("GET", URL + query, headers))
    assert why(WebhookRequest("GET", f"{URL}?c=1", headers)) == "mismatch"


def test_any_signature_of_the_list_may_match_and_that_of_the_main_account_too() -> None:
    good, other = official_signature("POST", URL, FORM), official_signature("POST", URL, FORM, "another token")
    for listed in (f"{other},{good}", f"{good},{other}", f" {other} , {good} "):
        assert provider.verify(post(signature=listed))
    assert validate_v3_signature("POST", URL, NONCE, TOKEN, f"{other},{good}", dict(FORM))
    request = post(signature=other)
    assert why(request) == "mismatch"
    headers = dict(request.headers) | {"x-plivo-signature-ma-v3": good}
    assert provider.verify(WebhookRequest("POST", URL, headers, request.body))


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (post(FORM | {"From": "1"}, signature=official_signature("POST", URL, FORM)), "mismatch"),
        (post(FORM | {"Extra": "1"}, signature=official_signature("POST", URL, FORM)), "mismatch"),
        (post(url=f"{URL}?x=1", signature=official_signature("POST", URL, FORM)), "mismatch"),
        (post(signature=official_signature("POST", URL, FORM, "another token")), "mismatch"),
        (post(signature="é\udcff"), "mismatch"),
        (post(signature=""), "missing"),
        (post(signature=" , ,"), "missing"),
        (post(signature=",".join(["x"] * 100)), "malformed"),
        (WebhookRequest("POST", URL, {"x-plivo-signature-v3": "x"}, b""), "missing"),
        (
            WebhookRequest(
                "POST",
                URL,
                {"x-plivo-signature-v3": official_signature("POST", URL, {}), "x-plivo-signature-v3-nonce": NONCE},
                b'{"CallUUID":"not signed"}',
            ),
            "malformed",
        ),
    ],
)
def test_anything_else_is_refused_by_name(request_: WebhookRequest, reason: str) -> None:
    assert why(request_) == reason


def test_without_a_token_nothing_is_genuine() -> None:
    by = PlivoProvider(PlivoConfig())
    assert why(post(signature=official_signature("POST", URL, FORM, "")), by) == "mismatch"
    assert PlivoProvider(PlivoConfig(), insecure=True).verify(post(signature=""))


# --- calls ------------------------------------------------------------------------------------------------------


def test_a_call_is_read() -> None:
    assert provider.read_call(post(FORM | {"CallerName": "J\0ohn"})) == IncomingCall(
        CALL, "+15551230001", "+15551230002", {"CallerName": "J ohn"}
    )
    in_query = WebhookRequest("GET", f"{URL}?{urlencode(FORM)}", {})
    assert provider.read_call(in_query).call_id == CALL


@pytest.mark.parametrize(
    ("form", "url"), [(FORM | {"Direction": "outbound"}, URL), (FORM, f"{URL}?dial=t&direction=outbound")]
)
def test_of_a_call_that_we_made_the_caller_is_whom_we_called(form: dict[str, str], url: str) -> None:
    call = provider.read_call(post(form | {"Machine": "true"}, url))
    assert (call.caller, call.dialled) == ("+15551230002", "+15551230001")
    assert call.is_outbound
    assert call.answered_by == "machine"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"CallUUID": "../x"}, "CallUUID"),
        ({"CallUUID": ["a", "b"]}, "CallUUID"),
        ({"From": "<script>"}, "From"),
        ({"To": ["1", "2"]}, "To"),
        ({"Direction": ["inbound", "outbound"]}, "Direction"),
    ],
)
def test_a_call_with_an_unusable_field_is_refused_by_its_name(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(BadRequest, match=field):
        provider.read_call(post(FORM | changes))


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"CallStatus": "completed", "Event": "Hangup"}, CallStatus(CALL, "completed", is_over=True)),
        ({"CallStatus": "cancel"}, CallStatus(CALL, "cancel", is_over=True)),
        ({"CallStatus": "in-progress"}, CallStatus(CALL, "in-progress", is_over=False)),
        ({"CallStatus": "invented"}, CallStatus(CALL, "unknown", is_over=False)),
        ({"Event": "MachineDetection", "Machine": "true"}, CallStatus(CALL, "in-progress", False, "machine")),
        ({"Event": "MachineDetection", "Machine": "false"}, CallStatus(CALL, "in-progress", False, "human")),
        ({"Event": "StartStream", "StreamID": "s", "CallStatus": "in-progress"}, None),
        ({}, None),
    ],
)
def test_the_states_of_a_call(form: dict[str, str], status: CallStatus | None) -> None:
    assert provider.read_status(post({"CallUUID": CALL} | form)) == status


# --- documents --------------------------------------------------------------------------------------------------


def test_the_answer_is_the_stream_that_the_official_package_would_write() -> None:
    answer = provider.connect(IncomingCall(CALL, "", ""), "wss://h/media/plivo", "t0-ken_")
    stream, redirect = ET.fromstring(answer.body)
    assert (stream.tag, stream.text) == ("Stream", "wss://h/media/plivo")
    name, _, value = stream.attrib["extraHeaders"].partition("=")
    assert (name, decode_value(value)) == ("token", "t0-ken_")
    theirs = plivo.plivoxml.ResponseElement().add(
        plivo.plivoxml.StreamElement(
            "wss://h/media/plivo",
            bidirectional=True,
            keepCallAlive=True,
            audioTrack="inbound",
            contentType="audio/x-mulaw;rate=8000",
            extraHeaders=stream.attrib["extraHeaders"],
        )
    )
    theirs.add(plivo.plivoxml.RedirectElement(redirect.text, method="POST"))
    their_stream, their_redirect = ET.fromstring(theirs.to_string())
    assert (redirect.tag, redirect.attrib) == (their_redirect.tag, their_redirect.attrib)
    assert {k: v.lower() for k, v in stream.attrib.items()} == {k: v.lower() for k, v in their_stream.attrib.items()}


def test_a_status_is_answered_with_nothing() -> None:
    assert list(ET.fromstring(provider.acknowledge(post()).body)) == []


# --- texts ------------------------------------------------------------------------------------------------------

TEXT = {"MessageUUID": "m-1", "From": "15551230001", "To": "15551230002", "Text": "hello", "Type": "sms"}


def test_a_text_is_read_and_receipts_are_not() -> None:
    assert provider.read_text(post(TEXT)) == IncomingText("m-1", "+15551230001", "+15551230002", "hello")
    assert provider.read_text(post(TEXT | {"Status": "delivered"})) is None
    assert not provider.answers_texts
    assert list(ET.fromstring(provider.answer_text("hello").body)) == []
    for changes, field in (
        ({"MessageUUID": ""}, "MessageUUID"),
        ({"From": "<>"}, "From"),
        ({"Text": ["a", "b"]}, "Text"),
    ):
        with pytest.raises(BadRequest, match=field):
            provider.read_text(post(TEXT | changes))


# --- REST -------------------------------------------------------------------------------------------------------

DIAL = Dial("+15551230009", "+15551230002", f"{URL}?dial=t", STATUS_URL, 20.5, True)


def strict_plivo(request: ApiRequest) -> tuple[int, bytes]:
    """What Plivo answers to what its official client and we ask."""
    if not request.headers.get("authorization", "").startswith("Basic "):
        return 401, b'{"error":"authentication failed"}'
    content = json.loads(request.body) if request.body else {}
    made = json.dumps({"api_id": "a", "message": "call fired", "request_uuid": CALL}).encode()
    call = f"Call/{CALL}/"
    known: dict[tuple[str, str], tuple[set[str], tuple[int, bytes]]] = {
        ("POST", "Call/"): ({"from", "to", "answer_url"}, (201, made)),
        ("DELETE", call): (set(), (204, b"")),
        ("POST", call): ({"legs", "aleg_url"}, (202, b'{"message":"call transferred"}')),
        ("POST", f"{call}DTMF/"): ({"digits"}, (202, b'{"message":"digits sent"}')),
        ("POST", "Message/"): ({"src", "dst", "text"}, (202, b'{"message_uuid":["m"]}')),
    }
    found = known.get((request.method, request.path.removeprefix(f"/v1/Account/{ACCOUNT}/")))
    if found is None:
        return 404, b'{"error":"not found"}'
    needed, answer = found
    return answer if content.keys() >= needed else (400, b'{"error":"a parameter is missing"}')


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The official client, led to loopback."""

    def make(base: str) -> Any:
        for name in (
            "PLIVO_API_BASE_URI",
            "API_VOICE_BASE_URI",
            "API_VOICE_BASE_URI_FALLBACK_1",
            "API_VOICE_BASE_URI_FALLBACK_2",
        ):
            monkeypatch.setattr(plivo.rest.client, name, f"{base}/v1/Account")
        return plivo.RestClient(ACCOUNT, TOKEN)

    return make


async def ask(base: str, what: str, *words: Any, config: PlivoConfig | None = None) -> Any:
    async with httpx.AsyncClient(trust_env=False) as client:
        by = PlivoProvider(config or PlivoConfig(TOKEN, ACCOUNT, base, STATUS_URL))
        return await getattr(by.control, what)(*words, client)


@pytest.mark.parametrize("what", ["hang_up", "transfer", "press", "send_text", "dial"])
async def test_we_ask_what_the_official_client_asks(what: str, official: Any) -> None:
    async with rest_api(strict_plivo) as api:
        they = official(api.base)
        transfer_url = f"{STATUS_URL}?transfer=%2B15551230009&sender=%2B15551230002"
        asks: dict[str, tuple[Any, tuple[Any, ...]]] = {
            "hang_up": (partial(they.calls.delete, CALL), (CALL,)),
            "transfer": (
                partial(they.calls.transfer, CALL, legs="aleg", aleg_url=transfer_url, aleg_method="POST"),
                (CALL, "+15551230009", "+15551230002"),
            ),
            "press": (partial(they.calls.send_digits, CALL, "1w#", leg="aleg"), (CALL, "1w#")),
            "send_text": (
                partial(they.messages.create, src="15551230002", dst="15551230001", text="hello & ü"),
                ("+15551230002", "+15551230001", "hello & ü"),
            ),
            "dial": (
                partial(
                    they.calls.create,
                    "15551230002",
                    "15551230009",
                    f"{URL}?dial=t&direction=outbound",
                    ring_url=STATUS_URL,
                    hangup_url=STATUS_URL,
                    ring_timeout=21,
                    machine_detection="true",
                    machine_detection_url=STATUS_URL,
                ),
                (DIAL,),
            ),
        }
        theirs_do, words = asks[what]
        await trio.to_thread.run_sync(theirs_do)
        await ask(api.base, what, *words)
        theirs, ours = api.requests
    assert (ours.method, ours.path) == (theirs.method, theirs.path)
    their_content = json.loads(theirs.body) if theirs.body else {}
    content = json.loads(ours.body) if ours.body else {}
    assert content.items() <= their_content.items(), "the official client adds its defaults"
    assert ours.headers["authorization"] == theirs.headers["authorization"]


async def test_a_transferred_call_is_connected_by_the_document_that_plivo_asks_for() -> None:
    async with rest_api(strict_plivo) as api:
        await ask(api.base, "transfer", CALL, "+15551230009", "+15551230002")
        url = json.loads(api.requests[0].body)["aleg_url"]
    request = post(FORM | {"CallStatus": "in-progress"}, url)
    assert provider.verify(request)
    assert provider.read_status(request) == CallStatus(CALL, "in-progress", is_over=False)
    (dial,) = ET.fromstring(provider.acknowledge(request).body)
    assert (dial.tag, dial.attrib) == ("Dial", {"callerId": "+15551230002"})
    assert [(element.tag, element.text) for element in dial] == [("Number", "+15551230009")]
    (to_sip,) = ET.fromstring(provider.acknowledge(post(url=f"{STATUS_URL}?transfer=sip%3Aa%40b.example")).body)
    assert [(element.tag, element.text) for element in to_sip] == [("User", "sip:a@b.example")]
    for destination in ("911<Play/>", "%2B1", ""):
        nothing = provider.acknowledge(post(url=f"{STATUS_URL}?transfer={destination}"))
        assert list(ET.fromstring(nothing.body)) == []
    assert dict(parse_qsl(url.partition("?")[2])) == {"transfer": "+15551230009", "sender": "+15551230002"}


async def test_a_dialled_call_has_its_id() -> None:
    async with rest_api(strict_plivo) as api:
        assert await ask(api.base, "dial", DIAL) == CALL
    async with rest_api(lambda _: (201, b"<html>")) as api:
        with pytest.raises(VendorError) as caught:
            await ask(api.base, "dial", DIAL)
        assert caught.value.why is Why.NONSENSE


async def test_a_call_that_still_rings_is_cancelled_and_one_that_is_over_is_a_success() -> None:
    async with rest_api(lambda request: (204, b"") if "/Request/" in request.path else (404, b"{}")) as api:
        await ask(api.base, "hang_up", CALL)
        assert [request.path.split("/")[-3] for request in api.requests] == ["Call", "Request"]
    async with rest_api(lambda _: (404, b"{}")) as api:
        await ask(api.base, "hang_up", CALL)


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, Why.AUTH), (400, Why.BAD_REQUEST), (429, Why.RATE_LIMITED), (500, Why.UNREACHABLE), (302, Why.NONSENSE)],
)
async def test_any_other_answer_is_a_vendor_error_with_its_reason_and_no_secret(status: int, reason: Why) -> None:
    async with rest_api(lambda _: (status, b"<html>")) as api:
        for words in (("hang_up", CALL), ("transfer", CALL, "+15551230009", ""), ("dial", DIAL), ("press", CALL, "1")):
            with pytest.raises(VendorError, match=str(status)) as caught:
                await ask(api.base, *words)
            assert caught.value.why is reason
            assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        ("hang_up", "../../x"),
        ("transfer", CALL, "5551230009", ""),
        ("press", CALL, "12x"),
        ("dial", Dial("911", "+15551230002", URL, URL)),
        ("send_text", "", "+1", "hello"),
    ],
)
async def test_what_is_no_id_number_or_key_is_asked_of_nobody(words: tuple[Any, ...]) -> None:
    async with rest_api(strict_plivo) as api:
        with pytest.raises(VendorError) as caught:
            await ask(api.base, *words)
        assert caught.value.why is Why.BAD_REQUEST
        assert api.requests == []


async def test_without_an_account_nothing_is_asked_and_without_an_address_nobody_is_transferred() -> None:
    async with rest_api(strict_plivo) as api:
        config = PlivoConfig(TOKEN, api_base=api.base)
        assert PlivoProvider(config).control.abilities == frozenset()
        await ask(api.base, "hang_up", CALL, config=config)
        for words in (("transfer", CALL, "+15551230009", ""), ("dial", DIAL), ("press", CALL, "1")):
            with pytest.raises(VendorError):
                await ask(api.base, *words, config=config)
        without_address = PlivoConfig(TOKEN, ACCOUNT, api.base)
        assert PlivoProvider(without_address).control.abilities == frozenset(Ability) - {
            Ability.TRANSFER,
            Ability.WARM_TRANSFER,
        }
        with pytest.raises(VendorError):
            await ask(api.base, "transfer", CALL, "+15551230009", "", config=without_address)
        assert api.requests == []
