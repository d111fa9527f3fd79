"""Calls that an engine makes, through its API and its provider's REST API and webhooks; and people reaching into live
calls."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from engine.phone.errors import CallFailed
from engine.phone.phone import SIDES
from engine.settings import Settings
from tests.fakes.plain_speech import words
from tests.system.dialler import KEY, OURS, THEIRS, dialling
from tests.system.every_provider import callee_of

every = pytest.mark.parametrize("provider", SIDES)


@every
async def test_somebody_is_called_talked_to_and_let_go(provider: str, autojump_clock: MockClock) -> None:
    async with dialling(provider) as on:
        call = await on.dial()
        assert (call["state"], call["direction"], call["is_live"]) == ("queued", "outbound", False)
        assert THEIRS not in str(call)
        order = on.orders[0]
        assert (order["To"], order["From"]) == (THEIRS, OURS)
        await on.tell_that("ringing")
        assert await on.state(call) == "ringing"
        shown = (await on.ask("GET", "/calls"))[1]["calls"]
        assert [(one["id"], one["state"], one["is_live"]) for one in shown] == [(call["id"], "ringing", False)]
        async with on.answered() as phone:
            assert words(await phone.wait_for_reply(), phone.format) == "Hello."
            assert await on.rig.say(phone, "say it again")
            shown = (await on.ask("GET", "/calls"))[1]["calls"]
            assert [(one["id"], one["state"], one["is_live"]) for one in shown] == [(call["id"], "answered", True)]
            assert on.rig.value("calls_active", provider=provider, direction="outbound") == 1
        await on.rig.quiet()
        await on.tell_that("completed")
        assert await on.state(call) == "completed"
        assert on.rig.value("dials_total", provider=provider, outcome="completed") == 1
        assert (await on.ask("GET", "/calls"))[1]["calls"] == []
        assert set(on.rig.balance().values()) == {0.0}


@every
async def test_a_call_that_is_not_taken_or_that_the_provider_refuses_gives_up_its_place(
    provider: str, autojump_clock: MockClock
) -> None:
    async with dialling(provider, max_calls=1) as on:
        call = await on.dial()
        assert on.rig.engine.registry.is_full
        await on.tell_that("busy")
        assert await on.state(call) == "busy"
        assert not on.rig.engine.registry.is_full
        on.refuses_with = 401
        status, error = await on.ask("POST", "/calls", {"to": THEIRS})
        assert status == 502, error
        assert not on.rig.engine.registry.is_full
        assert on.rig.value("dials_total", provider=provider, outcome="failed") == 1


async def test_the_same_key_makes_one_call_and_gives_one_answer(autojump_clock: MockClock) -> None:
    async with dialling() as on:
        answers = []

        async def ask() -> None:
            answers.append(await on.ask("POST", "/calls", {"to": THEIRS}, idempotency_key="k1"))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
        assert len(on.orders) == 1
        assert {(status, call["id"]) for status, call in answers} == {(201, answers[0][1]["id"])}
        audit = (await on.ask("GET", "/admin/audit"))[1]["events"]
        assert [event["what"] for event in audit] == ["call_dial"], "asked for three times, done once"
        status, error = await on.ask("POST", "/calls", {"to": "+12025550144"}, idempotency_key="k1")
        assert (status, error["error"]["code"]) == (409, "conflict")
        on.refuses_with = 401
        failed = [await on.ask("POST", "/calls", {"to": THEIRS}, idempotency_key="k2") for _ in range(2)]
        assert [status for status, _ in failed] == [502, 502]
        assert len(on.orders) == 2, "what the provider refused is not tried again under the same key"
        await on.ask("POST", "/calls", {"to": "+12025550144"}, idempotency_key="k3")
        assert on.rig.engine.dialing.find(answers[0][1]["id"]) is not None


@pytest.mark.parametrize(
    ("to", "why"),
    [
        ("+442079460001", "not in outbound.allow"),
        ("+19005551234", "a premium number"),
        ("+18765550143", "in outbound.deny"),
        ("+15550100000", "not in use"),
    ],
)
async def test_what_may_cost_more_than_a_call_is_not_dialled(to: str, why: str, autojump_clock: MockClock) -> None:
    async with dialling(allow=("+1",), deny=("+1876",)) as on:
        status, error = await on.ask("POST", "/calls", {"to": to})
        assert (status, error["error"]["code"]) == (403, "not_allowed")
        assert why in error["error"]["message"]
        assert on.orders == []
        assert on.rig.value("dials_total", provider="other", outcome="refused") == 1


async def test_nobody_is_called_unless_the_settings_and_the_key_say_so(autojump_clock: MockClock) -> None:
    async with dialling(enabled=False) as on:
        status, error = await on.ask("POST", "/calls", {"to": THEIRS})
        assert (status, error["error"]["code"]) == (403, "outbound_disabled")
        status, error = await on.ask("POST", "/calls", {"to": THEIRS}, key=f"{KEY}-of-a-guest")
        assert (status, error["error"]["code"]) == (403, "scope")
    async with dialling() as on:
        status, error = await on.ask("POST", "/calls", {"to": THEIRS, "from": "+12025550999"})
        assert (status, error["error"]["code"]) == (403, "no_sender")
        status, error = await on.ask("POST", "/calls", {"to": THEIRS, "agent": "nobody"})
        assert (status, error["error"]["code"]) == (404, "no_agent")
        assert on.orders == []


async def test_there_are_never_more_calls_than_the_settings_and_the_lines_allow(autojump_clock: MockClock) -> None:
    async with dialling(max_calls=1) as on:
        await on.dial()
        status, error = await on.ask("POST", "/calls", {"to": THEIRS})
        assert (status, error["error"]["code"]) == (503, "no_room")
        assert on.rig.engine.registry.is_full, "a place is held for who is being called"
        await on.tell(CallStatus="busy")
        assert not on.rig.engine.registry.is_full
    async with dialling(calls_per_minute=2) as on:
        await on.dial()
        await on.dial()
        status, error = await on.ask("POST", "/calls", {"to": THEIRS})
        assert (status, error["error"]["code"]) == (429, "rate_limit")


@pytest.mark.parametrize(
    ("told", "state"), [("busy", "busy"), ("no-answer", "no_answer"), ("failed", "failed"), ("canceled", "no_answer")]
)
async def test_what_becomes_of_a_call_that_nobody_takes_is_told(
    told: str, state: str, autojump_clock: MockClock
) -> None:
    async with dialling() as on:
        call = await on.dial()
        await on.tell(CallStatus=told)
        await on.tell(CallStatus="ringing")
        assert await on.state(call) == state
        with pytest.raises(CallFailed):
            async with on.answered():
                pass


async def test_of_whom_nobody_tells_anything_is_given_up(autojump_clock: MockClock) -> None:
    async with dialling(ring_s=20.0) as on:
        call = await on.dial()
        await trio.sleep(45)
        assert await on.state(call) == "queued"
        await trio.sleep(10)
        assert await on.state(call) == "no_answer"


@every
async def test_an_answering_machine_is_left_a_word_after_its_beep(provider: str, autojump_clock: MockClock) -> None:
    async with dialling(provider) as on:
        call = await on.dial(detect_machine=True, voicemail="please call back")
        async with on.answered() as phone:
            await phone.wait_for_reply()
            await on.tell_that("machine")
            assert await on.state(call) == "machine"
            await phone.wait_until_over(within_s=20)
            assert words(phone.heard_audio, phone.format).endswith("please call back")
        await on.rig.quiet()
        assert await on.state(call) == "machine"
        assert len(on.api.requests) == 2, "the order, and then the provider is told that it is over"


async def test_a_machine_that_is_to_be_left_nothing_is_hung_up_on(autojump_clock: MockClock) -> None:
    async with dialling() as on:
        call = await on.dial(detect_machine=True)
        async with on.answered() as phone:
            await phone.wait_for_reply()
            await on.tell(AnsweredBy="machine_end_silence")
            await phone.wait_until_over(within_s=2)
        assert (await on.state(call), on.updates[-1]) == ("machine", {"Status": "completed"})


async def test_a_person_goes_on_talking(autojump_clock: MockClock) -> None:
    async with dialling() as on:
        call = await on.dial(detect_machine=True, voicemail="please call back")
        async with on.answered() as phone:
            await phone.wait_for_reply()
            await on.tell(AnsweredBy="human")
            assert await on.rig.say(phone, "two")
            assert (await on.ask("GET", f"/calls/{call['id']}"))[1]["answered_by"] == "human"


async def test_a_token_is_good_for_the_one_call_that_was_made(autojump_clock: MockClock) -> None:
    async with dialling() as on:
        await on.dial()
        async with on.answered() as phone:
            await phone.wait_for_reply()
            on.call_sid = lambda number=-1: "CA" + "9" * 32  # type: ignore[method-assign]  # another call, the same address
            with pytest.raises(CallFailed):
                async with on.answered():
                    pass
        assert on.rig.value("calls_rejected_total", provider="twilio", reason="unknown_dial") == 1


async def test_what_still_rings_is_hung_up_when_the_engine_stops(autojump_clock: MockClock) -> None:
    async with dialling() as on:
        await on.dial()
        on.rig.engine.stop()
        await trio.sleep(1)
        assert on.updates == [{"Status": "completed"}]


# --- live calls -----------------------------------------------------------------------------------------------


async def test_people_can_speak_into_a_live_call_and_end_it(autojump_clock: MockClock) -> None:
    async with dialling() as on, on.rig.call() as phone:
        await phone.wait_for_reply()
        (call,) = (await on.ask("GET", "/calls"))[1]["calls"]
        assert (call["direction"], call["agent"], call["caller"]) == ("inbound", "desk", "***0006")
        assert await on.ask("POST", f"/calls/{call['id']}/say", {"text": "one moment"}) == (
            200,
            {"id": call["id"], "done": "said"},
        )
        await trio.sleep(3)
        assert words(phone.heard_audio, phone.format).endswith("one moment")
        status, _ = await on.ask("POST", f"/calls/{call['id']}/hangup", {"say": "goodbye now"})
        assert status == 200
        await phone.wait_until_over(within_s=10)
        assert words(phone.heard_audio, phone.format).endswith("goodbye now")
        await on.rig.quiet()
        assert on.rig.value("calls_ended_total", provider="twilio", reason="admin") == 1
        assert (await on.ask("POST", f"/calls/{call['id']}/say", {"text": "late"}))[0] == 404
        audit = (await on.ask("GET", "/admin/audit"))[1]["events"]
        assert [(event["by"], event["what"]) for event in audit] == [("boss", "call_hangup"), ("boss", "call_say")]


async def test_a_live_call_is_ended_at_once(autojump_clock: MockClock) -> None:
    async with dialling() as on, on.rig.call() as phone:
        await phone.wait_until_heard()
        (call,) = (await on.ask("GET", "/calls"))[1]["calls"]
        assert (await on.ask("POST", f"/calls/{call['id']}/hangup"))[0] == 200
        await phone.wait_until_over(within_s=2)


@every
async def test_a_transfer_that_lacks_a_setting_is_refused_with_its_name(
    provider: str, autojump_clock: MockClock
) -> None:
    def without_rest(settings: Settings) -> Settings:
        return replace(
            settings,
            twilio=replace(settings.twilio, account_sid=""),
            vonage=replace(settings.vonage, application_id=""),
            telnyx=replace(settings.telnyx, account_sid=""),  # it transfers without
            signalwire=replace(settings.signalwire, project_id=""),
            secrets=replace(settings.secrets, telnyx_api_key=""),
        )

    lacks = {
        "twilio": "TWILIO_ACCOUNT_SID",
        "vonage": "VONAGE_APPLICATION_ID",
        "telnyx": "TELNYX_API_KEY",
        "plivo": "OFFHOOK_SERVER_PUBLIC_URL",
        "signalwire": "SIGNALWIRE_PROJECT_ID",
    }
    reception = {"reception": "+12025550177"}
    async with (
        dialling(provider, transfers=reception, also=without_rest) as on,
        on.rig.phone.call(SIDES[provider](callee_of(on.rig, provider))) as phone,
    ):
        await phone.wait_for_reply()
        (call,) = (await on.ask("GET", "/calls"))[1]["calls"]
        status, error = await on.ask("POST", f"/calls/{call['id']}/transfer", {"to": "reception"})
        assert (status, error["error"]["code"]) == (503, "not_able")
        assert error["error"]["message"] == f"{provider} cannot transfer calls: set {lacks[provider]} and start again."


async def test_a_caller_is_connected_to_whom_the_settings_allow(autojump_clock: MockClock) -> None:
    async with dialling(transfers={"reception": "+12025550177"}) as on, on.rig.call() as phone:
        await phone.wait_for_reply()
        (call,) = (await on.ask("GET", "/calls"))[1]["calls"]
        for to in ("nobody", "+442079460001", "+19005551234"):
            status, error = await on.ask("POST", f"/calls/{call['id']}/transfer", {"to": to})
            assert (status, error["error"]["code"]) == (403, "not_allowed")
        on.refuses_with = 500
        for refusal, told in (500, "answered 500 (error 20003)."), (401, "it does not take our keys"):
            on.refuses_with = refusal
            status, error = await on.ask("POST", f"/calls/{call['id']}/transfer", {"to": "reception"})
            assert (status, error["error"]["code"]) == (502, "not_connected")
            assert told in error["error"]["message"]
        assert await on.rig.say(phone, "are you still there")
        on.refuses_with = 0
        status, done = await on.ask("POST", f"/calls/{call['id']}/transfer", {"to": "reception"})
        assert (status, done["done"]) == (200, "transferred")
        assert "+12025550177" in on.updates[-1]["Twiml"]
        await phone.wait_until_over(within_s=3)
        await on.rig.quiet()
        assert on.rig.value("calls_ended_total", provider="twilio", reason="transferred") == 1
