"""An ear that outlives its recognisers."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from engine.errors import SpeechFailed, Why
from engine.events import (
    Heard,
    Missed,
    SpeechStarted,
    SpeechStopped,
    TranscriberEvent,
    TurnLikelyOver,
    TurnOver,
    TurnResumed,
)
from engine.observe.labels import VendorKind
from engine.vendors.breaker import Breakers, Tolerance
from engine.vendors.hearing import Hearing, open_transcriber
from engine.vendors.policy import Policy
from tests.vendors.puppets import CALL, QUIET, VOICE, Ear, EarVendor, House, failed


class Listener:
    """Of a call: sends audio all the time, and writes down what is heard."""

    def __init__(self, hearing: Hearing) -> None:
        self.hearing = hearing
        self.events: list[tuple[float, TranscriberEvent]] = []
        self.error: SpeechFailed | None = None
        self.is_voiced = False
        self.is_sending = True

    @property
    def finals(self) -> list[str]:
        return [event.text for _, event in self.events if isinstance(event, Heard) and event.is_final]

    def count(self, kind: type[TranscriberEvent]) -> int:
        return sum(isinstance(event, kind) for _, event in self.events)

    async def listen(self) -> None:
        try:
            while True:
                event = await self.hearing.receive()
                self.events.append((trio.current_time(), event))
        except SpeechFailed as exc:
            self.error = exc

    async def send(self) -> None:
        while self.is_sending:
            self.hearing.send(VOICE if self.is_voiced else QUIET)
            await trio.sleep(0.02)


@asynccontextmanager
async def listening(house: House, *vendors: EarVendor) -> AsyncIterator[Listener]:
    async with (
        open_transcriber(vendors, CALL, house.ledger, house.around) as hearing,
        trio.open_nursery() as nursery,
    ):
        listener = Listener(hearing)
        nursery.start_soon(listener.listen)
        nursery.start_soon(listener.send)
        yield listener
        nursery.cancel_scope.cancel()
    assert hearing.is_closed
    assert house.book.open == []
    assert house.book.leaks == 0
    assert [vendor.open_now for vendor in vendors] == [0] * len(vendors)


# --- opening -------------------------------------------------------------------------------------------------


async def test_a_recogniser_that_is_refused_is_tried_three_times_with_growing_pauses(autojump_clock: MockClock) -> None:
    house, one = House(), EarVendor(opens=[failed()] * 9)
    began_s = trio.current_time()
    with pytest.raises(SpeechFailed, match="refused"):
        async with open_transcriber([one], CALL, house.ledger, house.around):
            raise AssertionError("opened")
    assert [at_s - began_s for at_s in one.opening.at_s] == pytest.approx([0.0, 0.25, 1.0])
    assert house.requests("one", "stt") == {"error": 3}


async def test_one_that_hangs_is_given_up_within_the_time_of_the_call(autojump_clock: MockClock) -> None:
    house, one = House(), EarVendor(opens=[math.inf] * 9)
    began_s = trio.current_time()
    with pytest.raises(SpeechFailed, match="in time"):
        async with open_transcriber([one], CALL, house.ledger, house.around):
            raise AssertionError("opened")
    assert trio.current_time() - began_s == pytest.approx(5.4)
    assert house.requests("one", "stt") == {"timeout": 2}


async def test_a_wrong_key_is_not_tried_again_and_opens_the_breaker(autojump_clock: MockClock) -> None:
    house, one = House(), EarVendor(opens=[failed(Why.AUTH)] * 9)
    for _ in range(2):
        with pytest.raises(SpeechFailed):
            async with open_transcriber([one], CALL, house.ledger, house.around):
                raise AssertionError("opened")
    assert len(one.opening.at_s) == 1
    assert house.value("vendor_breaker_state", vendor="one", kind="stt", state="open") == 1


@pytest.mark.parametrize("opens", [[failed(Why.AUTH)], [failed()] * 3, [math.inf]], ids=["key", "refused", "hangs"])
async def test_the_next_vendor_takes_over_and_the_caller_hears_in_time(
    opens: Sequence[Exception | float], autojump_clock: MockClock
) -> None:
    house, one, two = House(), EarVendor(opens=opens), EarVendor("two")
    began_s = trio.current_time()
    async with listening(house, one, two) as listener:
        assert trio.current_time() - began_s <= 3.0
        two.last.onset()
        two.last.final("hello")
        await trio.sleep(0.1)
        assert listener.finals == ["hello"]
        assert house.book.open == [("speech_client", "two")]
    assert house.value("vendor_failovers_total", kind="stt", vendor="one") == 1
    assert house.requests("two", "stt") == {"ok": 1}


async def test_a_vendor_whose_breaker_is_open_is_passed_over(autojump_clock: MockClock) -> None:
    house, one, two = House(), EarVendor(), EarVendor("two")
    house.around.breakers.of("one", VendorKind.STT).failed(Why.AUTH)
    async with listening(house, one, two):
        assert one.parts == []


# --- cut off -------------------------------------------------------------------------------------------------


async def test_a_sound_that_is_cut_in_two_is_heard_once_and_whole(autojump_clock: MockClock) -> None:
    """Its beginning is still there to be played to the next recogniser."""
    house, one = House(), EarVendor()
    async with listening(house, one) as listener:
        await trio.sleep(3)
        first: Ear = one.last
        first.onset()
        began_s = trio.current_time()
        await trio.sleep(0.8)
        first.interim("I would")
        await trio.sleep(0.2)
        first.breaks()
        await trio.sleep(0.1)
        second: Ear = one.last
        assert second is not first
        assert first.is_closed
        assert second.heard[0][0] - began_s == pytest.approx(1.0, abs=0.02)
        assert 1.0 <= second.seconds <= 2.0 + 0.1 + 0.02
        second.onset()
        second.interim("I would like")
        await trio.sleep(1)
        second.final("I would like a table")
        await trio.sleep(0.1)
    assert listener.finals == ["I would like a table"]
    assert listener.count(SpeechStarted) == listener.count(SpeechStopped) == 1
    assert house.value("vendor_reconnects_total", vendor="one", kind="stt", reason="cut") == 1
    assert house.requests("one", "stt") == {"ok": 2}


async def test_of_a_long_sound_the_words_so_far_are_kept_and_the_rest_is_put_behind_them(
    autojump_clock: MockClock,
) -> None:
    house, one = House(), EarVendor()
    async with listening(house, one) as listener:
        one.last.onset()
        await trio.sleep(4)
        one.last.interim("I would like a table for")
        one.last.breaks()
        await trio.sleep(0.1)
        assert one.last.seconds == pytest.approx(2.1, abs=0.05)
        one.last.onset()
        one.last.interim("table for two")
        await trio.sleep(0.1)
        one.last.final("table for two tonight")
        await trio.sleep(0.1)
    texts = [event.text for _, event in listener.events if isinstance(event, Heard)]
    assert texts == ["I would like a table for", "I would like a table for two", "I would like a table for two tonight"]
    assert listener.count(SpeechStarted) == 1


async def test_a_sound_of_which_no_word_is_known_is_heard_again_from_its_beginning(autojump_clock: MockClock) -> None:
    """A recogniser that tells the words at the end is lost just before that. What the caller says meanwhile comes
    behind, and older sounds stay answered."""
    house, one = House(), EarVendor()
    async with listening(house, one) as listener:
        for _ in range(2):
            one.last.onset()
            await trio.sleep(3)
            one.last.tells(SpeechStopped(trio.current_time()))
        one.last.tells(Heard("the first"))
        one.last.onset()
        await trio.sleep(5)
        one.last.breaks()
        await trio.sleep(3)
        heard: list[tuple[float, bytes]] = one.last.heard
        times = [at_s for at_s, _ in heard]
        assert one.last.seconds == pytest.approx(3 + 5 + 3, abs=0.1), "the second and the third sound, and since"
        assert times == sorted(times)
        assert max(sum(at == when for at in times) for when in times) * 0.02 <= 2.0, "an ear queues no more"
        await trio.sleep(30)
        one.last.onset()
        for _ in range(12):
            await trio.sleep(5)
            one.last.interim("")  # it hears still
        one.last.breaks()
        await trio.sleep(0.02)
        assert one.last.seconds <= 2.001
        await trio.sleep(3)
        assert one.last.seconds == pytest.approx(20 + 3, abs=0.1)
    assert listener.finals[0] == "the first"


async def test_a_caller_who_had_just_stopped_is_not_waited_for(autojump_clock: MockClock) -> None:
    """The next recogniser hears nothing more: the turn is over with what is known of it."""
    house, one = House(), EarVendor()
    one.decides_turns = True
    async with listening(house, one) as listener:
        one.last.onset()
        await trio.sleep(3)
        one.last.interim("that is all")
        one.last.breaks()
        await trio.sleep(2)
    assert listener.finals == ["that is all"]
    assert [type(event) for _, event in listener.events[-3:]] == [SpeechStopped, Heard, TurnOver]
    assert listener.events[-1][0] - listener.events[1][0] == pytest.approx(1.5)


async def test_a_caller_who_goes_on_speaking_is_not_asked_to_begin_anew(autojump_clock: MockClock) -> None:
    """The next recogniser takes its time."""
    one = EarVendor()
    async with listening(House(), one) as listener:
        listener.is_voiced = True
        one.last.onset()
        await trio.sleep(0.5)
        one.last.breaks()
        await trio.sleep(3)
        assert listener.count(Missed) == 0
        one.last.onset()
        one.last.final("a table for two")
        await trio.sleep(0.1)
    assert listener.finals == ["a table for two"]
    assert listener.count(SpeechStarted) == 1


async def test_a_sound_that_turns_out_to_be_none_is_over(autojump_clock: MockClock) -> None:
    house, one = House(), EarVendor()
    one.decides_turns = True
    async with listening(house, one) as listener:
        one.last.onset()
        await trio.sleep(3)
        one.last.interim("that is all")
        one.last.breaks()
        await trio.sleep(0.2)
        one.last.onset()
        one.last.final("")
        await trio.sleep(0.2)
    assert listener.finals == ["that is all"]
    assert listener.count(TurnOver) == 1


async def test_words_that_were_final_are_not_heard_again(autojump_clock: MockClock) -> None:
    house, one = House(), EarVendor()
    async with listening(house, one) as listener:
        await trio.sleep(1)
        one.last.onset()
        await trio.sleep(1)
        one.last.final("first")
        await trio.sleep(0.5)
        one.last.breaks()
        await trio.sleep(0.01)
        assert one.last.seconds <= 0.55
    assert listener.finals == ["first"]


async def test_a_turn_that_seemed_over_goes_on_where_its_recogniser_is_lost(autojump_clock: MockClock) -> None:
    house, one = House(), EarVendor()
    async with listening(house, one) as listener:
        one.last.onset()
        one.last.interim("yes")
        one.last.tells(TurnLikelyOver())
        await trio.sleep(0.1)
        one.last.breaks()
        await trio.sleep(2)
    assert [type(event) for _, event in listener.events[2:4]] == [TurnLikelyOver, TurnResumed]
    assert listener.finals == ["yes"]


async def test_a_recogniser_that_is_cut_again_and_again_is_left_for_the_next(autojump_clock: MockClock) -> None:
    house, one, two = House(), EarVendor(), EarVendor("two")
    two.decides_turns = True
    async with listening(house, one, two) as listener:
        for _ in range(4):
            assert not listener.hearing.decides_turns
            one.last.breaks()
            await trio.sleep(2)
        assert len(one.parts) == 4
        assert len(two.parts) == 1
        assert listener.hearing.decides_turns
        two.last.onset()
        two.last.final("still here")
        await trio.sleep(0.1)
        assert listener.finals == ["still here"]
    assert house.value("vendor_failovers_total", kind="stt", vendor="one") == 1


async def test_without_another_one_the_call_is_told(autojump_clock: MockClock) -> None:
    house, one = House(), EarVendor()
    async with listening(house, one) as listener:
        for _ in range(4):
            one.last.breaks()
            await trio.sleep(2)
        assert isinstance(listener.error, SpeechFailed)


async def test_a_live_call_asks_its_only_vendor_though_others_have_failed(autojump_clock: MockClock) -> None:
    """Fifty calls that are cut at once are connected anew, all of them."""
    house, one = House(), EarVendor()
    async with listening(house, one) as listener:
        house.around.breakers.of("one", VendorKind.STT).failed(Why.AUTH)
        one.last.breaks()
        await trio.sleep(0.1)
        assert len(one.parts) == 2
        assert listener.error is None
    assert house.value("vendor_breaker_state", vendor="one", kind="stt", state="closed") == 1


async def test_one_that_gives_up_its_own_block_is_replaced(autojump_clock: MockClock) -> None:
    house, one = House(), EarVendor()
    async with listening(house, one) as listener:
        held = listener.hearing._held
        assert held is not None
        held.let_go()
        await trio.sleep(0.1)
        assert len(one.parts) == 2


# --- deaf ----------------------------------------------------------------------------------------------------


async def test_one_that_has_gone_deaf_is_replaced_after_eight_seconds_and_the_caller_is_asked_again(
    autojump_clock: MockClock,
) -> None:
    house, one = House(), EarVendor()
    async with listening(house, one) as listener:
        await trio.sleep(20)
        assert len(one.parts) == 1
        began_s = trio.current_time()
        listener.is_voiced = True
        await trio.sleep(2)
        listener.is_voiced = False
        await trio.sleep(6.5)
        assert len(one.parts) == 2
        (told_at_s, told), *more = listener.events
        assert isinstance(told, Missed)
        assert told_at_s - began_s == pytest.approx(8.0, abs=0.05)
        assert more == []
        assert one.last.seconds <= 0.6  # nothing is replayed: it is asked for again
    assert house.value("vendor_reconnects_total", vendor="one", kind="stt", reason="silent") == 1


async def test_that_it_has_gone_deaf_is_told_to_its_breaker(autojump_clock: MockClock) -> None:
    house, one, two = House(), EarVendor(), EarVendor("two")
    house.around = replace(house.around, breakers=Breakers(house.metrics, Tolerance(failures=1)))
    async with listening(house, one, two) as listener:
        listener.is_voiced = True
        await trio.sleep(8.1)
        assert len(two.parts) == 1


async def test_a_sound_that_began_gets_its_end_from_one_that_went_deaf(autojump_clock: MockClock) -> None:
    house, one = House(), EarVendor()
    async with listening(house, one) as listener:
        one.last.onset()
        await trio.sleep(0.1)
        listener.is_voiced = True
        await trio.sleep(9)
    assert [type(event) for _, event in listener.events] == [SpeechStarted, Missed, SpeechStopped, Heard]
    assert listener.finals == [""]


async def test_a_slam_of_a_door_is_not_waited_for(autojump_clock: MockClock) -> None:
    house, one = House(), EarVendor()
    async with listening(house, one) as listener:
        for _ in range(5):
            listener.is_voiced = True
            await trio.sleep(0.5)
            listener.is_voiced = False
            await trio.sleep(9)
        assert len(one.parts) == 1


async def test_a_line_full_of_noise_costs_fewer_and_fewer_connections(autojump_clock: MockClock) -> None:
    house, one = House(Policy(reconnects=100)), EarVendor()
    async with listening(house, one) as listener:
        listener.is_voiced = True
        await trio.sleep(125)
        assert len(one.parts) == 1 + 4  # after 8, 24, 56 and 120 seconds
        assert listener.count(Missed) == 1
        assert listener.error is None


# --- doubled, late, slow -------------------------------------------------------------------------------------


async def test_a_final_that_comes_twice_and_an_interim_behind_it_are_used_once(autojump_clock: MockClock) -> None:
    house, one = House(), EarVendor()
    async with listening(house, one) as listener:
        one.last.onset()
        one.last.final("a table")
        one.last.tells(Heard("a table"), Heard("a ta", is_final=False))
        one.last.onset()
        one.last.final("a table")
        await trio.sleep(0.1)
    assert listener.finals == ["a table", "a table"]
    assert all(event.is_final for _, event in listener.events if isinstance(event, Heard))


async def test_a_call_that_does_not_listen_holds_up_the_recogniser_and_nothing_grows(autojump_clock: MockClock) -> None:
    house, one = House(), EarVendor()
    async with open_transcriber([one], CALL, house.ledger, house.around) as hearing:
        one.last.tells(*[SpeechStarted(0.0), Heard("x")] * 500)
        await trio.sleep(1)
        assert one.last.untaken == 800
        for _ in range(1000):
            await hearing.receive()


async def test_leaving_closes_politely_and_a_cancel_at_once(autojump_clock: MockClock) -> None:
    house, one = House(), EarVendor(close_s=0.5)
    async with open_transcriber([one], CALL, house.ledger, house.around):
        began_s = trio.current_time()
    assert trio.current_time() - began_s == pytest.approx(0.5)
    with trio.CancelScope() as scope:
        async with open_transcriber([one], CALL, house.ledger, house.around):
            began_s = trio.current_time()
            scope.cancel()
            await trio.sleep(1)
    assert trio.current_time() == began_s
    assert [str(how) for how in house.book.hows] == ["clean", "cancelled"]
