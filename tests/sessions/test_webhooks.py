"""Events of sessions: signed, in order, tried again, and forgotten with their caller."""

from __future__ import annotations

import base64
import datetime
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import format_datetime
from typing import Any

import orjson
import pytest
import trio
from standardwebhooks import Webhook, WebhookVerificationError
from trio.testing import MockClock

from engine.errors import SettingsError
from engine.observe.labels import WebhookEvent, WebhookStatus
from engine.observe.metrics import Metrics
from engine.runtime.guarded_http import Forbidden, Reply, Unreachable
from engine.sessions.webhooks import DELIVERIES, Webhooks, check_webhooks
from engine.settings import WebhookSettings
from tests.adapters.providers.rest_api import ApiRequest, rest_api

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
URL = "https://hooks.example.com/events"
NUMBER, OTHER = "+15550001111", "+15550002222"
STARTED, SWITCHED, ENDED = WebhookEvent.SESSION_STARTED, WebhookEvent.MODALITY_SWITCHED, WebhookEvent.SESSION_ENDED
NOW = 1_700_000_000.0

METRICS = Metrics()
"""For tests that do not count."""

Answer = Reply | Forbidden | Unreachable | RuntimeError


@dataclass
class Receiver:
    """Whoever is at the address: answers by what it is told, in turn and the last for ever, after ``takes_s``."""

    answers: list[Answer] = field(default_factory=lambda: [Reply(200)])
    answer: Callable[[dict[str, Any]], Answer] | None = None
    takes_s: float = 0.0
    got: list[tuple[float, str, dict[str, Any]]] = field(default_factory=list)
    """When, under which id, what: each attempt."""
    at_once: int = 0
    most_at_once: int = 0

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        assert url == URL
        self.got.append((trio.current_time(), headers["webhook-id"], orjson.loads(body)))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await trio.sleep(self.takes_s)
        finally:
            self.at_once -= 1
        if self.answer is not None:
            answer = self.answer(orjson.loads(body))
        else:
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Reply):
            return answer
        raise answer

    @property
    def sessions(self) -> list[str]:
        return [body["data"]["session_id"] for _, _, body in self.got]

    @property
    def times_s(self) -> list[float]:
        return [round(at_s - self.got[0][0], 2) for at_s, _, _ in self.got]


@dataclass
class Rig:
    receiver: Receiver
    settings: WebhookSettings = field(default_factory=lambda: WebhookSettings(URL))
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.webhooks = Webhooks(
            self.settings, SECRET, self.metrics, http=self.receiver, now=lambda: NOW, spread=lambda: 0.0
        )
        self.tell = self.webhooks.tell

    def count(self, status: WebhookStatus, event: WebhookEvent = STARTED) -> float:
        labels = {"event": str(event), "status": str(status)}
        return self.metrics.registry.get_sample_value("offhook_webhooks_total", labels) or 0.0

    @property
    def depth(self) -> float:
        return self.metrics.registry.get_sample_value("offhook_webhook_queue_depth") or 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.webhooks.run)
            yield
            nursery.cancel_scope.cancel()

    async def until_sent(self) -> None:
        """Not longer than a day."""
        async with self.running():
            with trio.fail_after(86_400):
                await self.webhooks.wait_sent()


# --- what is sent -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [SECRET, SECRET.removeprefix("whsec_"), SECRET.rstrip("=")])
async def test_an_event_is_genuine_to_the_official_package_and_to_nobody_without_the_key(secret: str) -> None:
    received: list[ApiRequest] = []

    def take(request: ApiRequest) -> tuple[int, bytes]:
        received.append(request)
        return 200, b"{}"

    async with rest_api(take) as api, trio.open_nursery() as nursery:
        webhooks = Webhooks(WebhookSettings(f"{api.base}/events?a=b", allow_private=True), secret, METRICS)
        nursery.start_soon(webhooks.run)
        webhooks.tell(STARTED, "session-1", NUMBER, {"modality": "voice", "caller": "x", "turns": 2})
        with trio.fail_after(5):
            await webhooks.wait_sent()
        nursery.cancel_scope.cancel()
    (request,) = received
    assert (request.method, request.path) == ("POST", "/events?a=b")
    assert request.headers["content-type"] == "application/json"
    event = Webhook(SECRET).verify(request.body, request.headers)
    assert event["type"] == "session.started"
    assert event["timestamp"].endswith("Z")
    assert event["data"] == {"modality": "voice", "turns": 2, "session_id": "session-1", "caller": "***1111"}
    assert NUMBER.encode() not in request.body
    with pytest.raises(WebhookVerificationError):
        Webhook(base64.b64encode(b"x" * 32).decode()).verify(request.body, request.headers)


