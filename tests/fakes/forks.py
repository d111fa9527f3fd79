"""Processes that have imported everything when they begin: each is a copy of one that did so, and starts in
milliseconds where Python needs a second and more.

What is killed, stopped and started again in tests does not guard the imports; where these are what is judged, a test
starts ``python -m engine`` itself.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

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


def forks() -> ForkServerContext:
    """For a ``Process`` whose target is in one of the modules above, or is quick to import."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    return context


def start_offhook(
    arguments: Sequence[str], *, folder: Path, environ: Mapping[str, str], log: Path
) -> ForkServerProcess:
    """``offhook`` in this folder, with this environment and no other; what it prints goes to the end of ``log``. The
    caller ends it."""
    log.touch()
    child = forks().Process(target=_offhook, args=(list(arguments), str(folder), dict(environ), str(log)), daemon=True)
    child.start()
    return child


def _offhook(arguments: list[str], folder: str, environ: dict[str, str], log: str) -> None:
    from engine.cli import main

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    with open(log, "ab") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    sys.argv = ["offhook", *arguments]
    main()
