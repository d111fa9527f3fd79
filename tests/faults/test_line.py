"""FAULTS A 17-20: what the caller hears, and what the provider is sent."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from engine.observe.timeline import What
from tests.fakes.hostile import CLOSE, frame
from tests.fakes.plain_speech import noise, speak
from tests.fakes.vendors import STORY, Behaviour
from tests.faults.bench import bench
from tests.faults.wires import PROVIDERS

pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")
providers = pytest.mark.parametrize("provider", PROVIDERS)


@providers
@pytest.mark.proves("barge-in")
async def test_a17_a_barge_in_clears_the_line_first_and_only_what_was_heard_is_remembered(
    provider: str, autojump_clock: MockClock
) -> None:
    """A 17: the provider holds seconds of audio when the caller speaks."""
    async with bench(provider) as b:
        b.rig.vendors.remembers = True
        async with b.live(provider) as line, trio.open_nursery() as nursery:
            line.echoes_marks = False
            nursery.start_soon(line.keep_talking)
            await trio.sleep(4)
            await line.ask("Tell me a story.", within_s=3.0)
            began_s = trio.current_time()
            onset = noise(0.02, line.format)
            for _ in range(20):
                await line.send(line.media(onset))
                await trio.sleep(0.02)
            after = [(at_s, what) for at_s, what in line.log if at_s >= began_s and what != "ping"]
            cleared_s = next(at_s for at_s, what in after if what == "clear")
            assert cleared_s - began_s < 0.3 + 0.1  # what the recogniser needs to be sure, and the limit
            position = after.index((cleared_s, "clear"))
            assert all(at_s > cleared_s for at_s, what in after[position + 1 :] if what in ("play", "mark"))
            await trio.sleep(0.5)
            await line.ask("Stop it.", within_s=4.0)
            nursery.cancel_scope.cancel()
            await line.send(*line.side.stop())
            await line.peer.send(frame(CLOSE, b"\x03\xe8"))
            assert await b.ended(line) == "caller_hangup"
        said = [m.fields for m in b.rig.moments if m.call_id == line.call_id and m.what is What.SAID]
        cut = next(str(fields["text"]) for fields in said if fields["interrupted"])
        assert "sentence number 1" in cut
        assert "sentence number 8" not in cut
        shown = next(c for c in reversed(b.rig.vendors.seen) if any("Stop" in text for _, text in c))
        assert cut in [text for role, text in shown if role == "assistant"]
        assert not any("number 8" in text for _, text in shown)


async def test_a18_ten_minutes_of_speech_do_not_drift(autojump_clock: MockClock) -> None:
    """A 18: Vonage is given each frame when its time has come: at most 200 ms ahead of the line, never behind it."""
    behaviour = Behaviour(chars_per_s=len(STORY) / 600)
    async with (
        bench(witness=False, behaviour=behaviour, greeting="Hi.", no_progress_s=900.0, max_answer_s=900.0) as b,
        b.live("vonage") as line,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(line.keep_talking, 1.0)
        await trio.sleep(10)
        heard = len(line.heard)
        asked_s = trio.current_time()
        await line.ask("Tell me a story.", within_s=651.0)
        plays = [at_s for at_s, what in line.log if what == "play" and at_s > asked_s]
        assert len(line.heard) - heard >= 600 * line.format.bytes_per_s
        leads = [number * 0.02 - (at_s - plays[0]) for number, at_s in enumerate(plays)]
        assert max(leads) <= 0.2 + 1e-6
        assert min(leads) >= -0.02
        assert not line.violations
        nursery.cancel_scope.cancel()
        await line.peer.send(frame(CLOSE, b"\x03\xe8"))
        assert await b.ended(line) == "caller_hangup"


@providers
@pytest.mark.parametrize("after_s", [0.1, 2.5])
async def test_a19_a_hang_up_while_audio_is_queued_ends_the_sending(
    provider: str, after_s: float, autojump_clock: MockClock
) -> None:
    """A 19: nothing is sent after the close, no frame is torn, no error is logged."""
    async with bench(provider) as b, b.live(provider) as line, trio.open_nursery() as nursery:
        nursery.start_soon(line.keep_talking)
        await trio.sleep(1)
        await line.ask("Tell me a story.", within_s=1.0 + after_s)
        assert line.heard
        await line.send(*line.side.stop())
        await line.peer.send(frame(CLOSE, b"\x03\xe8"))
        assert await b.ended(line) == "caller_hangup"
        await line.over.wait()
        nursery.cancel_scope.cancel()
        closed_at = [what for _, what in line.log].index("close")
        assert closed_at == len(line.log) - 1
        assert not line.is_torn
        assert not line.violations


@providers
async def test_a20_everything_that_is_sent_is_what_the_provider_takes(provider: str, autojump_clock: MockClock) -> None:
    """A 20: greeting, answers, a barge-in, keys, silence prompts and a goodbye, read by the strict provider."""
    async with bench(witness=False, silence_s=1.5) as b, b.rig.call(provider) as call:
        await call.wait_for_reply()
        call.start_saying(speak("Tell me a story.", call.format))
        await call.wait_until_heard()
        await trio.sleep(1)
        await call.say(speak("Wait, wait, wait.", call.format))
        await call.wait_for_silence()
        call.press("12#")
        await call.wait_until_over(within_s=120)
        assert call.end == "engine 1000"
        assert not call.violations
        assert call.ear.cleared_at_s
    assert b.end_of(call.call_id) == "silence"
