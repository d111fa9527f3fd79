"""Keys of the HTTP API, and the gate that asks for them."""

from __future__ import annotations

import pytest
import structlog
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from engine.errors import SettingsError
from engine.web.gate import DEVELOPER, NOT_CONFIGURED, Access
from engine.web.keys import Scope, parse_keys
from engine.web.urls import PublicUrl
from tests.web.desk import CALLER, FakeDesk
from tests.web.support import KEY, KEYS, Front, front

OTHER = "another-key-0123456789"


def access(text: str = KEYS, *, per_minute: int = 120, wrong_per_minute: int = 30) -> Access:
    return Access(parse_keys(text), per_minute=per_minute, wrong_per_minute=wrong_per_minute)


# --- the setting --------------------------------------------------------------------------------------------


def test_keys_are_found_with_their_names_and_scopes() -> None:
    keys = parse_keys(f"crm:turn+history:{KEY}, ops:admin:{OTHER}\n")
    found = keys.find(OTHER)
    assert found is not None
    assert found.name == "ops"
    assert found.scopes == frozenset({Scope.ADMIN})
    assert len(keys) == 2
    assert keys.has(Scope.TURN)
    assert not keys.has(Scope.METRICS)
    assert keys.find("wrong") is None
    assert keys.find("") is None


def test_a_key_may_hold_colons() -> None:
    found = parse_keys("crm:turn:a:b:c:0123456789abc").find("a:b:c:0123456789abc")
    assert found is not None


@pytest.mark.parametrize("text", ["", " ", " ,\n"])
def test_no_keys_are_no_keys(text: str) -> None:
    assert not parse_keys(text)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (OTHER, "expected name:scope"),
        (f"crm:{OTHER}", "expected name:scope"),
        (f":turn:{OTHER}", "name of letters"),
        (f"cr/m:turn:{OTHER}", "name of letters"),
        (f"crm::{OTHER}", "expected scopes out of turn, history"),
        (f"crm:turn+root:{OTHER}", "expected scopes out of turn, history"),
        ("crm:turn:0123456789abcde", "at least 16"),
        ("crm:turn:0123456789abcdé", "plain characters"),
        (f"all:turn:{OTHER}", "a name of its own"),
        (f"crm:turn:{KEY}", "a key of its own"),
    ],
)
def test_a_wrong_entry_is_named_by_its_place_and_never_by_its_words(entry: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why) as caught:
        parse_keys(f"{KEYS} {entry}")
    assert str(caught.value).startswith("API_KEYS: entry 2: ")
    assert OTHER not in str(caught.value)
    assert KEY not in str(caught.value)


@given(st.text(max_size=60))
def test_nothing_that_is_written_there_gets_into_the_message(text: str) -> None:
    secret = "s3cr3t-" + "x" * 20
    with pytest.raises(SettingsError) as caught:
        parse_keys(f"{text} /:turn:{secret}")
    assert secret not in str(caught.value)


def test_a_key_is_in_no_repr() -> None:
    keys = parse_keys(KEYS)
    assert KEY not in repr(keys.find(KEY))
    assert KEY not in repr(Access(keys))


# --- the gate -----------------------------------------------------------------------------------------------


async def test_fault_80_without_a_key_it_is_401_and_with_a_wrong_one_too(autojump_clock: MockClock) -> None:
    async with front(desk=FakeDesk().as_desk(), access=access()) as at:
        for headers, code, why in [
            ({}, "unauthorized", "no_key"),
            ({"authorization": f"Bearer {KEY}x"}, "wrong_key", "wrong_key"),
            ({"authorization": f"Basic {KEY}"}, "unauthorized", "no_key"),
            ({"x-api-key": KEY[:-1]}, "wrong_key", "wrong_key"),
        ]:
            before = at.count("api_refusals_total", why=why)
            reply = await at.ask("GET", "/admin/audit", headers=headers)
            assert (reply.status, reply.code) == (401, code)
            assert reply.headers["www-authenticate"] == "Bearer"
            assert at.count("api_refusals_total", why=why) == before + 1


