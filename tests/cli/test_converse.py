"""``offhook converse`` as a command, and the tools that ask a running engine."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trio

from engine.cli.engines import as_toml, own_engine
from engine.converse.script import load, parse
from engine.settings import load_settings
from tests.cli.stored import NUMBER, run
from tests.converse.agents import fast_voice
from tests.converse.fake_engine import KEY, fake_engine
from tests.system.test_process import CLEAN, OFFHOOK

Out = pytest.CaptureFixture[str]
HOURS = """
[agents.desk]
script = "appointment_desk"
[[turns]]
say = "What are your opening hours?"
expect = "nine in the morning"
"""
TEA = """
[[turns]]
say = "I like tea."
expect = "tea"
[[turns]]
say = "What do I like?"
expect = "I like tea"
"""


def told(out: Out) -> Any:
    return json.loads(out.readouterr().out)


async def run_beside(*words: str) -> int:
    """In a thread: the command has an event loop of its own, and the engine's is this one."""
    return await trio.to_thread.run_sync(run, *words)


def written(folder: Path, text: str) -> str:
    path = folder / "talk.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_alone_it_lists_what_ships(capsys: Out) -> None:
    assert run("converse") == 0
    out = capsys.readouterr().out
    for words in ("five_turns", "5 turns", "long_conversation", "offhook converse all"):
        assert words in out
    assert run("converse", "--json") == 0
    assert {"name": "five_turns", "turns": 5}.items() <= told(capsys)[0].items()


def test_a_script_that_ships_is_printed_to_copy_from(tmp_path: Path, capsys: Out) -> None:
    assert run("converse", "officer", "--print") == 0
    text = capsys.readouterr().out
    assert parse(text, "officer.toml") == load("officer")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nothing",), "script 'nothing': expected one of five_turns"),
        (("five_turns", "--from", "somebody"), "--from: expected a phone number"),
        (("one_session_id", "--url", "http://127.0.0.1:1"), "turns[4].restart: only an engine that was started"),
    ],
)
def test_what_cannot_be_held_is_said_before_anything_starts(words: tuple[str, ...], said: str, capsys: Out) -> None:
    assert run("converse", *words) == 2
    assert said in capsys.readouterr().err


