"""What the faults of stores are held against: the engine as a process that is killed, or in this process with a store
that is stopped; callers and texts in front of it, who note what was acknowledged."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import trio

from engine.phone.phone import SIDES, open_phone
from engine.phone.side import Callee
from engine.settings import Settings, StoreSettings
from tests.fakes.forks import Offhook
from tests.fakes.servers import free_port
from tests.system.session_rig import ALL_KEY, API_KEYS, LINE, SECRET, Program, Talk, settings_on

ROOT = Path(__file__).parents[2]
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("OFFHOOK_", "TWILIO_", "VONAGE_", "ENCRYPTION_KEYS"))
}
BAD_SETTINGS = 2
"""The exit code."""
START_S = 30.0
"""Far more than it takes, for a machine that is busy."""
OPERATION_S = 1.0
"""For one operation of a store, in these tests."""
LOAD_S = 0.2
"""Less than the default, so that a busy machine may add something to it."""


# --- the engine as a process --------------------------------------------------------------------------------


@dataclass(eq=False)
class Process:
    """``offhook serve`` in a folder of its own, on one port, with the agent that echoes. ``settings`` go over the
    defaults of the tests, by table; ``environ`` over the environment. ``from_scratch``: as its users start it, with all
    that Python does first; otherwise it is a copy of a process that has imported everything."""

    folder: Path
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)
    from_scratch: bool = False
    port: int = field(default_factory=free_port)
    listening_s: list[float] = field(default_factory=list)
    """Of each start: from there until it listened."""
    listening_cpu_s: list[float] = field(default_factory=list)
    """And what it had computed by then: what it would have taken on a machine of its own."""
    _process: Offhook | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text("utf-8", "replace")

    async def start(self) -> None:
        """Ready for calls when this returns."""
        began_s = time.monotonic()
        self.spawn()
        assert self._process is not None
        deadline = began_s + START_S
        while not _listens(self.port):
            assert self.exit_code is None, self.log[-2000:]
            assert time.monotonic() < deadline, self.log[-2000:]
            await trio.sleep(0.01)
        self.listening_s.append(time.monotonic() - began_s)
        self.listening_cpu_s.append(self._process.computed_s())
        async with self.client() as client:
            while (await client.get("/readyz")).status_code != 200:
                assert time.monotonic() < deadline, self.log[-2000:]
                await trio.sleep(0.01)

    def spawn(self, *, config: str = "offhook.toml") -> None:
        self.folder.mkdir(exist_ok=True)
        (self.folder / config).write_text(_toml(self.settings), "utf-8")
        self._process = Offhook(
            ["serve", "--config", config, "--port", str(self.port)],
            folder=self.folder,
            environ=CLEAN | {"PYTHONPATH": str(ROOT), "API_KEYS": API_KEYS, "TWILIO_AUTH_TOKEN": SECRET} | self.environ,
            log=self.folder / "log",
            from_scratch=self.from_scratch,
        )

    @property
    def exit_code(self) -> int | None:
        return self._process.returncode if self._process is not None else None

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self._process is not None:
            self._process.kill()

    async def stop(self) -> int:
        """SIGTERM: its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return await self.ended(20.0)

    async def ended(self, within_s: float) -> int:
        deadline = time.monotonic() + within_s
        while (code := self.exit_code) is None:
            assert time.monotonic() < deadline, self.log[-2000:]
            await trio.sleep(0.02)
        return code

    def client(self) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {ALL_KEY}"}
        return httpx.AsyncClient(
            base_url=self.url, headers=headers, verify=_tls_context(), trust_env=False, timeout=START_S
        )

    async def metric(self, client: httpx.AsyncClient, name: str) -> float:
        """Over all labels."""
        lines = (await client.get("/metrics")).text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


@asynccontextmanager
async def processes(*all_of_them: Process) -> AsyncIterator[None]:
    """Started, side by side; killed at the end."""
    try:
        async with trio.open_nursery() as nursery:
            for process in all_of_them:
                nursery.start_soon(process.start)
        yield
    finally:
        for process in all_of_them:
            process.kill()


@asynccontextmanager
async def calling(process: Process, caller: str) -> AsyncIterator[Talk]:
    """A call to it over Twilio, greeted; hung up when the block is left."""
    callee = Callee(process.url, caller=caller, dialled=LINE, secret=SECRET, attestation="A")
    async with open_phone() as phone, phone.call(SIDES["twilio"](callee)) as call:
        talk = Talk(call)
        talk.greeting = await talk.hear()
        yield talk
    assert not call.violations, call.violations


