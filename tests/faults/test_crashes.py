"""FAULTS E 53 and E 54: whatever breaks inside one call ends that call alone; an actor that crashes comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from adapters.providers.twilio.codec import TwilioCodec
from engine.calls.registry import Reserve
from engine.phone.errors import CallRefused
from engine.ports import IncomingCall
from engine.runtime.mailbox import Answer
from tests.fakes.plain_speech import frames_of, speak
from tests.fakes.puppet import speech_of
from tests.faults.bench import Bench, bench
from tests.faults.breaking import PLACES, install
from tests.faults.wires import PROVIDERS, Line

pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")

ERRORS: dict[str, Callable[[], Exception]] = {
    "KeyError": lambda: KeyError("x"),
    "RecursionError": RecursionError,
    "MemoryError": MemoryError,
    "ExceptionGroup": lambda: ExceptionGroup("several", [KeyError("x"), ExceptionGroup("more", [OSError(5, "I/O")])]),
}
CLOSES = ("transcriber closes", "synthesizer closes", "model closes")
CLOSE = b"\x88\x82\0\0\0\0\x03\xe8"
"""A close frame, 1000."""


class Poison:
    """A call id on which the registry chokes."""

    def __hash__(self) -> int:
        raise RuntimeError("poison")


async def crash_the_registry(b: Bench) -> None:
    b.rig.engine.registry._mailbox.tell(Reserve("twilio", IncomingCall(Poison(), "", ""), "", Answer()))  # type: ignore[arg-type]
    await trio.sleep(0.05)


async def one_turn(line: Line) -> None:
    """What every place of a call is reached by: the greeting, a question and its answer."""
    await trio.sleep(0.8)
    await line.send(*(line.media(frame) for frame in frames_of(speak("Hello there.", line.format), line.format)))


@pytest.mark.parametrize(("error", "provider"), list(zip(ERRORS, PROVIDERS * 2, strict=True)))
async def test_e53_an_exception_in_any_part_ends_its_call_with_an_apology(
    provider: str, error: str, autojump_clock: MockClock
) -> None:
    """E 53: at each place where a vendor's part is called."""
    async with bench(provider, may_crash=True) as b:
        for place in PLACES if error in ("KeyError", "ExceptionGroup") else PLACES[::5]:
            # `clip` breaks in the apology itself: something else has to go wrong first.
            broken = install(b, "speech.receive" if place == "clip" else place, ERRORS[error]())
            if place == "clip":
                broken = install(b, "clip", ERRORS[error]())
            async with b.live(provider) as line, trio.open_nursery() as nursery:
                nursery.start_soon(line.keep_talking)
                await one_turn(line)
                if place in CLOSES:
                    await trio.sleep(3)
                    await line.send(*line.side.stop())
                    await line.peer.send(CLOSE)
                end = await b.ended(line)
                await line.over.wait()
                nursery.cancel_scope.cancel()
            assert broken.was_there, place
            apologised = bytes(line.heard).endswith(speech_of("sorry", line.format))
            if place in CLOSES:
                assert end == "caller_hangup", place
            else:
                assert (end, apologised) == ("internal_error", place != "clip"), place
            restore(b)


def restore(b: Bench) -> None:
    agents = b.rig.engine._agents
    while hasattr(agents["desk"], "_inner"):
        agents["desk"] = agents["desk"]._inner


@pytest.mark.parametrize("place", ["decode", "encode_audio", "encode_mark"])
async def test_e53_an_exception_in_a_codec_ends_its_call(
    place: str, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E 53: the wire codec itself is broken, in either direction."""
    async with bench("vonage", may_crash=True) as b:
        monkeypatch.setattr(b.rig.engine._providers[0], "new_codec", lambda: BrokenCodec(TwilioCodec(), place))
        async with b.live("twilio") as line, trio.open_nursery() as nursery:
            nursery.start_soon(line.keep_talking)
            assert await b.ended(line) == "internal_error"
            await line.over.wait()
            nursery.cancel_scope.cancel()


class BrokenCodec:
    paced = ends_by_close = False

    def __init__(self, inner: Any, place: str) -> None:
        self._inner, self._place = inner, place

    def __getattr__(self, name: str) -> Any:
        if name == self._place:
            return self._break
        return getattr(self._inner, name)

    def _break(self, *_: object) -> Any:
        raise LookupError(self._place)


async def test_e54_a_registry_that_crashes_comes_back_and_no_call_notices(autojump_clock: MockClock) -> None:
    """E 54: restarted, its table made anew from the live calls; a question that was open gets an answer."""
    async with bench(max_calls=3, expected_errors=frozenset({"actor_crashed"})) as b, b.live("twilio") as line:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.keep_talking)
            for _ in range(3):
                await crash_the_registry(b)
                assert b.rig.engine.supervisor.ready[0]
            assert b.rig.value("actor_restarts_total", actor="registry") == 3
            assert len(b.rig.engine.registry.live_calls()) == 2
            async with b.rig.call("vonage") as third:
                assert await third.wait_for_reply()
                with pytest.raises(CallRefused):
                    async with b.rig.call():
                        pass
            await line.send(*line.side.stop())
            assert await b.ended(line) == "caller_hangup"
            nursery.cancel_scope.cancel()
        assert not b.rig.engine.has_given_up


async def test_e54_a_registry_that_keeps_crashing_makes_the_engine_drain(autojump_clock: MockClock) -> None:
    """E 54: the fourth crash within ten seconds: no new calls, live ones finish by themselves, then the engine ends."""
    errors = frozenset({"actor_crashed", "actor_given_up"})
    async with bench(expected_errors=errors) as b, b.live("twilio") as line, trio.open_nursery() as nursery:
        nursery.start_soon(line.keep_talking)
        await trio.sleep(1)
        for _ in range(4):
            await crash_the_registry(b)
        assert b.rig.engine.has_given_up
        assert b.rig.engine.supervisor.ready == (False, "draining")
        began_s = trio.current_time()
        with pytest.raises(CallRefused):
            async with b.rig.call():
                pass
        assert trio.current_time() - began_s < 0.3
        await trio.sleep(5)
        assert not b.end_of(line.call_id)
        await line.send(*line.side.stop())
        assert await b.ended(line) == "caller_hangup"
        nursery.cancel_scope.cancel()
    assert [event["cut_short"] for event in b.events("drained")] == [0]
    assert b.rig.total("calls_active") == 0


async def test_b27_a_synthesizer_that_says_nothing_is_a_failure_that_is_apologised_for(
    autojump_clock: MockClock,
) -> None:
    """B 27, C 5: each sentence ends before its first sound; the caller must not sit in silence."""
    async with bench() as b:
        install(b, "speech.receive", trio.EndOfChannel())
        async with b.live("twilio") as line, trio.open_nursery() as nursery:
            nursery.start_soon(line.keep_talking)
            began_s = trio.current_time()
            assert await b.ended(line) == "speech_failed"
            assert b.released_at(line.call_id) - began_s < 8.0
            assert bytes(line.heard).endswith(speech_of("sorry", line.format))
            await line.over.wait()
            nursery.cancel_scope.cancel()
        restore(b)
