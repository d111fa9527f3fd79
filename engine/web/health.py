"""What a load balancer, a monitor and a person ask: alive, ready, how busy, the metrics."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from engine.observe.metrics import Metrics
from engine.web.answers import error, json
from engine.web.switchboard import Switchboard


def health_routes(switchboard: Switchboard, metrics: Metrics, version: str) -> list[Route]:
    health = _Health(switchboard, version, trio.current_time())
    pages = _Pages(metrics)
    return [
        Route("/", health.about, methods=["GET"]),
        Route("/healthz", _alive, methods=["GET"]),
        Route("/readyz", health.ready, methods=["GET"]),
        Route("/api/health", health.state, methods=["GET"]),
        Route("/metrics", pages.answer, methods=["GET"]),
    ]


async def _alive(_request: Request) -> Response:
    return PlainTextResponse("ok")


@dataclass(frozen=True, slots=True)
class _Health:
    switchboard: Switchboard
    version: str
    started_at_s: float

    async def about(self, _request: Request) -> Response:
        return json({"name": "offhook", "version": self.version, "see": ["/api/health", "/readyz", "/metrics"]})

    async def ready(self, _request: Request) -> Response:
        is_ready, why = self.switchboard.ready
        return PlainTextResponse("ready") if is_ready else error(503, "New calls are refused.", why)

    async def state(self, _request: Request) -> Response:
        live = self.switchboard.live_calls()
        is_ready, why = self.switchboard.ready
        return json(
            {
                "status": "ok" if is_ready else why,
                "sessions": {"active_count": len(live), "uuids": live},
                "capacity": self.switchboard.capacity,
                "draining": self.switchboard.draining,
                "version": self.version,
                "uptime_s": round(trio.current_time() - self.started_at_s, 3),
            }
        )


@dataclass(slots=True)
class _Pages:
    """Renders in one thread at most. Who asks while a page is being made gets the next one, and so do all who asked
    with him: a storm of scrapes costs one rendering after the other, and no queue."""

    metrics: Metrics
    _turn: trio.Lock = field(default_factory=trio.Lock)
    _thread: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(1))
    _begun: int = 0
    _made: dict[bool, tuple[int, bytes, str]] = field(default_factory=dict)

    async def answer(self, request: Request) -> Response:
        wants_openmetrics = "application/openmetrics-text" in request.headers.get("accept", "")
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
