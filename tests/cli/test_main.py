"""The command line: help, exit codes, and one line for what went wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import trio

from engine.cli import BAD_SETTINGS, INTERRUPTED, _code_of, app
from engine.cli.serve import serve
from engine.errors import SettingsError
from engine.phone.errors import CallFailed


def help_of(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    app([*command, "--help"], result_action="return_value")
    return " ".join(capsys.readouterr().out.split())


def test_help_says_what_every_command_does(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys)
    for sentence in ("Place a call at", "Answer one spoken", "Check settings, port", "Run the engine until"):
        assert sentence in text


@pytest.mark.parametrize("command", ["call", "demo", "doctor", "serve"])
def test_help_offers_no_option_that_makes_no_sense(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, command)
    for odd in ("--no-", "--empty-", "default: ()", 'default: ""', "default: False"):
        assert odd not in text


def test_ctrl_c_anywhere_in_a_nursery_is_130_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    async def interrupted() -> None:
        async with trio.open_nursery() as outer, trio.open_nursery() as inner:
            outer.start_soon(trio.sleep_forever)
            inner.start_soon(trio.sleep_forever)
            raise KeyboardInterrupt

    with pytest.raises(BaseExceptionGroup) as caught:
        trio.run(interrupted)
    assert _code_of(caught.value) == INTERRUPTED
    assert _code_of(KeyboardInterrupt()) == INTERRUPTED
    assert capsys.readouterr().err == ""


STUCK = """
import threading
from engine import cli
def command(**_):
    threading.Thread(target=threading.Event().wait).start()
    print("so far")
    raise KeyboardInterrupt
cli.app = command
cli.main()
"""


def test_after_ctrl_c_no_thread_is_waited_for() -> None:
    """One may be in a library that loads a model: the process taken down around it would abort."""
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (INTERRUPTED, "so far\n", "")


def test_an_error_of_ours_is_a_line_and_anything_else_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert _code_of(ExceptionGroup("", [SettingsError("server.port: expected")])) == BAD_SETTINGS
    assert _code_of(CallFailed("no answer")) == 1
    assert capsys.readouterr().err == "offhook: server.port: expected\noffhook: no answer\n"
    with pytest.raises(ExceptionGroup):
        _code_of(ExceptionGroup("", [SettingsError("x"), ValueError("a bug")]))


def test_a_port_by_flag_is_checked_as_in_the_settings(tmp_path: Path) -> None:
    config = tmp_path / "offhook.toml"
    config.write_text("", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"server\.port: expected at most 65535, got 80000"):
        serve(config=config, port=80000)
