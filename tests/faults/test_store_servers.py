"""What servers of stores do to their clients: they become replicas, are full, forget, hand over to another server, end
a transaction, let nobody in any more, or take a write and do not get to say so. Whatever was said is there afterwards,
once and in order, and no caller has heard anything of it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
import structlog
import trio

from tests.fakes.servers import HOST, PostgresqlServer, RedisServer, free_port, running_redis
from tests.faults.store_bench import Caller, SlowLine, backlog_is, callers_words, export_of, quick_settings
from tests.system.session_rig import Program, program, store_settings

WAIT_S = 0.3
"""So much longer may an answer take than usually."""
CALLER, TEXTER = "+15005550141", "+15005550143"
KINDS = ("head", "order", "messages", "traces", "key", "subject", "all", "expiry", "meta", "format")
"""Of Redis' keys."""


@pytest.fixture(autouse=True)
def quiet_log(plain_log: None) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


# --- the server refuses -------------------------------------------------------------------------------------


@contextmanager
def replica(server: RedisServer) -> Iterator[None]:
    """READONLY to whoever writes."""
    server.command("REPLICAOF", HOST, free_port())
    yield
    server.command("REPLICAOF", "NO", "ONE")


@contextmanager
def full(server: RedisServer) -> Iterator[None]:
    server.command("CONFIG", "SET", "maxmemory", 1)
    yield
    server.command("CONFIG", "SET", "maxmemory", 0)


@contextmanager
def no_place_at_redis(server: RedisServer) -> Iterator[None]:
    """The only connection that it allows is somebody else's."""
    with socket.create_connection((HOST, server.port)) as other, other.makefile("rb") as answers:
        for line in (b"CONFIG SET maxclients 1", b"CLIENT KILL TYPE normal SKIPME yes"):
            other.sendall(line + b"\r\n")
            answers.readline()
        yield
        other.sendall(b"CONFIG SET maxclients 10000\r\n")
        answers.readline()


@contextmanager
def standby(server: PostgresqlServer) -> Iterator[None]:
    """A server of another time of life, at the same address, that has not been promoted yet."""
    server.stop()
    (server.directory / "data" / "standby.signal").touch()
    server.start()
    try:
        yield
    finally:
        server.execute("SELECT pg_promote()")


