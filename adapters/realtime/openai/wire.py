"""What OpenAI Realtime and we say to each other over one socket. Pure."""

from __future__ import annotations

from base64 import b64encode
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import structlog

from adapters.realtime.caller import CallerSpeech
from adapters.realtime.conversing import Line
from adapters.realtime.fields import audio_of, id_of, needed_number_of
from adapters.realtime.openai.config import OpenAIRealtimeConfig
from adapters.realtime.replies import Replies, Reply
from adapters.realtime.shown import instructions_of, turns_of
from engine.audio.convert import Converter
from engine.errors import BadMessage, ModelFailed, Why
from engine.events import (
    MULAW_8K,
    PCM16_24K,
    AudioFormat,
    Context,
    Role,
    ToolCall,
    ToolResult,
    ToolSpec,
    Usage,
)
from engine.runtime.feed import Message
from engine.runtime.vendor_json import dict_of, dicts_of, object_of, packed, text_of, word_of

MAX_PENDING = 32
"""Replies that are wanted while another is being made; beyond that the oldest is not."""
SAY = 'Say exactly these words to the caller, and nothing else: "{}"'
_ASK = "ask"
"""The key of a reply's metadata under which ours are known."""
_BUSY = "conversation_already_has_active_response"
_FATAL = {
    "session_expired": Why.CUT,
    "invalid_api_key": Why.AUTH,
    "account_deactivated": Why.AUTH,
    "billing_hard_limit_reached": Why.AUTH,
    "insufficient_quota": Why.AUTH,
    "model_not_found": Why.BAD_REQUEST,
}
"""Errors after which the session is of no use."""
_WHY = _FATAL | {
    "rate_limit_exceeded": Why.RATE_LIMITED,
    "rate_limit_error": Why.RATE_LIMITED,
    "server_error": Why.UNREACHABLE,
    "context_length_exceeded": Why.TOO_LONG,
    "content_filter": Why.FILTERED,
    "invalid_request_error": Why.BAD_REQUEST,
}
_WHY_CLOSED = {1008: Why.AUTH, 1013: Why.RATE_LIMITED, 3000: Why.AUTH, 4000: Why.BAD_REQUEST, 4429: Why.RATE_LIMITED}

log = structlog.get_logger()


