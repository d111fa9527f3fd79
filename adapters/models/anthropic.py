"""Anthropic's messages, streamed, with tools. Source: Anthropic's API reference and the official client."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from adapters.models.complaints import as_dict, complaint, parsed
from adapters.models.continuing import Continuing
from adapters.models.http_model import HttpModelVendor
from adapters.models.shown import BEGINNING, GO_ON, arguments_of, shown, to_json
from adapters.models.sse import ServerEvent
from adapters.models.tool_calls import ToolCalls
from engine.errors import BadMessage, ModelFailed, Why
from engine.events import Context, Exchange, ModelPart, Role, Usage
from engine.runtime.network import Network


@dataclass(frozen=True, slots=True, kw_only=True)
class AnthropicConfig:
    """``[vendors.NAME]`` of kind ``anthropic``."""

    key: str = field(repr=False)
    """Of the account."""
    model: str
    """As the vendor names it."""
    name: str = "anthropic"
    """Metric label."""
    url: str = "https://api.anthropic.com"
    """Without ``/v1/messages``."""
    version: str = "2026-10-21"
    """Of the API; the one that the official client names. Older: ``2023-06-01``."""
    bearer: bool = True
    """The key goes into ``Authorization``, as the official client has it; else into ``x-api-key``."""
    max_tokens: int = 1024
    """Of one answer; the vendor wants one named."""
    temperature: float | None = None
    """0 to 1, of older models; not sent if not set."""
    prefill: bool = False
    """The model goes on from an unfinished message of the agent. Newer models refuse that."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Put into each request as it is, over everything else."""
    read_s: float = 30.0
    """Seconds of silence after which a request is given up. The engine's own deadlines are shorter."""


class AnthropicModelVendor(HttpModelVendor):
    """See ``engine.ports.ModelVendor``. Raises SettingsError."""

    def __init__(self, config: AnthropicConfig, network: Network) -> None:
        super().__init__(AnthropicWire(config), network)


class AnthropicWire:
    path = "/v1/messages"

    def __init__(self, config: AnthropicConfig) -> None:
        self.name = config.name
        self.url = config.url.rstrip("/")
        self.read_s = config.read_s
        self._config = config

    def headers(self) -> Mapping[str, str]:
        config = self._config
        key = {"authorization": f"Bearer {config.key.strip()}"} if config.bearer else {"x-api-key": config.key.strip()}
        return {**key, "anthropic-version": config.version}

    def request(self, context: Context) -> bytes:
        config, what = self._config, shown(context)
        messages: list[dict[str, Any]] = [{"role": str(turn.role), "content": turn.text} for turn in what.turns]
        body: dict[str, Any] = {
            "model": config.model,
            "max_tokens": config.max_tokens,
            "messages": _alternating(
                [*messages, *_since(context, prefill=config.prefill)],
                ends_in_prefill=config.prefill and bool(context.said.strip()),
            ),
            "stream": True,
        }
        if what.system:
            body["system"] = what.system
        if context.tools:
            body["tools"] = [
                {"name": tool.name, "description": tool.description, "input_schema": dict(tool.parameters)}
                for tool in context.tools
            ]
        elif context.exchanges:
            body |= _tools_no_more(context)
        if config.temperature is not None:
            body["temperature"] = config.temperature
        return to_json(body | dict(config.extra))

    def reading(self, context: Context) -> AnthropicReading:
        return AnthropicReading(self.name, context, prefill=self._config.prefill)


