"""A caller whom nobody hears for a while: the recogniser, or the speech-to-speech model, is gone, or there and silent.
Whole calls."""

from __future__ import annotations

import base64
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from engine.events import (
    CallInfo,
    Context,
    Heard,
    RealtimeEvent,
    ReplyAudio,
    ReplyOver,
    ReplyStarted,
    ReplyText,
    SessionInfo,
    SpeechStarted,
    SpeechStopped,
)
from engine.observe.timeline import What
from engine.ports import CallControl, Owner, Phrases, RealtimeModel, Transcriber
from engine.vendors.hearing import open_transcriber
from engine.vendors.realtime import open_realtime
from tests.fakes.puppet import PuppetAgent, PuppetRealtimeAgent
from tests.fakes.stage import Caller, Stage, stage
from tests.vendors.puppets import LINE, QUIET, VOICE, Ear, EarVendor, House, PuppetVendor, Soul, SoulVendor

FILLER_S = 1.2
SAY_AGAIN = Phrases("").say_again
WORDS_S = 1.5
"""Of a voice, in which a late recogniser hears words."""
VOICED, SILENT = (base64.b64encode(frame).decode() for frame in (VOICE, QUIET))


class HardOfHearing(PuppetAgent):
    """Hears with recognisers that come and go."""

    counts_vendors = True

    def __init__(self, house: House, *vendors: Any) -> None:
        super().__init__()
        self.house = house
        self.vendors = vendors

    def open_transcriber(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Transcriber]:
        return open_transcriber(self.vendors, call, owner, self.house.around)


class HardOfHearingRealtime(PuppetRealtimeAgent):
    """The same of models."""

    counts_vendors = True

    def __init__(self, house: House, *vendors: Any) -> None:
        super().__init__()
        self.house = house
        self.vendors = vendors

    def open_realtime(
        self, call: CallInfo, session: SessionInfo, context: Callable[[], Context], owner: Owner, control: CallControl
    ) -> AbstractAsyncContextManager[RealtimeModel]:
        return open_realtime(self.vendors, call, session, context, owner, self.house.around)


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
async def calling(*vendors: PuppetVendor) -> AsyncIterator[Line]:
    """A caller who has been greeted, and is silent."""
    house = House()
    make = HardOfHearing if isinstance(vendors[0], EarVendor) else HardOfHearingRealtime
    async with (
        stage(make(house, *vendors), metrics=house.metrics, silence_s=1000) as on,
        on.call(sends_audio=False) as caller,
        trio.open_nursery() as nursery,
    ):
        line = Line(on, caller)
        nursery.start_soon(line.send)
        await trio.sleep(3)
        yield line
        nursery.cancel_scope.cancel()


