"""The store actor: the one task that writes what sessions save, many at once, and keeps them in a journal while the store
is down."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from engine.errors import StoreDown
from engine.observe.metrics import Metrics
from engine.sessions.journal import Journal
from engine.sessions.record import Save, Saved
from engine.sessions.vault import Vault

QUEUE = 10_000
BATCH = 500
BACKOFF_S = (0.5, 5.0)
"""Between two attempts to reach a store that is down: the first pause, and the longest."""


@dataclass(frozen=True, slots=True)
class Journaled:
    """It is safe in the journal's file, and goes to the store once that is back."""


OnDone = Callable[[Saved | StoreDown | Journaled | None], None]
"""Called once, on the event loop. Saved: it is in the store. None: the session is gone. Journaled: it will be in the
store. StoreDown: it is not stored, and will not be."""


class Writer:
    """``run`` it in a task; all else never blocks, or says so."""

    def __init__(
        self,
        vault: Vault,
        journal: Journal | None,
        metrics: Metrics,
        *,
        operation_s: float = 5.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        """``journal`` None: what the store does not take is lost. ``operation_s``: for one batch."""

    @property
    def is_down(self) -> bool:
        """The store did not take the last that was written."""
        return False

    @property
    def backlog(self) -> int:
        """Saves that wait in the journal."""
        return 0

    async def run(self) -> None:
        """Serve until cancelled. After a crash it may be run again: nothing that was queued is lost."""

    def save(self, save: Save, on_done: OnDone, *, may_wait: bool) -> None:
        """Queue it. ``may_wait``: the journal is good enough; else it is stored now or not at all."""

    async def forget(self, number: str) -> None:
        """Whatever of this number (E.164) is queued or in the journal is gone when this returns, and will not be
        written; its ``on_done`` gets None. Raises StoreDown."""

    async def flush(self) -> None:
        """Until everything queued so far is in the store or the journal, or lost."""
