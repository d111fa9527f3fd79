"""Permanent actors are started again, a few times."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from engine.runtime.supervision import Intensity, keep_running


async def test_a_crashing_actor_is_restarted_three_times_and_then_given_up(autojump_clock: MockClock) -> None:
    starts: list[float] = []
    restarts: list[str] = []
    given_up: list[str] = []

    async def crash() -> None:
        starts.append(trio.current_time())
        await trio.sleep(1)
        raise RuntimeError("bug")

    await keep_running("registry", crash, on_restart=restarts.append, on_give_up=given_up.append)
    assert (len(starts), restarts, given_up) == (4, ["registry"] * 3, ["registry"])


async def test_crashes_far_apart_are_forgiven(autojump_clock: MockClock) -> None:
    starts: list[None] = []

    async def crash() -> None:
        starts.append(None)
        await trio.sleep(6)
        raise RuntimeError("bug")

    with trio.move_on_after(100):
        await keep_running(
            "x", crash, on_restart=lambda _: None, on_give_up=lambda _: pytest.fail("given up"), intensity=Intensity()
        )
    assert len(starts) >= 15


async def test_being_cancelled_is_no_crash(autojump_clock: MockClock) -> None:
    restarts: list[str] = []
    with trio.move_on_after(1):
        await keep_running("x", trio.sleep_forever, on_restart=restarts.append, on_give_up=restarts.append)
    assert restarts == []
