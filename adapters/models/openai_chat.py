"""OpenAI's chat completions, streamed, with tools; and every server that speaks like it: Ollama, vLLM, llama.cpp.

Source: the OpenAI API reference and the official client; what the other servers do differently is tolerated here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from adapters.models.complaints import as_dict, complaint, parsed
from adapters.models.continuing import Continuing
from adapters.models.http_model import HttpModelVendor
from adapters.models.shown import GO_ON, Shown, arguments_json, result_text, shown, to_json
from adapters.models.sse import ServerEvent
from adapters.models.tool_calls import ToolCalls
from engine.errors import BadMessage, ModelFailed, Why
from engine.events import Context, ModelPart, Role, ToolSpec, Usage
from engine.runtime.network import Network


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAiChatConfig:
    """``[vendors.NAME]`` of kind ``openai_chat``."""

    key: str = field(default="", repr=False)
    """Of the account; empty for a server that asks for none."""
    model: str
    """As the vendor names it."""
    name: str = "openai"
    """Metric label."""
    url: str = "https://api.openai.com/v1"
    """Without ``/chat/completions``. Ollama: ``http://127.0.0.1:11434/v1``; vLLM: ``:8000/v1``; llama.cpp:
    ``:8080/v1``."""
    compatible: bool = False
    """A server of somebody else's: it is asked for what all of them know, and no more."""
    max_tokens: int | None = None
    """Of one answer, those it thinks with included; the vendor's own limit if not set."""
    temperature: float | None = None
    """0 to 2; the vendor's own if not set. Models that think may refuse it."""
    effort: str = ""
    """How much a model that thinks is to think: ``minimal``, ``low``, ...; not sent if empty."""
    prefill: bool = False
    """The server goes on from an unfinished message of the agent (llama.cpp, vLLM with ``extra``); OpenAI does not."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Put into each request as it is, over everything else."""
    read_s: float = 30.0
    """Seconds of silence after which a request is given up. The engine's own deadlines are shorter."""


class OpenAiChatModelVendor(HttpModelVendor):
    """See ``engine.ports.ModelVendor``. Raises SettingsError."""

    def __init__(self, config: OpenAiChatConfig, network: Network) -> None:
        super().__init__(OpenAiChatWire(config), network)


class OpenAiChatWire:
    path = "/chat/completions"

    def __init__(self, config: OpenAiChatConfig) -> None:
        self.name = config.name
        self.url = config.url.rstrip("/")
        self.read_s = config.read_s
        self._config = config

    def headers(self) -> Mapping[str, str]:
        return {"authorization": f"Bearer {self._config.key.strip()}"} if self._config.key else {}

    def request(self, context: Context) -> bytes:
        config = self._config
        body: dict[str, Any] = {
            "model": config.model,
            "messages": _messages(context, shown(context), prefill=config.prefill),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if not config.compatible:
            body["stream_options"]["include_obfuscation"] = False  # padding that only costs
        if context.tools:
            body["tools"] = [{"type": "function", "function": _function(tool)} for tool in context.tools]
        if config.max_tokens is not None:
            body["max_tokens" if config.compatible else "max_completion_tokens"] = config.max_tokens
        if config.temperature is not None:
            body["temperature"] = config.temperature
        if config.effort:
            body["reasoning_effort"] = config.effort
        return to_json(body | dict(config.extra))

    def reading(self, context: Context) -> ChatReading:
        return ChatReading(self.name, context, prefill=self._config.prefill)


class ChatReading:
    """One answer. What the model thinks (``reasoning_content`` and the like) is not looked at."""

    def __init__(self, vendor: str, context: Context, *, prefill: bool = False) -> None:
        self.is_complete = False
        self.is_over = False
        self._vendor = vendor
        self._continuing = Continuing(context.said, is_exact=prefill)
        self._calls = ToolCalls(f"call_{len(context.exchanges)}")
        self._usage: Usage | None = None

    def feed(self, event: ServerEvent) -> Iterator[ModelPart]:
        data = event.data.strip()
        if data == "[DONE]":
            self.is_complete = self.is_over = True
            return
        chunk = parsed(data)
        if not isinstance(chunk, dict):
            raise BadMessage("json")
        if chunk.get("error") or event.name == "error" or chunk.get("object") == "error":
            raise complaint(self._vendor, chunk)
        self._count(chunk.get("usage"))
        choices = chunk.get("choices")
        if isinstance(choices, list) and choices:
            yield from self._choice(as_dict(choices[0]))

    def end(self) -> Iterator[ModelPart]:
        if rest := self._continuing.end():
            yield rest
        yield from self._calls.all()
        if self._usage is not None:
            yield self._usage

    def _choice(self, choice: Mapping[str, Any]) -> Iterator[str]:
        delta = as_dict(choice.get("delta")) or as_dict(choice.get("message"))
        content = delta.get("content")
        if isinstance(content, str) and content and (text := self._continuing.feed(content)):
            yield text
        calls = delta.get("tool_calls")
        for fragment in calls if isinstance(calls, list) else ():
            self._calls.delta(as_dict(fragment))
        reason = choice.get("finish_reason")
        if delta.get("refusal") or reason == "content_filter":
            raise ModelFailed(self._vendor, "it will not answer that", why=Why.FILTERED)
        if reason == "error":
            raise complaint(self._vendor, choice)
        if isinstance(reason, str) and reason:
            self.is_complete = True

    def _count(self, usage: object) -> None:
        counts = as_dict(usage)
        given, made = counts.get("prompt_tokens"), counts.get("completion_tokens")
        if isinstance(given, int) and isinstance(made, int):
            self._usage = Usage(given, made)


def _messages(context: Context, what: Shown, *, prefill: bool) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if what.system:
        messages.append({"role": "system", "content": what.system})
    messages += [{"role": str(turn.role), "content": turn.text} for turn in what.turns]
    for exchange in context.exchanges:
        calls = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": arguments_json(call.arguments)},
            }
            for call in exchange.calls
        ]
        messages.append({"role": str(Role.AGENT), "content": exchange.said or None, "tool_calls": calls})
        messages += [
            {"role": "tool", "tool_call_id": result.call_id, "content": result_text(result)}
            for result in exchange.results
        ]
    if context.said.strip():
        messages.append({"role": str(Role.AGENT), "content": context.said})
        if not prefill:
            messages.append({"role": str(Role.CALLER), "content": GO_ON})
    return messages


def _function(tool: ToolSpec) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
