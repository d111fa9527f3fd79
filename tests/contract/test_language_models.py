"""What ``engine.ports.RawModel`` promises, on every language model that speaks over HTTP."""

from __future__ import annotations

import random
import re
from contextlib import suppress
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from engine.errors import ModelFailed, Why
from engine.events import Context, Exchange, Message, Role, ToolCall, ToolResult, Usage
from tests.contract.model_benches import BENCHES, SESSION, WEATHER, Bench, Book, Rig, asked, rigged, text_of
from tests.fakes.clouds.loopback import Response, dialled
from tests.fakes.clouds.thinking import Manner, Thought
from tests.simulation.steps import AtStep, fix_the_order, is_target

THOUGHT = Thought(["Turn 1. ", "You said hello. "])
"""What the fakes answer to ``hello``."""
CALLS = 'Please call the tool weather with {"city": "Köln"} and then call the tool weather with {"city": "Ulm"}'


@pytest.fixture(params=BENCHES, ids=lambda bench: bench.name)
def bench(request: Any) -> Bench:
    chosen: Bench = request.param
    return chosen


@pytest.fixture
async def rig(bench: Bench, autojump_clock: MockClock, nursery: trio.Nursery) -> Any:
    async with rigged(bench, nursery) as rig:
        yield rig
    await trio.sleep(100)  # until the fake that is slowest to notice has
    assert rig.cloud.requests_open == 0


async def failure_of(rig: Rig, context: Context | None = None) -> ModelFailed:
    with pytest.raises(ModelFailed) as failure:
        await rig.parts(context or asked("hello"))
    return failure.value


# --- answers ------------------------------------------------------------------------------------------------


@pytest.mark.proves("ours")
async def test_an_answer_comes_piece_by_piece_and_its_usage_last(rig: Rig, autojump_clock: MockClock) -> None:
    parts = await rig.parts(asked("good morning", "and a story please"))
    assert text_of(parts).startswith("Turn 2. You said and a story please. This is sentence number 1 of the story.")
    assert len(parts) > 10, "words that come together are one part"
    assert parts[-1] == Usage(7, 5)
    assert rig.cloud.faults == []


async def test_the_first_piece_is_not_held_back_for_the_second(rig: Rig, autojump_clock: MockClock) -> None:
    rig.cloud.manner = Manner(first_s=0.1, gap_s=1.0)
    async with rig.model.open_reply(asked("hello")) as parts:
        await parts.receive()
        first = trio.current_time()
        await parts.receive()
        assert 0.9 < trio.current_time() - first < 1.1


async def test_everything_that_is_known_is_shown(rig: Rig, autojump_clock: MockClock) -> None:
    canaries = asked("canary1", "and canary2", instructions="You are canary3.")
    context = Context((Message(Role.SYSTEM, "Known: canary4"), *canaries.messages), instructions=canaries.instructions)
    said = text_of(await rig.parts(context))
    assert "I know canary1 and canary2 and canary3 and canary4." in said
    assert rig.cloud.faults == []


async def test_a_conversation_that_the_agent_began_is_taken(rig: Rig, autojump_clock: MockClock) -> None:
    messages = (
        Message(Role.AGENT, "Hello, this is the desk."),
        Message(Role.AGENT, ""),
        Message(Role.CALLER, "hello"),
        Message(Role.CALLER, "I have a question"),
        Message(Role.AGENT, "What is", interrupted=True),
        Message(Role.AGENT, "", interrupted=True),
        Message(Role.CALLER, "opening times"),
    )
    assert "You said opening times." in text_of(await rig.parts(Context(messages)))
    assert rig.cloud.faults == []


async def test_tool_calls_come_whole_and_their_results_are_answered(rig: Rig, autojump_clock: MockClock) -> None:
    context = asked(CALLS, tools=(WEATHER,))
    parts = await rig.parts(context)
    calls = [part for part in parts if isinstance(part, ToolCall)]
    assert [(call.name, call.arguments) for call in calls] == [
        ("weather", '{"city": "Köln"}'),
        ("weather", '{"city": "Ulm"}'),
    ]
    assert len({call.call_id for call in calls}) == 2
    assert all(call.call_id for call in calls)
    assert text_of(parts) == "One moment. "
    results = (ToolResult(calls[0].call_id, "rain"), ToolResult(calls[1].call_id, "unknown", is_error=True))
    answered = Context(context.messages, tools=(WEATHER,), exchanges=(Exchange("One moment. ", tuple(calls), results),))
    said = text_of(await rig.parts(answered))
    assert said.startswith("The tool said rain. The tool said")
    assert "unknown" in said
    assert rig.cloud.faults == []


