"""Anthropic's messages: how a context is put, and what its ends mean."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import trio
from trio.testing import MockClock

from adapters.models.anthropic import AnthropicConfig, AnthropicModelVendor, AnthropicWire
from engine.errors import ModelFailed, Why
from engine.events import Context, Exchange, Message, ModelPart, Role, ToolCall, ToolResult
from tests.contract.model_benches import SESSION, WEATHER, Book, asked, text_of
from tests.fakes.clouds.anthropic_messages import AnthropicMessages
from tests.fakes.clouds.loopback import dialled
from tests.fakes.clouds.thinking import KEY, Manner

CALLS = (ToolCall("a.b", "weather", '{"city": "Ulm"}'), ToolCall("c", "weather", "oops"))
EXCHANGE = Exchange("One moment. ", CALLS, (ToolResult("a.b", "rain"), ToolResult("c", "no", is_error=True)))


async def ask(cloud: AnthropicMessages, context: Context, nursery: trio.Nursery, **config: Any) -> list[ModelPart]:
    given = AnthropicConfig(**{"key": KEY, "model": "m", "url": "http://cloud", **config})
    vendor = AnthropicModelVendor(given, dialled(cloud, nursery))
    async with vendor.open(SESSION, Book()) as model, model.open_reply(context) as parts:
        return [part async for part in parts]


def body(context: Context, **config: Any) -> dict[str, Any]:
    made: dict[str, Any] = orjson.loads(AnthropicWire(AnthropicConfig(key="k", model="m", **config)).request(context))
    return made


def test_all_results_of_a_round_stand_first_in_one_message() -> None:
    made = body(Context(asked("hi").messages, tools=(WEATHER,), exchanges=(EXCHANGE,), instructions="Be brief."))
    assert made["system"] == "Be brief."
    assert made["messages"] == [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "One moment."},
                {"type": "tool_use", "id": "a_b", "name": "weather", "input": {"city": "Ulm"}},
                {"type": "tool_use", "id": "c", "name": "weather", "input": {"unreadable": "oops"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a_b", "content": "rain"},
                {"type": "tool_result", "tool_use_id": "c", "content": "no", "is_error": True},
            ],
        },
    ]


def test_what_was_called_is_declared_though_nothing_may_be_called() -> None:
    made = body(Context(asked("hi").messages, exchanges=(EXCHANGE,)))
    assert [tool["name"] for tool in made["tools"]] == ["weather"]
    assert made["tool_choice"] == {"type": "none"}


@pytest.mark.parametrize("takes_prefill", [False, True])
async def test_a_beginning_is_put_as_the_model_takes_it(
    takes_prefill: bool, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = AnthropicMessages(takes_prefill=takes_prefill)
    context = asked("hello", said="Turn 1. You ")
    parts = await ask(cloud, context, nursery, prefill=takes_prefill)
    assert text_of(parts).strip() == "said hello."
    assert cloud.faults == []
    assert (cloud.bodies[-1]["messages"][-1]["role"] == "assistant") is takes_prefill


async def test_the_agents_own_words_do_not_come_last(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    cloud = AnthropicMessages(takes_prefill=False)
    await ask(cloud, Context((Message(Role.AGENT, "Hello."),)), nursery)
    assert cloud.faults == []


@pytest.mark.parametrize(("bearer", "header"), [(True, "authorization"), (False, "x-api-key")])
async def test_the_key_goes_where_the_settings_say(
    bearer: bool, header: str, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = AnthropicMessages()
    await ask(cloud, asked("hello"), nursery, bearer=bearer, version="2023-06-01")
    headers = cloud.requests[-1].headers
    assert KEY in headers[header]
    assert headers["anthropic-version"] == "2023-06-01"
    assert {"authorization", "x-api-key"} & set(headers) == {header}


@pytest.mark.parametrize("says", [[], ["We open at"]])
async def test_a_full_window_is_an_end_only_for_who_has_said_something(
    says: list[str], autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    cloud = AnthropicMessages(Manner(says=says, stop="model_context_window_exceeded"))
    if says:
        assert text_of(await ask(cloud, asked("hello"), nursery)) == "We open at"
    else:
        with pytest.raises(ModelFailed) as failure:
            await ask(cloud, asked("hello"), nursery)
        assert failure.value.why is Why.TOO_LONG


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("overloaded_error", Why.UNREACHABLE),
        ("api_error", Why.UNREACHABLE),
        ("rate_limit_error", Why.RATE_LIMITED),
        ("authentication_error", Why.AUTH),
        ("timeout_error", Why.TIMEOUT),
        ("invalid_request_error", Why.BAD_REQUEST),
        ("of_next_year_error", Why.FAILED),
    ],
)
async def test_an_error_after_200_has_its_reason_and_none_of_its_words(
    kind: str, why: Why, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    event = b'event: error\ndata: {"type": "error", "error": {"type": "%s", "message": "private"}}\n\n' % kind.encode()
    with pytest.raises(ModelFailed) as failure:
        await ask(AnthropicMessages(Manner(says_at=(5, event))), asked("hello"), nursery)
    assert failure.value.why is why
    assert str(failure.value) == f"anthropic: it says that it failed {kind}"
