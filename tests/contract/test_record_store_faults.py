"""Servers that refuse, hang, are full or cut one off: StoreDown in time, and afterwards everything works again."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import pytest
import trio

from adapters.stores.redis import open_redis
from adapters.stores.sql import open_postgresql
from engine.errors import SettingsError, StoreDown
from engine.ports import RecordStore, Written
from tests.contract.benches import T0, Bench, Rows, ids, message, written
from tests.fakes.servers import HOST, PostgresqlServer, RedisServer, Server, free_port, running_redis

ANNA = Rows()
DEADLINE_S = 0.3
SERVERS = pytest.mark.parametrize("kind", ["postgresql", "redis"])


@pytest.fixture
def server(kind: str, request: pytest.FixtureRequest) -> Server:
    server = request.getfixturevalue(f"{kind}_server")
    assert isinstance(server, Server)
    return server


@pytest.fixture
async def store(bench: Bench, server: Server) -> AsyncIterator[RecordStore]:
    async with bench.open() as store:
        yield store


async def works_again(store: RecordStore, within_s: float = 10.0) -> None:
    """At the first try that does not meet a connection from before; a store does not repeat a write by itself."""
    with trio.fail_after(within_s):
        while True:
            try:
                await store.get("s1", last=1)
            except StoreDown:
                continue
            return


@SERVERS
async def test_a_server_that_is_gone_is_refused_at_once_and_used_again_when_it_is_back(
    store: RecordStore, server: Server
) -> None:
    await written(store, ANNA.append(0, message(1)))
    server.stop()
    for _ in range(12):  # more often than there are connections
        with trio.fail_after(5), pytest.raises(StoreDown):
            await store.get("s1", last=10)
    with pytest.raises(StoreDown) as caught:
        await store.write([ANNA.append(1, message(2))])
    assert caught.value.why == "refused"
    server.start()
    await works_again(store)
    assert await ids(store) == ["m1"]
    assert await store.write([ANNA.append(1, message(2))]) == [Written(2)]


@SERVERS
async def test_a_server_that_crashes_keeps_what_was_written(store: RecordStore, server: Server) -> None:
    await written(store, ANNA.append(0, message(1)))
    server.kill()
    server.start()
    await works_again(store)
    assert await ids(store) == ["m1"]


@SERVERS
async def test_a_server_that_hangs_holds_nobody_longer_than_the_deadline(store: RecordStore, server: Server) -> None:
    await written(store, ANNA.append(0, message(1)))
    server.pause()
    for _ in range(2):
        began = time.monotonic()
        with trio.move_on_after(DEADLINE_S) as scope:
            async with trio.open_nursery() as nursery:
                for number in range(10, 16):  # more than there are connections with PostgreSQL
                    rows = Rows(f"s{number}", f"k{number}")
                    nursery.start_soon(store.write, [rows.append(0, message(number))])
        assert scope.cancelled_caught
        assert time.monotonic() - began < DEADLINE_S + 10
    server.resume()
    await works_again(store)
    for _ in range(20):
        assert await ids(store) == ["m1"]
        for number in range(10, 16):
            assert await ids(store, f"s{number}") in ([], [f"m{number}"])
    assert await store.write([ANNA.append(1, message(2))]) == [Written(2)]


@pytest.mark.parametrize("kind", ["postgresql"])
async def test_a_connection_that_postgresql_ends_is_replaced(
    store: RecordStore, postgresql_server: PostgresqlServer
) -> None:
    await written(store, ANNA.append(0, message(1)))
    version = 1
    for _ in range(3):
        assert postgresql_server.terminate_backends() > 0
        await works_again(store)
        [outcome] = await store.write([ANNA.append(version, message(version + 1))])
        assert outcome == Written(version + 1)
        version += 1
    assert await ids(store) == ["m1", "m2", "m3", "m4"]


@SERVERS
async def test_an_engine_may_start_before_its_server(server: Server, bench: Bench) -> None:
    server.stop()
    with pytest.raises(StoreDown):
        async with bench.open():
            pass
    opening: AbstractAsyncContextManager[RecordStore]
    if isinstance(server, PostgresqlServer):
        opening = open_postgresql(server.url(), connect_s=2.0, must_connect=False, now=bench.clock)
    else:
        opening = open_redis(HOST, server.port, must_connect=False, now=bench.clock)
    async with opening as store:
        with trio.fail_after(5), pytest.raises(StoreDown):
            await store.find("k1", last=1)
        server.start()
        assert await store.find("k1", last=1) is None


# --- Redis --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["redis"])
async def test_a_redis_that_is_full_takes_nothing_of_a_batch(store: RecordStore, redis_server: RedisServer) -> None:
    await written(store, ANNA.append(0, message(1)))
    await written(store, Rows("s2", "k2", "ben").append(0))
    redis_server.command("CONFIG", "SET", "maxmemory", 1)
    many = [Rows(f"s{n}", f"k{n}").append(0, message(n)) for n in range(10, 20)]
    with pytest.raises(StoreDown) as caught:
        await store.write([ANNA.append(1, message(2)), *many])
    assert caught.value.why == "full"
    assert await ids(store) == ["m1"], "it can still be read"
    assert await store.erase("ben", T0) == 1, "and it can forget"
    assert await store.erase("nobody there", T0) == 0
    redis_server.command("CONFIG", "SET", "maxmemory", 0)
    assert [row.session_id for row in await store.scan()] == ["s1"]
    assert await store.write([ANNA.append(1, message(2)), *many]) == [Written(2)] + [Written(1)] * 10


@pytest.mark.parametrize("kind", ["redis"])
async def test_a_redis_that_has_become_a_replica_takes_no_writes(store: RecordStore, redis_server: RedisServer) -> None:
    await written(store, ANNA.append(0, message(1)))
    redis_server.command("REPLICAOF", HOST, free_port())
    with pytest.raises(StoreDown) as caught:
        await store.write([ANNA.append(1, message(2))])
    assert caught.value.why == "refused"
    redis_server.command("REPLICAOF", "NO", "ONE")
    assert await store.write([ANNA.append(1, message(2))]) == [Written(2)]


@pytest.mark.parametrize("kind", ["redis"])
async def test_a_batch_that_fails_in_the_middle_has_changed_nothing(
    store: RecordStore, redis_server: RedisServer
) -> None:
    """Something foreign in one of our keys: the whole batch is refused before its first byte."""
    redis_server.command("SET", "sessions:head:s2", "not ours")
    before = redis_server.everything()
    with pytest.raises(StoreDown) as caught:
        await store.write([ANNA.append(0, message(1)), Rows("s2", "k2").append(0, message(2))])
    assert caught.value.why == "error"
    assert redis_server.everything() == before


@pytest.mark.parametrize("kind", ["redis"])
async def test_redis_scripts_that_were_flushed_are_sent_again(store: RecordStore, redis_server: RedisServer) -> None:
    await written(store, ANNA.append(0, message(1)))
    redis_server.command("SCRIPT", "FLUSH")
    assert await ids(store) == ["m1"]


@pytest.mark.parametrize(("password", "setting"), [("", "REDIS_PASSWORD"), ("wrong", "REDIS_PASSWORD")])
async def test_a_wrong_password_of_redis_is_named_by_its_setting(password: str, setting: str) -> None:
    with running_redis("--requirepass", "right") as server:
        with pytest.raises(SettingsError, match=rf"{setting}.*store\.host.*store\.port"):
            async with open_redis(HOST, server.port, password=password):
                pass
        async with open_redis(HOST, server.port, password="right") as store:
            assert await store.scan() == []
        async with open_redis(HOST, server.port, password=password, must_connect=False) as store:
            with pytest.raises(StoreDown):
                await store.scan()


async def test_a_database_that_redis_does_not_have_is_named_by_its_setting(redis_server: RedisServer) -> None:
    with pytest.raises(SettingsError, match=r"store\.database"):
        async with open_redis(HOST, redis_server.port, database=99):
            pass
    async with open_redis(HOST, redis_server.port, database=3) as store:
        await written(store, Rows(expires_at=time.time() + 99).append(0))
    assert redis_server.command("DBSIZE") == 0
