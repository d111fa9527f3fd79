"""Every vendor's adapter under the layer that makes it dependable, in the middle of a call: lost and connected anew,
and given up in time."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from adapters.models.program import ProgramConfig, ProgramModelVendor
from engine.errors import ModelFailed, SpeechFailed, VendorError, Why
from engine.events import MULAW_8K, CallInfo, ReplyAudio, ReplyOver, SpeechStarted
from engine.runtime.network import Network
from engine.vendors.hearing import Hearing, open_transcriber
from engine.vendors.policy import Policy
from engine.vendors.realtime import Realtime, open_realtime
from engine.vendors.speaking import Speaking, open_synthesizer
from engine.vendors.thinking import Thinking, open_model
from tests.adapters.realtime.elevenlabs.test_side_by_side import CHAT, HTTP, Way
from tests.contract import ears, model_benches, realtime_benches, synthesizers
from tests.contract.ears import call_over, finals, hear, listening
from tests.contract.model_benches import SESSION, asked, text_of
from tests.fakes.clouds.elevenlabs_agents import ElevenLabsAgentsCloud
from tests.fakes.clouds.loopback import Cloud, dialled
from tests.fakes.clouds.thinking import KEY, Manner
from tests.fakes.clouds.voicebox import Voicebox
from tests.fakes.plain_speech import heard_twice, read, speak
from tests.fakes.vendors import STORY
from tests.vendors.puppets import House

LINE = MULAW_8K
POLICY = Policy()
PATIENCE_S = 8.0
"""Of a caller, with silence."""
SLACK_S = 0.3
"""What a close, or a fake's own pace, adds."""
TEXT = "I would like a table for two at the window, please"
BRIEF = "I would like a table"
"""Not longer than what is sent again: a request that fails has told no word of it before."""
each_ear = pytest.mark.parametrize("kind", ears.EARS, ids=lambda kind: kind.name)
each_voice = pytest.mark.parametrize("kind", synthesizers.KINDS, ids=str)
each_model = pytest.mark.parametrize("bench", model_benches.BENCHES, ids=lambda bench: bench.name)
each_way = pytest.mark.parametrize("way", [HTTP, CHAT], ids=str)
each_realtime = pytest.mark.parametrize("kind", realtime_benches.KINDS, ids=str)


class Nobody:
    """A nursery in which no cloud runs: whoever connects is never answered."""

    def start_soon(self, *_: Any) -> None: ...


def nobody() -> Network:
    return dialled(Cloud(), Nobody())  # type: ignore[arg-type]  # all it needs


class Wires:
    """A network that leads to one cloud, and whose connections a test cuts."""

    def __init__(self, cloud: Cloud, nursery: trio.Nursery) -> None:
        self.network = dialled(cloud, nursery, self._pair)
        self._far_ends: list[trio.StapledStream[Any, Any]] = []

    def cut(self) -> None:
        """All that are open now."""
        for stream in self._far_ends:
            stream.send_stream.close()
            stream.receive_stream.close()
        self._far_ends.clear()

    def _pair(self) -> tuple[trio.abc.Stream, trio.abc.Stream]:
        ours, theirs = trio.testing.memory_stream_pair()
        self._far_ends.append(theirs)
        return ours, theirs


async def until(is_so: Callable[[], object]) -> None:
    """Seen from outside, soon."""
    with trio.fail_after(20):
        while not is_so():  # noqa: ASYNC110 - a fake counts, it tells nobody
            await trio.sleep(0.01)


async def until_given_up(wait: Callable[[], Awaitable[object]], error: type[VendorError], within_s: float) -> None:
    """It fails, for want of an answer, before that."""
    began_s = trio.current_time()
    with pytest.raises(error) as failure:
        await wait()
    assert failure.value.why in (Why.TIMEOUT, Why.UNREACHABLE)
    assert trio.current_time() - began_s <= within_s


