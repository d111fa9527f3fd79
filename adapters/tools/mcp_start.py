"""Whether the program of an MCP server starts and answers, for ``offhook doctor``: without the ``mcp`` package, so that
its exit code can be told."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

import orjson
import trio

from adapters.tools.mcp import LastWords

START_S: Final = 10.0
END_S: Final = 1.0
_PASSED_ON: Final = ("HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER")
"""Variables that the package hands to a program, too."""
_INITIALIZE: Final = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "offhook doctor", "version": "1"},
    },
}


async def why_not_started(command: Sequence[str], env: Mapping[str, str], *, within_s: float = START_S) -> str:
    """Empty if the program answers; else what became of it: its exit code and its last line of standard error. It is
    killed in any case. Never raises but Cancelled."""
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    pipe = subprocess.PIPE
    try:
        process = await trio.lowlevel.open_process(
            list(command), stdin=pipe, stdout=pipe, stderr=pipe, env={**passed_on, **env}
        )
    except OSError as exc:
        return f"cannot be run ({exc.strerror})"
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None  # noqa: S101, PT018 - asked for
    words = LastWords()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(words.read, process.stderr)
            with trio.move_on_after(within_s) as waiting:
                with suppress(trio.BrokenResourceError):
                    await process.stdin.send_all(orjson.dumps(_INITIALIZE) + b"\n")
                    if await process.stdout.receive_some():
                        waiting.cancel()
                        nursery.cancel_scope.cancel()
                        return ""
            with trio.move_on_after(END_S):
                await process.wait()
            nursery.cancel_scope.deadline = trio.current_time() + END_S
    finally:
        if process.returncode is None:
            process.kill()
        with trio.move_on_after(END_S, shield=True):
            await process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                await stream.aclose()
    if waiting.cancelled_caught:
        return f"has not answered within {within_s:g} s" + (f"; it says: {words.line}" if words.line else "")
    return f"ended at its start with exit code {process.returncode}" + (f": {words.line}" if words.line else "")
