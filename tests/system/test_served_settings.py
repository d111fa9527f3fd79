"""Settings whose effect shows in nothing but the running program: how long a model may take for a text, how much the
journal keeps, how many events wait and how often they are tried, and where they never go."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import trio

from engine.assembly import Engine
from engine.errors import SettingsError
from engine.settings import Secrets, Settings, WebhookSettings
from tests.adapters.providers.rest_api import ApiRequest, rest_api
from tests.faults.store_bench import START_S, Caller, Process, callers_words, calling, processes, sessions_of

CALLER = "+15005550161"
KEY = base64.b64encode(secrets.token_bytes(32)).decode()
QUEUE = 4
JOURNAL_BYTES = 4096


async def test_a_model_has_turn_s_for_a_text_and_the_journal_its_bytes(tmp_path: Path) -> None:
    slow: dict[str, dict[str, object]] = {
        "agents.slow": {"factory": "tests.fakes.echo_agent:make_agent"},
        "agents.slow.options": {"pause_s": 60.0},
    }
    store = {"journal_max_bytes": JOURNAL_BYTES, "operation_s": 0.5}
    process = Process(tmp_path / "engine", slow | {"sessions": {"turn_s": 1.0}, "store": store})
    async with processes(process), process.client() as client:
        began_s = time.monotonic()
        late = await client.post("/turn", json={"text": "Hello?", "stream_sid": "robot", "agent": "slow"})
        assert late.status_code == 504, late.text
        assert 1.0 <= time.monotonic() - began_s < 30.0
        async with calling(process, CALLER) as talk:
            caller = Caller(talk, "caller")
            await caller.turns(1)
            with trio.fail_after(START_S):
                while caller.said[0] not in str(await sessions_of(client, CALLER)):  # noqa: ASYNC110 - seen from outside
                    await trio.sleep(0.02)
            with closing(sqlite3.connect(process.folder / "offhook.db", isolation_level=None)) as other:
                other.execute("BEGIN EXCLUSIVE")
                with trio.fail_after(START_S):
                    while not await process.metric(client, "offhook_store_lost_total"):
                        await caller.turns(1)
                assert 0 < (process.folder / "offhook.journal").stat().st_size <= JOURNAL_BYTES
            kept = len(caller.said) - await process.metric(client, "offhook_store_lost_total")
            await metric_is(process, client, "offhook_store_backlog", 0)
        (session,) = await sessions_of(client, CALLER)
        assert callers_words(session["messages"])[: int(kept)] == caller.said[: int(kept)]


async def test_a_program_as_a_brain_has_its_own_time_and_health_names_a_model_that_is_not_there(tmp_path: Path) -> None:
    brain = "echo started >>starts; sleep 1.5; echo We open at nine."
    settings: dict[str, dict[str, object]] = {
        "agents.thinker": {"model": ["brain"]},
        "agents.lost": {"model": ["nowhere"]},
        "vendors.nowhere": {"kind": "compatible", "url": "http://127.0.0.1:9/v1", "model": "none"},
        "vendors.brain": {"kind": "program", "command": ["/bin/sh", "-c", brain], "timeout_s": 10.0},
        "limits": {"first_token_s": 0.3, "token_gap_s": 0.3, "vendor_answer_s": 0.5},
    }
    process = Process(tmp_path / "engine", settings)
    async with processes(process), process.client() as client:
        asked = await client.post("/turn", json={"text": "When?", "stream_sid": "robot", "agent": "thinker"})
        assert asked.status_code == 200, asked.text
        assert "We open at nine." in asked.text
        assert (process.folder / "starts").read_text().split() == ["started"]
        assert (await client.get("/api/health")).json()["status"] == "ok"
        with trio.fail_after(START_S):
            while (health := (await client.get("/api/health")).json())["status"] == "ok":
                await client.post("/turn", json={"text": "When?", "stream_sid": "robot", "agent": "lost"})
        assert (health["status"], health["lacks"]) == ("degraded", ["llm:nowhere"])
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.text) == (200, "ready (degraded: llm:nowhere)")


async def metric_is(process: Process, client: httpx.AsyncClient, name: str, value: float) -> None:
    with trio.fail_after(START_S):
        while await process.metric(client, name) != value:  # noqa: ASYNC110 - seen from outside
            await trio.sleep(0.05)


async def test_events_are_tried_as_often_and_wait_in_such_a_number_as_the_settings_say(tmp_path: Path) -> None:
    status = 503
    async with rest_api(lambda _: (status, b"")) as api:
        settings = {"url": f"{api.base}/events", "allow_private": True, "queue": QUEUE, "retries": 1}
        process = Process(tmp_path / "engine", {"webhooks": settings}, {"WEBHOOK_SECRET": KEY})
        async with processes(process), process.client() as client:
            for number in range(2 * QUEUE):
                asked = await client.post("/turn", json={"text": "Hello.", "stream_sid": f"robot-{number}"})
                assert asked.status_code == 200, asked.text
            assert await process.metric(client, "offhook_webhook_queue_depth") == QUEUE
            assert await process.metric(client, 'offhook_webhooks_total{event="session.started",status="dropped"}') > 0
            await until_asked(api.requests, QUEUE)
            status = 200
            await metric_is(process, client, "offhook_webhook_queue_depth", 0)
    first, again = api.requests[:QUEUE], api.requests[QUEUE:]
    assert sorted(ids(first)) == sorted(ids(again))
    for request in api.requests:
        check_signature(request)


async def until_asked(requests: list[ApiRequest], count: int) -> None:
    with trio.fail_after(START_S):
        while len(requests) < count:  # noqa: ASYNC110 - of another task's
            await trio.sleep(0.02)


def ids(requests: list[ApiRequest]) -> list[str]:
    return [request.headers["webhook-id"] for request in requests]


def check_signature(request: ApiRequest) -> None:
    """As Standard Webhooks says."""
    signed = ".".join((request.headers["webhook-id"], request.headers["webhook-timestamp"], request.body.decode()))
    mac = hmac.new(base64.b64decode(KEY), signed.encode(), hashlib.sha256).digest()
    assert request.headers["webhook-signature"] == f"v1,{base64.b64encode(mac).decode()}"


async def test_no_event_goes_to_an_address_inside_whatever_its_name_says(tmp_path: Path) -> None:
    async with rest_api(lambda _: (200, b"")) as api:
        port = api.base.rsplit(":", 1)[1]
        inside = {"url": f"https://localhost:{port}/events"}
        process = Process(tmp_path / "engine", {"webhooks": inside}, {"WEBHOOK_SECRET": KEY})
        async with processes(process), process.client() as client:
            assert (await client.post("/turn", json={"text": "Hello.", "stream_sid": "robot"})).status_code == 200
            await metric_is(process, client, "offhook_webhooks_total", 1)
            assert await process.metric(client, 'offhook_webhooks_total{event="session.started",status="failed"}') == 1
            assert await process.metric(client, "offhook_webhook_queue_depth") == 0
        assert "an address inside" in process.log
        assert not api.requests


@pytest.mark.parametrize(
    "url", ["https://127.1/", "https://[::ffff:10.0.0.1]/", "https://169.254.169.254/", "file:///"]
)
def test_an_engine_does_not_start_with_an_address_inside(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^webhooks\.url: "):
        Engine(Settings(webhooks=WebhookSettings(url=url), secrets=Secrets(webhook_secret=KEY)))
