"""Events of sessions, sent to an address of the operator's, signed as Standard Webhooks says.

Nobody waits for them. They are kept in memory, a bounded number: what does not fit, and what is there when the process
ends, is lost and counted. What arrives may arrive twice, under the same ``webhook-id``; those of one session arrive in
order.
"""

from __future__ import annotations

import datetime
import math
import random
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Final, Protocol

import orjson
import structlog
import trio

from engine.errors import SettingsError
from engine.observe.labels import WebhookEvent, WebhookStatus
from engine.observe.masking import mask_number
from engine.observe.metrics import Metrics
from engine.runtime.guarded_http import Forbidden, GuardedHttp, Reply, Unreachable, fault_of
from engine.runtime.signing import read_secret, signed
from engine.settings import WebhookSettings

log = structlog.get_logger()

DELIVERIES: Final = 4
"""At once."""
FIRST_PAUSE_S: Final = 2.0
"""Before an event is tried again; each further pause is four times the last."""
MAX_PAUSE_S: Final = 900.0

_AGAIN: Final = frozenset({408, 425, 429})
"""Statuses, besides those from 500 on, after which an event is tried again."""


class Poster(Protocol):
    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Raises Forbidden, Unreachable, within seconds."""
        ...


def check_webhooks(settings: WebhookSettings, secret: str) -> None:
    """Raises SettingsError naming what events cannot be sent with. Nothing is resolved or asked."""
    known = [str(event) for event in WebhookEvent]
    for name in settings.events:
        if name not in known:
            raise SettingsError(f"webhooks.events: there is no event {name!r}; there are: {', '.join(known)}")
    if not settings.url:
        return
    if fault := fault_of(settings.url, allow_private=settings.allow_private):
        hint = "" if fault_of(settings.url, allow_private=True) else "; webhooks.allow_private allows it"
        raise SettingsError(f"webhooks.url: expected an address such as https://example.com/events, got {fault}{hint}")
    if not secret:
        raise SettingsError("WEBHOOK_SECRET: expected a key in the environment, because webhooks.url is set")
    read_secret(secret, "WEBHOOK_SECRET")


class Webhooks:
    """The actor that sends them. ``tell`` and ``forget`` never wait; ``run`` may crash and be run again, which loses no
    event.

    ``http`` sends; ``now`` is the wall clock, in Unix seconds; ``spread`` gives numbers between 0 and 1, which keep the
    retries of many events apart. Raises SettingsError, as :func:`check_webhooks`.
    """

    def __init__(
        self,
        settings: WebhookSettings,
        secret: str,
        metrics: Metrics,
        *,
        http: Poster | None = None,
        now: Callable[[], float] = time.time,
        spread: Callable[[], float] = random.random,
    ) -> None:
        check_webhooks(settings, secret)
        self._settings = settings
        self._key = read_secret(secret, "WEBHOOK_SECRET") if settings.url else b""
        self._metrics = metrics
        self._http = http or (GuardedHttp(allow_private=settings.allow_private) if settings.url else None)
        self._now = now
        self._spread = spread
        self._lanes: dict[str, _Lane] = {}
        self._waiting = 0
        self._changed = trio.lowlevel.ParkingLot()

    def tell(self, event: WebhookEvent, session_id: str, number: str, fields: Mapping[str, object]) -> None:
        """Send it, if it is one of those that are wanted. ``number`` is the caller's in E.164, or empty; of it only the
        last four digits are sent. ``fields`` go into the event's data."""
        if not self._settings.url or (self._settings.events and event not in self._settings.events):
            return
        if self._waiting >= self._settings.queue:
            self._count(event, WebhookStatus.DROPPED)
            log.warning("webhook_dropped", webhook=str(event), waiting=self._waiting)
            return
        data = {**fields, "session_id": session_id, "caller": mask_number(number)}
        at = datetime.datetime.fromtimestamp(self._now(), datetime.UTC).isoformat(timespec="milliseconds")
        body = orjson.dumps({"type": str(event), "timestamp": at.replace("+00:00", "Z"), "data": data}, default=str)
        lane = self._lanes.setdefault(session_id, _Lane(session_id))
        lane.events.append(_Event(event, number, f"msg_{secrets.token_hex(16)}", body))
        self._set_waiting(self._waiting + 1)

    def forget(self, number: str) -> None:
        """Drop the events of this caller that have not arrived, also one that is on its way."""
        if not number:
            return
        for lane in list(self._lanes.values()):
            if lane.sending is not None and lane.events[0].number == number:
                lane.sending.cancel()
            for event in [event for event in lane.events if event.number == number]:
                self._finish(lane, event, WebhookStatus.DROPPED)

    async def wait_sent(self) -> None:
        """Until none is left. The caller sets the deadline."""
        while self._waiting:
            await self._changed.park()

    async def run(self) -> None:
        """Send events until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(DELIVERIES):
                nursery.start_soon(self._deliver)

    async def _deliver(self) -> None:
        while True:
            await trio.lowlevel.checkpoint()
            lane = await self._next_lane()
            event = lane.events[0]
            if event.attempts > self._settings.retries:
                self._finish(lane, event, WebhookStatus.FAILED)
                continue
            # Both stand if this task crashes: an event that brings it down is not tried again at once, nor for ever.
            event.attempts += 1
            lane.due_s = trio.current_time() + self._pause_s(event.attempts)
            try:
                with trio.CancelScope() as lane.sending:
                    result = await self._post(event)
                    self._judge(lane, event, result)
            except trio.Cancelled:  # another's crash is no attempt of this one
                event.attempts -= 1
                lane.due_s = -math.inf
                raise
            finally:
                lane.sending = None
                self._changed.unpark_all()

    async def _next_lane(self) -> _Lane:
        """One whose first event is due and on its way nowhere."""
        while True:
            now, next_due_s = trio.current_time(), math.inf
            for lane in self._lanes.values():
                if lane.sending is None:
                    if lane.due_s <= now:
                        return lane
                    next_due_s = min(next_due_s, lane.due_s)
            with trio.move_on_at(next_due_s):
                await self._changed.park()

    async def _post(self, event: _Event) -> Reply | Forbidden | Unreachable:
        assert self._http is not None  # noqa: S101 - for the type checker: without an address there are no events
        headers = {
            "content-type": "application/json",
            "user-agent": "Offhook",
            **signed(self._key, event.id, self._now(), event.body),
        }
        try:
            return await self._http.post(self._settings.url, headers, event.body)
        except (Forbidden, Unreachable) as exc:
            return exc

    def _judge(self, lane: _Lane, event: _Event, result: Reply | Forbidden | Unreachable) -> None:
        if event not in lane.events:
            return  # forgotten on its way
        if isinstance(result, Reply) and 200 <= result.status < 300:
            self._finish(lane, event, WebhookStatus.DELIVERED)
            return
        why = f"answered {result.status}" if isinstance(result, Reply) else str(result)
        if _is_worth_trying_again(result) and event.attempts <= self._settings.retries:
            asked_s = _retry_after_s(result.retry_after, self._now()) if isinstance(result, Reply) else 0.0
            pause_s = max(self._pause_s(event.attempts), min(asked_s, MAX_PAUSE_S))
            lane.due_s = trio.current_time() + pause_s
            self._count(event.kind, WebhookStatus.RETRIED)
            log.info("webhook_retried", webhook=str(event.kind), attempts=event.attempts, why=why)
            return
        log.warning("webhook_failed", webhook=str(event.kind), attempts=event.attempts, why=why)
        self._finish(lane, event, WebhookStatus.FAILED)

    def _finish(self, lane: _Lane, event: _Event, status: WebhookStatus) -> None:
        if event is lane.events[0]:
            lane.due_s = -math.inf
        lane.events.remove(event)
        if not lane.events:
            del self._lanes[lane.session_id]
        self._count(event.kind, status)
        self._set_waiting(self._waiting - 1)

    def _pause_s(self, attempts: int) -> float:
        pause_s = FIRST_PAUSE_S * 4.0 ** min(attempts - 1, 10)
        return min(pause_s, MAX_PAUSE_S) * (1 + self._spread() / 4)

    def _set_waiting(self, waiting: int) -> None:
        self._waiting = waiting
        self._metrics.webhook_queue_depth.set(waiting)
        self._changed.unpark_all()

    def _count(self, event: WebhookEvent, status: WebhookStatus) -> None:
        self._metrics.webhooks_total.labels(event=event, status=status).inc()


@dataclass(slots=True, eq=False)
class _Event:
    kind: WebhookEvent
    number: str
    id: str
    body: bytes
    attempts: int = 0


@dataclass(slots=True, eq=False)
class _Lane:
    """The events of one session, in order; only the first is ever on its way."""

    session_id: str
    events: deque[_Event] = field(default_factory=deque)
    due_s: float = -math.inf
    sending: trio.CancelScope | None = None


def _is_worth_trying_again(result: Reply | Forbidden | Unreachable) -> bool:
    if isinstance(result, Reply):
        return result.status in _AGAIN or result.status >= 500
    return isinstance(result, Unreachable)


def _retry_after_s(header: str, now: float) -> float:
    """Seconds, or a date; 0 for none or nonsense."""
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return 0.0
