"""What is true of the store in memory only; the rest is in tests/contract."""

from __future__ import annotations

from dataclasses import replace

import trio

from adapters.stores.memory import MemoryStore, open_memory
from engine.ports import Append, MessageRow, SessionRow

HEAD = SessionRow("s1", "k1", "anna", 0, 10.0, 10.0, 20.0, b"head")


async def test_two_that_are_opened_have_nothing_in_common() -> None:
    async with open_memory(now=lambda: 10.0) as one, open_memory(now=lambda: 10.0) as other:
        await one.write([Append(HEAD)])
        assert await other.get("s1", last=1) is None


async def test_every_operation_lets_others_run_and_can_be_cancelled() -> None:
    store = MemoryStore(lambda: 10.0)
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.write([Append(HEAD)])
    assert scope.cancelled_caught
    assert await store.get("s1", last=1) is None


async def test_what_was_given_out_does_not_change() -> None:
    store = MemoryStore(lambda: 10.0)
    await store.write([Append(HEAD, (MessageRow("m1", 1.0, b"one"),))])
    before, traces = await store.get("s1", last=5), await store.traces("s1")
    traces.clear()
    await store.write([Append(replace(HEAD, version=1), (MessageRow("m2", 1.0, b"two"),))])
    assert before is not None
    assert [message.message_id for message in before.messages] == ["m1"]
    assert before.row.version == 1