class OpenAIRealtimeWire:
    """Implements ``adapters.realtime.conversing.Wire``. One reply is made at a time: what is wanted meanwhile waits."""

    def __init__(self, config: OpenAIRealtimeConfig, context: Context, line: Line) -> None:
        self.url = f"{config.url}?{urlencode({'model': config.model})}"
        self.headers = {"authorization": f"Bearer {config.key}"}
        self.is_ready = False
        self.errors = 0
        self._config = config
        self._context = context
        self._line = line
        self._source = MULAW_8K if line.format == MULAW_8K else PCM16_24K
        self._converter = Converter(line.format, self._source)
        self._caller = CallerSpeech(line.lanes, line.now)
        self._replies = Replies(self._source, line.format, line.lanes)
        self._active = ""
        """The reply that the vendor is making."""
        self._is_busy = False
        """It says that it is making one of which we do not know."""
        self._pending: deque[dict[str, Any]] = deque(maxlen=MAX_PENDING)
        self._asked: dict[str, dict[str, Any]] = {}
        """Replies that were asked for and have not begun."""
        self._asks = 0
        self._owed: set[str] = set()
        """Tool calls that were not answered."""
        self._called: deque[str] = deque(maxlen=64)
        self._on: dict[str, Callable[[dict[str, Any]], None]] = {
            "session.updated": self._on_ready,
            "input_audio_buffer.speech_started": self._on_speech,
            "input_audio_buffer.speech_stopped": self._on_speech_over,
            "input_audio_buffer.committed": self._on_committed,
            "conversation.item.input_audio_transcription.delta": self._on_words,
            "conversation.item.input_audio_transcription.completed": self._on_all_words,
            "conversation.item.input_audio_transcription.failed": self._on_no_words,
            "response.created": self._on_reply,
            "response.output_audio.delta": self._on_sound,
            "response.output_audio_transcript.delta": self._on_text,
            "response.output_text.delta": self._on_text,
            "response.output_item.done": self._on_item,
            "response.done": self._on_reply_over,
            "error": self._on_error,
        }

    @property
    def kinds(self) -> Collection[str]:
        """The messages that are looked at."""
        return self._on.keys()

    @property
    def is_hearing(self) -> bool:
        return self._caller.is_speaking

    @property
    def due_at_s(self) -> float:
        return self._caller.due_at_s

    def greet(self) -> None:
        self._send("session.update", session=_session(self._config, self._context, self._source))
        for item in _history(self._context):
            self._send("conversation.item.create", item=item)

    def audio(self, audio: bytes) -> Message:
        data = b64encode(self._converter.feed(audio)).decode()
        return '{"type":"input_audio_buffer.append","audio":"' + data + '"}'

    def receive(self, message: Message) -> None:
        said = object_of(message)
        kind = said.get("type")
        if not isinstance(kind, str):
            raise BadMessage("shape")
        if (handle := self._on.get(kind)) is not None:
            handle(said)

    def expire(self) -> None:
        self._caller.expire()

    def say(self, text: str) -> None:
        self._ask(instructions=SAY.format(text), tool_choice="none")

    def told(self, text: str) -> None:
        self._send("conversation.item.create", item=_message(Role.CALLER, text))
        self._ask()

    def interrupt(self, reply_id: str, heard_s: float) -> None:
        for reply, cuts in self._replies.interrupt(reply_id, heard_s):
            if reply.reply_id == self._active and not reply.is_over:
                self._send("response.cancel", response_id=reply.reply_id)
            for cut in cuts:
                end_ms = int(cut.heard_s * 1000)
                self._send(
                    "conversation.item.truncate",
                    item_id=cut.item_id,
                    content_index=cut.content_index,
                    audio_end_ms=end_ms,
                )

    def heard_on(self, text: str) -> None:
        """What was truncated of an item cannot be put back: the rest is one of its own."""
        self._send("conversation.item.create", item=_message(Role.AGENT, text))

    def tool_results(self, results: Sequence[ToolResult]) -> None:
        was_owed = bool(self._owed)
        for result in results:
            if result.call_id not in self._owed:
                log.debug("tool result unasked for", vendor=self._config.name)
                continue
            self._owed.discard(result.call_id)
            self._send("conversation.item.create", item=_output(result))
        if was_owed and not self._owed:
            self._ask()

    def why_closed(self, code: int | None) -> Why:
        return _WHY_CLOSED.get(code or 0, Why.CUT)

    # --- the caller -----------------------------------------------------------------------------------------

    def _on_speech(self, said: dict[str, Any]) -> None:
        starts_s = needed_number_of(said, "audio_start_ms") / 1000
        if self._config.turn_detection == "server_vad" and starts_s > 0:
            starts_s += self._config.padding_s  # the vendor counts from what the model is given
        if self._caller.started(id_of(said, "item_id"), self._line.clock.time_of(starts_s)):
            self._replies.speech_started()

    def _on_speech_over(self, said: dict[str, Any]) -> None:
        ends_s = needed_number_of(said, "audio_end_ms") / 1000
        if self._config.turn_detection == "server_vad":
            ends_s -= self._config.silence_s
        self._caller.stopped(id_of(said, "item_id"), self._line.clock.time_of(ends_s))

    def _on_committed(self, said: dict[str, Any]) -> None:
        name = id_of(said, "item_id")
        self._caller.stopped(name, self._line.now())
        if not self._config.transcription_model:
            self._caller.finished(name, None)

    def _on_words(self, said: dict[str, Any]) -> None:
        self._caller.more(id_of(said, "item_id"), text_of(said, "delta"))

    def _on_all_words(self, said: dict[str, Any]) -> None:
        self._caller.finished(id_of(said, "item_id"), text_of(said, "transcript"))

    def _on_no_words(self, said: dict[str, Any]) -> None:
        self._caller.finished(id_of(said, "item_id"), None)

    # --- replies --------------------------------------------------------------------------------------------

    def _on_reply(self, said: dict[str, Any]) -> None:
        response = dict_of(said, "response")
        reply_id = id_of(response, "id")
        self._asked.pop(str(dict_of(response, "metadata").get(_ASK, "")), None)
        if self._replies.get(reply_id) is None:
            self._replies.begin(reply_id)
            self._active = reply_id

    def _on_sound(self, said: dict[str, Any]) -> None:
        if (reply := self._reply_of(said)) is not None:
            index = int(needed_number_of(said, "content_index")) if "content_index" in said else 0
            self._replies.sound(reply, audio_of(said, "delta"), id_of(said, "item_id"), index)

    def _on_text(self, said: dict[str, Any]) -> None:
        if (reply := self._reply_of(said)) is not None:
            self._replies.text(reply, text_of(said, "delta"))

    def _on_item(self, said: dict[str, Any]) -> None:
        reply = self._reply_of(said)
        if reply is not None and not reply.is_void:
            self._call(dict_of(said, "item"))

    def _call(self, item: dict[str, Any]) -> None:
        """A tool call that is whole: one that was broken off is told as well."""
        if item.get("type") != "function_call" or item.get("status", "completed") != "completed":
            return
        call_id, name, arguments = id_of(item, "call_id"), id_of(item, "name"), item.get("arguments")
        if call_id not in self._called:
            self._called.append(call_id)
            self._owed.add(call_id)
            self._line.lanes.put(ToolCall(call_id, name, arguments if isinstance(arguments, str) else "{}"))

    def _on_reply_over(self, said: dict[str, Any]) -> None:
        response = dict_of(said, "response")
        reply_id, status = id_of(response, "id"), response.get("status")
        self._is_busy = False
        self._asked.clear()
        if reply_id == self._active:
            self._active = ""
        reply = self._replies.get(reply_id)
        if reply is not None and not reply.is_over:
            self._use(response)
            if status == "failed":  # it is not over but lost: what is left of it is still owed
                raise self._failure_of(dict_of(dict_of(response, "status_details"), "error"))
            if status == "completed" and not reply.is_void:
                for item in dicts_of(response, "output"):
                    self._call(item)
            self._replies.over(reply, is_whole=status == "completed")
        self._ask_next()

    def _reply_of(self, said: dict[str, Any]) -> Reply | None:
        return self._replies.get(id_of(said, "response_id"))

    def _use(self, response: dict[str, Any]) -> None:
        usage = dict_of(response, "usage")
        given, made = usage.get("input_tokens"), usage.get("output_tokens")
        if isinstance(given, int) and isinstance(made, int):
            self._line.lanes.put(Usage(given, made))

    def _ask(self, **response: Any) -> None:
        self._pending.append(response)
        self._ask_next()

    def _ask_next(self) -> None:
        if self._active or self._asked or self._is_busy or not self._pending:
            return
        response = self._pending.popleft()
        self._asks += 1
        name = f"{_ASK}_{self._asks}"
        self._asked[name] = response
        self._send("response.create", event_id=name, response={**response, "metadata": {_ASK: name}})

    # --- the session ----------------------------------------------------------------------------------------

    def _on_ready(self, _: dict[str, Any]) -> None:
        self.is_ready = True

    def _on_error(self, said: dict[str, Any]) -> None:
        """Most leave the session open."""
        error = dict_of(said, "error")
        code = error.get("code") or error.get("type")
        if not self.is_ready or code in _FATAL:
            raise self._failure_of(error)
        self.errors += 1
        log.info("realtime_vendor_error", vendor=self._config.name, code=word_of(code))
        asked = self._asked.pop(str(error.get("event_id")), None)
        if asked is not None and code == _BUSY:
            self._is_busy = True
            self._pending.appendleft(asked)
        elif asked is not None:
            self._ask_next()

    def _failure_of(self, error: dict[str, Any]) -> ModelFailed:
        codes = [error.get("code"), error.get("type")]
        why = next((_WHY[code] for code in codes if isinstance(code, str) and code in _WHY), Why.FAILED)
        return ModelFailed(self._config.name, f"it failed ({word_of(codes[0] or codes[1])})", why=why)

    def _send(self, kind: str, **fields: Any) -> None:
        self._line.outbox.append(packed({"type": kind, **fields}))


