"""Hang up, cut, or break a call at every step that any of its tasks takes: nothing stays open, no neighbour notices.

A canonical call (greeting, question, answer, barge-in, goodbye) runs once undisturbed to count its steps; then again
for each step, with the disturbance just before it. Virtual time, memory streams, a fixed task order.

Every step is hung up at; cutting and breaking take turns, but for OFFHOOK_EVERY_STEP=1.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

import pytest
import structlog
import trio
from trio.testing import MockClock

from engine.observe.metrics import Metrics
from engine.observe.timeline import What
from engine.runtime.sockets import HandshakeFailed
from tests.fakes.puppet import PuppetAgent
from tests.fakes.samples import total
from tests.fakes.stage import Caller, Stage, stage
from tests.simulation.steps import AtStep, fix_the_order, is_target

RELEASED_WITHIN_S = 2.0
EVERY = {"drop": 1, "cut": 2, "throw": 2}
"""At every how many steps."""
if os.environ.get("OFFHOOK_EVERY_STEP") == "1":
    EVERY = dict.fromkeys(EVERY, 1)
APOLOGY_S = 8.0


class Scene:
    """One run of the canonical call beside a witness."""

    def __init__(self, metrics: Metrics, kind: str) -> None:
        self.kind = kind
        self.metrics = metrics
        self.agent = PuppetAgent(lambda _: ["One. Two."], greeting="Hi.")
        self.scope = trio.CancelScope()
        self.target: Caller | None = None
        self.problems: list[str] = []
        self.is_over = False

    async def run(self, step: AtStep) -> None:
        """The canonical call, and then the questions."""
        async with stage(self.agent, max_calls=3, metrics=self.metrics) as on:
            async with on.call("CA" + "1" * 32, sends_audio=False) as witness:
                await trio.sleep(0.5)
                witness_ear = self.agent.transcriber
                before = witness_ear.frames
                sent = 0
                trio.lowlevel.add_instrument(step)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._canonical, on, step)
                    while not self.is_over:
                        await witness.frames()
                        sent += 1
                        await trio.sleep(0.05)
                trio.lowlevel.remove_instrument(step)
                if witness_ear.frames - before != sent:
                    self.problems.append(f"the witness lost frames: {witness_ear.frames - before} of {sent}")
            if on.escaped and not all(_is_injected(exc) for exc in on.escaped):
                self.problems.append(f"escaped: {on.escaped!r}")

    async def _canonical(self, on: Stage, step: AtStep) -> None:
        on.serve_in.run(is_target.set, True)
        async with trio.open_nursery() as nursery:
            await nursery.start(self._serve, on)
            with trio.move_on_after(3), suppress(HandshakeFailed, trio.BrokenResourceError):
                await self._play(on)
            await self._until_released(on, step)
            self._left_over(on)
            self.is_over = True
            nursery.cancel_scope.cancel()

    async def _serve(self, on: Stage, task_status: trio.TaskStatus[None]) -> None:
        """Where the target's tasks live, so that all of them can be cut off at once."""
        async with trio.open_nursery() as serving:
            on.nursery, self.scope = serving, serving.cancel_scope
            task_status.started()
            await trio.sleep_forever()

    async def _play(self, on: Stage) -> None:
        token = await on.token("CA" + "2" * 32)
        async with on.socket() as socket, trio.open_nursery() as nursery:
            self.target = Caller(socket, "CA" + "2" * 32, "MZ" + "2" * 32)
            nursery.start_soon(self.target.listen)
            with suppress(trio.BrokenResourceError):
                await self._say_lines(self.target, token)
            await self.target.gone.wait()
            nursery.cancel_scope.cancel()

    async def _say_lines(self, caller: Caller, token: str) -> None:
        await caller.start(token)
        await caller.frames(5)
        await trio.sleep(0.3)
        ear = self.agent.transcriber
        ear.onset()
        await caller.frames(5)
        ear.words("q")
        await trio.sleep(0.55)
        ear.hears("stop")
        await trio.sleep(0.5)
        await caller.press("1")
        await caller.press("#")
        await trio.sleep(0.1)
        await caller.hang_up()

    async def _until_released(self, on: Stage, step: AtStep) -> None:
        """A call that was broken may still apologise; one that was hung up may not take longer than promised."""
        begun = trio.current_time() if self.kind == "throw" or step.at_s is None else step.at_s
        within_s = APOLOGY_S if self.kind == "throw" else RELEASED_WITHIN_S
        with trio.CancelScope(deadline=begun + within_s):
            while len(on.supervisor.live_calls()) > 1:  # noqa: ASYNC110 - what is asked is how it looks from outside
                await trio.sleep(0.01)

    def _left_over(self, on: Stage) -> None:
        registry = on.supervisor.registry
        if registry.live_calls() != ["CA" + "1" * 32]:
            self.problems.append(f"live calls: {registry.live_calls()}")
        if self.agent.open_parts != 3:
            self.problems.append(f"vendor parts open: {self.agent.open_parts} of the witness's 3")
        if self.target is not None and not self.target.socket.closed:
            self.problems.append("the provider's end of the socket is open")
        if any(not socket.closed for socket in on.accepted[1:]):
            self.problems.append("our end of the socket is open")
        if on.value("resources_leaked_total", kind="provider_socket") or self._open_resources() != 4:
            self.problems.append(f"ledger: {self._open_resources()} open of the witness's 4")
        for moment in on.moments:
            if moment.what is What.CALL_RELEASED and moment.fields["left"]:
                self.problems.append("leaked")

    def _open_resources(self) -> int:
        return int(total(self.metrics.registry, "resources_open"))


def _is_injected(exc: BaseException) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        return all(_is_injected(inner) for inner in exc.exceptions)
    return isinstance(exc, Injected | HandshakeFailed)


class Injected(Exception):
    """What a bug anywhere in the call would raise."""


def play(metrics: Metrics, k: int | None, kind: str) -> tuple[Scene, AtStep]:
    scene = Scene(metrics, kind)

    def cut(_: trio.lowlevel.Task) -> None:
        scene.scope.cancel()

    def drop(_: trio.lowlevel.Task) -> None:
        if scene.target is not None:
            scene.target.drop()

    def throw(task: trio.lowlevel.Task) -> None:
        running: Any = task
        running._next_send_fn = running.coro.throw
        running._next_send = Injected(f"at step {k}")

    step = AtStep(k, {"cut": cut, "drop": drop, "throw": throw}[kind])
    fix_the_order()
    trio.run(scene.run, step, clock=MockClock(autojump_threshold=0))
    return scene, step


@pytest.fixture
def quiet() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["drop", "cut", "throw"])
def test_nothing_is_left_whatever_happens_at_any_step(kind: str, quiet: None) -> None:
    metrics = Metrics()
    undisturbed, count = play(metrics, None, kind)
    assert undisturbed.problems == []
    assert count.steps > 100
    bad = {}
    first = 3 if kind == "throw" and EVERY[kind] > 1 else 2  # before its first step there is no call
    for k in range(first, count.steps + 1, EVERY[kind]):
        scene, _ = play(metrics, k, kind)
        if scene.problems:
            bad[k] = scene.problems
    assert bad == {}, f"{len(bad)} of {count.steps} steps"