async def test_results_are_answered_though_no_tool_may_be_called_any_more(rig: Rig, autojump_clock: MockClock) -> None:
    exchange = Exchange("", (ToolCall("call:1/2", "weather", "no JSON"),), (ToolResult("call:1/2", "rain"),))
    context = Context(asked("hello").messages, exchanges=(exchange, exchange))
    assert text_of(await rig.parts(context)).startswith("The tool said rain.")
    assert rig.cloud.faults == []


async def test_arguments_that_are_none_are_handed_on_as_they_are(rig: Rig, autojump_clock: MockClock) -> None:
    rig.cloud.manner.calls = [("weather", '{"city": ')]
    parts = await rig.parts(asked("hello", tools=(WEATHER,)))
    assert [part.arguments for part in parts if isinstance(part, ToolCall)] == ['{"city":']


async def test_a_call_without_arguments_has_an_empty_object(rig: Rig, autojump_clock: MockClock) -> None:
    rig.cloud.manner.calls = [("weather", "{}")]
    parts = await rig.parts(asked("hello", tools=(WEATHER,)))
    assert [part.arguments for part in parts if isinstance(part, ToolCall)] == ["{}"]


@pytest.mark.parametrize("repeats", [False, True])
async def test_an_answer_goes_on_from_where_another_broke_off(
    rig: Rig, repeats: bool, autojump_clock: MockClock
) -> None:
    rig.cloud.manner.repeats = repeats
    whole = text_of(await rig.parts(asked("a question about the opening times")))
    for cut in range(1, len(whole) - 1, 3):
        context = asked("a question about the opening times", said=whole[:cut])
        rest = text_of(await rig.parts(context))
        joined = " ".join((whole[:cut] + rest).split())
        if repeats or not whole[cut - 1 : cut + 1].isalnum():  # within a word nobody can tell
            assert joined == whole.strip(), cut
    assert rig.cloud.faults == []


async def test_an_answer_that_became_too_long_is_one(rig: Rig, bench: Bench, autojump_clock: MockClock) -> None:
    rig.cloud.manner.stop = bench.length
    assert text_of(await rig.parts(asked("hello"))) == "Turn 1. You said hello. "


async def test_a_character_may_be_cut_in_two_on_the_way(rig: Rig, autojump_clock: MockClock) -> None:
    rig.cloud.manner = Manner(gap_s=0.0, chunk_bytes=3, says=["Grüße aus Köln, 3 € 🙂"])
    assert text_of(await rig.parts(asked("hello"))) == "Grüße aus Köln, 3 € 🙂"


async def test_a_piece_may_be_large(rig: Rig, autojump_clock: MockClock) -> None:
    rig.cloud.manner.says = ["x" * 1_000_000]
    assert text_of(await rig.parts(asked("hello"))) == "x" * 1_000_000


async def test_an_empty_answer_is_no_failure(rig: Rig, autojump_clock: MockClock) -> None:
    rig.cloud.manner.says = []
    assert text_of(await rig.parts(asked("hello"))) == ""


async def test_half_characters_of_a_caller_do_not_matter(rig: Rig, autojump_clock: MockClock) -> None:
    assert "You said" in text_of(await rig.parts(asked("half \ud83d of it")))


async def test_the_session_is_logged_with_every_request_and_no_key_or_word(
    rig: Rig, capsys: pytest.CaptureFixture[str], autojump_clock: MockClock
) -> None:
    await rig.parts(asked("something private"))
    logged = capsys.readouterr().out
    assert "model_request" in logged
    assert "s1" in logged
    assert "CA1" in logged
    assert "private" not in logged
    assert rig.cloud.key not in logged


# --- failures -----------------------------------------------------------------------------------------------


