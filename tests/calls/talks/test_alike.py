"""Whoever hears, thinks and speaks, a call is the same to its caller."""

from __future__ import annotations

import httpx
import pytest
import trio
from trio.testing import MockClock

from adapters.providers.twilio.provider import TwilioConfig, TwilioProvider
from engine.errors import CallEnd, Cause
from engine.observe.timeline import What
from tests.calls.talks.kinds import FAILS, GREETING, KINDS, STORY, WITH_AUDIO, Kind
from tests.fakes.relay_caller import RelayCaller

each = pytest.mark.parametrize("kind", KINDS, ids=str)


@each
async def test_a_caller_is_greeted_heard_and_answered(kind: Kind, autojump_clock: MockClock) -> None:
    async with kind.call() as side:
        await trio.sleep(5)
        assert side.history == [GREETING]
        await side.says("good morning")
        await trio.sleep(3)
        await side.says("thanks")
        await trio.sleep(6)
        on = side.on
    assert side.history == [GREETING, "good morning", "Desk heard good morning.", "thanks", "Desk heard thanks."]
    assert side.end["cause"] == "caller_hangup"
    opened = 4 if kind is KINDS[0] else 2
    assert on.last(What.CALL_RELEASED) == {"opened": opened, "left": 0, "released_ms": pytest.approx(0, abs=50)}
    assert on.value("turns_total", pipeline="custom", outcome="completed") == 2
    assert side.agent.open_parts == 0
    assert on.escaped == []


@each
async def test_words_into_the_answer_stop_it_and_what_was_heard_is_kept(kind: Kind, autojump_clock: MockClock) -> None:
    async with kind.call() as side:
        await trio.sleep(3)
        await side.says("count")
        await trio.sleep(1.7)
        await side.says("stop it")
        await trio.sleep(5)
        heard = side.history[2]
        assert STORY.startswith(heard)
        assert "One is" in heard
        assert heard != STORY
        assert side.history == [GREETING, "count", heard, "stop it", "Desk heard stop it."]
        said = [moment.fields["interrupted"] for moment in side.on.moments if moment.what is What.SAID]
        assert said == [False, True, False]
        assert side.on.value("barge_ins_total", kind="speech") == 1
        assert side.on.value("turns_total", pipeline="custom", outcome="interrupted") == 1


@pytest.mark.parametrize("kind", WITH_AUDIO, ids=str)
async def test_a_cough_into_the_answer_does_not_cost_the_rest_of_it(kind: Kind, autojump_clock: MockClock) -> None:
    async with kind.call() as side:
        await trio.sleep(3)
        await side.says("count")
        await trio.sleep(1.7)
        side.coughs()
        await trio.sleep(6)
        heard, rest = side.history[2:]
        assert STORY.startswith(heard)
        assert STORY.endswith(rest)
        assert len(heard) + len(rest) >= len(STORY) - 1
        assert side.on.value("barge_ins_total", kind="false") == 1
        await side.says("thanks")
        await trio.sleep(3)
        assert side.history[-1] == "Desk heard thanks."


@pytest.mark.parametrize("kind", WITH_AUDIO, ids=str)
async def test_a_cough_into_the_goodbye_does_not_lose_the_hang_up(kind: Kind, autojump_clock: MockClock) -> None:
    async with kind.call() as side:
        await trio.sleep(3)
        await side.says("bye for good")
        await trio.sleep(1.2)
        side.coughs()
        await trio.sleep(0.1)
        assert side.clears
        with trio.fail_after(3):
            await side.over()
    assert side.end["cause"] == "agent_hangup"


@pytest.mark.parametrize(("words", "stops"), [("mhm", False), ("wait a moment", True)])
@pytest.mark.parametrize("kind", WITH_AUDIO, ids=str)
async def test_so_many_words_stop_the_agent_and_fewer_do_not(
    kind: Kind, words: str, stops: bool, autojump_clock: MockClock
) -> None:
    async with kind.call(barge_in_words=2) as side:
        await trio.sleep(3)
        await side.says("count")
        await trio.sleep(1.5)
        side.onset()
        await trio.sleep(0.2)
        assert not side.clears
        side.words(words)
        await trio.sleep(0.1)
        assert bool(side.clears) is stops
        await trio.sleep(6)
        assert side.on.count(What.HEARD) == (2 if stops else 1)
        assert (STORY in side.history) is not stops


@each
async def test_a_silent_caller_is_asked_twice_and_then_let_go(kind: Kind, autojump_clock: MockClock) -> None:
    async with kind.call(silence_s=8, silence_prompts=2) as side:
        with trio.fail_after(60):
            await side.over()
    phrases = side.agent.phrases
    assert side.history == [GREETING, phrases.still_there, phrases.still_there, phrases.goodbye]
    assert side.end["reason"] == "silence"


@each
async def test_the_longest_call_is_warned_and_then_ended(kind: Kind, autojump_clock: MockClock) -> None:
    async with kind.call(max_call_s=180, silence_s=1000, no_progress_s=1000) as side:
        start = trio.current_time()
        await side.over()
        assert trio.current_time() - start == pytest.approx(180, abs=3)
    assert side.history == [GREETING, side.agent.phrases.last_minute, side.agent.phrases.goodbye]
    assert side.end["reason"] == "max_duration"


