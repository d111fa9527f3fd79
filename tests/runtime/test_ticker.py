"""The shared beat: on time for ever, calm after a stop, and no call's fault is another's."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from engine.runtime.ticker import Ticker

Clock = trio.testing.MockClock


async def test_the_beat_does_not_drift_in_two_minutes(nursery: trio.Nursery, autojump_clock: Clock) -> None:
    beats: list[float] = []
    ticker = Ticker()
    nursery.start_soon(ticker.run)
    start = trio.current_time()
    ticker.add(lambda _: beats.append(trio.current_time() - start))
    await trio.sleep(120)
    assert len(beats) in (5_999, 6_000)
    assert max(abs(at - (number + 1) * 0.02) for number, at in enumerate(beats)) < 1e-6


async def test_a_beat_is_told_when_it_was_due(nursery: trio.Nursery, autojump_clock: Clock) -> None:
    dues: list[float] = []
    ticker = Ticker()
    nursery.start_soon(ticker.run)
    start = trio.current_time()
    ticker.add(dues.append)
    await trio.sleep(0.05)
    assert dues == pytest.approx([start + 0.02, start + 0.04])


async def test_a_short_delay_is_made_up_for(nursery: trio.Nursery, mock_clock: Clock) -> None:
    dues = await _dues_after_a_stop_of(0.1, nursery, mock_clock)
    assert dues == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])


async def test_a_long_stop_is_not_followed_by_a_burst(nursery: trio.Nursery, mock_clock: Clock) -> None:
    dues = await _dues_after_a_stop_of(10.0, nursery, mock_clock)
    assert len(dues) <= 2
    assert dues[-1] == pytest.approx(10.0)


async def test_after_a_stop_the_beat_stays_on_its_grid(nursery: trio.Nursery, mock_clock: Clock) -> None:
    dues = await _dues_after_a_stop_of(10.013, nursery, mock_clock)
    assert dues[-1] == pytest.approx(10.0)


async def _dues_after_a_stop_of(stopped_s: float, nursery: trio.Nursery, clock: Clock) -> list[float]:
    dues: list[float] = []
    ticker = Ticker()
    nursery.start_soon(ticker.run)
    start = trio.current_time()
    ticker.add(lambda due: dues.append(due - start))
    await trio.testing.wait_all_tasks_blocked()
    clock.jump(stopped_s)
    await trio.testing.wait_all_tasks_blocked()
    return dues


async def test_one_that_raises_is_removed_and_reported_and_the_others_go_on(
    nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    crashes: list[Exception] = []
    good: list[float] = []

    def bad(_: float) -> None:
        raise LookupError("one call's fault")

    ticker = Ticker(on_crash=crashes.append)
    nursery.start_soon(ticker.run)
    ticker.add(bad)
    ticker.add(good.append)
    await trio.sleep(0.11)
    assert [type(crash) for crash in crashes] == [LookupError]
    assert len(good) == 5
    assert len(ticker) == 1


async def test_removing_takes_effect_at_once_and_any_number_of_times(
    nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    calls: list[str] = []
    ticker = Ticker()
    nursery.start_soon(ticker.run)

    def first(_: float) -> None:
        calls.append("first")
        remove_second()
        remove_second()

    ticker.add(first)
    remove_second = ticker.add(lambda _: calls.append("second"))
    await trio.sleep(0.05)
    assert calls == ["first", "first"]
    assert len(ticker) == 1


async def test_with_nobody_registered_it_sleeps_and_then_wakes_again(nursery: trio.Nursery, mock_clock: Clock) -> None:
    ticker = Ticker()
    nursery.start_soon(ticker.run)
    await trio.testing.wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")
    for _ in range(2):
        beats: list[float] = []
        remove = ticker.add(beats.append)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(0.02)
        await trio.testing.wait_all_tasks_blocked()
        assert len(beats) == 1
        remove()
        mock_clock.jump(0.02)
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")
