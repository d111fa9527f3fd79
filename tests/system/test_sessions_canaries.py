"""No word of one caller reaches another: not the agent that answers him, not his ear, not what is stored of him."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
import trio
from trio.testing import MockClock

from engine.settings import Settings
from tests.fakes.echo_agent import canaries
from tests.system.session_rig import BRIEF_LINE, LINE, LONG_S, Program, Talk, program, settings_on, store_settings

IN_A_ROW = 200
IN_A_FILE = 30
ON_A_SERVER = 10
AT_ONCE = 8
STREAMS = 40
RATE = 4
"""Not more: of it an actor has two seconds to answer, and a phone waits five, which a busy machine must find time
for."""


@pytest.fixture(autouse=True)
def quiet_log(plain_log: None) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))


@pytest.fixture
def quick_clock() -> MockClock:
    return MockClock(rate=RATE)


def keeping_all(kind: str, folder: Path, request: pytest.FixtureRequest) -> Settings:
    """Calls of the scope ``call`` are kept as history, too, so that there is more to cross."""
    settings = settings_on(store_settings(kind, folder, request), patience_s=10 * LONG_S)
    return replace(settings, sessions=replace(settings.sessions, keep_calls=True))


def word_of(place: int) -> str:
    return f"canary{place:04d}"


def line_of(place: int) -> str:
    """One scope and the other in turn."""
    return LINE if place % 2 else BRIEF_LINE


async def one_call(desk: Program, place: int) -> None:
    async with desk.call(f"+1500555{place:04d}", dialled=line_of(place)) as talk:
        assert talk.greeting.startswith("Hello")
        assert await talk.say(f"{word_of(place)}.") == f"Turn 1. You said {word_of(place)}. I know {word_of(place)}."


async def nothing_has_crossed(desk: Program, count: int) -> None:
    vault = desk.memory.vault
    heads = await vault.sessions(limit=1000)
    words: list[str] = []
    for head in heads:
        stored = await vault.get(head.record.session_id, last=1000)
        assert stored is not None
        kept = repr((stored, await vault.traces(head.record.session_id)))
        words += canaries(kept)
        assert canaries(kept) == {word_of(int(head.record.number[-4:]))}
    assert sorted(words) == [word_of(place) for place in range(count)]
    assert desk.total("greeting_repeats_total") == desk.total("context_violations_total") == 0


async def calls_in_a_row(settings: Settings, count: int) -> None:
    async with program(settings) as desk:
        for place in range(count):
            await one_call(desk, place)
        await nothing_has_crossed(desk, count)


@pytest.mark.heavy
async def test_two_hundred_calls_in_a_row_know_nothing_of_each_other(
    tmp_path: Path, request: pytest.FixtureRequest, autojump_clock: MockClock
) -> None:
    await calls_in_a_row(keeping_all("memory", tmp_path, request), IN_A_ROW)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("kind", "count"), [("sqlite", IN_A_FILE), ("postgresql", ON_A_SERVER), ("redis", ON_A_SERVER)]
)
async def test_so_do_calls_in_a_row_on_a_real_store(
    kind: str, count: int, tmp_path: Path, request: pytest.FixtureRequest, quick_clock: MockClock
) -> None:
    await calls_in_a_row(keeping_all(kind, tmp_path, request), count)


@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgresql", "redis"])
async def test_calls_and_texts_side_by_side_know_nothing_of_each_other(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, quick_clock: MockClock
) -> None:
    """Two calls whose turns interleave, in one scope and in the other; and while they last others write and call."""
    async with program(keeping_all(kind, tmp_path, request)) as desk:
        for places in ((0, 2), (1, 3)):
            async with AsyncExitStack() as stack:
                talks = {place: await stack.enter_async_context(call(desk, place)) for place in places}
                for said in ("My word is {}.", "It is {} still.", "What is it?"):
                    for place, talk in talks.items():
                        assert canaries(await talk.say(said.format(word_of(place)))) == {word_of(place)}
        async with trio.open_nursery() as nursery:
            for place in range(4, 4 + AT_ONCE):
                nursery.start_soon(one_call if place % 3 else texts, desk, place)
        await nothing_has_crossed(desk, 4 + AT_ONCE)


def call(desk: Program, place: int) -> AbstractAsyncContextManager[Talk]:
    return desk.call(f"+1500555{place:04d}", dialled=line_of(place))


async def texts(desk: Program, place: int) -> None:
    number, line = f"+1500555{place:04d}", line_of(place)
    assert canaries(await desk.text(number, f"My word is {word_of(place)}.", dialled=line)) == {word_of(place)}
    assert canaries(await desk.text(number, "What is it?", dialled=line)) == {word_of(place)}


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_streams_of_written_turns_know_nothing_of_each_other(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """One after the other, every second one ended; some again later."""
    async with program(keeping_all(kind, tmp_path, request)) as desk:
        for place in range(STREAMS):
            assert canaries(await desk.turn(f"My word is {word_of(place)}.", f"stream{place}")) == {word_of(place)}
            if place % 2:
                await desk.ask("POST", "/session/reset", json={"stream_sid": f"stream{place}"})
        for place in range(0, STREAMS, 10):
            assert canaries(await desk.turn("What is it?", f"stream{place}")) == {word_of(place)}
            assert not canaries(await desk.turn("What is it?", f"stream{place + 1}"))
