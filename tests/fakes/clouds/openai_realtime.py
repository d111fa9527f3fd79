"""OpenAI's Realtime, as a fake on loopback: hears plain speech by server VAD, answers by rule in plain speech.

What it answers depends on the conversation alone (``tests.fakes.clouds.thinking.think``). Of a message that was
truncated it remembers what was heard.
"""

from __future__ import annotations

import binascii
import math
import re
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import trio
from trio_websocket import ConnectionClosed

from engine.events import MULAW_8K, PCM16_24K, AudioFormat
from tests.fakes.clouds.listening import Acuity, Ear, Sound
from tests.fakes.clouds.loopback import Cloud, Peer, Refuse, Request
from tests.fakes.clouds.thinking import Shown, Thought, think, words_of
from tests.fakes.plain_speech import CHARS_PER_S, speak

Said = dict[str, Any]
FORMATS = {"audio/pcmu": MULAW_8K, "audio/pcm": PCM16_24K}
EXACTLY = re.compile(r'exactly[^"]*"(.*)"', re.DOTALL)
_SESSION = {
    "type",
    "output_modalities",
    "instructions",
    "audio",
    "tools",
    "tool_choice",
    "max_output_tokens",
    "include",
    "tracing",
    "truncation",
    "reasoning",
    "parallel_tool_calls",
    "prompt",
}
_FIELDS = {
    "session.update": {"session"},
    "input_audio_buffer.append": {"audio"},
    "input_audio_buffer.commit": set(),
    "input_audio_buffer.clear": set(),
    "conversation.item.create": {"item", "previous_item_id"},
    "conversation.item.truncate": {"item_id", "content_index", "audio_end_ms"},
    "conversation.item.delete": {"item_id"},
    "response.create": {"response"},
    "response.cancel": {"response_id"},
}


@dataclass(slots=True)
class Manner:
    """How the fake behaves; may be turned at any time."""

    refuse_first: int = 0
    """So many connections are refused, with:"""
    refuses: int = 503
    page: bytes = b""
    is_silent: bool = False
    """It accepts, and says nothing."""
    stalls: bool = False
    """It hears, and says nothing more."""
    is_deaf: bool = False
    """It reads no further message."""
    first_audio_s: float = 0.1
    speed: float = 10.0
    """Times real time; ``math.inf``: all at once."""
    piece_s: float = 0.2
    lead_silence_s: float = 0.0
    chars_per_s: float = CHARS_PER_S
    late_pieces: int = 0
    """What still comes of a reply after it was cancelled."""
    cut_after_s: float | None = None
    """Of audio heard: the socket is closed, with:"""
    close_code: int = 1011
    session_s: float = 3600.0
    """Then the session has expired."""
    errors: deque[Said] = field(default_factory=deque)
    """Told, one before each reply."""
    fails: Said | None = None
    """Every reply fails with this error."""
    says: Sequence[str] | None = None
    """Instead of what it would answer."""
    twist: Callable[[list[Said]], Iterable[Said | str | bytes]] | None = None
    """What is sent, instead of these events."""
    transcribes: bool = True


class Unfit(Exception):
    def __init__(self, code: str, words: str) -> None:
        super().__init__(words)
        self.code = code


class OpenAIRealtimeCloud(Cloud):
    """``faults``: what clients sent that the vendor would not take. ``races``: what they could not have known."""

    path = "/v1/realtime"

    def __init__(self, *, key: str = "k", manner: Manner | None = None) -> None:
        super().__init__()
        self.key = key
        self.manner = manner or Manner()
        self.faults: list[str] = []
        self.races: list[str] = []
        self.sessions: deque[Session] = deque(maxlen=1000)

    def admits(self, request: Request) -> None:
        if self.manner.refuse_first:
            self.manner.refuse_first -= 1
            raise Refuse(self.manner.refuses, self.manner.page)
        if request.path != self.path or not request.one("model"):
            self.faults.append("path or model")
            raise Refuse(404)
        if request.headers.get("authorization") != f"Bearer {self.key}":
            raise Refuse(401)
        if "openai-beta" in request.headers:
            self.faults.append("the header of the old form")

    async def websocket(self, request: Request, socket: Peer) -> None:
        while self.manner.is_silent:
            await socket.get_message()
        async with trio.open_nursery() as nursery:
            session = Session(self, request.one("model"), socket, nursery)
            self.sessions.append(session)
            try:
                with trio.move_on_after(self.manner.session_s) as life:
                    await session.run()
                if life.cancelled_caught:
                    await session.fail("session_expired", "Your session hit the maximum duration.")
                    await socket.aclose(1001)
            except ConnectionClosed:
                pass
            nursery.cancel_scope.cancel()


