"""A real Prometheus scrapes an engine under load, with the shipped configuration; then every panel shows something."""

from __future__ import annotations

import base64
import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
import trio

from engine.settings import SessionSettings, Settings, StoreSettings, WebhookSettings
from tests.adapters.providers.rest_api import rest_api
from tests.fakes.plain_speech import speak
from tests.fakes.vendors import Behaviour
from tests.grafana.dashboards import GRAFANA, filled_in, load_all, queries
from tests.system.rig import Rig, running_engine

LINE = "+15005550001"
SCRAPE_S = 2
READY_S = 30.0
DATA_S = 60.0
"""Queries over a rate need two scrapes, and rules one evaluation more."""
HAPPENED = (
    'offhook_store_operation_duration_seconds_count{backend="sqlite", op="write"}',
    "offhook_modality_switches_total",
    "offhook_context_bridges_total",
    "offhook_context_truncations_total",
    "offhook_summaries_total",
    'offhook_texts_total{outcome="answered"}',
    'offhook_webhooks_total{status="delivered"}',
)
"""What the dashboards are there for; a counter that is never raised shows a line all the same."""
BRISK = Behaviour(onset_s=0.1, endpoint_s=0.1, final_s=0.0, first_token_s=0.0, first_audio_s=0.0, chars_per_s=60.0)


# --- the engine under load ----------------------------------------------------------------------------------


@pytest.fixture
async def engine_under_load(tmp_path: Path) -> AsyncIterator[str]:
    """The base URL of a real engine with SQLite, with calls and texts of one number coming and going meanwhile, whose
    events are sent out."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    async with (
        rest_api(lambda _: (200, b"")) as receiver,
        running_engine(behaviour=BRISK, finished_turn_s=0.1, configure=_memory_of(tmp_path, receiver.base)) as rig,
        trio.open_nursery() as nursery,
    ):
        for provider in ("twilio", "vonage"):
            nursery.start_soon(_keep_calling, rig, provider)
        nursery.start_soon(_keep_texting, rig)
        yield rig.engine.url
        nursery.cancel_scope.cancel()
    structlog.reset_defaults()


def _memory_of(folder: Path, receiver: str) -> Callable[[Settings], Settings]:
    def configure(settings: Settings) -> Settings:
        return replace(
            settings,
            agents={"desk": replace(settings.agents["desk"], scope="caller")},
            sessions=replace(SessionSettings(), trusted_lines=(LINE,), texts_per_minute_per_caller=1000),
            store=StoreSettings("sqlite", path=str(folder / "offhook.db"), journal=str(folder / "journal")),
            webhooks=WebhookSettings(f"{receiver}/events", allow_private=True),
            secrets=replace(settings.secrets, webhook_secret=f"whsec_{base64.b64encode(bytes(32)).decode()}"),
        )

    return configure


async def _keep_texting(rig: Rig) -> None:
    """From the number that calls, too."""
    while True:
        await rig.text("Tell me a story")
        await trio.sleep(0.5)


async def _keep_calling(rig: Rig, provider: str) -> None:
    """Greeted, answered, and talked into a long answer; a call takes about four seconds."""
    while True:
        async with rig.call(provider) as call:
            await call.wait_for_reply()
            await rig.say(call, "Hello")
            await call.say(speak("Tell me a story", call.format))
            await call.wait_until_heard()
            await call.say(speak("Stop", call.format))
            await call.wait_for_reply()


# --- Prometheus ---------------------------------------------------------------------------------------------


@pytest.fixture
def prometheus_binary() -> str:
    found = shutil.which("prometheus")
    if found is None:
        if os.environ.get("OFFHOOK_REQUIRE_SERVERS") == "1":
            pytest.fail("prometheus is missing")
        pytest.skip("prometheus is missing (Debian: apt install prometheus)")
    return found


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    """A copy of the shipped configuration; the test fills in the target."""
    shutil.copytree(GRAFANA / "rules", tmp_path / "rules")
    path = tmp_path / "prometheus.yml"
    text = (GRAFANA / "prometheus.yml").read_text("utf-8")
    path.write_text(re.sub(r"_interval: \d+s", f"_interval: {SCRAPE_S}s", text), "utf-8")
    yield path
    # Tens of megabytes that pytest would keep for three runs.
    shutil.rmtree(tmp_path / "data", ignore_errors=True)


@asynccontextmanager
async def open_prometheus(binary: str, config: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Prometheus on a free port, killed at the end of the block; a client of its API."""
    with (config.parent / "prometheus.log").open("wb") as log:
        command = [
            binary,
            f"--config.file={config}",
            f"--storage.tsdb.path={config.parent / 'data'}",
            "--web.listen-address=127.0.0.1:0",
            "--enable-feature=exemplar-storage",
            "--log.level=info",
        ]
        async with trio.open_nursery() as nursery:
            run = partial(
                trio.run_process, command, stdout=log, stderr=subprocess.STDOUT, check=False, deliver_cancel=_kill
            )
            process = await nursery.start(run)
            port = await _listening_port(process, Path(log.name))
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}/api/v1", timeout=5, trust_env=False
            ) as client:
                await _until_ready(client)
                yield client
            nursery.cancel_scope.cancel()


