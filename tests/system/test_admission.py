"""Who gets in: an exact capacity, one stream a call, one use a token, and a refusal that the caller can hear."""

from __future__ import annotations

from contextlib import suppress

import pytest
import structlog
import trio
from trio.testing import MockClock

from engine.calls.slots import Refusal
from engine.observe.timeline import What
from engine.phone.call import PhoneCall
from engine.phone.errors import CallRefused, LineLost
from engine.ports import IncomingCall
from engine.runtime.sockets import open_socket
from tests.system.rig import Rig, running_engine


@pytest.mark.parametrize("provider", ["twilio", "vonage"])
async def test_ten_times_the_capacity_at_once_never_exceeds_it(provider: str, autojump_clock: MockClock) -> None:
    capacity = 5
    async with running_engine(max_calls=capacity) as rig:
        admitted: list[PhoneCall] = []
        refused: list[str] = []
        most = 0

        async def arrive(number: int) -> None:
            nonlocal most
            try:
                async with rig.call(provider, caller=f"+1500{number:07d}") as call:
                    admitted.append(call)
                    assert await call.wait_for_reply(within_s=10)
                    most = max(most, len(rig.engine.registry.live_calls()))
                    await trio.sleep(3)
            except CallRefused as refusal:
                refused.append(refusal.sentence)

        async with trio.open_nursery() as nursery:
            for number in range(10 * capacity):
                nursery.start_soon(arrive, number)
        await rig.quiet()
        assert (len(admitted), len(refused), most) == (capacity, 9 * capacity, capacity)
        assert set(refused) == {Refusal("capacity").sentence}
        assert rig.value("calls_rejected_total", provider=provider, reason="capacity") == 9 * capacity
        assert rig.vendors.opened["recogniser"] == capacity
        assert rig.total("full_transitions_total") >= 1


async def test_a_second_stream_of_a_live_call_replaces_the_first_completely(autojump_clock: MockClock) -> None:
    async with running_engine() as rig, rig.call(call_id="CA" + "7" * 32) as first:
        await first.wait_for_reply()
        # The same call asks anew: a webhook with something different in it, as after a redirect.
        async with rig.call(call_id="CA" + "7" * 32, extra={"CallStatus": "in-progress"}) as second:
            await second.wait_for_reply()
            assert first.end == "engine 1008"
            released = [moment.at_s for moment in rig.moments if moment.what is What.CALL_RELEASED]
            started = [moment.at_s for moment in rig.moments if moment.what is What.CALL_STARTED]
            assert released[0] <= started[1]
            assert rig.engine.registry.live_calls() == ["CA" + "7" * 32]
            assert rig.vendors.open["recogniser"] == 1


async def test_a_stranger_on_a_live_call_is_refused_and_the_call_goes_on(autojump_clock: MockClock) -> None:
    async with running_engine() as rig, rig.call(call_id="CA" + "7" * 32) as call:
        await call.wait_for_reply()
        for token in ("", "guessed", "x" * 400):
            assert await _knock(rig, "CA" + "7" * 32, token) == 1008
        assert "Turn 1" in await rig.say(call, "Still there?")
        assert rig.vendors.opened["recogniser"] == 1
        assert rig.value("handshake_failures_total", why="bad_token") >= 2


async def test_a_token_is_good_once(autojump_clock: MockClock) -> None:
    async with running_engine() as rig:
        call_id = "CA" + "8" * 32
        token = await rig.engine.supervisor.admit("twilio", IncomingCall(call_id, "+1500", "+1501"))
        assert isinstance(token, str)
        url = rig.engine.url.replace("http", "ws") + "/media/twilio"
        async with open_socket(url) as socket:
            await socket.send(_start(call_id, token))
            await trio.sleep(1)
            assert rig.engine.registry.live_calls() == [call_id]
            assert await _knock(rig, call_id, token) == 1008
            assert rig.engine.registry.live_calls() == [call_id]


async def test_one_number_that_calls_and_calls_hears_why_not(autojump_clock: MockClock) -> None:
    async with running_engine(max_calls=50) as rig:
        rig.engine.supervisor._limiter._per_minute = 3
        sentences = []
        for _ in range(5):
            try:
                async with rig.call(caller="+15005550009") as call:
                    await call.wait_for_reply()
            except CallRefused as refusal:
                sentences.append(refusal.sentence)
        assert sentences == [Refusal("rate_limit").sentence] * 2
        async with rig.call(caller="+15005550010") as call:
            assert await call.wait_for_reply()


async def test_the_providers_word_that_the_call_is_over_ends_it(autojump_clock: MockClock) -> None:
    async with running_engine() as rig, rig.call() as call:
        await call.wait_for_reply()
        rig.engine.supervisor.call_is_over("twilio", call.call_id)
        with pytest.raises(LineLost):
            await rig.say(call, "Hello?")
        await rig.quiet()
        assert rig.value("calls_ended_total", provider="twilio", reason="caller_hangup") == 1
        with structlog.testing.capture_logs() as logs:
            rig.engine.supervisor.call_is_over("twilio", call.call_id)  # the usual late news
            assert logs == []
            rig.engine.supervisor.call_is_over("twilio", "CA" + "9" * 32)
            assert [(entry["event"], entry["log_level"]) for entry in logs] == [("call_not_live", "warning")]


def _start(call_id: str, token: str) -> str:
    return (
        '{"event":"start","sequenceNumber":"1","streamSid":"MZ1","start":{"accountSid":"AC1","streamSid":"MZ1",'
        f'"callSid":"{call_id}","tracks":["inbound"],"mediaFormat":{{"encoding":"audio/x-mulaw","sampleRate":8000,'
        f'"channels":1}},"customParameters":{{"token":"{token}"}}}}}}'
    )


async def _knock(rig: Rig, call_id: str, token: str) -> int | None:
    """Open a media socket with this token; the code it is closed with."""
    async with open_socket(rig.engine.url.replace("http", "ws") + "/media/twilio") as socket:
        await socket.send(_start(call_id, token))
        with trio.move_on_after(5), suppress(trio.EndOfChannel):
            await socket.receive()
        return socket.close_code
