"""A call whose provider hears and speaks itself, as its caller lives it."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from engine.events import HangUp
from engine.observe.timeline import What
from engine.ports import Ability
from tests.fakes.puppet import PuppetAgent
from tests.fakes.relay_caller import relay_call
from tests.fakes.stage import Stage, stage

GREETING = "Hello, this is the desk."
STORY = "One is the first. Two is the second. Three is the third."


def heard_and_said(on: Stage) -> list[str]:
    """In the order of the history."""
    return [str(moment.fields["text"]) for moment in on.moments if moment.what in (What.HEARD, What.SAID)]


async def test_sentences_are_sent_as_they_come(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(lambda _: ["One. ", 2.0, "Two."])
    async with stage(agent) as on, relay_call(on) as caller:
        await trio.sleep(3)
        await caller.says("count")
        await trio.sleep(1)
        assert caller.utterances[-1] == "One. "
        await trio.sleep(3)
        assert caller.said[-1] == "One. Two."


@pytest.mark.proves("barge-in", adapter="conversation-relay")
async def test_the_history_keeps_what_the_provider_says_was_heard(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(lambda _: ["One is the first. Two is the second. Three is the third."])
    async with stage(agent) as on, relay_call(on) as caller:
        await trio.sleep(3)
        await caller.says("count")
        await trio.sleep(1.3)
        await caller.interrupts("One is the first. Two", 1300)
        await caller.says("stop it")
        await trio.sleep(1)
        context = agent.model.contexts[-1]
        assert [(message.text, message.interrupted) for message in context][-3:] == [
            ("count", False),
            ("One is the first. Two", True),
            ("stop it", False),
        ]
        assert on.value("barge_ins_total", kind="speech") == 1
        assert on.value("turns_total", pipeline="custom", outcome="interrupted") == 1


@pytest.mark.parametrize(
    ("told", "heard"),
    [
        ("one is the  first. Two", "One is the first. Two"),
        ("Two is the", "One is the first. Two is the"),  # of the piece alone that was being said
        ("1 is the 1st. Two", "One is the first. Two"),  # as it is spoken
        ("nothing of all this was ever said by anybody here at all, not a word", STORY),
    ],
)
async def test_what_was_heard_is_kept_in_our_own_words(told: str, heard: str, autojump_clock: MockClock) -> None:
    agent = PuppetAgent(lambda _: [STORY])
    async with stage(agent) as on, relay_call(on) as caller:
        await trio.sleep(3)
        await caller.says("count")
        await trio.sleep(1.3)
        await caller.interrupts(told, 1300)
        await trio.sleep(1)
        assert on.texts(What.SAID)[-1] == heard


async def test_a_caller_who_begins_to_speak_is_not_spoken_into(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(lambda _: [0.5, "Here you are."])
    async with stage(agent) as on, relay_call(on) as caller:
        await trio.sleep(3)
        await caller.says("please")
        await caller.send("info", name="clientSpeaking", value="on")
        await trio.sleep(2)
        assert caller.said == [GREETING]
        await trio.sleep(3)
        assert caller.said[-1].endswith("Here you are.")


async def test_a_cut_that_names_no_words_is_estimated_by_its_time(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(lambda _: ["One is the first. Two is the second. Three is the third."])
    async with stage(agent) as on, relay_call(on) as caller:
        await trio.sleep(3)
        await caller.says("count")
        await trio.sleep(1.3)
        await caller.interrupts("", 1300)
        await trio.sleep(1)
        assert on.texts(What.SAID)[-1] == "One is the first."


async def test_an_utterance_that_took_longer_than_estimated_is_put_right(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(lambda _: ["One is the first. Two is the second."])
    async with stage(agent) as on, relay_call(on) as caller:
        await trio.sleep(5)
        await caller.says("count")
        await trio.sleep(36 / 15 + 1)  # over, as far as can be told
        await caller.interrupts("One is the first.", 3300)
        await caller.says("stop it")
        await trio.sleep(1)
        assert [message.text for message in agent.model.contexts[-1]][-2:] == ["One is the first.", "stop it"]


async def test_a_prompt_while_an_answer_is_thought_of_replaces_it(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(lambda context: [1.0, f"You said {context[-1].text}."])
    async with stage(agent) as on, relay_call(on) as caller:
        await trio.sleep(3)
        await caller.says("I would")
        await trio.sleep(0.5)
        await caller.says("like a table")
        await trio.sleep(4)
        assert caller.said == [GREETING, "You said I would like a table."]


async def test_a_hello_while_an_answer_is_thought_of_does_not_begin_anew(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(lambda _: [1.5, "Here you are."])
    async with stage(agent) as on, relay_call(on) as caller:
        await trio.sleep(3)
        await caller.says("please")
        await trio.sleep(1)
        await caller.says("hello?")
        await trio.sleep(2)
        assert len(agent.model.contexts) == 1
        assert caller.said[-1] == "Here you are."


async def test_nothing_is_said_while_the_caller_goes_on_speaking(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(lambda context: [0.5, f"You said {context[-1].text}."])
    async with stage(agent) as on, relay_call(on) as caller:
        await trio.sleep(3)
        await caller.says("I would")
        await trio.sleep(0.2)
        await caller.says("like", is_last=False)
        await trio.sleep(1)
        assert caller.utterances == [f"{GREETING} ", ""]
        await caller.says("like a table")
        await trio.sleep(4)
        assert caller.said == [GREETING, "You said I would like a table."]


async def test_a_filler_covers_a_model_that_thinks_and_is_nobodys_words(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(lambda _: [3.0, "One is the first. Two is the second."])
    async with stage(agent) as on, relay_call(on) as caller:
        await trio.sleep(3)
        await caller.says("count")
        await trio.sleep(4.5)
        assert caller.utterances[-2] == "One moment, please. One is the first. Two is the second. "
        await caller.interrupts("One moment, please. One is", 1500)
        await trio.sleep(1)
        assert on.texts(What.SAID)[-1] == "One is"


async def test_a_filler_comes_between_an_answers_words_while_a_tool_takes_its_time(autojump_clock: MockClock) -> None:
    """And is nobody's words there either."""
    agent = PuppetAgent(lambda _: ["Let me look. ", 5.0, "It is nine. It is late."])
    async with stage(agent) as on, relay_call(on) as caller:
        await trio.sleep(3)
        await caller.says("what time is it")
        await trio.sleep(5.5)
        assert caller.utterances[-2] == "Let me look. One moment, please. It is nine. It is late. "
        await caller.interrupts("Let me look. One moment, please. It is nine.", 3000)
        await trio.sleep(1)
        assert on.texts(What.SAID)[-1] == "Let me look. It is nine."