async def _kill(process: trio.Process) -> None:
    # Its data is thrown away: nothing is worth the seconds of an orderly stop.
    process.kill()


async def _listening_port(process: trio.Process, log: Path) -> int:
    """From its log: it was asked for any free port."""
    with trio.move_on_after(READY_S):
        while process.poll() is None:
            found = re.search(r'msg="Listening on" address=127\.0\.0\.1:(\d+)', _read(log))
            if found:
                return int(found[1])
            await trio.sleep(0.05)
    pytest.fail(f"prometheus did not start:\n{_read(log)}")


async def _until_ready(client: httpx.AsyncClient) -> None:
    """It listens before it answers queries."""
    with trio.fail_after(READY_S):
        while (await client.get("/query", params={"query": "1"})).status_code == 503:  # noqa: ASYNC110 - another process
            await trio.sleep(0.05)


def _read(log: Path) -> str:
    return log.read_text("utf-8", "replace")


async def ask(client: httpx.AsyncClient, path: str, **params: str) -> Any:
    answer = (await client.get(path, params=params)).json()
    assert answer["status"] == "success", answer
    return answer["data"]


async def _until_scraped(client: httpx.AsyncClient) -> None:
    """Until three scrapes are in: enough for a rate. Fails with Prometheus' own words on the target."""
    with trio.move_on_after(DATA_S):
        while True:
            found = await ask(client, "/query", query="sum_over_time(up[1m])")
            if found["result"] and float(found["result"][0]["value"][1]) >= 3:
                return
            await trio.sleep(0.2)
    pytest.fail(f"not scraped: {await ask(client, '/targets')}")


# --- the tests ----------------------------------------------------------------------------------------------


# httpx leaves the generators of a response that is broken off to the collector.
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")
async def test_every_panel_shows_data_of_an_engine_under_load(
    engine_under_load: str, prometheus_binary: str, config: Path
) -> None:
    _aim(config, engine_under_load.removeprefix("http://"))

    async with open_prometheus(prometheus_binary, config) as client:
        await _until_scraped(client)
        target = (await ask(client, "/targets"))["activeTargets"][0]
        assert target["labels"]["job"] == "offhook"

        empty = await _still_empty(client)
        assert not empty

        for expr in HAPPENED:
            assert await _is_above_zero(client, expr), expr

        exemplars = await ask(
            client,
            "/query_exemplars",
            query="offhook_turn_latency_seconds_bucket",
            start=str(time.time() - 60),
            end=str(time.time() + 60),
        )
        assert exemplars[0]["exemplars"][0]["labels"]["call_id"]

        rules = (await ask(client, "/rules"))["groups"][0]["rules"]
        assert {rule["name"] for rule in rules} >= {"ResourceLeak", "OrphanedResources", "SilentCalls", "DeadAir"}
        assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
        assert not [rule["name"] for rule in rules if rule["state"] == "firing"]


async def _is_above_zero(client: httpx.AsyncClient, expr: str) -> bool:
    with trio.move_on_after(DATA_S):
        while not (await ask(client, "/query", query=f"sum({expr}) > 0"))["result"]:  # noqa: ASYNC110 - another process
            await trio.sleep(0.2)
        return True
    return False


def _aim(config: Path, target: str) -> None:
    config.write_text(config.read_text("utf-8").replace("127.0.0.1:8080", target), "utf-8")


async def _still_empty(client: httpx.AsyncClient) -> list[str]:
    """Queries that show nothing when all have had their time: a turn has to be over before its latency is known."""
    left = {
        f"{name}: {title}: {expr}": filled_in(expr, rate_interval="30s", since="1m")
        for name, dashboard in load_all().items()
        for title, expr in queries(dashboard)
    }
    with trio.move_on_after(DATA_S):
        while left:
            for name, expr in list(left.items()):
                if await _shows_data(client, expr):
                    del left[name]
            await trio.sleep(0.2)
    return list(left)


async def _shows_data(client: httpx.AsyncClient, expr: str) -> bool:
    """At least one sample that is a number."""
    result = (await ask(client, "/query", query=expr))["result"]
    return any(series["value"][1] not in {"NaN", "+Inf", "-Inf"} for series in result)
