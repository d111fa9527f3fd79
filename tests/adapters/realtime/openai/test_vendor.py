"""What is OpenAI Realtime's own."""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import trio
from trio.testing import MockClock

from adapters.realtime.conversing import Line
from adapters.realtime.lanes import Lanes
from adapters.realtime.openai.config import OpenAIRealtimeConfig
from adapters.realtime.openai.vendor import OpenAIRealtimeVendor
from adapters.realtime.openai.wire import OpenAIRealtimeWire
from engine.audio.audio_clock import AudioClock
from engine.errors import ModelFailed, Why
from engine.events import (
    MULAW_8K,
    PCM16_16K,
    CallInfo,
    Context,
    Exchange,
    Heard,
    Message,
    ReplyAudio,
    ReplyOver,
    ReplyStarted,
    Role,
    SpeechStarted,
    ToolCall,
    ToolResult,
)
from engine.runtime.ledger import Ledger
from tests.contract.ears import NoBook
from tests.contract.realtime_benches import NEW, SESSION, WEATHER, Rig, check
from tests.fakes.clouds.loopback import dialled
from tests.fakes.clouds.openai_realtime import OpenAIRealtimeCloud
from tests.fakes.plain_speech import speak

CONFIG = OpenAIRealtimeConfig("k", model="m", url="ws://cloud/v1/realtime")
LINE = MULAW_8K


@asynccontextmanager
async def calling(
    cloud: OpenAIRealtimeCloud, nursery: trio.Nursery, *, context: Context = NEW, **settings: Any
) -> AsyncIterator[Rig]:
    vendor = OpenAIRealtimeVendor(dataclasses.replace(CONFIG, **settings), dialled(cloud, nursery))
    call = CallInfo("twilio", "CA1", "MZ1", LINE, "desk")
    async with vendor.open(call, SESSION, context, Ledger("CA1", NoBook())) as model:
        yield Rig(cloud, model, LINE)


def asked(text: str, *, before_s: float = 0.6, after_s: float = 1.5) -> bytes:
    return LINE.silence(before_s) + speak(text, LINE) + LINE.silence(after_s)


def is_audio(event: object) -> bool:
    return isinstance(event, ReplyAudio)


def told(cloud: OpenAIRealtimeCloud, kind: str) -> list[dict[str, Any]]:
    return [message for message in cloud.sessions[-1].told if message["type"] == kind]


