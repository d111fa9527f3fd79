"""What is ElevenLabs Agents' own, over the WebSocket."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import trio
from trio.testing import MockClock

from adapters.realtime.conversing import Line
from adapters.realtime.elevenlabs.config import ElevenLabsAgentsConfig
from adapters.realtime.elevenlabs.vendor import ElevenLabsAgentsVendor
from adapters.realtime.elevenlabs.wire import ElevenLabsAgentsWire
from adapters.realtime.lanes import Lanes
from engine.audio.audio_clock import AudioClock
from engine.errors import ModelFailed, Why
from engine.events import (
    MULAW_8K,
    PCM16_8K,
    AudioFormat,
    CallInfo,
    Context,
    Heard,
    Message,
    ReplyAudio,
    ReplyCorrected,
    ReplyOver,
    Role,
    SpeechStarted,
    ToolCall,
)
from engine.runtime.ledger import Ledger
from tests.contract.ears import NoBook
from tests.contract.realtime_benches import NEW, SESSION, Rig, check, went_on
from tests.fakes.clouds.elevenlabs_agents import ElevenLabsAgentsCloud
from tests.fakes.clouds.loopback import dialled
from tests.fakes.plain_speech import speak

CONFIG = ElevenLabsAgentsConfig("k", agent="agent_1", url="ws://cloud/v1/convai/conversation")
LINE = MULAW_8K


@asynccontextmanager
async def calling(
    cloud: ElevenLabsAgentsCloud,
    nursery: trio.Nursery,
    *,
    context: Context = NEW,
    line: AudioFormat = LINE,
    **settings: Any,
) -> AsyncIterator[Rig]:
    vendor = ElevenLabsAgentsVendor(dataclasses.replace(CONFIG, **settings), dialled(cloud, nursery))
    call = CallInfo("twilio", "CA1", "MZ1", line, "desk")
    async with vendor.open(call, SESSION, context, Ledger("CA1", NoBook())) as model:
        yield Rig(cloud, model, line)


def typed(cloud: ElevenLabsAgentsCloud) -> list[str]:
    return [said["text"] for said in cloud.sessions[-1].told if said["type"] == "user_message"]


@pytest.mark.parametrize("wait_s", [0.0, 3.0])
async def test_a_configured_opening_is_said_word_for_word_without_the_model(
    wait_s: float, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = ElevenLabsAgentsCloud()
    async with calling(cloud, nursery, first_message="Good morning to you.") as rig:
        await rig.listen(wait_s)
        assert rig.events == []
        rig.model.say("Good morning to you.")
        await rig.listen(4.0)
    check(rig.events, LINE)
    assert rig.words == "Good morning to you."
    assert typed(cloud) == []


@pytest.mark.parametrize("wait_s", [0.0, 0.15, 3.0])
@pytest.mark.parametrize(
    ("opening", "words"),
    [("Hello, I am the agent of the fake.", "Hello, I am the agent of the fake."), ("Other words.", "Other words.")],
)
async def test_an_opening_of_the_agents_own_is_heard_only_if_it_is_what_is_to_be_said(
    opening: str, words: str, wait_s: float, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = ElevenLabsAgentsCloud()
    async with calling(cloud, nursery, overrides=("prompt",)) as rig:
        await rig.listen(wait_s)
        rig.model.say(opening)
        await rig.listen(5.0)
    check(rig.events, LINE)
    assert rig.words == words
    assert len(typed(cloud)) == (opening == "Other words.")


async def test_an_opening_of_the_agents_own_is_not_heard_in_a_session_that_goes_on(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = ElevenLabsAgentsCloud()
    cloud.manner.scores = True
    context = went_on(Message(Role.AGENT, "Hello, I am the agent of the fake."))
    async with calling(cloud, nursery, context=context, overrides=()) as rig:
        await rig.say(LINE.silence(0.5) + speak("go on", LINE) + LINE.silence(4.0))
    check(rig.events, LINE)
    assert rig.words == "Turn 1. You said go on."


async def test_an_agent_without_an_opening_says_what_it_is_told_to(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = ElevenLabsAgentsCloud()
    cloud.manner.first_message, cloud.manner.ping_s = "", 1000.0
    async with calling(cloud, nursery, overrides=()) as rig:
        await rig.listen(1.0)
        rig.model.say("Good morning.")
        await rig.listen(5.0)
    assert rig.words == "Good morning."


async def test_an_override_that_the_agent_does_not_allow_is_our_mistake(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = ElevenLabsAgentsCloud()
    cloud.manner.overrides = frozenset()
    with pytest.raises(ModelFailed) as failure:
        async with calling(cloud, nursery):
            pytest.fail("it opened")
    assert failure.value.why is Why.BAD_REQUEST


async def test_pings_are_answered_at_once(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    cloud = ElevenLabsAgentsCloud()
    cloud.manner.ping_s = 1.0
    async with calling(cloud, nursery) as rig:
        await rig.listen(5.5)
        pongs = [said for said in cloud.sessions[0].told if said["type"] == "pong"]
        assert len(pongs) == 6
    assert cloud.faults == []


async def test_the_agents_formats_are_read_and_not_assumed(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    cloud = ElevenLabsAgentsCloud()
    cloud.manner.hears, cloud.manner.speaks = "pcm_8000", "pcm_16000"
    async with calling(cloud, nursery, line=PCM16_8K) as rig:
        rig.model.say("Hello.")
        await rig.listen(3.0)
        await rig.say(PCM16_8K.silence(0.5) + speak("as it is", PCM16_8K) + PCM16_8K.silence(1.5))
    assert rig.heard == ["as it is"]
    assert PCM16_8K.duration_s(rig.audio) > 0.2


async def test_a_format_that_nobody_knows_is_not_guessed_at(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    cloud = ElevenLabsAgentsCloud()
    cloud.manner.twist = lambda events: [_in_opus(event) for event in events]
    with pytest.raises(ModelFailed) as failure:
        async with calling(cloud, nursery):
            pytest.fail("it opened")
    assert failure.value.why is Why.NONSENSE


def _in_opus(event: dict[str, Any]) -> dict[str, Any]:
    about = event.get("conversation_initiation_metadata_event")
    return (
        {**event, "conversation_initiation_metadata_event": {**about, "agent_output_audio_format": "opus_48000"}}
        if about
        else event
    )


async def test_the_vendors_own_interruption_ends_the_reply_and_corrects_it(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Without anybody above saying so, and without ``vad_score``."""
    cloud = ElevenLabsAgentsCloud()
    cloud.manner.late_pieces = 3
    async with calling(cloud, nursery) as rig:
        rig.model.told("tell me a story")
        await rig.say(LINE.silence(2.0) + speak("stop it now", LINE) + LINE.silence(3.0), for_s=1.0)
    check(rig.events, LINE)
    place = next(place for place, (_, event) in enumerate(rig.events) if isinstance(event, SpeechStarted))
    late = [event for _, event in rig.events[place:] if isinstance(event, ReplyAudio)]
    assert {event.reply_id for event in late} == {rig.of(ReplyOver)[-1].reply_id}
    (corrected,) = rig.of(ReplyCorrected)
    assert rig.texts.startswith(corrected.text)
    assert len(corrected.text) < 80
    assert rig.words.endswith("You said stop it now.")


