"""Who may use the HTTP API: a key with the scope that a route wants, not too often."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

import structlog
from starlette.requests import Request

from engine.errors import BadRequest
from engine.observe.labels import ApiRefusal
from engine.observe.metrics import Metrics
from engine.runtime.rates import RateLimiter
from engine.web.answers import Denied, retry_after
from engine.web.keys import ApiKey, ApiKeys, Scope
from engine.web.urls import PublicUrl

log = structlog.get_logger()

NOT_CONFIGURED = "The HTTP API is not configured: set API_KEYS in the environment and start again."
DEVELOPER = "dev"
"""Who asks where no key is needed."""


@dataclass(frozen=True, slots=True)
class Access:
    """``insecure`` lets everybody in while there are no keys: for a loopback address only."""

    keys: ApiKeys = field(default_factory=ApiKeys)
    insecure: bool = False
    per_minute: int = 120
    """Requests of one key."""
    wrong_per_minute: int = 30
    """Wrong keys from one address. After that they are answered with 429, until a minute has passed."""


class Gate:
    def __init__(self, access: Access, urls: PublicUrl, metrics: Metrics) -> None:
        self._access = access
        self._urls = urls
        self._refusals = metrics.api_refusals_total
        self._asked = RateLimiter(access.per_minute)
        self._wrong = RateLimiter(access.wrong_per_minute)

    def wants_key(self, scope: Scope) -> bool:
        """Whether a route of this scope is for holders of keys only. The metrics are, once somebody has a key to them;
        everything else always, but for developers on their own machine."""
        keys = self._access.keys
        return keys.has(scope) if scope is Scope.METRICS else bool(keys) or not self._access.insecure

    def admit(self, request: Request, scope: Scope) -> str:
        """The name of whoever asks. Raises Denied."""
        if not self.wants_key(scope):
            return self._admit_developer(request) if scope is not Scope.METRICS else ""
        if not self._access.keys:
            raise Denied(503, NOT_CONFIGURED, "not_configured")
        key = self._identify(request)
        if scope not in key.scopes:
            self._count(ApiRefusal.SCOPE)
            raise Denied(403, f"The key lacks the scope {scope}.", "scope")
        if not self._asked.allows(key.name):
            self._count(ApiRefusal.RATE_LIMIT)
            raise Denied(429, headers=retry_after(self._asked.wait_s(key.name)))
        return key.name

    def _admit_developer(self, request: Request) -> str:
        try:
            self._urls.base_of(request)  # a page in the developer's browser gets here under a name of its own
        except BadRequest as exc:
            raise Denied(400, str(exc)) from None
        return DEVELOPER

    def _identify(self, request: Request) -> ApiKey:
        presented = _presented(request)
        if not presented:
            self._count(ApiRefusal.NO_KEY)
            raise Denied(401, headers={"www-authenticate": "Bearer"})
        key = self._access.keys.find(presented)
        if key is None:
            self._refuse_wrong(self._urls.peer_of(request))
        return key

    def _refuse_wrong(self, peer: str) -> NoReturn:
        """A right key is let in whatever else comes from its address, which many may share behind a proxy."""
        if not self._wrong.allows(peer):
            self._count(ApiRefusal.RATE_LIMIT)
            wait = retry_after(self._wrong.wait_s(peer))
            raise Denied(429, "There were too many wrong keys.", headers=wait)
        self._count(ApiRefusal.WRONG_KEY)
        log.warning("wrong_api_key")
        raise Denied(401, "The key is not known here.", "wrong_key", headers={"www-authenticate": "Bearer"})

    def _count(self, why: ApiRefusal) -> None:
        self._refusals.labels(why=why).inc()


def _presented(request: Request) -> str:
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "").strip()
