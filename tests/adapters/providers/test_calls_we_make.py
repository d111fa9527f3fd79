"""Calls that Twilio and Vonage make, transfer and press keys in for us: judged by the official packages."""

from __future__ import annotations

import json
import ssl
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode
from xml.etree import ElementTree as ET

import httpx
import pytest
import trio
from twilio.rest import Client  # type: ignore[import-untyped] # ships no types
from twilio.twiml.voice_response import VoiceResponse  # type: ignore[import-untyped] # ships no types

from adapters.providers.rest import is_marked_outbound, marked_outbound
from adapters.providers.twilio.provider import TwilioConfig, TwilioProvider
from adapters.providers.vonage.provider import VonageConfig, VonageProvider
from adapters.providers.vonage.rest import MAX_REGIONS, VonageRest
from engine.errors import VendorError, Why
from engine.ports import Ability, CallStatus, Dial, WarmTransfer, WebhookRequest
from tests.adapters.providers.rest_api import ApiRequest, loopback_tls, new_key, pem_of, rest_api
from tests.adapters.providers.twilio.test_provider import LoopbackClient

TOKEN, ACCOUNT = "12345", "AC" + "c" * 32
CALL, UUID = "CA" + "b" * 32, "63f61863-4a51-4f6b-86e1-46edebcf9356"
ANSWER, STATUS = "https://engine.example.com/voice?dial=t", "https://engine.example.com/twilio/status"
DIAL = Dial("+15551230009", "+15551230002", ANSWER, STATUS, 20.5, detects_machine=True)
PEM = pem_of(new_key())
WARM = WarmTransfer("+15551230009", "+15551230002", "https://h")
HANDED_OVER = '<Response><Dial callerId="+15551230002"><Number>+15551230009</Number></Dial></Response>'


async def twilio(base: str, what: str, *words: Any) -> Any:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await getattr(TwilioProvider(TwilioConfig(TOKEN, ACCOUNT, base)).control, what)(*words, client)


async def vonage(base: str, what: str, *words: Any, verify: ssl.SSLContext | bool = True) -> Any:
    async with httpx.AsyncClient(trust_env=False, verify=verify) as client:
        return await getattr(VonageProvider(VonageConfig("s", "app", PEM, base)).control, what)(*words, client)


def taken(request: ApiRequest) -> tuple[int, bytes]:
    is_new = request.method == "POST" and request.path.endswith(("Calls.json", "/v1/calls"))
    made = json.dumps({"sid": CALL, "uuid": UUID, "status": "started", "direction": "outbound"}).encode()
    if is_new:
        return 201, made[:-1] + b',"conversation_uuid":"CON-1"}'
    if request.path.endswith("/dtmf"):
        return 200, json.dumps({"message": "DTMF sent", "uuid": UUID}).encode()
    return (204, b"") if request.method == "PUT" else (200, made)


# --- Twilio -----------------------------------------------------------------------------------------------------


async def test_twilio_is_asked_for_a_call_as_its_official_client_asks() -> None:
    async with rest_api(taken) as api:
        official = Client(ACCOUNT, TOKEN, http_client=LoopbackClient(api.base))
        create = partial(
            official.calls.create,
            to=DIAL.to,
            from_=DIAL.sender,
            url=ANSWER,
            method="POST",
            status_callback=STATUS,
            status_callback_event=["initiated", "ringing", "answered", "completed"],
            status_callback_method="POST",
            timeout=21,
            machine_detection="DetectMessageEnd",
            async_amd="true",
            async_amd_status_callback=STATUS,
            async_amd_status_callback_method="POST",
        )
        assert (await trio.to_thread.run_sync(create)).sid == CALL
        assert await twilio(api.base, "dial", DIAL) == CALL
        theirs, ours = api.requests
    assert (ours.method, ours.path) == (theirs.method, theirs.path)
    assert parse_qs(ours.body.decode()) == parse_qs(theirs.body.decode())


async def test_twilio_is_asked_for_no_detection_that_nobody_wants_and_rings_as_long_as_it_takes() -> None:
    async with rest_api(taken) as api:
        for ring_s, timeout in ((0.5, "5"), (30.0, "30"), (9999.0, "600")):
            await twilio(api.base, "dial", Dial(DIAL.to, DIAL.sender, ANSWER, STATUS, ring_s))
            form = parse_qs(api.requests[-1].body.decode())
            assert form["Timeout"] == [timeout]
            assert "MachineDetection" not in form


