"""After a caller has been erased his number and his words are nowhere: searched as bytes, on every store."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
import trio
from trio.testing import MockClock

from engine.settings import StoreSettings
from engine.storage.keyring import new_key
from tests.fakes.echo_agent import GREETING, OVER, canaries
from tests.fakes.servers import RedisServer
from tests.system.haystacks import Haystack, files_in, found, needles, values_in
from tests.system.session_rig import BRIEF_LINE, LONG_S, STORES, Program, program, settings_on, store_settings

OPENING = GREETING.removesuffix(OVER).strip()


@pytest.fixture(autouse=True)
def quiet_log(plain_log: None) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))


@pytest.fixture
def quick_clock() -> MockClock:
    """The program gives an erasing seven of its seconds."""
    return MockClock(rate=2)


class Caller:
    """One that nobody has been before: servers keep their files from test to test."""

    def __init__(self) -> None:
        self.number = f"+1555{2_000_000 + secrets.randbelow(8_000_000)}"
        self.words = [f"canary{secrets.token_hex(4)}" for _ in range(4)]
        self.needles = needles(self.number, self.words)

    async def lives(self, desk: Program) -> None:
        """A call and a text, in which the number is said, too."""
        async with desk.call(self.number) as talk:
            assert canaries(await talk.say(f"My word is {self.words[0]}.")) == {self.words[0]}
        answer = await desk.text(self.number, f"It is {self.words[1]}. Call me at {self.number[2:]}, please.")
        assert canaries(answer) == set(self.words[:2])

    async def leaves_more(self, desk: Program) -> None:
        """A call that is kept as history; a message that was edited, and a branch of the session."""
        async with desk.call(self.number, dialled=BRIEF_LINE) as talk:
            await talk.say(f"My word is {self.words[2]}.")
        (session,) = (one for one in await desk.sessions_of(self.number) if one["scope"] == "caller")
        path, message_id = f"/api/sessions/{session['session_id']}", session["messages"][1]["message_id"]
        await desk.ask("PATCH", f"{path}/messages/{message_id}", json={"text": f"It is {self.words[3]}."})
        await desk.ask("POST", f"{path}/branch", json={"message_id": message_id}, status=201)


def haystack(store: StoreSettings, folder: Path, request: pytest.FixtureRequest) -> Haystack:
    return Haystack(
        folder,
        request.getfixturevalue("postgresql_server") if store.kind == "postgresql" else None,
        store.url,
        request.getfixturevalue("redis_server") if store.kind == "redis" else None,
    )


@pytest.mark.parametrize(
    ("kind", "is_encrypted"),
    [*((kind, False) for kind in STORES), ("sqlite", True), ("postgresql", True), ("redis", True)],
)
async def test_of_an_erased_caller_no_byte_is_left(
    kind: str, is_encrypted: bool, tmp_path: Path, request: pytest.FixtureRequest, quick_clock: MockClock
) -> None:
    store = store_settings(kind, tmp_path, request)
    kept = haystack(store, tmp_path, request)
    caller, other = Caller(), Caller()
    settings = settings_on(store, encryption_keys=new_key() if is_encrypted else "")
    settings = replace(settings, sessions=replace(settings.sessions, keep_calls=True))
    async with program(settings) as desk:
        await other.lives(desk)
        await caller.lives(desk)
        await caller.leaves_more(desk)
        before = found(await kept.everything(desk), caller.needles)
        if is_encrypted:
            assert not before
            assert not found(kept.disk(), (*caller.needles, *other.needles))
        else:
            assert before >= {caller.number[2:], *caller.words}
            assert kind != "redis" or found(kept.disk(), caller.needles) >= before

        erased = await desk.ask("DELETE", f"/privacy/delete/({caller.number[2:5]}) {caller.number[5:]}")
        assert erased == {"sessions": 3}
        assert not found(await kept.everything(desk), caller.needles)
        await desk.ask("GET", f"/admin/session/{caller.number}", status=404)
        await desk.ask("GET", f"/privacy/export/{caller.number}", status=404)
        await audit_names_no_number(desk, caller)
        if kind != "memory":
            await desk.restart()
            assert not found(await kept.everything(desk), caller.needles)
            assert not (is_encrypted and found(kept.disk(), (*caller.needles, *other.needles)))

        assert canaries(await desk.text(other.number, "What is it?")) == set(other.words[:2])
        async with desk.call(caller.number) as talk:
            assert talk.greeting == OPENING
            assert await talk.say("What was it?") == "Turn 1. You said What was it."


async def audit_names_no_number(desk: Program, caller: Caller) -> None:
    events = (await desk.ask("GET", "/admin/audit"))["events"]
    exported, erased = events[:2]  # the newest first
    assert (erased["what"], erased["by"], erased["detail"]) == ("privacy_delete", "all", "3 sessions")
    assert exported["subject"] == erased["subject"] != ""
    assert not found(str(events).encode(), caller.needles)


@pytest.mark.parametrize("kind", STORES)
async def test_a_call_of_his_goes_on_without_memory_and_writes_nothing_back(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, quick_clock: MockClock
) -> None:
    store = store_settings(kind, tmp_path, request)
    kept, caller = haystack(store, tmp_path, request), Caller()
    first, second, third, _ = caller.words
    async with program(settings_on(store)) as desk:
        async with desk.call(caller.number) as talk:
            await talk.say(f"My word is {first}.")
            assert found(live_values(desk), caller.needles) >= {caller.number[2:], first}
            assert await desk.ask("DELETE", f"/privacy/delete/{caller.number}") == {"sessions": 1}
            assert not found(await kept.everything(desk), caller.needles)
            assert not found(live_values(desk), caller.needles[-len(caller.words) :])
            assert await talk.say(f"And {second}.") == f"Turn 1. You said And {second}. I know {second}."
            assert await talk.say("What was it?") == "Turn 1. You said What was it."
            talk.start_saying(f"Or rather {third}.")
            await desk.ask("DELETE", f"/privacy/delete/{caller.number}")
            assert third in await talk.hear()
        assert not found(await kept.everything(desk), caller.needles)
        assert not found(live_values(desk), caller.needles)
        async with desk.call(caller.number) as talk:
            assert talk.greeting == OPENING


def live_values(desk: Program) -> bytes:
    """What live sessions hold, and what is on its way from them."""
    memory = desk.memory
    return b"\0".join(values_in(memory.sessions, memory.writer, memory.webhooks))


@pytest.mark.parametrize("is_back", [False, True])
async def test_what_waits_in_the_journal_is_erased_with_him(
    is_back: bool, tmp_path: Path, redis_server: RedisServer, request: pytest.FixtureRequest
) -> None:
    """The store is down while he speaks; he is erased while it still is, or when it is just back."""
    store = replace(store_settings("redis", tmp_path, request), operation_s=5.0, load_s=0.3)
    kept, caller = haystack(store, tmp_path, request), Caller()
    async with program(settings_on(store)) as desk:
        async with desk.call(caller.number) as talk:
            await talk.say(f"My word is {caller.words[0]}.")
            await desk.settled()
            redis_server.stop()
            await talk.say(f"And {caller.words[1]}.")
            await desk.settled()
            assert desk.total("store_backlog") > 0
            assert found(b"".join(files_in(tmp_path)), caller.needles) >= {caller.words[1]}
            if not is_back:
                refusal = await desk.ask("DELETE", f"/privacy/delete/{caller.number}", status=503)
                assert refusal["error"]["code"] == "store_down"
                assert not found(b"".join(files_in(tmp_path)), caller.needles)
            redis_server.start()
            assert await desk.ask("DELETE", f"/privacy/delete/{caller.number}") == {"sessions": 1}
            await talk.say(f"And {caller.words[2]}.")
        with trio.fail_after(LONG_S):
            while desk.total("store_backlog"):  # noqa: ASYNC110 - seen from outside
                await trio.sleep(0.05)
        assert not found(await kept.everything(desk), caller.needles)
        async with desk.call(caller.number) as talk:
            assert talk.greeting == OPENING
