from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from adapters.stores.memory import MemoryStore
from engine.errors import StoreDown
from engine.observe.metrics import Metrics
from engine.storage import disk
from engine.storage.journal import Journal
from engine.storage.keyring import KeyRing
from engine.storage.record import Save, Saved
from engine.storage.vault import Vault
from engine.storage.writer import BATCH, QUEUE, Journaled, Writer
from tests.fakes.flaky_store import FlakyStore
from tests.storage.saves import KEY_1, NUMBER, OTHER, a_record, a_save, a_vault, an_entry

BIG = 1 << 20


@dataclass
class Rig:
    """A writer on a store that does as it is told."""

    path: Path | None = None
    store: FlakyStore = field(default_factory=FlakyStore)
    keys: KeyRing = field(default_factory=lambda: KeyRing.parse(KEY_1))
    max_bytes: int = BIG
    metrics: Metrics = field(default_factory=Metrics)
    results: list[tuple[str, object]] = field(default_factory=list)
    """Of each save that was settled: its message, and what became of it."""

    def __post_init__(self) -> None:
        self.vault: Vault = a_vault(self.store, self.keys, retention=10_000)
        self.journal = Journal(self.path, self.keys, self.max_bytes) if self.path else None
        self.writer = Writer(self.vault, self.journal, self.metrics)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Writer]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.writer.run)
            yield self.writer
            nursery.cancel_scope.cancel()
        if self.journal:
            await self.journal.aclose()

    def save(self, save: Save, *, may_wait: bool = True) -> None:
        name = save.entries[0].entry_id
        self.writer.save(save, lambda result: self.results.append((name, result)), may_wait=may_wait)

    def of(self, kind: type) -> list[str]:
        return [name for name, result in self.results if isinstance(result, kind)]

    async def stored(self, number: str = NUMBER) -> list[str]:
        """Message ids in the store, whatever it is told to do."""
        vault = a_vault(self.store.inner, self.keys)
        return [entry.entry_id for stored in await vault.of_number(number) for entry in stored.entries]

    def figure(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"offhook_{name}")


async def until(is_so: Callable[[], bool]) -> None:
    """Until something real, a thread, has done its part."""
    while not is_so():  # noqa: ASYNC110 - there is nothing that would tell
        await trio.sleep(0.01)


# --- a store that works ---------------------------------------------------------------------------------------


async def test_a_save_is_told_once_it_is_in_the_store(autojump_clock: MockClock) -> None:
    rig = Rig()
    async with rig.running() as writer:
        rig.save(a_save("a"))
        assert rig.results == []
        await writer.flush()
        assert rig.results == [("a", Saved(a_record(), 1))]
    assert await rig.stored() == ["a"]


async def test_what_waits_is_written_together(autojump_clock: MockClock) -> None:
    rig = Rig()
    async with rig.running() as writer:
        for i in range(BATCH + 10):
            rig.save(a_save(f"e{i}", session_id=f"s_{i}", number=f"+1555{i:07}"))
        await writer.flush()
    assert rig.store.writes == [BATCH, 10]
    assert rig.of(Saved) == [f"e{i}" for i in range(BATCH + 10)]


async def test_saves_queued_before_it_runs_and_while_a_batch_is_on_its_way_are_written_in_order() -> None:
    rig = Rig()
    for i in range(3):
        rig.save(a_save(f"a{i}"))
    async with rig.running() as writer:
        await writer.flush()
        for i in range(3):
            rig.save(a_save(f"b{i}", version=1))
        await writer.flush()
    assert await rig.stored() == ["a0", "a1", "a2", "b0", "b1", "b2"]


async def test_a_save_of_an_erased_session_is_told_that_it_is_gone(autojump_clock: MockClock) -> None:
    rig = Rig()
    async with rig.running() as writer:
        rig.save(a_save("a"))
        await writer.flush()
        await rig.vault.erase(NUMBER, 200.0)
        rig.save(a_save("b", version=1))
        await writer.flush()
    assert rig.results[-1] == ("b", None)


async def test_a_full_queue_loses_the_next_save_and_says_so() -> None:
    rig = Rig()
    for i in range(QUEUE):
        rig.save(a_save(f"e{i}"))
    rig.save(a_save("late"))
    ((name, result),) = rig.results
    assert name == "late"
    assert isinstance(result, StoreDown)
    assert result.why == "full"
    assert rig.figure("store_lost_total") == 1


