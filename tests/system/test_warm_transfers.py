"""Callers who are handed to somebody else with a few words, over each provider that can, and who are back with the
agent where nobody picks up."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import trio
from trio.testing import MockClock

from engine.phone.errors import CallRefused
from engine.phone.phone import SIDES
from engine.phone.side import Back, ProviderSide
from engine.settings import Settings
from tests.adapters.providers.rest_api import ApiRequest, RestApi, new_key, pem_of, rest_api
from tests.fakes.plain_speech import words
from tests.system.every_provider import callee_of, post, with_all_providers
from tests.system.rig import Rig, running_engine

# httpx leaves generators behind when a stream is cut, as the synthesizer's is with the line.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")

SALES, ABOUT = "+12025550177", "Ann asks for a refund."
PEM = pem_of(new_key())
LEG = {"CallSid": "leg", "CallUUID": "leg", "From": "+12025550100", "To": SALES}
ABLE = ("twilio", "signalwire", "vonage", "plivo")
UNANSWERED = {
    "twilio": {"DialCallStatus": "no-answer"},
    "signalwire": {"DialCallStatus": "busy"},
    "vonage": {"status": "unanswered"},
    "plivo": {"DialStatus": "no-answer"},
}
ANSWERED = {
    "twilio": {"DialCallStatus": "completed"},
    "signalwire": {"DialCallStatus": "completed"},
    "vonage": {"status": "completed"},
    "plivo": {"DialStatus": "completed"},
}


@asynccontextmanager
async def desk() -> AsyncIterator[tuple[Rig, RestApi, httpx.AsyncClient]]:
    def answer(_: ApiRequest) -> tuple[int, bytes]:
        return 200, b'{"sid":"x"}'

    def configure(settings: Settings) -> Settings:
        settings = with_all_providers(settings)
        at: dict[str, Any] = {"api_url": api.base}
        return replace(
            settings,
            twilio=replace(settings.twilio, account_sid="AC0", **at),
            signalwire=replace(settings.signalwire, **at),
            plivo=replace(settings.plivo, **at),
            telnyx=replace(settings.telnyx, **at),
            vonage=replace(settings.vonage, application_id="app", **at),
            secrets=replace(settings.secrets, vonage_private_key=PEM),
            server=replace(settings.server, port=port, public_url=f"http://127.0.0.1:{port}"),
        )

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with (
        rest_api(answer) as api,
        running_engine(configure=configure, max_calls=1) as rig,
        httpx.AsyncClient(trust_env=False, timeout=5) as client,
    ):
        yield rig, api, client


async def addresses(rig: Rig, side: ProviderSide, order: ApiRequest, client: httpx.AsyncClient) -> tuple[str, str]:
    """What the provider asks when somebody has picked up, and when nobody has."""
    text = order.body.decode()
    if side.name == "vonage":
        (connect,) = json.loads(text)["destination"]["ncco"]
        assert connect["endpoint"][0]["number"] == SALES.removeprefix("+")
        return connect["endpoint"][0]["onAnswer"]["url"], connect["eventUrl"][0]
    if side.name == "plivo":
        document = (await post(rig, "plivo", json.loads(text)["aleg_url"], LEG, client)).text
    else:
        document = parse_qs(text)["Twiml"][0]
    assert SALES in document
    found = {name: unescape(url) for name, url in re.findall(r'(\w+)="(http:[^"]+)"', document)}
    return found.get("url") or found["confirmSound"], found["action"]


@pytest.mark.parametrize("provider", ABLE)
async def test_whoever_picks_up_is_told_first_and_a_caller_nobody_wants_is_back(
    provider: str, autojump_clock: MockClock
) -> None:
    async with desk() as (rig, api, client):
        no_region = {"region_url": ""} if provider == "vonage" else {}
        side = SIDES[provider](replace(callee_of(rig, provider), extra=no_region))
        async with rig.phone.call(side) as call:
            await call.wait_for_reply()
            (slot,) = rig.engine.registry.live_slots()
            assert await slot.transfer_it(SALES, ABOUT)
            await rig.quiet()
        whisper, back = await addresses(rig, side, api.requests[-1], client)
        assert ABOUT in (await post(rig, provider, whisper, LEG, client)).text
        await trio.sleep(25)
        assert rig.engine.registry.is_full, "the place is kept while it rings"
        async with rig.phone.call(side, again=True, back=Back(back, UNANSWERED[provider])) as call:
            assert words(await call.wait_for_reply(), call.format) == "I am sorry, I could not connect you."
            assert "Turn 1" in await rig.say(call, "never mind")
            (slot,) = rig.engine.registry.live_slots()
            assert await slot.transfer_it(SALES, ABOUT)
            await rig.quiet()
        _, back = await addresses(rig, side, api.requests[-1], client)
        if provider != "vonage":  # which asks nothing when two have talked
            with pytest.raises(CallRefused) as caught:
                async with rig.phone.call(side, again=True, back=Back(back, ANSWERED[provider])):
                    pass
            assert not caught.value.sentence
            assert not rig.engine.registry.is_full
        assert (await post(rig, provider, whisper, LEG, client)).text.count(ABOUT) == (provider == "vonage")
        assert rig.value("calls_ended_total", provider=provider, reason="transferred") == 2
        assert set(rig.balance().values()) == {0}, rig.balance()


async def test_a_provider_that_cannot_announce_a_caller_connects_without_a_word(autojump_clock: MockClock) -> None:
    async with desk() as (rig, api, _client):
        side = SIDES["telnyx"](callee_of(rig, "telnyx"))
        async with rig.phone.call(side) as call:
            await call.wait_for_reply()
            (slot,) = rig.engine.registry.live_slots()
            assert await slot.transfer_it(SALES, ABOUT)
            await rig.quiet()
        assert urlsplit(api.requests[-1].path).path.endswith("/actions/transfer")
        assert ABOUT not in api.requests[-1].body.decode()
        assert not rig.engine.registry.is_full
