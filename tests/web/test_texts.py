"""Texts: answered in the webhook's document in time, over REST when not, and once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import orjson
import pytest
import structlog
import trio
from trio.testing import MockClock

from engine.errors import Busy, ModelFailed, RateLimited, StoreDown, VendorError
from engine.observe.metrics import Metrics
from engine.ports import IncomingText, WebhookRequest
from engine.sessions.answers import TurnAnswer
from engine.settings import SessionSettings
from engine.web.texts import IDS_KEPT, MAX_OWED, NO_WORDS, PAUSES_S, SEND_S, SORRY, TextDesk
from tests.web.desk import FakeDesk
from tests.web.support import FakeProvider, Front, Reply, front

SETTINGS = SessionSettings(text_answer_s=5.0, texts_per_minute_per_caller=20)
NO_NETWORK = httpx.MockTransport(lambda _: httpx.Response(500))
OURS, THEIRS = "+15550002222", "+15550001111"


class Phone:
    """A provider's side of texts: webhooks in, REST out."""

    def __init__(self, provider: FakeProvider, desk: FakeDesk, sessions: SessionSettings) -> None:
        self.provider, self.desk, self.metrics = provider, desk, Metrics()
        self.texts = TextDesk(desk, sessions, self.metrics, self.new_client)
        self.clients: list[httpx.AsyncClient] = []
        self.at: Front

    def new_client(self) -> httpx.AsyncClient:
        self.clients.append(httpx.AsyncClient(transport=NO_NETWORK))
        return self.clients[-1]

    async def send(self, text: str, text_id: str = "SM1", sender: str = THEIRS, **fields: object) -> Reply:
        return await self.at.webhook("/sms", orjson.dumps({"id": text_id, "text": text, "from": sender, **fields}))

    async def hears(self, text: str, text_id: str = "SM1", sender: str = THEIRS) -> str:
        """What the answer's document says."""
        reply = await self.send(text, text_id, sender)
        assert reply.status == 200
        return str(orjson.loads(reply.body)["text"])

    def count(self, outcome: str) -> float:
        return self.at.count("texts_total", modality="sms", outcome=outcome)


@asynccontextmanager
async def phone(
    desk: FakeDesk | None = None,
    provider: FakeProvider | None = None,
    sessions: SessionSettings = SETTINGS,
    *,
    is_running: bool = True,
) -> AsyncIterator[Phone]:
    they = Phone(provider or FakeProvider(), desk or FakeDesk(), sessions)
    async with (
        front(metrics=they.metrics, provider=they.provider, texts=they.texts) as they.at,
        trio.open_nursery() as nursery,
    ):
        if is_running:
            nursery.start_soon(they.texts.run)
            await trio.testing.wait_all_tasks_blocked()
        yield they
        nursery.cancel_scope.cancel()
    assert all(client.is_closed for client in they.clients)


async def test_a_text_is_answered_in_the_document(autojump_clock: MockClock) -> None:
    async with phone() as they:
        assert await they.hears("hello") == "You said: hello"
        assert they.provider.sent == []
        assert they.count("answered") == 1


async def test_an_unsigned_text_is_403_and_reaches_nobody(autojump_clock: MockClock) -> None:
    async with phone() as they:
        assert (await they.at.ask("POST", "/sms", b'{"id":"SM1","text":"x"}')).status == 403
        assert they.desk.asked == []


async def test_a_receipt_or_a_part_of_a_text_is_answered_with_nothing(autojump_clock: MockClock) -> None:
    async with phone() as they:
        reply = await they.send("hel", part=True)
        assert (reply.status, reply.json) == (200, {"text": ""})
        assert they.desk.asked == []


async def test_a_slow_answer_comes_over_rest_and_not_twice(autojump_clock: MockClock) -> None:
    async with phone(FakeDesk(stalls_s=9)) as they:
        assert await they.hears("hello") == ""
        assert trio.current_time() == pytest.approx(5, abs=0.01)
        assert they.texts.owed == 1
        assert await they.hears("hello") == ""  # asked again meanwhile
        assert trio.current_time() == pytest.approx(5, abs=0.01)
        await trio.sleep(10)
        assert they.provider.sent == [(OURS, THEIRS, "You said: hello")]
        assert await they.hears("hello") == ""
        assert they.desk.asked == ["hello"]
        assert they.count("answered_later") == 1
        assert they.texts.owed == 0
        assert [client.is_closed for client in they.clients] == [True]


