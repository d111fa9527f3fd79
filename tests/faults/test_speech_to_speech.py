"""FAULTS B 29: speech-to-speech vendors whose sessions expire, break and fail in the middle of whole calls."""

from __future__ import annotations

import itertools
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from engine.observe.timeline import What
from engine.ports import Phrases
from tests.fakes.clouds.openai_realtime import Session as OpenAISession
from tests.fakes.plain_speech import speak
from tests.faults.duplexed import REALTIME_CLOUDS, duplex_world
from tests.faults.vendored import LINE, Witness, World

EXPIRES_S = 60.0
"""After which the vendor ends a session."""
LIFE_S = 20.0
"""The same, where that is what happens, of one session after the other."""
GAP_S = 1.0
SAY_AGAIN = Phrases("").say_again
LONG = (
    "I would like to book a table for two on the terrace at seven, and one for eight in the garden at half past eight"
)
"""Takes four seconds and a half to say."""

kinds = pytest.mark.parametrize("kind", REALTIME_CLOUDS)


@kinds
async def test_b29_a_session_is_renewed_in_time_and_nobody_notices(kind: str, autojump_clock: MockClock) -> None:
    async with duplex_world(kind, renew_after_s=50.0) as w:
        soul = w.souls[0]
        soul.cloud.manner.session_s = EXPIRES_S
        soul.faults.down.latency_s = 0.1
        async with w.call() as caller:
            began_s = caller.spoke_until_s
            await told_the_name(caller)
            await trio.sleep_until(began_s + 48.5)
            await caller.say("What is my name?")  # the renewal is due, and waits until the answer has been heard
            while soul.faults.connections == 1:  # noqa: ASYNC110 - seen from outside
                await trio.sleep(0.01)
            assert caller.answer().endswith("You said What is my name. I know canaryAda."), caller.words
            soul.faults.down.latency_s = 0.5  # it is on its way while the connections are exchanged
            await soul.cloud.sessions[0].send(*of_an_orphan(kind))
            await wait_all_tasks_blocked()
            soul.faults.down.latency_s = 0.1
            await trio.sleep(0.3)
            await asked_for_it(caller)
            await trio.sleep_until(began_s + EXPIRES_S + 5)
            await asked_for_it(caller)
        assert "orphan" not in " ".join(caller.words)
        assert w.value("vendor_reconnects_total", vendor=kind, kind="realtime", reason="renewed") == 1
        assert soul.faults.connections == 2, "no session has expired"
        assert soul.cloud.close_codes == [1000, 1000]
        assert soul.cloud.faults == []


async def told_the_name(caller: Witness) -> None:
    await caller.say("My name is canaryAda.")
    await trio.sleep(3.5)
    assert "canaryAda" in caller.answer()


async def asked_for_it(caller: Witness) -> None:
    """Whoever answers knows what was said before."""
    await caller.say("What is my name?")
    await trio.sleep(3.5)
    assert caller.answer().endswith("You said What is my name. I know canaryAda."), caller.words
    assert caller.silence_s() < GAP_S


def of_an_orphan(kind: str) -> list[dict[str, Any]]:
    """A reply that nobody waits for."""
    audio = b64encode(speak("orphan", LINE)).decode()
    if kind == "elevenlabs_agents":
        return [{"type": "audio", "audio_event": {"audio_base_64": audio, "event_id": 1000}}]
    at = {"response_id": "resp_o", "item_id": "item_o", "output_index": 0, "content_index": 0}
    return [
        {"type": "response.created", "response": {"id": "resp_o", "metadata": None}},
        {"type": "response.output_audio.delta", **at, "delta": audio},
    ]


@kinds
@pytest.mark.parametrize("how", ["expires", "is reset", "is closed"])
async def test_b29_a_session_that_is_lost_is_gone_on_with_within_a_second(
    how: str, kind: str, autojump_clock: MockClock
) -> None:
    """In the middle of the caller's words, in the middle of an answer, and between two turns."""
    async with duplex_world(kind) as w, losing_sessions(w, how):
        soul = w.souls[0]
        if kind == "elevenlabs_agents":
            soul.cloud.manner.scores = True  # else nobody knows that the caller has begun to speak
        async with w.call() as caller:
            began_s = caller.spoke_until_s
            await told_the_name(caller)
            await trio.sleep_until(began_s + LIFE_S - 4)
            await caller.say(LONG)
            await trio.sleep(5)
            assert caller.answer() == f"Turn 2. You said {LONG}. I know canaryAda.", caller.words
            assert caller.silence_s() < GAP_S

            soul.cloud.manner.speed = 1.0
            await trio.sleep_until(began_s + 2 * LIFE_S - 6)
            await caller.say("tell me a story")
            await trio.sleep(10)
            soul.cloud.manner.speed = 10.0
            assert caller.answer().startswith("Turn 3. You said tell me a story. I know canaryAda. This is sentence")
            assert caller.answer().endswith(f" {SAY_AGAIN}"), caller.words
            assert longest_gap_s(caller) < GAP_S

            await trio.sleep_until(began_s + 3 * LIFE_S + 1)
            await asked_for_it(caller)
            assert w.on.texts(What.HEARD) == ["My name is canaryAda.", LONG, "tell me a story", "What is my name?"]
        assert w.value("vendor_reconnects_total", vendor=kind, kind="realtime", reason="cut") == 3
        assert soul.faults.connections == soul.cloud.sockets_ever == 4
        assert w.on.last(What.CALL_ENDED)["cause"] == "caller_hangup"
        assert soul.cloud.faults == []


