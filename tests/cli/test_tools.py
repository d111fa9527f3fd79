"""The tools on a store: what they find, what they change, what they hide, and what they say when there is none."""

from __future__ import annotations

import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio

from engine.assembly import open_vault
from engine.dialogue.history import Entry
from engine.events import Modality, Role
from engine.settings import load_settings
from engine.storage.journal import Journal
from engine.storage.keyring import KeyRing
from engine.storage.record import Save, new_session_id
from tests.cli.stored import AT, NUMBER, OTHER, SAID, Stored, entries, new_store, run, session, settings_in

Out = pytest.CaptureFixture[str]


def told(out: Out) -> Any:
    return json.loads(out.readouterr().out)


# --- trace and validate -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["id", "CA0123456789", NUMBER, "(500) 555-0006"])
def test_a_session_is_found_by_its_id_its_call_and_its_caller(name: str, stored: Stored, capsys: Out) -> None:
    assert stored.run("trace", stored.session_id if name == "id" else name, "--json") == 0
    report = told(capsys)
    assert report["session_id"] == stored.session_id
    assert [exchange["answer"] for exchange in report["exchanges"]] == [SAID[2]]


def test_the_timeline_tells_what_was_shown_and_what_came_back_and_hides_numbers(stored: Stored, capsys: Out) -> None:
    assert stored.run("trace", stored.session_id) == 0
    out = capsys.readouterr().out
    for words in ("session_created", "opening_said", "model_asked", "model_answered", "vendor=script", SAID[2]):
        assert words in out
    assert "I want tea at ***2000." in out
    assert stored.run("trace", stored.session_id, "--show-numbers") == 0
    assert SAID[1] in capsys.readouterr().out


def test_a_sound_session_is_valid_and_a_gap_in_what_was_shown_is_not(
    stored: Stored, tmp_path: Path, capsys: Out
) -> None:
    assert stored.run("validate", stored.session_id) == 0
    assert "in order" in capsys.readouterr().out
    (tmp_path / "gap").mkdir()
    broken = new_store(tmp_path / "gap", shows_all=False)
    assert broken.run("validate", broken.session_id) == 1
    assert "missing" in capsys.readouterr().out
    assert broken.run("validate", broken.session_id, "--json") == 1
    found = told(capsys)
    assert (found["is_valid"], [problem["rule"] for problem in found["problems"]]) == (False, ["missing"])


def test_a_session_of_which_no_request_is_known_is_not_called_sound(stored: Stored, capsys: Out) -> None:
    async def add() -> None:
        async with open_vault(load_settings(stored.config)) as vault:
            entry = Entry("t_9.0", "t_9", AT, Role.CALLER, "hello", "desk", Modality.TEXT)
            await vault.write([Save(session("s_9", "+15005550008"), 0, (entry,))])

    trio.run(add)
    assert stored.run("validate", "s_9") == 0
    said = capsys.readouterr().out
    assert "0 requests to models, so nothing that could be checked" in said
    assert "in order" not in said


@pytest.mark.parametrize("command", ["trace", "validate"])
def test_what_is_not_there_is_a_usage_error_without_the_number(command: str, stored: Stored, capsys: Out) -> None:
    assert stored.run(command, "+15005559999") == 2
    said = capsys.readouterr().err
    assert "there is no session" in said
    assert "sessions.keep_calls" in said, "its agents forget their calls"
    assert "5005559999" not in said


# --- history ------------------------------------------------------------------------------------------------


def test_history_shows_what_is_known_and_what_was_said(stored: Stored, capsys: Out) -> None:
    assert stored.run("history", "show", NUMBER) == 0
    out = capsys.readouterr().out
    for words in ("caller ***0006", "summary: Wants tea.", "known: drink: tea", "likes Fridays", "e3  caller (voice)"):
        assert words in out
    assert "5550006" not in out
    assert stored.run("history", "show", NUMBER, "--show-numbers") == 0
    assert f"caller {NUMBER}" in capsys.readouterr().out


def test_an_audit_without_a_line_says_so(stored: Stored, capsys: Out) -> None:
    assert stored.run("privacy", "audit") == 0
    assert "nothing was exported" in capsys.readouterr().err


