"""FAULTS B and C: vendors that cannot be had, go away, go deaf, stall or talk nonsense, all in the middle of a call."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair

from engine.observe.timeline import What
from tests.fakes.clouds.loopback import Response
from tests.fakes.plain_speech import heard_twice
from tests.fakes.puppet import PuppetAgent
from tests.fakes.stage import stage
from tests.faults.vendored import GREETING, Witness, World, world

# httpx leaves the generators of a response that is broken off to the collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Async generator 'http:ResourceWarning",
    "ignore:Exception ignored in. <async_generator:pytest.PytestUnraisableExceptionWarning",
)

APOLOGY = "I am sorry, something went wrong on our side. Please call again later."
SORRY = "I am sorry, I could not think of an answer. Could you say that again?"
FILLER = "One moment, please."
FAILED = {"error", "timeout"}
"""What is counted of requests."""
ON_THE_WAY = 3000
"""Bytes of an answer of the model, of a story in the middle of a word of its third sentence."""


async def answered(w: World) -> None:
    """A call as it should be."""
    async with w.call() as caller:
        await caller.say("good morning")
        await trio.sleep(3)
        assert caller.answer().endswith("You said good morning."), caller.words
    assert w.on.last(What.CALL_ENDED)["cause"] == "caller_hangup"


async def test_a_whole_call_on_six_vendors(autojump_clock: MockClock) -> None:
    async with world() as w:
        await answered(w)
        assert w.on.texts(What.SAID) == [GREETING, "Turn 2. You said good morning."]
        assert w.requests("deepgram") == {"ok": 1}
        assert w.requests("openai") == {"ok": 1}
        assert w.requests("cartesia") == {"ok": 3}
        assert w.value("llm_tokens_total", vendor="openai", type="input") > 0
        assert w.value("resources_opened_total", kind="speech_client", vendor="deepgram") == 1


# --- 21: at the start of a call -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "how"),
    [*(("ears", how) for how in ("refused", "hangs", "401", "429", "a page")), ("voices", "hangs"), ("voices", "401")],
)
async def test_b21_a_speech_vendor_that_cannot_be_had_ends_in_an_apology_within_eight_seconds(
    role: str, how: str, autojump_clock: MockClock
) -> None:
    async with world(seconds=False) as w:
        behind = getattr(w, role)[0]
        break_start(behind, how)
        async with w.call(wait_s=8.0) as caller:
            assert caller.answer().endswith(APOLOGY), caller.words
            first_s = caller.audio[0][0] - caller.spoke_until_s
            assert first_s <= 2.1 if how == "hangs" else first_s <= 6.0
        end = w.on.last(What.CALL_ENDED)
        assert end["cause"] == "speech_failed"
        attempts = behind.faults.connections
        assert attempts == {"401": 1, "hangs": 2}.get(how, 3)
        if how == "401":
            assert w.around.breakers.not_asked()


@pytest.mark.parametrize("how", ["refused", "hangs", "401", "429", "a page", "302"])
async def test_b21_with_second_vendors_the_call_goes_on(how: str, autojump_clock: MockClock) -> None:
    """Also B 30: a page, or a way to another address, is not the service that was meant."""
    async with world() as w:
        for behinds in (w.ears, w.voices, w.minds):
            break_start(behinds[0], how)
        async with w.call(wait_s=5.0) as caller:
            assert GREETING in caller.words
            assert caller.silence_s() <= 3.5
            await caller.say("good morning")
            await trio.sleep(8)
            assert caller.answer().endswith("You said good morning."), caller.words
            assert caller.silence_s() <= 3.0
        assert w.on.last(What.CALL_ENDED)["cause"] == "caller_hangup"
        for kind, vendor in (("stt", "deepgram"), ("tts", "cartesia"), ("llm", "openai")):
            assert w.value("vendor_failovers_total", kind=kind, vendor=vendor) == 1


def break_start(behind: object, how: str) -> None:
    faults, cloud = behind.faults, behind.cloud  # type: ignore[attr-defined]  # of any cloud
    status = int(how) if how.isdigit() else 200
    page = b"<html>hello</html>"
    match how:
        case "refused":
            faults.refuses = True
        case "hangs":
            faults.hangs = True
        case _ if hasattr(cloud, "manners"):
            cloud.manners.refuses = status
            cloud.manners.page = page
        case _ if hasattr(cloud, "voicebox"):
            cloud.voicebox.refuses = status
            cloud.voicebox.page = page
        case _:
            body = page if how == "a page" else b"{}"
            cloud.manner.refusal = Response(status, {"content-type": "text/html"}, body)


# --- 22 to 26: the recogniser ---------------------------------------------------------------------------------


async def test_b22_a_caller_who_is_muted_for_ten_minutes_is_heard_afterwards(autojump_clock: MockClock) -> None:
    async with world(silence_s=10_000, media_timeout_s=10_000, media_ping_s=10_000, no_progress_s=10_000) as w:
        async with w.call() as caller:
            caller.is_quiet = False  # not a frame
            await trio.sleep(600)
            await caller.say("good morning")
            await trio.sleep(3)
            assert caller.answer().endswith("You said good morning."), caller.words
        assert w.ears[0].faults.connections == 1
        assert w.voices[0].faults.connections <= 2


@pytest.mark.parametrize("at_s", [0.2, 1.4, 2.6, 3.1])
async def test_b23_a_recogniser_that_is_cut_off_in_mid_word_costs_none(at_s: float, autojump_clock: MockClock) -> None:
    """The caller speaks for three seconds."""
    text = "I would like to book a table for two on the terrace at seven in the evening"
    async with world(seconds=False) as w:
        async with w.call() as caller:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(caller.say, text)
                await trio.sleep(at_s)
                w.ears[0].faults.cut()
                await trio.sleep(1.0)
                assert w.ears[0].cloud.sockets_ever == 2
            await trio.sleep(3)
        assert w.on.texts(What.HEARD) == [text]
        assert caller.answer().endswith(f"You said {text}.")
        assert w.value("vendor_reconnects_total", vendor="deepgram", kind="stt", reason="cut") == 1


async def test_b23_a_turn_ends_by_silence_where_its_new_recogniser_does_not_say_so(autojump_clock: MockClock) -> None:
    agent = PuppetAgent()
    agent.decides_turns = True
    async with stage(agent) as on, on.call():
        await trio.sleep(3)
        agent.transcriber.hears("one")
        await trio.sleep(1)
        assert on.texts(What.HEARD) == []  # it is waited for, but not for ever
        await trio.sleep(5)
        assert on.texts(What.HEARD) == ["one"]
        agent.transcriber.decides_turns = False  # as when another one has taken over
        agent.transcriber.hears("two")
        await trio.sleep(1)
        assert on.texts(What.HEARD) == ["one", "two"]


async def test_b24_a_recogniser_that_has_gone_deaf_is_replaced_and_the_caller_is_asked_again(
    autojump_clock: MockClock,
) -> None:
    async with world() as w:
        async with w.call() as caller:
            w.ears[0].faults.down.blackhole = True
            began_s = trio.current_time()
            await caller.say("I would like to book a table for two on the terrace")
            w.ears[0].faults.down.blackhole = False
            await trio.sleep(7.5)
            assert caller.silence_s() <= 3.0
            assert caller.answer() == f"{FILLER} I am sorry, I did not hear you. Could you say that again?"
            assert 7.9 <= caller.audio[-1][0] - began_s <= 10.5
            await caller.say("a table for two")
            await trio.sleep(3)
            assert caller.answer().endswith("You said a table for two.")
        assert w.on.texts(What.HEARD) == ["a table for two"]
        assert w.value("vendor_reconnects_total", vendor="deepgram", kind="stt", reason="silent") == 1


async def test_b25_a_recogniser_that_stops_reading_is_given_up_after_two_seconds(autojump_clock: MockClock) -> None:
    async with world(seconds=False, pair=lockstep_stream_pair) as w:
        async with w.call() as caller:
            w.ears[0].faults.up.stall_after = 0
            async with trio.open_nursery() as nursery:
                nursery.start_soon(caller.say, "good")
                await trio.sleep(0.2)
                w.ears[0].faults.up.stall_after = math.inf
            await trio.sleep(6)
            await caller.say("good morning")
            await trio.sleep(3)
            assert caller.answer().endswith("You said good morning.")
        assert w.ears[0].faults.connections == 2


async def test_b26_results_that_come_twice_are_used_once_and_junk_does_no_harm(autojump_clock: MockClock) -> None:
    async with world(seconds=False) as w:
        junk = ["not json", b"\x00\x01", '{"type":"Results"}', "[" * 5000, '{"type":"' + "x" * 1_000_000 + '"}']
        w.ears[0].cloud.manners.twist = lambda messages: [each for m in messages for each in (m, m, *junk)]
        async with w.call() as caller:
            for text in ("good morning", "a table"):
                await caller.say(text)
                await trio.sleep(3)
                assert caller.answer().endswith(f"You said {text}."), caller.words
        assert w.on.texts(What.HEARD) == ["good morning", "a table"]
        assert w.ears[0].faults.connections == 1


@pytest.mark.parametrize("how", ["as another", "twice"])
async def test_b26_what_arrives_as_another_byte_or_twice_costs_no_words(how: str, autojump_clock: MockClock) -> None:
    async with world(seconds=False) as w:
        way = w.ears[0].faults.down
        if how == "as another":
            way.corrupt_at = 400  # the head of a frame behind the handshake
        else:
            way.dup_at = 6000  # in the final words
        async with w.call() as caller:
            await caller.say("good morning to everybody who is here")
            await trio.sleep(4)
            assert "good morning to everybody who is here" in caller.answer()
        assert w.on.texts(What.HEARD) == ["good morning to everybody who is here"]


# --- 27, 28: the voice ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "seconds"),
    [
        ("stalls", True),
        ("stalls", False),
        ("is cut", False),
        ("drips", True),
        ("is not let through", True),
        ("closes", True),
    ],
)
async def test_b27_a_voice_that_fails_in_mid_sentence_is_heard_out(
    how: str, seconds: bool, autojump_clock: MockClock
) -> None:
    """By another try or in the second voice; nothing is left out, and less than a clause of it is said twice, though
    the fakes speak at four times the pace that is taken for the slowest."""
    async with world(seconds=seconds) as w:
        voice = w.voices[0]
        async with w.call() as caller:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(caller.say, "tell me a story")
                await trio.sleep(1.0)
                match how:
                    case "stalls":
                        voice.cloud.voicebox.stalls_after = 3
                    case "closes":
                        voice.cloud.voicebox.dies_after = 3
                    case "is not let through":
                        await caller_hears(caller)
                        voice.faults.down.stall_after = 0
                    case "drips":
                        voice.faults.down.rate = 1500
                    case "is cut":
                        voice.cloud.voicebox.speed = 2.0
                        await caller_hears(caller)
                        voice.faults.cut()
                with trio.fail_after(8):
                    while not w.requests("cartesia").keys() & FAILED:  # noqa: ASYNC110 - seen from outside
                        await trio.sleep(0.2)
            voice.cloud.voicebox.stalls_after = voice.cloud.voicebox.dies_after = None
            voice.faults.down.rate = voice.faults.down.stall_after = math.inf
            await trio.sleep(14)
        said = w.on.texts(What.SAID)[-1]
        assert said.count("sentence number") == 8, said
        heard = [each.text for each in caller.answered() if each.text.strip() != FILLER]
        assert heard_twice(heard, said) <= 40, heard
        assert w.on.last(What.CALL_ENDED)["cause"] == "caller_hangup"


async def caller_hears(caller: Witness) -> None:
    """Something of the answer has come."""
    begun = len(caller.audio)
    while len(caller.audio) == begun:  # noqa: ASYNC110 - seen from outside
        await trio.sleep(0.02)
    await trio.sleep(0.2)


async def test_b27_of_a_voice_that_makes_all_at_once_two_seconds_wait_at_the_provider(
    autojump_clock: MockClock,
) -> None:
    async with world() as w:
        voice = w.voices[0].cloud
        voice.voicebox.speed, voice.voicebox.chars_per_s = math.inf, 10.0
        w.minds[0].cloud.manner.says = ["This is one sentence of many words, " + "and so on, " * 20 + "and on. "]
        async with w.call() as caller:
            await caller.say("go on")
            await caller_hears(caller)
            queued_s = [caller.queued_s]
            while len(queued_s) < 60:
                await trio.sleep(0.1)
                queued_s.append(caller.queued_s)
            assert voice.audio_sent_s > 25
            assert max(queued_s) <= 2.0
            assert min(queued_s) > 0, "nor does the line run dry"


async def test_b28_audio_of_an_answer_that_was_cut_is_never_heard(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.voices[0].cloud.voicebox.late_pieces = 5
        async with w.call() as caller:
            await caller.say("tell me a story")
            await trio.sleep(2)
            await caller.say("good morning")
            cut_at_s = caller.clears[-1]
            await trio.sleep(4)
            assert caller.answer() == "Turn 3. You said good morning."
            assert not [at_s for at_s, _ in caller.audio if cut_at_s < at_s < caller.spoke_until_s]


# --- 31 to 36, 38: the model; 40 is in test_breakers -----------------------------------------------------------


@pytest.mark.parametrize("status", [401, 429, 500, 529, None])
async def test_c31_a_model_that_refuses_is_regretted_once_and_the_turn_stays(
    status: int | None, autojump_clock: MockClock
) -> None:
    """None: there is no connection at all."""
    async with world(seconds=False, model_failures=1) as w:
        mind = w.minds[0]
        mind.faults.refuses = status is None
        refusal = Response(status or 200, {"retry-after": "1"}, b'{"error":{"message":"no"}}')
        mind.cloud.manner.refusal = refusal if status else None
        async with w.call() as caller:
            await caller.say("good morning")
            await trio.sleep(7.5)
            heard = caller.answer()
            may_pass = status not in (401, 403)
            assert heard.endswith(SORRY if may_pass else APOLOGY), heard
            assert caller.silence_s() <= 3.0
            if may_pass:
                await trio.sleep(16)  # the breaker
                mind.cloud.manner.refusal, mind.faults.refuses = None, False
                await caller.say("a table")
                await trio.sleep(3)
                assert caller.answer().endswith("You said a table.")
                assert "good morning" in str(mind.cloud.bodies[-1])
        attempts = len(mind.cloud.requests) if status else mind.faults.connections
        assert attempts == (4 if may_pass else 1)


@pytest.mark.parametrize("how", ["hangs", "refused", "blackhole"])
async def test_c32_a_model_that_says_nothing_costs_four_seconds_and_a_filler(
    how: str, autojump_clock: MockClock
) -> None:
    async with world() as w:
        async with w.call() as caller:
            mind = w.minds[0]
            mind.cloud.manner.hangs = how == "hangs"
            mind.faults.refuses = how == "refused"
            mind.faults.down.blackhole = how == "blackhole"
            await caller.say("good morning")
            await trio.sleep(7)
            assert caller.answer().endswith("You said good morning.")
            assert caller.silence_s() <= 3.0
        assert w.value("vendor_failovers_total", kind="llm", vendor="openai") == 1
        # Whoever answered is named, not the first choice.
        assert w.value("turn_stage_seconds_count", stage="llm_first_token", vendor="anthropic") == 1
        assert w.value("turn_stage_seconds_count", stage="llm_first_token", vendor="openai") == 0


@pytest.mark.parametrize(
    ("how", "seconds"),
    [
        *((how, False) for how in ("stall", "silent stall", "cut", "close", "error", "bad line")),
        *((how, False) for how in ("stall on the way", "truncated on the way")),
        ("half a character", True),
    ],
)
async def test_c33_c34_an_answer_that_breaks_off_is_finished_from_its_last_whole_sentence(
    how: str, seconds: bool, autojump_clock: MockClock
) -> None:
    async with world(seconds=seconds) as w:
        mind, manner = w.minds[0], w.minds[0].cloud.manner
        place = 14  # in its third sentence
        manner.stall_at = place if how in ("stall", "silent stall") else None
        mind.faults.down.stall_after = ON_THE_WAY if how == "stall on the way" else math.inf
        mind.faults.down.truncate_after = ON_THE_WAY if how == "truncated on the way" else math.inf
        manner.is_silent = how == "silent stall"
        manner.cut_at = place if how == "cut" else None
        manner.close_at = place if how == "close" else None
        words = {
            "error": b'data: {"error":{"message":"overloaded","type":"server_error"}}\n\n',
            "bad line": b"data: {nonsense\n\n",
            "half a character": b'data: {"choices":[{"index":0,"delta":{"content":"\xe2\x82"}}]}\n\n',
        }
        manner.says_at = (place, words[how]) if how in words else None
        async with w.call() as caller:
            await caller.say("tell me a story")
            with trio.move_on_after(5):  # half a character is no failure
                while not w.requests("openai").keys() & FAILED:  # noqa: ASYNC110 - seen from outside
                    await trio.sleep(0.05)
            manner.stall_at = manner.cut_at = manner.close_at = manner.says_at = None
            mind.faults.down.stall_after = mind.faults.down.truncate_after = math.inf
            await trio.sleep(20)
        said = w.on.texts(What.SAID)[-1]
        numbers = [word.rstrip(".") for word in said.split() if word.isdigit()]
        assert numbers == ["1", "2", "3", "4", "5", "6", "7", "8"], said
        assert bool(w.requests("openai").keys() & FAILED) == (how != "half a character")
        assert w.on.last(What.CALL_ENDED)["cause"] == "caller_hangup"


async def test_c34_an_empty_answer_is_asked_for_once_more_and_then_regretted(autojump_clock: MockClock) -> None:
    async with world(seconds=False) as w:
        w.minds[0].cloud.manner.says = [""]
        async with w.call() as caller:
            await caller.say("good morning")
            await trio.sleep(4)
            assert caller.answer().endswith(SORRY)
        assert len(w.minds[0].cloud.requests) == 2


async def test_c35_a_context_that_is_too_long_is_halved_and_nobody_is_greeted_again(autojump_clock: MockClock) -> None:
    async with world(seconds=False) as w:
        async with w.call() as caller:
            for text in ("one of many words", "two of many words", "three of many words"):
                await caller.say(text)
                await trio.sleep(3.5)
            w.minds[0].cloud.manner.limit_chars = 120
            await caller.say("good morning")
            await trio.sleep(3.5)
            assert "You said good morning." in caller.answer(), caller.words
        assert caller.words.count(GREETING) == 1
        assert w.value("context_truncations_total", how="dropped") >= 1
        assert w.value("greeting_repeats_total", pipeline="custom") == 0


async def test_c36_an_answer_without_an_end_is_cut(autojump_clock: MockClock) -> None:
    async with world(max_answer_s=10.0) as w:
        w.minds[0].cloud.manner.says = [f"This is sentence number {number} of many. " for number in range(500)]
        async with w.call() as caller:
            await caller.say("go on")
            await trio.sleep(20)
            assert w.on.texts(What.SAID)[-1].count("sentence") < 25
            await caller.say("stop")
        assert w.minds[0].cloud.requests_open == 0


@pytest.mark.parametrize("after_s", [0.3, 0.6, 2.0])
async def test_c38_no_stale_word_is_spoken_after_a_barge_in(after_s: float, autojump_clock: MockClock) -> None:
    async with world() as w:
        async with w.call() as caller:
            await caller.say("tell me a story")
            await trio.sleep(after_s)
            await caller.say("good morning")
            await trio.sleep(4)
            assert caller.answer().endswith("You said good morning.")
            assert "sentence" not in caller.answer()
        assert w.minds[0].cloud.requests_open == 0
