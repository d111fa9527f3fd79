"""Turn taking that people like: answers thought of early, coughs and "hello?" that stop nothing, failures told."""

from __future__ import annotations

import httpx
import pytest
import trio
from trio.testing import MockClock

from adapters.providers.twilio.provider import TwilioConfig, TwilioProvider
from engine.errors import ModelFailed
from engine.events import Context, HangUp, Noted, ReplyPart, TurnLikelyOver, TurnOver, TurnResumed
from engine.observe.timeline import What
from engine.settings import AgentSettings
from tests.fakes.puppet import PuppetAgent, echo
from tests.fakes.stage import stage

THINKS_S = 0.3


def slow_echo(context: Context) -> list[ReplyPart | float | Exception]:
    return [THINKS_S, *echo(context)]


async def test_an_answer_thought_of_while_it_is_waited_is_heard_as_soon_as_the_turn_is_over(
    autojump_clock: MockClock,
) -> None:
    agent = PuppetAgent(slow_echo)
    async with stage(agent) as on, on.call() as caller:
        await trio.sleep(3)
        agent.transcriber.hears("good morning")
        said_at = trio.current_time()
        await trio.sleep(0.35)
        assert len(agent.model.contexts) == 1
        assert caller.heard_s == pytest.approx(24 * 0.06, abs=0.1)  # the greeting alone
        await trio.sleep(3)
        assert on.texts(What.SAID)[-1] == "You said good morning."
        assert on.last(What.SAID)["response_ms"] == pytest.approx(400, abs=30)
        assert len(agent.model.contexts) == 1
        assert on.at(What.HEARD) - said_at == pytest.approx(0.4, abs=0.02)


