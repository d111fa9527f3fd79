"""A call as its caller lives it: greeted, answered, interrupted, left alone, let go of."""

from __future__ import annotations

import httpx
import pytest
import trio
from trio.testing import MockClock

from adapters.providers.twilio.provider import TwilioConfig, TwilioProvider
from engine.errors import ModelFailed
from engine.events import HangUp, SpeechStopped
from engine.observe.timeline import What
from tests.fakes.puppet import PuppetAgent
from tests.fakes.stage import stage

GREETING_S = len("Hello, this is the desk.") * 0.06


async def test_each_turn_sees_the_turns_before_it(autojump_clock: MockClock) -> None:
    agent = PuppetAgent()
    async with stage(agent) as on, on.call():
        for text in ("one", "two"):
            await trio.sleep(3)
            agent.transcriber.hears(text)
        await trio.sleep(3)
        texts = [message.text for message in agent.model.contexts[-1]]
        assert texts == ["Hello, this is the desk.", "one", "You said one.", "two"]


async def test_speech_during_the_answer_stops_it_and_only_what_was_heard_is_remembered(
    autojump_clock: MockClock,
) -> None:
    agent = PuppetAgent(lambda _: ["One is the first. Two is the second. Three is the third."])
    async with stage(agent) as on:
        async with on.call() as caller:
            await trio.sleep(2)
            agent.transcriber.hears("count")
            await trio.sleep(0.4 + 1.3)
            before = trio.current_time()
            agent.transcriber.onset()
            await trio.sleep(0.5)
            assert caller.clears == [pytest.approx(before, abs=0.05)]
            agent.transcriber.words("stop it")
            await trio.sleep(0.5)
            context = agent.model.contexts[-1]
            assert (context[-2].text, context[-2].interrupted) == ("One is the first. Two", True)
            assert context[-1].text == "stop it"
        assert on.value("barge_ins_total", kind="speech") == 1