async def test_a_wrong_key_is_of_no_use_to_try_again(
    bench: Bench, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    if bench.name == "compatible":
        pytest.skip("asks for no key")
    async with rigged(bench, nursery, key="wrong") as rig:
        failure = await failure_of(rig)
    assert failure.why is Why.AUTH
    assert "wrong" not in str(failure)


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (Response(401), Why.AUTH),
        (Response(403, body=b"{}"), Why.AUTH),
        (Response(402), Why.AUTH),
        (Response(404, body=b'{"error": "model not found"}'), Why.BAD_REQUEST),
        (Response(400, body=b"\xff"), Why.BAD_REQUEST),
        (Response(413), Why.TOO_LONG),
        (Response(429), Why.RATE_LIMITED),
        (Response(429, body=b'{"error": {"code": "insufficient_quota"}}'), Why.AUTH),
        (Response(500, body=b"x" * 200_000), Why.UNREACHABLE),
        (Response(503, body=b'{"error": {"message": "Loading model", "type": "unavailable_error"}}'), Why.UNREACHABLE),
        (Response(529), Why.UNREACHABLE),
        (Response(400, body=b'{"error": {"code": "content_filter", "message": "no"}}'), Why.FILTERED),
        (Response(400, body=b'{"detail": "maximum context length is 4096 tokens"}'), Why.TOO_LONG),
        (Response(302, headers={"location": "http://elsewhere"}), Why.NONSENSE),
        (Response(200, headers={"content-type": "text/html"}, body=b"<html>Welcome</html>"), Why.NONSENSE),
        (Response(200, headers={"content-type": "text/plain"}, body=b"Welcome"), Why.NONSENSE),
        (Response(200, headers={"content-type": "application/json"}, body=b"{}"), Why.NONSENSE),
        (Response(200, headers={"content-type": "text/event-stream"}), Why.CUT),
        (Response(200, headers={"content-type": "text/event-stream"}, body=b"data: Welcome\n\n"), Why.NONSENSE),
        (Response(200, headers={"content-type": "text/event-stream"}, body=b"x" * 3_000_000), Why.NONSENSE),
    ],
)
async def test_what_is_no_answer_has_its_reason(
    rig: Rig, response: Response, why: Why, autojump_clock: MockClock
) -> None:
    rig.cloud.manner.refusal = response
    assert (await failure_of(rig)).why is why


@pytest.mark.parametrize(
    ("headers", "wait_s"), [({"retry-after": "7"}, 7.0), ({"retry-after-ms": "1500"}, 1.5), ({}, None)]
)
async def test_how_long_to_wait_is_told(
    rig: Rig, headers: dict[str, str], wait_s: float | None, autojump_clock: MockClock
) -> None:
    rig.cloud.manner.refusal = Response(429, headers=headers)
    assert (await failure_of(rig)).retry_after_s == wait_s


async def test_a_context_that_is_too_long_is_named_so(rig: Rig, autojump_clock: MockClock) -> None:
    rig.cloud.manner.limit_chars = 100
    assert (await failure_of(rig, asked("word " * 100))).why is Why.TOO_LONG
    assert "You said hello" in text_of(await rig.parts(asked("hello")))


async def test_what_a_vendor_will_not_say_is_named_so(rig: Rig, bench: Bench, autojump_clock: MockClock) -> None:
    rig.cloud.manner.stop = bench.filtered
    assert (await failure_of(rig)).why is Why.FILTERED


async def test_what_came_before_a_failure_is_kept(rig: Rig, autojump_clock: MockClock) -> None:
    rig.cloud.manner.cut_at = 12
    heard: list[str] = []

    async def listen() -> None:
        async with rig.model.open_reply(asked("and a story please")) as parts:
            async for part in parts:
                heard.append(str(part))  # noqa: PERF401 - kept though the loop is left by an exception

    with pytest.raises(ModelFailed) as failure:
        await listen()
    assert failure.value.why is Why.CUT
    assert "".join(heard).startswith("Turn 1.")


