"""What a load balancer, a monitor and a person ask: alive, ready, how busy, the metrics."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from engine.observe.metrics import Metrics
from engine.web.answers import JSON, Denied, error, json
from engine.web.gate import Gate
from engine.web.keys import Scope
from engine.web.operations import Operation
from engine.web.shapes import AboutReply, HealthReply, LiveCalls
from engine.web.switchboard import Switchboard

TEXT = "text/plain"
OPENMETRICS = "application/openmetrics-text"


def health_operations(switchboard: Switchboard, metrics: Metrics, gate: Gate, version: str) -> list[Operation]:
    health = _Health(switchboard, version, trio.current_time())
    pages = _Pages(metrics, gate)
    needs_key = gate.wants_key(Scope.METRICS)
    return [
        Operation("GET", "/", "about", "What this is", health.about, {JSON: AboutReply}),
        Operation("GET", "/healthz", "alive", "Whether the process is alive", _alive, {TEXT: str}),
        Operation("GET", "/readyz", "ready", "Whether new calls are taken", health.ready, {TEXT: str}),
        Operation("GET", "/api/health", "health", "How busy it is", health.state, {JSON: HealthReply}),
        Operation(
            "GET",
            "/metrics",
            "metrics",
            "Figures for Prometheus",
            pages.answer,
            {TEXT: str, OPENMETRICS: str},
            scope=Scope.METRICS,
            needs_key=needs_key,
            refusals=frozenset({401, 403, 429}) if needs_key else frozenset(),
        ),
    ]


async def _alive(_request: Request) -> Response:
    return PlainTextResponse("ok")


@dataclass(frozen=True, slots=True)
class _Health:
    switchboard: Switchboard
    version: str
    started_at_s: float

    async def about(self, _request: Request) -> Response:
        see = ["/api/health", "/readyz", "/metrics", "/openapi.json"]
        return json(AboutReply("offhook", self.version, see))

    async def ready(self, _request: Request) -> Response:
        is_ready, why = self.switchboard.ready
        if not is_ready:
            return error(503, "New calls should go elsewhere.", why)
        # What it goes on without is no reason to send callers elsewhere: other engines lack the same vendor.
        lacks = self.switchboard.lacks
        return PlainTextResponse(f"ready (degraded: {', '.join(lacks)})" if lacks else "ready")

    async def state(self, _request: Request) -> Response:
        live = self.switchboard.live_calls()
        is_ready, why = self.switchboard.ready
        lacks = self.switchboard.lacks
        return json(
            HealthReply(
                status=why if not is_ready else "degraded" if lacks else "ok",
                lacks=lacks,
                sessions=LiveCalls(len(live), live),
                capacity=self.switchboard.capacity,
                draining=self.switchboard.draining,
                version=self.version,
                uptime_s=round(trio.current_time() - self.started_at_s, 3),
            )
        )


@dataclass(slots=True)
class _Pages:
    """Renders in one thread at most. Who asks while a page is being made gets the next one, and so do all who asked
    with him: a storm of scrapes costs one rendering after the other, and no queue."""

    metrics: Metrics
    gate: Gate
    _turn: trio.Lock = field(default_factory=trio.Lock)
    _thread: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(1))
    _begun: int = 0
    _made: dict[bool, tuple[int, bytes, str]] = field(default_factory=dict)

    async def answer(self, request: Request) -> Response:
        try:
            self.gate.admit(request, Scope.METRICS)
        except Denied as denied:
            return denied.answer()
        wants_openmetrics = OPENMETRICS in request.headers.get("accept", "")
        body, content_type = await self._page(wants_openmetrics)
        return Response(body, headers={"content-type": content_type})

    async def _page(self, openmetrics: bool) -> tuple[bytes, str]:
        asked_after = self._begun
        async with self._turn:
            made = self._made.get(openmetrics)
            if made is None or made[0] <= asked_after:
                self._begun += 1
                number = self._begun
                page = await trio.to_thread.run_sync(self.metrics.render, openmetrics, limiter=self._thread)
                made = self._made[openmetrics] = (number, *page)
            return made[1], made[2]