async def test_a_provider_that_takes_no_answers_gets_them_over_rest(autojump_clock: MockClock) -> None:
    async with phone(provider=FakeProvider(answers_texts=False)) as they:
        assert await they.hears("hello") == ""
        await trio.sleep(1)
        assert they.provider.sent == [(OURS, THEIRS, "You said: hello")]
        assert they.count("answered_later") == 1


async def test_the_same_text_asked_again_has_the_same_answer_and_is_answered_once(autojump_clock: MockClock) -> None:
    async with phone(FakeDesk(stalls_s=1)) as they:
        heard: list[str] = []

        async def ask() -> None:
            heard.append(await they.hears("hello"))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
        assert heard == ["You said: hello"] * 3
        assert await they.hears("hello") == "You said: hello"
        assert they.desk.asked == ["hello"]
        assert they.count("answered") == 1
        assert await they.hears("hello", "SM2") == "You said: hello"
        assert they.desk.asked == ["hello"] * 2


async def test_a_webhook_that_is_cut_off_leaves_the_answer_to_rest(autojump_clock: MockClock) -> None:
    desk, provider = FakeDesk(stalls_s=3), FakeProvider()
    async with phone(desk, provider) as they:
        with trio.move_on_after(1):
            incoming = provider.read_text(_request("hello"))
            assert incoming is not None
            await they.texts.answer(provider, incoming)
        await trio.sleep(5)
        assert provider.sent == [(OURS, THEIRS, "You said: hello")]


def _request(text: str) -> WebhookRequest:
    return WebhookRequest("POST", "http://localhost/sms", {}, orjson.dumps({"id": "SM1", "text": text}))


# --- limits -------------------------------------------------------------------------------------------------


async def test_a_number_that_writes_too_often_gets_no_answer_and_others_do(autojump_clock: MockClock) -> None:
    async with phone(sessions=replace(SETTINGS, texts_per_minute_per_caller=2)) as they:
        spellings = [THEIRS, "15550001111", "+1 555 000 1111"]
        heard = [await they.hears("x", f"SM{n}", sender) for n, sender in enumerate(spellings)]
        assert heard == ["You said: x", "You said: x", ""]
        assert they.count("rate_limit") == 1
        assert await they.hears("x", "SM8", "+15550003333") == "You said: x"
        await trio.sleep(61)
        assert await they.hears("x", "SM9") == "You said: x"


async def test_withheld_senders_and_short_ones_are_not_one_number(autojump_clock: MockClock) -> None:
    async with phone(sessions=replace(SETTINGS, texts_per_minute_per_caller=1)) as they:
        senders = ["", "", "anonymous", "anonymous", "+266696687", "+266696687", "12345", "54321", "OFFHOOK", "OFFHOOK"]
        for n, sender in enumerate(senders):
            assert await they.hears("x", f"SM{n}", sender) == "You said: x", sender
        assert await they.hears("x", "SM99", "12345") == ""


async def test_no_more_than_a_hundred_answers_are_owed(autojump_clock: MockClock) -> None:
    sessions = replace(SETTINGS, texts_per_minute_per_caller=1000)
    async with phone(FakeDesk(stalls_s=20), sessions=sessions) as they:
        statuses: list[int] = []

        async def ask(n: int) -> None:
            statuses.append((await they.send("x", f"SM{n}")).status)

        async with trio.open_nursery() as nursery:
            for n in range(MAX_OWED + 5):
                nursery.start_soon(ask, n)
        assert sorted(statuses) == [200] * MAX_OWED + [503] * 5
        assert they.texts.owed == MAX_OWED
        await trio.sleep(20)
        assert len(they.provider.sent) == MAX_OWED
        assert they.texts.owed == 0
        assert len(they.desk.asked) == MAX_OWED + 5


async def test_a_text_whose_webhook_was_refused_is_answered_when_it_is_asked_again(autojump_clock: MockClock) -> None:
    async with phone(FakeDesk(stalls_s=8)) as they:
        they.texts.owed = MAX_OWED
        reply = await they.send("hello")
        assert (reply.status, reply.code) == (503, "busy")
        assert reply.headers["retry-after"] == "5"
        assert await they.hears("hello") == "You said: hello"
        assert they.desk.asked == ["hello"]


