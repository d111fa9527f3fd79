"""Requirement E3: "try again" and "look at the chat history" mean the right thing to the agents that ship, in written
turns, in texts, in calls, and from a call to a text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from trio.testing import MockClock

from engine.settings import Settings
from tests.system.session_rig import RATE, program, settings_on, store_settings

CALLER = "+15005550123"
HOURS = "We are open Monday to Friday, from nine in the morning until five in the afternoon."
ADDRESS = "We are at 12 Mill Street, next to the library. There is parking behind the house."
GREETING = "How can I help you?"
PRICES = "A check-up is forty pounds, a cleaning is sixty, and a first consultation is free."
TALKED = "This is what we talked about."


@pytest.fixture
def quick_clock() -> MockClock:
    return MockClock(rate=RATE)


@pytest.fixture(autouse=True)
def quiet_log(plain_log: None) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))


def scripted(kind: str, folder: Path, request: pytest.FixtureRequest) -> Settings:
    """The appointment desk that ships, on plain speech."""
    settings = settings_on(store_settings(kind, folder, request))
    factory, options = "tests.converse.agents:make_agent", {"script": "appointment_desk"}
    agents = {name: replace(agent, factory=factory, options=options) for name, agent in settings.agents.items()}
    return replace(settings, agents=agents)


@pytest.mark.parametrize("over", ["turn", "sms"])
async def test_in_writing(over: str, tmp_path: Path, request: pytest.FixtureRequest, quick_clock: MockClock) -> None:
    async with program(scripted("memory", tmp_path, request)) as desk:

        async def ask(text: str) -> str:
            return await (desk.turn(text, "s1") if over == "turn" else desk.text(CALLER, text))

        assert await ask("Try again.") == "There is nothing yet that I could do again."
        assert await ask("Look at the chat history.") == "We have not talked about anything yet."
        assert await ask("What are your opening hours?") == HOURS
        assert await ask("Try again.") == HOURS
        assert await ask("Where are you?") == ADDRESS
        assert await ask("Try again, please.") == ADDRESS
        history = await ask("Can you look at the chat history?")
        assert history == (
            f"{TALKED} You said: What are your opening hours? {HOURS} You said: Where are you? {ADDRESS}"
        )
        assert await ask("Try again.") == ADDRESS
        assert await ask("I would like to book a check-up.") == "Which day would suit you?"
        assert "You said: I would like to book a check-up. That is not finished yet." in await ask("What did I say?")
        assert await ask("Try again.") == "Let us go on. Which day would suit you?"


async def test_by_voice_then_in_a_text_then_by_voice(
    tmp_path: Path, request: pytest.FixtureRequest, quick_clock: MockClock
) -> None:
    """What was asked in a call is what a text means, in a process that has only read of it; and the other way round."""
    async with program(scripted("sqlite", tmp_path, request)) as desk:
        async with desk.call(CALLER, greeted_with=GREETING) as talk:
            assert await talk.say("What are your opening hours?", HOURS) == HOURS
            assert await talk.say("Try again.", HOURS) == HOURS
            assert await talk.say("Where are you located?", ADDRESS) == ADDRESS
            history = await talk.say("Look at the chat history.", ADDRESS)
            told = [f"You said: What are your opening hours? {HOURS}", f"You said: Where are you located? {ADDRESS}"]
            assert history == " ".join([TALKED, *told])
            assert await talk.say("Try again.", ADDRESS) == ADDRESS
        await desk.restart()
        assert await desk.text(CALLER, "Try again") == ADDRESS
        assert await desk.text(CALLER, "Look at the chat history") == history
        assert await desk.text(CALLER, "How much is a check-up?") == PRICES
        async with desk.call(CALLER, greeted_with=GREETING) as talk:
            assert talk.greeting.startswith("Welcome back")
            assert await talk.say("Try again.", PRICES) == PRICES
            assert f"You said: How much is a check-up? {PRICES}" in await talk.say("Look at the chat history.", PRICES)