async def test_twilio_is_told_of_a_transfer_as_its_official_client_tells() -> None:
    async with rest_api(taken) as api:
        official = Client(ACCOUNT, TOKEN, http_client=LoopbackClient(api.base))
        await trio.to_thread.run_sync(partial(official.calls(CALL).update, twiml=HANDED_OVER))
        await twilio(api.base, "transfer", CALL, "+15551230009", "+15551230002")
        await twilio(api.base, "transfer", CALL, "sip:desk@example.com", "")
        theirs, ours, to_sip = api.requests
    assert (ours.method, ours.path) == (theirs.method, theirs.path)
    assert parse_qs(ours.body.decode()) == parse_qs(theirs.body.decode())
    document = parse_qs(to_sip.body.decode())["Twiml"][0]
    assert document == "<Response><Dial><Sip>sip:desk@example.com</Sip></Dial></Response>"


async def test_twilio_is_given_the_twiml_of_an_announced_transfer_that_its_official_package_writes() -> None:
    async with rest_api(taken) as api:
        await twilio(api.base, "introduce", CALL, WARM)
        (order,) = api.requests
    (ours,) = ET.fromstring(parse_qs(order.body.decode())["Twiml"][0])
    whisper, back = ours[0].attrib["url"], ours.attrib["action"]
    assert whisper == f"https://h/twilio/whisper?call={CALL}"
    assert back.startswith("https://h/voice?again=")
    theirs = VoiceResponse()
    dial = theirs.dial(caller_id="+15551230002", action=back, method="POST", timeout=25)
    dial.number("+15551230009", url=whisper, method="POST")
    assert ET.canonicalize(ET.tostring(ours, encoding="unicode")) == ET.canonicalize(
        ET.tostring(ET.fromstring(str(theirs))[0], encoding="unicode")
    )


def form(fields: dict[str, str], url: str = ANSWER) -> WebhookRequest:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    return WebhookRequest("POST", url, headers, urlencode({"CallSid": CALL} | fields).encode())


def test_of_a_call_that_twilio_made_the_caller_is_whom_we_called() -> None:
    by = TwilioProvider(TwilioConfig(TOKEN))
    numbers = {"From": "+15551230002", "To": "+15551230009"}
    call = by.read_call(form(numbers | {"Direction": "outbound-api", "StirVerstat": "TN-Validation-Passed-A"}))
    assert (call.caller, call.dialled, call.is_outbound) == ("+15551230009", "+15551230002", True)
    assert not call.attestation, "our own number's says nothing of theirs"
    assert not by.read_call(form(numbers | {"Direction": "inbound"})).is_outbound


@pytest.mark.parametrize(
    ("answered_by", "expected"),
    [
        ("human", "human"),
        ("machine_end_beep", "machine"),
        ("machine_end_silence", "machine"),
        ("machine_start", "machine"),
        ("fax", "machine"),
        ("unknown", ""),
        ("invented", ""),
    ],
)
def test_twilio_tells_who_picked_up(answered_by: str, expected: str) -> None:
    by = TwilioProvider(TwilioConfig(TOKEN))
    news = form({"AnsweredBy": answered_by, "MachineDetectionDuration": "2000"})
    assert by.read_status(news) == CallStatus(CALL, "in-progress", is_over=False, answered_by=expected)


# --- Vonage -----------------------------------------------------------------------------------------------------


