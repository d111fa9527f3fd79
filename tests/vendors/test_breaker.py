"""A vendor that fails for many is not asked by each of them."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from engine.errors import Why
from engine.observe.labels import BreakerState, VendorKind
from engine.observe.metrics import Metrics
from engine.vendors.breaker import Breaker, Breakers, Tolerance
from tests.fakes.samples import sample


async def test_the_fifth_failure_within_half_a_minute_opens_it_for_fifteen_seconds(autojump_clock: MockClock) -> None:
    breaker = Breaker()
    for _ in range(5):
        assert breaker.admits()
        breaker.failed(Why.UNREACHABLE)
        await trio.sleep(7)
    assert breaker.state is BreakerState.OPEN
    assert not breaker.admits()
    assert breaker.wait_s == pytest.approx(8.0)
    await trio.sleep(8)
    assert breaker.admits()


async def test_failures_that_are_far_apart_do_not_open_it(autojump_clock: MockClock) -> None:
    breaker = Breaker()
    for _ in range(20):
        breaker.failed(Why.TIMEOUT)
        await trio.sleep(7.6)
        assert breaker.admits()


async def test_one_call_asks_once_it_was_open_long_enough_and_the_others_wait_for_it(autojump_clock: MockClock) -> None:
    breaker = opened()
    await trio.sleep(15)
    assert [breaker.admits() for _ in range(3)] == [True, False, False]
    breaker.worked()
    assert [breaker.admits() for _ in range(3)] == [True, True, True]
    breaker.failed(Why.CUT)
    assert breaker.admits()


async def test_a_probe_that_fails_opens_it_again_and_one_that_nobody_waited_for_leaves_it_to_the_next(
    autojump_clock: MockClock,
) -> None:
    breaker = opened()
    await trio.sleep(15)
    assert breaker.admits()
    breaker.let_go()
    assert breaker.admits()
    breaker.failed(Why.CUT)
    assert not breaker.admits()
    await trio.sleep(14.9)
    assert not breaker.admits()


async def test_a_wrong_key_opens_it_at_once() -> None:
    breaker = Breaker()
    breaker.failed(Why.AUTH)
    assert not breaker.admits()


@pytest.mark.parametrize("why", [Why.BAD_REQUEST, Why.TOO_LONG, Why.FILTERED])
async def test_what_is_wrong_with_the_question_does_not_count(why: Why) -> None:
    breaker = Breaker()
    for _ in range(20):
        breaker.failed(why)
    assert breaker.admits()


async def test_each_vendor_in_each_role_has_one_breaker_and_its_state_is_shown(autojump_clock: MockClock) -> None:
    metrics = Metrics(vendors=("one", "two"))
    breakers = Breakers(metrics)

    def shown(vendor: str) -> dict[str, float]:
        of = {"vendor": vendor, "kind": "stt"}
        return {
            str(state): sample(metrics.registry, "vendor_breaker_state", state=state, **of) for state in BreakerState
        }

    breaker = breakers.of("one", VendorKind.STT)
    assert breakers.of("one", VendorKind.STT) is breaker
    assert breakers.of("one", VendorKind.TTS) is not breaker
    assert shown("one") == {"closed": 1, "open": 0, "probing": 0}
    breaker.failed(Why.AUTH)
    assert shown("one") == {"closed": 0, "open": 1, "probing": 0}
    assert breakers.not_asked() == [("one", VendorKind.STT)]
    await trio.sleep(15)
    assert breaker.admits()
    assert shown("one") == {"closed": 0, "open": 0, "probing": 1}
    assert breakers.of("two", VendorKind.STT).admits()


def opened() -> Breaker:
    breaker = Breaker()
    for _ in range(5):
        breaker.failed(Why.UNREACHABLE)
    assert breaker.state is BreakerState.OPEN
    return breaker


async def test_whoever_is_not_let_through_learns_whether_it_is_the_key(autojump_clock: MockClock) -> None:
    breaker = Breaker()
    breaker.failed(Why.AUTH)
    assert (breaker.admits(), breaker.why) == (False, Why.AUTH)
    await trio.sleep(Tolerance().open_s)
    assert breaker.admits()
    breaker.failed(Why.CUT)
    assert (breaker.admits(), breaker.why) == (False, Why.UNREACHABLE)
