"""Strangers' messages on the wires of the recognisers, without I/O."""

from __future__ import annotations

import random
from typing import Any

import orjson
import pytest

from adapters.speech.hearing.assemblyai import AssemblyAIConfig, AssemblyAIWire
from adapters.speech.hearing.deepgram import DeepgramConfig, DeepgramWire
from adapters.speech.hearing.flux import FluxConfig, FluxWire
from adapters.speech.hearing.openai import OpenAITranscriberConfig
from adapters.speech.hearing.scribe import ScribeConfig, ScribeWire
from adapters.speech.hearing.speechmatics import SpeechmaticsConfig, SpeechmaticsWire
from adapters.speech.hearing.streaming import Wire
from adapters.speech.hearing.utterances import Utterances
from engine.audio.audio_clock import AudioClock
from engine.errors import BadMessage, SpeechFailed, Why
from engine.events import MULAW_8K, Heard, SpeechStarted
from tests.contract.ears import check

KEY = "a-secret-of-ours"
WIRES: dict[str, Any] = {
    "speechmatics": lambda told: SpeechmaticsWire(SpeechmaticsConfig(KEY), MULAW_8K, told),
    "deepgram": lambda told: DeepgramWire(DeepgramConfig(KEY), MULAW_8K, told),
    "flux": lambda told: FluxWire(FluxConfig(KEY), MULAW_8K, told),
    "scribe": lambda told: ScribeWire(ScribeConfig(KEY, timestamps=True), MULAW_8K, told),
    "assemblyai": lambda told: AssemblyAIWire(AssemblyAIConfig(KEY), MULAW_8K, told),
}
each_wire = pytest.mark.parametrize("name", WIRES)


class Bench:
    def __init__(self, name: str) -> None:
        self.now_s = 0.0
        self.told = Utterances(AudioClock(), lambda: self.now_s, decides_turns=True)
        self.wire: Wire = WIRES[name](self.told)

    def audio(self, seconds: float) -> None:
        self.now_s += seconds
        self.told.clock.sent(seconds, self.now_s)

    def take(self, message: dict[str, Any] | str | bytes) -> None:
        self.wire.receive(orjson.dumps(message).decode() if isinstance(message, dict) else message)


WORD = {"start": 0.1, "end": 0.4, "start_time": 0.1, "end_time": 0.4, "text": "yes", "type": "word"}
TRANSCRIPT = {"metadata": {"transcript": "yes ", "start_time": 0.1, "end_time": 0.4}, "results": [WORD]}
RESULTS = {"type": "Results", "start": 0.0, "duration": 1.0, "is_final": True, "speech_final": True}
CHANNEL = {"alternatives": [{"transcript": "yes", "words": [WORD]}]}
INFO = {"type": "TurnInfo", "sequence_id": 1, "turn_index": 0, "transcript": "yes", "words": [WORD]}
WINDOW = {"audio_window_start": 0.0, "audio_window_end": 1.0}
TOLD = {"type": "Turn", "turn_order": 0, "turn_is_formatted": True, "end_of_turn": True, "transcript": "yes"}
RIGHT: dict[str, list[dict[str, Any]]] = {
    "speechmatics": [
        {"message": "RecognitionStarted", "language_pack_info": {"word_delimiter": " "}},
        {"message": "AudioAdded", "seq_no": 1},
        {"message": "AddPartialTranscript", **TRANSCRIPT},
        {"message": "AddTranscript", **TRANSCRIPT},
        {"message": "EndOfUtterance", "metadata": {"start_time": 0.4, "end_time": 0.4}},
        {"message": "EndOfTranscript"},
    ],
    "deepgram": [
        {**RESULTS, "channel": CHANNEL},
        {**RESULTS, "channel": CHANNEL, "is_final": False, "speech_final": False},
        {"type": "SpeechStarted", "timestamp": 0.2},
        {"type": "UtteranceEnd", "last_word_end": 0.4},
        {"type": "Metadata"},
    ],
    "flux": [
        {"type": "Connected", "sequence_id": 0},
        *({**INFO, **WINDOW, "event": event} for event in ("StartOfTurn", "Update", "EagerEndOfTurn")),
        *({**INFO, **WINDOW, "event": event} for event in ("TurnResumed", "EndOfTurn")),
    ],
    "scribe": [
        {"message_type": "session_started"},
        {"message_type": "partial_transcript", "text": "yes"},
        {"message_type": "committed_transcript", "text": "yes"},
        {"message_type": "committed_transcript_with_timestamps", "text": "yes", "words": [WORD]},
    ],
    "assemblyai": [
        {"type": "Begin"},
        {"type": "SpeechStarted", "timestamp": 100},
        {**TOLD, "words": [WORD]},
        {**TOLD, "words": [WORD], "end_of_turn": False, "utterance": "yes"},
        {"type": "Termination"},
    ],
}
"""What each vendor says when it is well."""
ATOMS: tuple[Any, ...] = (
    *(None, True, False, -3, 0, 1, 2**63, 0.5, 1e300, -1.0, "", "yes", " no ", "x" * 20_000),
    *([], {}, [[]], {"words": 3}, "Update", "EndOfTurn"),
)


