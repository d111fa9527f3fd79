"""Vendors that die for many calls at once."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from adapters.speech.hearing.deepgram import DeepgramConfig, DeepgramTranscriberVendor
from engine.observe.timeline import What
from engine.runtime.network import Network
from engine.vendors.hearing import open_transcriber
from tests.fakes.clouds.deepgram_listen import DeepgramCloud
from tests.fakes.clouds.loopback import serving
from tests.fakes.fault_proxy import Faults, proxying
from tests.faults.vendored import world
from tests.vendors.puppets import CALL, QUIET, House

CALLS = 50
LONGEST_S = 8.0


@pytest.mark.heavy
async def test_two_vendors_die_in_the_middle_of_fifty_calls_and_none_of_them_ends(autojump_clock: MockClock) -> None:
    """The recogniser and the voice, of which there are second ones; the model, too, refuses for a while."""
    async with world(max_calls=CALLS) as w:
        silences: list[float] = []

        async def call(number: int) -> None:
            await trio.sleep(number * 0.02)
            async with w.call() as caller:
                for text in ("one", "two"):
                    await caller.say(text)
                    await trio.sleep(4.3)
                    assert caller.answer().endswith(f"You said {text}."), (number, caller.words)
                    silences.append(caller.silence_s())

        async with trio.open_nursery() as nursery:
            for number in range(CALLS):
                nursery.start_soon(call, number)
            await trio.sleep(8.0)
            for behind in (w.ears[0], w.voices[0]):
                behind.faults.refuses = True
                behind.faults.cut()
        assert len(silences) == 2 * CALLS
        assert max(silences) < LONGEST_S
        ends = [moment.fields["cause"] for moment in w.on.moments if moment.what is What.CALL_ENDED]
        assert ends == ["caller_hangup"] * CALLS
        assert w.value("vendor_failovers_total", kind="stt", vendor="deepgram") == CALLS
        assert w.value("vendor_breaker_state", vendor="deepgram", kind="stt", state="open") == 1
        assert w.ears[0].faults.connections == 2 * CALLS  # each knocked once at a door that is shut


@pytest.mark.heavy
async def test_a_blip_that_cuts_many_calls_off_their_only_recogniser_ends_none(autojump_clock: MockClock) -> None:
    async with world(max_calls=CALLS, seconds=False) as w:

        async def call() -> None:
            async with w.call() as caller:
                await trio.sleep(2)
                await caller.say("good morning")
                await trio.sleep(3)
                assert caller.answer().endswith("You said good morning.")

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(call)
            await trio.sleep(2.5)
            w.ears[0].faults.refuses = True
            w.ears[0].faults.cut()
            await trio.sleep(0.2)
            w.ears[0].faults.refuses = False
        ends = [moment.fields["cause"] for moment in w.on.moments if moment.what is What.CALL_ENDED]
        assert ends == ["caller_hangup"] * 20


async def test_over_tcp_a_reset_is_a_reset() -> None:
    """The proxy on real sockets: cut, the recogniser is connected anew at once, and everything is closed."""
    house, faults, cloud = House(), Faults(), DeepgramCloud()
    with trio.fail_after(10):
        async with serving(cloud) as served, proxying("127.0.0.1", int(served.host.rpartition(":")[2]), faults) as port:
            config = DeepgramConfig("k", url=f"ws://127.0.0.1:{port}/v1/listen", name="one")
            vendor = DeepgramTranscriberVendor(config, Network())
            async with open_transcriber([vendor], CALL, house.ledger, house.around) as ear:
                ear.send(QUIET * 10)
                began_s = trio.current_time()
                faults.cut()
                while cloud.sockets_ever < 2:  # noqa: ASYNC110 - seen from outside
                    await trio.sleep(0.01)
                assert trio.current_time() - began_s < 1.0
            while faults.open or cloud.sockets_open:  # noqa: ASYNC110 - likewise
                await trio.sleep(0.01)
    assert house.book.open == []
    assert faults.connections == 2
