"""kill -9 while turns are written: each one that was acknowledged is there after the restart, once, in order.

OFFHOOK_ENGINE_KILLS says how often the engine is killed; 4 by default.
"""

from __future__ import annotations

import os
import random
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio

from tests.faults.store_bench import Process, callers_words, check_in_order

KILLS = int(os.environ.get("OFFHOOK_ENGINE_KILLS", "4"))
STREAMS = 4
KILLS_A_SESSION = 20
"""Then other streams take over, so that what is read after each restart stays short."""
WITHIN_S = 0.5
"""Of its first answer the engine is killed."""
LISTENING_S = 3.0


@dataclass(eq=False)
class Stream:
    """One client that says one thing after the other, whatever becomes of the engine."""

    name: str
    session_id: str = ""
    asked: int = 0
    acknowledged: list[str] = field(default_factory=list)
    in_doubt: list[str] = field(default_factory=list)

    async def talk(self, client: httpx.AsyncClient) -> None:
        """Until the engine is gone."""
        with suppress(httpx.TransportError):
            while True:
                await self.ask(client)

    async def ask(self, client: httpx.AsyncClient) -> None:
        self.asked += 1
        text = f"{self.name} says {self.asked}."
        self.in_doubt.append(text)
        answer = await client.post("/turn", json={"text": text, "stream_sid": self.name})
        assert answer.status_code == 200, answer.text
        self.in_doubt.remove(text)
        self.acknowledged.append(text)
        assert self.session_id in ("", answer.json()["session_id"]), "the stream has another session now"
        self.session_id = answer.json()["session_id"]

    async def check(self, client: httpx.AsyncClient) -> None:
        if not self.acknowledged:
            return
        answer = await client.get(f"/api/sessions/{self.session_id}/messages")
        assert answer.status_code == 200, answer.text
        there = callers_words(answer.json()["messages"])
        check_in_order(there, self.acknowledged, in_doubt=self.in_doubt)
        numbers = [int(text.rstrip(".").rsplit(" ", 1)[1]) for text in there]
        assert numbers == sorted(numbers)


# Requests that are under way when the engine is killed leave this behind in the client's library.
@pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning")
async def test_every_acknowledged_turn_survives_kills_at_any_moment(tmp_path: Path) -> None:
    """And the engine, started as its users do, listens again within 3 s."""
    chance = random.Random(1)
    process = Process(tmp_path / "engine", {"sessions": {"retention": 100_000}})
    streams: list[Stream] = []
    acknowledged = in_doubt = 0
    try:
        for kill in range(KILLS):
            await process.start()
            async with process.client() as client:
                for stream in streams:
                    await stream.check(client)
            if kill % KILLS_A_SESSION == 0:
                acknowledged += sum(len(stream.acknowledged) for stream in streams)
                in_doubt += sum(len(stream.in_doubt) for stream in streams)
                streams = [Stream(f"stream-{kill}-{number}") for number in range(STREAMS)]
            await killed_while_they_talk(process, streams, chance)
            check_file(process.folder / "offhook.db")
        process.from_scratch = True
        await process.start()
        async with process.client() as client:
            for stream in streams:
                await stream.check(client)
                await stream.ask(client)
                await stream.check(client)
    finally:
        process.kill()
    acknowledged += sum(len(stream.acknowledged) for stream in streams)
    in_doubt += sum(len(stream.in_doubt) for stream in streams)
    print(f"{KILLS} kills, {acknowledged} turns acknowledged, {in_doubt} in doubt")
    print(f"listening after {process.listening_s[-1]:.2f} s, {process.listening_cpu_s[-1]:.2f} s of computing")
    assert acknowledged >= KILLS
    assert process.listening_cpu_s[-1] <= LISTENING_S


async def killed_while_they_talk(process: Process, streams: list[Stream], chance: random.Random) -> None:
    before = sum(len(stream.acknowledged) for stream in streams)
    async with process.client() as client, trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(stream.talk, client)
        with trio.fail_after(20):
            while sum(len(stream.acknowledged) for stream in streams) == before:  # noqa: ASYNC110 - of many at once
                await trio.sleep(0.005)
        await trio.sleep(chance.random() * WITHIN_S)
        await trio.to_thread.run_sync(partial(process.kill))


def check_file(path: Path) -> None:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