@pytest.mark.parametrize(
    "headers",
    [{"authorization": f"Bearer {KEY}"}, {"authorization": f"bearer  {KEY}"}, {"x-api-key": KEY}],
)
async def test_a_key_may_come_in_either_header(headers: dict[str, str], autojump_clock: MockClock) -> None:
    async with front(desk=FakeDesk().as_desk(), access=access()) as at:
        assert (await at.ask("GET", "/admin/audit", headers=headers)).status == 200


WANTED = [
    ("POST", "/turn", "turn"),
    ("POST", "/session/reset", "turn"),
    ("GET", f"/admin/session/{CALLER}", "admin"),
    ("GET", f"/admin/customer/{CALLER}/analytics", "admin"),
    ("GET", "/admin/audit", "admin"),
    ("GET", f"/privacy/export/{CALLER}", "privacy"),
    ("DELETE", f"/privacy/delete/{CALLER}", "privacy"),
    ("GET", "/api/search?q=x", "history"),
    ("GET", "/api/sessions/s_1", "history"),
    ("GET", "/api/sessions/s_1/messages", "history"),
    ("PATCH", "/api/sessions/s_1/messages/m_1", "history"),
    ("POST", "/api/sessions/s_1/branch", "history"),
    ("POST", "/api/sessions/s_1/handover", "history"),
    ("GET", "/api/sessions/s_1/export", "history"),
    ("GET", "/api/sessions/s_1/trace", "history"),
    ("GET", "/api/sessions/s_1/validation", "history"),
    ("GET", "/metrics", "metrics"),
]


async def test_fault_80_each_route_wants_its_scope() -> None:
    scopes = [scope.value for scope in Scope]
    keys = {scope: f"key-of-scope-{scope}-0" for scope in scopes} | {f"no-{s}": f"key-of-all-but-{s}" for s in scopes}
    text = " ".join(
        [f"{scope}:{scope}:{keys[scope]}" for scope in scopes]
        + [f"no-{s}:{'+'.join(x for x in scopes if x != s)}:{keys[f'no-{s}']}" for s in scopes]
    )
    async with front(desk=FakeDesk().as_desk(), access=access(text)) as at:
        for method, path, scope in WANTED:
            reply = await at.api(method, path, {"text": "x"}, keys[f"no-{scope}"])
            assert (reply.status, reply.code) == (403, "scope")
            assert scope.encode() in reply.body
            assert (await at.api(method, path, {"text": "x"}, "")).status == 401
            assert (await at.api(method, path, {"text": "x"}, keys[scope])).status not in (401, 403)
        assert at.count("api_refusals_total", why="scope") == len(WANTED)


async def test_who_looks_at_other_peoples_words_leaves_a_line_without_the_number(autojump_clock: MockClock) -> None:
    desk = FakeDesk()
    desk.begin("caller", CALLER)
    async with front(desk=desk.as_desk(), access=access()) as at:
        with structlog.testing.capture_logs() as logs:
            await at.api("GET", f"/admin/session/{CALLER}")
            await at.api("POST", "/turn", {"text": "hello"})
        assert [(line["event"], line["by"], line["operation"]) for line in logs] == [
            ("api_asked", "all", "callerSessions")
        ]
        assert CALLER[1:] not in str(logs)


async def test_one_key_is_limited_and_others_are_not(autojump_clock: MockClock) -> None:
    keys = f"one:admin:{KEY} two:admin:{OTHER}"
    async with front(desk=FakeDesk().as_desk(), access=access(keys, per_minute=3)) as at:
        replies = [await at.api("GET", "/admin/audit") for _ in range(4)]
        assert [reply.status for reply in replies] == [200, 200, 200, 429]
        assert replies[-1].code == "rate_limit"
        assert replies[-1].headers["retry-after"] == "60"
        assert at.count("api_refusals_total", why="rate_limit") == 1
        assert (await at.api("GET", "/admin/audit", key=OTHER)).status == 200
        await trio.sleep(60)
        assert (await at.api("GET", "/admin/audit")).status == 200


