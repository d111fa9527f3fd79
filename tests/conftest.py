"""What every test begins with."""

from __future__ import annotations

import gc
import os
import ssl
import sys
from collections.abc import Iterator
from functools import cache
from itertools import islice

import certifi
import hypothesis
import pytest
import structlog
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from adapters.providers.vonage import rest as vonage_rest

pytest_plugins = ["tests.fakes.servers"]

# Every worker, and every process that a test starts, would compile the whole tree again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# The same examples in each run: what fails once fails again. --hypothesis-profile=default looks for others.
hypothesis.settings.register_profile("suite", derandomize=True, database=None, deadline=None, max_examples=50)
hypothesis.settings.load_profile("suite")


@pytest.fixture(autouse=True)
def plain_log() -> Iterator[None]:
    """structlog is configured for the whole process: no test inherits what another has set."""
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session", autouse=True)
def one_tls_context() -> Iterator[None]:
    """Engines, phones, agents and clients each make a context of their own, which costs 30 ms; here they share one."""
    make = ssl.create_default_context
    contexts = {"": make(), certifi.where(): make(cafile=certifi.where())}

    def shared(*args: object, **options: object) -> ssl.SSLContext:
        wanted = options.get("cafile", "") if options.keys() <= {"cafile"} and not args else None
        if wanted in contexts:
            return contexts[str(wanted)]
        return make(*args, **options)  # type: ignore[arg-type]  # passed on as they come

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", shared)
        yield


@pytest.fixture(scope="session", autouse=True)
def keys_read_once() -> Iterator[None]:
    """Checking an RSA key takes 40 ms, and every engine with Vonage's reads one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vonage_rest, "load_pem_private_key", cache(load_pem_private_key))
        yield


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: many tests wait for a process, a server or a second to pass."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest first, so that with several workers none of them is left alone with it at the end. Each worker begins
    with an equal piece of all items, so each piece begins with some of them."""
    heavy = [item for item in items if item.get_closest_marker("heavy")]
    others = iter([item for item in items if not item.get_closest_marker("heavy")])
    workers = int(getattr(config, "workerinput", {}).get("workercount", 1))
    left = len(items)
    items.clear()
    for worker in range(workers):
        size = left // (workers - worker)
        left -= size
        begins = heavy[worker::workers]
        items += [*begins, *islice(others, max(0, size - len(begins)))]
    items += others


def pytest_collection_finish() -> None:
    """All that was imported and collected stays to the end; searching it for garbage took a fifth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