@pytest.mark.parametrize("how", ["cut_at", "close_at"])
async def test_wherever_an_answer_breaks_off_it_is_no_whole_one(
    rig: Rig, bench: Bench, how: str, autojump_clock: MockClock
) -> None:
    whole = len(rig.cloud.events({"model": "m", "stream_options": {"include_usage": True}}, THOUGHT))
    after = {"openai_chat": 2, "compatible": 0, "openai_responses": 0, "anthropic": 1}[bench.name]
    """Events that come when everything has been said."""
    for place in range(whole):
        rig.cloud.manner = Manner(gap_s=0.0)
        setattr(rig.cloud.manner, how, place)
        if place >= whole - after:
            assert text_of(await rig.parts(asked("hello"))) == "Turn 1. You said hello. "
        else:
            assert (await failure_of(rig)).why is Why.CUT, place


async def test_an_error_in_the_middle_has_its_reason(rig: Rig, bench: Bench, autojump_clock: MockClock) -> None:
    rig.cloud.manner.says_at = (5, bench.error_event)
    assert (await failure_of(rig)).why is Why.UNREACHABLE


async def test_garbage_in_the_middle_is_nonsense(rig: Rig, autojump_clock: MockClock) -> None:
    rig.cloud.manner.says_at = (5, b"data: {]\n\n")
    assert (await failure_of(rig)).why is Why.NONSENSE


async def test_a_line_without_end_is_given_up(rig: Rig, autojump_clock: MockClock) -> None:
    rig.cloud.manner.says_at = (5, b"data: " + b"x" * 2_000_000)
    assert (await failure_of(rig)).why is Why.NONSENSE


async def test_arguments_without_end_are_given_up(rig: Rig, autojump_clock: MockClock) -> None:
    rig.cloud.manner.calls = [("weather", "1" * 900_000), ("weather", "1" * 900_000)]
    assert (await failure_of(rig)).why is Why.NONSENSE


async def test_a_vendor_that_says_nothing_more_is_given_up_in_the_end(rig: Rig, autojump_clock: MockClock) -> None:
    rig.cloud.manner = Manner(stall_at=6, is_silent=True)
    began = trio.current_time()
    assert (await failure_of(rig)).why is Why.TIMEOUT
    assert trio.current_time() - began < 35


async def test_an_answer_is_over_when_all_was_said_though_the_stream_stays_open(
    rig: Rig, autojump_clock: MockClock
) -> None:
    whole = len(rig.cloud.events({"model": "m", "stream_options": {"include_usage": True}}, THOUGHT))
    rig.cloud.manner = Manner(stall_at=whole)
    began = trio.current_time()
    assert text_of(await rig.parts(asked("hello"))) == "Turn 1. You said hello. "
    assert trio.current_time() - began < 3


# --- leaving ------------------------------------------------------------------------------------------------


@pytest.mark.proves("barge-in")
async def test_leaving_a_reply_closes_its_request_at_once(rig: Rig, autojump_clock: MockClock) -> None:
    rig.cloud.manner = Manner(gap_s=0.1)
    async with rig.model.open_reply(asked("and a story please")) as parts:
        await parts.receive()
        began = trio.current_time()
    assert trio.current_time() == began
    await trio.sleep(0.3)
    assert rig.cloud.requests_open == 0
    assert "You said again" in text_of(await rig.parts(asked("again")))


async def test_a_reply_that_nobody_reads_waits_for_its_reader(rig: Rig, autojump_clock: MockClock) -> None:
    rig.cloud.manner = Manner(gap_s=0.0, says=["word "] * 500)
    async with rig.model.open_reply(asked("hello")) as parts:
        await trio.sleep(10)
        assert await parts.receive() == "word"


async def test_a_reader_may_look_away_and_come_back(rig: Rig, autojump_clock: MockClock) -> None:
    rig.cloud.manner = Manner(first_s=5.0)
    async with rig.model.open_reply(asked("hello")) as parts:
        with trio.move_on_after(2) as filler:
            await parts.receive()
        assert filler.cancelled_caught
        assert text_of([part async for part in parts]) == "Turn 1. You said hello. "


async def test_what_is_raised_in_the_block_comes_out_as_it_is(rig: Rig, autojump_clock: MockClock) -> None:
    async def leave() -> None:
        async with rig.model.open_reply(asked("hello")) as parts:
            await parts.receive()
            raise LookupError

    with pytest.raises(LookupError):
        await leave()


