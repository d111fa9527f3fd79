"""OpenAI's Responses, streamed, as a fake on loopback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from tests.fakes.clouds.loopback import Request, Response
from tests.fakes.clouds.thinking import ModelCloud, Shown, Thought, Unfit, halves, sse, text_of, want, words_of

KNOWN = {"model", "input", "stream", "stream_options", "store", "instructions", "tools", "tool_choice", "temperature"}
KNOWN |= {"max_output_tokens", "reasoning", "previous_response_id"}
USAGE = {
    "input_tokens": 7,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 12,
}


class OpenAiResponses(ModelCloud):
    path = "/v1/responses"

    def is_admitted(self, request: Request) -> bool:
        return request.headers.get("authorization") == f"Bearer {self.key}"

    def error(self, status: int, kind: str, words: str) -> bytes:
        code = {401: "invalid_api_key", 404: "model_not_found"}.get(status)
        return orjson.dumps({"error": {"message": words, "type": kind, "param": None, "code": code}})

    def too_long(self) -> Response:
        words = "Your input exceeds the context window of this model."
        fields = {"message": words, "type": "invalid_request_error", "param": "input"}
        return Response(400, body=orjson.dumps({"error": {**fields, "code": "context_length_exceeded"}}))

    def check(self, body: Mapping[str, Any]) -> None:
        want(isinstance(body.get("model"), str) and body.get("stream"), "model and stream are wanted")
        # OpenAI would take it; what callers say is not for us to have stored there.
        want(body.get("store") is False, "the caller's words would be stored")
        unknown = set(body) - KNOWN
        want(not unknown, f"unknown parameter {sorted(unknown)}")
        want(isinstance(body.get("input"), list) and body["input"], "input: too few")
        for tool in body.get("tools", ()):
            want(tool.get("type") == "function" and {"name", "parameters"} <= set(tool), "tools: no function")
        _check_items(body["input"])

    def shown_in(self, body: Mapping[str, Any]) -> Shown:
        items = body["input"]
        last = max((place for place, item in enumerate(items) if item.get("role") == "user"), default=-1)
        system = [("system", body["instructions"])] if body.get("instructions") else []
        return Shown(
            [*system, *((item["role"], text_of(item["content"])) for item in items if "role" in item)],
            frozenset(tool["name"] for tool in body.get("tools", ())),
            [item["output"] for item in items[last + 1 :] if item.get("type") == "function_call_output"],
        )

    def events(self, body: Mapping[str, Any], thought: Thought) -> list[bytes]:
        return _Events(body, self.manner.stop).of(thought)


class _Events:
    """The events of one response, numbered."""

    def __init__(self, body: Mapping[str, Any], stop: str | None) -> None:
        self._body = body
        self._stop = stop
        self._events: list[bytes] = []
        self._output: list[dict[str, Any]] = []

    def of(self, thought: Thought) -> list[bytes]:
        self._add("response.created", response=self._response("in_progress"))
        self._add("response.in_progress", response=self._response("in_progress"))
        self._think()
        if thought.pieces:
            self._say([word for piece in thought.pieces for word in words_of(piece)])
        for number, (name, arguments) in enumerate(thought.calls):
            self._call(f"call_{number}_fake", name, arguments)
        if self._stop in ("content_filter", "max_output_tokens"):
            response = {**self._response("incomplete"), "incomplete_details": {"reason": self._stop}, "usage": USAGE}
            self._add("response.incomplete", response=response)
        elif self._stop:
            error = {"code": self._stop, "message": "it went wrong"}
            self._add("response.failed", response={**self._response("failed"), "error": error})
        else:
            self._add("response.completed", response={**self._response("completed"), "usage": USAGE})
        return self._events

    def _add(self, kind: str, **fields: Any) -> None:
        self._events.append(sse({"type": kind, "sequence_number": len(self._events), **fields}, name=kind))

    def _think(self) -> None:
        item = {"id": "rs_1", "type": "reasoning", "summary": []}
        self._add("response.output_item.added", output_index=len(self._output), item=item)
        self._add("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)

    def _say(self, words: Sequence[str]) -> None:
        place = {"item_id": "msg_1", "output_index": len(self._output)}
        part = {**place, "content_index": 0}
        item: dict[str, Any] = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }
        self._add("response.output_item.added", output_index=len(self._output), item=item)
        empty: dict[str, Any] = {"type": "output_text", "text": "", "annotations": []}
        self._add("response.content_part.added", **part, part=empty)
        for word in words:
            self._add("response.output_text.delta", **part, delta=word, logprobs=[])
        whole = {**empty, "text": "".join(words)}
        self._add("response.output_text.done", **part, text=whole["text"], logprobs=[])
        self._add("response.content_part.done", **part, part=whole)
        item = {**item, "status": "completed", "content": [whole]}
        self._add("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)

    def _call(self, call_id: str, name: str, arguments: str) -> None:
        index = len(self._output)
        item = {"id": f"fc_{index}", "type": "function_call", "call_id": call_id, "name": name, "arguments": ""}
        place = {"item_id": item["id"], "output_index": index}
        self._add("response.output_item.added", output_index=index, item={**item, "status": "in_progress"})
        for half in halves(arguments):
            self._add("response.function_call_arguments.delta", **place, delta=half)
        self._add("response.function_call_arguments.done", **place, name=name, arguments=arguments)
        item = {**item, "arguments": arguments, "status": "completed"}
        self._add("response.output_item.done", output_index=index, item=item)
        self._output.append(item)

    def _response(self, status: str) -> dict[str, Any]:
        return {
            "id": "resp_1",
            "object": "response",
            "created_at": 1764000000,
            "model": self._body["model"],
            "status": status,
            "output": list(self._output),
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "usage": None,
        }


def _check_items(items: Sequence[Any]) -> None:
    owed: list[str] = []
    for place, item in enumerate(items):
        match item.get("type", "message"):
            case "message":
                want(item.get("role") in ("user", "assistant", "system", "developer"), f"input[{place}].role")
                kind = "output_text" if item["role"] == "assistant" else "input_text"
                parts = [{"type": kind}] if isinstance(item.get("content"), str) else item.get("content")
                is_well = parts and all(part.get("type") == kind for part in parts)
                want(is_well, f"input[{place}].content: {kind} is wanted")
            case "function_call":
                want(isinstance(item.get("arguments"), str), f"input[{place}].arguments")
                owed.append(item["call_id"])
            case "function_call_output":
                want(item.get("call_id") in owed, "no tool call found for function call output")
                owed.remove(item["call_id"])
            case kind:
                raise Unfit(f"input[{place}].type: {kind}")
    want(not owed, "no tool output found for a function call")
