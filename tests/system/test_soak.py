"""Call after call, and many at once, on real sockets: each is answered, none hears another, and nothing is left.

OFFHOOK_SOAK_CALLS says how many one after the other; 150 by default.
"""

from __future__ import annotations

import os

import pytest
import structlog
import trio
from trio.testing import MockClock

from tests.fakes.plain_speech import speak, words
from tests.fakes.vendors import Behaviour
from tests.system.rig import Rig, descriptors, resident_bytes, running_engine, tasks

BRISK = Behaviour(onset_s=0.1, endpoint_s=0.1, final_s=0.0, first_token_s=0.0, first_audio_s=0.0, chars_per_s=400.0)
CALLS_IN_A_ROW = int(os.environ.get("OFFHOOK_SOAK_CALLS", "150"))
WARM_AFTER = 80
GROWN_BYTES = 4 * 1024 * 1024 if CALLS_IN_A_ROW <= 300 else 10 * 1024 * 1024
"""From then on."""
AT_ONCE = 50


@pytest.fixture(autouse=True)
def quiet_log() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))


async def one_call(rig: Rig, number: int, provider: str = "twilio") -> None:
    """Greeted; tells a word; is answered with that word and no other call's."""
    canary = f"canary{number:04d}"
    async with rig.call(provider, caller=f"+1500{number:07d}") as call:
        assert await call.wait_for_reply(within_s=10, quiet_s=0.2)
        await call.say(speak(f"{canary}.", call.format, chars_per_s=100))
        answer = words(await call.wait_for_reply(within_s=15, quiet_s=0.2), call.format)
        assert answer.startswith("Turn 1."), (number, answer)
        assert answer.endswith(f"I know {canary}."), (number, answer)
        heard = {word.strip(".") for word in answer.split() if "canary" in word}
        assert heard == {canary}
        assert not call.violations
    assert call.end == "caller"


async def at_rest(rig: Rig, baseline: tuple[int, int]) -> None:
    await rig.quiet()
    with trio.fail_after(2):
        while (descriptors(), tasks()) != baseline:  # noqa: ASYNC110 - seen from outside
            await trio.sleep(0.01)
    assert set(rig.balance().values()) == {0}, rig.balance()


@pytest.mark.heavy
@pytest.mark.timeout(400)
async def test_calls_one_after_the_other_leave_nothing(autojump_clock: MockClock) -> None:
    async with running_engine(behaviour=BRISK, finished_turn_s=0.1) as rig:
        await one_call(rig, 0)
        await rig.quiet()
        await trio.sleep(30)  # idle connections of the warm-up are gone
        baseline = (descriptors(), tasks())
        warm_bytes = 0
        for number in range(1, CALLS_IN_A_ROW + 1):
            await one_call(rig, number)
            await rig.quiet()
            rig.moments.clear()  # these are the test's
            if number == WARM_AFTER:
                warm_bytes = resident_bytes()
        await at_rest(rig, baseline)
        grown = resident_bytes() - warm_bytes
        assert grown < GROWN_BYTES, f"{grown / 1e6:.1f} MB"
        assert rig.value("calls_ended_total", provider="twilio", reason="caller_hangup") == CALLS_IN_A_ROW + 1
        assert rig.vendors.opened["recogniser"] == rig.vendors.opened["model"] == CALLS_IN_A_ROW + 1


@pytest.mark.parametrize("provider", ["twilio", "vonage"])
async def test_fifty_calls_at_once_do_not_hear_each_other(provider: str, autojump_clock: MockClock) -> None:
    async with running_engine(max_calls=AT_ONCE, behaviour=BRISK) as rig:
        await one_call(rig, 0, provider)
        await rig.quiet()
        await trio.sleep(30)
        baseline = (descriptors(), tasks())
        async with trio.open_nursery() as nursery:
            for number in range(1, AT_ONCE + 1):
                nursery.start_soon(one_call, rig, number, provider)
        await at_rest(rig, baseline)
        assert rig.total("calls_rejected_total") == 0
        assert rig.value("calls_ended_total", provider=provider, reason="caller_hangup") == AT_ONCE + 1


async def test_within_a_call_the_agent_remembers_and_between_calls_it_does_not(autojump_clock: MockClock) -> None:
    async with running_engine() as rig:
        async with rig.call() as call:
            await call.wait_for_reply()
            await rig.say(call, "Remember canaryone.")
            assert "I know canaryone" in await rig.say(call, "What was it?")
            answer = await rig.say(call, "And canarytwo.")
            assert "Turn 3." in answer
            assert "I know canaryone and canarytwo" in answer
        async with rig.call() as call:
            await call.wait_for_reply()
            answer = await rig.say(call, "What was it?")
            assert answer.startswith("Turn 1.")
            assert "canary" not in answer