async def test_without_an_address_nothing_is_sent_and_nothing_is_kept(autojump_clock: MockClock) -> None:
    rig = Rig(Receiver(), WebhookSettings())
    rig.tell(STARTED, "s", NUMBER, {})
    async with rig.running():
        await trio.sleep(10)
    assert (rig.receiver.got, rig.depth) == ([], 0)


async def test_only_events_that_are_wanted_are_sent(autojump_clock: MockClock) -> None:
    rig = Rig(Receiver(), WebhookSettings(URL, events=("session.ended",)))
    rig.tell(STARTED, "s", NUMBER, {})
    rig.tell(ENDED, "s", "", {})
    await rig.until_sent()
    assert [(body["type"], body["data"]["caller"]) for _, _, body in rig.receiver.got] == [("session.ended", "")]
    assert rig.count(WebhookStatus.DELIVERED, ENDED) == 1


# --- retries ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer", [Reply(500), Reply(503), Reply(408), Reply(425), Reply(429), Unreachable("no answer")]
)
async def test_an_event_is_tried_again_with_growing_pauses_under_one_id(
    answer: Answer, autojump_clock: MockClock
) -> None:
    rig = Rig(Receiver([answer, answer, answer, Reply(204)]))
    rig.tell(STARTED, "s", NUMBER, {})
    await rig.until_sent()
    assert rig.receiver.times_s == [0, 2, 10, 42]
    assert len({event_id for _, event_id, _ in rig.receiver.got}) == 1
    assert (rig.count(WebhookStatus.RETRIED), rig.count(WebhookStatus.DELIVERED)) == (3, 1)


async def test_an_event_that_nobody_takes_is_given_up(autojump_clock: MockClock) -> None:
    rig = Rig(Receiver([Unreachable("no answer")]), WebhookSettings(URL, retries=2))
    rig.tell(STARTED, "s", NUMBER, {})
    await rig.until_sent()
    assert len(rig.receiver.got) == 3
    assert (rig.count(WebhookStatus.RETRIED), rig.count(WebhookStatus.FAILED), rig.depth) == (2, 1, 0)


async def test_a_pause_begins_when_an_attempt_has_ended(autojump_clock: MockClock) -> None:
    rig = Rig(Receiver([Unreachable("no answer within 5 s"), Reply(200)], takes_s=5))
    rig.tell(STARTED, "s", NUMBER, {})
    await rig.until_sent()
    assert rig.receiver.times_s == [0, 7]


@pytest.mark.parametrize("answer", [Reply(301), Reply(400), Reply(401), Reply(404), Reply(410), Forbidden("inside")])
async def test_what_will_not_get_better_is_not_tried_again(answer: Answer, autojump_clock: MockClock) -> None:
    rig = Rig(Receiver([answer]))
    rig.tell(STARTED, "s", NUMBER, {})
    await rig.until_sent()
    assert len(rig.receiver.got) == 1
    assert rig.count(WebhookStatus.FAILED) == 1


@pytest.mark.parametrize(
    ("header", "pause_s"),
    [
        ("60", 60),
        ("1", 2),
        ("999999999999999999999", 900),
        (format_datetime(datetime.datetime.fromtimestamp(NOW + 90, datetime.UTC)), 90),
        ("Mon, 01 Jan 1990 00:00:00 GMT", 2),
        ("soon", 2),
        ("-5", 2),
        ("\u0663", 2),
    ],
)
async def test_a_receiver_that_asks_for_time_gets_it_within_bounds(
    header: str, pause_s: float, autojump_clock: MockClock
) -> None:
    rig = Rig(Receiver([Reply(429, header), Reply(200)]))
    rig.tell(STARTED, "s", NUMBER, {})
    await rig.until_sent()
    assert rig.receiver.times_s == [0, pause_s]


