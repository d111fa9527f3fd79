"""One table row for each operation of the HTTP API: how it is routed, checked, answered and documented."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import structlog
import trio
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from engine.errors import Busy, RateLimited, StoreDown, VendorError
from engine.web.answers import Denied, retry_after
from engine.web.gate import Gate
from engine.web.inputs import read_body, read_headers, read_path, read_query
from engine.web.keys import Scope
from engine.web.shapes import Nothing

log = structlog.get_logger()

P = TypeVar("P", bound=Struct)
Q = TypeVar("Q", bound=Struct)
B = TypeVar("B", bound=Struct)

ANSWER_S = 7.0
"""For whatever needs the store and no model."""
STORE_RETRY_S = 2.0
BUSY_RETRY_S = 1.0

_NO_HEADERS = Nothing()
REFUSALS_OF_GATE = frozenset({401, 403, 429, 504})

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Inputs(Generic[P, Q, B]):
    """What an operation is given, as types."""

    path: type[P]
    query: type[Q]
    body: type[B]
    body_is_required: bool = True
    headers: type[Struct] = Nothing


@dataclass(frozen=True, slots=True)
class Asked(Generic[P, Q, B]):
    """What it is given, as values."""

    path: P
    query: Q
    body: B
    by: str
    """Who asks: the name of the key."""
    headers: Struct = _NO_HEADERS


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    name: str
    summary: str
    endpoint: Endpoint
    replies: Mapping[str, Any]
    """Content type to the type of what it holds; ``str`` for text."""
    status: int = 200
    """Of a reply."""
    scope: Scope | None = None
    """None: open to everybody."""
    needs_key: bool = False
    inputs: Inputs[Any, Any, Any] = Inputs(Nothing, Nothing, Nothing)
    refusals: frozenset[int] = frozenset()
    """Statuses of its own, besides those that every operation has."""
    description: str = ""


def routes_of(operations: Sequence[Operation]) -> list[BaseRoute]:
    """One for each path, so that what it does not answer is refused with all that it does."""
    paths: dict[str, dict[str, Endpoint]] = {}
    for op in operations:
        paths.setdefault(op.path, {})[op.method] = op.endpoint
    return [Route(path, _endpoint_of(methods), methods=sorted(methods)) for path, methods in paths.items()]


def _endpoint_of(methods: Mapping[str, Endpoint]) -> Endpoint:
    if len(methods) == 1:
        return next(iter(methods.values()))

    async def endpoint(request: Request) -> Response:
        return await methods["GET" if request.method == "HEAD" else request.method](request)

    return endpoint


@dataclass(frozen=True, slots=True)
class Guarded:
    """Makes operations for holders of keys of one scope: key first, then the inputs, then the answer within its time;
    and errors in their one shape."""

    gate: Gate
    scope: Scope

    def operation(
        self,
        method: str,
        path: str,
        name: str,
        *,
        summary: str,
        inputs: Inputs[P, Q, B],
        answer: Callable[[Asked[P, Q, B]], Awaitable[Response]],
        replies: Mapping[str, Any],
        status: int = 200,
        refusals: frozenset[int] = frozenset(),
        within_s: float = ANSWER_S,
        description: str = "",
    ) -> Operation:
        is_found = inputs.path is not Nothing
        return Operation(
            method,
            path,
            name,
            summary,
            self._endpoint(name, inputs, answer, within_s),
            replies,
            status,
            self.scope,
            self.gate.wants_key(self.scope),
            inputs,
            refusals | REFUSALS_OF_GATE | (frozenset({404}) if is_found else frozenset()),
            description,
        )

    def _endpoint(
        self,
        name: str,
        inputs: Inputs[P, Q, B],
        answer: Callable[[Asked[P, Q, B]], Awaitable[Response]],
        within_s: float,
    ) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            try:
                by = self.gate.admit(request, self.scope)
                if self.scope is not Scope.TURN:  # who looks at other people's words leaves a line
                    log.info("api_asked", by=by, operation=name)
                body = await _body_of(request, inputs)
                path, query = read_path(request, inputs.path), read_query(request, inputs.query)
                asked = Asked(path, query, body, by, read_headers(request, inputs.headers))
                with trio.fail_after(within_s):
                    return await answer(asked)
            except (Denied, StoreDown, Busy, RateLimited, VendorError, trio.TooSlowError) as exc:
                return _denied(exc).answer()

        return endpoint


async def _body_of(request: Request, inputs: Inputs[P, Q, B]) -> B:
    if inputs.body is Nothing:
        return inputs.body()
    return await read_body(request, inputs.body, is_required=inputs.body_is_required)


def _denied(exc: Exception) -> Denied:
    match exc:
        case Denied():
            return exc
        case StoreDown():
            message = "The store is not available. Ask again a little later."
            return Denied(503, message, "store_down", headers=retry_after(STORE_RETRY_S))
        case Busy():
            message = "This session has too much to answer already. Ask again a little later."
            return Denied(429, message, "busy", headers=retry_after(BUSY_RETRY_S))
        case RateLimited():
            return Denied(429, headers=retry_after(exc.wait_s))
        case VendorError():
            log.warning("vendor_failed", vendor=exc.vendor, error=type(exc).__name__)
            return Denied(502)
        case _:
            return Denied(504)