ERRORS: Mapping[str, dict[str, Any]] = {
    "openai_realtime": {"type": "server_error", "code": "server_error", "message": "no", "event_id": None},
    "elevenlabs_agents": {"code": 1011, "error_type": "internal", "message": "no"},
}


@kinds
async def test_b29_an_error_that_leaves_the_session_open_is_not_heard(kind: str, autojump_clock: MockClock) -> None:
    async with duplex_world(kind) as w:
        soul = w.souls[0]
        async with w.call() as caller:
            soul.cloud.manner.errors.append(ERRORS[kind])
            await told_the_name(caller)
            await asked_for_it(caller)
        assert soul.faults.connections == 1


async def test_b29_an_error_that_ends_the_reply_or_the_session_is_followed_by_a_new_session(
    autojump_clock: MockClock,
) -> None:
    """Only OpenAI says so of a reply, or leaves its socket open."""
    async with duplex_world("openai_realtime") as w:
        soul = w.souls[0]
        async with w.call() as caller:
            await told_the_name(caller)
            soul.cloud.manner.fails = ERRORS["openai_realtime"]
            await caller.say("What is my name?")
            soul.cloud.manner.fails = None
            await trio.sleep(3)
            assert caller.answer() == SAY_AGAIN
            assert caller.silence_s() < GAP_S
            await asked_for_it(caller)
            assert soul.faults.connections == 2
            await soul.cloud.sessions[-1].fail("session_expired", "Your session hit the maximum duration.")
            await asked_for_it(caller)
            assert soul.faults.connections == 3
        assert w.requests("openai_realtime")["error"] == 1


@kinds
async def test_b29_of_an_answer_that_was_cut_off_a_new_session_knows_what_was_heard(
    kind: str, autojump_clock: MockClock
) -> None:
    """And nothing else of it is heard any more, though the vendor goes on sending it."""
    async with duplex_world(kind) as w:
        soul = w.souls[0]
        soul.cloud.manner.late_pieces = 5
        async with w.call() as caller:
            await caller.say("tell me a story")
            await trio.sleep(3)
            await caller.say("My name is canaryAda.")
            await trio.sleep(4)
            assert caller.answer() == "Turn 2. You said My name is canaryAda. I know canaryAda."
            soul.faults.cut()
            await asked_for_it(caller)
        assert [moment.fields["interrupted"] for moment in w.on.moments if moment.what is What.SAID].count(True) == 1
        story = next(text for text in w.on.texts(What.SAID) if "story" in text)
        assert 1 <= story.count("sentence number") <= 2
        assert f"{story} —" in known_to(soul.cloud.sessions[-1], "assistant")
        for session in soul.cloud.sessions:
            assert "number 8" not in " ".join(known_to(session, "assistant"))


def known_to(session: Any, role: str) -> list[str]:
    """What a session at the vendor takes for said."""
    said = session.shown().said if isinstance(session, OpenAISession) else session.said
    return [text for of, text in said if of == role]


@asynccontextmanager
async def losing_sessions(w: World, how: str) -> AsyncIterator[None]:
    """One every ``LIFE_S``."""
    soul, began_s = w.souls[0], trio.current_time()

    async def lose() -> None:
        for number in itertools.count(1):
            await trio.sleep_until(began_s + number * LIFE_S)
            if how == "is reset":
                soul.faults.cut()
            else:
                await soul.cloud.sessions[-1].hang_up()

    if how == "expires":
        soul.cloud.manner.session_s = LIFE_S
    async with trio.open_nursery() as nursery:
        if how != "expires":
            nursery.start_soon(lose)
        yield
        nursery.cancel_scope.cancel()


def longest_gap_s(caller: Witness) -> float:
    """Of the answer to the caller's last words, from its first sound to its last."""
    sounds = [(at_s, at_s + LINE.duration_s(audio)) for at_s, audio in caller.audio if at_s >= caller.spoke_until_s]
    return max(begins_s - ends_s for (_, ends_s), (begins_s, _) in itertools.pairwise(sounds))


@kinds
async def test_b29_of_an_answer_whose_connection_was_lost_what_was_heard_is_remembered(
    kind: str, autojump_clock: MockClock
) -> None:
    async with duplex_world(kind) as w:
        soul = w.souls[0]
        soul.cloud.manner.speed = 1.0
        async with w.call() as caller:
            await caller.say("tell me a story")
            await trio.sleep(4)
            soul.faults.cut()
            await trio.sleep(4)
            assert caller.answer().endswith(f" {SAY_AGAIN}")
        [story] = [m.fields for m in w.on.moments if m.what is What.SAID and "story" in str(m.fields["text"])]
        assert story["interrupted"]
        assert 1 <= str(story["text"]).count("sentence number") <= 2