async def test_retries_are_spread_and_never_further_apart_than_a_quarter_of_an_hour(autojump_clock: MockClock) -> None:
    receiver = Receiver([Reply(500)])
    webhooks = Webhooks(
        WebhookSettings(URL, retries=8), SECRET, METRICS, http=receiver, now=lambda: NOW, spread=lambda: 1.0
    )
    webhooks.tell(STARTED, "s", NUMBER, {})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(webhooks.run)
        await webhooks.wait_sent()
        nursery.cancel_scope.cancel()
    pauses_s = [round(b - a, 1) for a, b in zip(receiver.times_s, receiver.times_s[1:], strict=False)]
    assert pauses_s == [2.5, 10, 40, 160, 640, 1125, 1125, 1125]


# --- order and load ---------------------------------------------------------------------------------------------


async def test_the_events_of_a_session_keep_their_order_and_do_not_hold_up_others(autojump_clock: MockClock) -> None:
    failures = iter([Reply(500)])
    rig = Rig(
        Receiver(answer=lambda body: next(failures, Reply(200)) if body["data"]["session_id"] == "a" else Reply(200))
    )
    rig.tell(STARTED, "a", NUMBER, {})
    rig.tell(SWITCHED, "a", NUMBER, {})
    rig.tell(ENDED, "a", NUMBER, {})
    rig.tell(STARTED, "b", OTHER, {})
    await rig.until_sent()
    told = [(body["data"]["session_id"], body["type"]) for _, _, body in rig.receiver.got]
    assert sorted(told[:2]) == [("a", "session.started"), ("b", "session.started")]
    assert told[2:] == [("a", "session.started"), ("a", "session.modality_switched"), ("a", "session.ended")]
    assert rig.receiver.times_s[2:] == [2, 2, 2]