class Late:
    """Can be had only after six seconds of trying; then it hears this in what it is given at once, and says so."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.voiced_s = 0.0

    def is_enough(self, audio: bytes) -> bool:
        before_s = self.voiced_s
        self.voiced_s += LINE.duration_s(audio) * (audio == VOICE)
        return bool(self.text) and before_s < WORDS_S <= self.voiced_s


class LateEarVendor(EarVendor):
    def __init__(self, late: Late) -> None:
        super().__init__("two", opens=[2.9])
        self.late = late

    def make(self) -> Ear:
        return LateEar(self.late)


class LateEar(Ear):
    def __init__(self, late: Late) -> None:
        super().__init__(decides_turns=False)
        self.late = late

    def send(self, audio: bytes) -> None:
        if self.late.is_enough(audio):
            self.onset()
            self.final(self.late.text)


class LateSoulVendor(SoulVendor):
    def __init__(self, late: Late) -> None:
        super().__init__("two", opens=[2.9])
        self.late = late

    def make(self) -> Soul:
        return LateSoul(self.late)


class LateSoul(Soul):
    def __init__(self, late: Late) -> None:
        super().__init__()
        self.late = late

    def send(self, audio: bytes) -> None:
        if self.late.is_enough(audio):
            now, text = trio.current_time(), f"You said {self.late.text}."
            self.tells(SpeechStarted(now), SpeechStopped(now), Heard(self.late.text))
            self.tells(ReplyStarted("r"), ReplyText("r", text), ReplyAudio("r", VOICE * 100), ReplyOver("r"))


KINDS = {"pipeline": (EarVendor, LateEarVendor), "realtime": (SoulVendor, LateSoulVendor)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_known", [True, False], ids=["in mid word", "before a word"])
@pytest.mark.parametrize("text", ["a table for two", ""], ids=["words", "no words"])
async def test_a_caller_who_speaks_while_nobody_hears_is_told_to_wait_and_then_answered_or_asked_again(
    text: str, is_known: bool, kind: str, autojump_clock: MockClock
) -> None:
    (make_one, make_two), late = KINDS[kind], Late(text)
    one, two = make_one(opens=[0.0, math.inf]), make_two(late)
    async with calling(one, two) as line:
        async with trio.open_nursery() as nursery:
            if is_known:
                nursery.start_soon(line.speaks, 2.0)
                await trio.sleep(0.5)
                one.last.tells(SpeechStarted(trio.current_time() - 0.5))
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
    assert late.voiced_s == pytest.approx(2.0, abs=0.05), "all that was said is heard again"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_caller_who_speaks_while_nobody_hears_nor_will_hear_is_apologised_to(
    kind: str, autojump_clock: MockClock
) -> None:
    one = KINDS[kind][0](opens=[0.0, math.inf, math.inf, math.inf])
    async with calling(one) as line:
        one.last.breaks()
        await line.speaks(1.0)
        assert await line.next_sound_s() <= 2.6
        await trio.sleep(FILLER_S)
        assert await line.next_sound_s() <= 8.0
        await line.on.over(line.caller)
    assert line.on.last(What.CALL_ENDED)["cause"] in ("speech_failed", "llm_failed")


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


@pytest.mark.parametrize(
    ("seconds", "tells", "filler_s", "is_left"),
    [
        (2.0, [], 2.0, True),
        (0.5, [], 6.5, False),
        (2.0, [SpeechStarted], 4.0, True),
        (2.0, [SpeechStarted, SpeechStopped, lambda _: Heard("", is_certain=False)], 2.0, True),
    ],
    ids=["nothing", "nothing of a word", "the beginning", "the end"],
)
async def test_a_model_that_is_there_and_brings_no_answer_is_not_waited_for(
    seconds: float,
    tells: Sequence[Callable[[float], RealtimeEvent]],
    filler_s: float,
    is_left: bool,
    autojump_clock: MockClock,
) -> None:
    """A word may be a cough to a model that says nothing of it, so that nobody is told to wait for that."""
    one = SoulVendor()
    async with calling(one) as line:
        await line.speaks(seconds)
        one.last.tells(*(event(trio.current_time()) for event in tells))
        assert filler_s - 0.1 <= await line.next_sound_s() <= filler_s + 0.6
        if is_left:
            await trio.sleep(FILLER_S)
            assert await line.next_sound_s() <= 8.0
        await trio.sleep(4)
    assert line.on.texts(What.SAID)[1:] == [SAY_AGAIN]
    assert len(one.parts) == 1 + is_left


@pytest.mark.parametrize("kind", KINDS)
async def test_a_noise_is_answered_by_nobody(kind: str, autojump_clock: MockClock) -> None:
    """Neither where a recogniser hears that it was one, nor while there is none."""
    (make_one, make_two) = KINDS[kind]
    one, two = make_one(opens=[0.0, math.inf]), make_two(Late(""))
    async with calling(one, two) as line:
        one.last.tells(SpeechStarted(trio.current_time()))
        await line.speaks(1.0)
        one.last.tells(SpeechStopped(trio.current_time()), Heard(""))
        await trio.sleep(3)
        one.last.breaks()
        await trio.sleep(1)
        await line.speaks(0.2)
        await trio.sleep(9)
        await line.speaks(0.6 if kind == "pipeline" else 0.3)
        await trio.sleep(9)
    assert line.on.count(What.FILLER) == 0
    assert line.on.count(What.SAID) == 1