async def test_only_the_last_texts_are_remembered(autojump_clock: MockClock) -> None:
    desk, provider = FakeDesk(), FakeProvider()
    async with phone(desk, provider, replace(SETTINGS, texts_per_minute_per_caller=10_000)) as they:
        incoming = provider.read_text(_request("x"))
        assert incoming is not None
        for n in [*range(IDS_KEPT + 1), 1, 0]:
            await they.texts.answer(provider, replace(incoming, text_id=f"SM{n}"))
        assert len(desk.asked) == IDS_KEPT + 2


async def test_before_the_desk_runs_a_text_is_to_be_asked_again(autojump_clock: MockClock) -> None:
    async with phone(is_running=False) as they:
        assert (await they.send("hello")).status == 503
    async with phone(FakeDesk(agents=())) as they:
        assert (await they.send("hello")).status == 503


async def test_without_a_desk_the_route_says_so(autojump_clock: MockClock) -> None:
    async with front() as at:
        reply = await at.webhook("/sms", b'{"id":"SM1","text":"x"}')
        assert (reply.status, reply.code) == (503, "not_configured")


# --- failures -----------------------------------------------------------------------------------------------


async def test_fault_42_a_store_that_is_down_is_503_and_the_text_may_come_again(autojump_clock: MockClock) -> None:
    async with phone(FakeDesk(fails=StoreDown("refused"))) as they:
        reply = await they.send("hello")
        assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "store_down", "2")
        assert they.count("store_down") == 1
        they.desk.fails = None
        assert await they.hears("hello") == "You said: hello"


class SlowlyDown(FakeDesk):
    async def text(self, provider: str, incoming: IncomingText) -> TurnAnswer:
        await trio.sleep(9)
        raise StoreDown("timeout")


@pytest.mark.parametrize("answers_texts", [True, False])
async def test_a_store_that_is_down_too_late_is_apologised_for(answers_texts: bool, autojump_clock: MockClock) -> None:
    async with phone(SlowlyDown(), FakeProvider(answers_texts=answers_texts)) as they:
        assert await they.hears("hello") == ""
        await trio.sleep(10)
        assert they.provider.sent == [(OURS, THEIRS, SORRY)]
        assert they.count("store_down") == 1


