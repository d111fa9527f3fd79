"""A tool that is an HTTP endpoint of somebody's."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import quote, urlencode

import orjson

from engine.errors import SettingsError, ToolFailed
from engine.events import ToolSpec
from engine.ports import Ability, ToolScope
from engine.runtime.guarded_http import Answer, Forbidden, Unreachable, fault_of
from engine.runtime.signing import signed

BODILESS: Final = frozenset({"GET", "DELETE"})
_TEXTS: Final = ("application/json", "text/plain", "text/markdown", "text/csv", "")
_SHOWN_OF_ERROR: Final = 500
_OURS: Final = ("session_id", "caller")


class Asks(Protocol):
    async def request(self, method: str, url: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        """Raises Forbidden, Unreachable."""
        ...


@dataclass(frozen=True)
class HttpTool:
    """Implements ``engine.ports.Tool``.

    The arguments go out as a JSON object together with ``session_id``, and with ``caller`` (the number in E.164, or
    empty) if it ``tells_caller``; for GET and DELETE in the query. Arguments of these two names are not the model's to
    give: ours are put over them. Every request has a connection of its own; redirects are not followed.
    """

    spec: ToolSpec
    url: str
    http: Asks = field(repr=False)
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """With keys in them."""
    key: bytes = field(default=b"", repr=False)
    """Signs the body as our events are signed; empty: it is not signed."""
    tells_caller: bool = False
    timeout_s: float | None = None
    now: Callable[[], float] = time.time
    needs: Ability | None = None
    most_per_call: int | None = None

    @property
    def label(self) -> str:
        return self.spec.name

    async def run(self, arguments: Mapping[str, Any], scope: ToolScope) -> str:
        sent = {name: value for name, value in arguments.items() if name not in _OURS}
        sent["session_id"] = scope.session.session_id
        if self.tells_caller:
            sent["caller"] = scope.session.caller
        url, body = self.url, b""
        if self.method in BODILESS:
            url += ("&" if "?" in url else "?") + urlencode(_flat(sent), quote_via=quote)
        else:
            body = orjson.dumps(sent)
        try:
            answer = await self.http.request(self.method, url, self._headers(body), body)
        except Forbidden as exc:
            raise ToolFailed("It cannot be reached.") from exc
        except Unreachable as exc:
            raise ToolFailed("It did not answer.") from exc
        return _read(answer)

    def _headers(self, body: bytes) -> dict[str, str]:
        ours = {"accept": "application/json, text/plain", "user-agent": "Offhook"}
        if self.method not in BODILESS:
            ours["content-type"] = "application/json"
        if self.key:
            ours |= signed(self.key, f"msg_{secrets.token_hex(16)}", self.now(), body)
        return ours | {name.lower(): value for name, value in self.headers.items()}


def check_endpoint(url: str, headers: Mapping[str, str], *, allow_private: bool) -> None:
    """Raises SettingsError for an address or a header that cannot be used. Nothing is resolved or asked."""
    if fault := fault_of(url, allow_private=allow_private):
        hint = "" if fault_of(url, allow_private=True) else "; allow_private allows it"
        raise SettingsError(f"url: expected an address such as https://example.com/lookup, got {fault}{hint}")
    for name, value in headers.items():
        if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
            raise SettingsError(f"headers: {name!r:.60} is no name of a header")
        if not value.isascii() or not value.isprintable():
            raise SettingsError(f"headers.{name}: expected printable ASCII characters")


def _flat(sent: Mapping[str, Any]) -> dict[str, str]:
    """For a query: texts as they are, anything else as JSON."""
    return {name: value if isinstance(value, str) else orjson.dumps(value).decode() for name, value in sent.items()}


def _read(answer: Answer) -> str:
    text = answer.body.decode("utf-8", "replace")
    if not 200 <= answer.status < 300:
        shown = text[:_SHOWN_OF_ERROR] if answer.media_type in _TEXTS else ""
        raise ToolFailed(f"It answered with the error {answer.status}. {shown}".strip())
    if answer.media_type not in _TEXTS and not answer.media_type.endswith("+json"):
        raise ToolFailed("It answered with something other than text or JSON.")
    return text or "Done."