async def test_vonage_is_asked_what_its_official_client_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.adapters.providers.vonage.official import (
        AdvancedMachineDetection,
        Auth,
        CreateCallRequest,
        HttpClientOptions,
        Phone,
        ToPhone,
        Vonage,
    )

    tls, authority = loopback_tls(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
    ours_too = partial(vonage, verify=ssl.create_default_context(cafile=str(authority)))
    async with rest_api(taken, tls) as api:
        options = HttpClientOptions(api_host=api.base.removeprefix("https://"), max_retries=0)
        voice = Vonage(Auth(application_id="app", private_key=PEM), options).voice
        wanted = CreateCallRequest(
            to=[ToPhone(number="15551230009")],
            from_=Phone(number="15551230002"),
            answer_url=[f"{ANSWER}&direction=outbound"],
            answer_method="POST",
            event_url=[STATUS],
            event_method="POST",
            ringing_timer=21,
            advanced_machine_detection=AdvancedMachineDetection(
                behavior="continue", mode="detect_beep", beep_timeout=45
            ),
        )
        await trio.to_thread.run_sync(partial(voice.create_call, wanted))
        assert await ours_too(api.base, "dial", DIAL) == UUID
        await trio.to_thread.run_sync(partial(voice.play_dtmf_into_call, UUID, "1p#"))
        await ours_too(api.base, "press", UUID, "1w#")
    for theirs, ours in zip(api.requests[::2], api.requests[1::2], strict=True):
        assert (ours.method, ours.path) == (theirs.method, theirs.path)
        assert json.loads(ours.body) == json.loads(theirs.body)


async def test_vonage_is_given_an_ncco_that_its_official_package_would_write() -> None:
    from tests.adapters.providers.vonage.official import Connect, PhoneEndpoint, SipEndpoint

    async with rest_api(taken) as api:
        await vonage(api.base, "transfer", UUID, "+15551230009", "+15551230002")
        await vonage(api.base, "transfer", UUID, "sip:desk@example.com", "+15551230002")
        (to_number,), (to_sip,) = (_ncco_of(request) for request in api.requests)
    for ours, endpoint in (
        (to_number, PhoneEndpoint(number="15551230009")),
        (to_sip, SipEndpoint(uri="sip:desk@example.com")),
    ):
        theirs = Connect(endpoint=[endpoint], from_="15551230002")
        assert ours == theirs.model_dump(by_alias=True, exclude_none=True, mode="json")


async def test_vonage_is_given_the_ncco_of_an_announced_transfer_that_its_official_package_would_write() -> None:
    from tests.adapters.providers.vonage.official import Connect, OnAnswer, PhoneEndpoint

    async with rest_api(taken) as api:
        await vonage(api.base, "introduce", UUID, WARM)
        ((ours,),) = (_ncco_of(request) for request in api.requests)
        with pytest.raises(VendorError):
            await vonage(api.base, "introduce", UUID, replace(WARM, to="sip:desk@example.com"))
    told = OnAnswer(url=f"https://h/vonage/whisper?call={UUID}")
    theirs = Connect(
        endpoint=[PhoneEndpoint(number="15551230009", onAnswer=told)],
        from_="15551230002",
        timeout=25,
        eventType="synchronous",
        eventUrl=[f"https://h/vonage/transfer?call={UUID}"],
    )
    assert ours == theirs.model_dump(by_alias=True, exclude_none=True, mode="json")


def _ncco_of(request: ApiRequest) -> list[dict[str, Any]]:
    assert (request.method, request.path) == ("PUT", f"/v1/calls/{UUID}")
    content = json.loads(request.body)
    assert (content["action"], content["destination"]["type"]) == ("transfer", "ncco")
    ncco: list[dict[str, Any]] = content["destination"]["ncco"]
    return ncco


def news(**fields: str) -> WebhookRequest:
    body = json.dumps({"uuid": UUID} | fields).encode()
    return WebhookRequest("POST", STATUS, {"content-type": "application/json"}, body)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"status": "human"}, "human"),
        ({"status": "machine"}, ""),
        ({"status": "machine", "sub_state": "beep_start"}, "machine"),
        ({"status": "machine", "sub_state": "beep_timeout"}, "machine"),
        ({"status": "answered"}, ""),
    ],
)
def test_vonage_tells_who_picked_up_and_of_a_machine_once_it_has_beeped(fields: dict[str, str], expected: str) -> None:
    status = VonageProvider(VonageConfig("s")).read_status(news(**fields))
    assert status == CallStatus(UUID, fields["status"], is_over=False, answered_by=expected)


def answer_webhook(url: str = "https://h/vonage/answer", **fields: str) -> WebhookRequest:
    numbers = {"from": "15551230002", "to": "15551230009", "uuid": UUID}
    return WebhookRequest("POST", url, {"content-type": "application/json"}, json.dumps(numbers | fields).encode())


def test_of_a_call_that_vonage_made_the_caller_is_whom_we_called() -> None:
    by = VonageProvider(VonageConfig("s"))
    call = by.read_call(answer_webhook(marked_outbound("https://h/vonage/answer?dial=t")))
    assert call is not None
    assert (call.caller, call.dialled, call.is_outbound) == ("+15551230009", "+15551230002", True)
    incoming = by.read_call(answer_webhook())
    assert incoming is not None
    assert not incoming.is_outbound


