"""The store actor: it alone writes what sessions save, many at once, and keeps it in a journal while the store is down.

Two tasks. One takes what is queued, to the store or, while that is down, to the journal. The other brings the journal
to the store, in order, with growing pauses between attempts; until the journal is empty nothing overtakes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import islice

import structlog
import trio

from engine.errors import StoreDown
from engine.observe.metrics import Metrics
from engine.ports import Lost
from engine.storage.journal import Journal
from engine.storage.record import Save, Saved
from engine.storage.vault import Vault

log = structlog.get_logger()

QUEUE = 10_000
BATCH = 500
BACKOFF_S = (0.5, 5.0)
"""Between two attempts to reach a store that is down: the first pause, and the longest."""


@dataclass(frozen=True, slots=True)
class Journaled:
    """It is safe in the journal's file, and goes to the store once that is back."""


OnDone = Callable[[Saved | Lost | StoreDown | Journaled | None], None]
"""Called once, on the event loop. Saved: it is in the store. None: the session is gone. Lost: the store has
let go of it by itself, and wants all of it anew. Journaled: it will be in the
store. StoreDown: it is not stored, and will not be."""


@dataclass(eq=False, slots=True)
class _Queued:
    save: Save
    on_done: OnDone
    may_wait: bool
    is_settled: bool = False
    settled: trio.Event | None = None
    """Made by whoever waits for it."""


