"""``offhook call`` at an engine whose agent has no working voice."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import replace

from trio.testing import MockClock

from engine.cli.call import Plan, place_calls
from engine.errors import SettingsError
from engine.phone.conversation import Voice
from engine.ports import Phrases
from engine.settings import Settings
from tests.system.rig import SECRET, running_engine


def no_voice() -> AbstractAsyncContextManager[Voice]:
    raise SettingsError("not installed")


async def test_what_the_provider_says_for_an_engine_that_cannot_is_told(autojump_clock: MockClock) -> None:
    def with_dead_vendors(settings: Settings) -> Settings:
        desk = replace(settings.agents["desk"], options={"url": "http://127.0.0.1:1"})
        return replace(settings, agents={"desk": desk})

    told: list[str] = []
    async with running_engine(configure=with_dead_vendors) as rig:
        asked = Plan(
            url=rig.engine.url,
            provider="twilio",
            lines=(),
            out=None,
            calls=1,
            caller="+15005550006",
            dialled="+15005550001",
            secret=SECRET,
            public_url="",
            patience_s=5.0,
        )
        (result,) = await place_calls(asked, no_voice, told.append)
    assert (result.ok, result.end) == (False, "engine 1000")
    assert result.last_words == Phrases("").apology
    assert told[-2].endswith(f"agent   {Phrases('').apology}  [said by twilio]")