class AnthropicReading:
    """One answer. Thinking and citations are not looked at."""

    def __init__(self, vendor: str, context: Context, *, prefill: bool = False) -> None:
        self.is_complete = False
        self.is_over = False
        self._vendor = vendor
        self._continuing = Continuing(context.said.rstrip() if prefill else context.said, is_exact=prefill)
        self._calls = ToolCalls(f"call_{len(context.exchanges)}")
        self._has_text = False
        self._input_tokens: int | None = None
        self._output_tokens: int | None = None

    def feed(self, event: ServerEvent) -> Iterator[ModelPart]:
        message = parsed(event.data)
        if not isinstance(message, dict):
            raise BadMessage("json")
        match message.get("type", event.name):
            case "message_start":
                self._count(as_dict(as_dict(message.get("message")).get("usage")))
            case "content_block_start":
                yield from self._block(message, as_dict(message.get("content_block")))
            case "content_block_delta":
                yield from self._delta(message, as_dict(message.get("delta")))
            case "message_delta":
                self._count(as_dict(message.get("usage")))
                self._stop(as_dict(message.get("delta")).get("stop_reason"))
            case "message_stop":
                self.is_complete = self.is_over = True
            case "error":
                raise complaint(self._vendor, message)

    def end(self) -> Iterator[ModelPart]:
        if rest := self._continuing.end():
            yield rest
        yield from self._calls.all()
        if self._input_tokens is not None and self._output_tokens is not None:
            yield Usage(self._input_tokens, self._output_tokens)

    def _block(self, message: Mapping[str, Any], block: Mapping[str, Any]) -> Iterator[str]:
        match block.get("type"):
            case "text":
                yield from self._text(block.get("text"))
            case "tool_use":
                self._calls.begin(_index(message), _str(block.get("id")), _str(block.get("name")))
                if given := as_dict(block.get("input")):  # whole at once: not of Anthropic, of servers like it
                    self._calls.add(_index(message), to_json(given).decode())

    def _delta(self, message: Mapping[str, Any], delta: Mapping[str, Any]) -> Iterator[str]:
        match delta.get("type"):
            case "text_delta":
                yield from self._text(delta.get("text"))
            case "input_json_delta":
                self._calls.add(_index(message), _str(delta.get("partial_json")))

    def _text(self, piece: object) -> Iterator[str]:
        if isinstance(piece, str) and piece:
            self._has_text = True
            if text := self._continuing.feed(piece):
                yield text

    def _stop(self, reason: object) -> None:
        if reason == "refusal":
            raise ModelFailed(self._vendor, "it will not answer that", why=Why.FILTERED)
        if reason == "model_context_window_exceeded" and not self._has_text:
            raise ModelFailed(self._vendor, "no room for an answer", why=Why.TOO_LONG)
        self.is_complete = self.is_complete or isinstance(reason, str)

    def _count(self, usage: Mapping[str, Any]) -> None:
        given = [usage.get(f"{kind}input_tokens") for kind in ("", "cache_read_", "cache_creation_")]
        if isinstance(given[0], int):
            self._input_tokens = sum(count for count in given if isinstance(count, int))
        if isinstance(made := usage.get("output_tokens"), int):
            self._output_tokens = made  # of the whole answer so far


def _since(context: Context, *, prefill: bool) -> Iterator[dict[str, Any]]:
    """What came after the last message. All results of one round stand in one message."""
    for exchange in context.exchanges:
        yield {"role": str(Role.AGENT), "content": _asked(exchange)}
        yield {
            "role": str(Role.CALLER),
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": _id(result.call_id),
                    "content": result.text,
                    **({"is_error": True} if result.is_error else {}),
                }
                for result in exchange.results
            ],
        }
    if said := context.said.rstrip():  # spaces at the end are refused
        yield {"role": str(Role.AGENT), "content": said}
        if not prefill:
            yield {"role": str(Role.CALLER), "content": GO_ON}


def _asked(exchange: Exchange) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if said := exchange.said.strip():
        blocks.append({"type": "text", "text": said})
    blocks += [
        {"type": "tool_use", "id": _id(call.call_id), "name": call.name, "input": dict(arguments_of(call.arguments))}
        for call in exchange.calls
    ]
    return blocks


def _alternating(messages: list[dict[str, Any]], *, ends_in_prefill: bool) -> list[dict[str, Any]]:
    """Two of the same side in a row, as when the last words shown are the agent's own, are made one; the caller's side
    comes last."""
    merged: list[dict[str, Any]] = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"]:
            merged[-1] = {"role": message["role"], "content": [*_blocks(merged[-1]), *_blocks(message)]}
        else:
            merged.append(message)
    if merged[-1]["role"] == str(Role.AGENT) and not ends_in_prefill:
        merged.append({"role": str(Role.CALLER), "content": BEGINNING})
    return merged


def _blocks(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _tools_no_more(context: Context) -> dict[str, Any]:
    """What was called has to be declared, even where nothing more may be called."""
    names = dict.fromkeys(call.name for exchange in context.exchanges for call in exchange.calls)
    return {
        "tools": [{"name": name, "description": "", "input_schema": {"type": "object"}} for name in names],
        "tool_choice": {"type": "none"},
    }


def _id(call_id: str) -> str:
    """Another vendor may have made it up."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", call_id) or "_"


def _index(message: Mapping[str, Any]) -> int | None:
    index = message.get("index")
    return index if isinstance(index, int) else None


def _str(value: object) -> str:
    return value if isinstance(value, str) else ""
