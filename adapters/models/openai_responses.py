"""OpenAI's Responses, streamed, with tools. Nothing is stored at the vendor: each request carries the whole context.

Source: the OpenAI API reference and the official client.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from adapters.models.complaints import as_dict, complaint, parsed
from adapters.models.continuing import Continuing
from adapters.models.http_model import HttpModelVendor
from adapters.models.shown import GO_ON, arguments_json, result_text, shown, to_json
from adapters.models.sse import ServerEvent
from adapters.models.tool_calls import ToolCalls
from engine.errors import BadMessage, ModelFailed, Why
from engine.events import Context, ModelPart, Role, ToolSpec, Usage
from engine.runtime.network import Network


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAiResponsesConfig:
    """``[vendors.NAME]`` of kind ``openai_responses``."""

    key: str = field(repr=False)
    """Of the account."""
    model: str
    """As the vendor names it."""
    name: str = "openai"
    """Metric label."""
    url: str = "https://api.openai.com/v1"
    """Without ``/responses``."""
    max_tokens: int | None = None
    """Of one answer, those it thinks with included; the vendor's own limit if not set."""
    temperature: float | None = None
    """0 to 2; the vendor's own if not set. Models that think refuse it."""
    effort: str = ""
    """How much a model that thinks is to think: ``minimal``, ``low``, ...; not sent if empty."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Put into each request as it is, over everything else."""
    read_s: float = 30.0
    """Seconds of silence after which a request is given up. The engine's own deadlines are shorter."""


class OpenAiResponsesModelVendor(HttpModelVendor):
    """See ``engine.ports.ModelVendor``. Raises SettingsError."""

    def __init__(self, config: OpenAiResponsesConfig, network: Network) -> None:
        super().__init__(OpenAiResponsesWire(config), network)


class OpenAiResponsesWire:
    path = "/responses"

    def __init__(self, config: OpenAiResponsesConfig) -> None:
        self.name = config.name
        self.url = config.url.rstrip("/")
        self.read_s = config.read_s
        self._config = config

    def headers(self) -> Mapping[str, str]:
        return {"authorization": f"Bearer {self._config.key.strip()}"}

    def request(self, context: Context) -> bytes:
        config, what = self._config, shown(context)
        items: list[dict[str, Any]] = [_message(turn.role, turn.text) for turn in what.turns]
        body: dict[str, Any] = {
            "model": config.model,
            "input": [*items, *_since(context)],
            "stream": True,
            "stream_options": {"include_obfuscation": False},  # padding that only costs
            "store": False,
        }
        if what.system:
            body["instructions"] = what.system
        if context.tools:
            body["tools"] = [_function(tool) for tool in context.tools]
        if config.max_tokens is not None:
            body["max_output_tokens"] = config.max_tokens
        if config.temperature is not None:
            body["temperature"] = config.temperature
        if config.effort:
            body["reasoning"] = {"effort": config.effort}
        return to_json(body | dict(config.extra))

    def reading(self, context: Context) -> ResponsesReading:
        return ResponsesReading(self.name, context)


class ResponsesReading:
    """One answer. Events that are not named here, such as those of thinking, say nothing to the caller."""

    def __init__(self, vendor: str, context: Context) -> None:
        self.is_complete = False
        self.is_over = False
        self._vendor = vendor
        self._continuing = Continuing(context.said)
        self._calls = ToolCalls(f"call_{len(context.exchanges)}")
        self._usage: Usage | None = None

    def feed(self, event: ServerEvent) -> Iterator[ModelPart]:
        if event.data.strip() == "[DONE]":  # not of OpenAI; of servers like it
            self.is_over = self.is_complete
            return
        message = parsed(event.data)
        if not isinstance(message, dict):
            raise BadMessage("json")
        match message.get("type", event.name):
            case "response.output_text.delta":
                piece = message.get("delta")
                if isinstance(piece, str) and (text := self._continuing.feed(piece)):
                    yield text
            case "response.output_item.added" | "response.output_item.done" as when:
                self._item(message, is_done=when.endswith("done"))
            case "response.function_call_arguments.delta":
                self._calls.add(_index(message), _text(message.get("delta")))
            case "response.function_call_arguments.done":
                self._calls.replace(_index(message), _text(message.get("arguments")))
            case _ as kind:
                self._status(kind, message)

    def end(self) -> Iterator[ModelPart]:
        if rest := self._continuing.end():
            yield rest
        yield from self._calls.all()
        if self._usage is not None:
            yield self._usage

    def _status(self, kind: object, message: Mapping[str, Any]) -> None:
        """How the answer as a whole stands."""
        response = as_dict(message.get("response"))
        match kind:
            case "response.completed":
                self._finish(response)
            case "response.incomplete":
                if as_dict(response.get("incomplete_details")).get("reason") == "content_filter":
                    raise self._filtered()
                self._finish(response)
            case "response.failed":
                raise complaint(self._vendor, response)
            case "response.cancelled":
                raise ModelFailed(self._vendor, "it was cancelled over there", why=Why.CUT)
            case "response.refusal.delta" | "response.refusal.done":
                raise self._filtered()
            case "error":
                raise complaint(self._vendor, {"error": message.get("error") or {**message, "type": ""}})

    def _item(self, message: Mapping[str, Any], *, is_done: bool) -> None:
        item = as_dict(message.get("item"))
        if item.get("type") != "function_call":
            return
        if is_done:
            self._calls.replace(_index(message), _text(item.get("arguments")))
        else:
            self._calls.begin(_index(message), _text(item.get("call_id")), _text(item.get("name")))
            self._calls.add(_index(message), _text(item.get("arguments")))

    def _finish(self, response: Mapping[str, Any]) -> None:
        usage = as_dict(response.get("usage"))
        given, made = usage.get("input_tokens"), usage.get("output_tokens")
        if isinstance(given, int) and isinstance(made, int):
            self._usage = Usage(given, made)
        self.is_complete = self.is_over = True

    def _filtered(self) -> ModelFailed:
        return ModelFailed(self._vendor, "it will not answer that", why=Why.FILTERED)


def _message(role: Role, text: str) -> dict[str, Any]:
    kind = "output_text" if role is Role.AGENT else "input_text"
    return {"type": "message", "role": str(role), "content": [{"type": kind, "text": text}]}


def _since(context: Context) -> Iterator[dict[str, Any]]:
    """What came after the last message."""
    for exchange in context.exchanges:
        if exchange.said:
            yield _message(Role.AGENT, exchange.said)
        for call in exchange.calls:
            yield {
                "type": "function_call",
                "call_id": call.call_id,
                "name": call.name,
                "arguments": arguments_json(call.arguments),
            }
        for result in exchange.results:
            yield {"type": "function_call_output", "call_id": result.call_id, "output": result_text(result)}
    if context.said.strip():
        yield _message(Role.AGENT, context.said)
        yield _message(Role.CALLER, GO_ON)


def _function(tool: ToolSpec) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": dict(tool.parameters),
        "strict": False,  # which would need schemas of a certain kind
    }


def _index(message: Mapping[str, Any]) -> int | None:
    index = message.get("output_index")
    return index if isinstance(index, int) else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
