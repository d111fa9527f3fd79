"""What is true of every speech-to-speech model, each against its cloud."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import structlog
import trio
from trio.testing import MockClock

from engine.audio.levels import is_silent
from engine.errors import ModelFailed, Why
from engine.events import (
    MULAW_8K,
    AudioFormat,
    Heard,
    Message,
    ReplyAudio,
    ReplyOver,
    ReplyStarted,
    Role,
    SpeechStarted,
    SpeechStopped,
    ToolCall,
    ToolResult,
)
from tests.contract.realtime_benches import KINDS, LINES, OPENAI, Kind, Rig, check, talking, went_on
from tests.fakes.plain_speech import speak
from tests.simulation.steps import AtStep, fix_the_order, is_target

LINE = MULAW_8K
every = pytest.mark.parametrize("kind", KINDS, ids=str)
STORY = " ".join(f"This is sentence number {number} of a rather long story." for number in range(40))


def question(text: str, line: AudioFormat = LINE, *, before_s: float = 0.6, after_s: float = 1.5) -> bytes:
    return line.silence(before_s) + speak(text, line) + line.silence(after_s)


def is_over(event: object) -> bool:
    return isinstance(event, ReplyOver)


# --- talking ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "line"),
    [(kind, line) for kind in KINDS for line in kind.lines],
    ids=lambda value: str(value) if isinstance(value, Kind) else f"{value.encoding}-{value.rate_hz}",
)
@pytest.mark.proves("ours")
async def test_a_call_is_greeted_heard_and_answered_in_the_format_of_the_line(
    kind: Kind, line: AudioFormat, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = kind.make_cloud(line)
    async with talking(kind, cloud, nursery, line) as rig:
        assert not rig.model.is_closed
        rig.model.say("Welcome to the desk.")
        assert await rig.listen(5.0, is_over)
        await rig.listen(1.2)
        assert rig.words == rig.texts.strip() == "Welcome to the desk."
        began_s = trio.current_time()
        await rig.say(question("what time is it", line), for_s=3.0)
    check(rig.events, line)
    assert rig.heard == ["what time is it"]
    assert rig.words == "Welcome to the desk. Turn 1. You said what time is it."
    started, stopped = rig.of(SpeechStarted)[0], rig.of(SpeechStopped)[0]
    assert abs(started.at_s - (began_s + 0.6)) < 0.1
    assert abs(stopped.at_s - (began_s + 0.6 + 0.6)) < 0.1
    assert cloud.faults == []
    assert cloud.sessions[0].longest_s <= 0.1
    assert rig.model.is_closed
    assert await rig.gone()


@every
@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.encoding}-{line.rate_hz}")
async def test_every_line_gets_its_own_format_without_silence_in_front(
    kind: Kind, line: AudioFormat, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Of a vendor that speaks another, too: its audio is converted."""
    cloud = kind.make_cloud(MULAW_8K)
    cloud.manner.lead_silence_s = 0.3
    async with talking(kind, cloud, nursery, line) as rig:
        rig.model.say("Twenty-five characters ok.")
        await rig.listen(3.0)
        await rig.say(line.silence(0.4), for_s=0.2)
    check(rig.events, line)
    assert not is_silent(rig.audio[: line.frame_bytes], line)
    assert line.duration_s(rig.audio) == pytest.approx(26 / 25, abs=0.041)
    assert cloud.sessions[0].audio_s == pytest.approx(0.4, abs=0.041)
    assert cloud.faults == []


