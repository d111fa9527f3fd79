"""The HTTP API of sessions: what each route does, and what it says when it cannot."""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import quote

import pytest
import structlog
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message
from trio.testing import MockClock

from engine.errors import Busy, ModelFailed, RateLimited, StoreDown
from engine.web.answers import Denied
from engine.web.gate import Access
from engine.web.inputs import read_body
from engine.web.keys import parse_keys
from engine.web.shapes import TurnBody
from tests.web.desk import AT, CALLER, FakeDesk
from tests.web.support import KEY, KEYS, Front, Reply, front

OPEN = Access(parse_keys(KEYS))
JSON_HEADERS = {"x-api-key": KEY, "content-type": "application/json"}


def value(reply: Reply) -> Any:
    return reply.json


async def say(at: Front, text: str, **fields: str) -> Any:
    reply = await at.api("POST", "/turn", {"text": text, **fields})
    assert reply.status == 200, reply.body
    return reply.json


# --- turns --------------------------------------------------------------------------------------------------


async def test_a_turn_is_answered_on_its_streams_session(autojump_clock: MockClock) -> None:
    desk = FakeDesk()
    async with front(desk=desk.as_desk(), access=OPEN) as at:
        first = await say(at, "hello", stream_sid="MZ1")
        assert first == {
            "session_id": "s_1",
            "turn_id": first["turn_id"],
            "text": "You said: hello",
            "agent": "desk",
            "is_over": False,
        }
        again = await say(at, "Goodbye", stream_sid="MZ1")
        assert (again["session_id"], again["is_over"]) == ("s_1", True)
        assert (await say(at, "hello"))["session_id"] != "s_1"
        assert at.count("texts_total", modality="text", outcome="answered") == 3
        assert at.count("http_requests_total", route="/turn", method="POST", code="2xx") == 3


async def test_a_turn_may_name_its_agent(autojump_clock: MockClock) -> None:
    async with front(desk=FakeDesk().as_desk(), access=OPEN) as at:
        assert (await say(at, "hello", agent="sales"))["agent"] == "sales"
        reply = await at.api("POST", "/turn", {"text": "hello", "agent": "nobody"})
        assert reply.status == 404
        assert value(reply)["error"]["field"] == "agent"
        assert value(reply)["error"]["message"] == "agent: there is no such agent; there are: desk, sales"


@pytest.mark.parametrize("body", [None, {}, {"stream_sid": "default"}])
async def test_a_reset_clears_the_default_stream_if_none_is_named(body: object, autojump_clock: MockClock) -> None:
    async with front(desk=FakeDesk().as_desk(), access=OPEN) as at:
        await say(at, "hello")
        assert value(await at.api("POST", "/session/reset", body)) == {"stream_sid": "default", "was_there": True}
        assert value(await at.api("POST", "/session/reset", body)) == {"stream_sid": "default", "was_there": False}


@pytest.mark.parametrize(
    ("fails", "status", "code", "outcome", "retry_after"),
    [
        (StoreDown("timeout"), 503, "store_down", "store_down", "2"),
        (Busy("full"), 429, "busy", "rate_limit", "1"),
        (RateLimited(12.3), 429, "rate_limit", "rate_limit", "13"),
        (ModelFailed("openai", "secret words"), 502, "vendor_failed", "failed", None),
        (trio.TooSlowError(), 504, "too_slow", "failed", None),
        (RuntimeError("secret words"), 500, "internal_error", "failed", None),
    ],
)
async def test_a_turn_that_fails_says_how_and_nothing_more(  # noqa: PLR0917 - one a column
    fails: Exception, status: int, code: str, outcome: str, retry_after: str | None, autojump_clock: MockClock
) -> None:
    async with front(desk=FakeDesk(fails=fails).as_desk(), access=OPEN) as at:
        with structlog.testing.capture_logs():
            reply = await at.api("POST", "/turn", {"text": "hello"})
        assert (reply.status, reply.code) == (status, code)
        assert reply.headers.get("retry-after") == retry_after
        assert b"secret" not in reply.body
        assert at.count("texts_total", modality="text", outcome=outcome) == 1


