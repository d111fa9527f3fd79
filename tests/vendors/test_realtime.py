"""A speech-to-speech model that outlives its connections."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from engine.errors import ModelFailed, Why
from engine.events import (
    Context,
    Heard,
    Missed,
    RealtimeEvent,
    ReplyAudio,
    ReplyOver,
    ReplyStarted,
    SpeechStarted,
    SpeechStopped,
    ToolCall,
    ToolResult,
    Usage,
)
from engine.vendors.realtime import Realtime, open_realtime
from tests.vendors.puppets import CALL, LINE, QUIET, SESSION, VOICE, House, Soul, SoulVendor, context, failed


class Listener:
    """Of a call: sends audio all the time, and writes down what it is told."""

    def __init__(self, model: Realtime) -> None:
        self.model = model
        self.events: list[RealtimeEvent] = []
        self.error: ModelFailed | None = None
        self.frame = QUIET
        self.sent = 0

    async def listen(self) -> None:
        try:
            while True:
                self.events.append(await self.model.receive())
        except ModelFailed as exc:
            self.error = exc

    async def send(self) -> None:
        while True:
            self.model.send(self.frame * 5)
            self.sent += 1
            await trio.sleep(0.1)


class Conversation:
    """What a renewed connection is shown."""

    def __init__(self) -> None:
        self.texts = ["Hello."]

    def __call__(self) -> Context:
        return context(*self.texts)


@asynccontextmanager
async def talking(house: House, *vendors: SoulVendor, shown: Conversation | None = None) -> AsyncIterator[Listener]:
    opening = open_realtime(vendors, CALL, SESSION, shown or Conversation(), house.ledger, house.around)
    async with opening as model, trio.open_nursery() as nursery:
        listener = Listener(model)
        nursery.start_soon(listener.listen)
        nursery.start_soon(listener.send)
        yield listener
        nursery.cancel_scope.cancel()
    assert model.is_closed
    assert house.book.open == []
    assert [vendor.open_now for vendor in vendors] == [0] * len(vendors)


def reply(soul: Soul, reply_id: str, seconds: float = 1.0) -> None:
    soul.tells(ReplyStarted(reply_id), ReplyAudio(reply_id, LINE.silence(seconds)), ReplyOver(reply_id))


def caller_says(soul: Soul, text: str) -> None:
    now = trio.current_time()
    soul.tells(SpeechStarted(now), SpeechStopped(now), Heard(text))


def fails(why: Why = Why.UNREACHABLE) -> Exception:
    return failed(why, of=ModelFailed)


async def test_a_connection_is_tried_three_times_with_growing_pauses(autojump_clock: MockClock) -> None:
    house, one = House(), SoulVendor(opens=[fails(), fails()])
    began_s = trio.current_time()
    async with talking(house, one):
        assert [at_s - began_s for at_s in one.opening.at_s] == pytest.approx([0.0, 0.25, 1.0])
        assert house.book.open == [("llm_connection", "one")]
    assert house.requests("one", "realtime") == {"error": 2, "ok": 1}


async def test_what_is_said_and_heard_passes_through_and_its_cost_is_counted(autojump_clock: MockClock) -> None:
    house, one = House(), SoulVendor()
    async with talking(house, one) as listener:
        listener.model.say("Hello.")
        listener.model.told("1")
        listener.model.interrupt(0.5)
        listener.model.heard_on("and on")
        one.last.tells(ToolCall("t1", "look", "{}"), ToolCall("t2", "look", "{}"))
        await trio.sleep(0.1)
        listener.model.tool_results([ToolResult("t1", "yes"), ToolResult("of another", "no")])
        reply(one.last, "r1")
        one.last.tells(Usage(100, 20))
        await trio.sleep(0.1)
        did = [("say", "Hello."), ("told", "1"), ("interrupt", 0.5), ("heard on", "and on")]
        did.append(("results", (ToolResult("t1", "yes"),)))
        assert one.last.did == did
        assert len(one.last.heard) == listener.sent
    assert [type(event) for event in listener.events] == [ToolCall, ToolCall, ReplyStarted, ReplyAudio, ReplyOver]
    assert house.value("llm_tokens_total", vendor="one", type="input") == 100
    assert house.value("speech_audio_seconds_total", vendor="one", kind="stt") == pytest.approx(listener.sent * 0.1)
    assert house.value("speech_audio_seconds_total", vendor="one", kind="tts") == pytest.approx(1.0)


async def test_audio_of_a_reply_that_was_replaced_is_void(autojump_clock: MockClock) -> None:
    one = SoulVendor()
    async with talking(House(), one) as listener:
        one.last.tells(ReplyStarted("r1"), ReplyStarted("r2"), ReplyAudio("r1", QUIET), ReplyAudio("r2", QUIET))
        await trio.sleep(0.1)
    assert listener.events == [ReplyStarted("r1"), ReplyStarted("r2"), ReplyAudio("r2", QUIET)]


# --- cut off -------------------------------------------------------------------------------------------------


async def test_a_reply_that_is_cut_off_is_over_and_the_caller_is_asked_again(autojump_clock: MockClock) -> None:
    house, one, shown = House(), SoulVendor(), Conversation()
    async with talking(house, one, shown=shown) as listener:
        caller_says(one.last, "a table")
        one.last.tells(ReplyStarted("r1"))
        await trio.sleep(0.1)
        shown.texts.append("a table")
        one.last.breaks()
        await trio.sleep(0.1)
        assert len(one.parts) == 2
        assert [message.text for message in one.contexts[-1]] == ["Hello.", "a table"]
    assert listener.events[-2:] == [ReplyOver("r1", is_whole=False), Missed()]
    assert house.value("vendor_reconnects_total", vendor="one", kind="realtime", reason="cut") == 1


async def test_a_caller_who_is_speaking_meanwhile_is_heard_by_the_next_connection(autojump_clock: MockClock) -> None:
    one = SoulVendor()
    async with talking(House(), one) as listener:
        await trio.sleep(1)
        one.last.tells(SpeechStarted(trio.current_time()))
        await trio.sleep(1)
        one.last.breaks()
        await trio.sleep(0.1)
        assert 1.8 <= len(one.last.heard) * 0.1 <= 2.3
    assert [type(event) for event in listener.events] == [SpeechStarted, SpeechStopped, Heard]


async def test_what_it_was_asked_to_say_is_said_by_the_next_one(autojump_clock: MockClock) -> None:
    one = SoulVendor()
    async with talking(House(), one) as listener:
        listener.model.say("Hello.")
        one.last.breaks()
        await trio.sleep(0.1)
        assert one.last.did == [("say", "Hello.")]
        reply(one.last, "r1")
        await trio.sleep(0.1)
        one.last.breaks()
        await trio.sleep(0.5)
        assert one.last.did == []


async def test_results_for_a_connection_that_is_gone_are_not_given_to_the_next(autojump_clock: MockClock) -> None:
    one = SoulVendor()
    async with talking(House(), one) as listener:
        one.last.tells(ToolCall("t1", "look", "{}"))
        await trio.sleep(0.1)
        one.last.breaks()
        await trio.sleep(0.1)
        listener.model.tool_results([ToolResult("t1", "yes")])
        assert one.last.did == []
    assert listener.events[-1] == Missed()


async def test_one_that_is_cut_again_and_again_is_left_or_ends_the_call(autojump_clock: MockClock) -> None:
    house, one, two = House(), SoulVendor(), SoulVendor("two")
    async with talking(house, one, two) as listener:
        for _ in range(4):
            one.last.breaks()
            await trio.sleep(2)
        assert len(two.parts) == 1
        for _ in range(3):
            two.last.breaks()
            await trio.sleep(2)
        assert listener.error is None
    house, one = House(), SoulVendor()
    async with talking(house, one) as listener:
        for _ in range(4):
            one.last.breaks()
            await trio.sleep(2)
        assert listener.error is not None


@pytest.mark.parametrize("owed", ["an answer", "the rest of one", "what it was asked to say", "hearing"])
async def test_one_that_owes_something_and_is_silent_is_replaced(owed: str, autojump_clock: MockClock) -> None:
    house, one = House(), SoulVendor()
    async with talking(house, one) as listener:
        await trio.sleep(20)
        assert len(one.parts) == 1
        began_s = trio.current_time()
        match owed:
            case "an answer":
                caller_says(one.last, "a table")
            case "the rest of one":
                one.last.tells(ReplyStarted("r1"), ReplyAudio("r1", LINE.silence(2)))
            case "what it was asked to say":
                listener.model.say("Hello.")
            case "hearing":
                listener.frame = VOICE
        with trio.fail_after(8.2):
            while len(one.parts) == 1:  # noqa: ASYNC110 - seen from outside
                await trio.sleep(0.05)
        assert trio.current_time() - began_s > 4.9
    assert house.value("vendor_reconnects_total", vendor="one", kind="realtime", reason="silent") == 1


async def test_a_reply_that_the_caller_cut_off_is_not_waited_for(autojump_clock: MockClock) -> None:
    house, one = House(), SoulVendor()
    async with talking(house, one) as listener:
        one.last.tells(ReplyStarted("r1"), ReplyAudio("r1", LINE.silence(5)))
        await trio.sleep(1)
        listener.model.interrupt(1.0)
        await trio.sleep(20)
        assert len(one.parts) == 1
        one.last.tells(ReplyOver("r1", is_whole=False))
        reply(one.last, "r2")
        await trio.sleep(0.1)
    assert house.requests("one", "realtime") == {"ok": 2, "cancelled": 1}


async def test_words_that_come_behind_their_reply_ask_for_no_other(autojump_clock: MockClock) -> None:
    one = SoulVendor()
    async with talking(House(), one):
        one.last.tells(SpeechStarted(0.0), SpeechStopped(0.0))
        reply(one.last, "r1")
        one.last.tells(Heard("a table"))
        await trio.sleep(60)
        assert len(one.parts) == 1


# --- renewal -------------------------------------------------------------------------------------------------


async def test_it_is_renewed_in_time_without_a_gap_and_with_all_that_was_said(autojump_clock: MockClock) -> None:
    house, one, shown = House(), SoulVendor(opens=[0.0, 0.4]), Conversation()
    one.renew_after_s = 60.0
    async with talking(house, one, shown=shown) as listener:
        old = one.last
        await trio.sleep(59)
        caller_says(old, "a table")
        await trio.sleep(0.5)
        shown.texts.append("a table")
        reply(old, "r1", seconds=3.0)
        await trio.sleep(2.6)
        assert len(one.contexts) == 1  # something is still to be heard
        await trio.sleep(1.1)
        assert [message.text for message in one.contexts[-1]] == ["Hello.", "a table"]
        assert len(one.parts) == 1  # it opens beside the old one, which goes on hearing
        await trio.sleep(0.4)
        new = one.last
        assert new is not old
        assert one.open_now == 1
        assert len(old.heard) + len(new.heard) == listener.sent + 5  # it is given the last half second again
        caller_says(new, "for two")
        reply(new, "r2")
        await trio.sleep(0.1)
        assert listener.events[-1] == ReplyOver("r2")
        await trio.sleep(61)
        assert len(one.parts) == 3
    assert Missed() not in listener.events
    assert house.value("vendor_reconnects_total", vendor="one", kind="realtime", reason="renewed") == 2


async def test_what_is_said_while_it_opens_is_waited_for(autojump_clock: MockClock) -> None:
    one = SoulVendor(opens=[0.0, 1.0])
    one.renew_after_s = 60.0
    async with talking(House(), one):
        old = one.last
        await trio.sleep(60.5)
        caller_says(old, "wait")
        reply(old, "r1", seconds=1.0)
        await trio.sleep(0.6)
        assert len(one.parts) == 2
        before = len(old.heard)
        await trio.sleep(0.15)
        assert len(old.heard) > before  # the old one is still the one that hears
        await trio.sleep(1.0)
        assert len(one.parts) == 3
        assert one.open_now == 1


async def test_a_renewal_that_fails_is_tried_again_and_nothing_is_lost(autojump_clock: MockClock) -> None:
    house, one = House(), SoulVendor(opens=[0.0, fails(), math.inf])
    one.renew_after_s = 60.0
    async with talking(house, one) as listener:
        old = one.last
        await trio.sleep(65)
        caller_says(old, "still there?")
        reply(old, "r1")
        await trio.sleep(15)
        assert len(one.parts) == 2
        assert listener.error is None
        assert ReplyOver("r1") in listener.events


async def test_what_still_comes_of_the_old_connection_is_void(autojump_clock: MockClock) -> None:
    one = SoulVendor(close_s=1.0)
    one.renew_after_s = 60.0
    async with talking(House(), one) as listener:
        old = one.last
        await trio.sleep(60.2)
        old.tells(ReplyStarted("orphan"), ReplyAudio("orphan", QUIET))
        old.breaks()
        await trio.sleep(2)
        assert listener.events == []
        assert len(one.parts) == 2


async def test_what_the_old_one_says_at_the_very_moment_of_the_change_is_void_or_puts_it_off(
    autojump_clock: MockClock,
) -> None:
    """Which of the two is a matter of whose turn it is."""
    for _ in range(12):
        one = SoulVendor()
        one.renew_after_s = 5.0
        async with talking(House(), one) as listener:
            old = one.last
            one.on_open = lambda old=old: old.tells(ReplyStarted("r1"))  # type: ignore[misc]  # a default binds it
            await trio.sleep(5.2)
            assert len(one.parts) == 2
            assert bool(listener.events) == (one.last.heard == [])


async def test_leaving_in_the_middle_of_a_renewal_leaves_nothing(autojump_clock: MockClock) -> None:
    house, one = House(), SoulVendor(opens=[0.0, 1.0])
    one.renew_after_s = 60.0
    async with talking(house, one):
        await trio.sleep(60.5)
    assert house.book.open == []
