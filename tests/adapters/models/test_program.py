"""A program as a brain: what it is shown, what is heard of it, and that nothing of it stays.

Real processes, real time.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
import structlog
import trio

from adapters.models.program import ProgramConfig, ProgramModel, ProgramModelVendor
from engine.errors import ModelFailed, SettingsError, Why
from engine.events import Context, Message, Role
from tests.contract.model_benches import SESSION, Book, asked, text_of

SHELL = ("/bin/sh", "-c")
CONFIG = ProgramConfig(command=("/bin/cat",), timeout_s=5.0)


@asynccontextmanager
async def opened(config: ProgramConfig, **environ: str) -> AsyncIterator[ProgramModel]:
    vendor = ProgramModelVendor(config, environ={"PATH": os.environ["PATH"], **environ})
    async with vendor.open(SESSION, Book()) as model:
        yield model
    assert model.is_closed


async def said(config: ProgramConfig, context: Context, **environ: str) -> str:
    async with opened(config, **environ) as model, model.open_reply(context) as parts:
        return text_of([part async for part in parts])


def script(text: str, **more: object) -> ProgramConfig:
    return replace(CONFIG, command=(*SHELL, text), **more)  # type: ignore[arg-type]  # fields by name


def lives(pid: int) -> bool:
    """Neither gone nor only waiting for somebody to notice that it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


async def gone(pid: int) -> bool:
    with trio.move_on_after(2):
        while lives(pid):  # noqa: ASYNC110 - seen from outside
            await trio.sleep(0.01)
    return not lives(pid)


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


async def pid_in(path: Path) -> int:
    with trio.fail_after(5):
        while not read(path).strip():  # noqa: ASYNC110 - seen from outside
            await trio.sleep(0.01)
    return int(read(path))


# --- what it is shown ---------------------------------------------------------------------------------------


@pytest.mark.proves("ours", adapter="program")
async def test_it_reads_the_conversation_as_text() -> None:
    heard = await said(CONFIG, asked("hello", "what now?", instructions="You are brief."))
    assert heard == "You are brief.\n\nCaller: hello\nAgent: I see.\nCaller: what now?\nAgent: "


async def test_it_reads_the_conversation_as_json() -> None:
    context = Context(
        (Message(Role.SYSTEM, "Known: Ann"), *asked("hello \ud83d").messages), session_id="s1", instructions="Be brief."
    )
    shown = orjson.loads(await said(replace(CONFIG, stdin="json"), context))
    assert shown["instructions"] == "Be brief.\n\nKnown: Ann"
    assert shown["messages"] == [{"role": "user", "content": "hello ?", "interrupted": False}]
    assert shown["session_id"] == "s1"


async def test_arguments_are_filled_in_once_and_are_never_options() -> None:
    command = ("/usr/bin/printf", "%s|", "{text}", "<{text}>", "{session_id}", "{unknown}", "{history}")
    config = replace(CONFIG, command=command, stdin="none")
    heard = (await said(config, asked("--help {json} \0$(id)"))).split("|")
    assert heard[:4] == [" --help {json} $(id)", "<--help {json} $(id)>", "s1", "{unknown}"]
    assert heard[4].startswith("Caller: --help")


async def test_it_goes_on_from_where_an_answer_broke_off() -> None:
    config = script("cat >/dev/null; echo 'We open at nine. And we close at five.'")
    assert await said(config, replace(asked("hours"), said="We open at nine. ")) == "And we close at five.\n"


async def test_it_sees_nothing_of_our_environment_but_what_is_named() -> None:
    config = script("cat >/dev/null; env", environment=("WANTED",))
    heard = await said(config, asked("x"), OPENAI_API_KEY="secret", WANTED="1", HOME="/h")
    names = {line.partition("=")[0] for line in heard.splitlines()} - {"PWD", "SHLVL", "_"}
    assert names == {"PATH", "HOME", "WANTED"}


async def test_it_need_not_read_what_it_is_shown() -> None:
    assert await said(script("exec 0<&-; echo hi"), asked("x" * 1_000_000)) == "hi\n"


# --- what is heard of it ------------------------------------------------------------------------------------


async def test_what_it_writes_is_heard_as_it_comes() -> None:
    config = script("echo one; cat >/dev/null; sleep 30", timeout_s=30.0)
    began = time.monotonic()
    async with opened(config) as model, model.open_reply(asked("x")) as parts:
        assert await parts.receive() == "one\n"
    assert time.monotonic() - began < 20


