"""The text line: what waits for whom, and how long words take."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from adapters.providers.twilio.relay import TwilioRelay
from engine.calls.text_link import MAX_WAITING, TextLink, open_text_link
from engine.errors import SlowPeer
from engine.events import CutOff, Stopped
from engine.runtime.sockets import Socket, accept_socket, open_socket
from tests.fakes.hostile import read_head


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[TextLink, Socket]]:
    """The line, and the provider's end of it."""
    near, far = memory_stream_pair()
    sockets = dict[str, Socket]()
    is_open = trio.Event()

    async def accept() -> None:
        head, rest = await read_head(near)
        async with accept_socket(near, head=head, rest=rest) as sockets["ours"]:
            is_open.set()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        async with open_socket("ws://stage/", stream=far) as theirs:
            await is_open.wait()
            async with open_text_link(sockets["ours"], TwilioRelay().new_codec()) as link:
                yield link, theirs
        nursery.cancel_scope.cancel()


async def test_words_take_as_long_as_a_speaker_takes(autojump_clock: MockClock) -> None:
    async with linked() as (link, _):
        link.say("x" * 30)
        await trio.sleep(1)
        link.say("x" * 15)
        assert link.remaining_s() == pytest.approx(2)
        await link.until_said()
        assert trio.current_time() == pytest.approx(3, abs=0.01)
        assert link.said_s == pytest.approx(3)


async def test_what_was_cut_off_is_waited_for_no_longer(autojump_clock: MockClock) -> None:
    async with linked() as (link, theirs):
        link.say("x" * 150)
        await theirs.send('{"type":"interrupt","utteranceUntilInterrupt":"x","durationUntilInterruptMs":"67"}')
        assert await link.receive() == CutOff("x", 0.067)
        with trio.fail_after(0.1):
            await link.until_said()


async def test_what_the_provider_tells_of_its_speaking_is_believed_over_the_estimate(autojump_clock: MockClock) -> None:
    async with linked() as (link, theirs):
        link.say("x" * 30)
        await trio.sleep(1)  # in which a voice was made
        await theirs.send('{"type":"info","name":"agentSpeaking","value":"on"}')
        await link.receive()
        assert link.remaining_s() == pytest.approx(2, abs=0.01)
        await trio.sleep(1.5)
        await theirs.send('{"type":"info","name":"agentSpeaking","value":"off"}')
        await link.receive()
        assert link.remaining_s() == 0


async def test_all_that_waits_is_written_before_the_line_is_left(autojump_clock: MockClock) -> None:
    async with linked() as (link, theirs):
        link.say("one ")
        link.hang_up()
        await link.finish()
        link.say("two")
        assert [await theirs.receive() for _ in range(3)] == [
            '{"type":"text","token":"one ","last":false}',
            '{"type":"text","token":"","last":true}',
            '{"type":"end","handoffData":"{}"}',
        ]
        with trio.move_on_after(1) as waiting:
            await theirs.receive()
        assert waiting.cancelled_caught


async def test_a_clean_close_is_a_hang_up(autojump_clock: MockClock) -> None:
    async with linked() as (link, theirs), trio.open_nursery() as nursery:
        nursery.start_soon(theirs.aclose)
        assert await link.receive() == Stopped()
        with pytest.raises(trio.EndOfChannel):
            await link.receive()


async def test_a_provider_that_does_not_read_is_given_up(autojump_clock: MockClock) -> None:
    async with linked() as (link, _):
        for _ in range(MAX_WAITING + 1):
            link.say("x")
        with pytest.raises(SlowPeer):
            await link.receive()