class Thinker(PuppetAgent):
    """Its model takes its time."""

    patience_s = 23.0


async def test_a_model_that_takes_its_time_is_covered_by_one_filler_after_the_other(autojump_clock: MockClock) -> None:
    agent = Thinker(lambda _: [15.0, "One is the first."])
    async with stage(agent) as on, relay_call(on) as caller:
        await trio.sleep(3)
        await caller.says("count")
        await trio.sleep(18)
        fillers = " ".join(3 * ["One moment, please."])
        assert caller.utterances[-2] == f"{fillers} One is the first. "
        await caller.interrupts(f"{fillers} One is", 1500)
        await trio.sleep(1)
        assert on.texts(What.SAID)[-1] == "One is"


async def test_what_the_provider_has_said_is_believed_over_the_estimate(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(lambda _: ["Goodbye, and thank you for calling us.", HangUp()])
    async with stage(agent) as on, relay_call(on) as caller:
        await trio.sleep(3)
        await caller.says("bye")
        await trio.sleep(0.3)
        await caller.played("Goodbye, and thank you for calling us. ")
        with trio.fail_after(0.2):
            await caller.gone.wait()
        assert caller.ends == 1


async def test_the_agent_hangs_up_after_its_goodbye_was_said(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(lambda _: ["Goodbye.", HangUp()])
    async with stage(agent) as on, relay_call(on) as caller:
        await trio.sleep(3)
        asked_at = trio.current_time()
        await caller.says("bye")
        await caller.gone.wait()
        assert trio.current_time() - asked_at == pytest.approx(9 / 15, abs=0.1)
        assert (caller.said[-1], caller.ends) == ("Goodbye.", 1)
        await on.supervisor.registry.wait_empty()
        assert on.last(What.CALL_ENDED)["reason"] == "agent_hangup"


async def test_no_audio_is_missed_on_a_line_without_any(autojump_clock: MockClock) -> None:
    agent = PuppetAgent()
    async with stage(agent, silence_s=100) as on, relay_call(on) as caller:
        await trio.sleep(40)
        assert not caller.gone.is_set()


async def test_a_model_that_says_nothing_is_not_waited_for_for_ever(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(lambda _: [100.0])
    async with stage(agent, model_failures=0) as on, relay_call(on) as caller:
        await trio.sleep(3)
        await caller.says("hello there")
        with trio.fail_after(15):
            await caller.gone.wait()
        assert caller.said[-1].endswith(agent.phrases.apology)


async def test_a_slow_model_is_covered_by_words(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(open_s=4)
    async with stage(agent) as on, relay_call(on) as caller:
        await trio.sleep(7)
        assert caller.said == [agent.phrases.filler, GREETING]


async def test_a_lost_socket_is_no_hang_up(autojump_clock: MockClock) -> None:
    agent = PuppetAgent()
    async with stage(agent) as on, relay_call(on) as caller:
        await trio.sleep(3)
        caller.socket.abort()
        await on.supervisor.registry.wait_empty()
        assert on.last(What.CALL_ENDED)["reason"] == "provider_closed"


async def test_nonsense_is_counted_and_then_ends_the_call(autojump_clock: MockClock) -> None:
    agent = PuppetAgent()
    async with stage(agent) as on, relay_call(on) as caller:
        await trio.sleep(3)
        for _ in range(21):
            await caller.socket.send("{")
        await on.supervisor.registry.wait_empty()
        assert on.value("bad_frames_total", provider="twilio", kind="json") == 21
        assert on.last(What.CALL_ENDED)["cause"] == "protocol_error"
        assert caller.gone.is_set()


async def test_tools_press_keys_over_the_socket(autojump_clock: MockClock) -> None:
    agent = PuppetAgent()
    async with stage(agent) as on, relay_call(on) as caller:
        await trio.sleep(1)
        control = agent.control
        assert control is not None
        assert Ability.PRESS_DIGITS in control.abilities
        await control.press("1w2")
        await trio.sleep(0.1)
        assert caller.digits == ["1w2"]
