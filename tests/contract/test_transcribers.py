"""What is true of every recogniser, each against its cloud."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from engine.errors import SpeechFailed, Why
from engine.events import (
    MULAW_8K,
    PCM16_8K,
    PCM16_16K,
    PCM16_24K,
    AudioFormat,
    Heard,
    SpeechStarted,
    SpeechStopped,
    TurnOver,
)
from engine.runtime.ledger import Ledger
from engine.runtime.network import Network
from tests.contract.ears import EARS, SOCKETS, Kind, NoBook, call_over, check, finals, hear, listening
from tests.fakes.clouds.listening import Message
from tests.fakes.clouds.loopback import serving
from tests.fakes.plain_speech import noise, speak
from tests.simulation.steps import AtStep, fix_the_order, is_target

LINE = MULAW_8K
each_ear = pytest.mark.parametrize("kind", EARS, ids=lambda kind: kind.name)
each_socket = pytest.mark.parametrize("kind", SOCKETS, ids=lambda kind: kind.name)


def utterance(text: str, line: AudioFormat = LINE, *, before_s: float = 0.5, after_s: float = 1.2) -> bytes:
    return line.silence(before_s) + speak(text, line) + line.silence(after_s)


async def gone(cloud: Any) -> bool:
    """Nothing is open at the other end, soon."""
    await trio.sleep(1.0)
    return (cloud.sockets_open, cloud.requests_open) == (0, 0)


@each_ear
@pytest.mark.parametrize("line", [MULAW_8K, PCM16_8K, PCM16_16K, PCM16_24K], ids=str)
@pytest.mark.proves("ours")
async def test_words_are_heard_in_the_format_of_the_line(
    kind: Kind, line: AudioFormat, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = kind.cloud()
    async with listening(kind, cloud, nursery, line) as ear:
        began_s = trio.current_time()
        said = await hear(ear, utterance("I would like a table for two", line), line, for_s=0.5)
    check(said, decides_turns=ear.decides_turns)
    assert finals(said) == ["I would like a table for two"]
    started = next(event for _, event in said if isinstance(event, SpeechStarted))
    stopped = next(event for _, event in said if isinstance(event, SpeechStopped))
    assert abs(started.at_s - (began_s + 0.5)) <= kind.onset_slack_s
    assert abs(stopped.at_s - (began_s + 0.5 + 1.12)) <= 0.35
    assert cloud.faults == []
    assert ear.is_closed
    assert await gone(cloud)


@each_ear
@pytest.mark.proves("ours")
async def test_words_are_heard_over_real_sockets(kind: Kind) -> None:
    cloud = kind.cloud()
    async with serving(cloud) as served:
        vendor = kind.vendor(Network(), host=served.host)
        with trio.fail_after(20):
            async with vendor.open(call_over(LINE), Ledger("c1", NoBook())) as ear:
                ear.send(utterance("over the wire", before_s=0.3, after_s=0.7))
                heard = ""
                while not heard:
                    event = await ear.receive()
                    heard = event.text if isinstance(event, Heard) and event.is_final else ""
            assert ear.is_closed
    assert heard == "over the wire"
    assert cloud.faults == []


@each_ear
async def test_each_turn_is_heard_once_and_by_itself(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = kind.cloud()
    async with listening(kind, cloud, nursery) as ear:
        said = await hear(ear, b"".join(map(utterance, ("first", "the second one", "and a third"))), for_s=0.5)
    check(said, decides_turns=ear.decides_turns)
    assert finals(said) == ["first", "the second one", "and a third"]
    turns = sum(isinstance(event, TurnOver) for _, event in said)
    assert turns == (3 if ear.decides_turns else 0)


@each_socket
async def test_interims_hold_all_words_of_the_segment(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """However many pieces the vendor makes final within it."""
    text = "this sentence has a pause"
    audio = LINE.silence(0.3) + speak(text, LINE) + LINE.silence(0.26) + speak("in the middle of it", LINE)
    async with listening(kind, kind.cloud(), nursery) as ear:
        said = await hear(ear, audio + LINE.silence(1.2), for_s=0.5)
    check(said, decides_turns=ear.decides_turns)
    assert finals(said) == [f"{text} in the middle of it"]
    interims = [event.text for _, event in said if isinstance(event, Heard) and not event.is_final]
    assert len(interims) > 4
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(interims))


@each_ear
async def test_a_sound_without_words_is_answered_with_no_words(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with listening(kind, kind.cloud(), nursery) as ear:
        said = await hear(ear, LINE.silence(0.5) + noise(0.3, LINE) + LINE.silence(3.0), for_s=0.5)
    check(said, decides_turns=ear.decides_turns)
    assert set(finals(said)) <= {""}
    assert len(finals(said)) == sum(isinstance(event, SpeechStarted) for _, event in said)
    assert not any(isinstance(event, TurnOver) for _, event in said)


@each_ear
async def test_a_line_that_stops_sending_in_mid_speech_is_silent(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """The vendors count time by audio: without any, a turn would stay open for ever."""
    async with listening(kind, kind.cloud(), nursery) as ear:
        said = await hear(ear, LINE.silence(0.3) + speak("are you there", LINE), for_s=3.0)
    check(said, decides_turns=ear.decides_turns)
    assert finals(said) == ["are you there"]


@each_ear
async def test_ten_minutes_of_silence_are_outlived(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """A muted line that sends nothing at all; the keep-alives of each vendor."""
    cloud = kind.cloud()
    async with listening(kind, cloud, nursery) as ear:
        assert await hear(ear, b"", for_s=600.0) == []
        began_s = trio.current_time()
        said = await hear(ear, utterance("hello again"), for_s=0.5)
    assert finals(said) == ["hello again"]
    started = next(event for _, event in said if isinstance(event, SpeechStarted))
    assert abs(started.at_s - (began_s + 0.5)) <= kind.onset_slack_s
    assert cloud.faults == []


@each_socket
async def test_audio_that_comes_all_at_once_is_cut_into_pieces_that_vendors_take(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """As after a reconnect, when the last two seconds are sent again."""
    cloud = kind.cloud()
    async with listening(kind, cloud, nursery) as ear:
        ear.send(LINE.silence(0.4) + speak("sent again", LINE))
        ear.send(b"")
        said = await hear(ear, LINE.silence(1.0), for_s=0.5)
    assert finals(said) == ["sent again"]
    assert cloud.faults == []
    assert 0.04 <= cloud.sessions[0].told.longest_s <= 0.5


@each_socket
async def test_results_that_are_doubled_or_overtaken_are_used_once(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    before: list[Message] = []
    late = 1 if kind.name == "scribe" else 3  # its messages have neither numbers nor times

    def twist(messages: list[Message]) -> Iterable[Message]:
        """Everything twice, and each time some messages before it once more."""
        for message in messages:
            yield message
            yield message
            yield from before[-late:]
            before.append(message)

    cloud = kind.cloud()
    cloud.manners.twist = twist
    async with listening(kind, cloud, nursery) as ear:
        said = await hear(ear, utterance("only once") + utterance("and not again"), for_s=15.0)
    check(said, decides_turns=ear.decides_turns)
    assert finals(said) == ["only once", "and not again"]
    assert sum(isinstance(event, SpeechStarted) for _, event in said) == 2


JUNK: tuple[Message, ...] = (
    b"\x00\xff",
    "",
    "nonsense",
    "[]",
    "null",
    "{}",
    '{"type": 5, "message": 5, "message_type": 5}',
    '{"type": "Results", "start": "now", "channel": 3}',
    '{"message": "AddTranscript", "metadata": []}',
    '{"type": "Turn", "turn_order": 1.5}',
    '{"type": "TurnInfo", "event": "Update", "turn_index": "one"}',
    '{"message_type": "committed_transcript", "text": {}}',
    '{"type": "From a later version of the protocol", "message": "NewThing", "message_type": "new_thing"}',
    '{"type": "Results", "message": "Info", "message_type": "x", "padding": "' + "x" * 1_000_000 + '"}',
)


@each_socket
async def test_messages_that_make_no_sense_are_passed_over(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    junk = iter(JUNK)
    cloud = kind.cloud()
    cloud.manners.twist = lambda messages: [*messages, *itertools.islice(junk, 2)]
    async with listening(kind, cloud, nursery) as ear:
        said = await hear(ear, utterance("still here"), for_s=0.5)
    check(said, decides_turns=ear.decides_turns)
    assert finals(said) == ["still here"]


@each_socket
async def test_nothing_but_nonsense_is_the_wrong_service(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = kind.cloud()
    cloud.manners.twist = lambda messages: ["<html>"] * 30
    with pytest.raises(SpeechFailed) as failure:
        async with listening(kind, cloud, nursery) as ear:
            await hear(ear, utterance("anybody"), for_s=5.0)
    assert failure.value.why is Why.NONSENSE
    assert await gone(cloud)


@each_socket
@pytest.mark.parametrize(
    ("status", "why"),
    [
        (401, Why.AUTH),
        (403, Why.AUTH),
        (429, Why.RATE_LIMITED),
        (500, Why.UNREACHABLE),
        (503, Why.UNREACHABLE),
        (404, Why.BAD_REQUEST),
        (302, Why.NONSENSE),
    ],
)
async def test_a_vendor_that_refuses_the_connection_is_told_by_why(
    kind: Kind, status: int, why: Why, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = kind.cloud()
    cloud.manners.refuses, cloud.manners.page = status, b"<html>a page</html>"
    with pytest.raises(SpeechFailed) as failure:
        async with listening(kind, cloud, nursery):
            pytest.fail("it opened")
    assert failure.value.why is why
    assert failure.value.vendor != "k"
    assert "cloud" not in str(failure.value)
    assert await gone(cloud)


@each_socket
async def test_a_wrong_key_is_told_as_such(kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    cloud = kind.cloud()
    with pytest.raises(SpeechFailed) as failure:
        async with listening(kind, cloud, nursery, key="wrong"):
            pytest.fail("it opened")
    assert failure.value.why is Why.AUTH
    assert "wrong" not in str(failure.value)


@each_socket
async def test_a_vendor_that_says_nothing_is_waited_for_as_long_as_the_caller_wants(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    if kind.name == "deepgram":
        pytest.skip("this vendor says nothing at the start")
    cloud = kind.cloud()
    cloud.manners.is_silent_at_start = True
    with trio.move_on_after(2.0) as patience:
        async with listening(kind, cloud, nursery):
            pytest.fail("it opened")
    assert patience.cancelled_caught
    assert await gone(cloud)


@each_socket
async def test_a_connection_that_is_cut_is_a_failure_and_stays_one(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = kind.cloud()
    cloud.manners.closes_after_s = 1.0
    async with listening(kind, cloud, nursery) as ear:
        with pytest.raises(SpeechFailed) as failure:
            await hear(ear, utterance("cut off in the middle"), for_s=5.0)
        assert failure.value.why in (Why.CUT, Why.UNREACHABLE)
        assert failure.value.why.may_pass
        ear.send(LINE.silence(5.0))
        with pytest.raises(SpeechFailed):
            await ear.receive()
    assert ear.is_closed
    assert await gone(cloud)


@each_ear
async def test_the_end_is_polite_and_short(kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    cloud = kind.cloud()
    async with listening(kind, cloud, nursery) as ear:
        await hear(ear, LINE.silence(0.3) + speak("goodbye", LINE))
        left_s = trio.current_time()
    assert trio.current_time() - left_s < 0.1
    assert ear.is_closed
    if kind in SOCKETS and kind.name != "scribe":
        assert cloud.sessions[0].told.ended_politely
    assert await gone(cloud)


@each_socket
@pytest.mark.parametrize("manner", ["never_ends", "is_deaf", "stalls"])
async def test_no_vendor_holds_up_the_end_for_more_than_half_a_second(
    kind: Kind, manner: str, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = kind.cloud()
    async with listening(kind, cloud, nursery) as ear:
        await hear(ear, utterance("goodbye"))
        setattr(cloud.manners, manner, True)
        await hear(ear, utterance("are you there"))  # so much that whoever does not read sees no close either
        left_s = trio.current_time()
    assert trio.current_time() - left_s <= 0.5
    assert ear.is_closed
    cloud.manners.is_deaf = False
    assert await gone(cloud)


@each_ear
async def test_whoever_is_cancelled_leaves_at_once(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = kind.cloud()
    with trio.move_on_after(1.0):
        async with listening(kind, cloud, nursery) as ear:
            await hear(ear, utterance("never mind"), for_s=60.0)
    left_s = trio.current_time()
    assert ear.is_closed
    assert left_s <= 1.0 + 0.001
    assert await gone(cloud)


class _Elsewhere:
    """Starts tasks of the cloud, whose steps are not counted."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def start_soon(self, run: Any, *args: Any) -> None:
        token = is_target.set(False)
        self._nursery.start_soon(run, *args)
        is_target.reset(token)


