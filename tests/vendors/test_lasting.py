"""What an ear and a speech-to-speech model have in common."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from engine.vendors.hearing import open_transcriber
from engine.vendors.lasting import AT_ONCE_S, CallerAudio
from engine.vendors.policy import Policy
from tests.vendors.puppets import CALL, LINE, QUIET, VOICE, Ear, EarVendor, House


async def test_a_recogniser_that_goes_deaf_once_more_in_a_minute_is_left_for_the_next(
    autojump_clock: MockClock,
) -> None:
    """One that was cut off as often is given another chance: it costs the caller less."""
    house, one, two = House(), EarVendor(), EarVendor("two")
    async with open_transcriber([one, two], CALL, house.ledger, house.around) as ear:
        began_s = trio.current_time()
        while not two.parts:
            ear.send(VOICE * 5)
            await trio.sleep(0.1)
            assert trio.current_time() - began_s < 60
    assert len(one.parts) == 2
    assert house.value("vendor_reconnects_total", vendor="one", kind="stt", reason="silent") == 1


async def test_whoever_hears_next_is_given_nothing_that_was_meant_for_the_one_before() -> None:
    """And what that one was given is counted as its own."""
    house, one, two = House(), Ear(decides_turns=False), Ear(decides_turns=False)
    audio = CallerAudio(LINE, Policy(), house.metrics)
    audio.give_to(one, "one", [QUIET] * 150)  # more than it takes at once
    audio.give_to(two, "two", [VOICE])
    assert one.seconds == pytest.approx(AT_ONCE_S)
    assert [frame for _, frame in two.heard] == [VOICE]
    assert house.value("speech_audio_seconds_total", vendor="one", kind="stt") == pytest.approx(AT_ONCE_S)
