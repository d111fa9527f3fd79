"""The conversations that ship, held with whole engines over real sockets, in real time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.cli.engines import own_engine
from engine.converse.report import Report
from engine.converse.runner import Options, converse
from engine.converse.script import AgentOf, Script, load, parse
from engine.events import Modality
from tests.converse.agents import fast_voice

QUICK = {"finished_turn_s": 0.1, "unfinished_turn_s": 0.1}


def without_speech(script: Script) -> Script:
    """The same agents on plain speech."""
    agents = {
        name: AgentOf(factory="tests.converse.agents:make_agent", options={"script": agent.script})
        for name, agent in script.agents.items()
    }
    return replace(script, agents=agents)


async def held(script: Script, provider: str = "twilio") -> Report:
    async with own_engine(without_speech(script), open_voice=fast_voice, settings={"limits": QUICK}) as engine:
        return await converse(script, engine, Options(provider=provider, patience_s=5.0))


@pytest.mark.parametrize("name", ["product_classification", "officer", "long_conversation"])
async def test_a_conversation_holds_over_text(name: str) -> None:
    report = await held(load(name))
    assert list(report.all_problems()) == []
    assert report.ok
    assert len(report.session_ids) == 1


async def test_a_conversation_holds_over_sms() -> None:
    report = await held(load("five_turns", over=Modality.SMS), "vonage")
    assert list(report.all_problems()) == []
    assert report.ok


@pytest.mark.heavy
async def test_call_second_call_and_sms_are_one_session_across_restarts() -> None:
    report = await held(load("one_session_id"))
    assert list(report.all_problems()) == []
    assert report.ok
    assert len(report.session_ids) == 1
    over = ["voice", "voice", "sms", "voice", "voice", "voice", "sms", "sms"]
    assert [str(item.over) for item in report.exchanges] == over
    assert report.exchanges[0].answer == "What name shall I put it under?"
    assert report.exchanges[5].answer.startswith("It is booked"), "an answer is that of its turn, and no earlier one"


async def test_a_call_of_scope_call_has_a_session_of_its_own() -> None:
    script = parse(
        """
        over = "voice"
        scope = "call"
        [agents.desk]
        script = "appointment_desk"
        [[turns]]
        say = "My name is Anna Miller, and I would like to book a check-up."
        expect = "which day"
        [[turns]]
        say = "What is my name?"
        expect_not = "Anna"
        new_call = true
        greeting_not = "welcome back"
        """,
        "two_calls.toml",
    )
    report = await held(script)
    assert list(report.all_problems()) == []
    assert len(report.session_ids) == 2


async def test_an_agent_that_is_handed_over_to_answers_the_same_session() -> None:
    script = parse(
        """
        scope = "call"
        [agents.reception]
        script = "reception"
        [agents.desk]
        script = "appointment_desk"
        [agents.classifier]
        script = "classifier"
        [[turns]]
        say = "Hello."
        agent = "reception"
        [[turns]]
        say = "I would like to book a cleaning."
        expect = "which day"
        agent = "desk"
        """,
        "handed_over.toml",
    )
    report = await held(script)
    assert list(report.all_problems()) == []
    assert len(report.session_ids) == 1
