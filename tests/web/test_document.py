"""The OpenAPI document is true."""

from __future__ import annotations

from functools import partial

import trio

from engine.observe.metrics import Metrics
from engine.web.gate import Access
from engine.web.keys import parse_keys
from tests.web.api_judge import check_api
from tests.web.desk import FakeDesk
from tests.web.support import KEY, KEYS, FakeSwitchboard, build_door


async def test_the_api_does_what_its_document_says() -> None:
    access = Access(parse_keys(KEYS), per_minute=100_000, wrong_per_minute=100_000)
    desk = FakeDesk()
    door = build_door(FakeSwitchboard(), Metrics(), desk=desk.as_desk(), access=access)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        await nursery.start(partial(door.serve, listeners))
        await desk.turn("hello", stream_id="default")
        print(await check_api(f"http://127.0.0.1:{port}", KEY))
        nursery.cancel_scope.cancel()
