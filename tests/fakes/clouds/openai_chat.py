"""OpenAI's chat completions, streamed, as a fake on loopback; with knobs, the servers that only speak like it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from tests.fakes.clouds.loopback import Request, Response
from tests.fakes.clouds.thinking import KEY, Manner, ModelCloud, Shown, Thought, halves, sse, text_of, want, words_of

KNOWN = {"model", "messages", "stream", "stream_options", "tools", "temperature", "reasoning_effort", "max_tokens"}
KNOWN |= {"max_completion_tokens", "tool_choice", "top_k"}
ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass
class Dialect:
    """What servers do differently (PROTOCOLS.md, C4). The defaults are OpenAI."""

    needs_key: bool = True
    usage: str = "last"
    """``last``: in a chunk without choices; ``choice``: on the last choice; ``never``."""
    has_index: bool = True
    """Of tool calls."""
    index_is_zero: bool = False
    """Whatever the call."""
    has_ids: bool = True
    whole_calls: bool = False
    """Each in one delta."""
    arguments_as_object: bool = False
    repeats_role: bool = False
    null_content: bool = False
    """Where there is none, instead of leaving it out."""
    stops_with_calls: bool = True
    """The reason is ``tool_calls``; else ``stop`` although there were some."""
    reasons: str = ""
    """The field in which it thinks aloud."""
    says_done: bool = True
    float_created: bool = False
    has_comments: bool = False
    plain_errors: bool = False
    """``{"error": "text"}``."""
    alternates: bool = False
    """The template behind it wants user and assistant in turn."""


class OpenAiChat(ModelCloud):
    path = "/v1/chat/completions"

    def __init__(self, manner: Manner | None = None, dialect: Dialect | None = None, *, key: str = KEY) -> None:
        super().__init__(manner, key=key)
        self.dialect = dialect or Dialect()

    def is_admitted(self, request: Request) -> bool:
        return not self.dialect.needs_key or request.headers.get("authorization") == f"Bearer {self.key}"

    def error(self, status: int, kind: str, words: str) -> bytes:
        code = {401: "invalid_api_key", 404: "model_not_found"}.get(status)
        whole = {"message": words, "type": kind, "param": None, "code": code}
        return orjson.dumps({"error": words if self.dialect.plain_errors else whole})

    def too_long(self) -> Response:
        words = "This model's maximum context length is 2048 tokens. However, your messages resulted in more."
        fields = {"message": words, "type": "invalid_request_error", "param": "messages"}
        whole = {**fields, "code": "context_length_exceeded"}
        return Response(400, body=orjson.dumps({"error": words if self.dialect.plain_errors else whole}))

    def check(self, body: Mapping[str, Any]) -> None:
        want(isinstance(body.get("model"), str) and body.get("stream"), "model and stream are wanted")
        unknown = set(body) - KNOWN
        want(not unknown, f"unrecognised {sorted(unknown)}")
        want(body.get("messages"), "messages: too few")
        _check_messages(body["messages"])
        talk = [message["role"] for message in body["messages"] if _is_said(message) and message["role"] != "system"]
        turns = ["user", "assistant"] * (len(talk) // 2) + ["user"] * (len(talk) % 2)
        want(talk == turns or not self.dialect.alternates, "conversation roles must alternate user/assistant")
        tools = body.get("tools", ())
        want(tools or "tools" not in body, "tools: too few")
        for tool in tools:
            want(tool.get("type") == "function" and isinstance(tool["function"].get("name"), str), "tools: no function")

    def shown_in(self, body: Mapping[str, Any]) -> Shown:
        messages = body["messages"]
        last = max((place for place, message in enumerate(messages) if message["role"] == "user"), default=-1)
        return Shown(
            [(message["role"], text_of(message.get("content"))) for message in messages if _is_said(message)],
            frozenset(tool["function"]["name"] for tool in body.get("tools", ())),
            [text_of(message["content"]) for message in messages[last + 1 :] if message["role"] == "tool"],
        )

    def events(self, body: Mapping[str, Any], thought: Thought) -> list[bytes]:
        dialect = self.dialect
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None if dialect.null_content else ""}]
        if dialect.reasons:
            deltas += [{dialect.reasons: "The caller wants "}, {dialect.reasons: "something."}]
        deltas += [{"content": word} for piece in thought.pieces for word in words_of(piece)]
        deltas += self._calls(thought.calls)
        if dialect.repeats_role:
            deltas = [{"role": "assistant", **delta} for delta in deltas]
        if dialect.null_content:
            deltas = [{"content": None, **delta} for delta in deltas]
        events = [self._chunk(body, [_choice(delta)]) for delta in deltas]
        reason = self.manner.stop or ("tool_calls" if thought.calls and dialect.stops_with_calls else "stop")
        usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
        asked = bool((body.get("stream_options") or {}).get("include_usage"))
        on_choice = {"usage": usage} if dialect.usage == "choice" else {}
        events.append(self._chunk(body, [_choice({}, reason)], **on_choice))
        if asked and dialect.usage == "last":
            events.append(self._chunk(body, [], usage=usage))
        if dialect.says_done:
            events.append(sse("[DONE]"))
        return [b": keep-alive\n\n" + event if dialect.has_comments else event for event in events]

    def _calls(self, calls: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        dialect = self.dialect
        deltas: list[dict[str, Any]] = []
        for number, (name, arguments) in enumerate(calls):
            index = {"index": 0 if dialect.index_is_zero else number} if dialect.has_index else {}
            first = {**index, "type": "function", **({"id": f"call_{number}_fake"} if dialect.has_ids else {})}
            if dialect.whole_calls:
                whole = orjson.loads(arguments) if dialect.arguments_as_object else arguments
                deltas.append({"tool_calls": [{**first, "function": {"name": name, "arguments": whole}}]})
                continue
            deltas.append({"tool_calls": [{**first, "function": {"name": name, "arguments": ""}}]})
            deltas += [{"tool_calls": [{**index, "function": {"arguments": half}}]} for half in halves(arguments)]
        return deltas

    def _chunk(self, body: Mapping[str, Any], choices: list[dict[str, Any]], **more: Any) -> bytes:
        created = 1764000000.25 if self.dialect.float_created else 1764000000
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": created, "model": body["model"]}
        if (body.get("stream_options") or {}).get("include_usage"):
            more = {"usage": None, **more}
        return sse({**head, "choices": choices, **more})


def _choice(delta: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": dict(delta), "logprobs": None, "finish_reason": reason}


def _is_said(message: Mapping[str, Any]) -> bool:
    return message["role"] != "tool" and not message.get("tool_calls")


def _check_messages(messages: Sequence[Any]) -> None:
    owed: list[str] = []
    for place, message in enumerate(messages):
        role = message.get("role")
        want(role in ROLES, f"messages.{place}.role: {role!r}")
        if role == "tool":
            want(message.get("tool_call_id") in owed, f"messages.{place}: a tool's message answers no call")
            owed.remove(message["tool_call_id"])
            continue
        want(not owed, f"messages.{place}: tool calls without their results")
        calls = message.get("tool_calls", ()) if role == "assistant" else ()
        owed = [call["id"] for call in calls]
        is_text = all(isinstance(call["function"]["arguments"], str) for call in calls)
        want(is_text, f"messages.{place}: arguments are not text")
        want(calls or isinstance(message.get("content"), str), f"messages.{place}.content: not text")
    want(not owed, "tool calls without their results")
