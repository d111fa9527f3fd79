"""Starts what a load run measures: a server alone on one core, its vendors and the calibration beside the callers."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from engine.settings.vendors import KEY_VARIABLES
from tests.fakes.clouds.__main__ import KEY, TOKEN_S
from tests.fakes.vendors import Behaviour
from tests.load.bare import Delays
from tests.load.processes import drain, free_port, ready_port, running, wait_ready

TOKEN = "load-test-token"
SETTLE_S = 1.0
STORES = ("memory", "sqlite", "sealed")
"""Where the sessions of callers are kept; ``sealed`` is SQLite with a key."""
STORE_KEY = f"load:{base64.b64encode(bytes(32)).decode()}"
FOLDER = Path(__file__).parent
FINISHED_TURN_S = 0.4
"""``limits.finished_turn_s`` in offhook.toml."""
FIRST_WORDS = 3
"""Pieces of a model's answer until its first sentence is known to be one."""
_VENDORS, _BARE = Behaviour(), Delays()
_ANSWER_S = _VENDORS.first_token_s + _VENDORS.first_audio_s


class Vendors(StrEnum):
    CHEAP = "cheap"
    """tests.fakes.vendors, over wires of our own."""
    WIRES = "wires"
    """tests.fakes.clouds: Deepgram, OpenAI and ElevenLabs."""


FLOOR_S = {
    Vendors.CHEAP: max(FINISHED_TURN_S, _VENDORS.endpoint_s + _VENDORS.final_s) + _ANSWER_S,
    Vendors.WIRES: _VENDORS.endpoint_s + _VENDORS.final_s + FIRST_WORDS * TOKEN_S + _ANSWER_S,
}
"""What of each response the vendors take, and the silence that ends a turn."""
BARE_FLOOR_S = {Vendors.CHEAP: _BARE.endpoint_s + _BARE.answer_s, Vendors.WIRES: FLOOR_S[Vendors.WIRES]}


@dataclass(frozen=True)
class Target:
    """What is measured."""

    url: str
    token: str
    pid: int | None
    vendors_url: str = ""
    floor_s: float | None = None
    """What of each response the vendors take, and the silence that ends a turn."""
    core_s: list[float] | None = None
    """Filled during the run with the time of the fixed piece of Python."""


@dataclass(frozen=True)
class What:
    """To be started."""

    calls: int
    bare: bool = False
    vendors: Vendors = Vendors.CHEAP
    store: str = ""
    """One of ``STORES``; empty: nothing outlives a call."""
    python_options: Sequence[str] = ()


@asynccontextmanager
async def spawned(what: What) -> AsyncIterator[Target]:
    """The server, the vendors and the calibration, each in a process of its own; the server alone on its core."""
    everything = os.sched_getaffinity(0)
    cores = sorted(everything)
    server_core, others = cores[0], set(cores[1:]) or everything
    os.sched_setaffinity(0, others)
    core_s: list[float] = []
    async with AsyncExitStack() as stack:
        stack.callback(os.sched_setaffinity, 0, everything)
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        calibration = await stack.enter_async_context(running("-m", "tests.load.calibrate", "--cpu", str(server_core)))
        nursery.start_soon(_collect, calibration, core_s)
        vendors_url = ""
        if what.vendors is Vendors.WIRES or not what.bare:
            module = "tests.fakes.clouds" if what.vendors is Vendors.WIRES else "tests.fakes.vendors"
            vendors = await stack.enter_async_context(running("-m", module))
            vendors_url = f"http://127.0.0.1:{await ready_port(vendors)}"
        if what.bare:
            program = ["-m", "tests.load.bare"]
            if what.vendors is Vendors.WIRES:
                program = ["-m", "tests.load.bare_vendors", "--vendors", vendors_url]
            process = await stack.enter_async_context(running(*what.python_options, *program, cpu=server_core))
            url = f"http://127.0.0.1:{await ready_port(process)}"
            target = Target(url, "", process.pid, vendors_url, BARE_FLOOR_S[what.vendors], core_s)
        else:
            port = free_port()
            folder = stack.enter_context(TemporaryDirectory())
            config = Path(folder) / "offhook.toml"
            config.write_text(_configured(what, vendors_url, folder))
            serve = ["-c", "from engine.cli import main; main()", "serve", "--config", str(config), "--port", str(port)]
            process = await stack.enter_async_context(
                running(*what.python_options, *serve, env=_environment(what), cpu=server_core)
            )
            nursery.start_soon(drain, process)
            url = f"http://127.0.0.1:{port}"
            target = Target(url, TOKEN, process.pid, vendors_url, FLOOR_S[what.vendors], core_s)
            await wait_ready(process, target.url)
        await trio.sleep(SETTLE_S)
        core_s.clear()
        yield target


def _environment(what: What) -> dict[str, str]:
    keys = dict.fromkeys(filter(None, KEY_VARIABLES.values()), KEY)
    return {"TWILIO_AUTH_TOKEN": TOKEN, "ENCRYPTION_KEYS": STORE_KEY if what.store == "sealed" else "", **keys}


def _configured(what: What, vendors_url: str, folder: str) -> str:
    words = {
        "MAX_CALLS": str(what.calls + 10),
        "VENDORS_URL": vendors_url,
        "VENDORS_HOST": vendors_url.removeprefix("http://"),
        "SCOPE": "caller" if what.store else "call",
        "STORE_KIND": "sqlite" if what.store in ("sqlite", "sealed") else "memory",
        "FOLDER": folder,
    }
    text = (FOLDER / ("wires.toml" if what.vendors is Vendors.WIRES else "offhook.toml")).read_text()
    for word, value in words.items():
        text = text.replace(word, value)
    return text


async def _collect(calibration: trio.Process, core_s: list[float]) -> None:
    assert calibration.stdout is not None
    text = b""
    with suppress(trio.ClosedResourceError):
        async for data in calibration.stdout:
            *lines, text = (text + data).split(b"\n")
            core_s += [float(line) for line in lines]
