"""FAULTS C 40: a model that is down does not hold up the calls of a whole engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio.testing import MockClock

from engine.events import AudioFormat, SessionInfo
from engine.observe.labels import BreakerState
from engine.observe.timeline import What
from engine.ports import CallControl, LanguageModel, Owner
from engine.vendors.around import Vendoring
from engine.vendors.thinking import open_model
from tests.fakes.agents import MemoryAgent
from tests.fakes.plain_speech import speak
from tests.fakes.stage import stage
from tests.fakes.vendors import Behaviour
from tests.faults.vendored import WithoutTools, World, ground, two_minds

TO_OPEN = 5
"""Failures."""
CALLS = 50
OPEN_S = 15.0


class Agent(MemoryAgent):
    """Whose models are those of vendors; its ear and its voice are there at once."""

    counts_vendors = True

    def __init__(self, minds: Any, around: Vendoring) -> None:
        super().__init__(greeting="Hello.", behaviour=Behaviour(chars_per_s=50.0))
        self._minds, self._around = minds, around

    @asynccontextmanager
    async def open_model(
        self, session: SessionInfo, owner: Owner, control: CallControl
    ) -> AsyncIterator[LanguageModel]:
        async with open_model(self._minds, session, owner, self._around) as model:
            yield WithoutTools(model)

    def clip(self, text: str, format: AudioFormat) -> bytes | None:  # noqa: A002 - the port's word
        return speak(text, format, chars_per_s=50.0)


@asynccontextmanager
async def world_of_minds(**limits: Any) -> AsyncIterator[World]:
    async with ground(**limits) as (around, behind):
        minds = two_minds(behind)
        agent = Agent([each.vendor for each in minds], around)
        async with stage(agent, metrics=around.metrics, **limits) as on:
            made = World(on, around, minds=minds)
            yield made
            await made.at_rest()


async def test_c40_fifty_calls_do_not_pile_up_before_a_model_that_is_down(autojump_clock: MockClock) -> None:
    """Five find out, and one more when the breaker lets somebody try; all others have the second model at once."""
    async with world_of_minds(max_calls=CALLS) as w:
        dead = w.minds[0]
        dead.faults.hangs = True

        async def calls(count: int, *, wait_s: float = 2.0) -> list[float]:
            """Of so many that are there at once, what they waited for the first sound of an answer. The last is that of
            the one who speaks first."""
            silences: list[float] = []

            async def call(number: int) -> None:
                async with w.call(wait_s=0.5 + number * 0.01) as caller:
                    await caller.say("hi", pause_s=0.3)
                    await trio.sleep(wait_s)
                    assert caller.answer().endswith("You said hi."), caller.words
                    silences.append(caller.silence_s())

            async with trio.open_nursery() as nursery:
                for number in range(count):
                    nursery.start_soon(call, number)
            return silences

        assert max(await calls(TO_OPEN, wait_s=6.0)) <= 3.0, "a filler"
        assert state(w) == "open"
        assert max(await calls(CALLS)) < 1.0
        assert dead.faults.connections == TO_OPEN
        await trio.sleep(OPEN_S)
        assert sorted(silence_s < 1.0 for silence_s in await calls(5, wait_s=6.0)) == [False] + [True] * 4
        assert state(w) == "open"
        assert dead.faults.connections == TO_OPEN + 1
        dead.faults.hangs = False
        await trio.sleep(OPEN_S)
        assert max(await calls(2)) < 1.0
        assert state(w) == "closed"
    assert w.requests("openai") == {"timeout": TO_OPEN + 1, "ok": 1}
    assert w.requests("anthropic") == {"ok": TO_OPEN + CALLS + 5 + 1}
    assert w.on.count(What.CALL_RELEASED) == TO_OPEN + CALLS + 7


def state(w: World) -> str:
    """Of the first model's breaker, as it is shown."""
    shown = {state: w.value("vendor_breaker_state", vendor="openai", kind="llm", state=state) for state in BreakerState}
    return next(state for state, value in shown.items() if value)
