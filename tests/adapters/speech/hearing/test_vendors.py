"""What is peculiar to each recogniser, against its cloud: the pitfalls of its protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import trio
from trio.testing import MockClock

from adapters.speech.hearing.assemblyai import AssemblyAIConfig, AssemblyAITranscriberVendor
from adapters.speech.hearing.deepgram import DeepgramConfig, DeepgramTranscriberVendor
from adapters.speech.hearing.flux import FluxConfig, FluxTranscriberVendor
from adapters.speech.hearing.scribe import ScribeConfig, ScribeTranscriberVendor
from adapters.speech.hearing.speechmatics import SpeechmaticsConfig, SpeechmaticsTranscriberVendor
from adapters.speech.hearing.streaming import StreamingTranscriber
from engine.errors import SpeechFailed, Why
from engine.events import MULAW_8K, Heard, SpeechStarted, SpeechStopped, TurnLikelyOver, TurnOver, TurnResumed
from engine.runtime.ledger import Ledger
from tests.contract.ears import NoBook, Said, call_over, check, finals, hear
from tests.fakes.clouds.assemblyai import AssemblyAICloud
from tests.fakes.clouds.deepgram_listen import DeepgramCloud
from tests.fakes.clouds.flux import FluxCloud
from tests.fakes.clouds.listening import Acuity, ListeningCloud, Message, packed
from tests.fakes.clouds.loopback import dialled
from tests.fakes.clouds.scribe import ScribeCloud
from tests.fakes.clouds.speechmatics import SpeechmaticsCloud, failed
from tests.fakes.plain_speech import noise, speak

LINE = MULAW_8K
PATHS: Mapping[type[ListeningCloud], tuple[Any, Any]] = {
    SpeechmaticsCloud: (SpeechmaticsConfig, SpeechmaticsTranscriberVendor),
    DeepgramCloud: (DeepgramConfig, DeepgramTranscriberVendor),
    FluxCloud: (FluxConfig, FluxTranscriberVendor),
    ScribeCloud: (ScribeConfig, ScribeTranscriberVendor),
    AssemblyAICloud: (AssemblyAIConfig, AssemblyAITranscriberVendor),
}


@asynccontextmanager
async def opened(cloud: Any, nursery: trio.Nursery, **options: Any) -> AsyncIterator[StreamingTranscriber]:
    config, vendor = PATHS[type(cloud)]
    made = vendor(config("k", url=f"ws://cloud{cloud.path}", **options), dialled(cloud, nursery))
    async with made.open(call_over(LINE), Ledger("c1", NoBook())) as ear:
        yield ear


WITH_TIMES = "committed_transcript_with_timestamps"


def utterance(text: str) -> bytes:
    return LINE.silence(0.4) + speak(text, LINE) + LINE.silence(1.0)


def kinds(said: Said) -> list[str]:
    """The events without interims, by name."""
    return [type(event).__name__ for _, event in said if not (isinstance(event, Heard) and not event.is_final)]


# --- Speechmatics -------------------------------------------------------------------------------------------------


async def test_the_end_of_a_stream_tells_how_many_frames_were_sent(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = SpeechmaticsCloud()
    async with opened(cloud, nursery) as ear:
        await hear(ear, utterance("hello"))
        ear.send(LINE.silence(0.02))
    session: Any = cloud.sessions[0]
    assert session.last_seq_no == session.told.audio_messages > 10
    assert cloud.faults == []


async def test_the_recogniser_is_told_what_the_settings_say(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    cloud = SpeechmaticsCloud()
    options = {"model": "standard", "vocabulary": ("gnocchi",), "transcription": {"domain": "medical"}}
    async with opened(cloud, nursery, **options):
        pass
    start = cloud.sessions[0].told.texts[0]
    assert start["audio_format"] == {"type": "raw", "encoding": "mulaw", "sample_rate": 8000}
    config = start["transcription_config"]
    assert (config["model"], config["domain"], config["enable_partials"]) == ("standard", "medical", True)
    assert config["additional_vocab"] == [{"content": "gnocchi"}]
    assert "operating_point" not in config  # it and a model are an error


async def test_a_vendor_that_does_not_acknowledge_gets_no_more_and_loses_the_oldest(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = SpeechmaticsCloud()
    async with opened(cloud, nursery) as ear:
        cloud.acknowledges = False
        await hear(ear, LINE.silence(8.0))
        told = cloud.sessions[0].told
        assert 2.0 <= told.audio_s <= 2.3
        assert 3.5 <= ear.dropped_s <= 4.0
        cloud.acknowledges = True
        ear.send(LINE.silence(0.02))
        await _acknowledge(cloud)
        began_s = trio.current_time()
        said = await hear(ear, utterance("are you back"), for_s=3.0)
    assert finals(said) == ["are you back"]
    started = next(event for _, event in said if isinstance(event, SpeechStarted))
    assert abs(started.at_s - (began_s + 0.4)) < 0.1  # on our clock, whatever was lost before


async def _acknowledge(cloud: SpeechmaticsCloud) -> None:
    """The vendor catches up."""
    session: Any = cloud.sessions[0]
    await session.socket.send_message(packed({"message": "AudioAdded", "seq_no": session.told.audio_messages}))


async def test_final_words_come_in_pieces_and_are_joined(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    def pieces(messages: list[Message]) -> list[Message]:
        """The punctuation comes by itself, without a space, and doubled."""
        changed = []
        for message in messages:
            said = orjson.loads(message)
            if said["message"] == "EndOfUtterance":
                metadata = {"start_time": 1.0, "end_time": 1.0, "transcript": ". "}
                dot = packed({"message": "AddTranscript", "metadata": metadata})
                changed.extend([dot, dot])
            if said["message"] == "AddTranscript":
                said["metadata"]["transcript"] = said["metadata"]["transcript"].rstrip()
                said["metadata"]["end_time"] = min(said["metadata"]["end_time"], 1.0)
            changed.append(packed(said))
        return changed

    cloud = SpeechmaticsCloud()
    cloud.manners.twist = pieces
    audio = LINE.silence(0.1) + speak("hello you", LINE) + LINE.silence(0.24) + speak("there", LINE)
    async with opened(cloud, nursery) as ear:
        said = await hear(ear, audio + LINE.silence(0.6), for_s=0.3)
    assert finals(said) == ["hello you there."]


async def test_a_full_quota_is_told_with_the_time_to_wait(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    cloud = SpeechmaticsCloud()
    cloud.manners.twist = lambda _: [failed("quota_exceeded")]
    with pytest.raises(SpeechFailed) as failure:
        async with opened(cloud, nursery):
            pytest.fail("it opened")
    assert (failure.value.why, failure.value.retry_after_s) == (Why.RATE_LIMITED, 5.0)


async def test_whoever_decides_on_turns_elsewhere_is_not_told_of_them(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with opened(SpeechmaticsCloud(), nursery, decides_turns=False) as ear:
        said = await hear(ear, utterance("hello"), for_s=0.5)
    assert kinds(said) == ["SpeechStarted", "SpeechStopped", "Heard"]


# --- Deepgram -----------------------------------------------------------------------------------------------------


async def test_a_silent_line_is_kept_alive_every_four_seconds(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    cloud = DeepgramCloud()
    async with opened(cloud, nursery) as ear:
        await hear(ear, b"", for_s=21.0)
    assert [text["type"] for text in cloud.sessions[0].told.texts] == [*["KeepAlive"] * 5, "CloseStream"]


async def test_the_end_of_an_utterance_ends_a_turn_that_noise_keeps_open(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = DeepgramCloud()
    cloud.says_speech_final = False
    async with opened(cloud, nursery) as ear:
        said = await hear(ear, utterance("over the noise"), for_s=0.5)
    check(said, decides_turns=True)
    assert finals(said) == ["over the noise"]
    assert kinds(said)[-1] == "TurnOver"


async def test_an_utterance_that_ends_twice_is_heard_once(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """speech_final and UtteranceEnd, as it comes by default; -1 where the vendor does not know the last word."""

    def unknown(messages: list[Message]) -> list[Message]:
        end = packed({"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": -1})
        return [*messages, end] if any(b'"speech_final":true' in str(each).encode() for each in messages) else messages

    cloud = DeepgramCloud()
    cloud.manners.twist = unknown
    async with opened(cloud, nursery) as ear:
        said = await hear(ear, utterance("once"), for_s=0.5)
    assert kinds(said) == ["SpeechStarted", "SpeechStopped", "Heard", "TurnOver"]


async def test_voice_comes_before_any_word_and_is_taken_back_without(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = DeepgramCloud()
    async with opened(cloud, nursery) as ear:
        began_s = trio.current_time()
        said = await hear(ear, LINE.silence(0.2) + noise(0.3, LINE) + LINE.silence(2.5))
    assert kinds(said) == ["SpeechStarted", "SpeechStopped", "Heard"]
    assert said[0][0] - began_s < 0.4  # as soon as the vendor is sure
    assert said[-1][0] - said[0][0] <= 2.1
    assert finals(said) == [""]


# --- Flux ---------------------------------------------------------------------------------------------------------


async def test_flux_thinks_aloud_about_the_end_of_a_turn(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    audio = LINE.silence(0.3) + speak("I would like", LINE) + LINE.silence(0.3) + speak("some tea", LINE)
    cloud = FluxCloud(acuity=Acuity(pause_s=0.2, endpoint_s=0.6))
    async with opened(cloud, nursery) as ear:
        said = await hear(ear, audio + LINE.silence(1.0), for_s=0.5)
    check(said, decides_turns=True)
    expected = ["SpeechStarted", "TurnLikelyOver", "TurnResumed", "TurnLikelyOver"]
    assert kinds(said) == [*expected, "SpeechStopped", "Heard", "TurnOver"]
    events = [event for _, event in said]
    before = events[events.index(TurnLikelyOver()) - 1]
    assert before == Heard("I would like", is_final=False)
    assert finals(said) == ["I would like some tea"]  # the words of a turn are told whole each time


async def test_without_an_eager_threshold_flux_is_sure_or_silent(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = FluxCloud()
    async with opened(cloud, nursery, eager_threshold=None, keyterms=("a b", "c")) as ear:
        said = await hear(ear, utterance("yes"), for_s=0.5)
    assert kinds(said) == ["SpeechStarted", "SpeechStopped", "Heard", "TurnOver"]
    assert cloud.requests[0].query["keyterm"] == ["a b", "c"]


async def test_flux_hears_silence_when_the_line_sends_nothing(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    cloud = FluxCloud()
    async with opened(cloud, nursery) as ear:
        await hear(ear, b"", for_s=10.0)
        assert 9.0 <= cloud.sessions[0].told.audio_s <= 10.0
    assert [text["type"] for text in cloud.sessions[0].told.texts] == ["CloseStream"]
    assert cloud.faults == []


async def test_times_of_words_are_used_where_flux_gives_them(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    cloud = FluxCloud()
    cloud.word_times = True
    async with opened(cloud, nursery) as ear:
        await hear(ear, b"", for_s=5.0)  # filled with silence, which counts
        began_s = trio.current_time()
        said = await hear(ear, utterance("four words of mine"), for_s=0.5)
    started, stopped = (next(e for _, e in said if isinstance(e, kind)) for kind in (SpeechStarted, SpeechStopped))
    assert started.at_s == pytest.approx(began_s + 0.4, abs=0.07)
    assert stopped.at_s == pytest.approx(began_s + 0.4 + 0.72, abs=0.07)


async def test_a_turn_that_is_never_ended_is_ended_by_the_next(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = FluxCloud()
    cloud.manners.twist = lambda messages: [each for each in messages if b"EndOfTurn" not in str(each).encode()]
    async with opened(cloud, nursery) as ear:
        said = await hear(ear, utterance("first") + utterance("second"), for_s=15.0)
    check(said, decides_turns=True)
    assert finals(said) == ["first", "second"]


# --- Scribe -------------------------------------------------------------------------------------------------------


async def test_a_segment_told_with_and_without_times_is_heard_once(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = ScribeCloud()
    async with opened(cloud, nursery, timestamps=True) as ear:
        said = await hear(ear, utterance("yes") + utterance("yes") + utterance("no"), for_s=0.5)
    check(said, decides_turns=True)
    assert finals(said) == ["yes", "yes", "no"]
    assert cloud.faults == []


@pytest.mark.parametrize("timestamps", [True, False])
async def test_both_variants_of_a_segment_come_in_either_order_asked_for_or_not(
    timestamps: bool, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    def both(messages: list[Message]) -> list[Message]:
        """With times first, half a second of audio before the other."""
        kept.extend(each for each in messages if b'"committed_transcript"' in str(each).encode())
        rest = [each for each in messages if each not in kept]
        for each in [*kept]:
            if session().ear.heard_s - marks.setdefault(each, session().ear.heard_s) >= 0.5:
                kept.remove(each)
                rest.append(each)
        if not timestamps:
            rest += [str(each).replace("committed_transcript", WITH_TIMES) for each in kept if each not in told]
            told.extend(kept)
        return rest

    kept: list[Message] = []
    told: list[Message] = []
    marks: dict[Message, float] = {}
    cloud = ScribeCloud()

    def session() -> Any:
        return cloud.sessions[0]

    async with opened(cloud, nursery, timestamps=timestamps) as ear:
        cloud.manners.twist = both
        said = await hear(ear, utterance("tea") + utterance("and milk"), for_s=0.5)
    check(said, decides_turns=True)
    assert finals(said) == ["tea", "and milk"]


async def test_a_segment_that_is_repeated_as_a_new_one_opens_no_turn(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """The vendor's echo of what it has just committed; and whoever says the same again is heard."""
    echo = packed({"message_type": "partial_transcript", "text": "yes"})
    cloud = ScribeCloud()
    async with opened(cloud, nursery) as ear:
        first = await hear(ear, utterance("yes"), for_s=0.2)
        session: Any = cloud.sessions[0]
        await session.socket.send_message(echo)
        second = await hear(ear, LINE.silence(3.0))
        third = await hear(ear, utterance("yes"), for_s=0.5)
    assert finals(first) == ["yes"]
    assert second == []
    assert finals(third) == ["yes"]