async def test_before_there_are_agents_a_turn_is_to_be_asked_again(autojump_clock: MockClock) -> None:
    async with front(desk=FakeDesk(agents=()).as_desk(), access=OPEN) as at:
        reply = await at.api("POST", "/turn", {"text": "hello", "agent": "desk"})
        assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "starting", "5")


async def test_a_turn_has_a_deadline_of_its_own(autojump_clock: MockClock) -> None:
    async with front(desk=FakeDesk(stalls_s=math.inf).as_desk(), access=OPEN, turn_s=3.0) as at:
        assert (await at.api("POST", "/turn", {"text": "hello"})).status == 504
        assert trio.current_time() == pytest.approx(3.0)


# --- what is wrong with a request -----------------------------------------------------------------------------


NOT_AN_ID = "expected 1 to 128 letters, digits and _ . : -"
WRONG_BODIES = [
    (b"{}", "text", "text: expected, it is missing"),
    (b'{"text":""}', "text", "text: expected at least 1 character"),
    (b'{"text":" \\n "}', "text", "text: expected something besides blanks, without NUL"),
    (b'{"text":"a\\u0000b"}', "text", "text: expected something besides blanks, without NUL"),
    (b'{"text":"' + b"a" * 4001 + b'"}', "text", "text: expected at most 4000 characters"),
    (b'{"text":5}', "text", "text: expected a string, got a whole number"),
    (b'{"text":null}', "text", "text: expected a string, got null"),
    (b'{"text":"a","agent":null}', "agent", "agent: expected a string, got null"),
    (b'{"text":"a","stream_id":"x"}', "stream_id", "stream_id: there is no such field"),
    (b'{"text":"a","\\u202ex\\n":1}', "?x?", "?x?: there is no such field"),
    (b'{"text":"a","stream_sid":"a b"}', "stream_sid", f"stream_sid: {NOT_AN_ID}"),
    (
        b'{"text":"a","stream_sid":"a\\n"}',
        "stream_sid",
        f"stream_sid: {NOT_AN_ID}",
    ),
    (b"[]", None, "The body: expected an object, got a list"),
    (b"", None, "The body is not valid JSON in UTF-8."),
    (b'{"text":"\\ud800"}', None, "The body is not valid JSON in UTF-8."),
    (b'{"text":"\xff"}', None, "The body is not valid JSON in UTF-8."),
    (b'{"text":"a"} trailing', None, "The body is not valid JSON in UTF-8."),
    (b"[" * 60_000, None, "The body: expected an object, got a list"),
]


async def test_a_wrong_body_is_400_and_names_what_is_wrong(autojump_clock: MockClock) -> None:
    desk = FakeDesk()
    async with front(desk=desk.as_desk(), access=OPEN) as at:
        for body, field, message in WRONG_BODIES:
            reply = await at.ask("POST", "/turn", body, JSON_HEADERS)
            assert reply.status == 400
            assert value(reply)["error"]["message"] == message
            assert value(reply)["error"].get("field") == field
        assert desk.asked == []


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_a_body_that_is_not_json_is_415(kind: str, autojump_clock: MockClock) -> None:
    async with front(desk=FakeDesk().as_desk(), access=OPEN) as at:
        reply = await at.api("POST", "/turn", {"text": "a"}, **{"content-type": kind})
        assert (reply.status, reply.code) == (415, "unsupported_media_type")


async def test_json_may_name_its_charset(autojump_clock: MockClock) -> None:
    async with front(desk=FakeDesk().as_desk(), access=OPEN) as at:
        named = {"content-type": "Application/JSON; charset=utf-8"}
        assert (await at.api("POST", "/turn", {"text": "a"}, **named)).status == 200


