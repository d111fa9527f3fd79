"""A call with a speech-to-speech model, as its caller lives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from engine.errors import ModelFailed
from engine.events import (
    HangUp,
    Heard,
    MemoryItem,
    MemoryKind,
    Missed,
    Noted,
    ReplyAudio,
    ReplyCorrected,
    ReplyOver,
    ReplyStarted,
    ReplyText,
    ToolCall,
)
from engine.observe.timeline import What
from tests.fakes.puppet import PuppetRealtimeAgent
from tests.fakes.stage import Stage, stage

GREETING = "Hello, this is the desk."
GREETING_S = len(GREETING) * 0.06


def heard_and_said(on: Stage) -> list[str]:
    """In the order of the history."""
    return [str(moment.fields["text"]) for moment in on.moments if moment.what in (What.HEARD, What.SAID)]


async def test_the_greeting_does_not_wait_for_the_model_which_learns_of_it(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent(open_s=2.5)
    async with stage(agent) as on, on.call() as caller:
        await trio.sleep(2)
        assert caller.heard_s == pytest.approx(GREETING_S, abs=0.05)
        await trio.sleep(1)
        assert agent.realtime.asked_to_say == []
        assert [message.text for message in agent.realtime.context()] == [GREETING]
        assert on.texts(What.SAID) == [GREETING]


async def test_a_greeting_that_is_no_clip_is_said_by_the_model(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent(has_clips=False)
    async with stage(agent) as on, on.call() as caller:
        await trio.sleep(3)
        assert agent.realtime.asked_to_say == [GREETING]
        assert caller.heard_s == pytest.approx(GREETING_S, abs=0.05)
        assert on.texts(What.SAID) == [GREETING]
        assert agent.realtime.interrupts == []


async def test_frames_from_before_the_model_was_open_reach_it(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent(open_s=1.0)
    async with stage(agent) as on, on.call(sends_audio=False) as caller:
        await caller.frames(20)
        await trio.sleep(2)
        assert agent.realtime.frames == 20


async def test_a_barge_in_silences_the_line_and_the_model_knows_what_was_heard(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent()
    async with stage(agent) as on, on.call() as caller:
        await trio.sleep(3)
        agent.realtime.hears("count")
        reply_id = agent.realtime.replies("One is the first. Two is the second. Three is the third.")
        await trio.sleep(1.3)
        before, heard_s = trio.current_time(), caller.heard_s
        agent.realtime.onset()
        await trio.sleep(0.3)
        agent.realtime.tells(ReplyAudio(reply_id, b"\x10" * 8000))  # late
        await trio.sleep(0.7)
        assert caller.clears == [pytest.approx(before, abs=0.05)]
        assert caller.heard_s < heard_s
        assert agent.realtime.interrupts == [pytest.approx(1.3, abs=0.05)]
        agent.realtime.falls_silent()
        agent.realtime.tells(Heard("stop it"))
        agent.realtime.replies("Sorry.")
        await trio.sleep(3)
        assert heard_and_said(on) == [GREETING, "count", "One is the first. Two", "stop it", "Sorry."]
        said = [moment.fields["interrupted"] for moment in on.moments if moment.what is What.SAID]
        assert said == [False, True, False]
        assert on.value("barge_ins_total", kind="speech") == 1
        assert on.value("turns_total", pipeline="custom", outcome="interrupted") == 1


async def test_what_the_vendor_says_was_heard_counts(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent()
    async with stage(agent) as on, on.call():
        await trio.sleep(3)
        agent.realtime.hears("count")
        reply_id = agent.realtime.replies("One is the first. Two is the second. Three is the third.")
        await trio.sleep(1.3)
        agent.realtime.onset()
        await trio.sleep(0.2)
        agent.realtime.tells(ReplyCorrected(reply_id, "One is"))
        await trio.sleep(0.1)
        assert on.texts(What.SAID)[-1] == "One is"


async def test_words_that_come_after_the_reply_began_come_before_it_in_the_history(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent()
    async with stage(agent) as on, on.call():
        await trio.sleep(3)
        agent.realtime.onset()
        await trio.sleep(1)
        agent.realtime.falls_silent()
        agent.realtime.replies("Yes.")
        await trio.sleep(1.5)  # it has been heard
        assert heard_and_said(on) == [GREETING]
        agent.realtime.tells(Heard("is it you"))
        await trio.sleep(0.1)
        assert heard_and_said(on) == [GREETING, "is it you", "Yes."]
        await trio.sleep(7)
        assert on.value("turns_total", pipeline="custom", outcome="error") == 0  # nothing more is owed
        assert agent.realtime.asked_to_say == []


async def test_words_without_news_of_their_sound_find_their_place(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent()
    async with stage(agent) as on, on.call():
        await trio.sleep(3)
        agent.realtime.tells(Heard("is it you"))
        await trio.sleep(0.5)
        agent.realtime.replies("Yes.")
        await trio.sleep(2)
        assert heard_and_said(on) == [GREETING, "is it you", "Yes."]
        assert on.last(What.SAID)["response_ms"] == pytest.approx(500, abs=20)


async def test_words_that_never_come_do_not_hold_up_the_history(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent()
    async with stage(agent) as on, on.call():
        await trio.sleep(3)
        agent.realtime.onset()
        agent.realtime.falls_silent()
        agent.realtime.replies("Yes.")
        await trio.sleep(6)
        assert heard_and_said(on) == [GREETING, "Yes."]


async def test_a_hang_up_leaves_the_history_whole(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent()
    async with stage(agent) as on:
        async with on.call():
            await trio.sleep(3)
            agent.realtime.onset()
            agent.realtime.falls_silent()
            agent.realtime.replies("One is the first. Two is the second. Three is the third.")
            await trio.sleep(1.3)
        assert heard_and_said(on) == [GREETING, "One is the first. Two"]
        assert on.last(What.CALL_ENDED)["cause"] == "caller_hangup"


async def test_a_filler_covers_a_model_that_thinks(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent()
    async with stage(agent) as on, on.call() as caller:
        await trio.sleep(3)
        agent.realtime.hears("hm")
        await trio.sleep(4)
        assert caller.heard_s == pytest.approx(GREETING_S + len(agent.phrases.filler) * 0.06, abs=0.1)
        agent.realtime.replies("Yes.")
        await trio.sleep(2)
        assert on.texts(What.SAID)[-1] == "Yes."
        assert on.count(What.FILLER) == 1


@pytest.mark.parametrize("words", ["", "Let me see."])
async def test_tools_that_take_long_are_covered_to_their_end(words: str, autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent(outcomes={"look": [4.9, "nothing"], "dig": [14.0, "nine"]})
    async with stage(agent) as on, on.call() as caller:
        await trio.sleep(3)
        agent.realtime.hears("how many")
        if words:
            agent.realtime.replies(words)
            agent.realtime.tells(ToolCall("c1", "look", "{}"))
        else:
            agent.realtime.tells(ReplyStarted("r9"), ToolCall("c1", "look", "{}"), ReplyOver("r9"))
        longest_s = await longest_silence_s(caller, until=lambda: len(agent.realtime.results) == 1)
        agent.realtime.tells(ReplyStarted("r10"), ToolCall("c2", "dig", "{}"), ReplyOver("r10"))
        longest_s = max(longest_s, await longest_silence_s(caller, until=lambda: len(agent.realtime.results) == 2))
        agent.realtime.replies("Nine.")
        await trio.sleep(2)
        assert on.texts(What.SAID)[-1] == "Nine."
        assert longest_s < 7.5


async def longest_silence_s(caller: Any, until: Callable[[], bool]) -> float:
    longest_s, heard_s, since_s = 0.0, caller.heard_s, trio.current_time()
    while not until():
        await trio.sleep(0.1)
        if caller.heard_s > heard_s:
            heard_s, since_s = caller.heard_s, trio.current_time()
        longest_s = max(longest_s, trio.current_time() - since_s)
    return longest_s


async def test_a_reply_that_stalls_in_the_middle_is_no_silence_for_ever(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent()
    async with stage(agent) as on, on.call():
        await trio.sleep(3)
        agent.realtime.hears("hm")
        agent.realtime.begins("One is the first. Two is the second.", seconds=1.0)
        await trio.sleep(13)
        assert on.texts(What.SAID)[1:] == ["One is the", agent.phrases.sorry]
        assert agent.realtime.interrupts == [pytest.approx(1.0, abs=0.05)]


async def test_a_model_that_does_not_open_is_apologised_for(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent(open_fails=True)
    async with stage(agent) as on, on.call() as caller:
        await on.over(caller)
        assert caller.clears in ([], [pytest.approx(GREETING_S, abs=0.1)])
        assert caller.heard_s == pytest.approx(GREETING_S + len(agent.phrases.apology) * 0.06, abs=0.1)
        assert on.last(What.CALL_ENDED)["cause"] == "llm_failed"
        assert on.last(What.CALL_RELEASED)["left"] == 0


async def test_a_model_that_takes_too_long_to_open_is_apologised_for(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent(open_s=60)
    async with stage(agent) as on, on.call() as caller:
        await on.over(caller)
        assert on.last(What.CALL_ENDED)["cause"] == "llm_failed"
        assert caller.heard_s >= GREETING_S + len(agent.phrases.apology) * 0.06 - 0.1
        assert on.last(What.CALL_RELEASED)["left"] == 0


async def test_a_model_that_fails_in_mid_call_is_apologised_for(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent()
    async with stage(agent) as on, on.call() as caller:
        await trio.sleep(3)
        agent.realtime.tells(ModelFailed("puppet", "gone"))
        await on.over(caller)
        assert on.last(What.CALL_ENDED)["cause"] == "llm_failed"
        assert caller.heard_s == pytest.approx(GREETING_S + len(agent.phrases.apology) * 0.06, abs=0.1)


async def test_a_silent_caller_is_asked_twice_by_the_model_and_then_let_go(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent()
    async with stage(agent) as on, on.call() as caller:
        with trio.fail_after(60):
            await on.over(caller)
        assert agent.realtime.asked_to_say == [agent.phrases.still_there] * 2
        assert on.texts(What.SAID) == [GREETING, *[agent.phrases.still_there] * 2, agent.phrases.goodbye]
        assert on.last(What.CALL_ENDED)["reason"] == "silence"


async def test_a_goodbye_is_interrupted_by_nobody(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent(has_clips=False)
    async with stage(agent) as on, on.call() as caller:
        await trio.sleep(3)
        frames = agent.realtime.frames
        on.supervisor.registry.live_slots()[0].drain_it()
        await trio.sleep(0.5)
        agent.realtime.onset()
        await on.over(caller)
        assert caller.clears == []
        assert agent.realtime.frames <= frames + 1
        assert on.texts(What.SAID)[-1] == agent.phrases.drain
        assert on.last(What.CALL_ENDED)["reason"] == "drain"


async def test_a_drain_reaches_a_call_whose_model_is_still_opening(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent(open_s=5)
    async with stage(agent) as on, on.call() as caller:
        await trio.sleep(0.5)
        on.supervisor.registry.live_slots()[0].drain_it()
        await on.over(caller)
        assert on.last(What.CALL_ENDED)["reason"] == "drain"
        assert on.texts(What.SAID)[-1] == agent.phrases.drain
        assert on.last(What.CALL_RELEASED)["left"] == 0


async def test_keys_reach_the_model_and_interrupt_it(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent()
    async with stage(agent) as on, on.call() as caller:
        await trio.sleep(0.5)
        for digit in "42#":
            await caller.press(digit)
        await trio.sleep(0.5)
        assert agent.realtime.was_told == ["42"]
        agent.realtime.replies("Forty-two.")
        await trio.sleep(3)
        assert len(caller.clears) == 1
        assert on.texts(What.HEARD) == ["42"]
        assert on.texts(What.SAID)[-1] == "Forty-two."


async def test_a_tool_is_used_and_the_model_goes_on(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent(outcomes={"look": [1.0, "nine", Noted(items=(MemoryItem(MemoryKind.FACT, "asks"),))]})
    async with stage(agent) as on, on.call():
        await trio.sleep(3)
        agent.realtime.hears("how many")
        agent.realtime.tells(ReplyStarted("r9"), ToolCall("c1", "look", "{}"), ReplyOver("r9"))
        await trio.sleep(1.5)
        assert [(result.call_id, result.text) for result in agent.realtime.results] == [("c1", "nine")]
        agent.realtime.replies("Nine.")
        await trio.sleep(2)
        assert heard_and_said(on) == [GREETING, "how many", "Nine."]
        assert on.last(What.SAID)["response_ms"] == pytest.approx(1500, abs=50)
        assert on.value("turns_total", pipeline="custom", outcome="completed") == 1
        assert agent.tools.turns == 1


async def test_a_model_that_hangs_up_without_a_word_says_goodbye_first(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent(outcomes={"hang_up": ["done", HangUp()]})
    async with stage(agent) as on, on.call() as caller:
        await trio.sleep(3)
        agent.realtime.hears("bye")
        agent.realtime.tells(ReplyStarted("r9"), ToolCall("c1", "hang_up", "{}"), ReplyOver("r9"))
        await trio.sleep(0.5)
        agent.realtime.replies("Goodbye.")
        await on.over(caller)
        assert on.texts(What.SAID)[-1] == "Goodbye."
        assert on.last(What.CALL_ENDED)["reason"] == "agent_hangup"


async def test_a_model_that_hangs_up_and_never_says_a_word_is_not_waited_for(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent(outcomes={"hang_up": ["done", HangUp()]})
    async with stage(agent) as on, on.call() as caller:
        await trio.sleep(3)
        agent.realtime.hears("bye")
        agent.realtime.tells(ReplyStarted("r9"), ToolCall("c1", "hang_up", "{}"), ReplyOver("r9"))
        with trio.fail_after(11):
            await on.over(caller)
        assert on.last(What.CALL_ENDED)["reason"] == "agent_hangup"


async def test_a_caller_who_speaks_into_the_goodbye_keeps_the_call(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent(outcomes={"hang_up": ["done", HangUp()]})
    async with stage(agent) as on, on.call() as caller:
        await trio.sleep(3)
        agent.realtime.hears("bye")
        reply_id = agent.realtime.begins("Thank you for calling us today. Goodbye.")
        agent.realtime.tells(ToolCall("c1", "hang_up", "{}"), ReplyOver(reply_id))
        await trio.sleep(1)
        agent.realtime.hears("wait")
        agent.realtime.replies("Yes?")
        await trio.sleep(3)
        assert not caller.gone.is_set()
        assert on.texts(What.SAID)[-1] == "Yes?"


async def test_an_answer_without_end_is_cut_off(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent()
    async with stage(agent, max_answer_s=5) as on, on.call() as caller:
        await trio.sleep(3)
        agent.realtime.hears("tell me everything")
        agent.realtime.replies("word " * 400)
        await trio.sleep(10)
        assert caller.heard_s == pytest.approx(GREETING_S + 5, abs=0.3)
        assert agent.realtime.interrupts == [pytest.approx(5, abs=0.3)]


async def test_a_newer_reply_replaces_one_that_its_vendor_gave_up(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent()
    async with stage(agent) as on, on.call():
        await trio.sleep(3)
        agent.realtime.hears("count")
        agent.realtime.begins("One is the first. Two is the second. Three is the third.")
        await trio.sleep(1.3)
        agent.realtime.replies("Sorry?")
        await trio.sleep(3)
        assert on.texts(What.SAID)[1:] == ["One is the first.", "Sorry?"]
        assert agent.realtime.interrupts == []


async def test_a_reply_behind_one_that_is_whole_waits_for_it(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent()
    async with stage(agent) as on, on.call() as caller:
        await trio.sleep(3)
        agent.realtime.hears("count")
        agent.realtime.replies("One is the first.")
        agent.realtime.replies("Two is the second.")
        await trio.sleep(5)
        assert on.texts(What.SAID)[1:] == ["One is the first.", "Two is the second."]
        assert caller.clears == []


async def test_a_noise_is_not_waited_for(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent()
    async with stage(agent) as on, on.call():
        await trio.sleep(3)
        agent.realtime.hears("")
        await trio.sleep(5)
        assert on.count(What.FILLER) == 0
        assert on.value("turns_total", pipeline="custom", outcome="error") == 0


async def test_words_that_were_lost_are_asked_for_again(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent()
    async with stage(agent) as on, on.call():
        await trio.sleep(3)
        agent.realtime.onset()
        agent.realtime.falls_silent()
        agent.realtime.tells(Missed(), Heard(""))
        await trio.sleep(5)
        assert on.texts(What.SAID)[-1] == agent.phrases.say_again
        assert on.value("turns_total", pipeline="custom", outcome="error") == 0


async def test_text_of_a_reply_in_pieces_is_one_text(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent()
    async with stage(agent) as on, on.call():
        await trio.sleep(3)
        agent.realtime.hears("hm")
        agent.realtime.tells(ReplyStarted("a"), ReplyText("a", "Good "), ReplyAudio("a", b"\x10" * 1600))
        agent.realtime.tells(ReplyText("a", "morning."), ReplyOver("a"))
        await trio.sleep(2)
        assert on.texts(What.SAID)[-1] == "Good morning."


async def test_a_model_that_never_stops_making_replies_does_not_fill_the_memory(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent()
    async with stage(agent, max_answer_s=30) as on, on.call() as caller:
        await trio.sleep(3)
        for _ in range(50):
            agent.realtime.replies("One is the first.")
        await trio.sleep(20)
        assert 8 <= len(on.texts(What.SAID)[1:]) <= 12  # those that wait, and what was heard meanwhile
        assert not caller.gone.is_set()


async def test_words_said_before_the_answer_began_join_the_turn(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent()
    async with stage(agent) as on, on.call():
        await trio.sleep(3)
        agent.realtime.hears("I would")
        await trio.sleep(0.5)
        agent.realtime.hears("like a table")
        agent.realtime.replies("For how many?")
        await trio.sleep(3)
        assert heard_and_said(on) == [GREETING, "I would", "like a table", "For how many?"]
        assert not on.last(What.SAID)["interrupted"]
        assert on.value("turns_total", pipeline="custom", outcome="completed") == 1


async def test_a_drain_before_the_model_is_open_takes_the_place_of_the_greeting(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent(open_s=3, has_clips=False)
    async with stage(agent, goodbye_s=10) as on, on.call() as caller:
        await trio.sleep(0.5)
        on.supervisor.registry.live_slots()[0].drain_it()
        await on.over(caller)
        assert agent.realtime.asked_to_say == [agent.phrases.drain]
        assert on.last(What.CALL_ENDED)["reason"] == "drain"


async def test_a_model_that_hangs_up_once_it_has_been_heard_is_taken_at_its_word(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent(outcomes={"hang_up": ["done", HangUp()]})
    async with stage(agent) as on, on.call() as caller:
        await trio.sleep(3)
        agent.realtime.hears("bye")
        agent.realtime.replies("Goodbye.")
        await trio.sleep(2)
        agent.realtime.tells(ToolCall("c1", "hang_up", "{}"))
        with trio.fail_after(1):
            await on.over(caller)
        assert on.last(What.CALL_ENDED)["reason"] == "agent_hangup"


@pytest.mark.parametrize("is_same", [True, False])
async def test_a_model_that_said_something_with_its_call_may_go_on_or_not(
    is_same: bool, autojump_clock: MockClock
) -> None:
    agent = PuppetRealtimeAgent(outcomes={"look": ["nine"]})
    async with stage(agent) as on, on.call():
        await trio.sleep(3)
        agent.realtime.hears("how many")
        reply_id = agent.realtime.begins("Let me see.")
        agent.realtime.tells(ToolCall("c1", "look", "{}"))
        await trio.sleep(0.3)
        if is_same:
            agent.realtime.tells(ReplyText(reply_id, " Nine."), ReplyAudio(reply_id, b"\x10" * 3200))
        agent.realtime.tells(ReplyOver(reply_id))
        await trio.sleep(7.5)
        assert on.texts(What.SAID)[1:] == ["Let me see. Nine." if is_same else "Let me see."]
        assert on.count(What.FILLER) == (0 if is_same else 1)
        assert on.value("turns_total", pipeline="custom", outcome="error") == 0


async def test_a_reply_of_words_alone_holds_up_nothing(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent()
    async with stage(agent) as on, on.call():
        await trio.sleep(3)
        agent.realtime.hears("how many")
        agent.realtime.replies("Nine.")
        agent.realtime.tells(ReplyStarted("x"), ReplyText("x", "Or ten."), ReplyOver("x"))
        await trio.sleep(6)
        assert on.texts(What.SAID)[1:] == ["Nine.", "Or ten."]
        assert on.count(What.FILLER) == 0


STORY = "One is the first. Two is the second. Three is the third."


async def coughed_at(agent: PuppetRealtimeAgent) -> None:
    """Into the story."""
    await trio.sleep(3)
    agent.realtime.hears("count")
    agent.realtime.replies(STORY)
    await trio.sleep(1.3)
    agent.realtime.onset()
    await trio.sleep(0.3)
    agent.realtime.falls_silent()


async def test_a_cough_silences_the_model_which_is_told_what_was_heard_after_all(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent()
    async with stage(agent) as on, on.call() as caller:
        await coughed_at(agent)
        await trio.sleep(0.5)
        assert len(caller.clears) == 1
        heard_s = caller.heard_s
        agent.realtime.tells(Heard(""))
        await trio.sleep(3)
        assert agent.realtime.interrupts == [pytest.approx(1.3, abs=0.05)]
        assert agent.realtime.heard_after_all == ["is the second. Three is the third."]
        assert caller.heard_s - heard_s == pytest.approx(len(STORY) * 0.06 - 1.3, abs=0.05)  # not a frame is lost
        assert heard_and_said(on) == [GREETING, "count", "One is the first. Two", "is the second. Three is the third."]


async def test_a_word_into_what_a_cough_had_silenced_is_kept_from_the_model(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent()
    async with stage(agent) as on, on.call():
        await coughed_at(agent)
        agent.realtime.tells(Heard(""))
        await trio.sleep(1)
        agent.realtime.hears("stop it")
        agent.realtime.replies("Sorry.")
        await trio.sleep(3)
        assert agent.realtime.heard_after_all == ["is the second."]
        assert heard_and_said(on)[3:] == ["is the second.", "stop it", "Sorry."]


@pytest.mark.parametrize("is_heard", [False, True])
async def test_a_model_that_answers_a_cough_is_stopped_unless_that_is_heard_already(
    is_heard: bool, autojump_clock: MockClock
) -> None:
    agent = PuppetRealtimeAgent()
    async with stage(agent) as on, on.call():
        await coughed_at(agent)
        if is_heard:
            agent.realtime.replies("Pardon?")
        else:
            agent.realtime.tells(ReplyStarted("x"), ReplyText("x", "Pardon?"))
        await trio.sleep(0.1)
        agent.realtime.tells(Heard(""))
        await trio.sleep(4)
        assert on.texts(What.SAID)[2:] == ["Pardon?" if is_heard else "is the second. Three is the third."]
        assert agent.realtime.interrupts[1:] == ([] if is_heard else [0.0])


@pytest.mark.parametrize("why", ["uncertain", "lost", "not whole", "a key"])
async def test_what_may_have_been_words_is_not_taken_for_a_cough(why: str, autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent()
    async with stage(agent) as on, on.call() as caller:
        await trio.sleep(3)
        agent.realtime.hears("count")
        reply_id = agent.realtime.begins(STORY)
        if why != "not whole":
            agent.realtime.tells(ReplyOver(reply_id))
        await trio.sleep(1.3)
        agent.realtime.onset()
        if why == "a key":
            await caller.press("1")
            await trio.sleep(0.1)
        agent.realtime.falls_silent()
        if why == "lost":
            agent.realtime.tells(Missed())
        agent.realtime.tells(Heard("", is_certain=why != "uncertain"))
        await trio.sleep(1)
        assert on.value("barge_ins_total", kind="false") == 0
        assert agent.realtime.heard_after_all == []


async def test_one_cough_after_the_other_is_gone_on_after(autojump_clock: MockClock) -> None:
    agent = PuppetRealtimeAgent()
    async with stage(agent) as on, on.call():
        await coughed_at(agent)
        agent.realtime.onset()
        agent.realtime.tells(Heard(""))
        await trio.sleep(0.5)
        assert on.value("barge_ins_total", kind="false") == 0  # the caller makes a sound still
        agent.realtime.falls_silent()
        agent.realtime.tells(Heard(""))
        await trio.sleep(4)
        assert on.texts(What.SAID)[2:] == ["is the second. Three is the third."]
        assert on.value("barge_ins_total", kind="speech") == 1
