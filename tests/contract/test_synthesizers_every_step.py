"""A synthesizer that is cut off, or left by its vendor, just before any step of its tasks leaves nothing behind."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

import pytest
import structlog
import trio
from trio.testing import MockClock

from engine.errors import SpeechFailed
from tests.contract.synthesizers import KINDS, Bench, Kind, bench_of
from tests.fakes.clouds.loopback import Cloud, dialled
from tests.fakes.clouds.voicebox import Voicebox
from tests.simulation.steps import AtStep, fix_the_order, is_target

STRIDE = 5
"""Every fifth step, of each vendor others; a whole sentence is hundreds of them."""


class Scene:
    """A sentence, half a sentence, a sentence."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.scope = trio.CancelScope()
        self.streams: list[trio.abc.Stream] = []
        self.problems: list[str] = []
        self.sentences = 0

    async def run(self, step: AtStep) -> None:
        outside = contextvars.copy_context()

        def network(cloud: Cloud, nursery: trio.Nursery) -> Any:
            return dialled(cloud, _Outside(nursery, outside), self._pair)  # type: ignore[arg-type] # all it needs

        async with bench_of(self.kind, network=network) as bench:
            bench.cloud.voicebox = Voicebox(speed=50.0, first_audio_s=0.01)
            async with trio.open_nursery() as nursery:
                is_target.set(True)
                nursery.start_soon(self._speak, bench)
                is_target.set(False)
                trio.lowlevel.add_instrument(step)
            trio.lowlevel.remove_instrument(step)
            await trio.sleep(2.0)
            cloud = bench.cloud
            if cloud.sockets_open or cloud.requests_open:
                self.problems.append(f"open at the vendor: {cloud.sockets_open}, {cloud.requests_open}")
            if not all(synthesizer.is_closed for synthesizer in bench.opened):
                self.problems.append("open here")

    async def _speak(self, bench: Bench) -> None:
        with self.scope:
            try:
                async with bench.synthesizer() as synthesizer:
                    for is_left in (False, True, False):
                        async with synthesizer.open_speech("Good day, how are you?") as speech:
                            async for _ in speech:
                                if is_left:
                                    break
                        self.sentences += 1
            except SpeechFailed:
                pass

    def _pair(self) -> tuple[trio.abc.Stream, trio.abc.Stream]:
        ours, theirs = trio.testing.memory_stream_pair()
        self.streams.append(theirs)
        return ours, theirs

    def drop(self) -> None:
        """The vendor is gone from every connection."""
        for stream in self.streams:
            if isinstance(stream, trio.StapledStream):
                stream.send_stream.close()
                stream.receive_stream.close()


class _Outside:
    """A nursery whose tasks are not part of what is counted."""

    def __init__(self, nursery: trio.Nursery, context: contextvars.Context) -> None:
        self._nursery = nursery
        self._context = context

    def start_soon(self, run: Callable[..., Any], *args: Any) -> None:
        self._context.run(self._nursery.start_soon, run, *args)


def play(kind: Kind, k: int | None, how: str) -> tuple[Scene, AtStep]:
    scene = Scene(kind)
    step = AtStep(k, lambda _: scene.scope.cancel() if how == "cut" else scene.drop())
    fix_the_order()
    trio.run(scene.run, step, clock=MockClock(autojump_threshold=0))
    return scene, step


@pytest.mark.parametrize("how", ["cut", "drop"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.proves("cancelled")
def test_nothing_is_left_whatever_the_step(kind: Kind, how: str) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    undisturbed, count = play(kind, None, how)
    assert (undisturbed.problems, undisturbed.sentences) == ([], 3)
    bad = {}
    for k in range(2 + KINDS.index(kind) % STRIDE, count.steps + 1, STRIDE):
        scene, _ = play(kind, k, how)
        if scene.problems:
            bad[k] = scene.problems
    assert bad == {}, f"{len(bad)} of {count.steps} steps"
