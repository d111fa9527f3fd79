"""Whole calls and texts over the wire of each provider, its webhooks signed, its REST API asked."""

from __future__ import annotations

import base64

import httpx
import pytest
from trio.testing import MockClock

from adapters.providers.plivo.signature import sign
from engine.errors import OffhookError
from engine.phone.errors import WebhookRefused
from engine.phone.phone import SIDES
from engine.phone.texts import open_inbox, send_text
from tests.fakes.plain_speech import speak, words
from tests.system.every_provider import callee_of, with_all_providers
from tests.system.rig import SECRET, running_engine

# httpx leaves generators behind when a stream is cut, as the synthesizer's is by an interruption.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")

NEW = ("telnyx", "plivo", "signalwire")
REST = {
    "telnyx": "POST /v2/calls/{call_id}/actions/hangup 200",
    "plivo": "DELETE /v1/Account/MA00/Call/{call_id}/ 204",
    "signalwire": "POST /api/laml/2010-04-01/Accounts/6f7e/Calls/{call_id}.json 200",
}
"""What ends a call of which the engine has had enough."""


@pytest.mark.parametrize("provider", NEW)
@pytest.mark.proves("ours")
@pytest.mark.proves("barge-in")
async def test_a_whole_call_with_an_interruption_and_a_hang_up_by_the_agent(
    provider: str, autojump_clock: MockClock
) -> None:
    async with open_inbox() as inbox, running_engine(configure=lambda it: with_all_providers(it, inbox)) as rig:
        async with rig.phone.call(SIDES[provider](callee_of(rig, provider)), report_end=True) as call:
            assert words(await call.wait_for_reply(), call.format) == "Hello."
            assert "Turn 1" in await rig.say(call, "tell me a long story")
            await call.say(speak("long story once more", call.format))
            await call.wait_until_heard()
            interruption = await call.say(speak("stop", call.format))
            assert interruption.interrupted
            assert "Turn 3" in words(await call.wait_for_reply(within_s=15), call.format)
            call.press("5#")
            await call.say(speak("goodbye", call.format))
            assert (await call.wait_until_over()).startswith("engine 1000")
        await rig.quiet()
        assert not call.violations
        assert REST[provider].format(call_id=call.call_id) in inbox.requests
        assert rig.value("calls_ended_total", provider=provider, reason="agent_hangup") == 1
        assert rig.total("barge_ins_total") > 0
        assert set(rig.balance().values()) == {0}, rig.balance()


@pytest.mark.parametrize("provider", NEW)
async def test_a_caller_who_hangs_up_leaves_nothing(provider: str, autojump_clock: MockClock) -> None:
    async with running_engine(configure=with_all_providers) as rig:
        async with rig.phone.call(SIDES[provider](callee_of(rig, provider)), report_end=True) as call:
            await call.wait_for_reply()
            assert "Turn 1" in await rig.say(call, "hello there")
        await rig.quiet()
        assert not call.violations
        assert rig.value("calls_ended_total", provider=provider, reason="caller_hangup") == 1
        assert set(rig.balance().values()) == {0}, rig.balance()


@pytest.mark.parametrize("provider", NEW)
async def test_a_text_is_answered(provider: str, autojump_clock: MockClock) -> None:
    async with open_inbox() as inbox, running_engine(configure=lambda it: with_all_providers(it, inbox)) as rig:
        answer = await send_text(provider, callee_of(rig, provider), "hello there", inbox=inbox)
        assert "Turn 1" in answer


@pytest.mark.parametrize("provider", NEW)
async def test_a_webhook_that_is_not_signed_by_its_provider_is_refused(
    provider: str, autojump_clock: MockClock
) -> None:
    other = base64.b64encode(bytes(32)).decode()
    async with running_engine(configure=with_all_providers) as rig:
        for secret in ("", other):
            with pytest.raises(WebhookRefused) as caught:
                async with rig.phone.call(SIDES[provider](callee_of(rig, provider, secret=secret))):
                    pass
            assert caught.value.status == 403
        assert rig.value("signature_failures_total", provider=provider, why="missing") == 1
        assert rig.value("signature_failures_total", provider=provider, why="mismatch") == 1


@pytest.mark.parametrize("provider", NEW)
async def test_a_provider_without_its_key_is_closed_and_says_what_is_missing(
    provider: str, autojump_clock: MockClock
) -> None:
    variable = {"telnyx": "TELNYX_PUBLIC_KEY", "plivo": "PLIVO_AUTH_TOKEN", "signalwire": "SIGNALWIRE_SIGNING_KEY"}
    async with running_engine() as rig:
        with pytest.raises(OffhookError, match=variable[provider]):
            async with rig.phone.call(SIDES[provider](callee_of(rig, provider))):
                pass


async def test_a_call_that_plivo_was_told_to_transfer_is_connected_over_its_status_webhook(
    autojump_clock: MockClock,
) -> None:
    async with running_engine(configure=with_all_providers) as rig, httpx.AsyncClient(trust_env=False) as client:
        url = f"{rig.engine.url}/plivo/status?transfer=%2B15551230009&sender=%2B15551230002"
        form = {"CallUUID": "c1", "From": "15551230001", "To": "15551230002", "CallStatus": "in-progress"}
        lists = {name: [value] for name, value in form.items()}
        signature = {"X-Plivo-Signature-V3": sign("POST", url, lists, "n1", SECRET), "X-Plivo-Signature-V3-Nonce": "n1"}
        answer = await client.post(url, data=form, headers=signature)
        assert "<Number>+15551230009</Number>" in answer.text
        forged = await client.post(url.replace("15551230009", "15551230008"), data=form, headers=signature)
        assert forged.status_code == 403
