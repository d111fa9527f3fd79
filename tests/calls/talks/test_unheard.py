"""A caller whom nobody hears for a while: the recogniser is gone, or there and silent. Whole calls."""

from __future__ import annotations

import base64
import math
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
from trio.testing import MockClock

from engine.events import CallInfo
from engine.observe.timeline import What
from engine.ports import Owner, Phrases, Transcriber
from engine.vendors.hearing import open_transcriber
from tests.fakes.puppet import PuppetAgent
from tests.fakes.stage import Caller, Stage, stage
from tests.vendors.puppets import LINE, QUIET, VOICE, Ear, EarVendor, House

FILLER_S = 1.2
SAY_AGAIN = Phrases("").say_again
WORDS_S = 1.5
"""Of a voice, in which a late recogniser hears words."""
VOICED, SILENT = (base64.b64encode(frame).decode() for frame in (VOICE, QUIET))


class Hard(PuppetAgent):
    """Hears with recognisers that come and go."""

    counts_vendors = True

    def __init__(self, house: House, *ears: EarVendor) -> None:
        super().__init__()
        self._house = house
        self._ears = ears

    def open_transcriber(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Transcriber]:
        return open_transcriber(self._ears, call, owner, self._house.around)


@dataclass
class Line:
    on: Stage
    caller: Caller
    is_voiced: bool = False
    spoke_until_s: float = 0.0

    async def send(self) -> None:
        while not self.caller.gone.is_set():
            await self.caller.frames(payload=VOICED if self.is_voiced else SILENT)

    async def speaks(self, seconds: float) -> None:
        self.is_voiced = True
        await trio.sleep(seconds)
        self.is_voiced, self.spoke_until_s = False, trio.current_time()

    async def next_sound_s(self) -> float:
        """Until the caller hears something: how long after the caller's last word."""
        heard_s = self.caller.heard_s
        with trio.fail_after(60):
            while self.caller.heard_s == heard_s:  # noqa: ASYNC110 - seen from outside
                await trio.sleep(0.02)
        return trio.current_time() - self.spoke_until_s


@asynccontextmanager
async def calling(*ears: EarVendor) -> AsyncIterator[Line]:
    """A caller who has been greeted, and is silent."""
    house = House()
    async with (
        stage(Hard(house, *ears), metrics=house.metrics, silence_s=1000) as on,
        on.call(sends_audio=False) as caller,
        trio.open_nursery() as nursery,
    ):
        line = Line(on, caller)
        nursery.start_soon(line.send)
        await trio.sleep(3)
        yield line
        nursery.cancel_scope.cancel()


class LateVendor(EarVendor):
    """Can be had only after six seconds of trying; then it hears this, in what it is given at once."""

    def __init__(self, text: str) -> None:
        super().__init__("two", opens=[2.9])
        self.text = text
        self.voiced_s = 0.0

    def make(self) -> Ear:
        return LateEar(self)


class LateEar(Ear):
    def __init__(self, vendor: LateVendor) -> None:
        super().__init__(decides_turns=False)
        self._vendor = vendor

    def send(self, audio: bytes) -> None:
        before_s = self._vendor.voiced_s
        self._vendor.voiced_s += LINE.duration_s(audio) * (audio == VOICE)
        if before_s < WORDS_S <= self._vendor.voiced_s and self._vendor.text:
            self.onset()
            self.final(self._vendor.text)


@pytest.mark.parametrize("is_known", [True, False], ids=["in mid word", "before a word"])
@pytest.mark.parametrize("text", ["a table for two", ""], ids=["words", "no words"])
async def test_a_caller_who_speaks_while_nobody_hears_is_told_to_wait_and_then_answered_or_asked_again(
    text: str, is_known: bool, autojump_clock: MockClock
) -> None:
    one, two = EarVendor(opens=[0.0, math.inf]), LateVendor(text)
    async with calling(one, two) as line:
        async with trio.open_nursery() as nursery:
            if is_known:
                nursery.start_soon(line.speaks, 2.0)
                await trio.sleep(0.5)
                one.last.onset()
                await trio.sleep(0.1)
            one.last.breaks()
            if not is_known:
                await trio.sleep(0.3)
                nursery.start_soon(line.speaks, 2.0)
        assert 1.9 <= await line.next_sound_s() <= 2.6
        await trio.sleep(FILLER_S)
        assert line.on.count(What.FILLER) == 1
        assert await line.next_sound_s() <= 8.0
        await trio.sleep(4)
        assert line.on.texts(What.SAID)[1:] == [f"You said {text}." if text else SAY_AGAIN]
        assert line.on.texts(What.HEARD) == [text] * bool(text)
    assert two.voiced_s == pytest.approx(2.0, abs=0.05), "all that was said is heard again"


async def test_a_caller_who_speaks_while_nobody_hears_nor_will_hear_is_apologised_to(
    autojump_clock: MockClock,
) -> None:
    one = EarVendor(opens=[0.0, math.inf, math.inf, math.inf])
    async with calling(one) as line:
        one.last.breaks()
        await line.speaks(1.0)
        assert await line.next_sound_s() <= 2.6
        await trio.sleep(FILLER_S)
        assert await line.next_sound_s() <= 8.0
        await line.on.over(line.caller)
    assert line.on.last(What.CALL_ENDED)["cause"] == "speech_failed"


@pytest.mark.parametrize(
    ("words", "filler_s", "said"),
    [("", 2.0, SAY_AGAIN), ("I would like to", 4.0, "You said I would like to.")],
    ids=["nothing", "half of it"],
)
async def test_a_recogniser_that_is_there_and_tells_no_more_is_not_waited_for(
    words: str, filler_s: float, said: str, autojump_clock: MockClock
) -> None:
    """Whoever is in the middle of a sentence, as far as is known, is let think."""
    one = EarVendor()
    async with calling(one) as line:
        if words:
            one.last.onset()
            one.last.interim(words)
        await line.speaks(1.5)
        assert filler_s - 0.1 <= await line.next_sound_s() <= filler_s + 0.6
        await trio.sleep(FILLER_S)
        assert await line.next_sound_s() <= 8.0
        await trio.sleep(4)
    assert line.on.texts(What.SAID)[1:] == [said]
    assert len(one.parts) == 2


async def test_a_noise_is_answered_by_nobody(autojump_clock: MockClock) -> None:
    """Neither where a recogniser hears that it was one, nor while there is none."""
    one, two = EarVendor(opens=[0.0, math.inf]), LateVendor("")
    async with calling(one, two) as line:
        one.last.onset()
        await line.speaks(1.0)
        one.last.final("")
        await trio.sleep(9)
        one.last.breaks()
        await trio.sleep(1)
        await line.speaks(0.2)
        await trio.sleep(9)
        await line.speaks(0.6)
        await trio.sleep(9)
    assert line.on.count(What.FILLER) == 0
    assert line.on.count(What.SAID) == 1