async def test_without_drafts_the_model_is_asked_once_the_turn_is_over(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(slow_echo)
    async with stage(agent, drafts=False) as on, on.call():
        await trio.sleep(3)
        agent.transcriber.hears("good morning")
        await trio.sleep(0.35)
        assert not agent.model.contexts
        await trio.sleep(3)
        assert on.last(What.SAID)["response_ms"] == pytest.approx(700, abs=30)


async def test_a_draft_is_thrown_away_when_the_caller_goes_on_and_nobody_knows_of_it(
    autojump_clock: MockClock,
) -> None:
    def noting(context: Context) -> list[ReplyPart | float | Exception]:
        return [Noted({"draft": context[-1].text}), *echo(context)]

    agent = PuppetAgent(noting)
    async with stage(agent) as on, on.call():
        await trio.sleep(3)
        agent.transcriber.hears("I would like a table")
        await trio.sleep(0.2)
        agent.transcriber.hears("for two")
        await trio.sleep(4)
        assert on.texts(What.HEARD) == ["I would like a table for two"]
        assert on.texts(What.SAID)[1:] == ["You said I would like a table for two."]
        contexts = [[message.text for message in context] for context in agent.model.contexts]
        greeting = "Hello, this is the desk."
        assert contexts == [[greeting, "I would like a table"], [greeting, "I would like a table for two"]]
        assert on.value("turns_total", pipeline="custom", outcome="superseded") == 0
        agent.transcriber.hears("thanks")
        await trio.sleep(4)
        assert agent.model.contexts[-1].memory.entities == {"draft": "I would like a table for two"}


async def test_a_draft_that_fails_is_asked_again_when_the_turn_is_over(autojump_clock: MockClock) -> None:
    failures = [ModelFailed("puppet", "500")]

    def failing_once(context: Context) -> list[ReplyPart | float | Exception]:
        return [failures.pop()] if failures else list(echo(context))

    agent = PuppetAgent(failing_once)
    async with stage(agent) as on, on.call():
        await trio.sleep(3)
        agent.transcriber.hears("good morning")
        await trio.sleep(4)
        assert on.texts(What.SAID)[1:] == ["You said good morning."]


async def test_a_draft_that_hangs_up_does_so_only_once_the_turn_is_over(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(lambda context: [HangUp()] if context[-1].text == "bye" else echo(context))
    async with stage(agent) as on, on.call() as caller:
        await trio.sleep(3)
        agent.transcriber.hears("bye")
        await trio.sleep(0.2)
        agent.transcriber.hears("is what my brother says")
        await trio.sleep(4)
        assert on.texts(What.SAID)[-1] == "You said bye is what my brother says."
        agent.transcriber.hears("bye")
        await on.over(caller)
        assert on.last(What.CALL_ENDED)["cause"] == "agent_hangup"


async def test_a_recogniser_that_decides_turns_is_believed(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(slow_echo)
    agent.decides_turns = True
    async with stage(agent) as on, on.call():
        await trio.sleep(3)
        agent.transcriber.onset()
        agent.transcriber.interim("good morn")
        agent.transcriber.interim("good morning")
        agent.transcriber.tells(TurnLikelyOver())
        await trio.sleep(0.5)
        assert agent.model.contexts[-1][-1].text == "good morning"
        assert len(on.texts(What.SAID)) == 1
        agent.transcriber.tells(TurnResumed())
        await trio.sleep(0.1)
        agent.transcriber.words("good morning to you")
        agent.transcriber.tells(TurnOver())
        over_at = trio.current_time()
        await trio.sleep(3)
        assert on.at(What.HEARD) == pytest.approx(over_at, abs=0.02)
        assert on.texts(What.SAID)[1:] == ["You said good morning to you."]


async def test_hello_while_an_answer_is_thought_of_does_not_start_it_anew(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(lambda context: [4.0, *echo(context)])
    async with stage(agent) as on, on.call():
        await trio.sleep(3)
        agent.transcriber.hears("what is the weather")
        await trio.sleep(2)
        agent.transcriber.hears("Hello?")
        await trio.sleep(5)
        assert on.texts(What.SAID)[1:] == ["You said what is the weather."]
        assert len(agent.model.contexts) == 1


async def test_a_cough_while_an_answer_is_thought_of_holds_it_back_and_no_longer(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(lambda context: [1.0, *echo(context)])
    async with stage(agent) as on, on.call():
        await trio.sleep(3)
        agent.transcriber.hears("what is the weather")
        await trio.sleep(0.8)
        agent.transcriber.onset()
        await trio.sleep(1.0)
        assert len(on.texts(What.SAID)) == 1
        agent.transcriber.words("")
        await trio.sleep(3)
        assert on.texts(What.SAID)[1:] == ["You said what is the weather."]
        assert len(agent.model.contexts) == 1


async def test_an_answer_without_end_is_cut_off(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(lambda _: [f"Sentence number {number}. " for number in range(1000)])
    async with stage(agent, max_answer_s=10.0, silence_s=100.0) as on, on.call() as caller:
        await trio.sleep(3)
        heard_s = caller.heard_s
        agent.transcriber.hears("talk")
        await trio.sleep(20)
        assert 10 <= caller.heard_s - heard_s < 12
        assert on.value("turns_total", pipeline="custom", outcome="completed") == 1


@pytest.mark.parametrize("works", [True, False])
async def test_a_call_that_fails_is_apologised_for_and_given_to_somebody_else(
    works: bool, autojump_clock: MockClock
) -> None:
    asked: list[str] = []

    def rest(request: httpx.Request) -> httpx.Response:
        asked.append(request.content.decode())
        return httpx.Response(200 if works else 500, json={"sid": "CA"})

    provider = TwilioProvider(TwilioConfig(auth_token="secret", account_sid="AC1"))
    agent = PuppetAgent(lambda _: [ModelFailed("puppet", "500")])
    settings = AgentSettings(transfers={"people": "+15550109999"}, failure_transfer="people")
    clients = lambda: httpx.AsyncClient(transport=httpx.MockTransport(rest))  # noqa: E731 - a factory
    opening = stage(agent, provider=provider, new_http_client=clients, agent_settings=settings, model_failures=0)
    async with opening as on, on.call() as caller:
        await trio.sleep(3)
        heard_s = caller.heard_s
        agent.transcriber.hears("hello there")
        await on.over(caller)
        assert caller.heard_s - heard_s == pytest.approx(len(agent.phrases.apology) * 0.06, abs=0.1)
        assert on.last(What.CALL_ENDED)["cause"] == "llm_failed"
        assert "%2B15550109999" in asked[0]
        # Who has been connected is not hung up on; who has not, is.
        assert len(asked) == (1 if works else 2)


async def test_a_long_silence_in_the_middle_of_an_answer_is_filled_and_only_what_was_heard_of_it_is_kept(
    autojump_clock: MockClock,
) -> None:
    agent = PuppetAgent(lambda _: ["Let me look. ", 5.0, "It is in the second drawer from the left."])
    async with stage(agent) as on, on.call():
        await trio.sleep(3)
        agent.transcriber.hears("where is it")
        await trio.sleep(0.4 + 0.72 + 2.6)
        assert on.count(What.FILLER) == 1
        await trio.sleep(1.6 + 0.6)
        agent.transcriber.onset()
        await trio.sleep(0.2)
        agent.transcriber.words("never mind")
        await trio.sleep(3)
        said = on.texts(What.SAID)[1]
        assert said.startswith("Let me look. It is")
        assert not said.endswith("left.")


async def test_a_model_that_stalls_behind_a_whole_sentence_is_the_models_failure(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(
        lambda context: ["Let me look. ", 999.0] if context[-1].text == "where is it" else echo(context)
    )
    async with stage(agent) as on, on.call():
        await trio.sleep(3)
        agent.transcriber.hears("where is it")
        await trio.sleep(14)
        assert on.texts(What.SAID)[1:] == ["Let me look.", agent.phrases.sorry]
        agent.transcriber.hears("never mind")
        await trio.sleep(3)
        assert on.texts(What.SAID)[-1] == "You said never mind."


class Thinker(PuppetAgent):
    """Its model takes its time."""

    patience_s = 23.0


async def test_who_takes_his_time_is_waited_for_and_the_caller_never_hears_nothing_for_long(
    autojump_clock: MockClock,
) -> None:
    agent = Thinker(lambda _: [25.0, "There you are. ", 25.0, "And that is all."])
    async with stage(agent) as on, on.call() as caller:
        await trio.sleep(3)
        agent.transcriber.hears("how long?")
        at_s, heard_s, quiet_s = trio.current_time(), caller.heard_s, 0.0
        while on.count(What.SAID) < 2:
            if caller.heard_s > heard_s:
                at_s, heard_s = trio.current_time(), caller.heard_s
            quiet_s = max(quiet_s, trio.current_time() - at_s)
            await trio.sleep(0.1)
        assert on.texts(What.SAID)[-1] == "There you are. And that is all."
        assert quiet_s < 8
        assert not caller.gone.is_set()


async def test_who_has_had_his_time_is_given_up_with_a_word_of_regret(autojump_clock: MockClock) -> None:
    agent = Thinker(lambda _: [999.0])
    async with stage(agent, silence_s=60) as on, on.call() as caller:
        await trio.sleep(3)
        agent.transcriber.hears("how long?")
        asked_at = trio.current_time()
        while on.texts(What.SAID)[-1] != agent.phrases.sorry:  # noqa: ASYNC110 - what is heard
            await trio.sleep(0.1)
        assert trio.current_time() - asked_at == pytest.approx(30 + len(agent.phrases.sorry) * 0.06, abs=1.0)
        assert on.count(What.FILLER) == pytest.approx(5, abs=1)
        assert not caller.gone.is_set()