async def test_no_more_than_four_are_on_their_way_at_once(autojump_clock: MockClock) -> None:
    rig = Rig(Receiver(takes_s=5))
    for number in range(20):
        rig.tell(STARTED, f"s{number}", NUMBER, {})
    await rig.until_sent()
    assert rig.receiver.most_at_once == DELIVERIES == 4
    assert rig.receiver.times_s == [5 * (number // 4) for number in range(20)]


async def test_a_pause_holds_no_place(autojump_clock: MockClock) -> None:
    rig = Rig(Receiver(answer=lambda body: Reply(500) if body["data"]["session_id"] < "s5" else Reply(200)))
    for number in range(10):
        rig.tell(STARTED, f"s{number}", NUMBER, {})
    async with rig.running():
        await trio.sleep(1)
    assert sorted(rig.receiver.sessions) == [f"s{number}" for number in range(10)]


async def test_a_retry_is_not_late_though_others_are_being_sent(autojump_clock: MockClock) -> None:
    """One that is due is taken by whoever is free, also by those who began to wait before it was put back."""
    rig = Rig(Receiver(answer=lambda body: Reply(200) if body["data"]["session_id"] == "long" else Reply(500)))
    rig.tell(STARTED, "short", NUMBER, {})
    async with rig.running():
        await trio.sleep(1)
        rig.receiver.takes_s = 60
        rig.tell(STARTED, "long", NUMBER, {})
        await trio.sleep(1.5)
    assert rig.receiver.sessions == ["short", "long", "short"]


async def test_a_full_queue_drops_the_newest_and_counts_it(autojump_clock: MockClock) -> None:
    rig = Rig(Receiver(), WebhookSettings(URL, queue=3))
    for number in range(5):
        rig.tell(STARTED, f"s{number}", NUMBER, {})
    assert (rig.depth, rig.count(WebhookStatus.DROPPED)) == (3, 2)
    await rig.until_sent()
    assert sorted(rig.receiver.sessions) == ["s0", "s1", "s2"]
    rig.tell(STARTED, "s9", NUMBER, {})
    assert (rig.depth, rig.count(WebhookStatus.DROPPED)) == (1, 2)


async def test_an_event_on_its_way_takes_a_place_in_the_queue(autojump_clock: MockClock) -> None:
    rig = Rig(Receiver([Reply(500)]), WebhookSettings(URL, queue=1))
    rig.tell(STARTED, "a", NUMBER, {})
    async with rig.running():
        await trio.sleep(1)
        rig.tell(STARTED, "b", NUMBER, {})
    assert rig.count(WebhookStatus.DROPPED) == 1


# --- forgetting -------------------------------------------------------------------------------------------------


async def test_the_events_of_a_forgotten_number_are_dropped_wherever_they_are(autojump_clock: MockClock) -> None:
    rig = Rig(
        Receiver(takes_s=5, answer=lambda body: Reply(500) if body["data"]["session_id"] == "retried" else Reply(200))
    )
    rig.tell(STARTED, "retried", NUMBER, {})
    async with rig.running():
        await trio.sleep(6)  # it has failed, and waits
        rig.tell(STARTED, "on its way", NUMBER, {})
        rig.tell(ENDED, "on its way", NUMBER, {})
        rig.tell(STARTED, "another's", OTHER, {})
        await trio.sleep(0.5)
        assert rig.receiver.at_once == 2
        rig.webhooks.forget(NUMBER)
        assert (rig.depth, rig.count(WebhookStatus.DROPPED), rig.count(WebhookStatus.DROPPED, ENDED)) == (1, 2, 1)
        await trio.testing.wait_all_tasks_blocked()
        assert rig.receiver.at_once == 1, "what was on its way has been called back"
        await rig.webhooks.wait_sent()
        await trio.sleep(1000)
    assert rig.receiver.sessions == ["retried", "on its way", "another's"]
    assert (rig.count(WebhookStatus.DELIVERED), rig.count(WebhookStatus.RETRIED)) == (1, 1)


async def test_what_is_told_of_a_number_after_it_was_forgotten_is_sent(autojump_clock: MockClock) -> None:
    rig = Rig(Receiver(takes_s=5))
    rig.tell(STARTED, "s", NUMBER, {"n": 1})
    async with rig.running():
        await trio.sleep(1)
        rig.webhooks.forget(NUMBER)
        rig.tell(STARTED, "s", NUMBER, {"n": 2})
        await rig.webhooks.wait_sent()
    assert [body["data"]["n"] for _, _, body in rig.receiver.got] == [1, 2]
    assert rig.count(WebhookStatus.DELIVERED) == 1


async def test_of_a_session_with_two_numbers_only_the_forgotten_ones_events_go(autojump_clock: MockClock) -> None:
    rig = Rig(Receiver([Reply(500), Reply(200)]))
    rig.tell(STARTED, "s", NUMBER, {})
    rig.tell(SWITCHED, "s", OTHER, {})
    async with rig.running():
        await trio.sleep(0.5)
        rig.webhooks.forget(NUMBER)
        await trio.sleep(0.1)
    assert [body["type"] for _, _, body in rig.receiver.got] == ["session.started", "session.modality_switched"]


@pytest.mark.parametrize("answer", [Reply(200), Reply(500), Reply(404)])
async def test_an_answer_that_comes_together_with_the_forgetting_changes_nothing(
    answer: Reply, autojump_clock: MockClock
) -> None:
    def forget_and_answer(_: dict[str, Any]) -> Answer:
        rig.webhooks.forget(NUMBER)
        return answer

    rig = Rig(Receiver(answer=forget_and_answer))
    rig.tell(STARTED, "s", NUMBER, {})
    await rig.until_sent()
    counts = {status: rig.count(status) for status in WebhookStatus}
    assert {status: count for status, count in counts.items() if count} == {WebhookStatus.DROPPED: 1}


async def test_forgetting_nobody_forgets_nothing(autojump_clock: MockClock) -> None:
    rig = Rig(Receiver())
    rig.tell(STARTED, "s", "", {})
    rig.webhooks.forget("")
    await rig.until_sent()
    assert rig.count(WebhookStatus.DELIVERED) == 1


# --- crashes ----------------------------------------------------------------------------------------------------


async def test_a_crash_loses_no_event(autojump_clock: MockClock) -> None:
    rig = Rig(Receiver([RuntimeError("boom"), Reply(200)], takes_s=1), WebhookSettings(URL, retries=1))
    for number in range(10):
        rig.tell(STARTED, f"s{number}", NUMBER, {})
    with pytest.RaisesGroup(RuntimeError):
        await rig.webhooks.run()
    assert rig.depth == 10
    await rig.until_sent()
    assert (rig.count(WebhookStatus.DELIVERED), rig.count(WebhookStatus.FAILED)) == (10, 0)


async def test_one_event_that_brings_it_down_each_time_is_given_up(autojump_clock: MockClock) -> None:
    rig = Rig(Receiver([RuntimeError("boom")]), WebhookSettings(URL, retries=2))
    rig.tell(STARTED, "s", NUMBER, {})
    for _ in range(3):
        with pytest.RaisesGroup(RuntimeError):
            await rig.webhooks.run()
    await rig.until_sent()
    assert rig.receiver.times_s == [0, 2, 10], "and never at once"
    assert rig.count(WebhookStatus.FAILED) == 1


async def test_being_cancelled_is_no_attempt(autojump_clock: MockClock) -> None:
    rig = Rig(Receiver(takes_s=1), WebhookSettings(URL, retries=0))
    rig.tell(STARTED, "s", NUMBER, {})
    for _ in range(3):
        with trio.move_on_after(0.5):
            await rig.webhooks.run()
    await rig.until_sent()
    assert (rig.count(WebhookStatus.DELIVERED), rig.count(WebhookStatus.FAILED)) == (1, 0)


async def test_events_can_be_told_before_it_runs_and_waiting_for_none_returns(autojump_clock: MockClock) -> None:
    rig = Rig(Receiver())
    with trio.fail_after(1):
        await rig.webhooks.wait_sent()
    rig.tell(STARTED, "s", NUMBER, {})
    with trio.move_on_after(math.pi) as waiting:
        await rig.webhooks.wait_sent()
    assert waiting.cancelled_caught
    await rig.until_sent()


# --- settings ---------------------------------------------------------------------------------------------------


def test_good_settings_pass() -> None:
    check_webhooks(WebhookSettings(), "")
    check_webhooks(WebhookSettings(URL, events=("call.ended",)), SECRET)
    check_webhooks(WebhookSettings("http://127.0.0.1:9/", allow_private=True), SECRET)


@pytest.mark.parametrize(
    ("settings", "secret", "named"),
    [
        (WebhookSettings("http://example.com/"), SECRET, "webhooks.url"),
        (WebhookSettings("https://127.1/"), SECRET, "webhooks.url"),
        (WebhookSettings("https://me:pa55@example.com/"), SECRET, "webhooks.url"),
        (WebhookSettings("ftp://example.com/", allow_private=True), SECRET, "webhooks.url"),
        (WebhookSettings("example.com"), SECRET, "webhooks.url"),
        (WebhookSettings(URL, events=("session.begun",)), SECRET, "webhooks.events"),
        (WebhookSettings(events=("session.begun",)), "", "webhooks.events"),
        (WebhookSettings(URL), "", "WEBHOOK_SECRET"),
        (WebhookSettings(URL), "whsec_", "WEBHOOK_SECRET"),
        (WebhookSettings(URL), "too short", "WEBHOOK_SECRET"),
        (WebhookSettings(URL), "a very long pass phrase of many words, and no base64", "WEBHOOK_SECRET"),
        (WebhookSettings(URL), base64.b64encode(b"x" * 23).decode(), "WEBHOOK_SECRET"),
        (WebhookSettings(URL), "é" * 40, "WEBHOOK_SECRET"),
        (WebhookSettings(URL), "x" * 20 + " " * 4 + "x" * 24, "WEBHOOK_SECRET"),
    ],
)
def test_wrong_settings_are_named_and_no_secret_is_repeated(settings: WebhookSettings, secret: str, named: str) -> None:
    for make in (check_webhooks, lambda settings, secret: Webhooks(settings, secret, METRICS)):
        with pytest.raises(SettingsError) as caught:
            make(settings, secret)
        message = str(caught.value)
        assert message.startswith((f"{named}: expected", f"{named}: there is no event"))
        assert "pa55" not in message
        assert secret in ("", "whsec_") or secret not in message
