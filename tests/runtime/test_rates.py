"""How often somebody may ask."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from engine.runtime.rates import RateLimiter, number_key


async def test_one_number_is_limited_and_others_are_not(autojump_clock: MockClock) -> None:
    limiter = RateLimiter(3)
    assert [limiter.allows("+1555") for _ in range(5)] == [True, True, True, False, False]
    assert limiter.allows("+1556")
    await trio.sleep(61)
    assert limiter.allows("+1555")


async def test_the_wait_is_until_the_oldest_is_a_minute_old(autojump_clock: MockClock) -> None:
    limiter = RateLimiter(2)
    assert limiter.wait_s("+1555") == 0
    limiter.allows("+1555")
    await trio.sleep(20)
    limiter.allows("+1555")
    assert limiter.wait_s("+1555") == pytest.approx(40)
    await trio.sleep(40)
    assert limiter.wait_s("+1555") == 0
    assert limiter.allows("+1555")
    assert not limiter.allows("+1555")


async def test_withheld_numbers_are_not_one_number() -> None:
    limiter = RateLimiter(1)
    assert all(limiter.allows(number_key("anonymous")) for _ in range(10))
    assert number_key("+1555") == "+1555"


async def test_the_limiter_forgets_the_oldest_numbers() -> None:
    limiter = RateLimiter(1, kept=10)
    for number in range(1000):
        assert limiter.allows(f"+1{number}")
    assert len(limiter) <= 10