@pytest.mark.parametrize("completes", [True, False])
async def test_a_reply_is_over_when_the_agent_says_so_or_after_a_second_without_sound(
    completes: bool, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = ElevenLabsAgentsCloud()
    cloud.manner.completes = completes
    async with calling(cloud, nursery) as rig:
        rig.model.say("Short.")
        assert await rig.listen(5.0, lambda event: isinstance(event, ReplyOver))
        last_s = max(at_s for at_s, event in rig.events if isinstance(event, ReplyAudio))
        assert trio.current_time() - last_s == pytest.approx(0.0 if completes else 1.0, abs=0.06)


async def test_words_that_come_in_parts_are_told_once(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    cloud = ElevenLabsAgentsCloud()
    cloud.manner.parts = True
    async with calling(cloud, nursery) as rig:
        for text in ("one two", "three four"):
            rig.model.told(text)
            await rig.listen(4.0)
    check(rig.events, LINE)
    assert rig.texts == "Turn 1. You said one two.Turn 2. You said three four."


async def test_history_may_go_into_a_variable_of_the_agents_prompt(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = ElevenLabsAgentsCloud()
    context = went_on(Message(Role.CALLER, "my word is canary3"), Message(Role.AGENT, "I see."))
    async with calling(cloud, nursery, context=context, history_variable="history") as rig:
        rig.model.told("what do you know")
        await rig.listen(5.0)
    assert rig.words.endswith("I know canary3.")
    assert not any(said["type"] == "contextual_update" for said in cloud.sessions[0].told)
    assert cloud.sessions[0].initiation["dynamic_variables"]["session_id"] == "s1"


async def test_an_agent_that_ends_the_call_by_itself_asks_us_to_hang_up(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = ElevenLabsAgentsCloud()
    cloud.manner.ends_calls = True
    async with calling(cloud, nursery) as rig:
        rig.model.told("goodbye")
        with pytest.raises(ModelFailed) as failure:
            await rig.listen(5.0)
    check(rig.events, LINE)
    assert rig.words == "Turn 1. You said goodbye."
    assert [call.name for call in rig.of(ToolCall)] == ["hang_up"]
    assert isinstance(rig.events[-1][1], ToolCall)
    assert failure.value.why is Why.CUT


def test_words_that_were_typed_and_are_told_back_were_not_spoken() -> None:
    line = Line(LINE, Lanes("v", LINE), AudioClock(), lambda: 0.0)
    wire = ElevenLabsAgentsWire(CONFIG, SESSION, NEW, line)
    happens(wire, "conversation_initiation_metadata", agent_output_audio_format="ulaw_8000")
    wire.told("pressed 5")
    for _ in range(2):
        said = {"type": "user_transcript", "user_transcription_event": {"user_transcript": "pressed 5"}}
        wire.receive(orjson.dumps(said).decode())
    heard = [event.text for event in iter(line.lanes.take, None) if isinstance(event, Heard)]
    assert heard == ["pressed 5"]  # by the second, which somebody said


def test_an_opening_that_makes_no_sense_is_passed_over_when_it_is_said() -> None:
    line = Line(LINE, Lanes("v", LINE), AudioClock(), lambda: 0.0)
    wire = ElevenLabsAgentsWire(dataclasses.replace(CONFIG, first_message="Hello."), SESSION, NEW, line)
    happens(wire, "conversation_initiation_metadata", agent_output_audio_format="ulaw_8000")
    happens(wire, "audio", event_id=1, audio_base_64="not base64")
    happens(wire, "audio", event_id=2, audio_base_64="kJCQ" * 200)
    wire.say("Hello.")
    assert len(list(iter(line.lanes.take, None))) == 2


def test_a_reply_that_was_interrupted_before_anybody_took_it_never_was() -> None:
    line = Line(LINE, Lanes("v", LINE), AudioClock(), lambda: 0.0)
    wire = ElevenLabsAgentsWire(CONFIG, SESSION, NEW, line)
    happens(wire, "conversation_initiation_metadata", agent_output_audio_format="ulaw_8000")
    wire.told("hello")
    happens(wire, "agent_response", agent_response="Yes?")
    happens(wire, "audio", event_id=3, audio_base_64="kJCQ" * 200)
    happens(wire, "interruption", event_id=3)
    assert list(iter(line.lanes.take, None)) == [SpeechStarted(0.0)]


def happens(wire: ElevenLabsAgentsWire, kind: str, **fields: Any) -> None:
    wire.receive(orjson.dumps({"type": kind, f"{kind}_event": fields}).decode())
