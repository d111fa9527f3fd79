"""The OpenAPI document is true: a validator reads it, schemathesis drives what it promises."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

import openapi_spec_validator
import pytest
import trio
from trio.testing import MockClock

from engine.observe.labels import ROUTES
from engine.observe.metrics import Metrics
from engine.storage.identity import caller_key
from engine.web.gate import Access
from engine.web.keys import parse_keys
from tests.web.api_judge import NUMBERS, check_api
from tests.web.calls_desk import call_desk
from tests.web.desk import FakeDesk
from tests.web.support import KEY, KEYS, FakeSwitchboard, build_door, front

if TYPE_CHECKING:
    from engine.sessions.history import History
    from engine.sessions.house import Sessions
    from engine.sessions.privacy import Privacy
    from engine.web.desk import Desk

    def the_real_parts_are_a_desk(sessions: Sessions, history: History, privacy: Privacy) -> Desk:
        return Desk(sessions, history, privacy)


ACCESS = Access(parse_keys(KEYS), per_minute=100_000, wrong_per_minute=100_000)
OF_PROVIDERS = ("/voice", "/sms", "/vonage/", "/twilio/", "/telnyx/", "/plivo/", "/signalwire/", "/media/")
DOCUMENTED = {path for path in ROUTES if not path.startswith(OF_PROVIDERS)}


async def document(access: Access = ACCESS, *, with_desk: bool = True) -> Any:
    async with call_desk() as calls:
        parts: Any = {"desk": FakeDesk().as_desk(), "calls": calls} if with_desk else {}
        return await _document_of(access, parts)


async def _document_of(access: Access, parts: Any) -> Any:
    async with front(access=access, **parts) as at:
        reply = await at.ask("GET", "/openapi.json")
        assert reply.headers["content-type"] == "application/json"
        return reply.json


@pytest.mark.parametrize("with_desk", [True, False])
async def test_the_document_is_valid(with_desk: bool, autojump_clock: MockClock) -> None:
    openapi_spec_validator.validate(await document(with_desk=with_desk))


async def test_every_route_is_in_it_but_the_providers(autojump_clock: MockClock) -> None:
    assert set((await document())["paths"]) == DOCUMENTED


async def test_every_operation_has_a_name_of_its_own_and_tells_its_errors(autojump_clock: MockClock) -> None:
    paths = (await document())["paths"]
    operations = [operation for methods in paths.values() for operation in methods.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    for operation in operations:
        assert {"400", "413", "500", "503"} < set(operation["responses"])
        if "security" in operation:
            assert {"401", "403", "429", "504"} < set(operation["responses"]) or operation["operationId"] == "metrics"
    turn = paths["/turn"]["post"]
    assert {"404", "502"} < set(turn["responses"])
    assert turn["security"] == [{"bearer": ["turn"]}, {"header": ["turn"]}]
    assert paths["/session/reset"]["post"]["requestBody"]["required"] is False


async def test_limits_are_in_the_schemas(autojump_clock: MockClock) -> None:
    schemas = (await document())["components"]["schemas"]
    assert schemas["TurnBody"]["additionalProperties"] is False
    assert schemas["TurnBody"]["required"] == ["text"]
    assert schemas["TurnBody"]["properties"]["text"]["maxLength"] == 4000
    assert set(schemas["Error"]["properties"]) == {"error"}


async def test_keys_are_in_it_where_they_are_asked_for(autojump_clock: MockClock) -> None:
    def asks(paths: Any, path: str) -> bool:
        return any("security" in operation for operation in paths[path].values())

    with_all = (await document())["paths"]
    assert asks(with_all, "/metrics")
    assert asks(with_all, "/admin/audit")
    assert not asks(with_all, "/healthz")
    assert not asks(with_all, "/openapi.json")
    assert not asks((await document(Access(parse_keys(f"a:admin:{KEY}"))))["paths"], "/metrics")
    developers = (await document(Access(insecure=True)))["paths"]
    assert not any(asks(developers, path) for path in developers)


# --- schemathesis -------------------------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.timeout(200)
async def test_the_api_does_what_its_document_says() -> None:
    desk = FakeDesk()
    for number in NUMBERS:
        desk.begin(caller_key(number), number)
    async with call_desk() as calls, trio.open_nursery() as nursery:
        door = build_door(FakeSwitchboard(), Metrics(), desk=desk.as_desk(), calls=calls, access=ACCESS)
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(partial(door.serve, listeners))
        report = await check_api(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}", KEY)
        nursery.cancel_scope.cancel()
    tested = re.search(r"Tested: (\d+)", report)
    assert tested is not None
    operations = sum(len(methods) for methods in (await document())["paths"].values())
    assert int(tested[1]) == operations - 1  # it does not ask for the document again