async def test_cancels_at_random_instants_leave_nothing(rig: Rig, autojump_clock: MockClock) -> None:
    """Three hundred, over all vendors."""
    rig.cloud.manner.gap_s = 0.03
    instants = random.Random(38)
    for _ in range(75):
        with trio.move_on_after(instants.uniform(0, 0.8)):
            await rig.parts(asked("and a story please"))
    await trio.sleep(0.1)
    assert rig.cloud.requests_open == 0
    assert "You said again" in text_of(await rig.parts(asked("again")))


@pytest.mark.proves("cancelled")
def test_cancelled_at_any_step_nothing_is_left(bench: Bench) -> None:
    def play(k: int | None) -> tuple[AtStep, list[str]]:
        problems: list[str] = []
        reached = trio.CancelScope()

        async def call(rig_: dict[str, Any]) -> None:
            with reached:
                async with bench.make_vendor(rig_["network"], rig_["cloud"].key).open(SESSION, rig_["book"]) as model:
                    rig_["model"] = model
                    async with model.open_reply(asked("hello", tools=(WEATHER,))) as parts:
                        with suppress(ModelFailed):
                            async for _ in parts:
                                pass

        async def main() -> None:
            cloud, book = bench.make_cloud(), Book()
            cloud.manner = Manner(first_s=0.01, gap_s=0.001, says=["Hi."])
            async with trio.open_nursery() as clouds:
                held: dict[str, Any] = {"cloud": cloud, "book": book, "network": dialled(cloud, clouds)}
                trio.lowlevel.add_instrument(step)
                async with trio.open_nursery() as calls:
                    token = is_target.set(True)
                    calls.start_soon(call, held)
                    is_target.reset(token)
                trio.lowlevel.remove_instrument(step)
                await trio.sleep(1)
                if cloud.requests_open or book.open or book.leaks:
                    problems.append(f"{cloud.requests_open} requests, {book.open} open, {book.leaks} leaked")
                if "model" in held and not held["model"].is_closed:
                    problems.append("the model is open")
                clouds.cancel_scope.cancel()

        step = AtStep(k, lambda _: reached.cancel())
        fix_the_order()
        trio.run(main, clock=MockClock(autojump_threshold=0))
        return step, problems

    count, problems = play(None)
    assert problems == []
    assert count.steps > 20
    bad = {k: found for k in range(1, count.steps + 1) if (found := play(k)[1])}
    assert bad == {}


# --- junk ---------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_on_the_wire_only_model_failed_is_raised(bench: Bench, data: st.DataObject) -> None:
    pieces: list[bytes] = []
    reading: dict[str, Any] = {}
    cloud = bench.make_cloud()
    body = {"model": "m"}
    events = cloud.events(body, Thought(THOUGHT.pieces, [("weather", '{"city": "Ulm"}')]))
    for _ in range(data.draw(st.integers(1, 8))):
        event = data.draw(st.one_of(st.sampled_from(events), _mutants(events), st.binary(max_size=40)))
        pieces.append(event)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            cloud.manner.refusal = Response(headers={"content-type": "text/event-stream"}, body=b"".join(pieces))
            vendor = bench.make_vendor(dialled(cloud, nursery), cloud.key)
            async with vendor.open(SESSION, Book()) as model, model.open_reply(asked("hello")) as parts:
                with suppress(ModelFailed):
                    async for part in parts:
                        assert part is not None
            reading["closed"] = model.is_closed
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert reading["closed"]


@st.composite
def _mutants(draw: st.DrawFn, events: list[bytes]) -> bytes:
    """An event of which one value is of another kind."""
    event = draw(st.sampled_from(events))
    values = [b"null", b"7", b'"x"', b"[]", b"{}", b"[null]", b"[7]", b"true", b"-1e999"]
    places = [match.end() for match in re.finditer(rb':(?=["{\[])', event)]
    if not places:
        return event
    place = draw(st.sampled_from(places))
    end = min((at for at in (event.find(mark, place + 1) for mark in (b",", b"}", b"]")) if at > 0), default=len(event))
    return event[:place] + draw(st.sampled_from(values)) + event[end:]