async def test_a_text_that_was_promised_an_answer_gets_one_also_if_it_is_asked_again(autojump_clock: MockClock) -> None:
    """One webhook is told nothing at 5 s; another one still waits when the store fails at 9 s."""
    async with phone(SlowlyDown()) as they:
        heard: list[str] = []

        async def ask() -> None:
            heard.append(await they.hears("hello"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(4.5)
            nursery.start_soon(ask)
        await trio.sleep(10)
        assert heard == ["", ""]
        assert they.provider.sent == [(OURS, THEIRS, SORRY)]


async def test_a_store_that_is_down_is_503_to_a_provider_that_takes_no_answers(autojump_clock: MockClock) -> None:
    async with phone(FakeDesk(fails=StoreDown("refused")), FakeProvider(answers_texts=False)) as they:
        assert (await they.send("hello")).status == 503
        await trio.sleep(60)
        assert they.provider.sent == []
        assert they.texts.owed == 0


@pytest.mark.parametrize(
    "fails", [ModelFailed("openai", "secret"), trio.TooSlowError(), Busy("full"), RuntimeError("secret")]
)
async def test_who_cannot_be_answered_gets_an_apology(fails: Exception, autojump_clock: MockClock) -> None:
    async with phone(FakeDesk(fails=fails)) as they:
        with structlog.testing.capture_logs() as logs:
            assert await they.hears("hello") == SORRY
        assert [line["event"] for line in logs] == ["text_failed"]
        assert they.count("failed") == 1
        they.desk.fails = None
        assert await they.hears("hello again", "SM2") == "You said: hello again"


async def test_a_session_that_limits_its_texts_answers_with_nothing(autojump_clock: MockClock) -> None:
    async with phone(FakeDesk(fails=RateLimited(3))) as they:
        assert await they.hears("hello") == ""
        assert they.count("rate_limit") == 1


async def test_a_text_without_words_needs_no_agent(autojump_clock: MockClock) -> None:
    async with phone() as they:
        assert await they.hears(" \x00 ") == NO_WORDS
        assert they.desk.asked == []
        assert await they.hears("a\x00b", "SM2") == "You said: ab"


class Failing(FakeProvider):
    """REST fails so many times first; with ``stalls`` it does not answer at all."""

    def __init__(self, times: int, *, stalls: bool = False) -> None:
        super().__init__(answers_texts=False)
        self.times, self.stalls = times, stalls
        self.tried_at_s: list[float] = []

    async def send_text(self, sender: str, recipient: str, text: str, client: httpx.AsyncClient) -> None:
        self.tried_at_s.append(trio.current_time())
        if self.stalls:
            await trio.sleep_forever()
        if len(self.tried_at_s) <= self.times:
            raise VendorError("twilio", "HTTP 500")
        await super().send_text(sender, recipient, text, client)


async def test_a_late_answer_is_tried_three_times(autojump_clock: MockClock) -> None:
    provider = Failing(2)
    async with phone(provider=provider) as they:
        await they.send("hello")
        await trio.sleep(SEND_S)
        assert provider.tried_at_s == pytest.approx([0, PAUSES_S[0], sum(PAUSES_S)], abs=0.01)
        assert len(provider.sent) == 1
        assert they.count("answered_later") == 1


async def test_a_late_answer_that_cannot_be_sent_is_counted_and_given_up(autojump_clock: MockClock) -> None:
    provider = Failing(9)
    async with phone(provider=provider) as they:
        with structlog.testing.capture_logs() as logs:
            await they.send("hello")
            await trio.sleep(SEND_S)
        assert len(provider.tried_at_s) == 3
        assert [line["event"] for line in logs] == ["text_not_sent"] * 3
        assert "hello" not in str(logs)
        assert THEIRS not in str(logs)
        assert they.count("failed") == 1
        assert they.texts.owed == 0


async def test_a_rest_api_that_does_not_answer_is_given_up_after_thirty_seconds(autojump_clock: MockClock) -> None:
    async with phone(provider=Failing(0, stalls=True)) as they:
        await they.send("hello")
        await trio.sleep(SEND_S - 0.1)
        assert they.texts.owed == 1
        await trio.sleep(0.2)
        assert they.texts.owed == 0
        assert they.count("failed") == 1


async def test_a_late_answer_without_rest_is_told_and_counted(autojump_clock: MockClock) -> None:
    async with phone(FakeDesk(stalls_s=9), FakeProvider(can_send_text=False)) as they:
        with structlog.testing.capture_logs() as logs:
            assert await they.hears("hello") == ""
            await trio.sleep(10)
        assert [(line["event"], line["why"]) for line in logs] == [("text_not_sent", "not_configured")]
        assert they.count("failed") == 1


async def test_texts_under_way_when_the_engine_stops_are_to_be_asked_again(autojump_clock: MockClock) -> None:
    desk, provider = FakeDesk(stalls_s=3), FakeProvider()
    texts = TextDesk(desk, SETTINGS, metrics := Metrics(), lambda: httpx.AsyncClient(transport=NO_NETWORK))
    async with front(metrics=metrics, provider=provider, texts=texts) as at:
        statuses: list[int] = []

        async def ask() -> None:
            statuses.append((await at.webhook("/sms", b'{"id":"SM1","text":"x"}')).status)

        async with trio.open_nursery() as nursery:
            running = trio.CancelScope()
            nursery.start_soon(_within, running, texts)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ask)
            await trio.sleep(1)
            running.cancel()
        assert statuses == [503]
        assert texts.owed == 0


async def _within(scope: trio.CancelScope, texts: TextDesk) -> None:
    with scope:
        await texts.run()


async def test_an_erased_sender_leaves_no_words_and_his_texts_are_not_answered_again(autojump_clock: MockClock) -> None:
    async with phone() as they:
        assert await they.hears("my canary") == "You said: my canary"
        assert await they.hears("hello", "SM2", "+15550009999") == "You said: hello"
        await they.texts.forget(THEIRS)
        assert await they.hears("my canary") == ""
        assert await they.hears("hello", "SM2", "+15550009999") == "You said: hello"
