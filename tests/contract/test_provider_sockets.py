"""The media socket of every provider: broken or left at any step of its call, and one on which nothing comes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import structlog
import trio
from trio.testing import MockClock

from engine.observe.metrics import Metrics
from engine.observe.timeline import What
from engine.phone.phone import SIDES
from engine.phone.side import Callee
from engine.ports import IncomingCall, Provider
from engine.runtime.sockets import HandshakeFailed, Socket
from tests.contract.test_providers import ABLE
from tests.fakes.plain_speech import speak
from tests.fakes.puppet import PuppetAgent
from tests.fakes.samples import total
from tests.fakes.stage import Stage, stage
from tests.faults.wires import as_json, new_call_id, start_of
from tests.simulation.steps import AtStep, fix_the_order, is_target

RELEASED_WITHIN_S = 2.0
EVERY = 9
"""Every ninth step: the call around the wire is disturbed at each of them in ``tests/simulation``."""
START_S = 5.0
MEDIA_TIMEOUT_S = 15.0
RELAY = "conversation-relay"
each_provider = pytest.mark.parametrize("provider", ABLE)
each_socket = pytest.mark.parametrize("provider", [*ABLE, RELAY])


class Peer:
    """A provider's end of one call, that only sends."""

    def __init__(self, provider: str, socket: Socket, call_id: str) -> None:
        self.provider = provider
        self.side = SIDES[provider](Callee("http://engine", call_id=call_id))
        self.side.stream_id = "MZ" + call_id[2:] if provider in ("twilio", "signalwire") else call_id
        self.socket = socket
        self.call_id = call_id
        self.gone = trio.Event()

    async def start(self, token: str) -> None:
        if self.provider not in ("vonage", "plivo"):
            await self.socket.send('{"event":"connected","protocol":"Call","version":"1.0.0"}')
        await self.socket.send(as_json(start_of(self.provider, self.call_id, token)))

    async def say(self, audio: bytes) -> None:
        size = self.side.format.frame_bytes
        for at in range(0, len(audio), size):
            await self.socket.send(self.side.media(audio[at : at + size]))
            await trio.sleep(0.02)

    async def listen(self) -> None:
        with suppress(trio.EndOfChannel):
            while True:
                await self.socket.receive()
        self.gone.set()


@asynccontextmanager
async def standing(agent: PuppetAgent, metrics: Metrics, provider: Provider) -> AsyncIterator[Stage]:
    async with stage(agent, metrics=metrics, provider=provider) as on:  # type: ignore[arg-type]  # any does
        yield on


async def token_of(on: Stage, provider: Provider, call_id: str) -> str:
    token = await on.supervisor.admit(provider.name, IncomingCall(call_id, "+15550100001", "+15550100000"))
    assert isinstance(token, str)
    return token


