"""Anthropic's messages, streamed, as a fake on loopback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from tests.fakes.clouds.loopback import Request, Response
from tests.fakes.clouds.thinking import KEY, Manner, ModelCloud, Shown, Thought, halves, sse, text_of, want, words_of

KNOWN = {"model", "max_tokens", "messages", "stream", "system", "tools", "tool_choice", "temperature", "stop_sequences"}


class AnthropicMessages(ModelCloud):
    path = "/v1/messages"

    def __init__(self, manner: Manner | None = None, *, key: str = KEY, takes_prefill: bool = True) -> None:
        super().__init__(manner, key=key)
        self.takes_prefill = takes_prefill
        self.thinks = True

    def is_admitted(self, request: Request) -> bool:
        headers = request.headers
        is_known = headers.get("authorization") == f"Bearer {self.key}" or headers.get("x-api-key") == self.key
        return is_known and "anthropic-version" in headers

    def error(self, status: int, kind: str, words: str) -> bytes:
        return orjson.dumps({"type": "error", "error": {"type": kind, "message": words}, "request_id": "req_1"})

    def too_long(self) -> Response:
        return Response(400, body=self.error(400, "invalid_request_error", "prompt is too long: 2100 tokens > 2000"))

    def check(self, body: Mapping[str, Any]) -> None:
        is_well = isinstance(body.get("model"), str) and isinstance(body.get("max_tokens"), int)
        want(is_well, "model and max_tokens: field required")
        unknown = set(body) - KNOWN
        want(not unknown, f"{sorted(unknown)}: extra inputs are not permitted")
        want(body.get("stream"), "stream is wanted here")
        for tool in body.get("tools", ()):
            is_well = {"name", "input_schema"} <= set(tool) and tool["input_schema"].get("type") == "object"
            want(is_well, "tools: input_schema: field required")
        want(body.get("messages"), "messages: at least one message is required")
        is_prefilled = body["messages"][-1].get("role") == "assistant"
        want(self.takes_prefill or not is_prefilled, "this model does not support assistant message prefill")
        _check_messages(body["messages"], has_tools=bool(body.get("tools")))

    def shown_in(self, body: Mapping[str, Any]) -> Shown:
        system = [("system", text_of(body["system"]))] if body.get("system") else []
        messages = body["messages"]
        said = [(message["role"], text) for message in messages if (text := text_of(message["content"]))]
        last = max((place for place, message in enumerate(messages) if _is_callers(message)), default=-1)
        results = [block for message in messages[last + 1 :] for block in _blocks(message)]
        return Shown(
            [*system, *said] if not _asks(messages) else [*system, *said[:-1]],
            frozenset(tool["name"] for tool in body.get("tools", ())),
            [text_of(block["content"]) for block in results if block["type"] == "tool_result"],
        )

    def events(self, body: Mapping[str, Any], thought: Thought) -> list[bytes]:
        usage = {"input_tokens": 7, "output_tokens": 1, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "content": []}
        start = {**message, "stop_reason": None, "stop_sequence": None, "usage": usage}
        events = [_event("message_start", message=start), _event("ping")]
        index = 0
        if self.thinks:
            events += _block(
                index,
                {"type": "thinking", "thinking": "", "signature": ""},
                [
                    {"type": "thinking_delta", "thinking": "The caller wants something."},
                    {"type": "signature_delta", "signature": "c2ln"},
                ],
            )
            index += 1
        words = [word for piece in thought.pieces for word in words_of(piece)]
        if words:
            deltas = [{"type": "text_delta", "text": word} for word in words]
            events += _block(index, {"type": "text", "text": ""}, deltas)
            index += 1
        for number, (name, arguments) in enumerate(thought.calls):
            block = {"type": "tool_use", "id": f"toolu_{number}_fake", "name": name, "input": {}}
            halved = ["", *halves("" if arguments == "{}" else arguments)]
            events += _block(index, block, [{"type": "input_json_delta", "partial_json": half} for half in halved])
            index += 1
        reason = self.manner.stop or ("tool_use" if thought.calls else "end_turn")
        delta = {"stop_reason": reason, "stop_sequence": None}
        events.append(_event("message_delta", delta=delta, usage={"output_tokens": 5}))
        return [*events, _event("message_stop")]


def _event(kind: str, **fields: Any) -> bytes:
    return sse({"type": kind, **fields}, name=kind)


def _block(index: int, block: Mapping[str, Any], deltas: Sequence[Mapping[str, Any]]) -> list[bytes]:
    return [
        _event("content_block_start", index=index, content_block=dict(block)),
        *(_event("content_block_delta", index=index, delta=dict(delta)) for delta in deltas),
        _event("content_block_stop", index=index),
    ]


def _blocks(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _is_callers(message: Mapping[str, Any]) -> bool:
    return message["role"] == "user" and all(block["type"] == "text" for block in _blocks(message))


def _asks(messages: Sequence[Mapping[str, Any]]) -> bool:
    """The last words of the model came with calls whose results follow: not the beginning of this answer."""
    if len(messages) < 2 or messages[-1]["role"] != "user" or _is_callers(messages[-1]):
        return False
    return any(block["type"] == "text" for block in _blocks(messages[-2]))


def _check_messages(messages: Sequence[Any], *, has_tools: bool) -> None:
    owed: list[str] = []
    for place, message in enumerate(messages):
        side = "assistant" if place % 2 else "user"
        want(message.get("role") == side, "messages: roles must alternate between user and assistant, user first")
        blocks = _blocks(message)
        is_empty = not blocks or any(block["type"] == "text" and not block["text"].strip() for block in blocks)
        want(not is_empty, f"messages.{place}: text content blocks must be non-empty")
        kinds = [block["type"] for block in blocks]
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        is_answered = sorted(results) == sorted(owed)
        want(is_answered, f"messages.{place}: tool_use ids were found without tool_result blocks immediately after")
        want("tool_result" not in kinds[len(results) :], f"messages.{place}: tool_result blocks come first")
        uses = [block for block in blocks if block["type"] == "tool_use"]
        want(has_tools or not uses, "requests which include tool_use or tool_result blocks must define tools")
        want(
            all(isinstance(block["input"], dict) for block in uses), f"messages.{place}: tool_use.input: no dictionary"
        )
        owed = [block["id"] for block in uses]
    want(not owed, "tool_use ids were found without tool_result blocks immediately after")
    final = _blocks(messages[-1])[-1].get("text", "")
    is_well = messages[-1]["role"] == "user" or final == final.rstrip()
    want(is_well, "final assistant content cannot end with trailing whitespace")