async def test_one_save_that_breaks_the_store_takes_no_other_with_it(autojump_clock: MockClock) -> None:
    rig = Rig()
    inner_write = rig.store.inner.write

    async def picky(writes: list[object]) -> object:
        if any("s_bad" in repr(write) for write in writes):
            raise ValueError("not this one")
        return await inner_write(writes)  # type: ignore[arg-type]  # as they came

    rig.store.inner.write = picky  # type: ignore[method-assign,assignment]  # a bug for one session
    async with rig.running() as writer:
        rig.save(a_save("a"))
        rig.save(a_save("bad", session_id="s_bad", number=OTHER))
        rig.save(a_save("b"))
        await writer.flush()
        assert not writer.is_down
    assert rig.of(Saved) == ["a", "b"]
    assert rig.of(StoreDown) == ["bad"]
    assert rig.figure("store_lost_total") == 1


# --- a store that is down -------------------------------------------------------------------------------------


async def test_while_the_store_is_down_what_may_wait_is_journaled_and_the_rest_is_told(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "journal")
    rig.store.fails = "refused"
    async with rig.running() as writer:
        rig.save(a_save("call"))
        rig.save(a_save("text", session_id="s_2", number=OTHER), may_wait=False)
        await writer.flush()
        assert rig.of(Journaled) == ["call"]
        assert rig.of(StoreDown) == ["text"]
        assert writer.is_down
        assert writer.backlog == 1
        assert rig.figure("store_backlog") == 1
        assert rig.figure("store_lost_total") == 0


async def test_once_it_is_known_to_be_down_nobody_waits_for_it(tmp_path: Path, autojump_clock: MockClock) -> None:
    rig = Rig(tmp_path / "journal")
    async with rig.running() as writer:
        rig.store.fails = "refused"
        rig.save(a_save("first"), may_wait=False)
        await writer.flush()
        rig.store.fails, rig.store.hangs = "", True
        began_at_s = trio.current_time()
        rig.save(a_save("text"), may_wait=False)
        await wait_all_tasks_blocked()
        assert rig.of(StoreDown) == ["first", "text"]
        assert trio.current_time() == began_at_s