async def test_words_without_an_onset_come_behind_what_was_heard_of_the_answer(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(lambda _: ["One is the first. Two is the second. Three is the third."])
    async with stage(agent) as on:
        async with on.call():
            await trio.sleep(2)
            agent.transcriber.hears("count")
            await trio.sleep(0.4 + 1.3)
            agent.transcriber.words("stop it")
            await trio.sleep(2)
            _, asked, said, answered_back = [message.text for message in agent.model.contexts[-1]]
            assert (asked, answered_back) == ("count", "stop it")
            assert said.startswith("One is the first. Two")
        assert on.value("context_violations_total", rule="last_not_caller") == 0


async def test_a_cough_while_the_agent_thinks_does_not_cost_the_answer(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(lambda _: [1.0, "Here you are."])
    async with stage(agent) as on, on.call():
        await trio.sleep(2)
        agent.transcriber.hears("please")
        await trio.sleep(0.9)
        agent.transcriber.hears("")
        await trio.sleep(4)
        assert on.texts(What.SAID)[-1] == "Here you are."
        assert [message.text for message in agent.model.contexts[-1]][-1] == "please"


async def test_words_said_before_the_answer_is_heard_join_the_turn(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(lambda context: [1.0, f"You said {context[-1].text}."])
    async with stage(agent) as on, on.call():
        await trio.sleep(2)
        agent.transcriber.hears("I would")
        await trio.sleep(0.9)
        agent.transcriber.hears("like a table")
        await trio.sleep(4)
        assert on.texts(What.SAID)[-1] == "You said I would like a table."


async def test_a_silent_caller_is_asked_before_the_silence_is_too_long(autojump_clock: MockClock) -> None:
    async with stage(PuppetAgent(), silence_s=8) as on, on.call() as caller:
        await trio.sleep(3)
        heard_s, greeted_at_s = caller.heard_s, on.at(What.SAID)
        while caller.heard_s == heard_s:  # noqa: ASYNC110 - seen from outside
            await trio.sleep(0.02)
        assert 7.4 <= trio.current_time() - greeted_at_s <= 8.05


async def test_a_caller_who_answers_is_asked_anew_the_next_time(autojump_clock: MockClock) -> None:
    agent = PuppetAgent()
    async with stage(agent, silence_prompts=1) as on, on.call() as caller:
        for _ in range(3):
            await trio.sleep(12)
            agent.transcriber.hears("yes")
        await trio.sleep(3)
        assert not caller.gone.is_set()
        assert on.texts(What.SAID).count(agent.phrases.still_there) == 3


async def test_a_slow_model_is_covered_by_a_filler(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(lambda _: [4.0, "There you are."])
    async with stage(agent) as on, on.call() as caller:
        await trio.sleep(2)
        heard_s = caller.heard_s
        agent.transcriber.hears("well?")
        await trio.sleep(3.2)
        assert on.count(What.FILLER) == 1
        assert caller.heard_s > heard_s
        await trio.sleep(4)
        assert on.texts(What.SAID)[-1] == "There you are."


async def test_a_caller_whose_words_never_come_is_told_to_wait_and_then_asked_again(autojump_clock: MockClock) -> None:
    """Not left alone until the silence is so long that it is asked about."""
    agent = PuppetAgent()
    async with stage(agent) as on, on.call():
        await trio.sleep(3)
        agent.transcriber.onset()
        agent.transcriber.tells(SpeechStopped(trio.current_time()))
        await trio.sleep(3)
        assert on.count(What.FILLER) == 1
        await trio.sleep(6)
        assert on.texts(What.SAID)[-1] == agent.phrases.say_again
        await trio.sleep(2)
        assert on.count(What.FILLER) == 1


async def test_a_model_that_never_answers_ends_in_an_apology_within_eight_seconds(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(lambda _: [999.0])
    async with stage(agent, model_failures=0) as on, on.call() as caller:
        await trio.sleep(2)
        agent.transcriber.hears("hello?")
        asked_at, heard_s = trio.current_time(), caller.heard_s
        while caller.heard_s < heard_s + len(agent.phrases.filler) * 0.06 + 0.5:  # noqa: ASYNC110 - what is heard
            await trio.sleep(0.1)
        assert trio.current_time() - asked_at < 8
        await on.over(caller)
        apology_s = len(agent.phrases.apology) * 0.06
        assert caller.heard_s - heard_s == pytest.approx(len(agent.phrases.filler) * 0.06 + apology_s, abs=0.1)
        assert on.last(What.CALL_ENDED)["reason"] == "llm_error"
        assert on.value("dead_air_events_total", pipeline="custom", cause="llm") == 1


@pytest.mark.parametrize(
    ("agent", "reason"),
    [
        (PuppetAgent(lambda _: [ModelFailed("puppet", "500")]), "llm_error"),
        (PuppetAgent(lambda _: []), "llm_error"),
        (PuppetAgent(lambda _: ["Half a sentence"], voice_fails=True), "speech_error"),
        (PuppetAgent(lambda _: ["Half a sentence"], voice_stalls=True), "speech_error"),
        (PuppetAgent(lambda _: [KeyError("bug")]), "crash"),
    ],
)
async def test_a_vendor_or_a_bug_that_ends_the_call_is_apologised_for(
    agent: PuppetAgent, reason: str, autojump_clock: MockClock
) -> None:
    async with stage(agent, model_failures=0) as on, on.call() as caller:
        await trio.sleep(3)
        agent.transcriber.hears("hello")
        await on.over(caller)
        assert caller.heard_s >= GREETING_S + len(agent.phrases.apology) * 0.06 - 0.1
        assert on.last(What.CALL_ENDED)["reason"] == reason
        assert on.last(What.CALL_RELEASED)["left"] == 0
    assert agent.open_parts == 0


async def test_a_recogniser_that_breaks_ends_the_call_with_an_apology(autojump_clock: MockClock) -> None:
    agent = PuppetAgent()
    async with stage(agent) as on, on.call() as caller:
        await trio.sleep(3)
        agent.transcriber.breaks()
        await on.over(caller)
        assert caller.heard_s >= GREETING_S + len(agent.phrases.apology) * 0.06 - 0.1
        assert on.last(What.CALL_ENDED)["reason"] == "speech_error"


@pytest.mark.parametrize("agent", [PuppetAgent(open_fails=True), PuppetAgent(open_s=999)])
async def test_vendors_that_do_not_open_are_apologised_for(agent: PuppetAgent, autojump_clock: MockClock) -> None:
    async with stage(agent) as on, on.call() as caller:
        start = trio.current_time()
        with trio.fail_after(13):
            await on.over(caller)
        filler_s = on.count(What.FILLER) * len(agent.phrases.filler) * 0.06
        apology_s = len(agent.phrases.apology) * 0.06
        assert caller.heard_s == pytest.approx(GREETING_S + filler_s + apology_s, abs=0.05)
        assert on.texts(What.SAID) == [agent.phrases.greeting]
        assert trio.current_time() - start < 6.2 + caller.heard_s + 0.5
        assert on.value("silent_calls_total", provider="twilio") == 0
        assert on.last(What.CALL_RELEASED)["left"] == 0


async def test_a_hang_up_while_the_vendors_open_is_seen_at_once(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(open_s=5)
    async with stage(agent) as on, on.call() as caller:
        await trio.sleep(1)
        start = trio.current_time()
        await caller.hang_up()
        await on.over(caller)
        assert trio.current_time() - start < 0.1
        assert on.last(What.CALL_ENDED)["reason"] == "caller_hangup"


async def test_a_caller_who_never_stops_speaking_does_not_hold_the_call_for_ever(autojump_clock: MockClock) -> None:
    agent = PuppetAgent()
    async with stage(agent, no_progress_s=45) as on, on.call() as caller:
        await trio.sleep(3)
        agent.transcriber.onset()
        with trio.fail_after(55):
            await on.over(caller)
        assert on.last(What.CALL_ENDED)["cause"] == "no_progress"


async def test_a_line_without_audio_is_given_up(autojump_clock: MockClock) -> None:
    async with stage(PuppetAgent(), silence_s=1000) as on, on.call(sends_audio=False) as caller:
        start = trio.current_time()
        await on.over(caller)
        assert trio.current_time() - start == pytest.approx(15, abs=1)
        assert on.last(What.CALL_ENDED)["cause"] == "media_timeout"


async def test_a_line_that_breaks_is_noticed_at_once(autojump_clock: MockClock) -> None:
    agent = PuppetAgent()
    async with stage(agent) as on:
        async with on.call() as caller:
            await trio.sleep(1)
            start = trio.current_time()
            caller.drop()
            await on.supervisor.registry.wait_empty()
            assert trio.current_time() - start < 0.2
            caller.gone.set()
        assert on.last(What.CALL_ENDED)["cause"] == "provider_lost"
    assert agent.open_parts == 0


async def test_a_caller_who_comes_back_on_a_new_line_has_no_more_time_than_others(autojump_clock: MockClock) -> None:
    """Else whoever breaks the line again and again talks for as long as they like."""
    call_id = f"CA{'back':0>32}"
    async with stage(PuppetAgent(), max_call_s=120, silence_s=1000, no_progress_s=1000) as on:
        start = trio.current_time()
        for _ in range(2):
            async with on.call(call_id) as caller:
                await trio.sleep(40)
                caller.drop()
                await on.supervisor.registry.wait_empty()
                caller.gone.set()
        async with on.call(call_id) as caller:
            await on.over(caller)
        assert trio.current_time() - start == pytest.approx(120, abs=3)
        assert on.last(What.CALL_ENDED)["reason"] == "max_duration"


async def test_a_vendor_that_never_answers_the_close_is_closed_by_force(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(close_s=999)
    async with stage(agent, close_s=0.9) as on:
        async with on.call() as caller:
            await trio.sleep(1)
            start = trio.current_time()
            await caller.hang_up()
            await on.supervisor.registry.wait_empty()
            assert trio.current_time() - start < 1
        assert on.value("resources_closed_total", kind="speech_client", vendor="custom", how="forced") == 1
        assert on.last(What.CALL_RELEASED)["left"] == 0
    assert agent.open_parts == 0


async def test_a_part_that_stays_open_is_counted_as_leaked(autojump_clock: MockClock) -> None:
    async with stage(PuppetAgent(leaks=True)) as on:
        async with on.call():
            await trio.sleep(1)
        assert on.last(What.CALL_RELEASED)["left"] == 3
        assert on.value("resources_leaked_total", kind="speech_client") == 1
        assert on.value("resources_orphaned", kind="llm_connection") == 1


async def test_a_long_answer_is_no_lack_of_progress(autojump_clock: MockClock) -> None:
    story = "This is one of the many sentences of a story. " * 30
    agent = PuppetAgent(lambda _: [story[:700], 5.0, story[700:]])
    async with stage(agent, no_progress_s=45) as on, on.call() as caller:
        caller.echo_after_s = 0.2
        await trio.sleep(3)
        agent.transcriber.hears("tell me a story")
        await trio.sleep(len(story) * 0.06 + 12)
        assert not caller.gone.is_set()
        assert story.strip() in on.texts(What.SAID)
        assert on.value("dead_air_events_total", pipeline="custom", cause="tts") <= 1


async def test_marks_that_come_late_are_no_dead_air(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(lambda _: ["This is a perfectly good answer of about four seconds, is it not?"])
    async with stage(agent) as on, on.call() as caller:
        caller.echo_after_s = 0.3
        await trio.sleep(3)
        for _ in range(10):
            agent.transcriber.hears("and?")
            await trio.sleep(6.3)
        assert on.value("turns_total", pipeline="custom", outcome="completed") == 10
        assert on.value("dead_air_events_total", pipeline="custom", cause="tts") == 0


async def test_a_caller_with_much_to_say_is_let_finish(autojump_clock: MockClock) -> None:
    agent = PuppetAgent()
    async with stage(agent, no_progress_s=45) as on, on.call() as caller:
        await trio.sleep(3)
        for _ in range(10):
            agent.transcriber.onset()
            await trio.sleep(9)
            agent.transcriber.words("and then")
            agent.transcriber.onset()
            agent.transcriber.words("")
        await trio.sleep(3)
        assert not caller.gone.is_set()
        assert on.count(What.HEARD) == 1


@pytest.mark.parametrize("is_webhook", [True, False])
async def test_an_apology_ends_when_somebody_ends_the_call(is_webhook: bool, autojump_clock: MockClock) -> None:
    agent = PuppetAgent(lambda _: [ModelFailed("puppet", "500")])
    async with stage(agent, model_failures=0) as on, on.call() as caller:
        await trio.sleep(3)
        agent.transcriber.hears("hello")
        await trio.sleep(1)
        asked_at = trio.current_time()
        if is_webhook:
            on.supervisor.call_is_over("twilio", caller.call_id)
        else:
            await caller.hang_up()
        await on.over(caller)
        assert trio.current_time() - asked_at < 0.2
        assert on.last(What.CALL_ENDED)["reason"] == "llm_error"


async def test_a_part_that_ends_by_itself_is_a_failure_that_the_caller_is_told_about(
    autojump_clock: MockClock,
) -> None:
    agent = PuppetAgent(dies_after_s=2.0)
    async with stage(agent) as on, on.call() as caller:
        await on.over(caller)
        assert caller.heard_s >= GREETING_S + len(agent.phrases.apology) * 0.06 - 0.1
        assert on.last(What.CALL_ENDED)["reason"] == "speech_error"
        assert on.last(What.CALL_RELEASED)["left"] == 0


async def test_slow_vendors_are_covered_by_the_greeting_and_a_filler(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(open_s=5)
    async with stage(agent) as on, on.call() as caller:
        await trio.sleep(0.1)
        assert caller.heard_s == pytest.approx(GREETING_S, abs=0.05)
        await trio.sleep(4)
        assert caller.heard_s == pytest.approx(GREETING_S + len(agent.phrases.filler) * 0.06, abs=0.05)
        await trio.sleep(2)
        agent.transcriber.hears("hello there")
        await trio.sleep(3)
        assert on.texts(What.SAID) == [agent.phrases.greeting, "You said hello there."]
        assert on.count(What.FILLER) == 1


async def test_a_provider_that_does_not_answer_the_hang_up_holds_nothing(autojump_clock: MockClock) -> None:
    class Silent(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await trio.sleep_forever()
            raise AssertionError

    agent = PuppetAgent(lambda _: ["Goodbye.", HangUp()], close_s=999)
    provider = TwilioProvider(TwilioConfig(auth_token="secret", account_sid="AC1"))
    client = lambda: httpx.AsyncClient(transport=Silent())  # noqa: E731 - a factory of one line
    async with stage(agent, provider=provider, new_http_client=client) as on, on.call() as caller:
        await trio.sleep(2)
        agent.transcriber.hears("bye")
        await on.over(caller)
        ended, released = (on.at(what) for what in (What.SAID, What.CALL_RELEASED))
        assert released - ended < 1.0
        assert on.last(What.CALL_RELEASED)["released_ms"] == pytest.approx((released - ended) * 1000, abs=50)
        assert on.last(What.CALL_RELEASED)["left"] == 0