WRONG_QUERIES = [
    ("", "q: expected, it is missing"),
    ("q=", "q: expected at least 1 character"),
    ("q=%20", "q: expected something besides blanks, without NUL"),
    ("q=a%00", "q: expected something besides blanks, without NUL"),
    ("q=a&limit=0", "limit: expected at least 1"),
    ("q=a&limit=101", "limit: expected at most 100"),
    ("q=a&limit=many", "limit: expected a whole number, got a string"),
    ("q=a&limit=1&limit=2", "limit: expected once, it is given twice"),
    ("q=a&sesion_id=x", "sesion_id: there is no such field"),
    ("q=a&session_id=", f"session_id: {NOT_AN_ID}"),
]


async def test_a_wrong_query_is_400_and_names_the_parameter(autojump_clock: MockClock) -> None:
    async with front(desk=FakeDesk().as_desk(), access=OPEN) as at:
        for query, message in WRONG_QUERIES:
            reply = await at.api("GET", f"/api/search?{query}")
            assert reply.status == 400
            assert value(reply)["error"]["message"] == message


@settings(max_examples=50, deadline=None)
@given(body=st.binary(max_size=200) | st.text(max_size=50).map(lambda text: f'{{"text":{text}}}'.encode()))
async def test_no_body_whatever_breaks_anything(body: bytes) -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}
    try:
        assert (await read_body(Request(scope, receive), TurnBody)).text
    except Denied as denied:
        assert denied.status == 400  # noqa: PT017 - either is fine


async def test_another_method_is_405_and_tells_which_there_are(autojump_clock: MockClock) -> None:
    async with front(desk=FakeDesk().as_desk(), access=OPEN) as at:
        for method, path, allowed in [
            ("GET", "/turn", "POST"),
            ("HEAD", "/turn", "POST"),
            ("DELETE", "/privacy/export/x", "GET, HEAD"),
            ("PUT", "/api/sessions/s_1", "GET, HEAD"),
            ("OPTIONS", "/privacy/delete/x", "DELETE"),
        ]:
            reply = await at.api(method, path)
            assert (reply.status, reply.headers["allow"]) == (405, allowed)


async def test_a_head_is_answered_as_a_get_without_its_body(autojump_clock: MockClock) -> None:
    desk = FakeDesk()
    session_id = desk.begin("stream:x").record.session_id
    async with front(desk=desk.as_desk(), access=OPEN) as at:
        for path in (f"/api/sessions/{session_id}", "/api/sessions/s_9", "/openapi.json", "/healthz"):
            whole, head = await at.api("GET", path), await at.api("HEAD", path)
            assert (head.status, head.body) == (whole.status, b"")
            assert head.headers["content-length"] == whole.headers["content-length"] == str(len(whole.body))
        assert (await at.ask("HEAD", "/api/sessions/x")).status == 401


# --- callers ------------------------------------------------------------------------------------------------


async def test_fault_87_a_phone_may_be_spelt_in_any_way(autojump_clock: MockClock) -> None:
    desk = FakeDesk()
    session_id = desk.begin("caller", CALLER).record.session_id
    spellings = [CALLER, "%2B15550100000", "15550100000", "0015550100000", "+1 (555) 010-0000", "(555) 010-0000"]
    async with front(desk=desk.as_desk(), access=OPEN) as at:
        for phone in spellings:
            reply = await at.api("GET", f"/admin/session/{quote(phone, safe='%+()')}")
            assert reply.status == 200
            assert value(reply)["number"] == CALLER
            assert [one["session_id"] for one in value(reply)["sessions"]] == [session_id]
        route = "/admin/session/{phone}"
        assert at.count("http_requests_total", route=route, method="GET", code="2xx") == len(spellings)


async def test_what_is_no_phone_number_is_400(autojump_clock: MockClock) -> None:
    desk = FakeDesk()
    async with front(desk=desk.as_desk(), access=OPEN) as at:
        for phone in ("anonymous", "+266696687", "12", "x", "%00", "%ff", "sip:a@b", "1" * 41):
            for method, path in [("GET", "/admin/session"), ("GET", "/privacy/export"), ("DELETE", "/privacy/delete")]:
                reply = await at.api(method, f"{path}/{phone}")
                assert reply.status == 400
                assert value(reply)["error"]["field"] == "phone"
        assert desk.events == []


