"""A store that is stopped, killed, silent or locked in mid call, and comes back: nothing is lost, nothing is there
twice, and no caller hears anything of it; texts are told to come again.

OFFHOOK_OUTAGE_S says how long it is gone at least, OFFHOOK_SLOW_S how slow a slow one is; 2 s and 1 s by default.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import structlog
import trio

from engine.phone import twilio
from engine.phone.side import Callee
from engine.settings import Settings
from tests.fakes.servers import PostgresqlServer, RedisServer
from tests.faults.store_bench import (
    Caller,
    SlowLine,
    backlog_is,
    callers_words,
    export_of,
    greeted_s,
    quick_settings,
    strict_client,
)
from tests.system.session_rig import LINE, SECRET, Program, program, store_settings

OUTAGE_S = float(os.environ.get("OFFHOOK_OUTAGE_S", "2"))
SLOW_S = float(os.environ.get("OFFHOOK_SLOW_S", "1"))
WAIT_S = 0.7
"""So much longer may an answer take, or a greeting, than with a store. The engine gives a store 0.2 s; what is more is
for the machine, and less than any wait for the store would be."""
GAP_S = 0.1
"""A hole in the witness's audio. The quick voice says a sentence in two frames, so that the next one may come a frame
too late whenever the machine is busy, store or none."""
CALLER, WITNESS, NEWCOMER, TEXTER = "+15005550101", "+15005550102", "+15005550103", "+15005550104"


@pytest.fixture(autouse=True)
def quiet_log(plain_log: None) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


class Outage:
    """Both block until it is so."""

    def __init__(self, begin: Callable[[], object], end: Callable[[], object]) -> None:
        self.begin = begin
        self.end = end


def outage(kind: str, settings: Settings, request: pytest.FixtureRequest) -> Outage:
    store, _, how = kind.partition(" ")
    if store == "sqlite":
        Path(settings.store.path).touch()
        other = sqlite3.connect(settings.store.path, isolation_level=None, check_same_thread=False)
        other.execute("PRAGMA busy_timeout=5000")
        return Outage(lambda: other.execute("BEGIN EXCLUSIVE"), other.close)
    server = request.getfixturevalue(f"{store}_server")
    assert isinstance(server, PostgresqlServer | RedisServer)
    if how == "paused":
        return Outage(server.pause, server.resume)
    return Outage(server.kill if how == "killed" else server.stop, server.start)


@pytest.mark.parametrize("kind", ["postgresql stopped", "redis killed", "redis paused", "sqlite locked"])
async def test_calls_do_not_hear_that_the_store_is_gone_and_nothing_is_lost(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    settings = quick_settings(store_settings(kind.partition(" ")[0], tmp_path, request))
    fault = outage(kind, settings, request)
    async with program(settings) as desk:
        async with desk.call(TEXTER) as talk:
            usual_s = greeted_s(talk)
        async with desk.call(CALLER) as talk, witness(desk) as other:
            caller = Caller(talk, "caller")
            usual_s = max(usual_s, greeted_s(talk))
            usual_answer_s = await caller.turns(4)
            await trio.to_thread.run_sync(fault.begin)
            began_at_s = trio.current_time()
            answer_s = await caller.turns(3)
            async with desk.call(NEWCOMER) as fresh:
                late_s = greeted_s(fresh) - usual_s
                newcomer = Caller(fresh, "newcomer")
                answer_s = max(answer_s, await newcomer.turns(2))
            await backlog_is(desk, lambda value: value > 0)
            await check_texts(desk)
            answer_s = max(answer_s, await caller.turns(2))
            while trio.current_time() < began_at_s + OUTAGE_S:
                answer_s = max(answer_s, await caller.turns(1))
            await trio.to_thread.run_sync(fault.end)
            await caller.turns(2)
            await backlog_is(desk, lambda value: value == 0)
            await caller.turns(2)
        print(f"{kind}: answers {(answer_s - usual_answer_s) * 1000:+.0f} ms, greeting {late_s * 1000:+.0f} ms")
        for number, one in ((CALLER, caller), (NEWCOMER, newcomer), (WITNESS, other)):
            assert await words_of(desk, number) == one.said
        assert await words_of(desk, TEXTER) == []
        assert desk.total("store_lost_total") == 0
        assert await desk.text(TEXTER, "And now?") == "Turn 1. You said And now."
    assert answer_s < usual_answer_s + WAIT_S
    assert late_s < WAIT_S


async def test_a_call_does_not_wait_for_a_text_that_waits_for_the_store(
    tmp_path: Path, request: pytest.FixtureRequest, redis_server: RedisServer
) -> None:
    """Both of one number, whose session has to be read first."""
    settings = quick_settings(store_settings("redis", tmp_path, request))
    async with program(settings) as desk:
        async with desk.call(TEXTER) as talk:
            usual_s = greeted_s(talk)
        redis_server.pause()
        async with strict_client(desk.engine.url) as client, trio.open_nursery() as nursery:
            nursery.start_soon(text_in_vain, client, desk.engine.url)
            await trio.sleep(0.05)
            async with desk.call(CALLER) as talk:
                late_s = greeted_s(talk) - usual_s
                caller = Caller(talk, "caller")
                await caller.turns(2)
        redis_server.resume()
        await backlog_is(desk, lambda value: value == 0)
        assert await words_of(desk, CALLER) == caller.said
    assert late_s < WAIT_S


async def text_in_vain(client: httpx.AsyncClient, url: str) -> None:
    with pytest.raises(httpx.HTTPStatusError) as refused:
        await post_sms(client, url, CALLER)
    check_refusal(refused.value.response)


@pytest.mark.parametrize("kind", ["postgresql", "redis"])
async def test_a_slow_store_is_never_on_the_way_of_the_words(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Every answer of the server comes late: calls go on at their pace, and every turn gets there."""
    store = store_settings(kind, tmp_path, request)
    server = request.getfixturevalue(f"{kind}_server")
    line = SlowLine(server.port)
    async with trio.open_nursery() as nursery:
        port = await nursery.start(line.run)
        store = replace(store, port=port, url=store.url.replace(f":{server.port}", f":{port}"))
        settings = quick_settings(store)
        async with program(replace(settings, store=replace(settings.store, operation_s=5 * SLOW_S))) as desk:
            async with desk.call(TEXTER) as talk:
                usual_s = greeted_s(talk)
                usual_answer_s = await Caller(talk, "texter").turns(2)
            line.delay_s = SLOW_S
            async with desk.call(CALLER) as talk:
                late_s = greeted_s(talk) - usual_s
                caller = Caller(talk, "caller")
                answer_s = await caller.turns(4)
            line.delay_s = 0.0
            await desk.settled()
            await backlog_is(desk, lambda value: value == 0)
            assert await words_of(desk, CALLER) == caller.said
        nursery.cancel_scope.cancel()
    print(f"{kind} slow: answers {(answer_s - usual_answer_s) * 1000:+.0f} ms, greeting {late_s * 1000:+.0f} ms")
    assert answer_s < usual_answer_s + WAIT_S
    assert late_s < WAIT_S