def _session(config: OpenAIRealtimeConfig, context: Context, source: AudioFormat) -> dict[str, Any]:
    hears: dict[str, Any] = {"format": _format(source), "turn_detection": _turn_detection(config)}
    if config.transcription_model:
        language = {"language": config.language} if config.language else {}
        hears["transcription"] = {"model": config.transcription_model, **language}
    if config.noise_reduction:
        hears["noise_reduction"] = {"type": config.noise_reduction}
    speaks = {"format": _format(source), "voice": config.voice, "speed": config.speed}
    session: dict[str, Any] = {
        "type": "realtime",
        "output_modalities": ["audio"],
        "audio": {"input": hears, "output": speaks},
        "tools": [_function(tool) for tool in context.tools],
        "tool_choice": "auto",
    }
    if instructions := instructions_of(context):
        session["instructions"] = instructions
    if config.max_tokens is not None:
        session["max_output_tokens"] = config.max_tokens
    return session | dict(config.extra)


def _turn_detection(config: OpenAIRealtimeConfig) -> dict[str, Any]:
    answers = {"create_response": True, "interrupt_response": config.stops_itself}
    if config.turn_detection == "semantic_vad":
        return {"type": "semantic_vad", "eagerness": config.eagerness, **answers}
    return {
        "type": "server_vad",
        "threshold": config.voice_threshold,
        "prefix_padding_ms": round(config.padding_s * 1000),
        "silence_duration_ms": round(config.silence_s * 1000),
        **answers,
    }


def _format(source: AudioFormat) -> dict[str, Any]:
    return {"type": "audio/pcmu"} if source == MULAW_8K else {"type": "audio/pcm", "rate": source.rate_hz}


def _function(tool: ToolSpec) -> Mapping[str, Any]:
    parameters = dict(tool.parameters)
    return {"type": "function", "name": tool.name, "description": tool.description, "parameters": parameters}


def _history(context: Context) -> Iterator[Mapping[str, Any]]:
    for role, text in turns_of(context):
        yield _message(role, text)
    for exchange in context.exchanges:
        if exchange.said.strip():
            yield _message(Role.AGENT, exchange.said)
        for call in exchange.calls:
            yield {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments}
        yield from map(_output, exchange.results)


def _message(role: Role, text: str) -> Mapping[str, Any]:
    kind = "output_text" if role is Role.AGENT else "input_text"
    return {"type": "message", "role": str(role), "content": [{"type": kind, "text": text}]}


def _output(result: ToolResult) -> Mapping[str, Any]:
    text = f"Error: {result.text}" if result.is_error else result.text
    return {"type": "function_call_output", "call_id": result.call_id, "output": text}
