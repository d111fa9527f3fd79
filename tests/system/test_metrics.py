"""What a running engine puts on /metrics: every family is fed by something that happens, and the sums come out even."""

from __future__ import annotations

import base64
import io
import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import orjson
import pytest
import structlog
import trio
from prometheus_client.parser import text_string_to_metric_families as exposition
from trio.testing import MockClock

from adapters.stores.memory import MemoryStore
from engine.calls.registry import Release
from engine.cli.serve import _configure
from engine.observe.families import FAMILIES, PREFIX
from engine.observe.labels import WebhookEvent
from engine.observe.logs import LogOutput
from engine.phone.errors import CallRefused
from engine.ports import Append, SessionRow
from engine.runtime.sockets import open_socket
from engine.settings import SessionSettings, Settings, WebhookSettings
from tests.adapters.providers.rest_api import ApiRequest, rest_api
from tests.fakes.flaky_store import FlakyStore
from tests.fakes.plain_speech import speak
from tests.system.rig import Rig, running_engine

API_KEY = "a-key-for-the-tests-of-metrics"
KEY = {"authorization": f"Bearer {API_KEY}"}
ALL = {family.name for family in FAMILIES}
MUST_STAY_ZERO = {
    "context_violations_total",
    "store_lost_total",
    "silent_calls_total",
    "greeting_repeats_total",
    "resources_leaked_total",
    "resources_orphaned",
    "log_records_dropped_total",
    "label_overflow_total",
}
"""Families that count what a sound engine never does."""
OF_DEPENDABLE_VENDORS = {
    "vendor_reconnects_total",
    "vendor_failovers_total",
    "vendor_breaker_state",
    "llm_tokens_total",
}
"""Counted by ``engine.vendors``, which the agent of this test goes without; ``tests.vendors.test_counting`` feeds
them."""


OF_OTHER_ENGINES = {
    "tool_calls_total",  # tests/tools, tests/system/test_tools.py
    "tool_duration_seconds",
    "dials_total",  # tests/system/test_calls_we_make.py
    "recordings_total",  # tests/system/test_recordings.py
    "recording_dropped_seconds_total",  # tests/calls/test_recording.py
    "store_connections_in_use",  # tests/system/test_store_pool.py
}
"""Of what this engine has not: tools, calls of its own, recordings, a store behind a socket."""


@dataclass(eq=False)
class Scrapes:
    """What was ever above zero on the page, over several scrapes."""

    rig: Rig
    touched: set[str] = field(default_factory=set)
    now: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Of the last scrape: the sum of each sample over all its labels."""

    def scrape(self) -> None:
        # Here and not over HTTP: a virtual clock does not wait for the thread that renders.
        page = self.rig.engine.metrics.render()[0].decode()
        self.now.clear()
        for family in exposition(page):
            for sample in family.samples:
                self.now[sample.name] += sample.value
        for name in ALL:
            if self.now[PREFIX + name] > 0 or self.now[f"{PREFIX}{name}_count"] > 0:
                self.touched.add(name)

    def sums(self) -> dict[str, float]:
        """What must be zero at rest."""
        of = {name.removeprefix(PREFIX): value for name, value in self.now.items()}
        return {
            "opened - closed - open": of["resources_opened_total"]
            - of["resources_closed_total"]
            - of["resources_open"],
            "open": of["resources_open"],
            "started - ended - active": of["calls_started_total"] - of["calls_ended_total"] - of["calls_active"],
            "active": of["calls_active"],
            **{name: of[name] for name in ("sessions_active", "store_backlog", "webhook_queue_depth")},
            **{name: of[name] for name in MUST_STAY_ZERO},
        }


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


class Receiver:
    """Of the events that are sent out."""

    def __init__(self) -> None:
        self.is_away = True
        self.events: list[str] = []

    def answer(self, request: ApiRequest) -> tuple[int, bytes]:
        if self.is_away:
            return 503, b""
        self.events.append(orjson.loads(request.body)["type"])
        return 200, b""


def memory_of(webhooks_url: str, journal: Path) -> Callable[[Settings], Settings]:
    """Two agents that know a caller again, events sent out, keys of the API, and a journal."""

    def configure(settings: Settings) -> Settings:
        desk = replace(settings.agents["desk"], scope="caller")
        return replace(
            settings,
            agents={"desk": desk, "billing": desk},
            sessions=replace(SessionSettings(), idle_s=30.0),
            store=replace(settings.store, kind="sqlite", journal=str(journal)),
            webhooks=WebhookSettings(f"{webhooks_url}/events", allow_private=True),
            secrets=replace(
                settings.secrets,
                api_keys=f"tests:turn+history:{API_KEY}",
                webhook_secret="whsec_" + base64.b64encode(bytes(range(32))).decode(),
            ),
        )

    return configure


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> FlakyStore:
    """In SQLite's place: no virtual clock waits for its threads."""
    flaky = FlakyStore(MemoryStore(time.time))
    flaky.backend = "sqlite"
    monkeypatch.setattr("adapters.stores.sql.open_sqlite", lambda *_, **__: nullcontext(flaky))
    return flaky


