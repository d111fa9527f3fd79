"""Hang up or cut a call at every step of its tasks while its vendors are real sockets: both ends of each are gone.

As ``test_every_step``, but with a recogniser and a model over WebSockets and a synthesizer over HTTP; their servers
count what is open at their end. At every second step: a drop at those between the cuts.
"""

from __future__ import annotations

import base64
import contextvars
from contextlib import suppress
from typing import Any

import pytest
import structlog
import trio
from trio.testing import MockClock, memory_stream_pair

from engine.events import MULAW_8K
from engine.observe.metrics import Metrics
from engine.observe.timeline import What
from engine.runtime.sockets import HandshakeFailed
from tests.fakes.agents import VendorAgent
from tests.fakes.plain_speech import frames_of, speak
from tests.fakes.stage import Caller, Stage, stage
from tests.fakes.vendors import Behaviour, Vendors
from tests.simulation.steps import AtStep, fix_the_order, is_target

RELEASED_WITHIN_S = 2.0
BRISK = Behaviour(onset_s=0.04, endpoint_s=0.04, final_s=0.0, first_token_s=0.0, first_audio_s=0.0, chars_per_s=100.0)
FIRST = {"drop": 2, "cut": 3}
CALL_ID = "CA" + "2" * 32
QUESTION = [base64.b64encode(frame).decode() for frame in frames_of(speak("hi", MULAW_8K, chars_per_s=50), MULAW_8K)]


class Scene:
    """One run: greeting, question, answer, barge-in, hang-up."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.scope = trio.CancelScope()
        self.vendors = Vendors(BRISK)
        self.target: Caller | None = None
        self.problems: list[str] = []
        self.turns = 0

    async def run(self, step: AtStep) -> None:
        outside = contextvars.copy_context()
        async with trio.open_nursery() as nursery:

            def connect() -> trio.abc.Stream:
                near, far = memory_stream_pair()
                outside.run(nursery.start_soon, self.vendors.serve, far)  # the vendors' steps are not the call's
                return near

            agent = VendorAgent("desk", "http://vendors", greeting="Hi.", connect=connect)
            async with stage(agent, metrics=self.metrics, finished_turn_s=0.1) as on:
                on.serve_in.run(is_target.set, True)
                await nursery.start(self._serve, on)
                trio.lowlevel.add_instrument(step)
                with trio.move_on_after(3), suppress(HandshakeFailed, trio.BrokenResourceError):
                    await self._play(on)
                with trio.CancelScope(deadline=(step.at_s or trio.current_time()) + RELEASED_WITHIN_S):
                    while on.supervisor.live_calls() or self._open_ends(on):  # noqa: ASYNC110 - seen from outside
                        await trio.sleep(0.01)
                trio.lowlevel.remove_instrument(step)
                self._left_over(on)
                self.turns = on.count(What.HEARD)
                nursery.cancel_scope.cancel()

    async def _serve(self, on: Stage, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as serving:
            on.nursery, self.scope = serving, serving.cancel_scope
            task_status.started()
            await trio.sleep_forever()

    async def _play(self, on: Stage) -> None:
        token = await on.token(CALL_ID)
        async with on.socket() as socket, trio.open_nursery() as nursery:
            self.target = Caller(socket, CALL_ID, "MZ" + "2" * 32)
            nursery.start_soon(self.target.listen)
            with suppress(trio.BrokenResourceError):
                await self.target.start(token)
                await trio.sleep(0.2)
                await self._say(self.target)
                await trio.sleep(0.25)
                await self._say(self.target)
                await self.target.hang_up()
            await self.target.gone.wait()
            nursery.cancel_scope.cancel()

    async def _say(self, caller: Caller) -> None:
        for payload in QUESTION:
            await caller.frames(payload=payload)
        await caller.frames(4)

    def _open_ends(self, on: Stage) -> int:
        return self.vendors.open.total() + sum(not socket.closed for socket in on.accepted)

    def _left_over(self, on: Stage) -> None:
        if on.supervisor.live_calls():
            self.problems.append("the call is in the registry")
        if self.vendors.open.total():
            self.problems.append(f"the vendors still serve {+self.vendors.open}")
        if self.target is not None and not self.target.socket.closed:
            self.problems.append("the provider's end of the socket is open")
        if any(not socket.closed for socket in on.accepted):
            self.problems.append("our end of the socket is open")
        for moment in on.moments:
            if moment.what is What.CALL_RELEASED and moment.fields["left"]:
                self.problems.append("leaked")
        opened, closed = on.count(What.RESOURCE_OPENED), on.count(What.RESOURCE_CLOSED)
        if opened != closed:
            self.problems.append(f"ledger: {opened} opened, {closed} closed")
        if on.escaped and not all(isinstance(exc, HandshakeFailed) for exc in on.escaped):
            self.problems.append(f"escaped: {on.escaped!r}")


def play(metrics: Metrics, k: int | None, kind: str) -> tuple[Scene, AtStep]:
    scene = Scene(metrics)

    def disturb(_: Any) -> None:
        if kind == "cut":
            scene.scope.cancel()
        elif scene.target is not None:
            scene.target.drop()

    step = AtStep(k, disturb)
    fix_the_order()
    trio.run(scene.run, step, clock=MockClock(autojump_threshold=0))
    return scene, step


# httpx leaves a cancelled response's generators to the collector; what they held is closed, as the vendors' end shows.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <async_generator:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")
@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["drop", "cut"])
def test_both_ends_of_every_socket_are_gone_whatever_the_step(kind: str) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    metrics = Metrics()
    undisturbed, count = play(metrics, None, kind)
    assert undisturbed.problems == []
    assert undisturbed.turns >= 1
    bad = {}
    for k in range(FIRST[kind], count.steps + 1, len(FIRST)):
        scene, _ = play(metrics, k, kind)
        if scene.problems:
            bad[k] = scene.problems
    assert bad == {}, f"{len(bad)} of {count.steps} steps"
