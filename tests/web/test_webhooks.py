"""Webhooks: who may ask, what the caller hears, and under which address we are called."""

from __future__ import annotations

import pytest
import structlog
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from trio.testing import MockClock

from engine.errors import BadRequest
from engine.web.urls import PublicUrl
from engine.web.webhooks import ANSWER_S, SORRY
from tests.fakes.hostile import RawPeer
from tests.web.support import FakeProvider, FakeRelay, FakeSwitchboard, Refused, front


async def test_a_signed_call_is_connected_to_our_media_socket(autojump_clock: MockClock) -> None:
    async with front() as at:
        reply = await at.webhook("/voice", b'{"id":"CA1"}')
        assert reply.status == 200
        assert reply.json == {"connect": "ws://localhost/media/twilio", "token": "token-0"}
        assert at.count("http_requests_total", route="/voice", method="POST", code="2xx") == 1
        assert at.count("http_request_duration_seconds_count", route="/voice") == 1


async def test_a_call_for_an_agent_that_leaves_speech_to_the_provider_is_connected_to_its_relay(
    autojump_clock: MockClock,
) -> None:
    async with front(FakeSwitchboard(is_relayed=True), provider=FakeProvider(relay=FakeRelay())) as at:
        reply = await at.webhook("/voice", b'{"id":"CA1"}')
        assert reply.json == {"relay": "ws://localhost/media/twilio-relay", "token": "token-0"}
        peer = RawPeer(at.connect())
        assert b" 101 " in await peer.upgrade("/media/twilio-relay")
        await peer.stream.aclose()
    async with front(FakeSwitchboard(is_relayed=True), provider=FakeProvider()) as at:  # which has none
        reply = await at.webhook("/voice", b'{"id":"CA1"}')
        assert reply.json == {"say": SORRY}
    async with front(FakeSwitchboard(), provider=FakeProvider(relay=FakeRelay())) as at:
        reply = await at.webhook("/voice", b'{"id":"CA1"}')
        assert reply.json == {"connect": "ws://localhost/media/twilio", "token": "token-0"}


async def test_fault_73_a_replay_gets_the_same_token(autojump_clock: MockClock) -> None:
    async with front() as at:
        first = await at.webhook("/voice", b'{"id":"CA1"}')
        assert (await at.webhook("/voice", b'{"id":"CA1"}')).body == first.body


@pytest.mark.parametrize(("headers", "why"), [({}, "missing"), ({"x-signature": "forged"}, "mismatch")])
async def test_fault_72_a_forgery_is_403_and_starts_nothing(
    headers: dict[str, str], why: str, autojump_clock: MockClock
) -> None:
    async with front() as at:
        reply = await at.ask("POST", "/voice", b'{"id":"CA1"}', headers)
        assert (reply.status, reply.code) == (403, "bad_signature")
        assert at.switchboard.tokens == {}
        assert at.count("signature_failures_total", provider="twilio", why=why) == 1
        assert at.count("calls_rejected_total", provider="twilio", reason="bad_signature") == 1


async def test_fault_61_a_full_house_is_heard_with_200(autojump_clock: MockClock) -> None:
    async with front(FakeSwitchboard(refusal=Refused("capacity", "All lines are busy."))) as at:
        reply = await at.webhook("/voice", b'{"id":"CA1"}')
        assert (reply.status, reply.json) == (200, {"say": "All lines are busy."})


async def test_an_admission_that_hangs_is_answered_in_three_seconds(autojump_clock: MockClock) -> None:
    async with front(FakeSwitchboard(stalls=True)) as at:
        reply = await at.webhook("/voice", b'{"id":"CA1"}')
        assert (reply.status, reply.json) == (200, {"say": SORRY})
        assert trio.current_time() == pytest.approx(ANSWER_S)


async def test_an_admission_that_fails_is_heard_too_and_logged_once(autojump_clock: MockClock) -> None:
    with structlog.testing.capture_logs() as logs:
        async with front(FakeSwitchboard(fails=RuntimeError("secret"))) as at:
            reply = await at.webhook("/voice", b'{"id":"CA1"}')
    assert (reply.status, reply.json) == (200, {"say": SORRY})
    assert [line["event"] for line in logs] == ["admission_failed"]
    assert "secret" not in str(logs)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"id":5}', b"[" * 60_000, b"\xff" * 100])