@cache
def _tls_context() -> ssl.SSLContext:
    return ssl.create_default_context()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _toml(more: Mapping[str, Mapping[str, object]]) -> str:
    tables: dict[str, dict[str, object]] = {
        "agents.desk": {"factory": "tests.fakes.echo_agent:make_agent", "scope": "caller"},
        "server": {"api_requests_per_minute": 1_000_000},
        "limits": {"max_calls": 50, "finished_turn_s": 0.1, "unfinished_turn_s": 0.1},
        "sessions": {"texts_per_minute_per_caller": 1_000_000, "keep_calls": True},
        "store": {},
    }
    for name, table in more.items():
        tables.setdefault(name, {}).update(table)
    lines: list[str] = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {_value(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')


# --- the engine in this process -----------------------------------------------------------------------------


def quick_settings(store: StoreSettings, **more: Any) -> Settings:
    """For a real clock: what bounds a store is near."""
    near = replace(store, operation_s=OPERATION_S, load_s=LOAD_S)
    settings = settings_on(near, **more)
    sessions = replace(settings.sessions, text_answer_s=5.0, retention=10_000)
    return replace(settings, sessions=sessions)


async def backlog_is(desk: Program, wanted: Any, *, within_s: float = 15.0) -> None:
    """Until ``store_backlog`` fulfils it."""
    with trio.fail_after(within_s):
        while not wanted(desk.total("store_backlog")):  # noqa: ASYNC110 - a gauge, seen from outside
            await trio.sleep(0.01)


@dataclass(eq=False)
class Caller:
    """Counts what it says on one call, and how long each answer took."""

    talk: Talk
    name: str
    said: list[str] = field(default_factory=list)
    answered_s: list[float] = field(default_factory=list)

    async def turns(self, count: int) -> float:
        """The slowest answer of these, in seconds."""
        for _ in range(count):
            words = f"{self.name} word {len(self.said) + 1}"
            answer = await self.talk.say(f"{words}.")
            assert f" You said {words}." in answer, answer
            self.said.append(f"{words}.")
            timing = self.talk.call.timing(self.talk.call.said[-1])
            assert timing.response_s is not None
            self.answered_s.append(timing.response_s)
        return max(self.answered_s[-count:])

    async def keep_on(self, until: trio.Event) -> None:
        while not until.is_set():
            await self.turns(1)


def greeted_s(talk: Talk) -> float:
    """From the answer of the call to the first sound."""
    return talk.call.ear.stretches[0].start_s - talk.call.answered_at_s


def check_in_order(texts: Sequence[str], acknowledged: Sequence[str], *, in_doubt: Sequence[str] = ()) -> None:
    """All that was acknowledged is there once and in its order; besides at most what was in doubt."""
    assert len(set(texts)) == len(texts), "something is there twice"
    known = [text for text in texts if text not in set(in_doubt)]
    assert known == list(acknowledged)


def callers_words(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the caller said, of messages as the API has them. Every turn is whole: the agent's part follows at once. A
    greeting is a turn without a caller's part."""
    asked = [place for place, message in enumerate(messages) if message["role"] == "user"]
    for place in asked:
        parts = messages[place : place + 2]
        assert [part["role"] for part in parts] == ["user", "assistant"], parts
        assert parts[0]["turn_id"] == parts[1]["turn_id"]
    return [str(messages[place]["text"]) for place in asked]


async def export_of(desk: Program, number: str) -> list[dict[str, Any]]:
    """All sessions that are stored of this number."""
    async with Process(Path(), port=int(desk.engine.url.rsplit(":", 1)[1])).client() as client:
        return await sessions_of(client, number)


async def sessions_of(client: httpx.AsyncClient, number: str) -> list[dict[str, Any]]:
    """The same, of any engine."""
    answer = await client.get(f"/privacy/export/{number}")
    if answer.status_code == 404:
        return []
    assert answer.status_code == 200, answer.text
    sessions = answer.json()["sessions"]
    assert isinstance(sessions, list)
    return sessions


@asynccontextmanager
async def strict_client(url: str = "") -> AsyncIterator[httpx.AsyncClient]:
    """Raises httpx.HTTPStatusError for whatever is refused, with the answer in it."""

    async def check(response: httpx.Response) -> None:
        if response.is_error:
            await response.aread()
            response.raise_for_status()

    headers = {"authorization": f"Bearer {ALL_KEY}"}
    async with httpx.AsyncClient(
        base_url=url,
        headers=headers,
        verify=_tls_context(),
        trust_env=False,
        timeout=START_S,
        event_hooks={"response": [check]},
    ) as client:
        yield client


# --- a line to a server that is slow ------------------------------------------------------------------------


class SlowLine:
    """Between the engine and a server: every answer of the server comes ``delay_s`` late. ``run`` it in a task."""

    def __init__(self, server_port: int) -> None:
        self.delay_s = 0.0
        self._server_port = server_port
        self._scopes: set[trio.CancelScope] = set()

    def lead_to(self, server_port: int) -> None:
        """Another server, from the next connection on."""
        self._server_port = server_port

    def cut(self) -> None:
        """Every connection, with what is on its way."""
        for scope in self._scopes:
            scope.cancel()

    async def run(self, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        task_status.started(listeners[0].socket.getsockname()[1])
        await trio.serve_listeners(self._serve, listeners)

    async def _serve(self, client: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            async with (
                client,
                await trio.open_tcp_stream("127.0.0.1", self._server_port) as server,
                trio.open_nursery() as nursery,
            ):
                self._scopes.add(nursery.cancel_scope)
                nursery.start_soon(self._carry, client, server, False, nursery.cancel_scope)
                nursery.start_soon(self._carry, server, client, True, nursery.cancel_scope)
            self._scopes.discard(nursery.cancel_scope)

    async def _carry(
        self, source: trio.SocketStream, target: trio.SocketStream, is_late: bool, both: trio.CancelScope
    ) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                if is_late:
                    await trio.sleep(self.delay_s)
                await target.send_all(data)
        both.cancel()


def sound(path: Path) -> None:
    """SQLite finds nothing wrong with its file."""
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
