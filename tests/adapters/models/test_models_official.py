"""The vendors' own clients against the fakes: what they accept is the wire that our adapters are tested on."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from tests.contract.model_benches import BENCHES
from tests.fakes.clouds.anthropic_messages import AnthropicMessages
from tests.fakes.clouds.loopback import Response, serving
from tests.fakes.clouds.openai_chat import OpenAiChat
from tests.fakes.clouds.openai_responses import OpenAiResponses
from tests.fakes.clouds.thinking import KEY, Manner

# The clients leave the generators of an answer that has ended to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator '(http(core|x)2|openai):ResourceWarning")
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
QUESTION = 'Please call the tool weather with {"city": "Köln"}'
DIRECT: Any = {"max_retries": 0, "timeout": 5.0, "api_key": KEY}
BRISK = Manner(first_s=0.0, gap_s=0.0)


# --- chat completions ---------------------------------------------------------------------------------------


@pytest.mark.proves("official client", adapter="openai")
async def test_openais_client_reads_the_fakes_chat() -> None:
    import openai

    cloud = OpenAiChat(BRISK)
    async with serving(cloud) as served, openai.AsyncOpenAI(base_url=f"{served.http}/v1", **DIRECT) as client:
        stream = await client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "hello there"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "Turn 1. You said hello there. "
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5
    assert cloud.faults == []


@pytest.mark.proves("official client", adapter="compatible")
async def test_openais_client_reads_a_server_that_does_everything_a_little_differently() -> None:
    import openai

    cloud = next(bench.make_cloud() for bench in BENCHES if bench.name == "compatible")
    cloud.manner = BRISK
    messages: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello there"}]
    async with serving(cloud) as served, openai.AsyncOpenAI(base_url=f"{served.http}/v1", **DIRECT) as client:
        stream = await client.chat.completions.create(model="m", messages=messages, stream=True)
        chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "Turn 1. You said hello there. "
    assert cloud.faults == []


async def test_openais_client_takes_the_fakes_tool_calls_and_gives_their_results() -> None:
    import openai

    cloud = OpenAiChat(BRISK)
    tool: Any = {"type": "function", "function": {"name": "weather", "description": "", "parameters": SCHEMA}}
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    async with serving(cloud) as served, openai.AsyncOpenAI(base_url=f"{served.http}/v1", **DIRECT) as client:
        async with client.chat.completions.stream(model="m", messages=messages, tools=[tool]) as stream:
            first = (await stream.get_final_completion()).choices[0]
        assert first.finish_reason == "tool_calls"
        assert first.message.tool_calls is not None
        assert json.loads(first.message.tool_calls[0].function.arguments) == {"city": "Köln"}
        call_id = first.message.tool_calls[0].id
        calls = [call.model_dump(include={"id", "type", "function"}) for call in first.message.tool_calls]
        messages.append({"role": "assistant", "content": first.message.content, "tool_calls": calls})
        messages.append({"role": "tool", "tool_call_id": call_id, "content": "rain"})
        async with client.chat.completions.stream(model="m", messages=messages) as stream:
            second = (await stream.get_final_completion()).choices[0]
    assert second.message.content == "The tool said rain. "
    assert cloud.faults == []


async def test_openais_client_raises_the_fakes_errors() -> None:
    import openai

    cloud = OpenAiChat(BRISK)

    def ask(base_url: str, key: str) -> None:
        with openai.OpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=5.0) as client:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x" * 99}], stream=True)

    async with serving(cloud) as served:
        with pytest.raises(openai.AuthenticationError):
            await trio.to_thread.run_sync(ask, f"{served.http}/v1", "wrong")
        cloud.manner = Manner(limit_chars=10)
        with pytest.raises(openai.BadRequestError) as too_long:
            await trio.to_thread.run_sync(ask, f"{served.http}/v1", KEY)
        assert too_long.value.code == "context_length_exceeded"
        cloud.manner = Manner(refusal=Response(429, headers={"retry-after": "2"}))
        with pytest.raises(openai.RateLimitError):
            await trio.to_thread.run_sync(ask, f"{served.http}/v1", KEY)


# --- responses ----------------------------------------------------------------------------------------------


@pytest.mark.proves("official client", adapter="openai_responses")
async def test_openais_client_reads_the_fakes_responses_and_tool_calls() -> None:
    import openai

    cloud = OpenAiResponses(BRISK)
    tool: Any = {"type": "function", "name": "weather", "description": "", "parameters": SCHEMA, "strict": False}
    given: list[Any] = [{"role": "user", "content": QUESTION}]
    async with serving(cloud) as served, openai.AsyncOpenAI(base_url=f"{served.http}/v1", **DIRECT) as client:
        async with client.responses.stream(model="m", input=given, tools=[tool], store=False) as stream:
            first = await stream.get_final_response()
        assert first.output_text == "One moment. "
        call = next(item for item in first.output if item.type == "function_call")
        assert json.loads(call.arguments) == {"city": "Köln"}
        asked: Any = {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments}
        answered: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
        async with client.responses.stream(model="m", input=[*given, asked, answered], store=False) as stream:
            second = await stream.get_final_response()
    assert second.output_text == "The tool said rain. "
    assert second.usage is not None
    assert second.usage.output_tokens == 5
    assert cloud.faults == []


async def test_openais_client_raises_the_fakes_errors_of_responses() -> None:
    import openai

    cloud = OpenAiResponses(BRISK)

    def ask(base_url: str, key: str) -> None:
        with openai.OpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=5.0) as client:
            client.responses.create(model="m", input=[{"role": "user", "content": "x"}], stream=True, store=False)

    async with serving(cloud) as served:
        with pytest.raises(openai.AuthenticationError):
            await trio.to_thread.run_sync(ask, f"{served.http}/v1", "wrong")
        cloud.manner = Manner(limit_chars=0)
        with pytest.raises(openai.BadRequestError) as too_long:
            await trio.to_thread.run_sync(ask, f"{served.http}/v1", KEY)
        assert too_long.value.code == "context_length_exceeded"


# --- anthropic ----------------------------------------------------------------------------------------------


@pytest.mark.proves("official client", adapter="anthropic")
async def test_anthropics_client_reads_the_fakes_messages_and_tool_calls() -> None:
    import anthropic

    cloud = AnthropicMessages(BRISK)
    tool: Any = {"name": "weather", "description": "", "input_schema": SCHEMA}
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    async with serving(cloud) as served, anthropic.AsyncAnthropic(base_url=served.http, **DIRECT) as client:
        async with client.messages.stream(model="m", max_tokens=100, messages=messages, tools=[tool]) as stream:
            first = await stream.get_final_message()
        assert first.stop_reason == "tool_use"
        assert [block.text for block in first.content if block.type == "text"] == ["One moment. "]
        use = next(block for block in first.content if block.type == "tool_use")
        assert use.input == {"city": "Köln"}
        asked = {"type": "tool_use", "id": use.id, "name": use.name, "input": use.input}
        answered = {"type": "tool_result", "tool_use_id": use.id, "content": "rain"}
        messages += [{"role": "assistant", "content": [asked]}, {"role": "user", "content": [answered]}]
        async with client.messages.stream(model="m", max_tokens=100, messages=messages, tools=[tool]) as stream:
            second = await stream.get_final_message()
    assert [block.text for block in second.content if block.type == "text"] == ["The tool said rain. "]
    assert second.usage.output_tokens == 5
    assert cloud.faults == []


async def test_anthropics_client_raises_the_fakes_errors() -> None:
    import anthropic

    cloud = AnthropicMessages(BRISK)

    def ask(base_url: str, key: str) -> None:
        with anthropic.Anthropic(base_url=base_url, api_key=key, max_retries=0, timeout=5.0) as client:
            stream = client.messages.create(
                model="m", max_tokens=100, messages=[{"role": "user", "content": "x"}], stream=True
            )
            for _ in stream:
                pass

    async with serving(cloud) as served:
        with pytest.raises(anthropic.AuthenticationError):
            await trio.to_thread.run_sync(ask, served.http, "wrong")
        cloud.manner = Manner(limit_chars=0)
        with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
            await trio.to_thread.run_sync(ask, served.http, KEY)
        error = b'{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}'
        cloud.manner = Manner(says_at=(2, b"event: error\ndata: " + error + b"\n\n"))
        with pytest.raises(anthropic.APIStatusError):
            await trio.to_thread.run_sync(ask, served.http, KEY)
