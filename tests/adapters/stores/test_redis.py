"""What Redis holds of a session, for how long, and what is left of it afterwards."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import trio
import trio.testing

from adapters.stores.redis import RedisStore, open_redis
from engine.errors import StoreDown
from engine.ports import Append, Gone, Lost, MessageRow, Rekey, Remove, Replace, SessionRow, TraceRow, Written
from tests.fakes.servers import HOST, RedisServer

NOW = float(int(time.time()))
DAY_S = 86400.0
HEAD = SessionRow("anna-session", "anna-key", "anna-subject", 0, NOW, NOW, NOW + DAY_S, b"anna-head")
MESSAGE = MessageRow("anna-message", NOW, b"anna-body", "anna-text")
TRACE = TraceRow(NOW, b"anna-trace")
BEN = replace(HEAD, session_id="s2", key="k2", subject="ben", body=b"ben-head")


@pytest.fixture
async def store(redis_server: RedisServer) -> AsyncIterator[RedisStore]:
    async with open_redis(HOST, redis_server.port, prefix="our") as store:
        yield store


def connections(server: RedisServer) -> set[bytes]:
    """The ids of all but the one that asks."""
    lines = server.command("CLIENT", "LIST").splitlines()
    return {line.split()[0] for line in lines if b"cmd=client" not in line}


async def rewritten(server: RedisServer) -> None:
    with trio.fail_after(10):
        while True:
            info = await trio.to_thread.run_sync(server.command, "INFO", "persistence")
            if b"aof_rewrite_in_progress:0" in info and b"aof_rewrite_scheduled:0" in info:
                return


async def test_every_key_begins_with_the_prefix_and_those_of_a_session_expire_with_it(
    store: RedisStore, redis_server: RedisServer
) -> None:
    await store.write([Append(HEAD, (MESSAGE,), (TRACE,)), Append(BEN)])
    keys = redis_server.command("KEYS", "*")
    assert keys
    assert all(key.startswith(b"our:") for key in keys)
    hers = [key for key in keys if b"anna" in key]
    kinds = {bytes(key.split(b":")[1]) for key in hers}
    assert kinds == {b"head", b"order", b"messages", b"traces", b"key", b"subject"}
    for key in hers:
        assert redis_server.command("PEXPIRETIME", key) == int((NOW + DAY_S) * 1000), key


async def test_a_head_that_is_evicted_is_lost_and_not_gone_until_somebody_lets_go_of_the_session(
    store: RedisStore, redis_server: RedisServer
) -> None:
    again = Append(replace(HEAD, version=1), (replace(MESSAGE, message_id="second"),))
    await store.write([Append(HEAD, (MESSAGE,)), Append(BEN)])
    redis_server.command("DEL", "our:head:anna-session", "our:head:s2")
    assert await store.write([again]) == [Lost()]
    whole = Append(HEAD, (MESSAGE, *again.messages))
    assert await store.write([whole, again]) == [Written(1), Written(2)]
    found = await store.get(HEAD.session_id, last=9)
    assert found is not None
    assert [message.message_id for message in found.messages] == ["anna-message", "second"]

    redis_server.command("DEL", "our:head:anna-session")
    await store.erase(HEAD.subject, NOW)
    await store.write([Remove(BEN.session_id)])
    late = Append(replace(HEAD, session_id="s3", key="k3", expires_at=NOW - 1, subject="late"))
    await store.write([late])
    redis_server.command("DEL", "our:head:s3")
    for of in (again, Append(replace(BEN, version=1)), Append(replace(late.head, version=1))):
        assert await store.write([of]) == [Gone()], of.head


async def test_a_subject_whose_list_is_evicted_is_erased_all_the_same(
    store: RedisStore, redis_server: RedisServer
) -> None:
    await store.write([Append(HEAD, (MESSAGE,), (TRACE,)), Append(BEN)])
    redis_server.command("DEL", "our:subject:anna-subject")
    assert await store.erase(HEAD.subject, NOW) == 1
    assert b"anna" not in redis_server.everything().replace(b"anna-subject", b"")
    assert await store.get(BEN.session_id, last=1) is not None


async def test_a_later_expiry_holds_for_every_key_and_a_subject_keeps_the_latest(
    store: RedisStore, redis_server: RedisServer
) -> None:
    later = replace(HEAD, version=1, expires_at=NOW + 3 * DAY_S)
    other = replace(HEAD, session_id="s3", key="k3", expires_at=NOW + 2 * DAY_S)
    await store.write([Append(HEAD, (MESSAGE,), (TRACE,)), Append(later), Append(other)])
    for key in redis_server.command("KEYS", "*anna*"):
        assert redis_server.command("PEXPIRETIME", key) == int((NOW + 3 * DAY_S) * 1000), key


async def test_what_redis_itself_lets_expire_is_purged_from_the_lists(redis_server: RedisServer) -> None:
    clock = NOW
    async with open_redis(HOST, redis_server.port, now=lambda: clock) as store:
        await store.write([Append(HEAD, (MESSAGE,), (TRACE,)), Append(BEN)])
        for key in redis_server.command("KEYS", "*anna*"):
            redis_server.command("PEXPIREAT", key, 1)
        assert [row.session_id for row in await store.scan()] == ["s2"]
        assert await store.purge(NOW + DAY_S - 1) == 0
        clock = NOW + DAY_S
        assert await store.purge(clock) == 2
    assert redis_server.command("KEYS", "*") == [b"sessions:format"]


async def test_many_that_have_expired_are_purged_in_several_goes(redis_server: RedisServer) -> None:
    clock = NOW
    async with open_redis(HOST, redis_server.port, now=lambda: clock) as store:
        await store.write([Append(replace(HEAD, session_id=f"s{n}", key=f"k{n}")) for n in range(450)])
        clock = NOW + DAY_S
        assert await store.purge(clock) == 450
    assert redis_server.command("KEYS", "*") == [b"sessions:format"]


async def test_of_what_is_erased_no_byte_is_left_in_a_key_or_in_the_rewritten_file(
    store: RedisStore, redis_server: RedisServer
) -> None:
    edited = Replace(HEAD.session_id, replace(MESSAGE, body=b"anna-edited"), MESSAGE.body)
    renamed, again = Rekey(HEAD.session_id, "anna-old"), replace(HEAD, session_id="anna-2")
    await store.write([Append(HEAD, (MESSAGE,), (TRACE,)), edited, renamed, Append(again), Append(BEN)])
    everything = redis_server.everything()
    for word in (b"anna-head", b"anna-edited", b"anna-text", b"anna-trace", b"anna-old", b"anna-key"):
        assert word in everything
        assert word in redis_server.appended()
    assert await store.erase("anna-subject", NOW) == 2
    left = redis_server.everything()
    assert left.count(b"anna") == 1, "its tombstone"
    assert b"ben-head" in left
    await rewritten(redis_server)
    left = redis_server.appended()
    assert b"ben-head" in left
    assert left.count(b"anna") == left.count(b"anna-subject") > 0


async def test_a_rewrite_that_was_under_way_is_followed_by_another_at_the_next_purge(
    store: RedisStore, redis_server: RedisServer
) -> None:
    """It has begun before the erasing, and so holds what was erased."""
    await store.write([Append(HEAD, (MESSAGE,)), Append(BEN)])
    await rewritten(redis_server)
    redis_server.command("CONFIG", "SET", "rdb-key-save-delay", 50_000)
    try:
        redis_server.command("BGREWRITEAOF")
        assert await store.erase("anna-subject", NOW) == 1
        redis_server.command("CONFIG", "SET", "rdb-key-save-delay", 0)
        await rewritten(redis_server)
        assert b"anna-body" in redis_server.appended()
        await store.purge(NOW)
        await rewritten(redis_server)
        assert b"anna-body" not in redis_server.appended()
    finally:
        redis_server.command("CONFIG", "SET", "rdb-key-save-delay", 0)


async def test_a_removed_session_and_messages_beyond_the_retention_leave_no_key(
    store: RedisStore, redis_server: RedisServer
) -> None:
    await store.write([Append(BEN, (MESSAGE,), (TRACE,))])
    await store.write([Append(replace(BEN, version=1), (replace(MESSAGE, message_id="m2", body=b"new"),), retention=1)])
    assert b"anna-body" not in redis_server.everything()
    await store.write([Append(replace(BEN, version=2), traces_kept=0)])
    assert b"anna-trace" not in redis_server.everything()
    await store.write([Remove("s2")])
    assert redis_server.everything().count(b"s2") == 0


async def test_a_deadline_that_cuts_an_answer_off_leaves_none_for_the_next(
    store: RedisStore, redis_server: RedisServer
) -> None:
    """The answer comes after the deadline, on a connection that nobody listens to any more."""
    await store.write([Append(HEAD, (MESSAGE,)), Append(BEN)])
    for _ in range(3):
        before = connections(redis_server)
        redis_server.pause()
        with trio.move_on_after(0.05) as scope:
            await store.get("anna-session", last=1)
        assert scope.cancelled_caught
        redis_server.resume()
        found = await store.get("s2", last=1)
        assert found is not None
        assert found.row.session_id == "s2"
        assert not before & connections(redis_server)


async def test_a_connection_that_ended_while_nobody_used_it_is_replaced(
    store: RedisStore, redis_server: RedisServer
) -> None:
    await store.write([Append(BEN)])
    redis_server.kill()
    redis_server.start()
    await trio.testing.wait_all_tasks_blocked()
    assert await store.write([Append(replace(BEN, version=1))]) == [Written(2)]


async def test_what_redis_let_expire_under_one_subject_and_came_again_under_another_is_not_taken_for_the_first(
    store: RedisStore, redis_server: RedisServer
) -> None:
    await store.write([Append(HEAD)])
    redis_server.command("PEXPIREAT", "our:head:anna-session", 1)
    await store.write([Append(replace(HEAD, subject="ben"))])
    assert await store.of_subject("anna-subject") == []
    assert await store.erase("anna-subject", NOW) == 0
    assert [row.session_id for row in await store.of_subject("ben")] == ["anna-session"]
    assert await store.get("anna-session", last=1) is not None


async def test_a_store_opens_no_more_connections_than_it_may(redis_server: RedisServer) -> None:
    async with open_redis(HOST, redis_server.port, connections=3) as store:
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(store.meta, f"n{number}", b"")
        assert len(connections(redis_server)) == 3
        redis_server.pause()
        with trio.move_on_after(0.05):
            async with trio.open_nursery() as nursery:
                for number in range(30):
                    nursery.start_soon(store.meta, f"n{number}", b"")
        redis_server.resume()
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(store.meta, f"n{number}", b"")
        assert len(connections(redis_server)) <= 3
    with trio.fail_after(5):
        while connections(redis_server):
            await trio.lowlevel.checkpoint()


async def test_a_redis_that_never_answers_is_given_up_when_it_is_opened(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("adapters.stores.redis.CONNECT_S", 0.1)
    redis_server.pause()
    with pytest.raises(StoreDown) as caught:
        async with open_redis(HOST, redis_server.port):
            pass
    assert caught.value.why == "timeout"
    assert caplog.records == [], "coredis would log a traceback"


async def test_what_is_raised_inside_the_block_comes_out_as_it_was(redis_server: RedisServer) -> None:
    async def use() -> None:
        async with open_redis(HOST, redis_server.port) as store:
            assert await store.write([Append(HEAD)]) == [Written(1)]
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await use()