class Scene:
    """Greeting, question, answer, barge-in, hang-up."""

    def __init__(self, name: str, how: str, metrics: Metrics) -> None:
        self.provider = ABLE[name]
        self.how = how
        self.metrics = metrics
        self.agent = PuppetAgent(lambda _: ["One. Two."], greeting="Hi.")
        self.serving = trio.CancelScope()
        self.socket: Socket | None = None
        self.said = 0
        self.problems: list[str] = []

    async def run(self, step: AtStep) -> None:
        async with standing(self.agent, self.metrics, self.provider) as on:
            on.serve_in.run(is_target.set, True)
            async with trio.open_nursery() as nursery:
                await nursery.start(self._serve, on)
                trio.lowlevel.add_instrument(step)
                with trio.move_on_after(5), suppress(HandshakeFailed, trio.BrokenResourceError):
                    await self._play(on)
                with trio.CancelScope(deadline=(step.at_s or trio.current_time()) + RELEASED_WITHIN_S):
                    while on.supervisor.live_calls() or any(not socket.closed for socket in on.accepted):  # noqa: ASYNC110 - how it looks from outside
                        await trio.sleep(0.01)
                trio.lowlevel.remove_instrument(step)
                self._look(on)
                nursery.cancel_scope.cancel()

    async def _serve(self, on: Stage, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as serving:
            on.nursery, self.serving = serving, serving.cancel_scope
            task_status.started()
            await trio.sleep_forever()

    async def _play(self, on: Stage) -> None:
        call_id = new_call_id(self.provider.name)
        token = await token_of(on, self.provider, call_id)
        async with on.socket() as self.socket, trio.open_nursery() as nursery:
            peer = Peer(self.provider.name, self.socket, call_id)
            nursery.start_soon(peer.listen)
            with suppress(trio.BrokenResourceError):
                await peer.start(token)
                await peer.say(peer.side.format.silence(0.2))
                await trio.sleep(0.3)
                self.agent.transcriber.hears("q")
                await trio.sleep(0.8)
                self.agent.transcriber.hears("stop")
                await peer.say(peer.side.format.silence(0.1))
                await trio.sleep(0.8)
                await self.socket.aclose()
            await peer.gone.wait()
            nursery.cancel_scope.cancel()

    def disturb(self, _: trio.lowlevel.Task) -> None:
        if self.how == "cut":
            self.serving.cancel()
        elif self.socket is not None:
            self.socket.abort()

    def _look(self, on: Stage) -> None:
        self.said = on.count(What.SAID)
        if on.supervisor.live_calls():
            self.problems.append("the call is in the registry")
        if self.agent.open_parts:
            self.problems.append(f"vendor parts open: {self.agent.open_parts}")
        if any(not socket.closed for socket in on.accepted) or (self.socket is not None and not self.socket.closed):
            self.problems.append("a socket is open")
        if total(self.metrics.registry, "resources_open") or total(self.metrics.registry, "resources_leaked_total"):
            self.problems.append("the ledger is not empty")


def play(name: str, how: str, metrics: Metrics, k: int | None) -> tuple[Scene, AtStep]:
    scene = Scene(name, how, metrics)
    step = AtStep(k, scene.disturb)
    fix_the_order()
    trio.run(scene.run, step, clock=MockClock(autojump_threshold=0))
    return scene, step


@each_provider
@pytest.mark.proves("cancelled")
@pytest.mark.parametrize("how", ["cut", "drop"])
def test_nothing_is_left_of_a_call_over_it_whatever_the_step(provider: str, how: str) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    metrics = Metrics()
    undisturbed, count = play(provider, how, metrics, None)
    assert undisturbed.problems == []
    assert undisturbed.said >= 2
    assert count.steps > 60
    bad = {}
    for k in range(2 + list(ABLE).index(provider), count.steps + 1, EVERY):
        scene, _ = play(provider, how, metrics, k)
        if scene.problems:
            bad[k] = scene.problems
    assert bad == {}, f"{len(bad)} of {count.steps} steps"


@each_socket
@pytest.mark.proves("deadline")
async def test_a_socket_that_never_starts_is_closed_in_time(provider: str, autojump_clock: MockClock) -> None:
    """And its place is free again."""
    is_relay = provider == RELAY
    by = ABLE["twilio" if is_relay else provider]
    async with standing(PuppetAgent(), Metrics(), by) as on, on.socket(is_relay=is_relay) as socket:
        began_s = trio.current_time()
        await token_of(on, by, new_call_id(by.name))
        with trio.fail_after(START_S + 1.0), suppress(trio.EndOfChannel):
            await socket.receive()
        assert trio.current_time() - began_s == pytest.approx(START_S, abs=0.2)
        await trio.sleep(0.5)
        assert all(accepted.closed for accepted in on.accepted)
        on.nursery.cancel_scope.cancel()


@each_provider
@pytest.mark.proves("deadline")
async def test_a_line_on_which_nothing_comes_any_more_is_given_up_in_time(
    provider: str, autojump_clock: MockClock
) -> None:
    by: Any = ABLE[provider]
    call_id = new_call_id(provider)
    async with standing(PuppetAgent(), Metrics(), by) as on, on.socket() as socket, trio.open_nursery() as nursery:
        peer = Peer(provider, socket, call_id)
        nursery.start_soon(peer.listen)
        await peer.start(await token_of(on, by, call_id))
        await peer.say(speak("hello", peer.side.format))
        began_s = trio.current_time()
        with trio.fail_after(MEDIA_TIMEOUT_S + 8.0):
            await peer.gone.wait()
        await on.supervisor.registry.wait_empty()
        assert on.last(What.CALL_ENDED)["cause"] == "media_timeout"
        assert trio.current_time() - began_s <= MEDIA_TIMEOUT_S + 2.0
        nursery.cancel_scope.cancel()