@each
async def test_a_model_that_fails_is_regretted_once_and_then_apologised_for(
    kind: Kind, autojump_clock: MockClock
) -> None:
    async with kind.call(drafts=False) as side:
        await trio.sleep(3)
        await side.says(FAILS)
        await trio.sleep(12.5)
        assert side.history[-1] == side.agent.phrases.sorry
        await side.says("thanks")
        await trio.sleep(6)
        assert side.history[-1] == "Desk heard thanks."
        for _ in range(2):
            await side.says(FAILS)
            await trio.sleep(12.5)
        await side.over()
    assert side.end["reason"] == "llm_error"
    assert side.history.count(side.agent.phrases.sorry) == 2
    assert side.on.value("turns_total", pipeline="custom", outcome="error") == 3
    if isinstance(side.line, RelayCaller):
        assert (side.line.said[-1], side.line.ends) == (side.agent.phrases.apology, 1)


@each
async def test_vendors_that_do_not_open_are_apologised_for(kind: Kind, autojump_clock: MockClock) -> None:
    async with kind.call(agents=[kind.agent(open_fails=True)]) as side:
        with trio.fail_after(13):
            await side.over()
    assert side.end["cause"] == "llm_failed"
    assert side.on.value("silent_calls_total", provider="twilio") == 0
    assert side.on.last(What.CALL_RELEASED)["left"] == 0


@each
async def test_what_somebody_outside_wants_said_is_said_and_ends_the_call_if_it_is_to(
    kind: Kind, autojump_clock: MockClock
) -> None:
    async with kind.call() as side:
        await trio.sleep(3)
        (slot,) = side.on.supervisor.registry.live_slots()
        assert slot.on_say is not None
        slot.on_say("The lift is broken.", None)
        await trio.sleep(6)
        assert side.history == [GREETING, "The lift is broken."]
        await side.says("count")
        await trio.sleep(1.7)
        slot.on_say("Everybody out.", CallEnd(Cause.ADMIN))
        slot.on_say("And by the way.", None)
        with trio.fail_after(4):
            await side.over()
    assert side.history[-1] == "Everybody out."
    assert kind not in WITH_AUDIO or side.history[-2] != STORY  # nobody can stop a provider that speaks itself
    assert side.end["cause"] == "admin"


@each
async def test_a_drain_says_goodbye_whatever_goes_on(kind: Kind, autojump_clock: MockClock) -> None:
    async with kind.call() as side:
        await trio.sleep(3)
        await side.says("count")
        await trio.sleep(1.7)
        side.on.supervisor.registry.live_slots()[0].drain_it()
        with trio.fail_after(8):
            await side.over()
    assert side.history[-1] == side.agent.phrases.drain
    assert side.end["reason"] == "drain"


@each
async def test_the_agent_hangs_up_after_its_goodbye_was_heard(kind: Kind, autojump_clock: MockClock) -> None:
    async with kind.call() as side:
        await trio.sleep(3)
        await side.says("bye")
        with trio.fail_after(3):
            await side.over()
    assert side.history == [GREETING, "bye", "Goodbye."]
    assert side.end["reason"] == "agent_hangup"


@pytest.mark.parametrize("kind", WITH_AUDIO, ids=str)
async def test_a_provider_that_takes_its_time_to_connect_the_caller_is_covered_by_a_filler(
    kind: Kind, autojump_clock: MockClock
) -> None:
    async def rest(_: httpx.Request) -> httpx.Response:
        await trio.sleep(60)
        return httpx.Response(500)

    provider = TwilioProvider(TwilioConfig(auth_token="secret", account_sid="AC1"))
    clients = lambda: httpx.AsyncClient(transport=httpx.MockTransport(rest))  # noqa: E731 - a factory
    async with kind.call(provider=provider, new_http_client=clients) as side:
        await trio.sleep(3)
        await side.says("a human please")
        await trio.sleep(4)
        assert side.on.count(What.FILLER) == 1
        await trio.sleep(6)
        assert side.history[-1] == side.agent.phrases.not_connected
        assert side.on.count(What.FILLER) == 1


@pytest.mark.parametrize("works", [True, False])
@each
async def test_a_caller_is_connected_to_somebody_else_once_the_agent_was_heard(
    kind: Kind, works: bool, autojump_clock: MockClock
) -> None:
    asked: list[httpx.Request] = []

    def rest(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={"sid": "CA"}) if works else httpx.Response(500)

    provider = TwilioProvider(TwilioConfig(auth_token="secret", account_sid="AC1"))
    clients = lambda: httpx.AsyncClient(transport=httpx.MockTransport(rest))  # noqa: E731 - a factory
    async with kind.call(provider=provider, new_http_client=clients) as side:
        await trio.sleep(3)
        await side.says("a human please")
        if works:
            await side.over()
            assert side.end["reason"] == "transferred"
            assert "%2B15550109999" in asked[0].content.decode()
            assert len(asked) == 1
            return
        await trio.sleep(7)
        assert side.history[2:] == ["One moment.", side.agent.phrases.not_connected]
        await side.says("never mind")
        await trio.sleep(6)
        assert side.history[-1] == "Desk heard never mind."


@each
async def test_another_agent_goes_on_where_one_has_handed_over(kind: Kind, autojump_clock: MockClock) -> None:
    async with kind.call() as side:
        await trio.sleep(3)
        await side.says("a quote")
        await trio.sleep(4)
        await side.says("thanks")
        await trio.sleep(6)
        assert side.history[:2] == [GREETING, "a quote"]
        assert side.history[2].startswith("One moment.")
        assert side.history[-2:] == ["thanks", "Sales heard thanks."]
    assert side.on.last(What.CALL_RELEASED)["left"] == 0


@each
async def test_keys_reach_the_agent_and_interrupt_it(kind: Kind, autojump_clock: MockClock) -> None:
    async with kind.call() as side:
        await trio.sleep(0.5)
        for digit in "42#":
            await side.line.press(digit)
        await trio.sleep(3)
        assert side.on.texts(What.HEARD) == ["42"]
        assert len(side.clears) == (1 if kind in WITH_AUDIO else 0)