async def test_a_session_is_shown_with_all_that_is_known(autojump_clock: MockClock) -> None:
    desk = FakeDesk()
    desk.begin(f"caller:{CALLER}", CALLER)
    async with front(desk=desk.as_desk(), access=OPEN) as at:
        session = value(await at.api("GET", f"/admin/session/{CALLER}"))["sessions"][0]
        assert session["user"] == CALLER
        assert session["started_at"] == session["last_at"] == AT
        assert session["modality"] == "text"
        assert session["message_count"] == 0
        assert session["entities"] == {"day": "Monday"}
        assert session["summary"] == "Asked for a table."
        assert session["memory"] == [{"kind": "fact", "content": "has a dog", "confidence": 0.5}]
        assert value(await at.api("GET", f"/admin/customer/{CALLER}/analytics"))["sessions"] == 1


async def test_only_who_asks_by_the_number_sees_it(autojump_clock: MockClock) -> None:
    desk = FakeDesk()
    session_id = desk.begin(f"caller:{CALLER}", CALLER).record.session_id
    async with front(desk=desk.as_desk(), access=OPEN) as at:
        reply = await at.api("GET", f"/api/sessions/{session_id}")
        assert value(reply)["user"] == "***0000"
        assert b"555010" not in reply.body


async def test_a_number_of_which_nothing_is_kept_is_404_and_may_be_erased_all_the_same(
    autojump_clock: MockClock,
) -> None:
    async with front(desk=FakeDesk().as_desk(), access=OPEN) as at:
        for path in (f"/admin/session/{CALLER}", f"/admin/customer/{CALLER}/analytics", f"/privacy/export/{CALLER}"):
            assert (await at.api("GET", path)).status == 404
        assert value(await at.api("DELETE", f"/privacy/delete/{CALLER}")) == {"sessions": 0}


async def test_an_erased_caller_is_gone_and_the_audit_tells_by_whom(autojump_clock: MockClock) -> None:
    desk = FakeDesk()
    desk.begin(f"caller:{CALLER}", CALLER)
    async with front(desk=desk.as_desk(), access=OPEN) as at:
        exported = await at.api("GET", f"/privacy/export/{CALLER}")
        assert value(exported)["version"] == 1
        assert value(await at.api("DELETE", f"/privacy/delete/{CALLER}")) == {"sessions": 1}
        assert (await at.api("GET", f"/admin/session/{CALLER}")).status == 404
        events = value(await at.api("GET", "/admin/audit"))["events"]
        assert [(event["by"], event["what"]) for event in events] == [("all", "delete"), ("all", "export")]
        assert len(value(await at.api("GET", "/admin/audit?limit=1"))["events"]) == 1


# --- history ------------------------------------------------------------------------------------------------


