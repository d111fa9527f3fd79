"""Who of several vendors is asked, when again, and who takes over."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import structlog
import trio

from engine.errors import VendorError, Why
from engine.observe.labels import VendorKind
from engine.ports import PatientVendor
from engine.vendors.around import Vendoring

log = structlog.get_logger()


class Named(Protocol):
    @property
    def name(self) -> str: ...


V = TypeVar("V", bound=Named)


class Roster(Generic[V]):
    """The vendors of one role in one call, the first choice first. Who has taken over stays for the call."""

    def __init__(
        self,
        vendors: Sequence[V],
        kind: VendorKind,
        around: Vendoring,
        error: type[VendorError],
        *,
        call_id: str,
        session_id: str = "",
    ) -> None:
        """``call_id`` is empty for a text, which is told by its session's."""
        self.kind = kind
        self.around = around
        self.error = error
        self.ids = {key: value for key, value in (("call_id", call_id), ("session_id", session_id)) if value}
        """For the log."""
        self._ring = deque(vendors)

    @property
    def current(self) -> V:
        return self._ring[0]

    def tries(self, *, within_s: float, most: int, is_live: bool = False) -> Tries[V]:
        """For one thing that is wanted. ``is_live``: a call hangs on it, so that the last vendor is asked in any case,
        whatever its breaker says."""
        return Tries(self, list(self._ring), within_s, most, is_live=is_live)

    def leave(self, failure: VendorError) -> None:
        """The current one is of no use any more; the next takes over. Raises ``failure`` if there is none."""
        if len(self._ring) == 1:
            raise failure
        self.turn_to(self._ring[1])

    def turn_to(self, vendor: V) -> None:
        if vendor is self.current:
            return
        log.warning("vendor_failover", kind=str(self.kind), vendor=self.current.name, to=vendor.name, **self.ids)
        self.around.failed_over(self.current.name, self.kind)
        self._ring.rotate(-self._ring.index(vendor))


class Tries(Generic[V]):
    """``vendor = await tries.next()``, ask it, tell ``failed`` if it did, and so on."""

    def __init__(self, roster: Roster[V], order: list[V], within_s: float, most: int, *, is_live: bool) -> None:
        self._roster = roster
        self._waiting = deque(order)
        self._within_s = within_s
        self._most = most
        self._is_live = is_live
        self._vendor: V | None = None
        self._count = 0
        self._failure: VendorError | None = None
        self._until_s = self._share_until_s = trio.current_time() + within_s

    @property
    def left_s(self) -> float:
        return max(0.0, self._until_s - trio.current_time())

    async def next(self) -> V:
        """Whom to ask now, after a pause where one is due. Raises the last failure when nobody is left."""
        if self._vendor is not None and self._failure is not None:
            pause_s = self._pause_s(self._failure)
            if pause_s is not None:
                await trio.sleep(pause_s)
                if self._may_ask(self._vendor):
                    self._count += 1
                    return self._vendor
        return self._next_vendor()

    def failed(self, failure: VendorError) -> None:
        """The last one that was asked did not do it."""
        self._failure = failure
        log.warning(
            "vendor_failed",
            kind=str(self._roster.kind),
            vendor=failure.vendor,
            why=str(failure.why),
            detail=str(failure),
            **self._roster.ids,
        )

    def progressed(self, at_s: float) -> None:
        """Some of it has come, the last of that at this time, and the rest has as long from then on: whatever was tried
        since is part of the same silence."""
        self._until_s = at_s + self._within_s
        self._share()

    def _share(self) -> None:
        """Of the time that is left, the part of the vendor that is asked now, while others wait to be asked."""
        self._share_until_s = trio.current_time() + self.left_s / (len(self._waiting) + 1)

    def _pause_s(self, failure: VendorError) -> float | None:
        """Before the same vendor is asked again; None if it is not."""
        has_had_its_time = self._waiting or isinstance(self._vendor, PatientVendor)
        is_slow = failure.why is Why.TIMEOUT and has_had_its_time
        if not failure.why.may_pass or is_slow or self._count >= self._most:
            return None
        pauses_s = self._roster.around.policy.pauses_s
        pause_s = max(pauses_s[min(self._count, len(pauses_s)) - 1], failure.retry_after_s or 0.0)
        return pause_s if trio.current_time() + pause_s < self._share_until_s else None

    def _next_vendor(self) -> V:
        while self._waiting:
            vendor = self._waiting.popleft()
            if self._may_ask(vendor):
                self._vendor, self._count = vendor, 1
                self._share()
                self._roster.turn_to(vendor)
                return vendor
            self._failure = self._failure or self._not_asked(vendor)
        assert self._failure is not None  # noqa: S101 - there is at least one vendor
        raise self._failure

    def _may_ask(self, vendor: V) -> bool:
        if self._roster.around.breakers.of(vendor.name, self._roster.kind).admits():
            return True
        return self._is_live and not self._waiting

    def _not_asked(self, vendor: V) -> VendorError:
        breaker = self._roster.around.breakers.of(vendor.name, self._roster.kind)
        is_key = breaker.why is Why.AUTH
        what = f"is not asked for now, because it {'does not take our key' if is_key else 'failed too often'}"
        return self._roster.error(vendor.name, what, why=breaker.why, retry_after_s=breaker.wait_s)