async def _short_call(kind: Kind, cloud: Any, nursery: Any, opened: list[Any]) -> None:
    token = is_target.set(True)
    try:
        async with listening(kind, cloud, nursery) as ear:
            opened.append(ear)
            audio = speak("hi all", LINE) + LINE.silence(0.5)
            for at in range(0, len(audio), 800):
                ear.send(audio[at : at + 800])
                with trio.move_on_after(0.1):
                    while True:
                        await ear.receive()
    finally:
        is_target.reset(token)


@each_ear
@pytest.mark.proves("cancelled")
async def test_cancelled_at_any_step_nothing_is_left(kind: Kind, autojump_clock: MockClock) -> None:
    """Every step of the adapter's tasks, one after the other."""
    for k in itertools.count(1):
        cloud = kind.cloud()
        cancelling = trio.CancelScope()
        opened: list[Any] = []
        fix_the_order()
        async with trio.open_nursery() as nursery:
            instrument = AtStep(k, lambda _, scope=cancelling: scope.cancel())  # type: ignore[misc]  # bound early
            trio.lowlevel.add_instrument(instrument)
            try:
                with cancelling:
                    await _short_call(kind, cloud, _Elsewhere(nursery), opened)
            finally:
                trio.lowlevel.remove_instrument(instrument)
            assert await gone(cloud), f"step {k}"
            assert all(ear.is_closed for ear in opened), f"step {k}"
            nursery.cancel_scope.cancel()
        if k > instrument.steps:
            break
    assert k > 20
