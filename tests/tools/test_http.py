"""A tool that is an HTTP endpoint: what it is sent, what of its answer the model sees, and where it may lie."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from standardwebhooks import Webhook

from engine.errors import SettingsError, ToolFailed
from engine.events import ToolSpec
from engine.ports import ToolScope
from engine.runtime.guarded_http import Answer, Forbidden, GuardedHttp, Unreachable
from engine.tools.http import HttpTool, check_endpoint
from tests.adapters.providers.rest_api import ApiRequest, rest_api
from tests.tools.scripted import NUMBER, SESSION, Control, context

SPEC = ToolSpec("look_up", "Looks up.")
SCOPE = ToolScope(SESSION, Control(), context())
URL = "https://shop.example.com/look-up"


class Far:
    """Whoever is asked, without a network."""

    def __init__(self, answer: Answer | Exception) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str, Mapping[str, str], bytes]] = []

    async def request(self, method: str, url: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        self.asked.append((method, url, headers, body))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def json(status: int, value: object) -> Answer:
    return Answer(status, "application/json", orjson.dumps(value), is_whole=True)


async def run(
    answer: Answer | Exception, arguments: Mapping[str, Any] | None = None, **options: Any
) -> tuple[str, Far]:
    far = Far(answer)
    return await HttpTool(SPEC, URL, far, **options).run(arguments or {}, SCOPE), far


async def test_the_arguments_go_out_as_json_with_the_session() -> None:
    text, far = await run(json(200, {"price": 3}), {"item": "pen"}, headers={"Authorization": "Bearer k"})
    assert text == '{"price":3}'
    ((method, url, headers, body),) = far.asked
    assert (method, url) == ("POST", URL)
    assert orjson.loads(body) == {"item": "pen", "session_id": "s-1"}
    assert headers["authorization"] == "Bearer k"
    assert headers["content-type"] == "application/json"
    assert NUMBER.encode() not in body


async def test_get_has_them_in_its_query() -> None:
    far = Far(json(200, []))
    tool = HttpTool(SPEC, f"{URL}?v=1", far, method="GET", tells_caller=True)
    await tool.run({"item": "a pen & ink", "count": 2, "tags": ["x"]}, SCOPE)
    ((method, url, headers, body),) = far.asked
    query = "item=a%20pen%20%26%20ink&count=2&tags=%5B%22x%22%5D&session_id=s-1&caller=%2B15550100001"
    assert (method, url, body) == ("GET", f"{URL}?v=1&{query}", b"")
    assert "content-type" not in headers


@settings(max_examples=40, deadline=None)
@given(
    arguments=st.dictionaries(
        st.sampled_from(["caller", "session_id", "item", "Caller"]), st.text(max_size=5) | st.just("+15550100002")
    ),
    tells_caller=st.booleans(),
    method=st.sampled_from(["POST", "GET"]),
)
def test_the_caller_is_the_calls_own_whatever_the_model_says(
    arguments: dict[str, str], tells_caller: bool, method: str
) -> None:
    """FAULTS 81."""

    async def go() -> None:
        _, far = await run(json(200, {}), arguments, tells_caller=tells_caller, method=method)
        ((_, url, _, body),) = far.asked
        if method == "POST":
            sent = orjson.loads(body)
            assert sent.get("caller") == (NUMBER if tells_caller else None)
            assert sent["session_id"] == "s-1"
        else:
            assert url.count("&caller=") + url.count("?caller=") == tells_caller

    trio.run(go)


async def test_a_signed_request_is_taken_by_the_official_verifier() -> None:
    key = b"k" * 32
    _, far = await run(json(200, {}), {"item": "pen"}, key=key)
    ((_, _, headers, body),) = far.asked
    Webhook("whsec_" + base64.b64encode(key).decode()).verify(body, dict(headers))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (json(404, {"error": "no such order"}), 'the error 404. {"error":"no such order"}'),
        (Answer(500, "text/html", b"<html>canary</html>", is_whole=True), "It answered with the error 500."),
        (Answer(307, "", b"", is_whole=True), "the error 307"),
        (Answer(200, "image/png", b"\x89PNG", is_whole=True), "other than text or JSON"),
        (Forbidden("inside"), "It cannot be reached."),
        (Unreachable("nobody there"), "It did not answer."),
    ],
)
async def test_what_is_no_answer_is_a_failure_in_words(answer: Answer | Exception, says: str) -> None:
    with pytest.raises(ToolFailed) as caught:
        await run(answer)
    assert says in str(caught.value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (Answer(200, "text/plain", "größer".encode(), is_whole=True), "größer"),
        (Answer(200, "application/problem+json", b"{}", is_whole=True), "{}"),
        (Answer(204, "", b"", is_whole=True), "Done."),
        (Answer(200, "text/plain", b"\xff\xfe", is_whole=True), "\ufffd\ufffd"),
    ],
)
async def test_text_and_json_are_shown_as_they_are(answer: Answer, text: str) -> None:
    assert (await run(answer))[0] == text


async def test_over_a_real_socket_on_this_machine_only_if_it_is_allowed() -> None:
    def answer(request: ApiRequest) -> tuple[int, bytes]:
        return 200, request.body

    async with rest_api(answer) as api:
        tool = HttpTool(SPEC, f"{api.base}/x", GuardedHttp(allow_private=True))
        assert orjson.loads(await tool.run({"item": "pen"}, SCOPE)) == {"item": "pen", "session_id": "s-1"}
        with pytest.raises(ToolFailed, match="cannot be reached"):
            await HttpTool(SPEC, f"{api.base}/x", GuardedHttp()).run({}, SCOPE)
        assert len(api.requests) == 1


@pytest.mark.parametrize(
    ("check", "says"),
    [
        (lambda: check_endpoint("http://example.com/", {}, allow_private=False), "not https; allow_private allows it"),
        (lambda: check_endpoint("https://10.0.0.1/", {}, allow_private=False), "an address inside"),
        (lambda: check_endpoint("nonsense", {}, allow_private=True), "got not https"),
        (lambda: check_endpoint(URL, {"X A": "b"}, allow_private=False), "no name of a header"),
        (lambda: check_endpoint(URL, {"X-A": "b\r\nY: z"}, allow_private=False), "headers.X-A"),
    ],
)
def test_an_endpoint_that_cannot_be_used_is_told_at_the_start(check: Callable[[], None], says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check()
    assert says in str(caught.value)


def test_a_key_is_in_no_repr() -> None:
    tool = HttpTool(SPEC, URL, Far(json(200, {})), headers={"Authorization": "Bearer canary"}, key=b"canary")
    assert "canary" not in repr(tool)