def test_history_is_searched_and_none_found_is_told_by_the_exit_code(stored: Stored, capsys: Out) -> None:
    assert stored.run("history", "search", "friday", "--session", stored.session_id, "--json") == 0
    found = told(capsys)
    assert [hit["message"]["entry_id"] for hit in found["hits"]] == ["e3", "e2"]
    assert found["is_complete"] is True
    assert stored.run("history", "search", "friday", "--limit", "1") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert stored.run("history", "search", "coffee") == 1
    assert capsys.readouterr() == ("", "nothing was found\n")
    assert stored.run("history", "search", " ") == 2
    assert stored.run("history", "search", "tea", "--limit", "0") == 2


def test_history_is_exported_as_a_document(stored: Stored, tmp_path: Path, capsys: Out) -> None:
    assert stored.run("history", "export", NUMBER) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"# Session {stored.session_id}".replace("_", "\\_"))
    assert "555-010-2000" not in text
    out = tmp_path / "out.json"
    assert stored.run("history", "export", NUMBER, "--format", "json", "--out", str(out)) == 0
    masked = json.loads(out.read_text(encoding="utf-8"))
    assert masked["messages"][1]["text"] == "I want tea at ***2000."
    assert stored.run("history", "export", NUMBER, "--format", "json", "--show-numbers") == 0
    document = told(capsys)
    assert (document["session"]["number"], document["messages"][1]["text"]) == (NUMBER, SAID[1])
    assert stored.run("history", "export", NUMBER, "--out", str(tmp_path)) == 2
    assert "--out" in capsys.readouterr().err


def test_an_edited_message_keeps_its_original(stored: Stored, capsys: Out) -> None:
    assert stored.run("history", "edit", NUMBER, "e3", "On Monday.") == 0
    assert "the original is kept" in capsys.readouterr().out
    stored.run("history", "show", NUMBER, "--json")
    message = told(capsys)["messages"][3]
    assert (message["text"], message["original"]) == ("On Monday.", SAID[3])
    assert stored.run("history", "edit", NUMBER, "e9", "On Monday.") == 2
    assert "no message 'e9'" in capsys.readouterr().err
    assert stored.run("history", "edit", NUMBER, "e3", " ") == 2


def test_a_branch_begins_with_what_came_before_it(stored: Stored, capsys: Out) -> None:
    assert stored.run("history", "branch", NUMBER, "e2", "--json") == 0
    branched = told(capsys)
    assert branched["parent"] == f"{stored.session_id}/e2"
    stored.run("history", "show", branched["session_id"], "--json", "--show-numbers")
    assert [message["text"] for message in told(capsys)["messages"]] == list(SAID[:3])
    assert stored.run("history", "branch", NUMBER, "e9") == 2


# --- privacy ------------------------------------------------------------------------------------------------


def test_export_gives_all_of_a_caller_and_nothing_of_another(stored: Stored, capsys: Out) -> None:
    assert stored.run("privacy", "export", "500 555 0006") == 0
    text = capsys.readouterr().out
    document = json.loads(text)
    assert document["number"] == NUMBER
    assert document["sessions"][0]["messages"][1]["text"] == SAID[1]
    assert "5550007" not in text


