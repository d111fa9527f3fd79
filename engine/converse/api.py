"""The engine's HTTP API, as far as a test conversation and the tools need it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import orjson
import trio

from engine.errors import OffhookError

MAX_WAIT_S = 60.0
"""For a rate limit to pass."""
_SHOWN_CHARS = 300


class ApiFailed(OffhookError):
    """The engine did not answer, or not with what was asked for. ``status`` is 0 when there was no answer; ``field`` is
    what it found fault with, if it says so."""

    def __init__(self, message: str, status: int = 0, field: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.field = field


@dataclass(frozen=True, slots=True)
class Answered:
    """What came back for a written turn."""

    text: str
    session_id: str = ""
    agent: str = ""


class Api:
    """``url`` is asked for with every request: an engine that was started again may be elsewhere. The client is the
    caller's to close."""

    def __init__(self, client: httpx.AsyncClient, url: Callable[[], str], key: str = "") -> None:
        self._client = client
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def turn(self, text: str, *, stream: str, agent: str = "") -> Answered:
        """One written turn on a stream's session, to this agent or else to whoever did last. Raises ApiFailed."""
        body = {"text": text, "stream_sid": stream} | ({"agent": agent} if agent else {})
        answer = await self._ask("POST", "/turn", body)
        return Answered(str(answer.get("text", "")), str(answer.get("session_id", "")), str(answer.get("agent", "")))

    async def reset(self, stream: str) -> None:
        await self._ask("POST", "/session/reset", {"stream_sid": stream})

    async def sessions_of(self, number: str) -> list[dict[str, Any]]:
        """All sessions of a number, the latest first. Raises ApiFailed."""
        caller = await self._get_or_none(f"/admin/session/{quote(number, safe='')}") or {}
        return list(caller.get("sessions", ()))

    async def session(self, session_id: str) -> dict[str, Any] | None:
        return await self._get_or_none(f"/api/sessions/{quote(session_id, safe='')}")

    async def trace(self, session_id: str) -> dict[str, Any]:
        return await self._ask("GET", f"/api/sessions/{quote(session_id, safe='')}/trace")

    async def validation(self, session_id: str) -> dict[str, Any]:
        return await self._ask("GET", f"/api/sessions/{quote(session_id, safe='')}/validation")

    async def export(self, number: str) -> dict[str, Any]:
        """All that is kept of a number."""
        return await self._ask("GET", f"/privacy/export/{quote(number, safe='')}")

    async def erase(self, number: str) -> int:
        """How many sessions there were."""
        return int((await self._ask("DELETE", f"/privacy/delete/{quote(number, safe='')}")).get("sessions", 0))

    async def dial(self, body: Mapping[str, object], *, key: str) -> dict[str, Any]:
        """Have a call made, once for each ``key``. Raises ApiFailed."""
        return await self._ask("POST", "/calls", body, {"Idempotency-Key": key})

    async def calls(self) -> list[dict[str, Any]]:
        """Those that live, the oldest first."""
        return list((await self._ask("GET", "/calls")).get("calls", ()))

    async def call(self, call_id: str) -> dict[str, Any]:
        return await self._ask("GET", f"/calls/{quote(call_id, safe='')}")

    async def control(self, call_id: str, what: str, body: Mapping[str, object]) -> dict[str, Any]:
        """``hangup``, ``say`` or ``transfer`` a live call. Raises ApiFailed."""
        return await self._ask("POST", f"/calls/{quote(call_id, safe='')}/{what}", body)

    async def _get_or_none(self, path: str) -> dict[str, Any] | None:
        try:
            return await self._ask("GET", path)
        except ApiFailed as exc:
            if exc.status == 404:
                return None
            raise

    async def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Waits out a rate limit, once. Raises ApiFailed."""
        response = await self._request(method, path, body, headers)
        wait_s = _wait_s(response)
        if response.status_code == 429 and wait_s is not None:
            await trio.sleep(wait_s)
            response = await self._request(method, path, body, headers)
        if response.status_code >= 300:
            message, field = _refusal(method, path, response)
            raise ApiFailed(message, response.status_code, field)
        try:
            answer = orjson.loads(response.content or b"{}")
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ApiFailed(f"{method} {_shape(path)} answered with something else than a JSON object")
        return answer

    async def _request(
        self, method: str, path: str, body: Mapping[str, object] | None, headers: Mapping[str, str] | None
    ) -> httpx.Response:
        try:
            own = {**self._headers, **(headers or {})}
            return await self._client.request(method, self._url() + path, json=body, headers=own)
        except httpx.HTTPError as exc:
            raise ApiFailed(f"no answer from {self._url()} ({type(exc).__name__})") from exc


def _wait_s(response: httpx.Response) -> float | None:
    """What Retry-After says, if that is not too long."""
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdigit() and float(value) <= MAX_WAIT_S else None


def _refusal(method: str, path: str, response: httpx.Response) -> tuple[str, str]:
    """In words, and the field that is at fault."""
    message = field = ""
    try:
        match orjson.loads(response.content):
            case {"error": {"message": str(text), **more}}:
                message = "".join(filter(str.isprintable, text))[:_SHOWN_CHARS]
                field = str(more.get("field", ""))
    except ValueError:
        pass
    hint = " Is API_KEY set to a key that the engine has?" if response.status_code == 401 else ""
    answered = f"{method} {_shape(path)} answered HTTP {response.status_code}"
    return f"{answered}{': ' if message else ''}{message}{hint}", field


def _shape(path: str) -> str:
    """A path without the number that may be in it."""
    return re.sub(r"%2B\d+(?=\d{4})", "***", path)
