"""Processes that have imported everything when they begin: each is a copy of one that did so, and starts in
milliseconds where Python needs a second and more.

Most of what is killed, stopped and started again in tests does not guard how Python begins. Where a start is judged it
is one from scratch.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import trio

IMPORTED = (
    "engine.cli.serve",
    "adapters.stores.redis",
    "adapters.stores.sql",
    "alembic.command",
    "psycopg",
    "tests.fakes.echo_agent",
    "tests.fakes.forks",
    "tests.adapters.stores.test_sql_crash",
)
"""By the process that the others are copies of. There is one for each worker of pytest, so these are everybody's."""

GONE_S = 10.0
"""After a SIGKILL, on a machine that is busy."""


def forks() -> ForkServerContext:
    """For a ``Process`` whose target is in one of the modules above, or is quick to import."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    return context


class Offhook:
    """``offhook`` as a process in this folder, with this environment and no other. What it writes to stderr goes to the
    end of ``log``, what it prints to the end of ``out``, or there, too. ``from_scratch``: as its users start it, with
    all that Python does first. Whoever starts it ends it."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        folder: Path,
        environ: Mapping[str, str],
        log: Path,
        out: Path | None = None,
        from_scratch: bool = False,
    ) -> None:
        log.touch()
        self._process: subprocess.Popen[bytes] | BaseProcess
        if from_scratch:
            with log.open("ab") as errors, (out or log).open("ab") as prints:
                command = [sys.executable, "-m", "engine", *arguments]
                self._process = subprocess.Popen(command, cwd=folder, env=environ, stdout=prints, stderr=errors)
        else:
            words = (list(arguments), str(folder), dict(environ), str(log), str(out or log))
            self._process = forks().Process(target=_offhook, args=words, daemon=True)
            self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._process.poll() if isinstance(self._process, subprocess.Popen) else self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, if it runs. When this returns it is gone."""
        self.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + GONE_S
        while self.returncode is None:
            assert time.monotonic() < deadline, "it outlives SIGKILL"
            time.sleep(0.001)

    async def wait(self) -> int:
        """Its exit code."""
        while (code := self.returncode) is None:  # noqa: ASYNC110 - asked of another process
            await trio.sleep(0.01)
        return code

    def computed_s(self) -> float:
        """What it has computed by now: what that would have taken on a machine of its own."""
        fields = Path(f"/proc/{self.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _offhook(arguments: list[str], folder: str, environ: dict[str, str], log: str, out: str) -> None:
    from engine.cli import main

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    with open(log, "ab") as errors, open(out, "ab") as prints:
        os.dup2(errors.fileno(), 2)
        os.dup2(prints.fileno(), 1)
    sys.argv = ["offhook", *arguments]
    # It sees that pytest was imported, by the modules above.
    warnings.filterwarnings("ignore", "Cyclopts application invoked without tokens", UserWarning)
    main()
