"""Two engines on one store, with calls, texts and turns of the same people on both at once.

OFFHOOK_SHARED_TURNS says how many turns each engine takes on the one stream; 12 by default.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
import trio

from tests.fakes.echo_agent import canaries
from tests.faults.store_bench import Caller, callers_words, export_of, quick_settings
from tests.system.session_rig import Program, program, store_settings

TURNS = int(os.environ.get("OFFHOOK_SHARED_TURNS", "12"))
CALLER = "+15005550131"


@pytest.fixture(autouse=True)
def quiet_log(plain_log: None) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "redis"])
async def test_all_turns_of_both_are_there_and_each_ones_in_order(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    settings = quick_settings(store_settings(kind, tmp_path, request))
    settings = replace(settings, store=replace(settings.store, operation_s=10.0))
    other = replace(settings, store=replace(settings.store, journal=str(tmp_path / "other.journal")))
    async with program(settings) as one, program(other) as two:
        said: dict[str, list[str]] = {}
        async with trio.open_nursery() as nursery:
            for name, desk in (("left", one), ("right", two)):
                nursery.start_soon(call, desk, name, said)
                nursery.start_soon(text, desk, name, said)
                nursery.start_soon(turn, desk, name, said)
        sessions = await export_of(one, CALLER)
        assert len(sessions) == 1
        there = callers_words(sessions[0]["messages"])
        check(there, said, "call", "text")
        assert canaries(str(sessions[0]["memory"])) == {"canaryleft", "canaryright"}
        assert sum(message["is_opening"] for message in sessions[0]["messages"]) <= 2, "one a call, at most"
        (stream_id,) = {(await desk.ask("POST", "/turn", json=BODY))["session_id"] for desk in (one, two)}
        messages = (await two.ask("GET", f"/api/sessions/{stream_id}/messages"))["messages"]
        check([text for text in callers_words(messages) if text != BODY["text"]], said, "turn")
        assert one.total("store_lost_total") == two.total("store_lost_total") == 0


BODY = {"text": "Which one is it?", "stream_sid": "robot"}


def check(there: list[str], said: dict[str, list[str]], *ways: str) -> None:
    assert len(there) == len(set(there))
    mine = {name: texts for name, texts in said.items() if name.partition(" ")[0] in ways}
    assert sorted(there) == sorted(text for texts in mine.values() for text in texts)
    for texts in mine.values():
        assert [text for text in there if text in texts] == texts


async def call(desk: Program, name: str, said: dict[str, list[str]]) -> None:
    async with desk.call(CALLER) as talk:
        words = f"My word is canary{name}"
        assert f"canary{name}" in await talk.say(f"{words}.")
        caller = Caller(talk, f"call {name}")
        await caller.turns(2)
    said[f"call {name}"] = [f"{words}.", *caller.said]


async def text(desk: Program, name: str, said: dict[str, list[str]]) -> None:
    texts = [f"text {name} {number}" for number in range(3)]
    for words in texts:
        assert f"You said {words}." in await desk.text(CALLER, words)
    said[f"text {name}"] = texts


async def turn(desk: Program, name: str, said: dict[str, list[str]]) -> None:
    texts = [f"turn {name} {number}" for number in range(TURNS)]
    for words in texts:
        assert f"You said {words}." in await desk.turn(words, "robot")
    said[f"turn {name}"] = texts
