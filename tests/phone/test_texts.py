"""The phone sends SMS as the providers do, and hears the answers wherever the engine sends them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest
import trio

from adapters.providers.plivo.provider import PlivoConfig, PlivoProvider
from adapters.providers.signalwire.provider import SignalWireConfig, SignalWireProvider
from adapters.providers.telnyx.provider import TelnyxConfig, TelnyxProvider
from adapters.providers.twilio.provider import TwilioConfig, TwilioProvider
from adapters.providers.vonage.provider import VonageConfig, VonageProvider
from engine.errors import VendorError
from engine.phone.errors import CallFailed, TooSlow, WebhookRefused
from engine.phone.side import Callee
from engine.phone.telnyx import new_keys
from engine.phone.texts import PROVIDERS, Inbox, open_inbox, send_text
from engine.phone.twilio import TwilioSide, read_messages
from engine.ports import IncomingText, Provider, WebhookRequest
from tests.adapters.providers.rest_api import ApiRequest, new_key, pem_of, rest_api

TOKEN, ACCOUNT, SECRET = "12345", "AC" + "c" * 32, "a signature secret of thirty-two bytes"
PEM = pem_of(new_key())
CALLER, DIALLED = "+15005550006", "+15005550001"


@dataclass
class Engine:
    """Answers every text by ``say``: in the webhook where that may be and ``late`` is not set, else over REST."""

    provider: Provider
    url: str = ""
    late: bool = False
    say: Callable[[str], str] = "You wrote: {}".format
    read: list[IncomingText] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._to_answer, self._unanswered = trio.open_memory_channel[IncomingText](100)

    def webhook(self, request: ApiRequest) -> tuple[int, bytes]:
        asked = WebhookRequest(request.method, self.url + request.path, request.headers, request.body)
        self.provider.verify(asked)
        text = self.provider.read_text(asked)
        if text is None:
            return 200, self.provider.answer_text("").body
        self.read.append(text)
        self._to_answer.send_nowait(text)
        in_webhook = self.provider.answers_texts and not self.late
        return 200, self.provider.answer_text(self.say(text.text) if in_webhook else "").body

    async def answer_later(self) -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            async for text in self._unanswered:
                await self.provider.control.send_text(text.recipient, text.sender, self.say(text.text), client)


@asynccontextmanager
async def running(name: str, inbox: Inbox, *, late: bool = False) -> AsyncIterator[tuple[Engine, Callee]]:
    provider: Provider
    secret = SECRET
    match name:
        case "twilio":
            provider, secret = TwilioProvider(TwilioConfig(TOKEN, ACCOUNT, inbox.url)), TOKEN
        case "vonage":
            provider = VonageProvider(VonageConfig(SECRET, "app", PEM, inbox.url))
        case "telnyx":
            secret, public = new_keys()
            provider = TelnyxProvider(TelnyxConfig(public, "KEY", api_base=inbox.url))
        case "plivo":
            provider = PlivoProvider(PlivoConfig(SECRET, "MA00", inbox.url))
        case _:
            provider = SignalWireProvider(SignalWireConfig(SECRET, "PT", "6f7e", inbox.url))
    engine = Engine(provider, late=late)
    async with rest_api(engine.webhook) as served, trio.open_nursery() as nursery:
        engine.url = served.base
        if late or not provider.answers_texts:
            nursery.start_soon(engine.answer_later)
        yield engine, Callee(served.base, CALLER, DIALLED, secret)
        nursery.cancel_scope.cancel()


async def test_a_text_to_twilio_is_answered_in_its_webhook() -> None:
    async with open_inbox() as inbox, running("twilio", inbox) as (engine, callee):
        assert await send_text("twilio", callee, "Grüße & <hi>") == "You wrote: Grüße & <hi>"
        assert [(text.sender, text.recipient) for text in engine.read] == [(CALLER, DIALLED)]
        assert inbox.requests == []


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_late_answer_comes_over_rest(name: str) -> None:
    async with open_inbox() as inbox, running(name, inbox, late=True) as (_, callee):
        assert await send_text(name, callee, "hello", inbox=inbox) == "You wrote: hello"
        assert await send_text(name, callee, "again", inbox=inbox) == "You wrote: again"
        assert [request.endswith((" 200", " 201", " 202")) for request in inbox.requests] == [True, True]


@pytest.mark.parametrize("name", PROVIDERS)
async def test_an_answer_in_pieces_is_put_together(name: str) -> None:
    async with open_inbox() as inbox, running(name, inbox, late=True) as (engine, callee):
        engine.say = lambda _: "word " * 700
        assert await send_text(name, callee, "tell me all", inbox=inbox) == ("word " * 700).strip()
        assert len(inbox.requests) == 3


async def test_a_long_text_to_vonage_can_go_out_in_parts() -> None:
    text = "".join(f"{number:03} " for number in range(100)).strip()
    async with open_inbox() as inbox, running("vonage", inbox) as (engine, callee):
        assert await send_text("vonage", callee, text, inbox=inbox, in_parts=True) == f"You wrote: {text}"
        assert len(engine.read) == 1


async def test_the_answers_of_two_numbers_do_not_mix() -> None:
    async with open_inbox() as inbox, running("vonage", inbox) as (_, callee):
        other = Callee(callee.base_url, "+15005550009", DIALLED, SECRET)
        answers: dict[str, str] = {}

        async def ask(who: Callee, text: str) -> None:
            answers[text] = await send_text("vonage", who, text, inbox=inbox)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, callee, "one")
            nursery.start_soon(ask, other, "two")
    assert answers == {"one": "You wrote: one", "two": "You wrote: two"}


async def test_the_same_text_can_be_sent_again_under_its_id() -> None:
    async with open_inbox() as inbox, running("twilio", inbox) as (engine, callee):
        for _ in range(2):
            await send_text("twilio", callee, "hello", text_id="SM1")
        assert [text.text_id for text in engine.read] == ["SM1", "SM1"]


async def test_an_answer_that_came_too_late_is_not_taken_for_the_next_one() -> None:
    async with open_inbox() as inbox, running("twilio", inbox) as (engine, callee):
        engine.say = lambda _: ""
        with pytest.raises(TooSlow):
            await send_text("twilio", callee, "first", inbox=inbox, within_s=0.1)
        async with httpx.AsyncClient(trust_env=False) as client:
            await engine.provider.control.send_text(DIALLED, CALLER, "late", client)
        with pytest.raises(TooSlow):
            await send_text("twilio", callee, "second", inbox=inbox, within_s=0.1)


async def test_a_text_without_an_answer_is_too_slow() -> None:
    async with open_inbox() as inbox, running("twilio", inbox) as (engine, callee):
        engine.say = lambda _: ""
        with pytest.raises(TooSlow):
            await send_text("twilio", callee, "hello", inbox=inbox, within_s=0.1)
        with pytest.raises(TooSlow, match="no inbox"):
            await send_text("twilio", callee, "hello", within_s=0.1)


async def test_a_refused_webhook_and_one_that_is_not_there_are_failed() -> None:
    async with rest_api(lambda _: (403, b'{"error":{"message":"not signed"}}')) as served:
        for name in ("twilio", "vonage"):
            with pytest.raises(WebhookRefused, match="not signed"):
                await send_text(name, Callee(served.base), "hello")
    with pytest.raises(CallFailed):
        await send_text("twilio", Callee("http://127.0.0.1:1"), "hello")
    async with rest_api(lambda _: (200, b"{}")) as served:
        with pytest.raises(CallFailed, match="expected text/xml"):
            await send_text("twilio", Callee(served.base), "hello")


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_rest_api_that_refuses_is_a_vendor_error_at_the_engine(name: str) -> None:
    async with open_inbox() as inbox, running(name, inbox) as (engine, _), httpx.AsyncClient(trust_env=False) as client:
        inbox.fails_with = 429
        with pytest.raises(VendorError, match="429"):
            await engine.provider.control.send_text(DIALLED, CALLER, "hello", client)
        inbox.fails_with = 0
        await engine.provider.control.hang_up("CA" + "b" * 32, client)
        assert inbox.requests[-1].endswith((" 200", " 204"))


async def test_the_inbox_takes_only_what_the_providers_take() -> None:
    basic, bearer = {"authorization": "Basic x"}, {"authorization": "Bearer x"}
    good = {"to": "15005550006", "from": "15005550001", "text": "x", "channel": "sms", "message_type": "text"}
    messages = f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
    async with open_inbox() as inbox, httpx.AsyncClient(trust_env=False, base_url=inbox.url) as client:
        answers = [
            await client.post("/elsewhere"),
            await client.post(messages, data={"From": "1", "To": "2", "Body": "x"}),
            await client.put(messages, headers=basic),
            await client.post(messages, headers=basic, data={"From": "1", "To": "2"}),
            await client.post(messages, headers=basic, data={"From": "1", "To": "2", "Body": "x" * 1601}),
            await client.post("/v1/messages", json=good),
            await client.put("/v1/messages", headers=bearer, json=good),
            await client.post("/v1/messages", headers=bearer, json={**good, "to": "+15005550006"}),
            await client.post("/v1/messages", headers=bearer, json={**good, "extra": "x"}),
            await client.post("/v1/messages", headers=bearer, content=b"{"),
        ]
    assert [answer.status_code for answer in answers] == [404, 401, 405, 400, 400, 401, 405, 422, 422, 422]


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<Response><Say>Hello</Say></Response>",
        b"<Response><Message/></Response>",
        b'<Response><Message to="+1">x</Message></Response>',
        b"<Response><Message><Body>x</Body></Message></Response>",
        b"<Response><Message>" + b"x" * 1601 + b"</Message></Response>",
    ],
)
def test_an_answer_that_twilio_would_not_send_is_failed(document: bytes) -> None:
    with pytest.raises(CallFailed):
        read_messages(document)


async def test_a_call_can_come_with_an_attestation() -> None:
    provider = TwilioProvider(TwilioConfig(TOKEN))
    read: list[str] = []

    def webhook(request: ApiRequest) -> tuple[int, bytes]:
        read.append(provider.read_call(WebhookRequest("POST", "", request.headers, request.body)).attestation)
        return 503, b""

    async with rest_api(webhook) as served, httpx.AsyncClient(trust_env=False) as client:
        for attestation in ("", "A", "C"):
            with pytest.raises(WebhookRefused):
                await TwilioSide(Callee(served.base, attestation=attestation)).dial(client)
    assert read == ["", "A", "C"]
