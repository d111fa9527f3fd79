"""An engine's HTTP API, small and with faults to order: what a test conversation must notice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from engine.errors import SettingsError
from engine.observe.metrics import Metrics
from engine.phone.conversation import Voice
from engine.phone.texts import Inbox
from engine.web.door import Door

KEY = "a-key-of-more-than-sixteen"


@dataclass
class FakeEngine:
    """Answers with what it was told before, all of it: an agent that remembers. Faults are switched on by name."""

    faults: frozenset[str] = frozenset()
    key: str = ""
    url: str = ""
    api_key: str = ""
    public_url: str = ""
    inbox: Inbox | None = None
    secrets: Mapping[str, str] = field(default_factory=dict)
    told: dict[str, list[str]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    restarts: int = 0

    # --- as a target ----------------------------------------------------------------------------------------

    def open_voice(self) -> AbstractAsyncContextManager[Voice]:
        raise SettingsError("no voice here")

    async def restart(self) -> None:
        self.restarts += 1
        if "loses all at a restart" in self.faults:
            self.told.clear()

    # --- as a server ----------------------------------------------------------------------------------------

    async def turn(self, request: Request) -> Response:
        if (denied := self._denied(request)) is not None:
            return denied
        body = await request.json()
        if "is too busy once" in self.faults and len(self.requests) == 1:
            return _error(429, "Too often.", {"retry-after": "1"})
        if "fails" in self.faults:
            return _error(502, "The model failed.")
        if body.get("agent", "desk") != "desk" and "does not look at agents" not in self.faults:
            return _error(404, "agent: there is no such agent; there are: desk", field="agent")
        told = self.told.setdefault(self._session_id(), [])
        told.append(body["text"])
        session_id = self._session_id()
        return JSONResponse(
            {"session_id": session_id, "turn_id": str(len(told)), "text": self._answer(told), "agent": "desk"}
        )

    async def session(self, request: Request) -> Response:
        if (denied := self._denied(request)) is not None:
            return denied
        told = self.told.get(request.path_params["id"])
        if told is None:
            return _error(404, "There is no such session.")
        messages = [
            {
                "message_id": f"{role} {text}",
                "turn_id": str(number),
                "role": role,
                "text": text,
                "agent": "desk",
                "modality": "text",
                "call_id": "",
            }
            for number, said in enumerate(told, 1)
            for role, text in (("user", said), ("assistant", self._answer(told[:number])))
        ]
        entities = {} if "notes nothing" in self.faults else {"last": told[-1]}
        memory = [{"kind": "fact", "content": "likes tea", "confidence": 0.5}]
        return JSONResponse(
            {
                "session_id": request.path_params["id"],
                "messages": messages,
                "summary": "",
                "entities": entities,
                "memory": memory,
            }
        )

    async def trace(self, request: Request) -> Response:
        self._denied(request)
        told = self.told[request.path_params["id"]]
        openings = 2 if "opens twice" in self.faults else 1
        events: list[dict[str, Any]] = [{"at": 1.0, "what": "session_created", "fields": {}}]
        events += [{"at": 1.0, "what": "opening_said", "fields": {}}] * openings
        for number in range(1, len(told) + 1):
            shown = [["user", text] for text in told[:number]]
            events.append({"at": 1.0, "what": "model_asked", "fields": {"turn_id": str(number), "shown": shown}})
        return JSONResponse({"session_id": request.path_params["id"], "events": events})

    async def validation(self, request: Request) -> Response:
        self._denied(request)
        problems = [{"turn_id": "1", "rule": "missing"}] if "shows too little" in self.faults else []
        return JSONResponse({"session_id": "", "is_valid": not problems, "turns": 1, "problems": problems})

    async def reset(self, request: Request) -> Response:
        self._denied(request)
        self.told.clear()
        return JSONResponse({"stream_sid": "", "was_there": True})

    def _answer(self, told: list[str]) -> str:
        return "" if "says nothing" in self.faults else f"You said: {' '.join(told)}"

    def _session_id(self) -> str:
        return f"s_{len(self.requests)}" if "starts anew every turn" in self.faults else "s_1"

    def _denied(self, request: Request) -> Response | None:
        self.requests.append(f"{request.method} {request.url.path}")
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return _error(401, "A key is needed.")
        return None

    def app(self) -> Starlette:
        routes: list[tuple[str, str, Callable[[Request], Any]]] = [
            ("POST", "/turn", self.turn),
            ("POST", "/session/reset", self.reset),
            ("GET", "/api/sessions/{id}", self.session),
            ("GET", "/api/sessions/{id}/trace", self.trace),
            ("GET", "/api/sessions/{id}/validation", self.validation),
        ]
        return Starlette(routes=[Route(path, answer, methods=[method]) for method, path, answer in routes])


def _error(status: int, message: str, headers: Mapping[str, str] | None = None, **more: str) -> Response:
    return JSONResponse({"error": {"code": "x", "message": message, **more}}, status, headers=headers)


@asynccontextmanager
async def fake_engine(*faults: str, key: str = "") -> AsyncIterator[FakeEngine]:
    engine = FakeEngine(frozenset(faults), key)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    engine.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
    async with trio.open_nursery() as nursery:
        await nursery.start(Door(engine.app(), {}, Metrics()).serve, listeners)
        yield engine
        nursery.cancel_scope.cancel()
