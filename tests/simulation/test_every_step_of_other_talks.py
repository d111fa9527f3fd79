"""Hang up, cut, or break a call at the steps that its tasks take, where one model hears and speaks, and where the
provider does: nothing stays open.

As ``test_every_step``, without a witness, and at every third step only: the call around the talk is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import structlog
import trio
from trio.testing import MockClock

from engine.events import HangUp, ReplyOver, ToolCall
from engine.observe.metrics import Metrics
from engine.observe.timeline import What
from engine.runtime.sockets import HandshakeFailed
from tests.fakes.puppet import PuppetAgent, PuppetRealtimeAgent
from tests.fakes.relay_caller import RelayCaller
from tests.fakes.samples import total
from tests.fakes.stage import Caller, Stage, stage
from tests.simulation.steps import AtStep, fix_the_order, is_target

RELEASED_WITHIN_S = 2.0
APOLOGY_S = 8.0
CALL_ID = "CA" + "2" * 32
EVERY = 3


class Injected(Exception):
    """What a bug anywhere in the call would raise."""


class Scene:
    """One run: greeting, question, answer, barge-in, keys, a tool that hangs up."""

    agent: PuppetAgent
    is_relay = False

    def __init__(self, metrics: Metrics, kind: str) -> None:
        self.metrics = metrics
        self.kind = kind
        self.scope = trio.CancelScope()
        self.socket: Any = None
        self.problems: list[str] = []
        self.said = 0

    async def run(self, step: AtStep) -> None:
        async with stage(self.agent, metrics=self.metrics) as on:
            on.serve_in.run(is_target.set, True)
            async with trio.open_nursery() as nursery:
                await nursery.start(self._serve, on)
                trio.lowlevel.add_instrument(step)
                with trio.move_on_after(5), suppress(HandshakeFailed, trio.BrokenResourceError):
                    await self._play(on)
                await self._until_released(on, step)
                trio.lowlevel.remove_instrument(step)
                self._left_over(on)
                self.said = on.count(What.SAID)
                nursery.cancel_scope.cancel()

    async def _serve(self, on: Stage, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as serving:
            on.nursery, self.scope = serving, serving.cancel_scope
            task_status.started()
            await trio.sleep_forever()

    async def _play(self, on: Stage) -> None:
        token = await on.token(CALL_ID)
        async with on.socket(is_relay=self.is_relay) as self.socket, trio.open_nursery() as nursery:
            await self._hold(token, nursery)
            nursery.cancel_scope.cancel()

    async def _hold(self, token: str, nursery: trio.Nursery) -> None:
        raise NotImplementedError

    async def _until_released(self, on: Stage, step: AtStep) -> None:
        """A call that was broken may still apologise; one that was hung up may not take longer than promised."""
        begun = trio.current_time() if self.kind == "throw" or step.at_s is None else step.at_s
        with trio.CancelScope(deadline=begun + (APOLOGY_S if self.kind == "throw" else RELEASED_WITHIN_S)):
            while on.supervisor.live_calls() or any(not socket.closed for socket in on.accepted):  # noqa: ASYNC110 - what is asked is how it looks from outside
                await trio.sleep(0.01)

    def _left_over(self, on: Stage) -> None:
        if on.supervisor.live_calls():
            self.problems.append("the call is in the registry")
        if self.agent.open_parts:
            self.problems.append(f"vendor parts open: {self.agent.open_parts}")
        if self.socket is not None and not self.socket.closed:
            self.problems.append("the provider's end of the socket is open")
        if any(not socket.closed for socket in on.accepted):
            self.problems.append("our end of the socket is open")
        if total(self.metrics.registry, "resources_open") or total(self.metrics.registry, "resources_leaked_total"):
            self.problems.append("the ledger is not empty")
        if not all(_is_injected(exc) for exc in on.escaped):
            self.problems.append(f"escaped: {on.escaped!r}")


class DuplexScene(Scene):
    def __init__(self, metrics: Metrics, kind: str) -> None:
        super().__init__(metrics, kind)
        self.puppet = PuppetRealtimeAgent(greeting="Hi.", outcomes={"hang_up": ["done", HangUp()]})
        self.agent = self.puppet

    async def _hold(self, token: str, nursery: trio.Nursery) -> None:
        caller = Caller(self.socket, CALL_ID, "MZ" + "2" * 32)
        nursery.start_soon(caller.listen)
        with suppress(trio.BrokenResourceError):
            await caller.start(token)
            await caller.frames(3)
            await trio.sleep(0.3)
            model = self.puppet.realtime
            model.hears("q")
            model.replies("One. Two.")
            await trio.sleep(0.3)
            model.hears("stop")
            await caller.press("1")
            await caller.press("#")
            await trio.sleep(0.1)
            reply_id = model.begins("Bye.")
            model.tells(ToolCall("c1", "hang_up", "{}"), ReplyOver(reply_id))
        await caller.gone.wait()


class RelayScene(Scene):
    is_relay = True

    def __init__(self, metrics: Metrics, kind: str) -> None:
        super().__init__(metrics, kind)
        self.agent = PuppetAgent(lambda context: ["One. ", "Two.", *_goodbye(context[-1].text)], greeting="Hi.")

    async def _hold(self, token: str, nursery: trio.Nursery) -> None:
        caller = RelayCaller(self.socket, CALL_ID)
        nursery.start_soon(caller.listen)
        with suppress(trio.BrokenResourceError):
            await caller.start(token)
            await trio.sleep(0.3)
            await caller.says("q")
            await trio.sleep(0.3)
            await caller.interrupts("One.", 300)
            await caller.says("stop")
            await trio.sleep(0.1)
            await caller.press("1")
            await caller.press("#")
        await caller.gone.wait()


def _goodbye(text: str) -> list[HangUp]:
    return [HangUp()] if text.endswith("1") else []


def _is_injected(exc: BaseException) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        return all(_is_injected(inner) for inner in exc.exceptions)
    return isinstance(exc, Injected | HandshakeFailed)


def play(new: Callable[[Metrics, str], Scene], metrics: Metrics, k: int | None, kind: str) -> tuple[Scene, AtStep]:
    scene = new(metrics, kind)

    def disturb(task: trio.lowlevel.Task) -> None:
        if kind == "cut":
            scene.scope.cancel()
        elif kind == "throw":
            running: Any = task
            running._next_send_fn = running.coro.throw
            running._next_send = Injected(f"at step {k}")
        elif scene.socket is not None:
            scene.socket.abort()

    step = AtStep(k, disturb)
    fix_the_order()
    trio.run(scene.run, step, clock=MockClock(autojump_threshold=0))
    return scene, step


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["drop", "cut", "throw"])
@pytest.mark.parametrize(
    "new",
    [DuplexScene, pytest.param(RelayScene, marks=pytest.mark.proves("cancelled", adapter="conversation-relay"))],
)
def test_nothing_is_left_of_other_talks_whatever_happens(new: Callable[[Metrics, str], Scene], kind: str) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    metrics = Metrics()
    undisturbed, count = play(new, metrics, None, kind)
    assert undisturbed.problems == []
    assert undisturbed.said >= 3
    assert count.steps > 60
    bad = {}
    for k in range(2, count.steps + 1, EVERY):
        scene, _ = play(new, metrics, k, kind)
        if scene.problems:
            bad[k] = scene.problems
    assert bad == {}, f"{len(bad)} of {count.steps} steps"
