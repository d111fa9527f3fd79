"""Callers who are erased by another process, the command line say, while the engine still works on what they wrote."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import trio
from trio.testing import MockClock

from adapters.stores.memory import MemoryStore
from adapters.stores.sql import open_sqlite
from engine.events import Context, ReplyPart, SessionInfo
from engine.ports import CallControl, LanguageModel, Owner
from engine.storage.identity import caller_key
from tests.cli.stored import run, settings_in
from tests.fakes.flaky_store import FlakyStore
from tests.fakes.puppet import PuppetAgent, PuppetModel
from tests.sessions.rig import ADA, Clock, Rig, house

CANARY = "my violet canary"


def shows(context: Context) -> list[ReplyPart | float | Exception]:
    return ["|".join(message.text for message in context if message.role != "system")]


def slowly(context: Context) -> list[ReplyPart | float | Exception]:
    return [1.0, *shows(context)]


class Held(PuppetModel):
    """Thinks until it is let go on."""

    def __init__(self, agent: Holding) -> None:
        super().__init__(shows)
        self._agent = agent

    @asynccontextmanager
    async def open_reply(self, context: Context) -> AsyncIterator[trio.abc.ReceiveChannel[ReplyPart]]:
        self._agent.thinks.set()
        await self._agent.goes_on.wait()
        async with super().open_reply(context) as parts:
            yield parts


class Holding(PuppetAgent):
    def __init__(self) -> None:
        super().__init__()
        self.thinks, self.goes_on = trio.Event(), trio.Event()
        self.goes_on.set()

    def open_model(
        self, session: SessionInfo, owner: Owner, control: CallControl
    ) -> AbstractAsyncContextManager[LanguageModel]:
        return self._part(lambda: Held(self))


@asynccontextmanager
async def texting(rig: Rig, text: str, answers: list[str]) -> AsyncIterator[None]:
    """The block runs while the text is being answered."""

    async def text_it() -> None:
        answers.append(await rig.sms(text))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(text_it)
        yield


def bytes_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


async def test_words_under_way_while_the_command_line_erases_their_caller_do_not_come_back(tmp_path: Path) -> None:
    agent, answers = Holding(), list[str]()
    config = settings_in(tmp_path)
    async with (
        open_sqlite(tmp_path / "s.db") as store,
        house(agent, store=store, clock=time.time) as rig,
    ):
        await rig.sms("hello")
        agent.thinks, agent.goes_on = trio.Event(), trio.Event()
        async with texting(rig, CANARY, answers):
            await agent.thinks.wait()
            erase = ("privacy", "delete", ADA, "--yes", "--config", str(config))
            assert await trio.to_thread.run_sync(run, *erase) == 0
            agent.goes_on.set()
        assert answers == [CANARY]  # and nothing of what he had written before
        assert await rig.stored(caller_key(ADA)) == []
        assert await rig.sms("a new start") == "a new start"
        assert await rig.stored(caller_key(ADA)) == ["a new start", "a new start"]
        assert b"new start" in bytes_in(tmp_path)
        assert CANARY.encode() not in bytes_in(tmp_path)


async def test_words_from_before_an_erasure_do_not_join_a_session_begun_after_it(autojump_clock: MockClock) -> None:
    answers = list[str]()
    async with house(PuppetAgent(slowly)) as here, house(PuppetAgent(shows), store=here.store) as there:
        await here.sms("hello")
        async with texting(here, CANARY, answers):
            await trio.sleep(0.5)
            await there.vault.erase(ADA, there.sessions.now())
            await trio.sleep(0.1)
            await there.sms("a new start")
        assert answers == [CANARY]
        assert await there.stored(caller_key(ADA)) == ["a new start", "a new start"]


async def test_words_that_wait_in_line_while_their_caller_is_erased_are_kept_nowhere(autojump_clock: MockClock) -> None:
    answers = list[str]()
    async with house(PuppetAgent(slowly)) as rig:
        await rig.sms("hello")
        async with texting(rig, "first", answers):
            await trio.sleep(0.1)
            async with texting(rig, CANARY, answers):
                await trio.sleep(0.1)
                await rig.vault.erase(ADA, rig.sessions.now())
        assert sorted(answers) == ["first", CANARY]
        assert await rig.stored(caller_key(ADA)) == []


class SlowStore(FlakyStore):
    async def _before(self) -> None:
        await trio.sleep(1.0)


async def test_words_whose_session_is_looked_for_while_their_caller_is_erased_are_kept_nowhere(
    autojump_clock: MockClock,
) -> None:
    inner, answers = MemoryStore(now=Clock()), list[str]()
    async with house(PuppetAgent(shows), store=SlowStore(inner)) as here, house(store=inner) as there:
        await here.sms("of another caller", "+15550100009")
        async with texting(here, CANARY, answers):
            await trio.sleep(0.5)
            await there.vault.erase(ADA, there.sessions.now())
        assert answers == [CANARY]
        assert await there.stored(caller_key(ADA)) == []


async def test_a_written_turn_into_a_call_is_kept_nowhere_when_its_caller_is_erased_meanwhile(
    autojump_clock: MockClock,
) -> None:
    async with house(PuppetAgent(slowly)) as here, house(store=here.store) as there, here.call():
        await here.sessions.turn("hello", stream_id="MZ1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: here.sessions.turn(CANARY, stream_id="MZ1"))
            await trio.sleep(0.5)
            await there.vault.erase(ADA, there.sessions.now())
        await here.sessions.settle()
        assert [found.session_id for found in await here.store.scan()] == []


async def test_a_text_after_an_erasure_is_a_new_beginning(autojump_clock: MockClock) -> None:
    async with house(PuppetAgent(shows)) as here, house(store=here.store) as there:
        await here.sms(CANARY)
        await there.vault.erase(ADA, there.sessions.now())
        await trio.sleep(0.1)
        assert await here.sms("hello") == "hello"
        assert await here.stored(caller_key(ADA)) == ["hello", "hello"]