def all_closed(house: House, cloud: Any) -> bool:
    return (house.book.open, house.book.leaks) == ([], 0) and (cloud.sockets_open, cloud.requests_open) == (0, 0)


# --- transcribers -----------------------------------------------------------------------------------------------


def hearing(kind: ears.Kind, network: Network, house: House) -> AbstractAsyncContextManager[Hearing]:
    return open_transcriber([kind.vendor(network)], call_over(LINE), house.ledger, house.around)


@each_ear
@pytest.mark.proves("barge-in")
async def test_that_a_caller_speaks_is_told_while_he_does(
    kind: ears.Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Early enough to silence the agent after the first word."""
    async with listening(kind, kind.cloud(), nursery) as ear:
        began_s = trio.current_time() + 0.5
        said = await hear(ear, LINE.silence(0.5) + speak(TEXT, LINE) + LINE.silence(1.5))
    told_s = next(at_s for at_s, event in said if isinstance(event, SpeechStarted))
    assert told_s - began_s <= 0.5


@each_ear
@pytest.mark.proves("reconnect")
async def test_a_caller_whose_recogniser_is_cut_off_in_mid_speech_is_heard_whole_and_once(
    kind: ears.Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    house, cloud = House(), kind.cloud()
    wires = Wires(cloud, nursery)
    async with hearing(kind, wires.network, house) as ear, trio.open_nursery() as beside_it:
        beside_it.start_soon(cut_off, kind, cloud, wires)
        text = TEXT if kind in ears.SOCKETS else BRIEF
        audio = LINE.silence(0.5) + speak(text, LINE) + LINE.silence(2.5)
        said = await hear(ear, audio, for_s=2.0)
    assert finals(said) == [text]
    assert sum(isinstance(event, SpeechStarted) for _, event in said) == 1
    await until(lambda: all_closed(house, cloud))


async def cut_off(kind: ears.Kind, cloud: Any, wires: Wires) -> None:
    """In the middle of the words, or, where they go in one request, in the middle of that."""
    if kind in ears.SOCKETS:
        await trio.sleep(1.5)
    else:
        await until(lambda: cloud.requests_open)
    wires.cut()


@each_ear
@pytest.mark.proves("deadline")
async def test_a_recogniser_that_says_nothing_is_given_up_in_time(
    kind: ears.Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """While it connects, and while a caller speaks."""
    house, cloud = House(), kind.cloud()
    if kind in ears.SOCKETS:

        async def connect() -> None:
            async with hearing(kind, nobody(), house):
                pytest.fail("it opened")

        await until_given_up(connect, SpeechFailed, POLICY.open_s + SLACK_S)
        assert house.book.open == []
    house = House()
    async with hearing(kind, dialled(cloud, nursery), house) as ear, trio.open_nursery() as beside_it:
        beside_it.start_soon(keep_talking, ear)
        manners = cloud.manners if kind in ears.SOCKETS else cloud
        manners.stalls = True
        began_s = trio.current_time()
        await until(lambda: cloud.sockets_ever > 1 or len(house.book.ever) > 1)
        assert trio.current_time() - began_s <= POLICY.hearing_s + SLACK_S
        manners.stalls = False
        beside_it.cancel_scope.cancel()


async def keep_talking(ear: Hearing) -> None:
    sound = speak(TEXT, LINE)
    while True:
        for at in range(0, len(sound), LINE.frame_bytes):
            ear.send(sound[at : at + LINE.frame_bytes])
            await trio.sleep(0.02)


# --- synthesizers -----------------------------------------------------------------------------------------------


def speaking(kind: synthesizers.Kind, network: Network, house: House) -> AbstractAsyncContextManager[Speaking]:
    call = CallInfo("twilio", "CA1", "MZ1", kind.line, "desk")
    return open_synthesizer([kind.vendor(network, "cloud", "k")], call, house.ledger, house.around)


@each_voice
@pytest.mark.proves("reconnect")
async def test_a_sentence_whose_synthesizer_dies_in_the_middle_is_said_to_its_end(
    kind: synthesizers.Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    house, cloud = House(), kind.cloud()
    cloud.voicebox = Voicebox(dies_after=3)

    async def recovers() -> None:
        await until(lambda: len(cloud.spoken) > 1)
        cloud.voicebox.dies_after = None

    nursery.start_soon(recovers)
    async with speaking(kind, dialled(cloud, nursery), house) as voice, voice.open_speech(TEXT) as pieces:
        audio = b"".join([piece async for piece in pieces])
    assert heard_twice([each.text for each in read(audio, kind.line)], TEXT) <= 25
    first, second = cloud.texts
    assert (first, TEXT.endswith(second)) == (TEXT, True)
    await until(lambda: all_closed(house, cloud))


@each_voice
@pytest.mark.proves("deadline")
@pytest.mark.parametrize("after", [0, 3])
async def test_a_synthesizer_that_makes_no_sound_or_no_more_is_given_up_in_time(
    kind: synthesizers.Kind, after: int, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    house, cloud = House(), kind.cloud()
    cloud.voicebox = Voicebox(stalls_after=after, speed=1.0)
    heard = [trio.current_time()]

    async def speak_on() -> None:
        async with speaking(kind, dialled(cloud, nursery), house) as voice, voice.open_speech(TEXT) as pieces:
            async for _ in pieces:
                heard.append(trio.current_time())  # noqa: PERF401 - left by an exception

    with pytest.raises(SpeechFailed) as failure:
        await speak_on()
    assert failure.value.why is Why.TIMEOUT
    assert (len(heard) > 1) == (after > 0)
    assert trio.current_time() - heard[-1] <= POLICY.answer_s + SLACK_S < PATIENCE_S


@each_voice
@pytest.mark.proves("deadline")
async def test_a_synthesizer_that_does_not_answer_at_all_is_given_up_in_time(
    kind: synthesizers.Kind, autojump_clock: MockClock
) -> None:
    house = House()

    async def connect_and_speak() -> None:
        async with speaking(kind, nobody(), house) as voice, voice.open_speech(TEXT) as pieces:
            await pieces.receive()

    await until_given_up(connect_and_speak, SpeechFailed, POLICY.answer_s + SLACK_S)
    assert house.book.open == []


# --- language models --------------------------------------------------------------------------------------------


def thinking(bench: model_benches.Bench, network: Network, house: House) -> AbstractAsyncContextManager[Thinking]:
    return open_model([bench.make_vendor(network, KEY)], SESSION, house.ledger, house.around)


@each_model
@pytest.mark.proves("reconnect")
async def test_an_answer_that_breaks_off_goes_on(
    bench: model_benches.Bench, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    house, cloud = House(), bench.make_cloud()
    cloud.manner = Manner(cut_at=30)

    async def recovers() -> None:
        await until(lambda: len(cloud.bodies) > 1)
        cloud.manner.cut_at = None

    nursery.start_soon(recovers)
    async with (
        thinking(bench, dialled(cloud, nursery), house) as model,
        model.open_reply(asked("and a story please")) as parts,
    ):
        heard = text_of([part async for part in parts])
    assert " ".join(heard.split()) == f"Turn 1. You said and a story please. {STORY}"
    assert len(cloud.bodies) == 2
    assert cloud.faults == []
    await until(lambda: all_closed(house, cloud))


@each_model
@pytest.mark.proves("deadline")
@pytest.mark.parametrize("how", ["nobody answers", "no first word", "no further word"])
async def test_a_model_that_says_nothing_or_nothing_more_is_given_up_in_time(
    bench: model_benches.Bench, how: str, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    house, cloud = House(), bench.make_cloud()
    cloud.manner = Manner(hangs=how == "no first word", stall_at=30, is_silent=True)
    network = nobody() if how == "nobody answers" else dialled(cloud, nursery)
    heard = [trio.current_time()]

    async def falls_silent() -> None:
        await trio.sleep(2.0)
        cloud.manner.stall_at = 0  # of each further answer

    async def listen() -> None:
        async with (
            thinking(bench, network, house) as model,
            model.open_reply(asked("and a story please")) as parts,
        ):
            async for part in parts:
                if part:
                    heard.append(trio.current_time())  # noqa: PERF401 - left by an exception

    if how == "no further word":
        nursery.start_soon(falls_silent)
    with pytest.raises(ModelFailed) as failure:
        await listen()
    assert failure.value.why is Why.TIMEOUT
    assert (len(heard) > 1) == (how == "no further word")
    within_s = POLICY.answer_s + (POLICY.token_gap_s if len(heard) > 1 else 0.0)
    assert trio.current_time() - heard[-1] <= within_s + SLACK_S
    assert (house.book.open, house.book.leaks) == ([], 0)


# --- speech to speech -------------------------------------------------------------------------------------------


def talking(kind: realtime_benches.Kind, network: Network, house: House) -> AbstractAsyncContextManager[Realtime]:
    vendors = [kind.make("k", network)]
    return open_realtime(
        vendors, call_over(LINE), realtime_benches.SESSION, lambda: realtime_benches.NEW, house.ledger, house.around
    )


@each_realtime
@pytest.mark.proves("reconnect")
async def test_a_caller_whose_model_is_cut_off_in_mid_speech_is_answered(
    kind: realtime_benches.Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    house, cloud = House(), kind.make_cloud(LINE)
    wires = Wires(cloud, nursery)
    async with talking(kind, wires.network, house) as model:
        rig = realtime_benches.Rig(cloud, model, LINE)
        model.say("Welcome.")
        assert await rig.listen(5.0, lambda event: isinstance(event, ReplyOver))

        async def cut_off() -> None:
            await trio.sleep(1.3)
            wires.cut()

        nursery.start_soon(cut_off)
        await rig.say(LINE.silence(1.0) + speak("what time is it", LINE) + LINE.silence(3.0), for_s=3.0)
    assert cloud.sockets_ever == 2
    assert rig.heard[-1] == "what time is it"
    assert rig.words.endswith("You said what time is it.")
    await until(lambda: all_closed(house, cloud))


@each_realtime
@pytest.mark.proves("deadline")
@pytest.mark.parametrize("how", ["nobody answers", "no reply", "no more of it"])
async def test_a_model_that_owes_a_reply_is_given_up_in_time(
    kind: realtime_benches.Kind, how: str, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    house, cloud = House(), kind.make_cloud(LINE)
    if how == "nobody answers":

        async def connect() -> None:
            async with talking(kind, nobody(), house):
                pytest.fail("it opened")

        await until_given_up(connect, ModelFailed, POLICY.open_s + SLACK_S)
        assert house.book.open == []
        return
    cloud.manner.speed = 1.0
    async with talking(kind, dialled(cloud, nursery), house) as model:
        rig = realtime_benches.Rig(cloud, model, LINE)
        cloud.manner.stalls = how == "no reply"
        model.say(STORY)
        began_s = trio.current_time()
        if how == "no reply":
            await until(lambda: cloud.sockets_ever > 1)
            assert trio.current_time() - began_s <= POLICY.answer_s + SLACK_S
        else:
            assert await rig.listen(5.0, lambda event: isinstance(event, ReplyAudio))
            cloud.manner.stalls = True
            assert await rig.listen(POLICY.answer_s + SLACK_S, lambda event: isinstance(event, ReplyOver))
        assert trio.current_time() - began_s <= PATIENCE_S
        cloud.manner.stalls = False


# --- agents in writing ------------------------------------------------------------------------------------------


def writing(way: Way, network: Network, house: House) -> AbstractAsyncContextManager[Thinking]:
    return open_model([way.make("k", network)], SESSION, house.ledger, house.around)


@each_way
@pytest.mark.proves("barge-in")
async def test_an_answer_that_is_left_leaves_nothing_to_the_next(
    way: Way, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    house, cloud = House(), ElevenLabsAgentsCloud()
    async with writing(way, dialled(cloud, nursery), house) as model:
        for left_after_s in (0.0, 0.05, 0.2):
            with trio.move_on_after(left_after_s) as leaving:
                async with model.open_reply(asked("and a story please")) as parts:
                    await trio.sleep_forever()
            assert trio.current_time() == leaving.deadline
        async with model.open_reply(asked("hello")) as parts:
            assert text_of([part async for part in parts]).strip() == "Turn 1. You said hello."
    await until(lambda: all_closed(house, cloud))


@each_way
@pytest.mark.proves("reconnect")
async def test_an_answer_whose_connection_is_cut_is_asked_for_again(
    way: Way, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    house, cloud = House(), ElevenLabsAgentsCloud()
    wires = Wires(cloud, nursery)

    async def cut_off() -> None:
        await until(lambda: cloud.requests_open or cloud.sockets_open)
        wires.cut()

    nursery.start_soon(cut_off)
    async with writing(way, wires.network, house) as model, model.open_reply(asked("hello")) as parts:
        assert text_of([part async for part in parts]).strip() == "Turn 1. You said hello."
    await until(lambda: all_closed(house, cloud))


@each_way
@pytest.mark.proves("deadline")
async def test_an_answer_that_does_not_come_is_given_up_in_time(way: Way, autojump_clock: MockClock) -> None:
    house = House()

    async def listen() -> None:
        async with writing(way, nobody(), house) as model, model.open_reply(asked("hello")) as parts:
            await parts.receive()

    await until_given_up(listen, ModelFailed, POLICY.answer_s + SLACK_S)
    assert (house.book.open, house.book.leaks) == ([], 0)


# --- a program of one's own -------------------------------------------------------------------------------------

BRISK = Policy(pauses_s=(0.01,), first_token_s=0.3, token_gap_s=0.3, answer_s=1.0)


async def said_by(house: House, script: str, within_s: float = 30.0) -> str:
    """What a shell script answers. Real processes, real time."""
    config = ProgramConfig(command=("/bin/sh", "-c", script), timeout_s=within_s)
    async with (
        open_model([ProgramModelVendor(config, environ={})], SESSION, house.ledger, house.around) as model,
        model.open_reply(asked("hello")) as parts,
    ):
        return text_of([part async for part in parts])


@pytest.mark.proves("reconnect", adapter="program")
async def test_an_answer_whose_program_dies_in_the_middle_goes_on(tmp_path: Path) -> None:
    house, note = House(BRISK), tmp_path / "note"
    first = f"if [ ! -e {note} ]; then echo >{note}; cat >/dev/null; printf 'One is said. Two is'; exit 1; fi"
    heard = await said_by(house, f"{first}; cat >/dev/null; printf 'Two is said.'")
    assert " ".join(heard.split()) == "One is said. Two is said."
    assert (house.book.open, house.book.leaks) == ([], 0)


async def test_a_program_has_its_own_time_and_not_that_of_other_models() -> None:
    house = House(replace(BRISK, answer_s=0.4))
    assert await said_by(house, "sleep 0.5; echo 'One is said.'; sleep 0.5; echo 'Two.'") == "One is said.\nTwo.\n"


@pytest.mark.proves("deadline", adapter="program")
@pytest.mark.parametrize("words_first", ["", "echo 'One is said. '; "])
async def test_a_program_that_says_nothing_or_nothing_more_is_given_up_in_time(words_first: str) -> None:
    house, began_s = House(BRISK), time.monotonic()
    with pytest.raises(ModelFailed) as failure:
        await said_by(house, f"{words_first}exec sleep 60", within_s=0.5)
    assert failure.value.why is Why.TIMEOUT
    assert time.monotonic() - began_s < 30.0
    assert (house.book.open, house.book.leaks) == ([], 0)
