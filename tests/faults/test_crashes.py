"""FAULTS E 53 and E 54: whatever breaks inside one call ends that call alone; an actor that crashes comes back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from engine.errors import CallEnd, Cause
from engine.observe.timeline import What
from engine.ports import IncomingCall
from tests.fakes.plain_speech import frames_of, speak, words
from tests.fakes.puppet import speech_of
from tests.faults.bench import Bench, bench
from tests.faults.breaking import PLACES, install
from tests.faults.wires import PROVIDERS, Line, new_call_id

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


async def one_turn(line: Line) -> None:
    """What every place of a call is reached by: the greeting, a question and its answer."""
    await trio.sleep(0.8)
    await line.send(*(line.media(frame) for frame in frames_of(speak("Hello there.", line.format), line.format)))


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_e53_an_exception_in_any_part_ends_its_call_with_an_apology(
    provider: str, error: str, autojump_clock: MockClock
) -> None:
    """E 53: at each place where a vendor's part is called."""
    async with bench(provider, may_crash=True) as b:
        for place in PLACES:
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
