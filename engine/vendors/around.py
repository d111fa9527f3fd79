"""What all of this package needs: figures, breakers, patience."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from engine.errors import VendorError, Why
from engine.observe.labels import Reconnect, VendorKind, VendorStatus
from engine.observe.metrics import Metrics
from engine.vendors.breaker import Breakers
from engine.vendors.policy import Policy
from engine.vendors.seam import Pace


@dataclass(frozen=True, slots=True)
class Vendoring:
    """Made once for the process; keeps nothing of any call but in the breakers and paces, which know none."""

    metrics: Metrics
    breakers: Breakers
    policy: Policy = field(default_factory=Policy)
    _paces: dict[str, Pace] = field(default_factory=dict)

    def pace(self, vendor: str) -> Pace:
        """How fast this voice was heard to read, in all calls."""
        return self._paces.setdefault(vendor, Pace())

    @contextmanager
    def asked(self, vendor: str, kind: VendorKind) -> Iterator[Asked]:
        """The block is one request: counted, and told to the breaker."""
        asked = Asked()
        breaker = self.breakers.of(vendor, kind)
        status = VendorStatus.CANCELLED
        try:
            yield asked
            status = VendorStatus.OK
            breaker.worked()
        except VendorError as exc:
            status = VendorStatus.TIMEOUT if exc.why is Why.TIMEOUT else VendorStatus.ERROR
            breaker.failed(exc.why)
            raise
        finally:
            if status is VendorStatus.CANCELLED:
                if asked.has_worked:
                    status = VendorStatus.OK
                    breaker.worked()
                else:
                    breaker.let_go()
            self.metrics.vendor_requests_total.labels(vendor=vendor, kind=kind, status=status).inc()

    def reconnected(self, vendor: str, kind: VendorKind, why: Reconnect) -> None:
        self.metrics.vendor_reconnects_total.labels(vendor=vendor, kind=kind, reason=why).inc()

    def failed_over(self, vendor: str, kind: VendorKind) -> None:
        """Away from this one."""
        self.metrics.vendor_failovers_total.labels(kind=kind, vendor=vendor).inc()


class Asked:
    """``has_worked``: all that was wanted has come; whoever leaves now breaks nothing off."""

    has_worked = False


def reconnect_why(why: Why) -> Reconnect:
    """As a label: for a connection that was lost by a failure."""
    match why:
        case Why.CUT | Why.UNREACHABLE:
            return Reconnect.CUT
        case Why.TIMEOUT:
            return Reconnect.SILENT
        case _:
            return Reconnect.FAILED