# httpx leaves the generators of a response that is broken off to the collector.
@pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")
async def test_each_exported_family_is_fed_by_calls_and_the_sums_come_out_even(
    autojump_clock: MockClock, store: FlakyStore, tmp_path: Path
) -> None:
    receiver = Receiver()
    _run_in_real_time(autojump_clock)
    async with (
        rest_api(receiver.answer) as api,
        running_engine(
            max_calls=2,
            greeting="Hello, this is a greeting of some length.",
            configure=memory_of(api.base, tmp_path / "journal"),
        ) as rig,
    ):
        with LogOutput(io.StringIO()) as output:
            _configure(rig.engine.settings, output, rig.engine)
            seen = Scrapes(rig)
            await a_store_that_goes_away(rig, seen, store)
            receiver.is_away = False
            _run_ahead(autojump_clock)
            for provider in ("twilio", "vonage"):
                await interrupted_call(rig, provider)
            seen.scrape()
            await busy(rig, seen)
            await strangers(rig)
            await slow_vendors(rig, seen)
            await late_audio_and_bad_messages(rig)
            await deaf_vendors(rig)
            await a_crash(rig, seen)
            await written_turns(rig)
            await an_unreadable_record(rig, store)
            await trio.sleep(60)
            rig.engine.supervisor.refuse_new()
            await trio.sleep(2)
            seen.scrape()

        not_here = MUST_STAY_ZERO | OF_DEPENDABLE_VENDORS | OF_OTHER_ENGINES
        assert ALL - seen.touched == not_here, "fed by nothing, or not on the list"
        assert set(seen.sums().values()) == {0}, seen.sums()
        assert set(receiver.events) == set(WebhookEvent) - {WebhookEvent.DIAL_ENDED}


def _run_in_real_time(clock: MockClock) -> None:
    """For what waits for a thread."""
    clock.rate, clock.autojump_threshold = 1.0, math.inf


def _run_ahead(clock: MockClock) -> None:
    clock.rate, clock.autojump_threshold = 0.0, 0.0


async def a_store_that_goes_away(rig: Rig, seen: Scrapes, store: FlakyStore) -> None:
    """In mid call: what is said meanwhile waits in the journal. Then a text from the same number."""
    usual = rig.vendors.behaviour
    rig.vendors.behaviour = replace(usual, chars_per_s=100.0)
    async with rig.call(attestation="A") as call:
        await call.wait_for_reply()
        store.fails = "refused"
        await rig.say(call, "Hello")
    rig.vendors.behaviour = usual
    await rig.quiet()
    while not rig.value("store_backlog"):  # noqa: ASYNC110 - seen from outside
        await trio.sleep(0.01)
    seen.scrape()
    store.fails = ""
    while rig.value("store_backlog"):  # noqa: ASYNC110 - likewise
        await trio.sleep(0.01)
    assert "Turn 2" in await rig.text("What did you say?")