async def test_a_store_that_hangs_is_given_up_and_what_may_wait_is_journaled(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    rig = Rig(tmp_path / "journal")
    rig.store.hangs = True
    async with rig.running() as writer:
        rig.save(a_save("a"))
        await writer.flush()
        assert rig.of(Journaled) == ["a"]


async def test_what_was_journaled_is_in_the_store_in_order_and_once_when_it_comes_back(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """One call says ten things; the store fails after the third, and has stored the fourth without saying so."""
    rig = Rig(tmp_path / "journal")
    async with rig.running() as writer:
        version = 0
        for i in range(10):
            rig.store.swallows = i == 3
            rig.store.fails = "refused" if i > 3 else ""
            rig.save(a_save(f"e{i}", version=version, at=100.0 + i))
            await writer.flush()
            version = max([result.version for _, result in rig.results if isinstance(result, Saved)])
        assert rig.of(Journaled) == [f"e{i}" for i in range(3, 10)]
        rig.store.fails = ""
        await until(lambda: not (writer.backlog or writer.is_down))
        rig.save(a_save("after", version=version, at=111.0), may_wait=False)
        await writer.flush()
        await until(lambda: rig.figure("store_backlog") == 0)
        assert rig.of(Saved)[-1] == "after"
    assert await rig.stored() == [*(f"e{i}" for i in range(10)), "after"]
    assert [event.fields["e"] for event in await rig.vault.traces("s_1")] == [*(f"e{i}" for i in range(10)), "after"]
    assert not (await trio.Path(tmp_path / "journal").exists())


async def test_nothing_overtakes_what_is_in_the_journal(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Saves that come while the journal goes to the store wait for it, and are stored then."""
    rig = Rig(tmp_path / "journal")
    rig.store.fails = "refused"
    async with rig.running() as writer:
        for i in range(BATCH + 5):
            rig.save(a_save(f"a{i}"))
        await writer.flush()
        rig.store.fails = ""
        await until(lambda: not writer.is_down)
        rig.save(a_save("text", at=120.0), may_wait=False)
        await writer.flush()
        assert writer.backlog == 0
    assert rig.of(StoreDown) == []
    assert await rig.stored() == [*(f"a{i}" for i in range(BATCH + 5)), "text"]


async def test_attempts_to_reach_the_store_come_at_growing_pauses(autojump_clock: MockClock) -> None:
    rig = Rig()
    rig.store.fails = "refused"
    async with rig.running() as writer:
        rig.save(a_save("a"))
        await writer.flush()
        asked_at_s, began_at_s, asked = [], trio.current_time(), rig.store.asked
        while trio.current_time() < began_at_s + 20:
            await trio.sleep(0.05)
            if rig.store.asked != asked:
                asked = rig.store.asked
                asked_at_s.append(round(trio.current_time() - began_at_s, 1))
        pauses = [round(b - a) for a, b in pairwise(asked_at_s[2:])]
        assert asked_at_s[:2] == pytest.approx([0.5, 1.5], abs=0.15)
        assert pauses[-2:] == [5, 5]
        rig.store.fails = ""
        await trio.sleep(5.1)
        assert not writer.is_down  # without a save that would have found out
    assert rig.figure("store_lost_total") == 1


async def test_a_store_that_answers_but_takes_nothing_is_not_tried_all_the_time(autojump_clock: MockClock) -> None:
    rig = Rig()
    rig.store.bug = StoreDown("full")
    async with rig.running():
        for _ in range(200):
            rig.save(a_save("a"), may_wait=False)
            await trio.sleep(0.1)
    assert len(rig.of(StoreDown)) == 200
    assert len(rig.store.writes) < 10


async def test_without_a_journal_what_the_store_does_not_take_is_lost_and_counted(autojump_clock: MockClock) -> None:
    rig = Rig()
    rig.store.fails = "refused"
    async with rig.running() as writer:
        rig.save(a_save("a"))
        await writer.flush()
        assert rig.of(StoreDown) == ["a"]
        rig.store.fails = ""
        await until(lambda: not writer.is_down)
        rig.save(a_save("b"))
        await writer.flush()
    assert await rig.stored() == ["b"]
    assert rig.figure("store_lost_total") == 1


async def test_a_full_journal_loses_the_newest_and_calls_go_on(tmp_path: Path, autojump_clock: MockClock) -> None:
    rig = Rig(tmp_path / "journal", max_bytes=4096)
    rig.store.fails = "refused"
    async with rig.running() as writer:
        for i in range(20):
            rig.save(a_save(f"e{i}"))
        await writer.flush()
        kept = len(rig.of(Journaled))
        assert 1 < kept < 20
        assert rig.of(StoreDown) == [f"e{i}" for i in range(kept, 20)]
        assert rig.figure("store_lost_total") == 20 - kept
        rig.store.fails = ""
        await until(lambda: not writer.backlog)
    assert await rig.stored() == [f"e{i}" for i in range(kept)]


async def test_a_journal_that_cannot_be_written_loses_what_the_store_does_not_take(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    rig = Rig(tmp_path / "nowhere" / "journal")
    rig.store.fails = "refused"
    async with rig.running() as writer:
        rig.save(a_save("a"))
        await writer.flush()
        assert rig.of(StoreDown) == ["a"]
        rig.store.fails = ""
        await until(lambda: not writer.is_down)
        rig.save(a_save("b"))
        await writer.flush()
        assert rig.of(Saved) == ["b"]


async def test_a_journal_that_cannot_be_read_holds_up_nothing_that_the_store_takes(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path / "journal")
    rig.store.fails = "refused"
    async with rig.running() as writer:
        with monkeypatch.context() as patch:
            patch.setattr("os.pread", _broken)
            rig.save(a_save("a"))
            await writer.flush()
            rig.store.fails = ""
            await until(lambda: not writer.is_down)
            rig.save(a_save("b", session_id="s_2", number=OTHER), may_wait=False)
            await writer.flush()
            assert rig.of(Saved) == ["b"]
            assert writer.backlog == 1
        await until(lambda: not writer.backlog)
    assert await rig.stored() == ["a"]


def _broken(fd: int, count: int, offset: int) -> bytes:
    raise OSError(5, "no")


# --- restarts -------------------------------------------------------------------------------------------------


async def test_what_the_last_process_left_goes_before_anything_new(tmp_path: Path, autojump_clock: MockClock) -> None:
    left = Journal(tmp_path / "journal", KeyRing.parse(KEY_1), BIG)
    await left.append([a_save(f"old{i}") for i in range(3)])
    await left.aclose()
    rig = Rig(tmp_path / "journal")
    rig.save(a_save("new", at=120.0), may_wait=False)
    async with rig.running() as writer:
        await writer.flush()
        assert rig.of(Saved) == ["new"]
        assert writer.backlog == 0
    assert await rig.stored() == ["old0", "old1", "old2", "new"]


async def test_killed_while_the_journal_goes_to_the_store_every_turn_is_there_once_in_order(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Its file, whole or with a torn end, given to a new process on a store that has got nothing of it, or all."""
    folder = tmp_path / "left"
    rig = Rig(tmp_path / "journal")
    rig.store.fails = "refused"
    async with rig.running() as writer:
        for i in range(4):
            rig.save(a_save(f"e{i}"))
            await writer.flush()
        content = disk.content(tmp_path / "journal")
        rig.store.fails = ""
        await until(lambda: not writer.backlog)
    for i, copy in enumerate((content, content + content[: len(content) // 3])):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "journal").write_bytes(copy)
        for store in (rig.store, FlakyStore()):
            again = Rig(folder / "journal", store=store, metrics=rig.metrics)
            async with again.running() as writer:
                again.save(a_save(f"new{i}", session_id="s_2", number=OTHER))
                await writer.flush()
                assert writer.backlog == 0
            assert await again.stored() == ["e0", "e1", "e2", "e3"]
            (folder / "journal").write_bytes(copy)


async def test_after_a_crash_it_goes_on_with_what_was_queued(autojump_clock: MockClock) -> None:
    rig = Rig()

    def crash(result: object) -> None:
        raise RuntimeError("the listener is broken")

    rig.writer.save(a_save("a"), crash, may_wait=True)
    rig.save(a_save("b"))
    with pytest.raises(ExceptionGroup):
        await rig.writer.run()
    async with rig.running() as writer:
        await writer.flush()
    assert rig.of(Saved) == ["b"]
    assert await rig.stored() == ["a", "b"]


async def test_cancelled_in_the_middle_of_a_write_it_goes_on_later(autojump_clock: MockClock) -> None:
    rig = Rig()
    rig.store.hangs = True
    async with rig.running():
        rig.save(a_save("a"))
        await wait_all_tasks_blocked()
    assert rig.results == []
    rig.store.hangs = False
    async with rig.running() as writer:
        await writer.flush()
    assert rig.of(Saved) == ["a"]


# --- forgetting -----------------------------------------------------------------------------------------------


async def test_a_forgotten_number_is_in_no_queue_and_no_journal(tmp_path: Path, autojump_clock: MockClock) -> None:
    rig = Rig(tmp_path / "journal", keys=KeyRing.parse(""))
    rig.store.fails = "refused"
    async with rig.running() as writer:
        rig.save(a_save("a", text="in the coat"))
        rig.save(a_save("b", session_id="s_2", number=OTHER))
        await writer.flush()
        rig.save(a_save("queued", text="in the coat"))
        await writer.forget(NUMBER)
        assert rig.results[-1] == ("queued", None)
        assert writer.backlog == 1
        assert rig.figure("store_backlog") == 1
        content = disk.content(tmp_path / "journal") + disk.content(tmp_path / "journal.unreadable")
        assert b"coat" not in content
        assert NUMBER.encode() not in content
        rig.store.fails = ""
        await until(lambda: not writer.backlog)
    assert await rig.stored() == []
    assert await rig.stored(OTHER) == ["b"]


async def test_forgetting_waits_for_what_is_on_its_way(autojump_clock: MockClock) -> None:
    """So that an erasure that follows finds it in the store."""
    rig = Rig()
    async with rig.running() as writer:
        write, done = rig.store.inner.write, trio.Event()

        async def slow(writes: list[object]) -> object:
            await done.wait()
            return await write(writes)  # type: ignore[arg-type]  # as they came

        rig.store.inner.write = slow  # type: ignore[method-assign,assignment]  # takes its time
        rig.save(a_save("a"))
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.forget, NUMBER)
            await wait_all_tasks_blocked()
            assert nursery.child_tasks
            done.set()
        assert rig.of(Saved) == ["a"]
        assert await rig.vault.erase(NUMBER, 200.0) == 1
    assert await rig.stored() == []


# --- all at once ----------------------------------------------------------------------------------------------


async def test_many_calls_and_a_store_that_comes_and_goes_lose_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    rig = Rig(tmp_path / "journal", store=FlakyStore(MemoryStore(lambda: 0.0)))
    calls, turns = 40, 10

    async def call(i: int) -> None:
        version = 0
        record = a_record(f"s_{i}", number=f"+1555{i:07}")
        for turn in range(turns):
            done: list[object] = []
            save = Save(record, version, (an_entry(f"{i}.{turn}"),))
            rig.writer.save(save, done.append, may_wait=True)
            await until(lambda done=done: done)  # type: ignore[misc]  # of this turn
            assert isinstance(done[0], Saved | Journaled)
            if isinstance(done[0], Saved):
                version, record = done[0].version, done[0].record
            await trio.sleep(0.3)

    async def come_and_go() -> None:
        for fails in ("", "refused", "", "locked", ""):
            rig.store.fails = fails
            await trio.sleep(0.7)

    async with rig.running() as writer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(come_and_go)
            for i in range(calls):
                nursery.start_soon(call, i)
        await until(lambda: not writer.backlog)
    for i in range(calls):
        assert await rig.stored(f"+1555{i:07}") == [f"{i}.{turn}" for turn in range(turns)]
    assert rig.figure("store_lost_total") == 0
