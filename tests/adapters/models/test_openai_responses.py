"""OpenAI's Responses: how a context is put, and what its ends mean."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import trio
from trio.testing import MockClock

from adapters.models.openai_responses import OpenAiResponsesConfig, OpenAiResponsesModelVendor, OpenAiResponsesWire
from engine.errors import ModelFailed, Why
from engine.events import Context, Exchange, ToolCall, ToolResult
from tests.contract.model_benches import SESSION, WEATHER, Book, asked
from tests.fakes.clouds.loopback import dialled
from tests.fakes.clouds.openai_responses import OpenAiResponses
from tests.fakes.clouds.thinking import KEY, Manner


def body(context: Context, **config: Any) -> dict[str, Any]:
    wire = OpenAiResponsesWire(OpenAiResponsesConfig(key="k", model="m", **config))
    made: dict[str, Any] = orjson.loads(wire.request(context))
    return made


def test_nothing_is_stored_and_everything_is_shown() -> None:
    call = ToolCall("c1", "weather", '{"city": "Ulm"}')
    exchange = Exchange("One moment.", (call,), (ToolResult("c1", "no", is_error=True),))
    context = Context(asked("hi", "and?").messages, tools=(WEATHER,), exchanges=(exchange,), instructions="Be brief.")
    made = body(context, max_tokens=7, effort="low", extra={"service_tier": "fast"})
    assert made["store"] is False
    assert made["instructions"] == "Be brief."
    assert (made["max_output_tokens"], made["reasoning"], made["service_tier"]) == (7, {"effort": "low"}, "fast")
    assert [item.get("role", item["type"]) for item in made["input"]] == [
        "user",
        "assistant",
        "user",
        "assistant",
        "function_call",
        "function_call_output",
    ]
    assert made["input"][1]["content"] == [{"type": "output_text", "text": "I see."}]
    assert made["input"][-1] == {"type": "function_call_output", "call_id": "c1", "output": "Error: no"}


@pytest.mark.parametrize(
    ("stop", "why"),
    [
        ("server_error", Why.UNREACHABLE),
        ("rate_limit_exceeded", Why.RATE_LIMITED),
        ("invalid_prompt", Why.FILTERED),
        ("of_next_year", Why.FAILED),
    ],
)
async def test_a_response_that_failed_has_its_reason(
    stop: str, why: Why, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    config = OpenAiResponsesConfig(key=KEY, model="m", url="http://cloud/v1")
    vendor = OpenAiResponsesModelVendor(config, dialled(OpenAiResponses(Manner(stop=stop)), nursery))

    async def ask() -> None:
        async with vendor.open(SESSION, Book()) as model, model.open_reply(asked("hello")) as parts:
            async for _ in parts:
                pass

    with pytest.raises(ModelFailed) as failure:
        await ask()
    assert failure.value.why is why
