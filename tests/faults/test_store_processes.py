"""Two engines, each a process of its own, take turns of one session on one store: all are there, once, each engine's in
their order.

OFFHOOK_PROCESS_TURNS says how many turns each of them takes; 50 by default.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from engine.phone import twilio
from engine.phone.side import Callee
from tests.fakes.servers import PostgresqlServer
from tests.faults.store_bench import Process, callers_words, processes, sessions_of, sound
from tests.system.session_rig import LINE, SECRET

TURNS = int(os.environ.get("OFFHOOK_PROCESS_TURNS", "50"))
CALLER = "+15005550151"


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_all_texts_of_one_number_to_two_engines_are_there_once(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store: dict[str, object] = {"kind": kind, "path": str(tmp_path / "offhook.db"), "operation_s": 30.0}
    if kind == "postgresql":
        server = request.getfixturevalue("postgresql_server")
        assert isinstance(server, PostgresqlServer)
        store["url"] = server.new_database()
    settings: dict[str, dict[str, object]] = {
        "store": store,
        "sessions": {"retention": 100_000, "text_answer_s": 60.0},
    }
    one, two = (Process(tmp_path / name, settings) for name in ("left", "right"))
    async with processes(one, two):
        began_at_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_texts, one, "left")
            nursery.start_soon(send_texts, two, "right")
        print(f"{kind}: {2 * TURNS} texts in {trio.current_time() - began_at_s:.1f} s")
        async with one.client() as client:
            sessions = await sessions_of(client, CALLER)
        for process in (one, two):
            async with process.client() as client:
                assert await process.metric(client, "offhook_store_lost_total") == 0
            assert await process.stop() == 0
            assert "Traceback" not in process.log
    assert len(sessions) == 1
    there = callers_words(sessions[0]["messages"])
    for name in ("left", "right"):
        assert [text for text in there if name in text] == [words(name, number) for number in range(TURNS)]
    assert len(there) == 2 * TURNS
    if kind == "sqlite":
        sound(tmp_path / "offhook.db")


def words(name: str, number: int) -> str:
    return f"{name} says {number}"


async def send_texts(process: Process, name: str) -> None:
    callee = Callee(process.url, caller=CALLER, dialled=LINE, secret=SECRET)
    async with process.client() as client:
        for number in range(TURNS):
            text = words(name, number)
            answer = " ".join(await twilio.post_text(callee, text, client))
            assert f"You said {text}." in answer, answer
