from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from adapters.stores.sql import open_sqlite
from engine.events import Role
from engine.storage.identity import caller_key, stream_key
from engine.storage.legacy import adopt_all, converted
from engine.storage.record import Scope
from tests.storage.saves import DAY_S, KEY_1, a_save, a_vault

NOW = 1_750_000_000.0
SAID = [
    {"role": "user", "content": "boots for a fire officer"},
    {"role": "Assistant", "content": "Which size?", "agent": "fitter"},
]
ROWS = [
    ("crm-1", "(555) 010-0001", "sizer", "try again", json.dumps(SAID), "chest 104", "2020-05-01 10:00:00"),
    ("crm-2", "555-010-0001", "sales", "another one", None, None, "2020-05-02T10:00:00Z"),
    ("crm-3", "user_42", "sales", "Which size?", "was angry about \0 the \u00df boots", "", None),
    ("crm-4", None, None, None, None, None, None),
]


def an_old_database(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute(
            "create table sessions (session_id text primary key, user_id text, last_agent text, last_query text,"
            " context text, sizing_session text, created_at text, updated_at text, branch text)"
        )
        for *row, updated in ROWS:
            db.execute(
                "insert into sessions values (?, ?, ?, ?, ?, ?, '2020-01-01 00:00:00', ?, 'north')", (*row, updated)
            )
    db.close()


@pytest.mark.parametrize("keys", ["", KEY_1])
async def test_every_old_row_is_a_session_with_all_it_held(tmp_path: Path, keys: str) -> None:
    path = tmp_path / "crm.db"
    an_old_database(path)
    async with open_sqlite(str(path), now=lambda: NOW) as store:
        vault = a_vault(store, keys)
        assert await adopt_all(store, vault, "US", now=NOW) == 4
        assert await adopt_all(store, vault, "US", now=NOW) == 0

        first = await vault.load(caller_key("+15550100001"), last=50)
        assert first is not None
        assert (first.record.session_id, first.record.agent, first.record.scope) == ("crm-1", "sizer", Scope.CALLER)
        assert [(entry.role, entry.text, entry.agent) for entry in first.entries] == [
            (Role.CALLER, "boots for a fire officer", "sizer"),
            (Role.AGENT, "Which size?", "fitter"),
            (Role.CALLER, "try again", "sizer"),
        ]
        assert [entry.at for entry in first.entries] == sorted(entry.at for entry in first.entries)
        assert first.record.memory.entities == {"sizing_session": "chest 104", "branch": "north"}
        assert first.record.last_at - first.record.started_at == 121 * DAY_S + 36000

        second = await vault.load(stream_key("crm-2"), last=50)
        assert second is not None
        assert [stored.record.session_id for stored in await vault.of_number("+15550100001")] == ["crm-1", "crm-2"]

        third = await vault.load(stream_key("crm-3"), last=50)
        assert third is not None
        assert third.record.memory.summary.startswith("was angry about")
        assert "\u00df boots" in third.record.memory.summary
        assert third.record.memory.entities["user_id"] == "user_42"
        assert [entry.text for entry in third.entries] == ["Which size?"]
        assert await vault.load(stream_key("crm-4"), last=50)
    if keys:
        with sqlite3.connect(path) as db:
            assert db.execute("select count(*) from sessions where user_id is not null").fetchone() == (0,)
        db.close()


async def test_an_adopted_session_is_kept_for_a_whole_ttl_however_old_it_is(tmp_path: Path) -> None:
    path, now = tmp_path / "crm.db", NOW
    an_old_database(path)
    async with open_sqlite(str(path), now=lambda: now) as store:
        vault = a_vault(store)
        await adopt_all(store, vault, "US", now=NOW)
        now = NOW + 30 * DAY_S - 1
        assert len(await vault.sessions()) == 4
        now += 1
        assert await vault.sessions() == []


async def test_a_caller_who_is_known_by_now_keeps_that_session_and_has_the_old_one_too(tmp_path: Path) -> None:
    path = tmp_path / "crm.db"
    an_old_database(path)
    async with open_sqlite(str(path), now=lambda: NOW) as store:
        vault = a_vault(store)
        await vault.write([a_save("new", session_id="s_1", number="+15550100001", at=NOW)])
        await adopt_all(store, vault, "US", now=NOW)
        found = await vault.load(caller_key("+15550100001"), last=50)
        assert found is not None
        assert found.record.session_id == "s_1"
        assert {stored.record.session_id for stored in await vault.of_number("+15550100001")} == {
            "s_1",
            "crm-1",
            "crm-2",
        }
        assert await vault.erase("+15550100001", NOW) == 3


@pytest.mark.parametrize(
    ("context", "count", "summary"),
    [
        ("", 0, ""),
        ("[]", 0, ""),
        (json.dumps(SAID), 2, ""),
        (json.dumps([*SAID, {"role": "user"}]), 0, "all"),
        (json.dumps([{"role": "user", "content": "x", "mood": "fine"}]), 1, "all"),
        ('{"a": 1}', 0, "all"),
        ("[1, 2", 0, "all"),
        ("[" * 5000, 0, "all"),
        ('[{"role": ["user"], "content": "x"}]', 0, "all"),
    ],
)
def test_a_context_that_is_not_a_list_of_messages_is_kept_as_the_summary(
    context: str, count: int, summary: str
) -> None:
    record, entries = converted({"session_id": "crm", "context": context}, "US", NOW)
    assert len(entries) == count
    assert record.memory.summary == (context if summary else "")
    assert record.message_count == count


def test_a_question_that_the_context_ends_with_is_there_once() -> None:
    old = {"session_id": "crm", "context": json.dumps(SAID), "last_query": "boots for a fire officer"}
    _, entries = converted(old, "US", NOW)
    assert [entry.text for entry in entries] == ["boots for a fire officer", "Which size?"]


@pytest.mark.parametrize("time", ["1588327200", "1588327200000", "2020-05-01T10:00:00", "2020-05-01 12:00:00+02:00"])
def test_times_are_read_in_the_forms_that_databases_write(time: str) -> None:
    record, _ = converted({"session_id": "crm", "updated_at": time}, "US", NOW)
    assert record.last_at == 1588327200.0
    assert record.memory.entities == {}


def test_a_time_that_cannot_be_read_is_kept_as_it_stands() -> None:
    record, _ = converted({"session_id": "crm", "updated_at": "last week", "sizing_session": "20200501"}, "US", NOW)
    assert record.last_at == NOW
    assert record.memory.entities == {"updated_at": "last week", "sizing_session": "20200501"}
