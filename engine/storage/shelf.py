"""The record store as the vault's parts use it: opened, timed, counted, with a deadline over each operation."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import trio

from engine.errors import StoreDown
from engine.observe.labels import StoreOp
from engine.observe.metrics import Metrics
from engine.ports import RecordStore, SessionRow
from engine.storage.keyring import VARIABLE, KeyRing, Unreadable
from engine.storage.record import SessionRecord
from engine.storage.sealing import Sealing

log = structlog.get_logger()

INDEX_KEY = "index_key"
"""Name of the store's own value; also the place that it is sealed for."""

_MAX_LOGGED = 1000


class Shelf:
    """One store with its index key. Every use of ``store`` stands in a ``watched`` block."""

    def __init__(
        self, store: RecordStore, keys: KeyRing, metrics: Metrics, *, ttl_s: float, operation_s: float
    ) -> None:
        self.store = store
        self.keys = keys
        self.lacks_keys = False
        """It has been found sealed with a key that is not there: until it is, nothing can be read or written."""
        self._metrics = metrics
        self._ttl_s = ttl_s
        self._operation_s = operation_s
        self._index_key = b""
        self._is_open = False
        """After a failure it is looked at anew: a store may come back without what it held."""
        self._sealing: Sealing | None = None
        self._logged: dict[str, None] = {}

    @property
    def sealing(self) -> Sealing:
        """Raises StoreDown before the first ``open``."""
        if self._sealing is None:
            raise StoreDown("error", "it has not been opened yet")
        return self._sealing

    async def open(self) -> Sealing:
        """Read the index key; a store that has none is given the one we know, or a new one. Costs nothing once it is
        open. Raises StoreDown."""
        if not self._is_open or self._sealing is None:
            mine = self.keys.seal(self._index_key or secrets.token_bytes(32), INDEX_KEY)
            with self.watched(StoreOp.OTHER):
                sealed = await self.store.meta(INDEX_KEY, mine)
            self._index_key = self._opened(sealed)
            self._sealing = Sealing(self.keys, self._index_key, self._ttl_s)
            self._is_open = True
        return self._sealing

    def _opened(self, sealed: bytes) -> bytes:
        try:
            key = self.keys.open(sealed, INDEX_KEY)
        except Unreadable:
            how = f"none of {VARIABLE} opens it" if self.keys.is_encrypting else f"{VARIABLE} is missing"
            if not self.lacks_keys:
                log.error("index_key_unreadable", setting=VARIABLE, or_setting=f"{VARIABLE}_FILE", why=how)
            self.lacks_keys = True
            raise StoreDown("error", f"its index key is sealed, and {how}") from None
        if self.lacks_keys:
            log.info("index_key_opened")
        self.lacks_keys = False
        return key

    @contextmanager
    def watched(self, op: StoreOp, *, at_least_s: float = 0.0) -> Iterator[None]:
        """One operation: timed, counted, and StoreDown after ``operation_s``, or ``at_least_s`` if that is longer."""
        backend = self.store.backend
        began_at_s = trio.current_time()
        try:
            with trio.fail_after(max(self._operation_s, at_least_s)):
                yield
        except StoreDown as exc:
            self._failed(op, exc.why)
            raise
        except trio.TooSlowError:
            self._failed(op, "timeout")
            raise StoreDown("timeout") from None
        except trio.Cancelled:
            self._is_open = False
            raise
        finally:
            took_s = trio.current_time() - began_at_s
            self._metrics.store_operation_duration_seconds.labels(backend=backend, op=op).observe(took_s)

    def _failed(self, op: StoreOp, why: str) -> None:
        self._is_open = False
        self._metrics.store_errors_total.labels(backend=self.store.backend, op=op, error=why).inc()

    def record(self, row: SessionRow) -> SessionRecord | None:
        """None, noted, for one that does not open. Once the shelf is open."""
        try:
            return self.sealing.record(row)
        except Unreadable as exc:
            self.unreadable(row.session_id, exc)
            return None

    def unreadable(self, session_id: str, exc: Unreadable) -> None:
        """Count it, and log it the first time for each session."""
        self._metrics.store_unreadable_total.inc()
        if session_id not in self._logged:
            self._logged[session_id] = None
            if len(self._logged) > _MAX_LOGGED:
                del self._logged[next(iter(self._logged))]
            log.warning("record_unreadable", session_id=session_id, why=str(exc))