def bent(chance: random.Random, value: Any) -> Any:
    """Here and there something else; numbers vary."""
    if chance.random() < 0.06:
        return chance.choice(ATOMS)
    if isinstance(value, dict):
        return {key: bent(chance, inner) for key, inner in value.items() if chance.random() > 0.03}
    if isinstance(value, list):
        return [bent(chance, inner) for inner in value] * chance.choice((1, 1, 1, 0, 2))
    if isinstance(value, str):
        return chance.choice((value, value, value, f"{value} {value}"))
    if isinstance(value, bool):
        return chance.choice((value, value, not value))
    return value + chance.randrange(6)


def message_of(chance: random.Random, name: str) -> dict[str, Any] | str | bytes:
    if chance.random() < 0.05:
        return chance.choice(("", "null", "[", "5", b"", b"\xff"))
    right = chance.choice(RIGHT[name])
    wrong = bent(chance, right)
    if not isinstance(wrong, dict):
        return right
    return {**wrong, **{key: right[key] for key in ("message", "type", "message_type") if key in right}}


@each_wire
def test_nothing_that_a_stranger_says_breaks_a_wire(name: str) -> None:
    told = 0
    for seed in range(300):
        chance = random.Random(seed)
        bench = Bench(name)
        for _ in range(12):
            bench.audio(0.7)
            try:
                bench.take(message_of(chance, name))
            except BadMessage:
                continue
            except SpeechFailed:
                break
        bench.now_s += 60
        if bench.told.expire():
            bench.wire.gave_up()
        check([(bench.now_s, event) for event in bench.told.events], decides_turns=True)
        told += len(bench.told.events)
    assert told > 1000  # it was not all thrown away


@each_wire
def test_keys_are_in_no_address_and_in_no_text_about_the_settings(name: str) -> None:
    bench = Bench(name)
    assert KEY not in bench.wire.url
    configs = (SpeechmaticsConfig, DeepgramConfig, FluxConfig, ScribeConfig, AssemblyAIConfig)
    assert all(KEY not in repr(config(KEY)) for config in configs)


@pytest.mark.parametrize(
    ("name", "message", "why"),
    [
        ("speechmatics", {"message": "Error", "type": "quota_exceeded", "reason": KEY}, Why.RATE_LIMITED),
        ("speechmatics", {"message": "Error", "type": "not_authorised"}, Why.AUTH),
        ("speechmatics", {"message": "Error", "type": "invalid_model"}, Why.BAD_REQUEST),
        ("speechmatics", {"message": "Error", "type": "job_error"}, Why.FAILED),
        ("speechmatics", {"message": "Error", "type": {"not": "a word"}}, Why.FAILED),
        ("deepgram", {"type": "Error", "variant": "SchemaError", "description": KEY}, Why.BAD_REQUEST),
        ("deepgram", {"type": "Error", "variant": "Something Else"}, Why.FAILED),
        ("flux", {"type": "Error", "sequence_id": 1, "code": "INTERNAL_SERVER_ERROR", "description": KEY}, Why.FAILED),
        ("flux", {"type": "Error", "sequence_id": 1, "code": "UNPARSABLE_CLIENT_MESSAGE"}, Why.BAD_REQUEST),
        ("scribe", {"message_type": "auth_error", "error": KEY}, Why.AUTH),
        ("scribe", {"message_type": "quota_exceeded"}, Why.AUTH),
        ("scribe", {"message_type": "rate_limited"}, Why.RATE_LIMITED),
        ("scribe", {"message_type": "session_time_limit_exceeded"}, Why.CUT),
        ("scribe", {"message_type": "chunk_size_exceeded"}, Why.BAD_REQUEST),
        ("assemblyai", {"type": "Error", "error_code": 4001, "error": KEY}, Why.AUTH),
        ("assemblyai", {"type": "Error", "error_code": 3009, "error": "no"}, Why.RATE_LIMITED),
        ("assemblyai", {"type": "Error", "error_code": 4008, "error": "no"}, Why.CUT),
        ("assemblyai", {"error": "no"}, Why.FAILED),
    ],
)
def test_a_vendor_that_gives_up_says_why(name: str, message: dict[str, Any], why: Why) -> None:
    with pytest.raises(SpeechFailed) as failure:
        Bench(name).take(message)
    assert failure.value.why is why
    assert KEY not in str(failure.value)
    assert (failure.value.retry_after_s is not None) == (name == "speechmatics" and why is Why.RATE_LIMITED)


@pytest.mark.parametrize(
    ("name", "code", "why"),
    [
        ("speechmatics", 4005, Why.RATE_LIMITED),
        ("speechmatics", 1006, Why.CUT),
        ("speechmatics", None, Why.CUT),
        ("deepgram", 1011, Why.CUT),
        ("deepgram", 1008, Why.BAD_REQUEST),
        ("assemblyai", 4001, Why.AUTH),
        ("assemblyai", 1000, Why.CUT),
        ("scribe", 1008, Why.AUTH),
        ("flux", 1011, Why.CUT),
    ],
)
def test_the_code_of_a_close_says_why(name: str, code: int | None, why: Why) -> None:
    assert Bench(name).wire.why_closed(code) is why


