"""Databases of other versions: an older program's table is taken over with its rows, a newer schema is left alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
import trio
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from adapters.stores.sql import SqlStore, open_postgresql, open_sqlite
from adapters.stores.sql_tables import tables
from engine.errors import SettingsError, StoreDown
from engine.ports import Conflict, Gone, Remove, SessionRow, Written
from tests.contract.benches import DAY_S, T0, Clock, Rows, ids, message, written
from tests.fakes.servers import PostgresqlServer

CRM = """
CREATE TABLE sessions (
    session_id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    last_agent TEXT,
    last_query TEXT,
    context TEXT DEFAULT '{}',
    sizing_session TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
)
"""
WAITING = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'relation' AND datname = current_database()"
OLD = ("session_id", "user_id", "last_agent", "last_query", "context", "sizing_session", "created_at", "updated_at")
ANNA = ("old-a", "+15550100001", "sizing", "Which size?", '{"size": "42"}', "sz1", "2024-05-01 10:00:00", "2024-05-02")
BERT = ("old-b", "bert", None, "", "Zoë said 电", None, "2024-05-01 10:00:00", "2024-05-01 11:00:00")


@dataclass(frozen=True)
class Place:
    """An empty database of either kind."""

    kind: str
    execute: Callable[..., list[tuple[Any, ...]]]
    open: Callable[..., AbstractAsyncContextManager[SqlStore]]
    url: str

    def add(self, *rows: tuple[str | None, ...]) -> None:
        for row in rows:
            values = ", ".join("NULL" if value is None else f"'{value}'" for value in row)
            self.execute(f"INSERT INTO sessions ({', '.join(OLD)}) VALUES ({values})")

    def old_rows(self) -> list[tuple[Any, ...]]:
        rows = self.execute(f"SELECT {', '.join(OLD)} FROM sessions ORDER BY session_id")
        return [tuple(None if value is None else str(value) for value in row) for row in rows]


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "postgresql":
        server: PostgresqlServer = request.getfixturevalue("postgresql_server")
        url = server.new_database()
        return Place(
            "postgresql",
            lambda statement: server.execute(statement, url=url),
            lambda **more: open_postgresql(url, **{"now": Clock()} | more),
            url.replace("postgresql:", "postgresql+psycopg:"),
        )
    path = tmp_path / "crm.db"

    def execute(statement: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            return database.execute(statement).fetchall()

    return Place("sqlite", execute, lambda **more: open_sqlite(path, **{"now": Clock()} | more), f"sqlite:///{path}")


def adopted(session_id: str, key: str = "caller:anna", version: int = 0) -> SessionRow:
    return SessionRow(session_id, key, "anna", version, T0, T0, T0 + DAY_S, b"adopted")


async def test_an_older_programs_database_opens_with_its_rows_as_they_were(place: Place) -> None:
    place.execute(CRM)
    place.execute("CREATE INDEX by_user ON sessions (user_id)")
    place.add(ANNA, BERT)
    before = place.old_rows()
    for _ in range(2):
        async with place.open() as store:
            rows = await store.legacy()
            assert [row["session_id"] for row in rows] == ["old-a", "old-b"]
            assert {name: rows[0][name] for name in OLD[:6]} == dict(zip(OLD, ANNA[:6], strict=False))
            assert rows[1]["context"] == "Zoë said 电"
            assert "last_agent" not in rows[1]
            assert rows[0]["created_at"].startswith("2024-05-01 10:00:00")
        assert place.old_rows() == before


async def test_what_is_not_adopted_yet_disturbs_nobody_and_is_disturbed_by_nobody(place: Place) -> None:
    place.execute(CRM)
    place.add(ANNA, BERT)
    async with place.open() as store:
        await written(store, Rows().append(0, message(1, text="hello")), Rows("s2", "k2", "").append(0))
        assert [row.session_id for row in await store.scan()] == ["s1", "s2"]
        assert await store.get("old-a", last=1) is None
        assert await store.write([Remove("old-a"), Rows("old-b", "k3").append(1)]) == [Gone(), Gone()]
        assert await store.erase("anna", T0) == 1
        assert await store.purge(T0 + 9 * DAY_S) == 1
        assert [row["session_id"] for row in await store.legacy()] == ["old-a", "old-b"]


async def test_an_adopted_row_is_a_session_like_any_other(place: Place) -> None:
    place.execute(CRM)
    place.add(ANNA, BERT)
    async with place.open() as store:
        for _ in range(2):
            outcome = await store.adopt("old-a", adopted("old-a"), [message(1), message(2)])
            assert outcome == Written(1)
        assert [row["session_id"] for row in await store.legacy()] == ["old-b"]
        assert [row["session_id"] for row in await store.legacy(after="old-b")] == []
        found = await store.find("caller:anna", last=50)
        assert found is not None
        assert found.row == adopted("old-a", version=1)
        assert found.messages == (message(1), message(2))
        assert place.old_rows()[0][4] == ANNA[4], "the old values stay"
        await written(store, Rows("old-a", "caller:anna").append(1, message(3)))
        assert await ids(store, "old-a") == ["m1", "m2", "m3"]
        assert await store.erase("anna", T0) == 1
        assert [row[0] for row in place.old_rows()] == ["old-b"]


async def test_an_adopted_row_can_be_emptied_of_what_the_older_program_wrote(place: Place) -> None:
    place.execute(CRM)
    place.add(ANNA, BERT)
    async with place.open() as store:
        await store.adopt("old-a", adopted("old-a"), [], blank=True)
        await store.adopt("old-a", adopted("old-a"), [], blank=True)
        assert place.old_rows()[0] == ("old-a", *[None] * 7)
        assert place.old_rows()[1][1] == "bert"
        # Emptied later, if not at once.
        await store.adopt("old-b", adopted("old-b", "caller:bert"), [])
        await store.adopt("old-b", adopted("old-b", "caller:bert"), [], blank=True)
        assert place.old_rows()[1] == ("old-b", *[None] * 7)


async def test_a_row_whose_key_is_taken_waits(place: Place) -> None:
    place.execute(CRM)
    place.add(ANNA)
    async with place.open() as store:
        await written(store, Rows("s1", "caller:anna").append(0))
        outcome = await store.adopt("old-a", adopted("old-a"), [message(1)])
        assert isinstance(outcome, Conflict)
        assert outcome.current.session_id == "s1"
        assert len(await store.legacy()) == 1
        assert await store.adopt("nobody", adopted("nobody", "k"), []) == Gone()


async def test_a_row_of_an_erased_subject_is_deleted_and_not_adopted(place: Place) -> None:
    place.execute(CRM)
    place.add(ANNA)
    async with place.open() as store:
        await store.erase("anna", T0)
        assert await store.adopt("old-a", adopted("old-a"), [message(1)]) == Gone()
        assert await store.legacy() == []
        assert place.old_rows() == []


async def test_a_new_session_may_have_the_id_of_a_row_that_is_not_adopted(place: Place) -> None:
    place.execute(CRM)
    place.add(ANNA)
    async with place.open() as store:
        await written(store, Rows("old-a", "k1").append(0, message(1)))
        assert await ids(store, "old-a") == ["m1"]
        assert place.old_rows()[0][1] == ANNA[1]


async def test_a_table_with_fewer_columns_and_other_types_is_taken_over(place: Place) -> None:
    place.execute(
        "CREATE TABLE sessions (session_id VARCHAR(40) PRIMARY KEY, context BLOB NOT NULL, updated_at REAL)"
        if place.kind == "sqlite"
        else "CREATE TABLE sessions (session_id VARCHAR(4) PRIMARY KEY, context JSONB NOT NULL, updated_at FLOAT8)"
    )
    value = "x'7b22c322'" if place.kind == "sqlite" else "'{\"a\": 1}'"
    place.execute(f"INSERT INTO sessions VALUES ('o1', {value}, 1714557600.5)")
    async with place.open() as store:
        (row,) = await store.legacy()
        assert row["updated_at"] == "1714557600.5"
        assert row["context"] == ('{"\ufffd"' if place.kind == "sqlite" else '{"a": 1}')
        await written(store, Rows("a-longer-id").append(0, message(1, text="hello")))
        assert [session for session, _ in await store.search("hello")] == ["a-longer-id"]


async def test_a_new_database_has_nothing_of_the_older_program(place: Place) -> None:
    async with place.open() as store:
        assert await store.legacy() == []
    names = {column["name"] for column in columns(place, "sessions")}
    assert names == {"session_id", "key", "subject", "version", "started_at", "last_at", "expires_at", "body"}


@pytest.mark.parametrize("is_older", [False, True])
async def test_the_migrations_make_what_the_statements_expect(place: Place, is_older: bool) -> None:
    if is_older:
        place.execute(CRM)
    async with place.open():
        pass
    at = tables("sessions")
    engine = sa.create_engine(place.url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        opts = {"version_table": at.version, "include_object": lambda *a: "words" not in str(a[1])}
        context = MigrationContext.configure(connection, opts=opts | {"compare_type": False})
        differences = compare_metadata(context, at.metadata)
    kinds = {change[0] if isinstance(change, tuple) else change[0][0] for change in differences}
    # The older program's columns are no part of ours, and its primary key may be NULL in SQLite.
    assert kinds <= ({"remove_column", "modify_nullable"} if is_older else set()), differences


async def test_a_newer_schema_is_refused_in_plain_words_and_left_as_it_is(place: Place) -> None:
    async with place.open() as store:
        await written(store, Rows().append(0, message(1)))
    place.execute("UPDATE sessions_version SET version_num = '9999'")
    with pytest.raises(SettingsError, match=r"store\.\w+: .*newer version \(9999\) than this program knows"):
        async with place.open():
            pass
    place.execute("UPDATE sessions_version SET version_num = '0001'")
    async with place.open() as store:
        assert await ids(store) == ["m1"]


@pytest.mark.parametrize(
    "theirs",
    [
        "CREATE TABLE sessions (id INTEGER PRIMARY KEY, data TEXT)",
        "CREATE TABLE sessions (session_id TEXT, user_id TEXT, PRIMARY KEY (session_id, user_id))",
        "CREATE TABLE sessions (session_id TEXT PRIMARY KEY, body TEXT)",
        "CREATE TABLE sessions_messages (session_id TEXT PRIMARY KEY)",
    ],
)
async def test_a_table_that_is_another_programs_is_refused_and_left_as_it_is(place: Place, theirs: str) -> None:
    place.execute(theirs)
    with pytest.raises(SettingsError, match=r"store\.\w+: "):
        async with place.open():
            pass
    engine = sa.create_engine(place.url, poolclass=sa.NullPool)
    assert len(sa.inspect(engine).get_table_names()) == 1
    async with place.open(table="other"):
        pass


async def test_engines_that_start_at_once_migrate_once(place: Place) -> None:
    place.execute(CRM)
    place.add(ANNA, BERT)
    counts: list[int] = []

    async def start() -> None:
        async with place.open() as store:
            counts.append(len(await store.legacy()))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(start)
    assert counts == [2] * 4
    assert place.execute("SELECT version_num FROM sessions_version") == [("0001",)]


async def test_a_server_killed_in_mid_migration_has_all_of_it_to_do_when_it_is_back(
    postgresql_server: PostgresqlServer,
) -> None:
    url = postgresql_server.new_database()
    place = Place("postgresql", partial(postgresql_server.execute, url=url), open_postgresql, url)
    place.execute(CRM)
    place.add(ANNA)
    before = place.old_rows()

    async def migrate(store: SqlStore) -> None:
        with pytest.raises(StoreDown):
            await store.open()

    async with open_postgresql(url, must_connect=False) as store:
        with closing(psycopg.connect(url)) as reader:
            reader.execute("SELECT * FROM sessions")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(migrate, store)
                with trio.fail_after(20):
                    while not place.execute(WAITING):  # noqa: ASYNC110 - seen from outside
                        await trio.sleep(0.01)
                postgresql_server.kill()
        postgresql_server.start()
        assert place.execute("SELECT to_regclass('sessions_version')") == [(None,)]
        assert [dict(row)["session_id"] for row in await store.legacy()] == ["old-a"]
    assert place.old_rows() == before


async def test_a_lazy_store_says_that_a_newer_schema_is_an_error(postgresql_server: PostgresqlServer) -> None:
    url = postgresql_server.new_database()
    async with open_postgresql(url):
        pass
    postgresql_server.execute("UPDATE sessions_version SET version_num = '9999'", url=url)
    async with open_postgresql(url, must_connect=False) as store:
        with pytest.raises(StoreDown, match="newer version") as down:
            await store.scan()
        assert down.value.why == "error"


def columns(place: Place, table: str) -> list[Any]:
    engine = sa.create_engine(place.url, poolclass=sa.NullPool)
    return list(sa.inspect(engine).get_columns(table))