class Session:
    def __init__(self, cloud: OpenAIRealtimeCloud, model: str, socket: Peer, nursery: trio.Nursery) -> None:
        self.config: Said = {"type": "realtime", "model": model, "output_modalities": ["audio"], "audio": {}}
        self.updates: list[Said] = []
        self.items: dict[str, Said] = {}
        """Of the conversation, in order. Beside the vendor's fields: ``said``, ``seconds`` made of it."""
        self.told: list[Said] = []
        """What the client sent, audio apart."""
        self.audio_s = 0.0
        self.longest_s = 0.0
        """Of one message of audio."""
        self.active: Reply | None = None
        self.replies: list[Reply] = []
        self._cloud = cloud
        self._socket = socket
        self._nursery = nursery
        self._ids = 0
        self._speech = ""
        self._line = MULAW_8K
        self._ear = Ear(self._line, Acuity())
        self._sending = trio.Lock()

    @property
    def manner(self) -> Manner:
        return self._cloud.manner

    async def run(self) -> None:
        await self.send({"type": "session.created", "session": self.config})
        while True:
            while self.manner.is_deaf:  # noqa: ASYNC110 - a switch that tests turn at any time
                await trio.sleep(0.1)
            message = await self._socket.get_message()
            try:
                said = orjson.loads(message)
                await self._take(said)
            except Unfit as unfit:
                self._cloud.faults.append(f"{unfit.code}: {unfit}")
                await self.fail(unfit.code, str(unfit), said.get("event_id"))
            limit_s = self.manner.cut_after_s
            if limit_s is not None and self.audio_s >= limit_s:
                await self._socket.aclose(self.manner.close_code)
                return

    async def send(self, *events: Said) -> None:
        if self.manner.stalls:
            return
        for event in events:
            self._ids += 1
            event["event_id"] = f"event_{self._ids}"
        async with self._sending:
            for said in self.manner.twist(list(events)) if self.manner.twist else events:
                await self._socket.send_message(said if isinstance(said, str | bytes) else orjson.dumps(said).decode())

    async def fail(self, code: str, words: str, event_id: object = None) -> None:
        error = {"type": "invalid_request_error", "code": code, "message": words, "param": None, "event_id": event_id}
        await self.send({"type": "error", "error": error})

    async def hang_up(self, code: int = 1011) -> None:
        """In the middle of whatever is said."""
        with trio.move_on_after(1):
            await self._socket.aclose(code)

    def new_id(self, kind: str) -> str:
        self._ids += 1
        return f"{kind}_{self._ids}"

    async def add(self, item: Said) -> None:
        before = next(reversed(self.items), None)
        item.setdefault("id", self.new_id("item"))
        self.items[item["id"]] = item
        shown = {key: value for key, value in item.items() if key not in ("said", "seconds")}
        event = {"previous_item_id": before, "item": {"object": "realtime.item", **shown}}
        await self.send({"type": "conversation.item.added", **event})
        if item.get("status") != "in_progress":
            await self.send({"type": "conversation.item.done", **event})

    # --- from the client ------------------------------------------------------------------------------------

    async def _take(self, said: Said) -> None:
        kind = said.get("type")
        if kind not in _FIELDS:
            raise Unfit("unknown_event", f"unknown type {kind}")
        if unknown := set(said) - _FIELDS[kind] - {"type", "event_id"}:
            raise Unfit("unknown_parameter", f"{kind}: {sorted(unknown)}")
        if kind != "input_audio_buffer.append":
            self.told.append(said)
        await getattr(self, "_on_" + kind.replace(".", "_"))(said)

    async def _on_session_update(self, said: Said) -> None:
        config = said.get("session", {})
        if config.get("type") != "realtime":
            raise Unfit("missing_required_parameter", "session.type")
        if unknown := set(config) - _SESSION:
            raise Unfit("unknown_parameter", f"session: {sorted(unknown)}")
        self.updates.append(config)
        self.config.update(config)
        hears = config.get("audio", {}).get("input", {}).get("format", {"type": "audio/pcm", "rate": 24000})
        speaks = config.get("audio", {}).get("output", {}).get("format", {"type": "audio/pcm", "rate": 24000})
        for format_ in (hears, speaks):
            if format_["type"] not in FORMATS or (format_["type"] == "audio/pcm" and format_.get("rate") != 24000):
                raise Unfit("invalid_value", "audio format")
        for tool in config.get("tools", ()):
            if tool.get("type") != "function" or not {"name", "parameters"} <= set(tool):
                raise Unfit("invalid_value", "tools")
        self._line = FORMATS[hears["type"]]
        detection = self.detection
        endpoint_s = detection.get("silence_duration_ms", 500) / 1000
        self._ear = Ear(self._line, Acuity(onset_s=0.1, pause_s=endpoint_s / 2, endpoint_s=endpoint_s))
        await self.send({"type": "session.updated", "session": self.config})

    @property
    def detection(self) -> Said:
        found: Said = self.config["audio"].get("input", {}).get("turn_detection") or {}
        return found

    @property
    def speaks(self) -> AudioFormat:
        return FORMATS[self.config["audio"].get("output", {}).get("format", {"type": "audio/pcm"})["type"]]

    async def _on_input_audio_buffer_append(self, said: Said) -> None:
        try:
            audio = b64decode(said["audio"], validate=True)
        except (KeyError, TypeError, binascii.Error):
            raise Unfit("invalid_value", "audio") from None
        seconds = self._line.duration_s(audio)
        self.audio_s += seconds
        self.longest_s = max(self.longest_s, seconds)
        for sound in self._ear.feed(audio):
            await self._hear(sound)

    async def _on_conversation_item_create(self, said: Said) -> None:
        item = dict(said.get("item", {}))
        match item.get("type"):
            case "message":
                kind = "output_text" if item.get("role") == "assistant" else "input_text"
                content = item.get("content") or []
                if not content or any(part.get("type") != kind for part in content):
                    raise Unfit("invalid_value", f"content of {item.get('role')}: {kind} is wanted")
                item["said"] = " ".join(part["text"] for part in content)
            case "function_call_output":
                calls = [other["call_id"] for other in self.items.values() if other["type"] == "function_call"]
                if item.get("call_id") not in calls or not isinstance(item.get("output"), str):
                    raise Unfit("invalid_tool_call_id", "function_call_output")
            case "function_call":
                if not isinstance(item.get("arguments"), str):
                    raise Unfit("invalid_value", "arguments")
            case _:
                raise Unfit("invalid_value", "item.type")
        await self.add(item)

    async def _on_conversation_item_truncate(self, said: Said) -> None:
        item = self.items.get(said.get("item_id", ""))
        end_ms = said.get("audio_end_ms")
        if item is None or item.get("role") != "assistant" or not isinstance(end_ms, int):
            raise Unfit("item_truncate_invalid_item_id", "no such item")
        if not 0 <= end_ms <= math.ceil(item["seconds"] * 1000):
            raise Unfit("invalid_value", f"audio is only {item['seconds'] * 1000:.0f} ms long, not {end_ms}")
        spoken_s = max(0.0, end_ms / 1000 - self.manner.lead_silence_s)
        item["said"] = item["whole"][: int(spoken_s * self.manner.chars_per_s)].strip()
        item["seconds"] = end_ms / 1000
        item["truncated_ms"] = end_ms
        await self.send(
            {
                "type": "conversation.item.truncated",
                "item_id": item["id"],
                "content_index": said.get("content_index", 0),
                "audio_end_ms": end_ms,
            }
        )

    async def _on_response_create(self, said: Said) -> None:
        if self.active is not None:
            self._cloud.races.append("active")
            code = "conversation_already_has_active_response"
            await self.fail(code, "Conversation already has an active response", said.get("event_id"))
            return
        await self._reply(said.get("response") or {})

    async def _on_response_cancel(self, said: Said) -> None:
        if self.active is None or said.get("response_id", self.active.reply_id) != self.active.reply_id:
            self._cloud.races.append("not active")
            await self.fail("response_cancel_not_active", "Cancellation failed", said.get("event_id"))
            return
        await self.active.cancel("client_cancelled")

    # --- the caller -----------------------------------------------------------------------------------------

    async def _hear(self, sound: Sound) -> None:
        if not self.detection:
            return
        if sound.kind == "voice":
            self._speech = self.new_id("item")
            start_ms = round(sound.begins_s * 1000) - self.detection.get("prefix_padding_ms", 300)
            await self.send(
                {
                    "type": "input_audio_buffer.speech_started",
                    "audio_start_ms": max(0, start_ms),
                    "item_id": self._speech,
                }
            )
            if self.active is not None and self.detection.get("interrupt_response", True):
                await self.active.cancel("turn_detected")
        elif sound.kind == "over" and self._speech:
            item_id, self._speech = self._speech, ""
            end_ms = round(sound.at_s * 1000)
            before = next(reversed(self.items), None)
            await self.send(
                {"type": "input_audio_buffer.speech_stopped", "audio_end_ms": end_ms, "item_id": item_id},
                {"type": "input_audio_buffer.committed", "previous_item_id": before, "item_id": item_id},
            )
            content = [{"type": "input_audio", "transcript": None}]
            await self.add({"id": item_id, "type": "message", "role": "user", "content": content, "said": sound.text})
            self._nursery.start_soon(self._transcribe, item_id, sound.text)
            if self.detection.get("create_response", True) and self.active is None:
                await self._reply({})

    async def _transcribe(self, item_id: str, text: str) -> None:
        if not self.config["audio"]["input"].get("transcription"):
            return
        about = {"item_id": item_id, "content_index": 0}
        kind = "conversation.item.input_audio_transcription"
        try:
            await trio.sleep(0.05)
            if not self.manner.transcribes:
                error = {"type": "transcription_error", "code": "audio_unintelligible", "message": "no", "param": None}
                await self.send({"type": f"{kind}.failed", **about, "error": error})
                return
            for word in words_of(text):
                await self.send({"type": f"{kind}.delta", **about, "delta": word})
            usage = {"type": "duration", "seconds": 1.0}
            await self.send({"type": f"{kind}.completed", **about, "transcript": text, "usage": usage})
        except ConnectionClosed:
            pass

    # --- replies --------------------------------------------------------------------------------------------

    async def _reply(self, wanted: Said) -> None:
        if self.manner.errors:
            await self.send({"type": "error", "error": self.manner.errors.popleft()})
        reply = self.active = Reply(self, self._cloud, wanted)
        self.replies.append(reply)
        await reply.begin()
        self._nursery.start_soon(reply.run)

    def think(self, wanted: Said) -> Thought:
        exactly = EXACTLY.search(wanted.get("instructions") or "")
        if exactly:
            return Thought([exactly[1]])
        if self.manner.says is not None:
            return Thought(self.manner.says)
        return think(self.shown())

    def shown(self) -> Shown:
        items = list(self.items.values())
        last = max((place for place, item in enumerate(items) if item.get("role") == "user"), default=-1)
        system = [("system", self.config["instructions"])] if self.config.get("instructions") else []
        return Shown(
            [*system, *((item["role"], item["said"]) for item in items if item["type"] == "message" and item["said"])],
            frozenset(tool["name"] for tool in self.config.get("tools", ())),
            [item["output"] for item in items[last + 1 :] if item["type"] == "function_call_output"],
        )


