"""What monitors and load balancers ask, and the shape of errors."""

from __future__ import annotations

import structlog
import trio
from trio.testing import MockClock

from tests.web.support import FakeSwitchboard, Reply, front


async def test_health_tells_the_sessions_and_the_state(autojump_clock: MockClock) -> None:
    async with front(FakeSwitchboard(live=["CA1", "CA2"], capacity=7)) as at:
        await trio.sleep(12)
        reply = await at.ask("GET", "/api/health")
        assert reply.headers["content-type"] == "application/json"
        assert reply.json == {
            "status": "ok",
            "lacks": [],
            "sessions": {"active_count": 2, "uuids": ["CA1", "CA2"]},
            "capacity": 7,
            "draining": False,
            "version": "1.2.3",
            "uptime_s": 12.0,
        }


async def test_health_tells_what_calls_go_on_without() -> None:
    async with front(FakeSwitchboard(lacks=["store_down", "stt:deepgram"])) as at:
        health = (await at.ask("GET", "/api/health")).body
        assert b'"status":"degraded","lacks":["store_down","stt:deepgram"]' in health
        ready = await at.ask("GET", "/readyz")
        assert (ready.status, ready.body) == (200, b"ready (degraded: store_down, stt:deepgram)")
        at.switchboard.draining = True
        assert b'"status":"draining"' in (await at.ask("GET", "/api/health")).body


async def test_ready_turns_503_with_the_reason_while_alive_stays_200(autojump_clock: MockClock) -> None:
    async with front() as at:
        assert (await at.ask("GET", "/readyz")).status == 200
        at.switchboard.draining = True
        reply = await at.ask("GET", "/readyz")
        assert (reply.status, reply.code) == (503, "draining")
        assert (await at.ask("GET", "/healthz")).body == b"ok"
        assert (await at.ask("GET", "/api/health")).status == 200


async def test_metrics_are_plain_text_or_openmetrics_as_asked() -> None:
    async with front() as at:
        plain = await at.ask("GET", "/metrics")
        assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert b"offhook_http_requests_total" in plain.body
        asked = await at.ask("GET", "/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
        assert asked.headers["content-type"].startswith("application/openmetrics-text")
        assert asked.body.endswith(b"# EOF\n")


async def test_fault_64_a_storm_of_scrapes_shares_its_renderings() -> None:
    async with front() as at:
        renderings = 0
        render = at.metrics.render

        def counted(openmetrics: bool = False) -> tuple[bytes, str]:
            nonlocal renderings
            renderings += 1
            return render(openmetrics)

        at.metrics.render = counted  # type: ignore[method-assign]  # to count the calls of the real one
        replies: list[Reply] = []

        async def scrape() -> None:
            replies.append(await at.ask("GET", "/metrics"))

        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(scrape)
        assert [reply.status for reply in replies] == [200] * 40
        assert renderings <= 4


async def test_a_scrape_shows_what_was_counted_before_it() -> None:
    async with front() as at:
        await at.ask("GET", "/metrics")
        await at.ask("GET", "/readyz")
        page = (await at.ask("GET", "/metrics")).body
        assert b'offhook_http_requests_total{code="2xx",method="GET",route="/readyz"} 1.0' in page


async def test_errors_have_one_shape(autojump_clock: MockClock) -> None:
    async with front() as at:
        for method, path, status in [("GET", "/nothing", 404), ("GET", "/voice", 405), ("GET", "/healthz/", 404)]:
            reply = await at.ask(method, path)
            assert reply.status == status
            assert reply.headers["content-type"] == "application/json"
            assert isinstance(reply.json, dict)
            assert list(reply.json) == ["error"]
            assert sorted(reply.json["error"]) == ["code", "message"]
        assert at.count("http_requests_total", route="other", method="GET", code="4xx") == 2


async def test_an_unexpected_error_is_500_without_a_trace_and_logged_once(autojump_clock: MockClock) -> None:
    class Broken(FakeSwitchboard):
        def live_calls(self) -> list[str]:
            raise RuntimeError("secret")

    async with front(Broken()) as at:
        with structlog.testing.capture_logs() as logs:
            reply = await at.ask("GET", "/api/health")
        assert (reply.status, reply.code) == (500, "internal_error")
        assert b"secret" not in reply.body
        assert [line["event"] for line in logs] == ["request_failed"]
        assert (await at.ask("GET", "/healthz")).status == 200


async def test_the_root_tells_what_this_is(autojump_clock: MockClock) -> None:
    async with front() as at:
        assert b"offhook" in (await at.ask("GET", "/")).body


async def test_a_scraper_that_leaves_in_mid_answer_is_no_error() -> None:
    async with front() as at:
        with structlog.testing.capture_logs() as logs:
            stream = at.connect()
            await stream.send_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await stream.aclose()
            while at.door.open_connections:  # noqa: ASYNC110 - the page is made in a thread
                await trio.sleep(0.01)
        assert [entry for entry in logs if entry["log_level"] in ("error", "critical")] == []