async def written_turns(rig: Rig) -> None:
    """To one agent, then to another, which is shown a long answer cut; without a key, too."""
    url = f"{rig.engine.url}/turn"
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.post(url, json={"text": "Hello"})).status_code == 401
        for agent in ("desk", "billing"):
            body = {"text": "Tell me a story", "agent": agent}
            assert (await client.post(url, json=body, headers=KEY)).json()["agent"] == agent


async def an_unreadable_record(rig: Rig, store: FlakyStore) -> None:
    now = time.time()
    await store.write([Append(SessionRow("0123", "key", "", 0, now, now, now + 1000, b"nonsense"))])
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{rig.engine.url}/api/sessions/0123", headers=KEY)).status_code == 404


async def interrupted_call(rig: Rig, provider: str) -> None:
    """A cough into the greeting, a question, a story that is talked into, another cut by a key, and a hang-up."""
    async with rig.call(provider) as call:
        await call.wait_until_heard()
        await call.say(speak("Stop", call.format))
        await call.wait_for_reply()
        await call.say(speak("Tell me a story", call.format))
        await call.wait_until_heard()
        await call.say(speak("Tell me another story", call.format))
        await call.wait_until_heard()
        call.press("5")
        await call.wait_for_reply()
        call.start_saying(speak("Tell me a story", call.format))
        await trio.sleep(4)
    await rig.quiet()


async def busy(rig: Rig, seen: Scrapes) -> None:
    async with rig.call(caller="+15005550001") as call, rig.call(caller="+15005550002"):
        await call.wait_until_heard()
        with suppress(CallRefused):
            async with rig.call(caller="+15005550003"):
                raise AssertionError("one call too many")
        seen.scrape()
    await rig.quiet()


async def strangers(rig: Rig) -> None:
    """A webhook that nobody signed, and a media socket that says nothing of use."""
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.post(f"{rig.engine.url}/voice", data={"CallSid": "CA1"})).status_code == 403
    async with open_socket(rig.engine.url.replace("http", "ws") + "/media/twilio") as socket:
        await socket.send("nonsense")
        with suppress(trio.EndOfChannel):
            await socket.receive()


async def slow_vendors(rig: Rig, seen: Scrapes) -> None:
    """A model that takes four seconds, then a voice that takes two for each sentence."""
    usual = rig.vendors.behaviour
    rig.vendors.behaviour = replace(usual, first_token_s=4.0)
    async with rig.call() as call:
        await call.wait_for_reply()
        await rig.say(call, "Hello")
        rig.vendors.behaviour = replace(usual, first_audio_s=2.5, chars_per_s=60.0)
        await call.say(speak("Tell me a story", call.format))
        await call.wait_until_heard()
        await trio.sleep(8)
        seen.scrape()
    rig.vendors.behaviour = usual
    await trio.sleep(3)  # until the vendor notices that nobody waits for its voice
    await rig.quiet()


async def late_audio_and_bad_messages(rig: Rig) -> None:
    async with rig.call() as call:
        await call.wait_for_reply()
        call._send("{}", "no JSON")
        await trio.sleep(0.5)
        call._hanging_up = True  # no frames for a while
        await trio.sleep(0.3)
        call._hanging_up = False
        await trio.sleep(0.5)
    await rig.quiet()


async def deaf_vendors(rig: Rig) -> None:
    """They never answer the close: it is made by force."""
    async with rig.call() as call:
        await call.wait_for_reply()
        rig.vendors.is_deaf = True
    await trio.sleep(3)
    rig.vendors.is_deaf = False
    await rig.quiet()


async def a_crash(rig: Rig, seen: Scrapes) -> None:
    """Of the registry, which starts again; and its mail, seen before it is read."""
    rig.engine.registry._mailbox.tell(Release([]))  # type: ignore[arg-type]  # what it cannot handle
    await trio.sleep(2)
    rig.engine.registry.withdraw("twilio", "nobody")
    seen.touched |= {"actor_mailbox_depth"} if rig.value("actor_mailbox_depth", actor="registry") else set()
    await trio.sleep(1)