class Writer:
    """``run`` it in a task. Saves of one session that are queued together must follow from one another."""

    def __init__(
        self,
        vault: Vault,
        journal: Journal | None,
        metrics: Metrics,
        *,
        operation_s: float = 5.0,
    ) -> None:
        """``journal`` None: what the store does not take is lost. ``operation_s``: for one operation of the store; a
        batch, which may have to be merged, is given two of them."""
        self._vault = vault
        self._journal = journal
        self._metrics = metrics
        self._batch_s = 2 * operation_s
        self._queue: deque[_Queued] = deque()
        self._is_down = False
        self._is_abandoned = False
        self._journal_fails = False
        """It cannot be read: what is in it waits, and the rest does not wait for it."""
        self._pause_s = BACKOFF_S[0]
        self._probe_at_s = 0.0
        self._more = trio.Event()
        """Set for the task that takes what is queued: there is more, or it may go on."""
        self._wanted = trio.Event()
        """Set for the task that brings back: the store is down, or something is in the journal."""
        # Whoever forgets a number waits for what is on its way.
        self._writing = trio.Lock()
        self._replaying = trio.Lock()

    @property
    def is_down(self) -> bool:
        """The store did not take what was last written."""
        return self._is_down

    def begin_down(self, down: StoreDown) -> None:
        """Somebody has seen that the store is down, before anything was written: it is tried again until it is back."""
        self._store_failed(down)

    @property
    def backlog(self) -> int:
        """Saves that wait in the journal."""
        return len(self._journal) if self._journal is not None else 0

    def save(self, save: Save, on_done: OnDone, *, may_wait: bool) -> None:
        """Queue it. ``may_wait``: the journal is good enough; else it is stored soon or not at all. With a full queue
        ``on_done`` is called before this returns."""
        if self._is_abandoned or len(self._queue) >= QUEUE:
            why = "nobody writes any more" if self._is_abandoned else "too much waits to be stored"
            self._metrics.store_lost_total.inc()
            log.error("save_lost", session_id=save.record.session_id, why=why)
            on_done(StoreDown("full", why))
            return
        self._queue.append(_Queued(save, on_done, may_wait))
        self._more.set()

    def abandon(self) -> None:
        """The actor is not started again: nobody waits for it any more."""
        self._is_abandoned = True
        for queued in list(self._queue):
            self._metrics.store_lost_total.inc()
            self._settle(queued, StoreDown("error", "nobody writes any more"))

    async def forget(self, number: str) -> None:
        """Whatever of this number (E.164) is queued or in the journal is gone when this returns, and will not be
        written; its ``on_done`` gets None. What was on its way to the store is there or not by then. Raises StoreDown
        when the journal's file cannot be changed."""
        async with self._writing, self._replaying:
            for queued in [queued for queued in self._queue if queued.save.record.number == number]:
                self._settle(queued, None)
            if self._journal is not None:
                await self._journal.forget(number)
                self._show_backlog()

    async def flush(self) -> None:
        """Until everything queued so far is in the store or the journal, or lost."""
        for queued in list(self._queue):
            if not queued.is_settled:
                queued.settled = queued.settled or trio.Event()
                await queued.settled.wait()

    # --- the actor ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until cancelled; what the last process left in the journal goes first. After a crash it may be run
        again: what was queued still is."""
        if self._journal is not None:
            try:
                await self._journal.open()
            except StoreDown as exc:
                log.error("journal_not_opened", why=exc.why)
            self._show_backlog()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve_queue)
            nursery.start_soon(self._bring_back)

    @property
    def _waits_for_journal(self) -> bool:
        return self.backlog > 0 and not self._journal_fails

    async def _serve_queue(self) -> None:
        while True:
            if not self._queue or (self._waits_for_journal and not self._is_down):
                self._more = trio.Event()
                await self._more.wait()
                continue
            await _take(self._writing)
            try:
                await self._serve_batch()
            finally:
                self._writing.release()

    async def _serve_batch(self) -> None:
        batch = list(islice(self._queue, BATCH))
        if self._is_down:
            await self._divert(batch, StoreDown("error", "it is down"))
        elif batch and not self._waits_for_journal:
            await self._write(batch)

    async def _write(self, batch: Sequence[_Queued]) -> None:
        try:
            results = await self._stored([queued.save for queued in batch])
        except StoreDown as exc:
            self._store_failed(exc)
            await self._divert(batch, exc)
        except Exception as exc:  # noqa: BLE001 - the edge of one save: what is in it is not ours
            if len(batch) == 1:
                self._give_up(batch[0], exc)
                return
            for place, queued in enumerate(batch):
                if self._is_down:
                    await self._divert(batch[place:], StoreDown("error", "it is down"))
                    return
                await self._write([queued])
        else:
            self._store_works()
            for queued, result in zip(batch, results, strict=True):
                self._settle(queued, result)

    async def _stored(self, saves: Sequence[Save]) -> list[Saved | Lost | None]:
        try:
            with trio.fail_after(self._batch_s):
                return await self._vault.write(saves)
        except trio.TooSlowError:
            raise StoreDown("timeout") from None

    async def _divert(self, batch: Sequence[_Queued], down: StoreDown) -> None:
        """What may wait to the journal; the rest is told."""
        waiting = [queued for queued in batch if queued.may_wait]
        for queued in batch:
            if not queued.may_wait:
                self._settle(queued, down)
        kept, why = await self._journaled([queued.save for queued in waiting])
        self._show_backlog()
        for queued in waiting[:kept]:
            self._settle(queued, Journaled())
        if waiting[kept:]:
            self._metrics.store_lost_total.inc(len(waiting) - kept)
            log.error("saves_lost", count=len(waiting) - kept, why=why.why)
        for queued in waiting[kept:]:
            self._settle(queued, why)

    async def _journaled(self, saves: Sequence[Save]) -> tuple[int, StoreDown]:
        """How many of them, and why the others are not."""
        if self._journal is None:
            return 0, StoreDown("error", "there is no journal")
        if not saves:
            return 0, StoreDown("error")
        try:
            return await self._journal.append(saves), StoreDown("full", "the journal")
        except StoreDown as exc:
            return 0, exc

    def _give_up(self, queued: _Queued, exc: Exception) -> None:
        self._metrics.store_lost_total.inc()
        log.error("save_lost", session_id=queued.save.record.session_id, why=type(exc).__name__)
        self._settle(queued, StoreDown("error", "it cannot be stored"))

    def _settle(self, queued: _Queued, result: Saved | Lost | StoreDown | Journaled | None) -> None:
        # First off the queue: should on_done raise, it is not called again.
        self._queue.remove(queued)
        queued.is_settled = True
        if queued.settled is not None:
            queued.settled.set()
        queued.on_done(result)

    # --- bringing the journal to the store ------------------------------------------------------------------

    async def _bring_back(self) -> None:
        while True:
            if not (self.backlog or self._is_down):
                self._wanted = trio.Event()
                await self._wanted.wait()
                continue
            await trio.sleep_until(self._probe_at_s)
            async with self._replaying:
                await self._probe()

    async def _probe(self) -> None:
        try:
            saves = await self._read_back()
            if saves:
                await self._replay(saves)
            elif self._is_down:
                await self._vault.open()
                self._store_works(is_proven=False)
        except StoreDown as exc:
            self._store_failed(exc)

    async def _read_back(self) -> list[Save]:
        saves: list[Save] = []
        if self._journal is not None and self.backlog:
            async with self._reading_journal():
                saves = await self._journal.read(BATCH)
            self._show_backlog()
        return saves

    async def _replay(self, saves: Sequence[Save]) -> None:
        assert self._journal is not None  # noqa: S101 - they came from it
        try:
            results = await self._stored(saves)
            # What is left of a session that the store has let go of by itself is better than nothing.
            lost = [save for save, result in zip(saves, results, strict=True) if isinstance(result, Lost)]
            if lost:
                await self._stored([replace(save, version=0, base=None) for save in lost])
        except StoreDown:
            raise
        except Exception as exc:  # noqa: BLE001 - the edge of one save, as above
            if len(saves) > 1:
                for save in saves:
                    await self._replay([save])
                return
            log.error("save_put_aside", session_id=saves[0].record.session_id, why=type(exc).__name__)
            async with self._reading_journal():
                await self._journal.put_aside(1)
        else:
            self._store_works()
            async with self._reading_journal():
                await self._journal.drop(len(saves))
        self._show_backlog()

    @asynccontextmanager
    async def _reading_journal(self) -> AsyncIterator[None]:
        """A journal that fails does not make the store one that is down."""
        try:
            yield
        except StoreDown as exc:
            if not self._journal_fails:
                log.error("journal_not_read", why=exc.why)
            self._journal_fails = True
            self._wait_longer()
        else:
            self._journal_fails = False

    # --- how the store is -----------------------------------------------------------------------------------

    def _store_failed(self, exc: StoreDown) -> None:
        if not self._is_down:
            log.warning("store_down", why=exc.why, detail=exc.detail)
        self._is_down = True
        self._wait_longer()
        self._note_change()

    def _wait_longer(self) -> None:
        self._probe_at_s = trio.current_time() + self._pause_s
        self._pause_s = min(2 * self._pause_s, BACKOFF_S[1])

    def _store_works(self, *, is_proven: bool = True) -> None:
        """Not ``is_proven``: it has answered, but nothing has been written yet; the pauses stay long."""
        if self._is_down:
            log.info("store_back", backlog=self.backlog)
        self._is_down = False
        if is_proven:
            self._pause_s = BACKOFF_S[0]
            self._probe_at_s = 0.0
        self._note_change()

    def _show_backlog(self) -> None:
        self._metrics.store_backlog.set(self.backlog)
        self._note_change()

    def _note_change(self) -> None:
        self._more.set()
        if self.backlog or self._is_down:
            self._wanted.set()


async def _take(lock: trio.Lock) -> None:
    """Without letting others run first where nobody has it: the writer takes it for each batch."""
    try:
        lock.acquire_nowait()
    except trio.WouldBlock:
        await lock.acquire()