async def guess(at: Front, key: str, peer: str) -> int:
    return (await at.api("GET", "/admin/audit", key=key, **{"x-forwarded-for": peer})).status


async def test_who_guesses_keys_is_soon_not_listened_to_and_others_are(autojump_clock: MockClock) -> None:
    urls = PublicUrl(trusted_proxies=("", "127.0.0.1"))
    async with front(desk=FakeDesk().as_desk(), access=access(wrong_per_minute=3), urls=urls) as at:
        assert [await guess(at, "guess-0123456789ab", "192.0.2.1") for _ in range(4)] == [401, 401, 401, 429]
        assert await guess(at, KEY, "192.0.2.1") == 200  # many may share an address, behind a proxy
        assert await guess(at, "guess-0123456789ab", "192.0.2.2") == 401
        await trio.sleep(60)
        assert await guess(at, "guess-0123456789ab", "192.0.2.1") == 401


async def test_without_keys_the_api_says_what_it_wants(autojump_clock: MockClock) -> None:
    async with front(desk=FakeDesk().as_desk()) as at:
        reply = await at.api("POST", "/turn", {"text": "hello"})
        assert (reply.status, reply.code) == (503, "not_configured")
        assert "API_KEYS" in NOT_CONFIGURED
        assert NOT_CONFIGURED.encode() in reply.body


async def test_a_developer_needs_no_key_under_a_name_of_this_machine(autojump_clock: MockClock) -> None:
    desk = FakeDesk()
    desk.begin("caller", CALLER)
    async with front(desk=desk.as_desk(), access=Access(insecure=True)) as at:
        assert (await at.ask("DELETE", f"/privacy/delete/{CALLER}")).status == 200
        assert desk.events[0].by == DEVELOPER
        reply = await at.ask("GET", "/admin/audit", headers={"host": "evil.example"})
        assert reply.status == 400
        assert b"evil" not in reply.body


async def test_with_keys_a_developer_needs_one_too(autojump_clock: MockClock) -> None:
    keys = Access(parse_keys(KEYS), insecure=True)
    async with front(desk=FakeDesk().as_desk(), access=keys) as at:
        assert (await at.ask("GET", "/admin/audit")).status == 401


async def test_the_metrics_are_open_until_somebody_has_a_key_to_them() -> None:
    async with front(access=access(f"one:admin:{KEY}")) as at:
        assert (await at.ask("GET", "/metrics")).status == 200
    async with front(access=access()) as at:
        assert (await at.ask("GET", "/metrics")).status == 401
        assert (await at.api("GET", "/metrics")).status == 200
        assert (await at.ask("GET", "/readyz")).status == 200


async def test_without_a_desk_the_routes_say_so(autojump_clock: MockClock) -> None:
    async with front(access=access()) as at:
        for method, path in [("POST", "/turn"), ("DELETE", "/privacy/delete/{phone}"), ("GET", "/api/search")]:
            reply = await at.api(method, path)
            assert (reply.status, reply.code) == (503, "not_configured")


def test_a_peer_is_known_by_what_the_nearest_trusted_proxy_says() -> None:
    from tests.web.test_webhooks import request

    urls = PublicUrl(trusted_proxies=("10.0.0.1", "10.0.0.2"))
    forged = {"x-forwarded-for": "1.1.1.1, 192.0.2.7, 10.0.0.2"}
    assert urls.peer_of(request(forged, client="10.0.0.1")) == "192.0.2.7"
    assert urls.peer_of(request(forged, client="203.0.113.9")) == "203.0.113.9"
    assert urls.peer_of(request({"x-forwarded-for": "nonsense"}, client="10.0.0.1")) == "unknown"
    assert urls.peer_of(request({}, client="2001:db8::1:2")) == urls.peer_of(request({}, client="2001:db8::3"))
