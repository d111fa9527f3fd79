"""The order of what was said, whatever the order of the news of it."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.calls.talks.minutes import MAX_SAYS, AgentSay, CallerSay, Minutes


def texts(minutes: Minutes, now_s: float) -> list[str]:
    return [say.text for say in minutes.take(now_s)]


def heard(say: AgentSay, text: str, due_at_s: float = 0.0) -> None:
    say.was_heard(text, interrupted=False, response_ms=None, due_at_s=due_at_s)


def test_words_take_the_place_of_their_sound() -> None:
    minutes, answer = Minutes(), AgentSay("r1")
    minutes.caller_began()
    minutes.caller_stopped(5.0)
    minutes.agent_began(answer, 5.0)
    heard(answer, "Yes.")
    assert texts(minutes, 1.0) == []
    assert minutes.awaits_words(1.0)
    assert not minutes.caller_said("is it you")
    assert texts(minutes, 1.0) == ["is it you", "Yes."]
    assert minutes.due_at_s() == math.inf


def test_words_that_do_not_come_are_waited_for_no_longer_than_told() -> None:
    minutes, answer = Minutes(), AgentSay("r1")
    minutes.caller_began()
    minutes.agent_began(answer, 5.0)
    heard(answer, "Yes.")
    assert minutes.due_at_s() == 5.0
    assert texts(minutes, 5.0) == ["", "Yes."]


def test_two_sounds_in_a_row_are_one_say_that_waits_for_both() -> None:
    minutes = Minutes()
    minutes.caller_began()
    minutes.caller_began()
    minutes.caller_said("one")
    assert texts(minutes, 0.0) == []
    minutes.caller_said("two")
    assert texts(minutes, 0.0) == ["one two"]


def test_words_without_a_sound_go_before_what_answers_them() -> None:
    minutes, answer = Minutes(), AgentSay("r1")
    minutes.agent_began(answer, 5.0)
    assert not minutes.caller_said("is it you", before=answer)
    heard(answer, "Yes.")
    assert texts(minutes, 0.0) == ["is it you", "Yes."]


def test_a_correction_wins_whether_it_comes_before_the_end_or_after_it() -> None:
    for is_early in (True, False):
        minutes, answer = Minutes(), AgentSay("r1")
        minutes.agent_began(answer, 5.0)
        if is_early:
            answer.correct("One")
            assert texts(minutes, 0.0) == []
        answer.was_heard("One is the first", interrupted=True, response_ms=7, due_at_s=1.0)
        if not is_early:
            assert texts(minutes, 0.5) == []
            answer.correct("One")
        (say,) = minutes.take(0.5)
        assert isinstance(say, AgentSay)
        assert (say.text, say.interrupted, say.response_ms) == ("One", True, 7)


def test_a_say_that_begins_twice_stays_where_it_is() -> None:
    minutes, answer = Minutes(), AgentSay("r1")
    minutes.agent_began(answer, 5.0)
    minutes.caller_said("and")
    minutes.agent_began(answer, 5.0)
    heard(answer, "Yes.")
    assert texts(minutes, 0.0) == ["Yes.", "and"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["began", "stopped", "said", "agent", "heard", "take"]), max_size=200))
def test_nothing_is_lost_doubled_or_kept_for_ever(what: list[str]) -> None:
    minutes, says, words, taken = Minutes(), list[AgentSay](), 0, list[str]()
    for now, event in enumerate(what):
        match event:
            case "began":
                minutes.caller_began()
            case "stopped":
                minutes.caller_stopped(now + 5.0)
            case "said":
                words += 1
                minutes.caller_said(f"w{words}")
            case "agent":
                says.append(AgentSay(f"a{len(says)}"))
                minutes.agent_began(says[-1], now + 5.0)
            case "heard":
                for say in says:
                    heard(say, say.reply_id)
            case "take":
                taken += texts(minutes, now)
    for say in says:
        heard(say, say.reply_id)
    taken += texts(minutes, math.inf)
    all_words = " ".join(text for text in taken if text).split()
    assert sorted(word for word in all_words if word.startswith("w")) == sorted(f"w{n + 1}" for n in range(words))
    agents = [word for word in all_words if word.startswith("a")]
    assert agents == [say.reply_id for say in says if say.reply_id in agents]
    assert len(minutes.take(math.inf)) == 0


def test_a_vendor_that_begins_and_never_ends_does_not_fill_the_memory() -> None:
    minutes = Minutes()
    for number in range(1000):
        minutes.caller_began()
        minutes.agent_began(AgentSay(f"r{number}"), math.inf)
        minutes.take(0.0)
    left = minutes.take(math.inf)
    assert len(left) == MAX_SAYS
    assert isinstance(left[0], CallerSay)