async def test_messages_are_found_edited_branched_from_and_exported(autojump_clock: MockClock) -> None:
    desk = FakeDesk()
    async with front(desk=desk.as_desk(), access=OPEN) as at:
        session_id = (await say(at, "a red car"))["session_id"]
        await say(at, "a blue boat")
        base = f"/api/sessions/{session_id}"

        hits = value(await at.api("GET", "/api/search?q=Red&limit=1"))
        assert [hit["message"]["text"] for hit in hits["hits"]] == ["You said: a red car"]
        assert not hits["is_complete"]
        found = value(await at.api("GET", f"{base}/messages?q=boat"))["messages"]
        assert [message["role"] for message in found] == ["user", "assistant"]
        messages = value(await at.api("GET", f"{base}/messages"))["messages"]
        assert [message["agent"] for message in messages] == ["desk"] * 4

        edited = value(await at.api("PATCH", f"{base}/messages/{messages[0]['message_id']}", {"text": "a green car"}))
        assert (edited["text"], edited["original"]) == ("a green car", "a red car")
        assert desk.events[-1].by == "all"

        branch = await at.api("POST", f"{base}/branch", {"message_id": messages[1]["message_id"]})
        assert branch.status == 201
        assert value(branch)["parent"] == f"{session_id}/{messages[1]['message_id']}"
        copied = value(await at.api("GET", f"/api/sessions/{value(branch)['session_id']}"))["messages"]
        assert [message["text"] for message in copied] == ["a green car", "You said: a red car"]

        handed = value(await at.api("POST", f"{base}/handover", {"agent": "sales"}))
        assert handed == {"session_id": session_id, "agent": "sales"}
        assert (await say(at, "and now"))["agent"] == "sales"

        as_json = await at.api("GET", f"{base}/export")
        assert as_json.headers["content-type"] == "application/json"
        assert "a blue boat" in value(as_json)["messages"]
        as_markdown = await at.api("GET", f"{base}/export?format=markdown")
        assert as_markdown.headers["content-type"].startswith("text/markdown")
        assert b"> a blue boat" in as_markdown.body

        refused = await at.api("GET", f"{base}/export?format=xml")
        about = {"code": "bad_request", "message": "format: expected json or markdown", "field": "format"}
        assert (refused.status, refused.json) == (400, {"error": about})

        assert value(await at.api("GET", f"{base}/trace"))["events"][0]["what"] == "session_created"
        report = value(await at.api("GET", f"{base}/validation"))
        assert (report["is_valid"], report["turns"], report["problems"][0]["rule"]) == (False, 3, "empty")
        assert at.count("http_requests_total", route="/api/sessions/{session_id}/trace", method="GET", code="2xx") == 1


NOT_THERE: list[tuple[str, str, object]] = [
    ("GET", "/api/sessions/s_9", None),
    ("GET", "/api/sessions/s_9/messages", None),
    ("PATCH", "/api/sessions/s_9/messages/m_1", {"text": "x"}),
    ("PATCH", "/api/sessions/s_1/messages/m_9", {"text": "x"}),
    ("POST", "/api/sessions/s_9/branch", {"message_id": "m_1"}),
    ("POST", "/api/sessions/s_1/branch", {"message_id": "m_9"}),
    ("POST", "/api/sessions/s_9/handover", {"agent": "sales"}),
    ("POST", "/api/sessions/s_1/handover", {"agent": "nobody"}),
    ("GET", "/api/sessions/s_9/export", None),
    ("GET", "/api/sessions/s_9/trace", None),
    ("GET", "/api/sessions/s_9/validation", None),
]


async def test_what_is_not_there_is_404(autojump_clock: MockClock) -> None:
    desk = FakeDesk()
    desk.begin("stream:x")
    async with front(desk=desk.as_desk(), access=OPEN) as at:
        for method, path, body in NOT_THERE:
            reply = await at.api(method, path, body)
            assert (reply.status, reply.code) == (404, "not_found")


async def test_an_id_that_cannot_be_one_is_400(autojump_clock: MockClock) -> None:
    async with front(desk=FakeDesk().as_desk(), access=OPEN) as at:
        for session_id in ("a%00", "a%0a", "%20", "%c3%a9", "x" * 129):
            reply = await at.api("GET", f"/api/sessions/{session_id}")
            assert reply.status == 400
            assert value(reply)["error"]["field"] == "session_id"


async def test_every_route_says_503_when_the_store_is_down(autojump_clock: MockClock) -> None:
    async with front(desk=FakeDesk(fails=StoreDown("refused")).as_desk(), access=OPEN) as at:
        for method, path, body in [
            ("POST", "/session/reset", {}),
            ("GET", f"/admin/session/{CALLER}", None),
            ("DELETE", f"/privacy/delete/{CALLER}", None),
            ("GET", "/admin/audit", None),
            ("GET", "/api/search?q=a", None),
            ("POST", "/api/sessions/s_1/branch", {"message_id": "m"}),
        ]:
            reply = await at.api(method, path, body)
            assert (reply.status, reply.code) == (503, "store_down")
            assert reply.headers["retry-after"] == "2"
