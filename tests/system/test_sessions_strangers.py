"""Who is not the caller hears nothing of him: spoofed and withheld numbers, and holders of the wrong keys."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog
from trio.testing import MockClock

from tests.fakes.echo_agent import GREETING, OVER, RETURNING, canaries
from tests.system.session_rig import (
    ALL_KEY,
    LINE,
    RATE,
    TRUSTED_LINE,
    TURN_KEY,
    WATCHER_KEY,
    Program,
    program,
    settings_on,
    store_settings,
)

OWNER = "+15005550123"
OPENING, WELCOME_BACK = (text.removesuffix(OVER).strip() for text in (GREETING, RETURNING))


@pytest.fixture
def quick_clock() -> MockClock:
    return MockClock(rate=RATE)


@pytest.fixture(autouse=True)
def quiet_log(plain_log: None) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))


async def owner_tells(desk: Program) -> None:
    async with desk.call(OWNER) as talk:
        await talk.say("My word is canaryowned.")


@pytest.mark.parametrize(("provider", "attestations"), [("twilio", ("C", "")), ("vonage", ("", ""))])
async def test_a_spoofed_number_is_a_stranger_and_leaves_nothing_with_its_owner(
    provider: str, attestations: tuple[str, ...], tmp_path: Path, request: pytest.FixtureRequest, quick_clock: MockClock
) -> None:
    async with program(settings_on(store_settings("memory", tmp_path, request))) as desk:
        await owner_tells(desk)
        for attestation in attestations:  # nor does he hear of his own last call
            async with desk.call(OWNER, provider, attestation=attestation) as talk:
                assert talk.greeting == OPENING
                assert await talk.say("What is my word?") == "Turn 1. You said What is my word."
                assert canaries(await talk.say("Then it is canaryplanted.")) == {"canaryplanted"}
        assert desk.total("untrusted_callers_total") == 2
        assert canaries(await desk.text(OWNER, "What is it?")) == {"canaryowned"}
        async with desk.call(OWNER) as talk:
            assert talk.greeting == WELCOME_BACK
            assert canaries(await talk.say("What is it?")) == {"canaryowned"}
        async with desk.call(OWNER, "vonage", dialled=TRUSTED_LINE) as talk:
            assert talk.greeting == WELCOME_BACK
            assert canaries(await talk.say("What is it?")) == {"canaryowned"}
        assert canaries(str(await desk.ask("GET", f"/privacy/export/{OWNER}"))) == {"canaryowned"}


async def test_a_spoofed_call_beside_the_owners_own_hears_nothing_of_it(
    tmp_path: Path, request: pytest.FixtureRequest, quick_clock: MockClock
) -> None:
    async with program(settings_on(store_settings("memory", tmp_path, request))) as desk, desk.call(OWNER) as owner:
        await owner.say("My word is canaryowned.")
        async with desk.call(OWNER, attestation="C") as spoofer:
            assert spoofer.greeting == OPENING
            assert not canaries(await spoofer.say("What is it?"))
            assert canaries(await spoofer.say("It is canaryplanted.")) == {"canaryplanted"}
            assert canaries(await owner.say("What is it?")) == {"canaryowned"}


@pytest.mark.parametrize("withheld", ["", "anonymous", "+266696687"])
async def test_withheld_numbers_never_share(
    withheld: str, tmp_path: Path, request: pytest.FixtureRequest, quick_clock: MockClock
) -> None:
    """Even where the provider vouches for them, side by side and one after the other, in calls and in texts."""
    async with program(settings_on(store_settings("memory", tmp_path, request))) as desk:
        async with desk.call(withheld) as one, desk.call(withheld, "vonage", dialled=TRUSTED_LINE) as other:
            assert canaries(await one.say("My word is canaryone.")) == {"canaryone"}
            assert canaries(await other.say("My word is canarytwo.")) == {"canarytwo"}
            assert canaries(await one.say("What is it?")) == {"canaryone"}
        for line in (LINE, TRUSTED_LINE):
            async with desk.call(withheld, dialled=line) as third:
                assert third.greeting == OPENING
                assert not canaries(await third.say("What is it?"))
        assert canaries(await desk.text(withheld or "anonymous", "It is canarythree.")) == {"canarythree"}
        assert not canaries(await desk.text(withheld or "anonymous", "What is it?"))


async def test_nobody_without_the_right_key_sees_or_erases_a_caller(
    tmp_path: Path, request: pytest.FixtureRequest, quick_clock: MockClock
) -> None:
    async with program(settings_on(store_settings("memory", tmp_path, request))) as desk:
        await owner_tells(desk)
        session_id = (await desk.session_of(OWNER))["session_id"]
        routes = {
            ("GET", f"/admin/session/{OWNER}"): {WATCHER_KEY},
            ("GET", f"/admin/customer/{OWNER}/analytics"): {WATCHER_KEY},
            ("GET", "/admin/audit"): {WATCHER_KEY},
            ("GET", f"/api/sessions/{session_id}"): {WATCHER_KEY},
            ("GET", f"/api/sessions/{session_id}/trace"): {WATCHER_KEY},
            ("GET", "/api/search?q=canaryowned"): {WATCHER_KEY},
            ("GET", f"/privacy/export/{OWNER}"): set(),
            ("DELETE", f"/privacy/delete/{OWNER}"): set(),
        }
        for (method, path), allowed in routes.items():
            for key, status in (("", 401), ("x" * 24, 401), (ALL_KEY[:-1], 401), (TURN_KEY, 403), (WATCHER_KEY, 403)):
                answer = await desk.ask(method, path, key=key, status=200 if key in allowed else status)
                assert key in allowed or not canaries(str(answer)), path
        assert desk.total("api_refusals_total", why="wrong_key") == 2 * len(routes)
        assert canaries(await desk.text(OWNER, "What is it?")) == {"canaryowned"}
        assert (await desk.ask("GET", "/admin/audit"))["events"] == []
