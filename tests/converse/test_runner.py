"""A conversation with an engine that misbehaves to order: every fault stands in the report."""

from __future__ import annotations

import pytest

from engine.converse.report import Report
from engine.converse.runner import NotHeld, Options, converse
from engine.converse.script import parse
from tests.converse.fake_engine import KEY, FakeEngine, fake_engine

SCRIPT = parse(
    """
    description = "Tea."
    [[turns]]
    say = "I like tea."
    expect = "I like tea"
    [[turns]]
    say = "And cake."
    expect = ["tea", "/cake/"]
    remembers = ["I like tea"]
    [[turns]]
    say = "What do I like?"
    expect = "tea"
    remembers = {last = "what do I like"}
    agent = "desk"
    restart = true
    """,
    "tea.toml",
)


async def held(engine: FakeEngine, *, keep: bool = False) -> Report:
    return await converse(SCRIPT, engine, Options(keep=keep))


async def test_a_conversation_that_is_remembered_is_ok(autojump_clock: object) -> None:
    async with fake_engine() as engine:
        report = await held(engine)
    assert list(report.all_problems()) == []
    assert report.ok
    assert report.session_ids == ("s_1",)
    assert engine.restarts == 1
    assert report.exchanges[0].answer == "You said: I like tea."
    assert "tea: 3 of 3 turns, session s_1" in report.summary()


@pytest.mark.parametrize(
    ("fault", "problems"),
    [
        (
            "starts anew every turn",
            [
                "turn 2: 'tea' is not in the answer",
                "turn 2: 'I like tea' is not remembered",
                "turn 3: 'tea' is not in the answer",
                "the session id did not stay the same: s_1, s_2, s_5",
            ],
        ),
        ("loses all at a restart", ["turn 3: 'tea' is not in the answer"]),
        ("notes nothing", ["turn 3: last is not remembered"]),
        ("opens twice", ["session s_1 was opened 2 times"]),
        ("shows too little", ["validation: missing in turn 1"]),
        ("says nothing", [f"turn {number}: no answer" for number in (1, 2, 3)]),
        ("fails", ["turn 1: POST /turn answered HTTP 502: The model failed."]),
    ],
)
async def test_every_fault_is_found(fault: str, problems: list[str], autojump_clock: object) -> None:
    async with fake_engine(fault) as engine:
        report = await held(engine)
    assert list(report.all_problems()) == problems
    assert not report.ok
    assert "failed" in report.summary()


async def test_a_rate_limit_is_waited_out(autojump_clock: object) -> None:
    async with fake_engine("is too busy once") as engine:
        assert (await held(engine)).ok


async def test_without_its_key_the_engine_says_so(autojump_clock: object) -> None:
    async with fake_engine(key=KEY) as engine:
        report = await held(engine)
        assert "answered HTTP 401: A key is needed. Is API_KEY set" in next(report.all_problems())
        engine.api_key = KEY
        assert (await held(engine)).ok


async def test_an_engine_that_is_not_there_is_a_problem_and_no_crash(autojump_clock: object) -> None:
    engine = FakeEngine(url="http://127.0.0.1:9")
    assert "no answer from http://127.0.0.1:9" in next((await held(engine)).all_problems())


async def test_what_was_said_is_removed_unless_it_is_to_be_kept(autojump_clock: object) -> None:
    async with fake_engine() as engine:
        await held(engine, keep=True)
        assert engine.told
        await held(engine)
        assert not engine.told


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("", "permits.toml: this conversation is with the agent 'permits': the engine there has no agent of that name"),
        ("does not look at agents", "the engine there answers as 'desk'"),
    ],
)
async def test_an_engine_without_the_scripts_agent_is_told_from_one_that_answers_wrongly(fault: str, why: str) -> None:
    script = parse('[agents.permits]\nscript = "officer"\n[[turns]]\nsay = "Hello."\n', "permits.toml")
    async with fake_engine(fault) as engine:
        with pytest.raises(NotHeld, match=why) as caught:
            await converse(script, engine, Options())
        assert caught.value.lacks_agents
        assert engine.told == {}, "nothing of it stays"
