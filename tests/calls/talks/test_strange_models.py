"""Whatever a speech-to-speech model says, in whatever order: the call goes on or ends for a reason, and is released."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from engine.events import (
    HandOver,
    HangUp,
    Heard,
    Missed,
    Noted,
    RealtimeEvent,
    ReplyAudio,
    ReplyCorrected,
    ReplyOver,
    ReplyStarted,
    ReplyText,
    SpeechStarted,
    SpeechStopped,
    ToolCall,
    Usage,
)
from engine.observe.timeline import What
from engine.ports import Action
from tests.fakes.puppet import PuppetRealtimeAgent
from tests.fakes.stage import stage

IDS = st.sampled_from(["a", "b", "c", ""])
STEPS = st.one_of(
    st.floats(0.0, 2.0),
    st.sampled_from("129#*"),
    st.builds(ReplyStarted, IDS),
    st.builds(ReplyAudio, IDS, st.sampled_from([b"", b"\x10" * 160, b"\x10" * 8000])),
    st.builds(ReplyText, IDS, st.sampled_from(["", "One. ", "Two"])),
    st.builds(ReplyOver, IDS, st.booleans()),
    st.builds(ReplyCorrected, IDS, st.sampled_from(["", "One."])),
    st.builds(SpeechStarted, st.just(0.0)),
    st.builds(SpeechStopped, st.just(0.0)),
    st.builds(Heard, st.sampled_from(["", "yes", "hello"]), st.booleans(), st.booleans()),
    st.builds(ToolCall, IDS, st.sampled_from(["look", "slow", "hang_up", "over"]), st.just("{}")),
    st.just(Missed()),
    st.just(Usage(1, 1)),
    st.sampled_from(["say", "drain"]),
)
ENDS = {"caller_hangup", "agent_hangup", "llm_failed", "drain", "silence", "no_progress"}


async def hold(steps: list[RealtimeEvent | float | str], words: int) -> None:
    tools: Mapping[str, Sequence[str | float | Action]] = {
        "look": ["nine", Noted()],
        "slow": [1.0, "ten"],
        "hang_up": ["ok", HangUp()],
    }
    agents = [
        PuppetRealtimeAgent(name=name, open_s=open_s, outcomes={**tools, "over": [HandOver(other)]})
        for name, other, open_s in (("desk", "sales", 0.1), ("sales", "desk", 0.4))
    ]
    async with stage(*agents, max_answer_s=5, goodbye_s=2, barge_in_words=words) as on:
        async with on.call() as caller:
            await trio.sleep(0.3)
            for step in steps:
                if caller.gone.is_set():
                    break
                match step:
                    case float():
                        await trio.sleep(step)
                    case "say":
                        agents[0].realtime.say("Something.")
                    case "drain":
                        for slot in on.supervisor.registry.live_slots():
                            slot.drain_it()
                    case str():
                        await caller.press(step)
                    case _:
                        for agent in agents:
                            agent.realtime.tells(step)
            await trio.sleep(3)
        assert on.escaped == []
        assert on.last(What.CALL_ENDED)["cause"] in ENDS
        assert on.last(What.CALL_RELEASED)["left"] == 0
    assert [agent.open_parts for agent in agents] == [0, 0]


@settings(max_examples=25, deadline=None)
@given(st.lists(STEPS, max_size=40), st.sampled_from([0, 2]))
def test_no_order_of_events_breaks_a_call(steps: list[RealtimeEvent | float | str], words: int) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    trio.run(hold, steps, words, clock=MockClock(autojump_threshold=0))
