"""The seed conversation of requirement group C, on every store: a call, another call, texts, and the program started
anew between them; one session all along."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import structlog
from trio.testing import MockClock

from engine.phone.texts import open_inbox
from tests.fakes.echo_agent import GREETING, OVER, RETURNING, canaries
from tests.system.session_rig import LINE, RATE, TRUSTED_LINE, Program, program, settings_on, store_settings

CALLER = "+15005550123"
OPENING, WELCOME_BACK = (text.removesuffix(OVER).strip() for text in (GREETING, RETURNING))


@pytest.fixture
def quick_clock() -> MockClock:
    return MockClock(rate=RATE)


@pytest.fixture(autouse=True)
def quiet_log(plain_log: None) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))


@pytest.mark.parametrize(
    ("kind", "provider"),
    [
        ("memory", "twilio"),
        ("sqlite", "twilio"),
        ("postgresql", "twilio"),
        ("redis", "twilio"),
        ("sqlite", "vonage"),
    ],
)
async def test_calls_and_texts_are_one_conversation_across_restarts(
    kind: str, provider: str, tmp_path: Path, request: pytest.FixtureRequest, quick_clock: MockClock
) -> None:
    """Twilio vouches for the caller, Vonage's line does."""
    line = LINE if provider == "twilio" else TRUSTED_LINE
    async with AsyncExitStack() as stack:
        inbox = await stack.enter_async_context(open_inbox()) if provider == "vonage" else None
        settings = settings_on(store_settings(kind, tmp_path, request), inbox=inbox)
        desk = await stack.enter_async_context(program(settings, inbox))
        ids: list[str] = []

        async def again() -> None:
            ids.append((await desk.session_of(CALLER))["session_id"])
            if kind != "memory":
                await desk.restart()

        async with desk.call(CALLER, provider, dialled=line) as talk:
            assert talk.greeting == OPENING
            assert (
                await talk.say("My word is canaryteal.") == "Turn 1. You said My word is canaryteal. I know canaryteal."
            )
        await again()
        async with desk.call(CALLER, provider, dialled=line) as talk:
            assert talk.greeting == WELCOME_BACK
            assert await talk.say("What is it?") == "Turn 2. You said What is it. I know canaryteal."
        await again()
        answer = await desk.text(CALLER, "Do you still know it?", provider, dialled=line)
        assert answer == "Turn 3. You said Do you still know it. I know canaryteal."
        answer = await desk.text(CALLER, "My other word is canaryred.", provider, dialled=line)
        assert answer == "Turn 4. You said My other word is canaryred. I know canaryred and canaryteal."
        async with desk.call(CALLER, provider, dialled=line) as talk:
            assert talk.greeting == WELCOME_BACK
            # The first turn is out of the model's window; what it told is known all the same.
            assert await talk.say("And now?") == "Turn 4. You said And now. I know canaryred and canaryteal."
        assert "My other word is canaryred." in await desk.shown(ids[0])
        assert set(ids) == {(await desk.session_of(CALLER))["session_id"]}
        await check_what_is_kept(desk, ids[0])
        if kind == "memory":  # elsewhere a restart has set the counters back
            assert desk.total("modality_switches_total", origin="voice", target="sms") == 1
            assert desk.total("modality_switches_total", origin="sms", target="voice") == 1
            assert desk.total("context_bridges_total", modality="sms") == 2
            assert desk.total("context_bridges_total", modality="voice") == 1
        assert desk.total("greeting_repeats_total") == desk.total("context_violations_total") == 0


async def check_what_is_kept(desk: Program, session_id: str) -> None:
    kept = await desk.session_of(CALLER)
    figures = {name: kept[name] for name in ("calls", "texts", "turns", "switches", "bridges", "modality", "user")}
    assert figures == {
        "calls": 3,
        "texts": 2,
        "turns": 5,
        "switches": 2,
        "bridges": 3,
        "modality": "voice",
        "user": CALLER,
    }
    assert [message["modality"] for message in kept["messages"] if message["role"] == "user"] == [
        "voice",
        "voice",
        "sms",
        "sms",
        "voice",
    ]
    assert sum(message["is_opening"] for message in kept["messages"]) == 1
    assert sum("Hello" in message["text"] for message in kept["messages"]) == 1
    assert canaries(str(kept["memory"])) == {"canaryteal", "canaryred"}

    figures = await desk.ask("GET", f"/admin/customer/{CALLER}/analytics")
    assert (figures["calls"], figures["texts"], figures["turns"], figures["sessions"]) == (3, 2, 5, 1)
    assert figures["preferred_modality"] == "voice"
    export = await desk.ask("GET", f"/privacy/export/{CALLER}")
    assert [one["session"]["session_id"] for one in export["sessions"]] == [session_id]
    assert canaries(str(export)) == {"canaryteal", "canaryred"}
    switches = [event for event in export["sessions"][0]["trace"] if event["what"] == "modality_switched"]
    assert [(event["fields"]["origin"], event["fields"]["target"]) for event in switches] == [
        ("voice", "sms"),
        ("sms", "voice"),
    ]