@contextmanager
def no_place_at_postgresql(server: PostgresqlServer) -> Iterator[None]:
    """Every connection that there is belongs to somebody else."""
    server.terminate_backends()
    with ExitStack() as stack:
        with suppress(psycopg.OperationalError):
            while True:
                stack.enter_context(psycopg.connect(server.url(), autocommit=True))
        yield


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("redis", replica),
        ("redis", full),
        ("redis", no_place_at_redis),
        ("postgresql", standby),
        ("postgresql", no_place_at_postgresql),
    ],
)
async def test_a_server_that_refuses_gets_all_of_it_later(
    kind: str,
    fault: Callable[[object], AbstractContextManager[None]],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    settings = quick_settings(store_settings(kind, tmp_path, request))
    server = request.getfixturevalue(f"{kind}_server")
    async with program(settings) as desk, desk.call(CALLER) as talk:
        caller = Caller(talk, "caller")
        usual_s = await caller.turns(2)
        await desk.settled()
        with fault(server):
            slowest_s = await caller.turns(2)
            await backlog_is(desk, lambda value: value > 0)
            await desk.ask("POST", "/turn", json={"text": "Is it lost?", "stream_sid": "robot"}, status=503)
        await caller.turns(1)
        await backlog_is(desk, lambda value: value == 0)
        await desk.settled()
        assert await words_of(desk, CALLER) == caller.said
        assert desk.total("store_lost_total") == 0
    assert slowest_s < usual_s + WAIT_S


# --- what a transaction comes to ----------------------------------------------------------------------------


async def test_turns_whose_transaction_postgresql_ends_are_there_once(
    tmp_path: Path, request: pytest.FixtureRequest, postgresql_server: PostgresqlServer
) -> None:
    """Each time it has begun to write, and waits for somebody else's lock."""
    store = store_settings("postgresql", tmp_path, request)
    server = postgresql_server
    waiting = "FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with program(quick_settings(store)) as desk, desk.call(CALLER) as talk:
        caller = Caller(talk, "caller")
        await caller.turns(1)
        await desk.settled()
        for _ in range(2):
            with psycopg.connect(store.url) as other:
                other.execute("LOCK TABLE sessions_messages IN ACCESS EXCLUSIVE MODE")
                await caller.turns(1)
                await until(lambda: bool(server.execute(f"SELECT pg_terminate_backend(pid) {waiting}", url=store.url)))
            await caller.turns(1)
        await backlog_is(desk, lambda value: value == 0)
        await desk.settled()
        assert desk.total("store_errors_total") > 0
        assert await words_of(desk, CALLER) == caller.said
        assert desk.total("store_lost_total") == 0


@pytest.mark.parametrize("kind", ["redis", "postgresql"])
async def test_turns_that_were_stored_without_the_answer_getting_through_are_there_once(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    async with behind_line(kind, tmp_path, request) as (desk, line), desk.call(CALLER) as talk:
        caller = Caller(talk, "caller")
        await caller.turns(1)
        await desk.settled()
        for _ in range(2):
            line.delay_s = 60.0
            await caller.turns(1)
            await trio.sleep(0.1)  # the server has done it
            line.delay_s = 0.0
            line.cut()
            await until(lambda: desk.memory.writer.is_down)
            await caller.turns(1)
            await until(lambda: not desk.memory.writer.is_down)
        await backlog_is(desk, lambda value: value == 0)
        await desk.settled()
        assert await words_of(desk, CALLER) == caller.said
        assert desk.total("store_lost_total") == 0


# --- another server takes over ------------------------------------------------------------------------------


async def test_a_replica_that_takes_over_in_mid_call_has_all_of_it(
    tmp_path: Path, request: pytest.FixtureRequest, redis_server: RedisServer
) -> None:
    """The old server still answers whoever has a connection to it, as a replica; the address leads to the new one."""
    redis_server.command("CONFIG", "SET", "repl-diskless-sync-delay", 0)
    with running_redis() as second:
        second.command("REPLICAOF", HOST, redis_server.port)
        async with behind_line("redis", tmp_path, request) as (desk, line), desk.call(CALLER) as talk:
            caller = Caller(talk, "caller")
            usual_s = await caller.turns(2)
            await desk.settled()
            await until(lambda: parts(second) == parts(redis_server))
            line.lead_to(second.port)
            redis_server.command("REPLICAOF", HOST, second.port)
            slowest_s = await caller.turns(2)
            second.command("REPLICAOF", "NO", "ONE")
            await backlog_is(desk, lambda value: value == 0)
            await caller.turns(1)
            await desk.settled()
            assert await words_of(desk, CALLER) == caller.said
            assert desk.total("store_errors_total", error="refused") > 0
            assert desk.total("store_lost_total") == 0
    assert slowest_s < usual_s + WAIT_S


# --- Redis forgets ------------------------------------------------------------------------------------------


async def test_whatever_redis_evicts_every_text_that_is_answered_is_kept(
    tmp_path: Path, request: pytest.FixtureRequest, redis_server: RedisServer
) -> None:
    """As with a ``maxmemory-policy`` other than ``noeviction``, one kind of keys after the other."""
    async with program(quick_settings(store_settings("redis", tmp_path, request))) as desk:
        for kind in KINDS:
            words = f"before {kind}"
            assert words in await desk.text(TEXTER, f"Hello {words}.")
            before = await words_of(desk, TEXTER)
            gone = [key for key in redis_server.command("KEYS", "*") if key.split(b":")[1] == kind.encode()]
            assert gone, kind
            redis_server.command("DEL", *gone)
            texts = [f"after {kind} {number}." for number in range(3)]
            for text in texts:
                assert text.rstrip(".") in await desk.text(TEXTER, text)
            there = await words_of(desk, TEXTER)
            assert [text for text in there if text in texts] == texts, (kind, there)
            assert len(there) == len(set(there)), kind
            if kind in ("head", "traces", "subject", "all", "expiry", "format"):
                assert there[: len(before)] == before, "who is being talked to is not forgotten"


# --- tools --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def behind_line(
    kind: str, folder: Path, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[Program, SlowLine]]:
    """The program, and the line between it and its server."""
    store = store_settings(kind, folder, request)
    server = request.getfixturevalue(f"{kind}_server")
    line = SlowLine(server.port)
    async with trio.open_nursery() as nursery:
        port = await nursery.start(line.run)
        store = replace(store, port=port, url=store.url.replace(f":{server.port}", f":{port}"))
        async with program(quick_settings(store)) as desk:
            yield desk, line
        nursery.cancel_scope.cancel()


async def words_of(desk: Program, number: str) -> list[str]:
    """Everything that is stored of what this caller said, in order, session by session."""
    sessions = await export_of(desk, number)
    return [text for session in sessions for text in callers_words(session["messages"])]


def parts(server: RedisServer) -> list[bytes]:
    """All that it holds; no two servers list it in the same order."""
    return sorted(server.everything().split(b"\0"))


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not is_so():  # noqa: ASYNC110 - seen from outside
            await trio.sleep(0.01)