async def where_hang_up_goes(*calls: WebhookRequest, call_id: str = UUID) -> str:
    """The host that is asked to end the call, after these webhooks."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(f"{request.url.scheme}://{request.url.netloc.decode()}")
        return httpx.Response(204)

    by = VonageProvider(VonageConfig("s", "app", PEM))
    for call in calls:
        by.read_call(call)
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        await by.control.hang_up(call_id, client)
    return asked[0]


async def test_a_call_is_ended_where_it_lives() -> None:
    there = "https://api-us-3.vonage.com"
    assert await where_hang_up_goes(answer_webhook(region_url=there)) == there
    assert await where_hang_up_goes(answer_webhook(region_url="https://api-eu-1.nexmo.com/")) == (
        "https://api-eu-1.nexmo.com"
    )
    assert await where_hang_up_goes(answer_webhook(region_url=there), call_id="another") == "https://api.nexmo.com"


@pytest.mark.parametrize(
    "region_url",
    [
        "https://api.nexmo.com.evil.example",
        "https://evilnexmo.com",
        "https://evil.example/.vonage.com",
        "https://evil.example?.vonage.com",
        "https://evil.example#.vonage.com",
        "https://user@evil.example\\.vonage.com",
        "https://x:y@api.vonage.com",
        "https://api.vonage.com:8443",
        "https://api.vonage.com:x",
        "http://api.vonage.com",
        "//api.vonage.com",
        "https://[::1]",
        "",
    ],
)
async def test_our_token_is_sent_to_no_stranger(region_url: str) -> None:
    assert await where_hang_up_goes(answer_webhook(region_url=region_url)) == "https://api.nexmo.com"


def test_regions_are_remembered_of_so_many_calls_and_no_more() -> None:
    rest = VonageRest("https://api.nexmo.com", "app", PEM)
    for number in range(MAX_REGIONS + 50):
        rest.remember_region(f"call-{number}", "https://api-us-3.vonage.com")
    assert len(rest.regions) == MAX_REGIONS
    assert "call-0" not in rest.regions


def test_where_another_server_stands_in_for_vonage_no_region_is_asked_instead() -> None:
    rest = VonageRest("http://127.0.0.1:8090", "app", PEM)
    rest.remember_region("call-0", "https://api-us-3.vonage.com")
    assert not rest.regions


# --- both -------------------------------------------------------------------------------------------------------

REFUSED = [
    ("transfer", CALL, "5551230009", ""),
    ("transfer", CALL, "+1<Play>x</Play>", ""),
    ("transfer", "../x", "+15551230009", ""),
    ("dial", Dial("sip:x@y", "+15551230002", ANSWER, STATUS)),
    ("press", CALL, "1x"),
]


@pytest.mark.parametrize("ask", [twilio, vonage])
@pytest.mark.parametrize("words", REFUSED)
async def test_what_is_no_id_number_or_key_is_asked_of_nobody(ask: Any, words: tuple[Any, ...]) -> None:
    async with rest_api(taken) as api:
        with pytest.raises(VendorError) as caught:
            await ask(api.base, *words)
        assert caught.value.why is Why.BAD_REQUEST
        assert api.requests == []


@pytest.mark.parametrize("ask", [twilio, vonage])
@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, Why.AUTH), (400, Why.BAD_REQUEST), (429, Why.RATE_LIMITED), (503, Why.UNREACHABLE), (302, Why.NONSENSE)],
)
async def test_any_other_answer_is_a_vendor_error_with_its_reason(ask: Any, status: int, reason: Why) -> None:
    async with rest_api(lambda _: (status, b"<html>")) as api:
        for words in (("transfer", CALL, "+15551230009", ""), ("dial", DIAL)):
            with pytest.raises(VendorError, match=str(status)) as caught:
                await ask(api.base, *words)
            assert caught.value.why is reason


@pytest.mark.parametrize("ask", [twilio, vonage])
async def test_an_answer_without_an_id_is_no_call(ask: Any) -> None:
    for answer in (b"{}", b"<html>", b'{"sid":"../x","uuid":"../x"}', b"[]"):
        async with rest_api(lambda _, answer=answer: (201, answer)) as api:  # type: ignore[misc] # a default
            with pytest.raises(VendorError) as caught:
                await ask(api.base, "dial", DIAL)
            assert caught.value.why is Why.NONSENSE


async def test_without_keys_there_are_no_abilities_and_twilio_presses_none() -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        for by in (TwilioProvider(TwilioConfig(TOKEN)), VonageProvider(VonageConfig("s"))):
            assert by.control.abilities == frozenset()
            for asked in (by.control.transfer(CALL, "+15551230009", "", client), by.control.dial(DIAL, client)):
                with pytest.raises(VendorError):
                    await asked
    assert Ability.PRESS_DIGITS not in TwilioProvider(TwilioConfig(TOKEN, ACCOUNT)).control.abilities
    assert VonageProvider(VonageConfig("s", "app", PEM)).control.abilities == frozenset(Ability)


def test_the_mark_of_a_call_of_ours_is_in_the_query_and_nowhere_else() -> None:
    assert is_marked_outbound(marked_outbound("https://h/a"))
    assert is_marked_outbound(marked_outbound("https://h/a?dial=t"))
    for url in ("https://h/direction=outbound", "https://h/a?direction=inbound", "https://h/a#direction=outbound"):
        assert not is_marked_outbound(url)