def test_deletion_asks_first_and_leaves_no_word(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, capsys: Out, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert stored.run("privacy", "delete", NUMBER) == 1
    assert "expected --yes" in capsys.readouterr().err
    assert stored.run("privacy", "delete", NUMBER, "--yes") == 0
    assert capsys.readouterr().out == "erased ***0006: 1 session\n"
    assert stored.run("history", "show", NUMBER) == 2
    capsys.readouterr()
    assert stored.run("history", "search", "tea", "--json") == 0
    assert {hit["session_id"] for hit in told(capsys)["hits"]}.isdisjoint({stored.session_id})
    assert stored.run("privacy", "audit", "--json") == 0
    audited = told(capsys)
    assert (audited[0]["by"], audited[0]["what"]) == ("cli", "privacy_delete")
    assert NUMBER[2:] not in json.dumps(audited)
    assert stored.run("privacy", "audit") == 0
    assert "privacy_delete" in capsys.readouterr().out


def test_deletion_reaches_what_an_engine_left_in_its_journal(stored: Stored, tmp_path: Path) -> None:
    save = Save(session(new_session_id()), 0, entries("c"))
    kept = Save(session(new_session_id(), OTHER), 0, entries("c"))

    async def write() -> None:
        journal = Journal(tmp_path / "j", KeyRing({}), 1 << 20)
        await journal.append([save, kept])
        await journal.aclose()

    trio.run(write)
    assert NUMBER.encode() in (tmp_path / "j").read_bytes()
    assert stored.run("privacy", "delete", NUMBER, "--yes") == 0
    left = (tmp_path / "j").read_bytes()
    assert NUMBER.encode() not in left
    assert OTHER.encode() in left


def test_deletion_reaches_what_an_engine_recorded_whether_it_records_now_or_not(
    stored: Stored, tmp_path: Path, capsys: Out
) -> None:
    with stored.config.open("a") as config:
        config.write(f'[recording]\ndirectory = "{tmp_path / "kept"}"\n')

    async def folders() -> list[Path]:
        async with open_vault(load_settings(stored.config)) as vault:
            await vault.open()
            return [tmp_path / "kept" / vault.fingerprint(number) for number in (NUMBER, OTHER)]

    hers, others = trio.run(folders)
    for folder in (hers, others):
        folder.mkdir(parents=True)
        (folder / "CA1.wav").write_bytes(b"RIFF")
    assert stored.run("privacy", "delete", NUMBER, "--yes") == 0
    assert capsys.readouterr().out == "erased ***0006: 1 session, 1 recording\n"
    assert not hers.exists()
    assert (others / "CA1.wav").exists()

    hers.symlink_to(others)
    assert stored.run("privacy", "delete", NUMBER, "--yes") == 1
    assert f"recording.directory '{tmp_path / 'kept'}': what was recorded cannot" in capsys.readouterr().err
    assert (others / "CA1.wav").exists()


def test_a_journal_that_an_engine_has_open_is_not_touched(stored: Stored, tmp_path: Path, capsys: Out) -> None:
    async def delete_beside() -> int:
        journal = Journal(tmp_path / "j", KeyRing({}), 1 << 20)
        await journal.append([Save(session(new_session_id()), 0, entries("c"))])
        code = await trio.to_thread.run_sync(stored.run, "privacy", "delete", NUMBER, "--yes")
        await journal.aclose()
        return code

    assert trio.run(delete_beside) == 1
    assert "ask it with --url" in capsys.readouterr().err


def test_a_terminal_is_asked_for_the_last_digits(stored: Stored, monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("no\n"))
    assert stored.run("privacy", "delete", NUMBER) == 1
    monkeypatch.setattr("sys.stdin", Terminal("0006\n"))
    assert stored.run("privacy", "delete", NUMBER) == 0
    assert "erased" in capsys.readouterr().out


def test_what_is_no_number_is_said(stored: Stored, capsys: Out) -> None:
    assert stored.run("privacy", "export", "somebody") == 2
    assert "is no phone number" in capsys.readouterr().err


# --- store --------------------------------------------------------------------------------------------------


def test_info_tells_where_and_how_much(stored: Stored, tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "j").write_bytes(b"12345")
    assert stored.run("store", "info", "--json") == 0
    found = told(capsys)
    assert (found["kind"], found["sessions"], found["encrypted_with"]) == ("sqlite", 2, [])
    assert found["journal_bytes"] == 5
    assert found["where"] == f"store.path '{tmp_path}/s.db'"
    assert stored.run("store", "info") == 0
    assert "5 bytes wait" in capsys.readouterr().out


def test_a_new_key_seals_what_was_plain_and_the_old_one_can_go(
    stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    assert run("store", "new-key") == 0
    key = capsys.readouterr().out.strip()
    monkeypatch.setenv("ENCRYPTION_KEYS", key)
    assert stored.run("store", "reencrypt") == 0
    assert f"newly under {key.partition(':')[0]}" in capsys.readouterr().out
    assert stored.run("store", "reencrypt", "--json") == 0
    assert told(capsys) | {"sessions": 2, "heads": 0, "messages": 0, "traces": 0, "unreadable": 0} == told_again(
        stored, capsys
    )
    assert stored.run("history", "show", NUMBER) == 0
    monkeypatch.delenv("ENCRYPTION_KEYS")
    assert stored.run("history", "show", NUMBER) != 0


def told_again(stored: Stored, capsys: Out) -> Any:
    stored.run("store", "reencrypt", "--json")
    return told(capsys)


def test_an_older_programs_table_is_taken_over(tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENCRYPTION_KEYS", raising=False)
    with closing(sqlite3.connect(tmp_path / "s.db")) as database:
        database.execute(
            "CREATE TABLE sessions (session_id TEXT PRIMARY KEY, user_id TEXT, last_agent TEXT, last_query TEXT, "
            "context TEXT, sizing_session TEXT, created_at TEXT, updated_at TEXT)"
        )
        said = json.dumps([{"role": "user", "content": "I wear size ten."}])
        row = ("old-1", NUMBER, "sizing", "size?", said, "ten", "2025-01-01T00:00:00", "2025-01-02T00:00:00")
        database.execute(f"INSERT INTO sessions VALUES ({', '.join('?' * len(row))})", row)
        database.commit()
    old = Stored(settings_in(tmp_path), "old-1", "")
    assert old.run("store", "migrate", "--json") == 0
    assert told(capsys) == {"adopted": 1}
    assert old.run("store", "migrate") == 0
    assert "the tables are this program's\n" in capsys.readouterr().out
    for name in ("old-1", NUMBER):
        assert old.run("history", "show", name) == 0
        assert "I wear size ten." in capsys.readouterr().out


def test_purge_says_what_went(stored: Stored, capsys: Out) -> None:
    assert stored.run("store", "purge", "--json") == 0
    assert told(capsys) == {"sessions": 0}


# --- no store -----------------------------------------------------------------------------------------------

EVERY = [
    ("trace", "x"),
    ("validate", "x"),
    ("history", "show", "x"),
    ("history", "search", "x"),
    ("history", "export", "x"),
    ("history", "edit", "x", "y", "z"),
    ("history", "branch", "x", "y"),
    ("privacy", "export", NUMBER),
    ("privacy", "delete", NUMBER, "--yes"),
    ("privacy", "audit"),
    ("store", "info"),
    ("store", "migrate"),
    ("store", "reencrypt"),
    ("store", "purge"),
]


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_of_a_memory_store_every_tool_says_that_there_is_nothing_to_open(
    words: tuple[str, ...], tmp_path: Path, capsys: Out
) -> None:
    config = tmp_path / "offhook.toml"
    config.write_text('[store]\nkind = "memory"\n', encoding="utf-8")
    assert run(*words, "--config", str(config)) == 2
    said = capsys.readouterr().err
    assert said.startswith("offhook: store.kind: 'memory'")
    assert "--url" in said


def test_a_file_that_is_not_there_is_named_and_not_made(tmp_path: Path, capsys: Out) -> None:
    config = tmp_path / "offhook.toml"
    config.write_text(f'[store]\npath = "{tmp_path}/none.db"\n', encoding="utf-8")
    assert run("store", "info", "--config", str(config)) == 2
    assert "store.path: there is no file" in capsys.readouterr().err
    assert not (tmp_path / "none.db").exists()


def test_a_server_that_is_not_there_is_named_by_its_settings(tmp_path: Path, capsys: Out) -> None:
    pytest.importorskip("psycopg")
    url = "postgresql://offhook:hush/hush@127.0.0.1:1/offhook"
    config = tmp_path / "offhook.toml"
    config.write_text(f'[store]\nkind = "postgresql"\nurl = "{url}"\n', encoding="utf-8")
    assert run("store", "info", "--config", str(config)) == 1
    told = capsys.readouterr().err
    assert "store.url 'postgresql://offhook@127.0.0.1:1/offhook'" in told
    assert "(postgresql at 127.0.0.1 port 1 cannot be reached)" in told
    assert "hush" not in told


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_help_is_worth_reading(words: tuple[str, ...], capsys: Out) -> None:
    commands = [word for word in words if word.isalpha() and len(word) > 1][:2]
    from engine.cli import app

    app([*commands, "--help"], result_action="return_value")
    text = " ".join(capsys.readouterr().out.split())
    for odd in ("--no-", "--empty-", "default: ()", 'default: ""', "default: False"):
        assert odd not in text
    assert len(text) > 200