async def test_a_genuine_but_unusable_webhook_is_400_and_names_the_field(
    body: bytes, autojump_clock: MockClock
) -> None:
    async with front() as at:
        with structlog.testing.capture_logs() as logs:
            reply = await at.webhook("/voice", body)
        assert (reply.status, reply.code) == (400, "bad_request")
        assert b"id:" in reply.body
        assert logs == []


async def test_a_status_that_ends_a_call_is_passed_on_and_acknowledged(autojump_clock: MockClock) -> None:
    async with front() as at:
        assert (await at.webhook("/twilio/status", b'{"id":"CA1"}')).status == 204
        assert at.switchboard.over == [("twilio", "CA1")]


async def test_a_provider_that_is_not_configured_says_what_it_wants(autojump_clock: MockClock) -> None:
    async with front() as at:
        for method in ("GET", "POST"):
            reply = await at.ask(method, "/vonage/answer")
            assert (reply.status, reply.code) == (503, "not_configured")
            assert b"OFFHOOK_VONAGE_SIGNATURE_SECRET" in reply.body


async def test_a_doubled_signature_counts_as_its_first(autojump_clock: MockClock) -> None:
    async with front() as at:
        reply = await at.ask(
            "POST", "/voice", b'{"id":"CA1"}', {"x-signature": "forged", "X-Signature": "http://localhost/voice"}
        )
        assert reply.status == 403


# --- the public URL -----------------------------------------------------------------------------------------


def request(headers: dict[str, str], client: str = "203.0.113.9", query: bytes = b"") -> Request:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    return Request(
        {
            "type": "http",
            "method": "GET",
            "path": "/voice",
            "raw_path": b"/voice",
            "query_string": query,
            "headers": raw,
            "client": (client, 1),
        }
    )


def test_a_configured_address_is_used_whatever_the_headers_say() -> None:
    urls = PublicUrl("https://calls.example.com/", trusted_proxies=("203.0.113.9",))
    asked = request({"host": "evil.example", "x-forwarded-host": "evil.example"}, query=b"a=%20b")
    assert urls.called(asked) == "https://calls.example.com/voice?a=%20b"
    assert urls.media(asked, "/media/twilio") == "wss://calls.example.com/media/twilio"


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1", "[::1]:9", "phone.lan:80"])
def test_this_machine_and_the_bound_address_need_no_setting(host: str) -> None:
    assert PublicUrl(bound="phone.lan").base_of(request({"host": host})) == f"http://{host}"


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "localhost@evil", "", "a b", "x\r\ny"])
def test_fault_75_any_other_host_is_refused(host: str) -> None:
    with pytest.raises(BadRequest, match="Host"):
        PublicUrl(bound="phone.lan").base_of(request({"host": host}))


def test_fault_75_forwarded_headers_count_from_a_named_proxy_only() -> None:
    urls = PublicUrl(trusted_proxies=("10.0.0.1",))
    headers = {"host": "localhost", "x-forwarded-proto": "https", "x-forwarded-host": "evil.example, calls.example.com"}
    assert urls.base_of(request(headers)) == "http://localhost"
    assert urls.base_of(request(headers, client="10.0.0.1")) == "https://calls.example.com"


async def test_fault_75_a_webhook_under_a_foreign_name_is_400(autojump_clock: MockClock) -> None:
    async with front() as at:
        reply = await at.webhook("/voice", b'{"id":"CA1"}', host="evil.example")
        assert reply.status == 400
        assert b"server.public_url" in reply.body


@settings(max_examples=50, deadline=None)
@given(host=st.text(st.characters(max_codepoint=255), max_size=40))
def test_no_host_header_puts_anything_but_a_name_into_a_url(host: str) -> None:
    urls = PublicUrl(trusted_proxies=("10.0.0.1",))
    try:
        base = urls.base_of(request({"host": host}, client="10.0.0.1"))
    except BadRequest:
        return
    assert base == f"http://{host}"
    assert not set(base.removeprefix("http://")) & set("/?#@\\ \r\n\"'<>&")