@every
async def test_it_says_nothing_until_it_is_told_to(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with talking(kind, kind.make_cloud(LINE), nursery) as rig:
        await rig.say(LINE.silence(8.0), for_s=2.0)
    assert rig.events == []


@every
async def test_each_turn_is_heard_once_and_the_context_grows(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = kind.make_cloud(LINE)
    async with talking(kind, cloud, nursery) as rig:
        await rig.say(question("my word is canary7", after_s=4.0))
        await rig.say(question("what do you know", after_s=4.0))
    check(rig.events, LINE)
    assert rig.heard == ["my word is canary7", "what do you know"]
    assert rig.words.endswith("Turn 2. You said what do you know. I know canary7.")


@every
async def test_what_was_said_before_is_known_and_the_opening_is_not_said_again(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """A session that goes on: after a reconnect, a renewal, or another call (C4, D2)."""
    context = went_on(
        Message(Role.SYSTEM, "The caller likes canary8."),
        Message(Role.AGENT, "Welcome to the desk."),
        Message(Role.CALLER, "my word is canary7"),
        Message(Role.AGENT, "I see, and I", interrupted=True),
    )
    cloud = kind.make_cloud(LINE)
    async with talking(kind, cloud, nursery, context=context) as rig:
        await rig.listen(3.0)
        assert rig.events == []
        await rig.say(question("what do you know", after_s=4.0))
    assert rig.words == "Turn 2. You said what do you know. I know canary7 and canary8."
    assert cloud.faults == []


@every
async def test_what_the_caller_types_is_answered(kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async with talking(kind, kind.make_cloud(LINE), nursery) as rig:
        rig.model.told("The caller pressed 5")
        await rig.listen(4.0)
        rig.model.say("  ")
        rig.model.told("")
        await rig.listen(4.0)
    check(rig.events, LINE)
    assert rig.words == "Turn 1. You said The caller pressed 5."
    assert rig.heard == []


@every
async def test_a_line_that_stops_sending_in_mid_speech_is_silent(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with talking(kind, kind.make_cloud(LINE), nursery) as rig:
        await rig.say(LINE.silence(0.4) + speak("are you there", LINE), for_s=5.0)
    check(rig.events, LINE)
    assert rig.heard == ["are you there"]


@every
async def test_ten_minutes_of_a_silent_line_are_outlived(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = kind.make_cloud(LINE)
    async with talking(kind, cloud, nursery) as rig:
        await rig.listen(600.0)
        assert rig.events == []
        await rig.say(question("hello again", after_s=3.0))
    assert rig.heard == ["hello again"]
    assert cloud.faults == []


@every
async def test_audio_that_comes_all_at_once_goes_in_small_pieces(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """As after a reconnect, when the last seconds are sent again."""
    cloud = kind.make_cloud(LINE)
    async with talking(kind, cloud, nursery) as rig:
        rig.model.send(LINE.silence(0.4) + speak("sent again", LINE) + LINE.silence(0.9))
        rig.model.send(b"")
        await rig.listen(3.0)
    assert rig.heard == ["sent again"]
    assert cloud.sessions[0].longest_s <= 0.1
    assert cloud.faults == []


# --- barge-in ---------------------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("late_pieces", [0, 3])
@pytest.mark.proves("barge-in")
async def test_a_barge_in_ends_the_reply_and_the_model_remembers_what_was_heard(
    kind: Kind, late_pieces: int, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """And nothing of it comes any more, whatever the vendor still sends (fault 28)."""
    cloud = kind.make_cloud(LINE)
    cloud.manner.speed, cloud.manner.late_pieces = 1.2, late_pieces
    async with talking(kind, cloud, nursery) as rig:
        rig.model.say(STORY)
        assert await rig.listen(5.0, lambda event: isinstance(event, ReplyAudio))
        heard_from_s = trio.current_time()
        async with trio.open_nursery() as beside_it:
            beside_it.start_soon(_interrupt_on_speech, rig, heard_from_s)
            audio = question("stop", before_s=2.0, after_s=5.0)
            for at in range(0, len(audio), LINE.frame_bytes):
                rig.model.send(audio[at : at + LINE.frame_bytes])
                await trio.sleep(0.02)
            beside_it.cancel_scope.cancel()
    reply, answer = rig.of(ReplyStarted)
    places = [place for place, (_, event) in enumerate(rig.events) if isinstance(event, SpeechStarted)]
    after = [event for _, event in rig.events[places[0] :]]
    assert not any(isinstance(event, ReplyAudio) and event.reply_id == reply.reply_id for event in after)
    assert ReplyOver(reply.reply_id, is_whole=False) in after
    assert ReplyOver(answer.reply_id) in after
    assert rig.words.endswith("You said stop.")
    remembered = _said_by_model(cloud)[0]
    assert STORY.startswith(remembered)
    assert len(remembered) / cloud.manner.chars_per_s == pytest.approx(2.1, abs=0.35)
    assert cloud.faults == []


async def _interrupt_on_speech(rig: Rig, heard_from_s: float) -> None:
    while True:
        event = await rig.model.receive()
        rig.events.append((trio.current_time(), event))
        if isinstance(event, SpeechStarted):
            rig.model.interrupt(trio.current_time() - heard_from_s)


def _said_by_model(cloud: Any) -> list[str]:
    session = cloud.sessions[-1]
    said = session.items.values() if hasattr(session, "items") else ()
    if said:
        return [item["said"] for item in said if item.get("role") == "assistant"]
    return [text for role, text in session.said if role == "assistant"]


@every
async def test_a_noise_is_told_without_words_and_that_they_were_none(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with talking(kind, kind.make_cloud(LINE), nursery) as rig:
        rig.model.say("One is the first.")
        assert await rig.listen(5.0, is_over)
        await rig.say(LINE.silence(0.6) + b"\x10" * 4000 + LINE.silence(6.0))
        rig.model.interrupt(0.4)
        rig.model.heard_on("the first.")
        rig.model.heard_on(" ")
        rig.model.told("what do you know")
        await rig.listen(4.0)
    heard = [event for event in rig.of(Heard) if event.is_final]
    assert [(event.text, event.is_certain) for event in heard] == [("", True)]
    assert rig.cloud.faults == []
    if kind is OPENAI:
        assert "the first." in _said_by_model(rig.cloud)


async def test_words_that_nobody_writes_down_are_not_taken_for_none(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = OPENAI.make_cloud(LINE)
    cloud.manner.transcribes = False
    async with talking(OPENAI, cloud, nursery) as rig:
        await rig.say(question("stop", after_s=4.0))
    assert [event.is_certain for event in rig.of(Heard)] == [False]


@every
async def test_an_interruption_of_nothing_is_harmless(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = kind.make_cloud(LINE)
    async with talking(kind, cloud, nursery) as rig:
        rig.model.interrupt(0.0)
        rig.model.interrupt(5.0)
        rig.model.say("Hello.")
        assert await rig.listen(5.0, is_over)
        for _ in range(3):
            rig.model.interrupt(99.0)
        await rig.listen(1.0)
        rig.model.say("Still here.")
        assert await rig.listen(5.0, is_over)
    check(rig.events, LINE)
    assert rig.words == "Hello. Still here."
    assert cloud.faults == []


@every
async def test_a_reply_that_was_cut_twice_is_cut_once(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = kind.make_cloud(LINE)
    async with talking(kind, cloud, nursery) as rig:
        rig.model.say(STORY)
        assert await rig.listen(5.0, lambda event: isinstance(event, ReplyAudio))
        rig.model.interrupt(0.1)
        rig.model.interrupt(99.0)
        await rig.listen(5.0)
        assert len(rig.of(ReplyOver)) == 1
        assert LINE.duration_s(rig.audio) < 1.0
        if kind is OPENAI:
            assert _said_by_model(cloud) == ["Th"]
    assert cloud.faults == []


@every
async def test_that_the_caller_speaks_is_told_before_the_minute_of_reply_that_waits(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = kind.make_cloud(LINE)
    cloud.manner.speed = math.inf
    async with talking(kind, cloud, nursery) as rig:
        rig.model.say(STORY)
        await trio.sleep(1.0)
        for at in range(0, 8000, 160):
            rig.model.send((LINE.silence(0.4) + speak("wait a minute please", LINE))[at : at + 160])
            await trio.sleep(0.02)
        assert isinstance(await rig.model.receive(), SpeechStarted)
        rig.model.interrupt(0.0)
        await rig.listen(3.0)
    check([(0.0, SpeechStarted(0.0)), *rig.events], LINE)
    assert rig.words.startswith("Turn 1. You said wait")


@every
async def test_more_than_two_minutes_of_reply_that_nobody_takes_end_the_session(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = kind.make_cloud(LINE)
    cloud.manner.speed, cloud.manner.chars_per_s = math.inf, 10.0
    async with talking(kind, cloud, nursery) as rig:
        rig.model.say(STORY)  # 220 s of it
        await trio.sleep(2.0)
        with pytest.raises(ModelFailed) as failure:
            await rig.listen(5.0)
        assert failure.value.why is Why.CUT
        assert 110 < LINE.duration_s(rig.audio) <= 121


@every
async def test_a_reply_may_come_in_one_large_message(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    line = kind.lines[-1]
    cloud = kind.make_cloud(line)
    cloud.manner.speed, cloud.manner.chars_per_s, cloud.manner.piece_s = math.inf, 2.0, 60.0
    async with talking(kind, cloud, nursery, line) as rig:
        rig.model.say(STORY[:99])  # 2.4 MB of it
        assert await rig.listen(5.0, is_over)
    assert rig.words == STORY[:99]


# --- tools ------------------------------------------------------------------------------------------------------


@every
async def test_a_tool_is_called_and_what_it_says_is_told(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = kind.make_cloud(LINE)
    async with talking(kind, cloud, nursery) as rig:
        rig.model.told('call the tool weather with {"city": "Bonn"}')
        assert await rig.listen(5.0, lambda event: isinstance(event, ToolCall))
        call = rig.of(ToolCall)[0]
        assert (call.name, call.arguments.replace(" ", "")) == ("weather", '{"city":"Bonn"}')
        await rig.listen(3.0)
        rig.model.tool_results([ToolResult("of nobody", "?"), ToolResult(call.call_id, "rain")])
        rig.model.tool_results([ToolResult(call.call_id, "again")])
        await rig.listen(4.0)
    check(rig.events, LINE)
    assert rig.words.endswith("The tool said rain.")
    assert len(rig.of(ToolCall)) == 1
    assert cloud.faults == []


@every
async def test_it_goes_on_when_it_has_all_that_it_asked_for(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = kind.make_cloud(LINE)
    async with talking(kind, cloud, nursery) as rig:
        rig.model.told("call the tool weather and call the tool weather")
        await rig.listen(4.0)
        first, second = rig.of(ToolCall)
        rig.model.tool_results([ToolResult(second.call_id, "two")])
        await rig.listen(4.0)
        assert "two" not in rig.words
        rig.model.tool_results([ToolResult(first.call_id, "one")])
        await rig.listen(4.0)
    assert "one" in rig.words
    assert "two" in rig.words
    assert cloud.faults == []


# --- failures ---------------------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize(
    ("status", "why"),
    [
        (401, Why.AUTH),
        (403, Why.AUTH),
        (404, Why.BAD_REQUEST),
        (429, Why.RATE_LIMITED),
        (500, Why.UNREACHABLE),
        (503, Why.UNREACHABLE),
        (302, Why.NONSENSE),
    ],
)
async def test_a_refusal_is_told_by_why_and_the_adapter_tries_once(
    kind: Kind, status: int, why: Why, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = kind.make_cloud(LINE)
    cloud.manner.refuse_first, cloud.manner.refuses, cloud.manner.page = 1, status, b"<html>a page</html>"
    with pytest.raises(ModelFailed) as failure:
        async with talking(kind, cloud, nursery):
            pytest.fail("it opened")
    assert failure.value.why is why
    assert "cloud" not in str(failure.value)
    assert len(cloud.requests) == 1
    async with talking(kind, cloud, nursery) as rig:
        rig.model.say("Now it works.")
        assert await rig.listen(5.0, is_over)
    assert await rig.gone()


@every
async def test_a_wrong_key_is_told_as_such_and_never_repeated(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    with pytest.raises(ModelFailed) as failure, structlog.testing.capture_logs() as logs:
        async with talking(kind, kind.make_cloud(LINE), nursery, key="sk-secret"):
            pytest.fail("it opened")
    assert failure.value.why is Why.AUTH
    assert "secret" not in repr(failure.value) + repr(failure.value.__cause__) + repr(logs)


@every
async def test_each_connection_is_logged_with_its_session(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    with structlog.testing.capture_logs() as logs:
        async with talking(kind, kind.make_cloud(LINE), nursery) as rig:
            rig.model.say("Nothing of this is in it.")
            await rig.listen(3.0)
    connected = [entry for entry in logs if entry["event"] == "realtime_connected"]
    assert [(entry["session_id"], entry["call_id"]) for entry in connected] == [("s1", "CA1")]
    assert "Nothing" not in repr(logs)


@every
async def test_a_vendor_that_says_nothing_is_waited_for_as_long_as_the_caller_wants(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = kind.make_cloud(LINE)
    cloud.manner.is_silent = True
    with trio.move_on_after(2.0) as patience:
        async with talking(kind, cloud, nursery):
            pytest.fail("it opened")
    assert patience.cancelled_caught
    await trio.sleep(1.0)
    assert cloud.sockets_open == 0


@every
async def test_a_connection_that_is_cut_is_a_failure_and_stays_one(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = kind.make_cloud(LINE)
    cloud.manner.cut_after_s = 1.0
    async with talking(kind, cloud, nursery) as rig:
        with pytest.raises(ModelFailed) as failure:
            await rig.say(question("cut off in the middle"), for_s=5.0)
        assert failure.value.why in (Why.CUT, Why.UNREACHABLE)
        rig.model.send(LINE.silence(5.0))
        rig.model.say("Nobody hears this.")
        rig.model.told("nor this")
        rig.model.interrupt(1.0)
        with pytest.raises(ModelFailed):
            await rig.model.receive()
    assert rig.model.is_closed
    assert await rig.gone()


@every
async def test_a_session_that_the_vendor_ends_is_cut(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = kind.make_cloud(LINE)
    cloud.manner.session_s = 60.0
    async with talking(kind, cloud, nursery) as rig:
        rig.model.say("Hello.")
        with pytest.raises(ModelFailed) as failure:
            await rig.listen(70.0)
        assert trio.current_time() == pytest.approx(60.0, abs=0.5)
    assert rig.words == "Hello."
    assert failure.value.why is Why.CUT


@every
async def test_an_error_that_leaves_the_session_open_is_counted(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = kind.make_cloud(LINE)
    async with talking(kind, cloud, nursery) as rig:
        cloud.manner.errors.append(dict(kind.error))
        rig.model.told("are you well")
        await rig.listen(4.0)
        assert rig.model.errors == 1  # type: ignore[attr-defined]  # beyond the port
    assert rig.words == "Turn 1. You said are you well."


@every
async def test_messages_that_make_no_sense_are_passed_over(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    junk: list[Any] = [
        b"\x00\xff",
        "nonsense",
        "[]",
        "{}",
        '{"type": 5}',
        '{"type": "response.output_audio.delta", "response_id": 5}',
        '{"type": "audio", "audio_event": {"event_id": "x"}}',
        '{"type": "audio", "audio_event": {"event_id": 1e400}}',
        '{"type": "response.created", "response": []}',
        '{"type": "something_new", "padding": "' + "x" * 1_000_000 + '"}',
    ]
    cloud = kind.make_cloud(LINE)
    async with talking(kind, cloud, nursery) as rig:
        left = iter(junk)
        cloud.manner.twist = lambda events: [*events, *itertools.islice(left, 1)]
        await rig.say(question("still here", after_s=4.0))
        assert next(left, None) is None
    check(rig.events, LINE)
    assert rig.heard == ["still here"]
    assert rig.words == "Turn 1. You said still here."


@every
async def test_nothing_but_nonsense_is_the_wrong_service(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = kind.make_cloud(LINE)
    cloud.manner.twist = lambda _: ["<html>"] * 30
    with pytest.raises(ModelFailed) as failure:
        async with talking(kind, cloud, nursery):
            pytest.fail("it opened")
    assert failure.value.why is Why.NONSENSE


@every
async def test_the_callers_words_that_are_told_twice_are_used_once(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = kind.make_cloud(LINE)
    doubled = ("speech_started", "speech_stopped", "committed", "completed", "vad_score", "tentative")
    cloud.manner.twist = lambda events: [
        event for event in events for _ in range(2 if any(word in event["type"] for word in doubled) else 1)
    ]
    async with talking(kind, cloud, nursery) as rig:
        await rig.say(question("only once", after_s=4.0))
    check(rig.events, LINE)
    assert rig.heard == ["only once"]


@every
@pytest.mark.parametrize("manner", ["is_deaf", "stalls"])
async def test_no_vendor_holds_up_the_end_for_more_than_half_a_second(
    kind: Kind, manner: str, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = kind.make_cloud(LINE)
    async with talking(kind, cloud, nursery) as rig:
        rig.model.say("Goodbye.")
        await rig.listen(2.0)
        setattr(cloud.manner, manner, True)
        await rig.say(LINE.silence(5.0))
        left_s = trio.current_time()
    assert trio.current_time() - left_s <= 0.55
    assert rig.model.is_closed
    cloud.manner.is_deaf = False
    assert await rig.gone()


@every
async def test_whoever_is_cancelled_leaves_at_once(
    kind: Kind, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = kind.make_cloud(LINE)
    with trio.move_on_after(1.0):
        async with talking(kind, cloud, nursery) as rig:
            rig.model.say(STORY)
            await rig.say(question("never mind"), for_s=60.0)
    assert trio.current_time() <= 1.001
    assert rig.model.is_closed
    assert await rig.gone()


class _Elsewhere:
    """Starts tasks of the cloud, whose steps are not counted."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def start_soon(self, run: Any, *args: Any) -> None:
        token = is_target.set(False)
        self._nursery.start_soon(run, *args)
        is_target.reset(token)


async def _short_call(kind: Kind, cloud: Any, nursery: Any, opened: list[Rig]) -> None:
    token = is_target.set(True)
    try:
        async with talking(kind, cloud, nursery) as rig:
            opened.append(rig)
            rig.model.say("Hi.")
            await rig.listen(0.3)
            rig.model.interrupt(0.05)
            await rig.say(speak("yo", LINE), for_s=0.2)
    finally:
        is_target.reset(token)


@every
@pytest.mark.proves("cancelled")
async def test_cancelled_at_any_step_nothing_is_left(kind: Kind, autojump_clock: MockClock) -> None:
    """Every step of the adapter's tasks, one after the other."""
    for k in itertools.count(1):
        cloud = kind.make_cloud(LINE)
        cancelling = trio.CancelScope()
        opened: list[Rig] = []
        fix_the_order()
        async with trio.open_nursery() as nursery:
            instrument = AtStep(k, lambda _, scope=cancelling: scope.cancel())  # type: ignore[misc]  # bound early
            trio.lowlevel.add_instrument(instrument)
            try:
                with cancelling:
                    await _short_call(kind, cloud, _Elsewhere(nursery), opened)
            finally:
                trio.lowlevel.remove_instrument(instrument)
            await trio.sleep(1.0)
            assert cloud.sockets_open == 0, f"step {k}"
            assert all(rig.model.is_closed for rig in opened), f"step {k}"
            nursery.cancel_scope.cancel()
        if k > instrument.steps:
            break
    print(kind.name, k)
    assert k > 20