async def test_words_that_were_given_up_on_are_not_heard_again(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """The commit comes after all, when its words have been used."""
    held: list[Message] = []

    def late(messages: list[Message]) -> list[Message]:
        held.extend(each for each in messages if b"committed" in str(each).encode())
        return [each for each in messages if each not in held]

    cloud = ScribeCloud()
    cloud.manners.twist = late
    async with opened(cloud, nursery) as ear:
        first = await hear(ear, utterance("tea please"), for_s=6.0)
        assert finals(first) == ["tea please"]
        cloud.manners.twist = None
        session: Any = cloud.sessions[0]
        await session.socket.send_message(str(held[0]).replace("tea please", "Tea, please."))
        second = await hear(ear, LINE.silence(1.0))
        third = await hear(ear, utterance("and milk"), for_s=0.5)
    assert finals(second) == []
    assert finals(third) == ["and milk"]


async def test_what_passes_by_itself_ends_no_session(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    cloud = ScribeCloud()
    throttled = packed({"message_type": "commit_throttled", "error": "no"})
    cloud.manners.twist = lambda messages: [throttled, *messages]
    async with opened(cloud, nursery) as ear:
        said = await hear(ear, utterance("still here"), for_s=0.5)
    assert finals(said) == ["still here"]


# --- AssemblyAI ---------------------------------------------------------------------------------------------------


def punctuate(text: str) -> str:
    return f"{text.capitalize()}."


async def test_a_turn_told_with_and_without_punctuation_is_heard_once_with(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = AssemblyAICloud()
    cloud.punctuate = punctuate
    async with opened(cloud, nursery, format_turns=True) as ear:
        said = await hear(ear, utterance("good evening"), for_s=1.0)
    assert kinds(said) == ["SpeechStarted", "TurnLikelyOver", "SpeechStopped", "Heard", "TurnOver"]
    assert finals(said) == ["Good evening."]


async def test_punctuation_that_does_not_come_is_done_without(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    cloud = AssemblyAICloud()
    cloud.never_formats = True
    async with opened(cloud, nursery, model="universal-streaming-english") as ear:
        first = await hear(ear, utterance("good evening"), for_s=1.0)
        second = await hear(ear, utterance("once more"), for_s=1.0)
    check([*first, *second], decides_turns=True)
    assert finals([*first, *second]) == ["good evening", "once more"]
    likely_s = next(at for at, event in first if isinstance(event, TurnLikelyOver))
    over_s = next(at for at, event in first if isinstance(event, TurnOver))
    assert over_s - likely_s == pytest.approx(0.5, abs=0.05)
    assert TurnLikelyOver() not in [event for _, event in second]  # it is not waited for again


async def test_turns_need_not_be_told_twice(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    cloud = AssemblyAICloud()
    async with opened(cloud, nursery, keyterms=("a", "b"), silence_s=0.4) as ear:
        said = await hear(ear, utterance("good evening"), for_s=0.5)
    assert kinds(said) == ["SpeechStarted", "SpeechStopped", "Heard", "TurnOver"]
    query = cloud.requests[0]
    assert query.one("keyterms_prompt") == '["a","b"]'
    assert query.one("min_turn_silence") == "400"
    assert "format_turns" not in query.query  # of a model that punctuates by itself
    assert query.headers["authorization"] == "k"


async def test_a_pause_within_a_turn_is_time_to_think(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """The vendor tells the words of a pause as an utterance, whether or not the turn is over."""

    def pausing(messages: list[Message]) -> list[Message]:
        told = [orjson.loads(each) for each in messages]
        for said in told:
            if said["type"] == "Turn" and not said["end_of_turn"] and said["words"][-1]["text"] == "like":
                said["utterance"] = "I would like"
        return [packed(said) for said in told]

    cloud = AssemblyAICloud()
    cloud.manners.twist = pausing
    audio = LINE.silence(0.3) + speak("I would like", LINE) + LINE.silence(0.26) + speak("some tea", LINE)
    async with opened(cloud, nursery) as ear:
        said = await hear(ear, audio + LINE.silence(1.0), for_s=0.5)
    check(said, decides_turns=True)
    assert kinds(said)[:3] == ["SpeechStarted", "TurnLikelyOver", "TurnResumed"]
    assert finals(said) == ["I would like some tea"]


async def test_a_long_say_of_which_nothing_is_told_until_its_end_is_one(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """The models that punctuate tell the first words, and then nothing before there is a pause."""
    story = "this is a long story that goes on and on " * 8

    def first_and_last(messages: list[Message]) -> list[Message]:
        told = [orjson.loads(each) for each in messages]
        return [packed(said) for said in told if said["type"] != "Turn" or said["end_of_turn"] or _is_short(said)]

    def _is_short(said: dict[str, Any]) -> bool:
        return len(said["words"]) < 4

    cloud = AssemblyAICloud()
    cloud.manners.twist = first_and_last
    async with opened(cloud, nursery) as ear:
        said = await hear(ear, utterance(story.strip()), for_s=0.5)
    check(said, decides_turns=True)
    assert finals(said) == [story.strip()]
    assert said[-1][0] - said[0][0] > 12


async def test_a_call_that_ends_in_mid_piece_sends_no_piece_that_is_too_short(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    for frames in range(1, 7):
        cloud = AssemblyAICloud()
        async with opened(cloud, nursery) as ear:
            await hear(ear, LINE.silence(0.02 * frames))
        assert cloud.faults == []
        assert cloud.sessions[0].told.ended_politely


async def test_a_session_is_kept_alive(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    cloud = AssemblyAICloud()
    async with opened(cloud, nursery, query={"inactivity_timeout": "5"}) as ear:
        await hear(ear, b"", for_s=60.0)
        said = await hear(ear, utterance("hello"), for_s=0.5)
    assert finals(said) == ["hello"]
    assert cloud.faults == []


# --- all of them --------------------------------------------------------------------------------------------------


async def test_a_resumed_turn_is_one_turn(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    cloud = FluxCloud(acuity=Acuity(endpoint_s=0.6))
    audio = b"".join(speak(word, LINE) + LINE.silence(0.3) for word in ("one two", "three four", "five six"))
    async with opened(cloud, nursery) as ear:
        said = await hear(ear, audio + LINE.silence(1.0), for_s=0.5)
    assert sum(isinstance(event, TurnResumed) for _, event in said) == 2
    assert finals(said) == ["one two three four five six"]