def turn(event: str, text: str, index: int, **more: Any) -> dict[str, Any]:
    return {"type": "TurnInfo", "event": event, "turn_index": index, "transcript": text, **more}


def test_a_turn_of_flux_is_known_by_its_number() -> None:
    """Doubled without numbers of messages."""
    bench = Bench("flux")
    for message in (turn("StartOfTurn", "yes", 0), turn("EndOfTurn", "yes", 0), turn("Update", "no", 1)):
        bench.audio(0.5)
        bench.take(message)
        bench.take(turn("EndOfTurn", "yes", 0))
    assert [event.text for event in bench.told.events if isinstance(event, Heard)] == ["yes", "yes", "no"]


def test_a_message_of_flux_that_was_overtaken_is_void() -> None:
    bench = Bench("flux")
    for number, text in ((1, "one"), (3, "one two three"), (2, "one two")):
        bench.audio(0.5)
        bench.take(turn("Update", text, 0, sequence_id=number))
    assert [event.text for event in bench.told.events if isinstance(event, Heard)] == ["one", "one two three"]


@pytest.mark.parametrize(
    ("name", "voice", "final"),
    [
        (
            "deepgram",
            {"type": "SpeechStarted", "timestamp": 0.2},
            {
                "type": "Results",
                "start": 0.0,
                "duration": 1.0,
                "is_final": True,
                "speech_final": True,
                "channel": {"alternatives": [{"transcript": "yes", "words": [{"start": 0.3, "end": 0.6}]}]},
            },
        ),
        (
            "assemblyai",
            {"type": "SpeechStarted", "timestamp": 200},
            {
                "type": "Turn",
                "turn_order": 0,
                "end_of_turn": True,
                "turn_is_formatted": True,
                "transcript": "yes",
                "words": [{"start": 300, "end": 600, "text": "yes"}],
            },
        ),
    ],
)
def test_voice_that_is_told_again_after_its_words_is_no_new_sound(
    name: str, voice: dict[str, Any], final: dict[str, Any]
) -> None:
    bench = Bench(name)
    for message in (voice, final, voice):
        bench.audio(0.5)
        bench.take(message)
    assert sum(isinstance(event, SpeechStarted) for event in bench.told.events) == 1
    assert not bench.told.is_open


@pytest.mark.parametrize(
    ("config", "options", "field"),
    [
        (SpeechmaticsConfig, {"silence_s": 0.8}, "silence_s"),
        (SpeechmaticsConfig, {"max_delay_s": 0.5}, "max_delay_s"),
        (DeepgramConfig, {"utterance_end_s": 0.5}, "utterance_end_s"),
        (FluxConfig, {"eager_threshold": 0.8}, "eager_threshold"),
        (FluxConfig, {"end_threshold": 0.2}, "end_threshold"),
        (ScribeConfig, {"silence_s": 0.1}, "silence_s"),
        (ScribeConfig, {"voice_threshold": 0.0}, "voice_threshold"),
        (OpenAITranscriberConfig, {"key": ""}, "key"),
    ],
)
def test_settings_that_the_vendor_would_refuse_are_refused_at_once(
    config: Any, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(ValueError, match=field):
        config(**{"key": KEY, **options})


PLACES = {"start_time": 0.2, "end_time": 0.6}
BEST = {"alternatives": [{"transcript": "tea", "words": [{"start": 0.2, "end": 0.6}]}]}
TURN = {"type": "Turn", "turn_order": 0, "transcript": "tea", "turn_is_formatted": True}


@pytest.mark.parametrize(
    ("name", "interim", "final"),
    [
        (
            "speechmatics",
            {"message": "AddPartialTranscript", "metadata": {**PLACES, "transcript": "tea"}},
            {"message": "AddTranscript", "metadata": {**PLACES, "transcript": "tea "}},
        ),
        (
            "deepgram",
            {"type": "Results", "start": 0.0, "duration": 1.0, "channel": BEST},
            {"type": "Results", "start": 0.0, "duration": 1.2, "is_final": True, "speech_final": True, "channel": BEST},
        ),
        ("flux", turn("StartOfTurn", "tea", 0, sequence_id=1), turn("EndOfTurn", "tea", 0, sequence_id=2)),
        ("assemblyai", {**TURN, "end_of_turn": False}, {**TURN, "end_of_turn": True}),
    ],
)
def test_words_that_were_not_waited_for_any_longer_are_not_heard_again(
    name: str, interim: dict[str, Any], final: dict[str, Any]
) -> None:
    bench = Bench(name)
    bench.audio(1.0)
    bench.take(interim)
    bench.now_s += 60
    assert bench.told.expire()
    bench.wire.gave_up()
    bench.audio(1.0)
    bench.take(final)
    heard = [event for event in bench.told.events if isinstance(event, Heard)]
    assert heard == [Heard("tea", is_final=False), Heard("tea")]
    assert not bench.told.is_open