async def test_a_running_engine_is_talked_to_with_its_key(
    tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_engine(key=KEY) as engine:
        words = ("converse", written(tmp_path, TEA), "--url", f"{engine.url}/", "--json")
        monkeypatch.delenv("API_KEY", raising=False)
        assert await run_beside(*words) == 1
        assert "answered HTTP 401" in capsys.readouterr().out
        monkeypatch.setenv("API_KEY", KEY)
        assert await run_beside(*words) == 0
    result = told(capsys)
    assert result["ok"] is True
    assert result["conversations"][0]["turns"][0]["answer"] == "You said: I like tea."


async def test_what_a_running_engine_cannot_hold_is_told_with_what_it_lacks(tmp_path: Path, capsys: Out) -> None:
    async with fake_engine() as engine:
        words = ("officer", "one_session_id", written(tmp_path, TEA), "--url", engine.url, "--json")
        assert await run_beside("converse", *words) == 2
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert [report["ok"] for report in result["conversations"]] == [True]
    assert not result["ok"]
    assert list(result["not_held"]) == ["officer", "one_session_id"]
    assert '\n\n[agents.permits]\nscope = "call"\nscript = "officer"\n\n' in err
    assert "only an engine that was started for the conversation can be started again" in err


async def test_of_all_conversations_a_running_engine_holds_those_that_it_can(tmp_path: Path, capsys: Out) -> None:
    async with fake_engine() as engine:
        words = ("converse", "all", written(tmp_path, TEA), "--url", engine.url, "--json")
        assert await run_beside(*words) == 1, "the fake one has a desk, but not this one"
    result = told(capsys)
    assert [report["name"] for report in result["conversations"]] == ["five_turns", "long_conversation", "talk"]
    assert result["conversations"][-1]["ok"]
    assert list(result["not_held"]) == ["officer", "one_session_id", "product_classification"]


async def test_a_conversation_that_fails_is_shown_with_the_reason(tmp_path: Path, capsys: Out) -> None:
    async with fake_engine("starts anew every turn") as engine:
        assert await run_beside("converse", written(tmp_path, TEA), "--url", engine.url) == 1
    out = capsys.readouterr().out
    assert "'I like tea' is not in" in out
    assert "the session id did not stay the same" in out
    assert "talk: 2 of 2 turns, 2 sessions" in out


async def test_trace_validate_and_privacy_ask_a_running_engine(tmp_path: Path, capsys: Out) -> None:
    script = parse(
        'over = "sms"\n[agents.desk]\nfactory = "tests.converse.agents:make_agent"\n'
        'options.script = "appointment_desk"\n[[turns]]\nsay = "Hello."\n',
        "x.toml",
    )
    async with own_engine(script, open_voice=fast_voice, settings={"store": {"kind": "memory"}}) as engine:
        path = tmp_path / "sms.toml"
        path.write_text('over = "sms"\n[[turns]]\nsay = "Are you open, 07700 900123?"\n', encoding="utf-8")
        assert await run_beside("converse", str(path), "--url", engine.url, "--keep") == 0
        assert "kept: under the number" in capsys.readouterr().out
        assert await run_beside("converse", str(path), "--url", engine.url) == 2
        assert "has a session of this number already" in capsys.readouterr().err
        assert await run_beside("trace", NUMBER, "--url", engine.url) == 0
        out = capsys.readouterr().out
        assert "model_asked" in out
        assert "Are you open, ***0123?" in out
        assert await run_beside("validate", NUMBER, "--url", engine.url, "--json") == 0
        valid = told(capsys)
        assert (valid["is_valid"], valid["turns"]) == (True, 1)
        assert await run_beside("validate", valid["session_id"], "--url", engine.url) == 0
        assert await run_beside("validate", "s_none", "--url", engine.url) == 2
        capsys.readouterr()
        assert await run_beside("privacy", "export", NUMBER, "--url", engine.url) == 0
        assert told(capsys)["number"] == NUMBER
        assert await run_beside("privacy", "delete", NUMBER, "--yes", "--url", engine.url) == 0
        assert await run_beside("trace", NUMBER, "--url", engine.url) == 2
        assert "nothing of ***0006" in capsys.readouterr().err


def test_an_engine_of_its_own_is_gone_with_its_store_unless_it_is_to_be_kept(tmp_path: Path) -> None:
    agent = '[agents.desk]\nfactory = "tests.converse.agents:make_agent"\noptions.script = "appointment_desk"\n'
    script = parse(agent + TEA, "x")

    async def start_and_stop(keep: bool) -> Path:
        async with own_engine(script, keep=keep, open_voice=fast_voice) as engine:
            return Path(engine.kept.partition(" (")[0])

    assert not trio.run(start_and_stop, False).exists()
    config = trio.run(start_and_stop, True)
    assert load_settings(config, {}).store.path == str(config.parent / "offhook.db")
    assert config.with_name("offhook.db").is_file()
    shutil.rmtree(config.parent)


def test_settings_are_written_as_toml_reads_them() -> None:
    import tomllib

    table = {"text": 'a "quoted" \\ word, ä', "n": 1, "f": 0.5, "b": True, "list": ["x"], "in": {"a b": {"c": 2}}}
    assert tomllib.loads(as_toml({"t": table, 'u."x y"': {"k": "v"}})) == {"t": table, "u": {"x y": {"k": "v"}}}


@pytest.mark.heavy
def test_a_conversation_is_held_aloud_by_the_embedded_speech(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the embedded speech is an extra: pip install 'offhook[local]'")
    done = subprocess.run(
        [*OFFHOOK, "converse", written(tmp_path, HOURS), "--over", "voice", "--json"],
        env=CLEAN,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    result = json.loads(done.stdout)
    assert done.returncode == 0, result
    [turn] = result["conversations"][0]["turns"]
    assert "nine in the morning" in turn["heard"].lower()
    assert "riverside practice" in turn["greeting"].lower()
