"""How soon everything of a call is gone after the hang-up, whatever the far ends do."""

from __future__ import annotations

import pytest
import structlog
import trio
from trio.testing import MockClock

from engine.calls.returning import RETURN_S
from engine.observe.timeline import What
from engine.sessions.house import SWEEP_S
from tests.system.rig import Rig, descriptors, running_engine, tasks

AT_ONCE = 50
P99_S = 1.0
WORST_S = 2.0


async def greeted(rig: Rig, number: int) -> None:
    """A caller who hangs up somewhere in the greeting, the question or the answer."""
    async with rig.call(caller=f"+1500{number:07d}") as call:
        await call.wait_until_heard(within_s=10, after_s=call.answered_at_s)
        await trio.sleep(0.05 * (number % 20))
        if number % 3 == 0:
            call.drop()


async def test_vendors_that_never_answer_the_close_hold_nothing_for_more_than_a_second(
    autojump_clock: MockClock,
) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    async with running_engine(max_calls=AT_ONCE, greeting="Hello, this is a rather long greeting.") as rig:
        await greeted(rig, 1)
        await rig.quiet()
        await trio.sleep(30)
        baseline = (descriptors(), tasks())

        async def deafen() -> None:
            await trio.sleep(0.6)
            rig.vendors.is_deaf = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(deafen)
            for number in range(AT_ONCE):
                nursery.start_soon(greeted, rig, number)
        with trio.fail_after(WORST_S):
            while rig.engine.registry.live_slots():  # noqa: ASYNC110 - seen from outside
                await trio.sleep(0.01)
        took_ms = sorted(
            float(str(moment.fields["released_ms"])) for moment in rig.moments if moment.what is What.CALL_RELEASED
        )
        assert len(took_ms) == AT_ONCE + 1
        assert took_ms[-1] <= WORST_S * 1000
        assert took_ms[int(len(took_ms) * 0.99) - 1] <= P99_S * 1000
        assert rig.value("teardown_forced_total", resource="speech_client") > 0
        rig.vendors.is_deaf = False
        await rig.quiet()
        # The sessions of lines that were lost wait for them.
        with trio.fail_after(RETURN_S + SWEEP_S + 2):
            while (descriptors(), tasks()) != baseline:  # noqa: ASYNC110 - seen from outside
                await trio.sleep(0.05)
        assert set(rig.balance().values()) == {0}, rig.balance()


async def test_an_engine_that_cannot_watch_itself_keeps_its_calls(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_engine() as rig, rig.call() as call:
        await call.wait_for_reply()

        def crash() -> None:
            raise RuntimeError("a bug in a figure")

        monkeypatch.setattr(rig.engine.metrics.playout_buffered, "show", crash)
        await trio.sleep(5)
        assert rig.value("actor_restarts_total", actor="housekeeping") == 3
        assert "Turn 1" in await rig.say(call, "Still there?")
        assert not rig.engine.has_given_up