@asynccontextmanager
async def witness(desk: Program) -> AsyncIterator[Caller]:
    """Somebody else who talks all the time, and to whom nothing happens."""
    async with desk.call(WITNESS) as talk, trio.open_nursery() as nursery:
        caller, leaving = Caller(talk, "witness"), trio.Event()
        await caller.turns(1)
        nursery.start_soon(caller.keep_on, leaving)
        yield caller
        leaving.set()
    assert not talk.call.violations, talk.call.violations
    # With frames of its own late the machine is too busy to judge by.
    gaps = [gap for gap in talk.call.gaps if gap.length_s > GAP_S]
    assert not gaps or talk.call.frames_late, gaps


async def check_texts(desk: Program) -> None:
    """503 with Retry-After for each that could not be kept, on a live session and on none; but calls are taken."""
    url = desk.engine.url
    async with strict_client(url) as client:
        for number in (CALLER, TEXTER):
            with pytest.raises(httpx.HTTPStatusError) as refused:
                await post_sms(client, url, number)
            check_refusal(refused.value.response)
        with pytest.raises(httpx.HTTPStatusError) as refused:
            await client.post("/turn", json={"text": "Is it lost?", "stream_sid": "robot"})
        check_refusal(refused.value.response)
        assert (await client.get("/readyz")).status_code == 200


async def post_sms(client: httpx.AsyncClient, url: str, number: str) -> list[str]:
    return await twilio.post_text(Callee(url, caller=number, dialled=LINE, secret=SECRET), "Is it lost?", client)


def check_refusal(response: httpx.Response) -> None:
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1


async def words_of(desk: Program, number: str) -> list[str]:
    """Everything that is stored of what this caller said, in order."""
    (session,) = await export_of(desk, number)
    return callers_words(session["messages"])