async def test_everything_we_say_is_one_of_the_official_types(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    from openai.types.realtime import RealtimeClientEvent
    from pydantic import TypeAdapter

    context = Context(
        (Message(Role.CALLER, "hello"), Message(Role.AGENT, "Yes", interrupted=True)),
        instructions="Be of help.",
        tools=(WEATHER,),
        exchanges=(Exchange("Let me see.", (ToolCall("c1", "weather", "{}"),), (ToolResult("c1", "rain"),)),),
    )
    cloud = OpenAIRealtimeCloud()
    settings = {"language": "en", "max_tokens": 500, "extra": {"truncation": "auto"}}
    async with calling(cloud, nursery, context=context, **settings) as rig:
        rig.model.say("A greeting that is somewhat longer.")
        assert await rig.listen(2.0, is_audio)
        rig.model.interrupt(0.2)
        rig.model.told("call the tool weather")
        assert await rig.listen(3.0, lambda event: isinstance(event, ToolCall))
        rig.model.tool_results([ToolResult(rig.of(ToolCall)[0].call_id, "snow", is_error=True)])
        await rig.listen(3.0)
    messages = cloud.sessions[0].told
    known: TypeAdapter[Any] = TypeAdapter(RealtimeClientEvent)
    for message in messages:
        known.validate_python(message)
    assert {message["type"] for message in messages} == {
        "session.update",
        "conversation.item.create",
        "conversation.item.truncate",
        "response.create",
        "response.cancel",
    }
    assert cloud.faults == []


async def test_the_session_is_of_the_ga_form_in_the_lines_own_format(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = OpenAIRealtimeCloud()
    async with calling(cloud, nursery):
        pass
    session = cloud.sessions[0].updates[0]
    assert session["type"] == "realtime"
    assert session["audio"]["input"]["format"] == session["audio"]["output"]["format"] == {"type": "audio/pcmu"}
    assert session["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 500
    assert session["instructions"] == "Be of help."
    assert [tool["name"] for tool in session["tools"]] == ["weather"]
    assert "openai-beta" not in cloud.requests[0].headers
    assert cloud.requests[0].one("model") == "m"


async def test_what_is_to_be_said_waits_while_something_is_being_said(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = OpenAIRealtimeCloud()
    async with calling(cloud, nursery) as rig:
        for text in ("One.", "Two.", "Three."):
            rig.model.say(text)
        await rig.listen(5.0)
    check(rig.events, LINE)
    assert rig.words == "One. Two. Three."
    assert cloud.races == []


@pytest.mark.parametrize("lead_s", [0.0, 0.3])
@pytest.mark.parametrize("heard_s", [0.0, 0.4, 99.0])
async def test_the_model_forgets_what_was_not_heard_and_never_more_than_it_made(
    lead_s: float, heard_s: float, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Silence that was trimmed counts for the vendor and not for the caller."""
    cloud = OpenAIRealtimeCloud()
    cloud.manner.lead_silence_s, cloud.manner.speed = lead_s, 1.0
    async with calling(cloud, nursery) as rig:
        rig.model.say("This goes on for a while, and for another while.")
        await rig.listen(1.15)
        received_s = LINE.duration_s(rig.audio)
        rig.model.interrupt(heard_s)
        await rig.listen(3.0)
    cut = told(cloud, "conversation.item.truncate")
    expected_s = min(heard_s, received_s) + (lead_s if heard_s else 0.0)
    assert [message["audio_end_ms"] for message in cut] == [pytest.approx(expected_s * 1000, abs=21)]
    assert len(told(cloud, "response.cancel")) == 1
    assert cloud.faults == []


async def test_the_answer_to_what_cut_in_is_not_cut_by_a_late_interruption(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Who waits for words before it believes in a barge-in may find that the answer to it has begun."""
    cloud = OpenAIRealtimeCloud()
    cloud.manner.speed = math.inf
    async with calling(cloud, nursery) as rig:
        rig.model.say("A story that is long enough to be cut into by somebody.")
        await rig.listen(1.0, is_audio)
        audio = asked("stop that")
        for at in range(0, len(audio), 160):
            rig.model.send(audio[at : at + 160])
            await trio.sleep(0.02)
        rig.model.interrupt(0.4)
        await rig.listen(3.0)
    assert rig.words.endswith("Turn 1. You said stop that.")
    assert [over.is_whole for over in rig.of(ReplyOver)] == [False, True]


async def test_a_vendor_that_does_not_stop_by_itself_is_stopped(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = OpenAIRealtimeCloud()
    cloud.manner.speed = 1.0
    async with calling(cloud, nursery, stops_itself=False) as rig:
        rig.model.say("A story that is long enough to be cut into by somebody who does.")

        async def cut_in() -> None:
            assert await rig.listen(5.0, lambda event: isinstance(event, SpeechStarted))
            await rig.listen(0.3)
            assert cloud.sessions[0].active is not None
            rig.model.interrupt(1.0)

        async with trio.open_nursery() as beside_it:
            beside_it.start_soon(cut_in)
            audio = asked("stop", before_s=1.0, after_s=0.1)
            for at in range(0, len(audio), 160):
                rig.model.send(audio[at : at + 160])
                await trio.sleep(0.02)
        await rig.listen(0.2)
        assert cloud.sessions[0].active is None
    assert cloud.races == []


@pytest.mark.parametrize(
    ("error", "why"),
    [
        ({"type": "rate_limit_error", "code": "rate_limit_exceeded"}, Why.RATE_LIMITED),
        ({"type": "insufficient_quota", "code": "insufficient_quota"}, Why.AUTH),
        ({"type": "server_error", "code": None}, Why.UNREACHABLE),
        ({"type": "never", "code": "Heard Of; sk-secret"}, Why.FAILED),
    ],
)
async def test_a_reply_that_fails_says_why(
    error: dict[str, Any], why: Why, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = OpenAIRealtimeCloud()
    cloud.manner.fails = {**error, "message": "no"}
    async with calling(cloud, nursery) as rig:
        rig.model.told("hello")
        with pytest.raises(ModelFailed) as failure:
            await rig.listen(5.0)
    assert failure.value.why is why
    assert "secret" not in str(failure.value)


@pytest.mark.parametrize("settings", [{}, {"transcription_model": ""}])
async def test_words_that_nobody_writes_down_are_no_words(
    settings: dict[str, Any], autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """The model has heard them all the same."""
    cloud = OpenAIRealtimeCloud()
    cloud.manner.transcribes = False
    async with calling(cloud, nursery, **settings) as rig:
        await rig.say(asked("who is there", after_s=3.0))
    check(rig.events, LINE)
    assert rig.heard == [""]
    assert rig.words == "Turn 1. You said who is there."


@pytest.mark.parametrize(("lost", "heard"), [("completed", "half of this"), ("transcription", "")])
async def test_a_transcript_that_never_comes_is_not_waited_for(
    lost: str, heard: str, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = OpenAIRealtimeCloud()
    cloud.manner.twist = lambda events: [event for event in events if lost not in event["type"]]
    async with calling(cloud, nursery) as rig:
        await rig.say(asked("half of this"), for_s=8.0)
    check(rig.events, LINE)
    assert rig.heard == [heard]


async def test_an_error_while_it_opens_is_a_failure(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    cloud = OpenAIRealtimeCloud()
    with pytest.raises(ModelFailed) as failure:
        async with calling(cloud, nursery, extra={"unknown": 1}):
            pytest.fail("it opened")
    assert failure.value.why is Why.BAD_REQUEST


# --- the wire ---------------------------------------------------------------------------------------------------


def wire_of() -> tuple[OpenAIRealtimeWire, Line]:
    line = Line(LINE, Lanes("v", LINE), AudioClock(), lambda: 0.0)
    wire = OpenAIRealtimeWire(CONFIG, NEW, line)
    wire.receive('{"type": "session.updated"}')
    return wire, line


def sent(line: Line) -> list[dict[str, Any]]:
    messages = [orjson.loads(message) for message in line.outbox]
    line.outbox.clear()
    return messages


def happens(wire: OpenAIRealtimeWire, kind: str, **fields: Any) -> None:
    wire.receive(orjson.dumps({"type": kind, **fields}).decode())


def test_a_reply_asked_for_while_the_vendor_began_another_is_asked_for_again() -> None:
    """The vendor answers the caller by itself: whoever asks in that instant is refused."""
    wire, line = wire_of()
    wire.say("Still there?")
    (ask,) = sent(line)
    happens(wire, "response.created", response={"id": "r1", "metadata": None})
    error = {"type": "invalid_request_error", "code": "conversation_already_has_active_response"}
    happens(wire, "error", error={**error, "event_id": ask["event_id"]})
    assert sent(line) == []
    happens(wire, "response.done", response={"id": "r1", "status": "completed"})
    (again,) = sent(line)
    assert again["response"]["instructions"] == ask["response"]["instructions"]
    assert wire.errors == 1


def test_sound_of_replies_that_were_cut_or_never_began_is_dropped() -> None:
    wire, line = wire_of()
    happens(wire, "response.created", response={"id": "r1"})
    sound = {"item_id": "i1", "content_index": 0, "delta": "kJCQ" * 400}
    happens(wire, "response.output_audio.delta", response_id="r1", **sound)
    assert isinstance(line.lanes.take(), ReplyStarted)
    assert isinstance(line.lanes.take(), ReplyAudio)
    wire.interrupt("r1", 0.05)
    assert [message["type"] for message in sent(line)] == ["response.cancel", "conversation.item.truncate"]
    happens(wire, "response.output_audio.delta", response_id="r1", **sound)
    happens(wire, "response.output_audio.delta", response_id="r9", **sound)
    happens(wire, "response.done", response={"id": "r1", "status": "cancelled"})
    happens(wire, "response.output_audio.delta", response_id="r1", **sound)
    assert line.lanes.take() == ReplyOver("r1", is_whole=False)
    assert line.lanes.take() is None


def test_a_tool_call_that_was_broken_off_is_none() -> None:
    wire, line = wire_of()
    happens(wire, "response.created", response={"id": "r1"})
    item = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"ci', "status": "incomplete"}
    happens(wire, "response.output_item.done", response_id="r1", item=item)
    happens(wire, "response.done", response={"id": "r1", "status": "cancelled", "output": [item]})
    assert not any(isinstance(line.lanes.take(), ToolCall) for _ in range(5))


def test_words_may_come_after_the_next_speech_has_begun() -> None:
    wire, line = wire_of()
    for item_id in ("i1", "i2"):
        happens(wire, "input_audio_buffer.speech_started", item_id=item_id, audio_start_ms=0)
        happens(wire, "input_audio_buffer.speech_stopped", item_id=item_id, audio_end_ms=0)
    for item_id in ("i2", "i1", "i2"):
        kind = "conversation.item.input_audio_transcription.completed"
        happens(wire, kind, item_id=item_id, transcript=f"of {item_id}")
    events = [line.lanes.take() for _ in range(7)]
    assert [event.text for event in events if isinstance(event, Heard)] == ["of i2", "of i1"]
    assert events[-1] is None


def test_lines_that_the_vendor_does_not_speak_are_converted() -> None:
    line = Line(PCM16_16K, Lanes("v", PCM16_16K), AudioClock(), lambda: 0.0)
    wire = OpenAIRealtimeWire(CONFIG, NEW, line)
    wire.greet()
    assert sent(line)[0]["session"]["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 24000}
    message = orjson.loads(wire.audio(PCM16_16K.silence(0.04)))
    assert len(base64.b64decode(message["audio"])) == 24000 * 2 * 0.04
