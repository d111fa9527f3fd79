"""Processes that a load run starts and watches: CPU time, descriptors and memory out of /proc (Linux)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import trio

ROOT = Path(__file__).resolve().parents[2]
READY_S = 60.0
STOP_S = 10.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class SpawnFailed(Exception):
    """A process did not get ready."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a process and its children, now."""

    cpu_s: float
    waited_s: float
    """For a core, ready to run: other processes were on it."""
    descriptors: int
    rss_bytes: int


def usage_of(pid: int) -> Usage:
    """Raises FileNotFoundError when there is no such process."""
    cpu_s, waited_s, descriptors, rss_bytes = 0.0, 0.0, 0, 0
    for member in _family(pid):
        fields = Path(f"/proc/{member}/stat").read_text().rpartition(") ")[2].split()
        cpu_s += (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
        waited_s += int(Path(f"/proc/{member}/schedstat").read_text().split()[1]) / 1e9
        descriptors += len(os.listdir(f"/proc/{member}/fd"))
        rss_bytes += int(fields[21]) * _PAGE_BYTES
    return Usage(cpu_s, waited_s, descriptors, rss_bytes)


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(member for child in children for member in _family(int(child)))]


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def running(
    *arguments: str, env: Mapping[str, str] | None = None, cpu: int | None = None
) -> AsyncIterator[trio.Process]:
    """``python ARGUMENTS`` in the project's root, its output readable, until the block is left: then SIGTERM, and
    SIGKILL if that is not enough. ``cpu`` pins it to a core."""
    process = await trio.lowlevel.open_process(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
    )
    if cpu is not None:
        os.sched_setaffinity(process.pid, {cpu})
    try:
        yield process
    finally:
        process.terminate()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + STOP_S) as stopping:
            await process.wait()
        if stopping.cancelled_caught:
            process.kill()
        assert process.stdout is not None
        await process.stdout.aclose()


async def ready_port(process: trio.Process) -> int:
    """The port of a process that prints ``ready PORT``. Raises SpawnFailed."""
    assert process.stdout is not None
    text = b""
    with trio.move_on_after(READY_S):
        async for data in process.stdout:
            text += data
            if text.startswith(b"ready ") and b"\n" in text:
                return int(text.split()[1])
    raise SpawnFailed(f"no sign of readiness, but {text[-500:]!r}")


async def wait_ready(process: trio.Process, url: str) -> None:
    """Until ``/readyz`` says so. Raises SpawnFailed."""
    async with httpx.AsyncClient(trust_env=False) as client:
        with trio.move_on_after(READY_S):
            while process.poll() is None:
                try:
                    if (await client.get(f"{url}/readyz")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await trio.sleep(0.1)
    raise SpawnFailed(f"the engine at {url} did not get ready (exit code {process.poll()})")


async def drain(process: trio.Process) -> None:
    """Read a process's output and forget it: a full pipe would stop the process."""
    assert process.stdout is not None
    with suppress(trio.ClosedResourceError):
        async for _ in process.stdout:
            pass
