"""The phone against the bare server, over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from engine.events import MULAW_8K
from engine.phone.phone import place_call
from engine.phone.side import Callee
from tests.fakes.plain_speech import speak, words
from tests.load import bare

DELAYS = bare.Delays(onset_s=0.1, endpoint_s=0.1, answer_s=0.05)


@asynccontextmanager
async def bare_server() -> AsyncIterator[Callee]:
    async with trio.open_nursery() as nursery:
        port, _ = await nursery.start(bare.serve, 0, DELAYS)
        yield Callee(f"http://127.0.0.1:{port}")
        nursery.cancel_scope.cancel()


async def test_a_call_is_greeted_answered_and_interrupted() -> None:
    async with bare_server() as callee, place_call("twilio", callee) as call:
        assert words(await call.wait_for_reply(quiet_s=0.2), MULAW_8K) == bare.GREETING
        said = await call.say(speak("Hi there", MULAW_8K))
        await call.wait_until_heard()
        await trio.sleep(0.2)
        interruption = await call.say(speak("Stop it now", MULAW_8K))
        await call.wait_until_heard()
        await call.hang_up()

    assert not call.violations
    assert call.end == "caller"
    response_s = call.timing(said).response_s
    assert response_s is not None
    assert 0.1 < response_s < 0.4
    stop_s = call.timing(interruption).barge_in_stop_s
    assert stop_s is not None
    assert 0.08 < stop_s < 0.3
    assert not call.gaps
    heard = words(call.heard_audio, MULAW_8K)
    assert heard.startswith(bare.GREETING + " I have ")
