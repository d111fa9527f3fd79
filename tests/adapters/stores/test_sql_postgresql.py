"""What PostgreSQL does beyond the contract of record stores: cut off, full, gone, silent, and shared with others."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress

import psycopg
import pytest
import trio

from adapters.stores import sql_postgresql
from adapters.stores.sql import SqlStore, open_postgresql
from engine.errors import SettingsError, StoreDown
from engine.ports import Append, Conflict, Gone, Rekey, SessionRow, Written
from tests.contract.benches import DAY_S, T0, Clock, Rows, ids, message, written
from tests.fakes.servers import PostgresqlServer

ENOUGH_S = 20.0


@pytest.fixture(scope="module")
def database(session_postgresql: PostgresqlServer) -> str:
    return session_postgresql.new_database()


@pytest.fixture
def url(database: str, postgresql_server: PostgresqlServer) -> str:
    """Of an empty database."""
    postgresql_server.empty(database)
    return database


@pytest.fixture
async def store(url: str) -> AsyncIterator[SqlStore]:
    async with open_postgresql(url, now=Clock(), connections=2, connect_s=2.0) as store:
        yield store


@pytest.fixture
def soon_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_postgresql, "LIMIT_S", 0.3)
    monkeypatch.setattr(sql_postgresql, "STATEMENT_S", 0.2)


async def why_not(store: SqlStore) -> str:
    """What the store says to a write, which must fail."""
    with trio.fail_after(ENOUGH_S), pytest.raises(StoreDown) as down:
        await store.write([Rows("s9", "k9", "").append(0)])
    return down.value.why


async def test_backends_that_are_terminated_while_they_rest_are_replaced(
    store: SqlStore, postgresql_server: PostgresqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_postgresql, "PING_S", 0.0)
    await written(store, Rows().append(0, message(1)))
    await trio.to_thread.run_sync(postgresql_server.terminate_backends)
    await written(store, Rows().append(1, message(2)))
    await trio.to_thread.run_sync(postgresql_server.terminate_backends)
    assert await ids(store) == ["m1", "m2"]


async def test_connections_to_a_server_that_has_become_a_standby_are_given_up(
    store: SqlStore, postgresql_server: PostgresqlServer
) -> None:
    """The address may lead to its successor by now. Whether the connection was used for reading before or not."""
    await written(store, Rows().append(0, message(1)))
    postgresql_server.stop()
    (postgresql_server.directory / "data" / "standby.signal").touch()
    postgresql_server.start()
    ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'offhook'"
    try:
        for reads in (0, 1):
            for _ in range(reads):
                assert await ids(store) == ["m1"]
            assert await why_not(store) == "refused"
            await until_none(postgresql_server, ours)
    finally:
        postgresql_server.execute("SELECT pg_promote()")
    await written(store, Rows().append(1, message(2)))


async def until_none(server: PostgresqlServer, count: str) -> None:
    with trio.fail_after(ENOUGH_S):
        while server.execute(count) != [(0,)]:  # noqa: ASYNC110 - seen from outside
            await trio.sleep(0.01)


async def test_a_backend_terminated_in_mid_transaction_costs_that_one(
    store: SqlStore, postgresql_server: PostgresqlServer, url: str
) -> None:
    await written(store, Rows().append(0, message(1)))
    # This one is terminated, too.
    with suppress(psycopg.OperationalError), psycopg.connect(url) as other:
        other.execute("SELECT * FROM sessions FOR UPDATE")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_refusal, store)
            await until(postgresql_server, url, "wait_event_type = 'Lock'")
            await trio.to_thread.run_sync(postgresql_server.terminate_backends)
    await written(store, Rows().append(1, message(3)))
    assert await ids(store) == ["m1", "m3"]


async def expect_refusal(store: SqlStore) -> None:
    with pytest.raises(StoreDown) as down:
        await store.write([Rows().append(1, message(2))])
    assert down.value.why == "refused"


async def until(server: PostgresqlServer, url: str, condition: str) -> None:
    """Of some backend."""
    statement = f"SELECT 1 FROM pg_stat_activity WHERE {condition}"
    with trio.fail_after(ENOUGH_S):
        while not await trio.to_thread.run_sync(lambda: server.execute(statement, url=url)):
            await trio.lowlevel.checkpoint()


async def test_a_server_that_stops_and_starts_again_is_used_again(
    store: SqlStore, postgresql_server: PostgresqlServer
) -> None:
    await written(store, Rows().append(0, message(1)))
    postgresql_server.stop()
    assert await why_not(store) == "refused"
    assert await why_not(store) == "refused"
    postgresql_server.start()
    await written(store, Rows().append(1, message(2)))
    assert await ids(store) == ["m1", "m2"]


async def test_a_server_that_falls_silent_holds_nobody_for_ever(
    url: str, postgresql_server: PostgresqlServer, soon_over: None
) -> None:
    async with open_postgresql(url, now=Clock(), connections=1, connect_s=2.0) as store:
        await written(store, Rows().append(0, message(1)))
        postgresql_server.pause()
        with trio.move_on_after(0.05) as patience:
            await store.write([Rows().append(1, message(2))])
        assert patience.cancelled_caught
        # Its thread still waits for an answer. Whoever comes once its time is over sets it free.
        with trio.move_on_after(0.5):
            await why_not(store)
        assert await why_not(store) == "timeout", "nor does the server let anybody in"
        postgresql_server.resume()
        await written(store, Rows("s2", "k2").append(0))
        assert await ids(store) in (["m1"], ["m1", "m2"])


async def test_leaving_does_not_wait_for_a_server_that_has_fallen_silent(
    url: str, postgresql_server: PostgresqlServer
) -> None:
    before = threading.active_count()
    with trio.fail_after(ENOUGH_S):
        async with open_postgresql(url, now=Clock(), connections=1) as store:
            await written(store, Rows().append(0, message(1)))
            postgresql_server.pause()
            with trio.move_on_after(0.05):
                await store.write([Rows().append(1, message(2))])
    postgresql_server.resume()
    # trio keeps a few threads at hand that wait for work; none waits for the server.
    assert threading.active_count() <= before + 3


async def test_a_statement_that_takes_too_long_is_ended_by_the_server(url: str, soon_over: None) -> None:
    async with open_postgresql(url, now=Clock(), connections=1) as store:
        await written(store, Rows().append(0, message(1)))
        with psycopg.connect(url) as other:
            other.execute("SELECT * FROM sessions FOR UPDATE")
            with pytest.raises(StoreDown) as down:
                await store.write([Rows().append(1, message(2))])
        assert down.value.why in ("timeout", "locked")
        await written(store, Rows().append(1, message(2)))
        assert await ids(store) == ["m1", "m2"]


@pytest.fixture
def crowd(url: str, postgresql_server: PostgresqlServer) -> Iterator[ExitStack]:
    """Takes every connection that the server has."""
    with ExitStack() as stack:
        for _ in range(200):
            try:
                stack.enter_context(psycopg.connect(url, autocommit=True))
            except psycopg.OperationalError:
                break
        yield stack


async def test_too_many_connections_are_a_refusal_until_there_is_room(crowd: ExitStack, url: str) -> None:
    async with open_postgresql(url, now=Clock(), must_connect=False) as store:
        assert await why_not(store) == "refused"
        crowd.close()
        await written(store, Rows().append(0, message(1)))


async def test_the_engine_can_start_before_the_server_does(url: str, postgresql_server: PostgresqlServer) -> None:
    fresh = postgresql_server.new_database()
    postgresql_server.stop()
    with pytest.raises(StoreDown) as down:
        async with open_postgresql(fresh, now=Clock(), connect_s=2.0):
            pass
    assert down.value.why == "refused"
    async with open_postgresql(fresh, now=Clock(), must_connect=False) as store:
        assert await why_not(store) == "refused"
        postgresql_server.start()
        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(written, store, Rows(f"s{number}", f"k{number}").append(0))
        assert len(await store.scan()) == 4


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "nonsense",
        "mysql://host/db",
        "postgresql://host:port/db",
        "sqlite:///x",
        "redis://host",
        "postgresql://u:a@b@h/d",
    ],
)
async def test_an_address_of_something_else_is_a_wrong_setting(wrong: str) -> None:
    with pytest.raises(SettingsError, match=r"store\.url"):
        async with open_postgresql(wrong):
            pass


@pytest.mark.parametrize(
    ("change", "told"),
    [(("/test_", "/missing_"), "no such database"), (("offhook@", "nobody:a-secret@"), "no such user")],
)
async def test_a_database_or_a_user_that_is_not_there_is_a_wrong_setting(
    url: str, change: tuple[str, str], told: str
) -> None:
    wrong = url.replace(*change)
    with pytest.raises(SettingsError, match=rf"store\.url or DATABASE_URL: postgresql at .* has {told}") as refused:
        async with open_postgresql(wrong):
            pass
    assert "a-secret" not in str(refused.value)
    async with open_postgresql(wrong, must_connect=False) as store:
        assert await why_not(store) == "error"


# --- others at the same database ----------------------------------------------------------------------------


async def test_of_two_who_make_a_session_with_one_key_one_gets_a_conflict(url: str) -> None:
    async with open_postgresql(url, now=Clock()) as one, open_postgresql(url, now=Clock()) as two:
        for attempt in range(15):
            outcomes = []

            async def make(store: SqlStore, name: str, key: str) -> None:
                outcomes.extend(await store.write([Rows(f"{name}{key}", key).append(0, message(1))]))  # noqa: B023

            async with trio.open_nursery() as nursery:
                for name, store in (("a", one), ("b", two)):
                    nursery.start_soon(make, store, name, f"k{attempt}")
            (conflict,) = [outcome for outcome in outcomes if isinstance(outcome, Conflict)]
            assert outcomes.count(Written(1)) == 1
            assert conflict.current.key == f"k{attempt}"


async def test_two_who_lock_the_same_sessions_in_opposite_order_both_get_through(url: str) -> None:
    async with open_postgresql(url, now=Clock()) as one, open_postgresql(url, now=Clock()) as two:
        names = ["a", "b", "c"]
        await written(one, *(Rows(name, name).append(0) for name in names))

        async def move(store: SqlStore, order: list[str], suffix: str) -> None:
            for number in range(10):
                await written(store, *(Rekey(name, f"{name}{suffix}{number}") for name in order))

        with trio.fail_after(ENOUGH_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(move, one, names, "x")
                nursery.start_soon(move, two, names[::-1], "y")
        assert [row.version for row in await one.scan()] == [21] * 3


async def test_a_session_made_while_its_subject_is_erased_is_gone_or_never_was(url: str) -> None:
    async with open_postgresql(url, now=Clock()) as one, open_postgresql(url, now=Clock()) as two:
        for attempt in range(15):
            subject = f"subject{attempt}"

            async def make(rows: Rows) -> None:
                assert (await one.write([rows.append(0, message(1))]))[0] in (Written(1), Gone())

            async with trio.open_nursery() as nursery:
                nursery.start_soon(make, Rows(f"s{attempt}", f"k{attempt}", subject))
                nursery.start_soon(two.erase, subject, T0)
            assert await one.of_subject(subject) == []
            assert await one.get(f"s{attempt}", last=1) is None


async def test_a_text_of_any_length_and_with_any_character_is_kept(store: SqlStore) -> None:
    odd = "a\0b " + "\ud800 " + " ".join(f"word{number}" for number in range(150_000))
    await written(store, Rows().append(0, message(1, text=odd)))
    found = await store.get("s1", last=1)
    assert found is not None
    assert found.messages[0].text == odd.replace("\ud800", "?")
    assert [session for session, _ in await store.search("word17 a")] == ["s1"]


async def test_the_search_uses_its_index(store: SqlStore, postgresql_server: PostgresqlServer, url: str) -> None:
    head = SessionRow("s1", "k1", "", 0, T0, T0, T0 + DAY_S, b"")
    await written(store, Append(head, tuple(message(n, text=f"hello word{n}") for n in range(2000)), retention=2000))
    postgresql_server.execute("ANALYZE sessions_messages", url=url)
    await store.search("word17")
    used = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'sessions_words'"
    plan = postgresql_server.execute(
        "EXPLAIN SELECT * FROM sessions_messages WHERE to_tsvector('simple', left(sessions_messages.text, 100000)) "
        "@@ plainto_tsquery('simple', 'word17') AND text <> ''",
        url=url,
    )
    assert postgresql_server.execute(used, url=url), plan
    assert any("sessions_words" in line for (line,) in plan), plan