class Reply:
    """One response."""

    def __init__(self, session: Session, cloud: OpenAIRealtimeCloud, wanted: Said) -> None:
        self.reply_id = session.new_id("resp")
        self.status = "in_progress"
        self.text = ""
        self._session = session
        self._manner = cloud.manner
        self._wanted = wanted
        self._output: list[Said] = []
        self._item: Said | None = None
        self._cancelled = trio.CancelScope()

    async def begin(self) -> None:
        await self._session.send({"type": "response.created", "response": self._response()})

    async def run(self) -> None:
        manner, session = self._manner, self._session
        try:
            with self._cancelled:
                thought = session.think(self._wanted)
                await trio.sleep(manner.first_audio_s)
                if manner.fails is not None:
                    await self._finish("failed", {"type": "failed", "error": manner.fails})
                    return
                if thought.pieces:
                    await self._say("".join(thought.pieces).strip())
                for name, arguments in thought.calls:
                    await self._call(name, arguments)
                await self._finish("completed", None)
        except ConnectionClosed:
            pass

    async def cancel(self, reason: str) -> None:
        self._cancelled.cancel()
        late = self._pieces(self.text)[: self._manner.late_pieces] if self._item else []
        if self._item is not None:
            self._item["status"] = "incomplete"
            await self._done(self._item)
        await self._finish("cancelled", {"type": "cancelled", "reason": reason})
        for piece in late:
            await self._sound(piece)

    async def _say(self, text: str) -> None:
        session, manner = self._session, self._manner
        self.text = text
        content = [{"type": "output_audio", "transcript": ""}]
        item: Said = {
            "id": session.new_id("item"),
            "type": "message",
            "role": "assistant",
            "status": "in_progress",
            "content": content,
            "said": "",
            "whole": text,
            "seconds": 0.0,
        }
        self._item = item
        at = self._at
        await session.send({"type": "response.output_item.added", **self._of(), "item": _bare(item)})
        await session.add(item)
        await session.send({"type": "response.content_part.added", **at, "part": {"type": "audio", "transcript": ""}})
        for word in words_of(text):
            await session.send({"type": "response.output_audio_transcript.delta", **at, "delta": word})
        for piece in self._pieces(text):
            item["seconds"] += session.speaks.duration_s(piece)
            spoken = int(max(0.0, item["seconds"] - manner.lead_silence_s) * manner.chars_per_s + 0.5)
            item["said"] = text[:spoken].strip()
            await self._sound(piece)
            await trio.sleep(manner.piece_s / manner.speed)
        item["said"] = text
        content[0]["transcript"] = text
        await session.send({"type": "response.output_audio.done", **at})
        await session.send({"type": "response.output_audio_transcript.done", **at, "transcript": text})
        part = {"type": "audio", "transcript": text}
        await session.send({"type": "response.content_part.done", **at, "part": part})
        item["status"] = "completed"
        self._item = None
        await self._done(item)

    async def _call(self, name: str, arguments: str) -> None:
        session = self._session
        item: Said = {
            "id": session.new_id("item"),
            "type": "function_call",
            "status": "in_progress",
            "call_id": session.new_id("call"),
            "name": name,
            "arguments": "",
        }
        about = {**self._of(), "item_id": item["id"]}
        await session.send({"type": "response.output_item.added", **self._of(), "item": _bare(item)})
        await session.add(item)
        fields = {"call_id": item["call_id"]}
        kind = "response.function_call_arguments"
        await session.send({"type": f"{kind}.delta", **about, **fields, "delta": arguments})
        await session.send({"type": f"{kind}.done", **about, **fields, "name": name, "arguments": arguments})
        item["arguments"], item["status"] = arguments, "completed"
        await self._done(item)

    async def _done(self, item: Said) -> None:
        self._output.append(_bare(item))
        index = len(self._output) - 1
        await self._session.send(
            {"type": "conversation.item.done", "previous_item_id": None, "item": _bare(item)},
            {
                "type": "response.output_item.done",
                "response_id": self.reply_id,
                "output_index": index,
                "item": _bare(item),
            },
        )

    async def _sound(self, piece: bytes) -> None:
        delta = b64encode(piece).decode()
        await self._session.send({"type": "response.output_audio.delta", **self._at, "delta": delta})

    async def _finish(self, status: str, details: Said | None) -> None:
        if self.status != "in_progress":
            return
        self.status = status
        if self._session.active is self:
            self._session.active = None
        usage = {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12}
        response = {**self._response(), "status_details": details, "usage": usage, "output": self._output}
        await self._session.send({"type": "response.done", "response": response})

    def _pieces(self, text: str) -> list[bytes]:
        manner, line = self._manner, self._session.speaks
        audio = line.silence(manner.lead_silence_s) + speak(text, line, chars_per_s=manner.chars_per_s)
        size = max(1, round(manner.piece_s * 50)) * line.frame_bytes
        return [audio[at : at + size] for at in range(0, len(audio), size)]

    @property
    def _at(self) -> Said:
        assert self._item is not None or self._output
        item_id = self._item["id"] if self._item is not None else self._output[-1]["id"]
        return {**self._of(), "item_id": item_id, "content_index": 0}

    def _of(self) -> Said:
        return {"response_id": self.reply_id, "output_index": len(self._output)}

    def _response(self) -> Said:
        return {
            "object": "realtime.response",
            "id": self.reply_id,
            "status": self.status,
            "status_details": None,
            "output": [],
            "conversation_id": "conv_1",
            "output_modalities": ["audio"],
            "max_output_tokens": "inf",
            "metadata": self._wanted.get("metadata"),
            "usage": None,
        }


def _bare(item: Said) -> Said:
    return {key: value for key, value in item.items() if key not in ("said", "whole", "seconds", "truncated_ms")}
