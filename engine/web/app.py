"""The HTTP side: every route, counted, and answering errors in one shape."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import structlog
import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.observe.labels import METHODS, OTHER, ROUTES, code_class
from engine.observe.metrics import Metrics
from engine.ports import Provider
from engine.runtime.sockets import Socket
from engine.web.answers import error
from engine.web.asgi import Gone
from engine.web.callers import caller_operations
from engine.web.calls import CallDesk, call_operations
from engine.web.desk import Desk
from engine.web.gate import Access, Gate
from engine.web.health import health_operations
from engine.web.openapi import document_operation
from engine.web.operations import routes_of
from engine.web.sessions import session_operations
from engine.web.switchboard import Switchboard
from engine.web.texts import TextDesk
from engine.web.turns import TURN_S, turn_operations
from engine.web.urls import PublicUrl
from engine.web.webhooks import webhook_routes

log = structlog.get_logger()

NO_DESK = "Sessions are not served here."
_OF_SESSIONS = ("/turn", "/session/", "/admin/", "/privacy/", "/api/se", "/calls")
API_PATHS = tuple(path for path in ROUTES if path.startswith(_OF_SESSIONS))
_ROUTES = frozenset(path for path in ROUTES if "{" not in path)
_TEMPLATES = [(path, re.compile(re.sub(r"\{\w+\}", "[^/]+", path))) for path in ROUTES if "{" in path]


def build_app(
    switchboard: Switchboard,
    providers: Sequence[Provider],
    metrics: Metrics,
    urls: PublicUrl,
    *,
    closed_routes: Mapping[str, str] | None = None,
    version: str = "",
    desk: Desk | None = None,
    access: Access | None = None,
    texts: TextDesk | None = None,
    calls: CallDesk | None = None,
    turn_s: float = TURN_S,
) -> ASGIApp:
    """The application. ``closed_routes``: path of a provider that is not configured to the sentence that says which
    settings it wants. Without a desk, sessions are not served; without ``texts``, no SMS is answered. Call it inside
    trio: uptime counts from here."""
    gate = Gate(access or Access(), urls, metrics)
    operations = health_operations(switchboard, metrics, gate, version)
    if desk is not None:
        operations += turn_operations(desk.sessions, gate, metrics, turn_s=turn_s)
        operations += session_operations(desk, gate)
        operations += caller_operations(desk, gate)
    if calls is not None:
        operations += call_operations(calls, gate)
    operations.append(document_operation(operations, version))
    webhooks = webhook_routes(providers, switchboard, metrics, urls, texts)
    routes: list[BaseRoute] = [*webhooks, *routes_of(operations)]
    closed = dict.fromkeys(API_PATHS, NO_DESK) | dict(closed_routes or {})
    open_paths = {route.path for route in routes if isinstance(route, Route)}
    routes += [_closed_route(path, why) for path, why in closed.items() if path not in open_paths]
    app = Starlette(
        routes=routes,
        exception_handlers={HTTPException: _refused, Exception: _failed},
    )
    app.router.redirect_slashes = False  # a redirect would be built from the Host header
    return _Edge(app, metrics)


def media_handlers(
    switchboard: Switchboard, providers: Sequence[Provider]
) -> dict[str, Callable[[Socket], Awaitable[None]]]:
    """Path to what serves its sockets, for the door."""
    handlers: dict[str, Callable[[Socket], Awaitable[None]]] = {}
    for provider in providers:
        handlers[provider.media_path] = partial(switchboard.serve, provider)
        if provider.relay is not None:
            handlers[provider.relay.media_path] = partial(switchboard.serve_relay, provider, provider.relay)
    return handlers


def _closed_route(path: str, why: str) -> Route:
    async def closed(_request: Request) -> Response:
        return error(503, why, "not_configured")

    return Route(path, closed, methods=METHODS)


async def _refused(_request: Request, exc: Exception) -> Response:
    status, headers = (exc.status_code, dict(exc.headers or {})) if isinstance(exc, HTTPException) else (500, {})
    if allowed := headers.get("Allow"):
        headers["Allow"] = ", ".join(sorted(allowed.split(", ")))  # they come out of a set
    return error(status, headers=headers)


async def _failed(_request: Request, _exc: Exception) -> Response:
    return error(500)


class _Edge:
    """Counts each answer; an exception is logged once, here, and leaves as the 500 that was sent."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = trio.current_time()
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Gone:
            raise  # the peer left in mid answer; the door knows what to do
        except Exception as exc:  # the edge of one request
            # The class alone: what an exception says may hold what the caller said.
            log.error("request_failed", path=self._label(scope), error=type(exc).__name__, exc_info=exc)
            if not status:
                await error(500)(scope, receive, noting)
        finally:
            self._count(scope, status or 503, trio.current_time() - began)

    def _label(self, scope: Scope) -> str:
        path: str = scope["path"]
        if path in _ROUTES:
            return path
        return next((template for template, pattern in _TEMPLATES if pattern.fullmatch(path)), OTHER)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = self._label(scope)
        method = scope["method"] if scope["method"] in METHODS else OTHER
        self._metrics.http_requests_total.labels(route=route, method=method, code=code_class(status)).inc()
        self._metrics.http_request_duration_seconds.labels(route=route).observe(seconds)
