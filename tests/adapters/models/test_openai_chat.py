"""Chat completions: what is asked for, and every way in which servers that speak like OpenAI differ from it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import trio
from trio.testing import MockClock

from adapters.models.openai_chat import OpenAiChatConfig, OpenAiChatModelVendor, OpenAiChatWire
from engine.errors import ModelFailed, Why
from engine.events import Context, Message, ModelPart, Role, ToolCall, Usage
from engine.ports import RawModel
from tests.contract.model_benches import SESSION, WEATHER, Book, asked, text_of
from tests.fakes.clouds.loopback import Response, dialled
from tests.fakes.clouds.openai_chat import Dialect, OpenAiChat
from tests.fakes.clouds.thinking import KEY, Manner

CALLS = 'call the tool weather with {"city": "Ulm"} and call the tool weather with {"city": "Bonn"}'


@asynccontextmanager
async def opened(cloud: OpenAiChat, nursery: trio.Nursery, **config: Any) -> AsyncIterator[RawModel]:
    given = OpenAiChatConfig(**{"model": "m", "url": "http://cloud/v1", "key": KEY, **config})
    async with OpenAiChatModelVendor(given, dialled(cloud, nursery)).open(SESSION, Book()) as model:
        yield model


async def parts_of(model: RawModel, context: Context) -> list[ModelPart]:
    async with model.open_reply(context) as parts:
        return [part async for part in parts]


def body(context: Context, **config: Any) -> dict[str, Any]:
    wire = OpenAiChatWire(OpenAiChatConfig(**{"model": "m", **config}))
    made: dict[str, Any] = orjson.loads(wire.request(context))
    return made


@pytest.mark.parametrize(
    "dialect",
    [
        Dialect(usage="choice"),
        Dialect(usage="never"),
        Dialect(has_index=False),
        Dialect(index_is_zero=True),
        Dialect(index_is_zero=True, whole_calls=True, has_ids=False),
        Dialect(has_index=False, whole_calls=True, has_ids=False),
        Dialect(has_ids=False),
        Dialect(whole_calls=True),
        Dialect(whole_calls=True, arguments_as_object=True),
        Dialect(repeats_role=True),
        Dialect(null_content=True, repeats_role=True),
        Dialect(stops_with_calls=False),
        Dialect(reasons="reasoning_content"),
        Dialect(reasons="reasoning"),
        Dialect(says_done=False),
        Dialect(float_created=True, has_comments=True),
        Dialect(needs_key=False),
    ],
    ids=lambda dialect: ",".join(name for name, value in vars(dialect).items() if value != vars(Dialect())[name]),
)
async def test_what_servers_do_differently_makes_no_difference(
    dialect: Dialect, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = OpenAiChat(dialect=dialect)
    async with opened(cloud, nursery, key=KEY if dialect.needs_key else "") as model:
        parts = await parts_of(model, asked(CALLS, tools=(WEATHER,)))
    assert text_of(parts) == "One moment. "
    calls = [part for part in parts if isinstance(part, ToolCall)]
    assert [orjson.loads(call.arguments) for call in calls] == [{"city": "Ulm"}, {"city": "Bonn"}]
    assert len({call.call_id for call in calls}) == 2
    assert [part for part in parts if isinstance(part, Usage)] == ([] if dialect.usage == "never" else [Usage(7, 5)])
    assert cloud.faults == []


async def test_a_server_without_a_key_is_sent_none(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    cloud = OpenAiChat(dialect=Dialect(needs_key=False))
    async with opened(cloud, nursery, key="") as model:
        await parts_of(model, asked("hello"))
    assert "authorization" not in cloud.requests[-1].headers


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (Response(503, body=b'{"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}'),
         Why.UNREACHABLE),
        (Response(404, body=b'{"error": "model \'x\' not found, try pulling it first"}'), Why.BAD_REQUEST),
        (Response(400, body=b'{"error": {"code": 400, "type": "exceed_context_size_error", "message": "the request '
                            b'exceeds the available context size"}}'), Why.TOO_LONG),
        (Response(400, body=b'{"object": "error", "message": "This model\'s maximum context length is 4096 tokens.", '
                            b'"type": "BadRequestError", "code": 400}'), Why.TOO_LONG),
        (Response(422, body=b'{"detail": [{"loc": ["body"]}]}'), Why.BAD_REQUEST),
    ],
)  # fmt: skip
async def test_their_errors_have_their_reasons(
    response: Response, why: Why, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with opened(OpenAiChat(Manner(refusal=response)), nursery) as model:
        with pytest.raises(ModelFailed) as failure:
            await parts_of(model, asked("hello"))
    assert failure.value.why is why


async def test_a_refusal_in_its_own_field_is_filtered(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    refusal = b'data: {"choices": [{"index": 0, "delta": {"refusal": "I cannot"}, "finish_reason": null}]}\n\n'
    async with opened(OpenAiChat(Manner(says_at=(2, refusal))), nursery) as model:
        with pytest.raises(ModelFailed) as failure:
            await parts_of(model, asked("hello"))
    assert failure.value.why is Why.FILTERED


async def test_a_server_that_goes_on_itself_is_shown_the_beginning_last(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = OpenAiChat()
    async with opened(cloud, nursery, prefill=True) as model:
        parts = await parts_of(model, asked("hello", said="Turn 1. You"))
    assert text_of(parts) == " said hello. "
    assert cloud.bodies[-1]["messages"][-1] == {"role": "assistant", "content": "Turn 1. You"}


def test_the_settings_are_in_the_request() -> None:
    made = body(asked("hi"), max_tokens=7, temperature=0.5, effort="low", extra={"top_k": 3, "stream_options": None})
    assert made["max_completion_tokens"] == 7
    assert (made["temperature"], made["reasoning_effort"], made["top_k"]) == (0.5, "low", 3)
    assert made["stream_options"] is None
    assert body(asked("hi"))["stream_options"] == {"include_usage": True, "include_obfuscation": False}


def test_a_server_of_somebody_elses_is_asked_for_what_all_know() -> None:
    made = body(asked("hi"), compatible=True, max_tokens=7)
    assert made == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 7,
    }


def test_an_interruption_is_marked_and_explained_once() -> None:
    messages = (
        Message(Role.CALLER, "hello"),
        Message(Role.AGENT, "We are open from", interrupted=True),
        Message(Role.CALLER, "tomorrow?"),
    )
    system, *turns = body(Context(messages, instructions="Be brief."))["messages"]
    assert system["content"].startswith("Be brief.\n\nWhere one of your messages ends in")
    assert [turn["content"] for turn in turns] == ["hello", "We are open from —", "tomorrow?"]
    assert "system" not in str(body(asked("hello", "tomorrow?")))


def test_the_key_is_in_no_word_about_the_settings() -> None:
    assert "secret" not in repr(OpenAiChatConfig(key="secret", model="m"))