async def test_half_a_character_waits_for_its_other_half() -> None:
    config = script(r"cat >/dev/null; printf 'Gr\303'; sleep 0.1; printf '\274\303\237e \303'")
    assert await said(config, asked("x")) == "Grüße \ufffd"


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (script("echo a; exit 3"), Why.FAILED),
        (script("kill -9 $$"), Why.FAILED),
        (replace(CONFIG, command=("/no/such/program",)), Why.BAD_REQUEST),
        (replace(CONFIG, command=("/",)), Why.BAD_REQUEST),
        (replace(CONFIG, directory="/no/such/place"), Why.BAD_REQUEST),
        (script("yes"), Why.NONSENSE),
        (replace(CONFIG, command=("/bin/echo", "{text}")), Why.TOO_LONG),
    ],
)
async def test_what_goes_wrong_has_its_reason(config: ProgramConfig, why: Why) -> None:
    with pytest.raises(ModelFailed) as failure:
        await said(config, asked("x" * 200_000))
    assert failure.value.why is why
    assert failure.value.vendor == "program"


async def test_its_complaints_are_logged_within_bounds_and_not_heard() -> None:
    config = script("cat >/dev/null; yes sorry | head -c 50000 >&2; echo end >&2; echo fine")
    with structlog.testing.capture_logs() as logs:
        assert await said(config, asked("x")) == "fine\n"
    (line,) = [line for line in logs if line["event"] == "program_stderr"]
    assert line["log_level"] == "debug"
    assert line["bytes"] == 50_004
    assert line["end"].endswith("end\n")
    assert len(line["end"]) <= 2048


@pytest.mark.parametrize("config", [replace(CONFIG, command=()), replace(CONFIG, stdin="xml")])
def test_settings_that_cannot_work_are_refused(config: ProgramConfig) -> None:
    with pytest.raises(SettingsError, match=r"vendors\.program"):
        ProgramModelVendor(config)


# --- that nothing stays -------------------------------------------------------------------------------------


async def test_after_its_time_the_whole_group_is_gone_and_the_reason_is_the_time(tmp_path: Path) -> None:
    """Though it does not want to: it and its child ignore being asked."""
    child, itself = tmp_path / "child", tmp_path / "itself"
    text = f"trap '' TERM; echo $$ > {itself}; sh -c 'trap \"\" TERM; echo $$ > {child}; sleep 60' & echo hm; sleep 60"
    began = time.monotonic()
    with pytest.raises(ModelFailed) as failure:
        await said(script(text, timeout_s=0.5, close_s=0.6), asked("x"))
    assert failure.value.why is Why.TIMEOUT
    assert 0.5 < time.monotonic() - began < 30
    assert await gone(await pid_in(child))
    assert await gone(await pid_in(itself))


async def test_after_its_time_it_is_asked_first(tmp_path: Path) -> None:
    note = tmp_path / "note"
    text = f"trap 'echo bye > {note}; exit' TERM; while :; do sleep 0.05; done"
    with pytest.raises(ModelFailed) as failure:
        await said(script(text, timeout_s=0.3, close_s=2.0), asked("x"))
    assert failure.value.why is Why.TIMEOUT
    assert read(note) == "bye\n"


@pytest.mark.parametrize("is_cancelled", [False, True])
@pytest.mark.proves("barge-in", adapter="program")
async def test_left_early_it_is_killed_at_once(tmp_path: Path, is_cancelled: bool) -> None:
    child, note = tmp_path / "child", tmp_path / "note"
    text = f"trap 'echo bye > {note}' TERM; sh -c 'echo $$ > {child}; sleep 60' & echo hm; wait; wait"
    async with opened(script(text, timeout_s=30.0)) as model:
        with trio.CancelScope() as scope:
            async with model.open_reply(asked("x")) as parts:
                await parts.receive()
                pid = await pid_in(child)
                if is_cancelled:
                    scope.cancel()
                began = time.monotonic()
        assert time.monotonic() - began < 20
    assert await gone(pid)
    assert not read(note)


async def test_what_it_leaves_behind_does_not_hold_the_answer_open(tmp_path: Path) -> None:
    child = tmp_path / "child"
    config = script(f"sh -c 'echo $$ > {child}; sleep 60' & cat >/dev/null; echo done")
    assert await said(config, asked("x")) == "done\n"
    assert await gone(await pid_in(child))


@pytest.mark.proves("cancelled", adapter="program")
async def test_cancelled_at_any_instant_no_process_stays(tmp_path: Path) -> None:
    note = tmp_path / "pids"
    config = script(f"echo $$ >> {note}; cat; sleep 0.02; echo over")
    async with opened(config) as model:
        for number in range(40):
            with trio.move_on_after(number * 0.002):
                async with model.open_reply(asked("x")) as parts:
                    async for _ in parts:
                        pass
    pids = [int(line) for line in read(note).split()]
    assert pids
    for pid in pids:
        assert await gone(pid)
