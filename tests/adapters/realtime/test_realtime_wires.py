"""Whatever a vendor sends, a wire says that it makes no sense or that this is the end, and nothing else."""

from __future__ import annotations

import contextlib
import json
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.realtime.caller import CallerSpeech
from adapters.realtime.conversing import Line
from adapters.realtime.elevenlabs.chat import ChatWire
from adapters.realtime.elevenlabs.config import ElevenLabsAgentsConfig
from adapters.realtime.elevenlabs.wire import ElevenLabsAgentsWire
from adapters.realtime.lanes import MAX_HELD, Lanes
from adapters.realtime.openai.config import OpenAIRealtimeConfig
from adapters.realtime.openai.wire import OpenAIRealtimeWire
from engine.audio.audio_clock import AudioClock
from engine.errors import BadMessage, ModelFailed, Why
from engine.events import MULAW_8K, Heard, ReplyText, SpeechStarted, SpeechStopped, ToolResult
from tests.contract.realtime_benches import NEW, SESSION

DEEP: dict[str, Any] = orjson.loads('{"a":' * 300 + "1" + "}" * 300)
"""Deeper than what reads it can write."""
NUMBERS: list[Any] = [0, 1, -1, 5.5, 1e300, 2**63, -(2**63), None, True, "x", [], {}]
IDS: list[Any] = ["a", "b", "c", "", "x" * 300, *NUMBERS]
TEXTS: list[Any] = ["", "kJCQkJCQ", "not base64", "kJCQ" * 500, "x" * 20_000, *NUMBERS]
FIELDS: dict[str, list[Any]] = {
    **dict.fromkeys(("item_id", "response_id", "id", "call_id", "tool_call_id", "name"), IDS),
    "tool_name": ["end_call", "weather", 5],
    **dict.fromkeys(("audio_start_ms", "audio_end_ms", "event_id", "vad_score", "content_index", "code"), NUMBERS),
    **dict.fromkeys(("delta", "audio_base_64", "transcript", "text", "agent_response", "user_transcript"), TEXTS),
    "parameters": [{}, {"a": 1}, DEEP],
    **dict.fromkeys(("error_type", "corrected_agent_response", "arguments", "metadata"), TEXTS),
    "status": ["completed", "completed", "failed", "cancelled", "incomplete", None, 5],
    "type": ["function_call", "message", "start", "delta", 5],
    "agent_output_audio_format": ["ulaw_8000", "pcm_16000", "opus", 5],
    "user_input_audio_format": ["ulaw_8000", "pcm_16000", "opus", 5],
}
OBJECTS = (
    "response",
    "item",
    "error",
    "audio_event",
    "agent_response_event",
    "text_response_part",
    "interruption_event",
    "user_transcription_event",
    "tentative_user_transcription_event",
    "vad_score_event",
    "client_tool_call",
    "agent_tool_response",
    "ping_event",
    "error_event",
    "conversation_initiation_metadata_event",
    "agent_response_correction_event",
)


def fields(rng: Random) -> dict[str, Any]:
    return {name: rng.choice(values) for name, values in FIELDS.items() if rng.random() < 0.9}


def message(rng: Random, kinds: list[str]) -> str:
    """Of a known kind, with anything in it."""
    kind = rng.choice(kinds)
    said: dict[str, Any] = fields(rng)
    needed = [name for name in OBJECTS if name.startswith(kind.split(".", 1)[0])]
    for name in sorted({*needed, "item", "text_response_part", rng.choice(OBJECTS)}):
        said[name] = rng.choice([fields(rng), fields(rng), rng.choice(NUMBERS)])
    if rng.random() < 0.5 and isinstance(said.get("response"), dict):
        said["response"] = {**said["response"], "output": [fields(rng), rng.choice([fields(rng), 5])]}
    return json.dumps({**said, "type": kind})


def line_of() -> Line:
    now = iter(range(10**9))
    return Line(MULAW_8K, Lanes("v", MULAW_8K), AudioClock(), lambda: next(now) * 0.1)


def openai() -> tuple[Any, list[str]]:
    wire = OpenAIRealtimeWire(OpenAIRealtimeConfig("k", model="m"), NEW, line_of())
    return wire, [*wire.kinds, "unknown"]


def elevenlabs() -> tuple[Any, list[str]]:
    wire = ElevenLabsAgentsWire(ElevenLabsAgentsConfig("k", agent="a"), SESSION, NEW, line_of())
    return wire, [*wire.kinds, "unknown"]


@pytest.mark.parametrize("make", [openai, elevenlabs])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers())
def test_no_message_is_more_than_a_bad_one_or_the_end(make: Any, seed: int) -> None:
    rng = Random(seed)
    wire, kinds = make()
    for _ in range(20):
        with contextlib.suppress(BadMessage, ModelFailed):
            wire.receive(message(rng, kinds))
        wire.interrupt(rng.choice(["a", "reply-1"]), 1.0)
        wire.tool_results([ToolResult("a", "x")])
        wire.say("hello \ud800")
        wire.told("hello")
        with contextlib.suppress(ModelFailed):
            wire.expire()
        assert isinstance(wire.due_at_s, float)


@settings(max_examples=20, deadline=None)
@given(said=st.text() | st.binary() | st.sampled_from(["[]", "5", "{}", '{"type": 5}', "[" * 5000, '{"type":"audio"}']))
def test_what_is_no_object_is_a_bad_message(said: str | bytes) -> None:
    for wire in (openai()[0], elevenlabs()[0], ChatWire(ElevenLabsAgentsConfig("k", agent="a"), SESSION, NEW)):
        with contextlib.suppress(BadMessage):
            wire.receive(said)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers())
def test_no_message_of_a_chat_is_more_than_a_bad_one(seed: int) -> None:
    rng = Random(seed)
    wire = ChatWire(ElevenLabsAgentsConfig("k", agent="a"), SESSION, NEW)
    kinds = elevenlabs()[1]
    for _ in range(20):
        with contextlib.suppress(BadMessage):
            wire.receive(message(rng, kinds))


def test_text_without_end_is_the_end() -> None:
    lanes = Lanes("v", MULAW_8K)
    lanes.put(*[ReplyText("r", "x")] * MAX_HELD)
    with pytest.raises(ModelFailed) as failure:
        lanes.put(ReplyText("r", "x"))
    assert failure.value.why is Why.CUT


def test_speech_that_never_ends_is_finished_when_the_next_begins() -> None:
    """Each beginning has one end and one final text, whatever the vendor leaves out."""
    lanes = Lanes("v", MULAW_8K)
    caller = CallerSpeech(lanes, lambda: 0.0)
    for number in range(40):
        caller.started(str(number), 0.0)
    for number in range(40):
        caller.finished(str(number), "words")
    events = list(iter(lanes.take, None))
    assert [sum(isinstance(event, kind) for event in events) for kind in (SpeechStarted, SpeechStopped, Heard)] == [
        40,
        40,
        40,
    ]
