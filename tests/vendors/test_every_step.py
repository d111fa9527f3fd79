"""A call that ends before any step of what goes on around its vendors leaves nothing of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import structlog
import trio
from trio.testing import MockClock

from engine.errors import ModelFailed, VendorError, Why
from engine.events import ReplyOver, ReplyStarted
from engine.vendors.hearing import open_transcriber
from engine.vendors.realtime import open_realtime
from engine.vendors.speaking import open_synthesizer
from engine.vendors.thinking import open_model
from tests.simulation.steps import AtStep, fix_the_order, is_target
from tests.vendors.puppets import (
    CALL,
    SESSION,
    VOICE,
    EarVendor,
    House,
    MindVendor,
    PuppetVendor,
    SoulVendor,
    VoiceVendor,
    context,
    failed,
    pieces,
)

Scene = tuple[list[PuppetVendor], Callable[[House], Awaitable[None]]]


def hearing() -> Scene:
    """Refused, opened, cut, cut again, left for another vendor."""
    one, two = EarVendor(opens=[failed()], close_s=0.1), EarVendor("two", close_s=0.1)

    async def run(house: House) -> None:
        async with open_transcriber([one, two], CALL, house.ledger, house.around) as ear:
            ear.send(VOICE)
            one.last.onset()
            await ear.receive()
            for why in (Why.CUT, Why.AUTH):
                one.last.breaks(why)
                ear.send(VOICE)
                await trio.sleep(0.5)
            two.last.final("yes")
            await ear.receive()

    return [one, two], run


def speaking() -> Scene:
    """A sentence in two tries and a second voice, and one that is cut off."""
    one, two = VoiceVendor(close_s=0.1), VoiceVendor("two", close_s=0.1)
    one.usual = lambda audio: [0.1, *pieces(audio)[:1], failed(Why.CUT)]

    async def run(house: House) -> None:
        async with open_synthesizer([one, two], CALL, house.ledger, house.around) as voice:
            async with voice.open_speech("A sentence.") as audio:
                async for _ in audio:
                    pass
            async with voice.open_speech("Another one.") as audio:
                await audio.receive()

    return [one, two], run


def thinking() -> Scene:
    """An answer in three requests to two models, and one that is cut off."""
    one = MindVendor("one", [failed(of=ModelFailed)], ["One. Tw", failed(Why.AUTH, of=ModelFailed)], close_s=0.1)
    two = MindVendor("two", close_s=0.1)

    async def run(house: House) -> None:
        async with open_model([one, two], SESSION, house.ledger, house.around) as mind:
            async with mind.open_reply(context("Hello.", "What?")) as reply:
                async for _ in reply:
                    pass
            async with mind.open_reply(context("Hello.", "What?")) as reply:
                await reply.receive()

    return [one, two], run


def realtime() -> Scene:
    """Cut, renewed, and renewed again when the call ends."""
    one = SoulVendor(opens=[failed(of=ModelFailed), 0.0, 0.0, 0.2, 0.2], close_s=0.1)
    one.renew_after_s = 3.0

    async def run(house: House) -> None:
        opening = open_realtime([one], CALL, SESSION, lambda: context("Hello."), house.ledger, house.around)
        async with opening as model:
            one.last.tells(ReplyStarted("r1"))
            await model.receive()
            one.last.breaks()
            await trio.sleep(0.1)
            model.say("Hello.")
            one.last.tells(ReplyStarted("r2"), ReplyOver("r2"))
            await trio.sleep(6.3)

    return [one], run


def play(make: Callable[[], Scene], k: int | None) -> tuple[list[str], int]:
    """What is wrong afterwards, and how many steps there were."""
    vendors, run = make()
    problems: list[str] = []
    house = House()
    scope = trio.CancelScope()
    step = AtStep(k, lambda _: scope.cancel())

    async def call() -> None:
        try:
            with scope:
                await run(house)
        except VendorError as exc:
            problems.append(repr(exc))

    async def main() -> None:
        is_target.set(True)
        trio.lowlevel.add_instrument(step)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
        trio.lowlevel.remove_instrument(step)

    fix_the_order()
    trio.run(main, clock=MockClock(autojump_threshold=0))
    if house.book.open or house.book.leaks:
        problems.append(f"ledger: {house.book.open}")
    problems += [f"{vendor.name} is open" for vendor in vendors if vendor.open_now]
    problems += [f"{vendor.name} thinks on" for vendor in vendors if getattr(vendor, "replies_open", 0)]
    return problems, step.steps


@pytest.mark.parametrize("make", [hearing, speaking, thinking, realtime])
def test_nothing_is_left_whenever_the_call_ends(make: Callable[[], Scene]) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    undisturbed, steps = play(make, None)
    assert undisturbed == []
    assert steps > 15
    bad = {k: problems for k in range(2, steps + 1) if (problems := play(make, k)[0])}
    assert bad == {}, f"{len(bad)} of {steps} steps"
