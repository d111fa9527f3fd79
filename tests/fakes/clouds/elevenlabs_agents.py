"""ElevenLabs Agents, as a fake on loopback: the conversation over a WebSocket, and its tests over HTTP.

Hears and speaks plain speech in the formats that the agent is set to, and answers by rule
(``tests.fakes.clouds.thinking.think``). Of an answer that was interrupted it remembers what it has corrected it to.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import trio
from trio_websocket import ConnectionClosed

from engine.events import AudioFormat, Encoding
from tests.fakes.clouds.elevenlabs_tests import AgentTests
from tests.fakes.clouds.listening import Acuity, Ear, Sound
from tests.fakes.clouds.loopback import Cloud, Peer, Refuse, Request, Response
from tests.fakes.clouds.openai_realtime import EXACTLY
from tests.fakes.clouds.thinking import Shown, think, words_of
from tests.fakes.plain_speech import CHARS_PER_S, speak

Said = dict[str, Any]
FORMATS = {
    "ulaw_8000": AudioFormat(Encoding.MULAW, 8000),
    **{f"pcm_{rate}": AudioFormat(Encoding.PCM16, rate) for rate in (8000, 16000, 22050, 24000, 44100, 48000)},
}
_FIELDS: Mapping[str, set[str]] = {
    "pong": {"event_id"},
    "user_message": {"text"},
    "contextual_update": {"text", "context_id"},
    "user_activity": set(),
    "feedback": {"score", "event_id"},
    "client_tool_result": {"tool_call_id", "result", "is_error"},
}
PONG_S = 10.0


@dataclass(slots=True)
class Manner:
    """How the fake behaves; may be turned at any time."""

    refuse_first: int = 0
    """So many connections are refused, with:"""
    refuses: int = 503
    page: bytes = b""
    is_silent: bool = False
    stalls: bool = False
    is_deaf: bool = False
    hears: str = "ulaw_8000"
    speaks: str = "ulaw_8000"
    """The agent's formats."""
    first_message: str = "Hello, I am the agent of the fake."
    """The agent's own."""
    overrides: frozenset[str] = frozenset({"prompt", "first_message", "language", "voice", "text_only"})
    """What the agent's security settings allow."""
    first_audio_s: float = 0.1
    speed: float = 10.0
    piece_s: float = 0.2
    lead_silence_s: float = 0.0
    chars_per_s: float = CHARS_PER_S
    late_pieces: int = 0
    """What still comes of an answer after its interruption, under older numbers."""
    ping_s: float = 5.0
    cut_after_s: float | None = None
    close_code: int = 1011
    session_s: float = 3600.0
    errors: deque[Said] = field(default_factory=deque)
    """Told, one before each answer."""
    says: Sequence[str] | None = None
    scores: bool = False
    """``vad_score`` and tentative transcripts are sent."""
    completes: bool = False
    """``agent_response_complete`` is sent."""
    parts: bool = False
    """Words are sent as they are thought of, too."""
    twist: Callable[[list[Said]], Iterable[Said | str | bytes]] | None = None
    ends_calls: bool = False
    """After a goodbye the agent ends the conversation by itself."""
    pending_polls: int = 1
    """How often a test's run is not done yet when it is asked for."""


class Unfit(Exception):
    """The socket is closed with 1008 over it."""


class ElevenLabsAgentsCloud(Cloud):
    """``faults``: what clients did wrong."""

    path = "/v1/convai/conversation"

    def __init__(self, *, key: str = "k", agent: str = "agent_1", manner: Manner | None = None) -> None:
        super().__init__()
        self.key = key
        self.agent = agent
        self.manner = manner or Manner()
        self.faults: list[str] = []
        self.sessions: deque[Session] = deque(maxlen=1000)
        self.tests = AgentTests(agent, self.faults)

    def admits(self, request: Request) -> None:
        if self.manner.refuse_first:
            self.manner.refuse_first -= 1
            raise Refuse(self.manner.refuses, self.manner.page)
        if request.path != self.path or request.one("agent_id") != self.agent:
            self.faults.append("path or agent")
            raise Refuse(404)
        if self.key not in (request.headers.get("xi-api-key"), request.one("token")):
            raise Refuse(401)

    async def http(self, request: Request) -> Response:
        if self.manner.refuse_first:
            self.manner.refuse_first -= 1
            return Response(self.manner.refuses, {"retry-after": "2"}, self.manner.page or b"{}")
        if request.headers.get("xi-api-key") != self.key:
            return Response(401, body=b'{"detail": {"status": "invalid_api_key", "message": "no"}}')
        if request.path == f"{self.path}/get-signed-url":
            url = f"ws://{request.headers['host']}{self.path}?agent_id={request.one('agent_id')}&token={self.key}"
            return Response(headers={"content-type": "application/json"}, body=orjson.dumps({"signed_url": url}))
        return self.tests.answer(request, self.manner.pending_polls, self.manner.says)

    async def websocket(self, request: Request, socket: Peer) -> None:
        while self.manner.is_silent:
            await socket.get_message()
        async with trio.open_nursery() as nursery:
            session = Session(self, socket, nursery)
            self.sessions.append(session)
            try:
                with trio.move_on_after(self.manner.session_s):
                    await session.run()
                await socket.aclose(1000 if not session.fault else 1008, session.fault or None)
            except ConnectionClosed:
                pass
            nursery.cancel_scope.cancel()


class Session:
    def __init__(self, cloud: ElevenLabsAgentsCloud, socket: Peer, nursery: trio.Nursery) -> None:
        self.initiation: Said = {}
        self.said: list[tuple[str, str]] = []
        """Role and text of the conversation; ``system`` for what was told beside it."""
        self.told: list[Said] = []
        """What the client sent, audio apart."""
        self.audio_s = 0.0
        self.longest_s = 0.0
        self.fault = ""
        self.spoken: list[str] = []
        self._cloud = cloud
        self._socket = socket
        self._nursery = nursery
        self._numbers = 0
        self._line = FORMATS[cloud.manner.hears]
        self._ear = Ear(self._line, Acuity(onset_s=0.1, pause_s=0.2, endpoint_s=0.5))
        self._answer: Answer | None = None
        self._results: dict[str, str | None] = {}
        """Of tools, once they are there."""
        self._pings: deque[int] = deque()
        self._sending = trio.Lock()

    @property
    def manner(self) -> Manner:
        return self._cloud.manner

    @property
    def is_text(self) -> bool:
        conversation = self.initiation.get("conversation_config_override", {}).get("conversation", {})
        return bool(conversation.get("text_only"))

    async def run(self) -> None:
        try:
            await self._begin(orjson.loads(await self._socket.get_message()))
            self._nursery.start_soon(self._ping)
            while not self.fault:
                while self.manner.is_deaf:  # noqa: ASYNC110 - a switch that tests turn at any time
                    await trio.sleep(0.1)
                await self._take(orjson.loads(await self._socket.get_message()))
                limit_s = self.manner.cut_after_s
                if limit_s is not None and self.audio_s >= limit_s:
                    await self._socket.aclose(self.manner.close_code)
                    return
        except Unfit as unfit:
            self.fault = str(unfit)
            self._cloud.faults.append(self.fault)
            error = {"code": 1008, "message": self.fault, "error_type": self.fault.split(":", 1)[0]}
            await self.send({"type": "error", "error_event": error})

    async def send(self, *events: Said) -> None:
        if self.manner.stalls:
            return
        async with self._sending:
            for said in self.manner.twist(list(events)) if self.manner.twist else events:
                await self._socket.send_message(said if isinstance(said, str | bytes) else orjson.dumps(said).decode())

    async def end(self) -> None:
        """By the agent's own tool."""
        tool = {"tool_name": "end_call", "tool_call_id": "t1", "tool_type": "system", "is_error": False}
        await self.send({"type": "agent_tool_response", "agent_tool_response": tool})
        await self._socket.aclose(1000)

    async def hang_up(self, code: int = 1011) -> None:
        """In the middle of whatever is said."""
        with trio.move_on_after(1):
            await self._socket.aclose(code)

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    # --- from the client ------------------------------------------------------------------------------------

    async def _begin(self, said: Said) -> None:
        if said.get("type") != "conversation_initiation_client_data":
            raise Unfit("conversation_initiation_client_data is wanted first")
        self.initiation = said
        override = said.get("conversation_config_override", {})
        agent, manner = override.get("agent", {}), self.manner
        wanted = {*agent, *override.get("conversation", {})} | ({"voice"} if override.get("tts") else set())
        if forbidden := wanted - manner.overrides:
            raise Unfit(f"override_error: {sorted(forbidden)}")
        variables = said.get("dynamic_variables", {})
        if not all(isinstance(value, str | int | float | bool) for value in variables.values()):
            raise Unfit("invalid dynamic variables")
        prompt = agent.get("prompt", {}).get("prompt", "")
        self.said += [("system", text) for text in (prompt,) if text]
        self.said += turns_in(str(variables.get("history", "")))
        about = {
            "conversation_id": "conv_1",
            "agent_output_audio_format": manner.speaks,
            "user_input_audio_format": manner.hears,
        }
        await self.send({"type": "conversation_initiation_metadata", "conversation_initiation_metadata_event": about})
        first = agent.get("first_message", manner.first_message)
        if first:
            await self._begin_answer([first])

    async def _take(self, said: Said) -> None:
        if "user_audio_chunk" in said:
            if set(said) != {"user_audio_chunk"}:
                raise Unfit("user_audio_chunk stands alone")
            await self._on_audio(said["user_audio_chunk"])
            return
        kind = said.get("type", "")
        if kind not in _FIELDS or set(said) - _FIELDS[kind] - {"type"}:
            raise Unfit(f"unknown message {kind} {sorted(said)}")
        self.told.append(said)
        match kind:
            case "pong":
                if said.get("event_id") not in self._pings:
                    raise Unfit("pong of no ping")
                self._pings.remove(said["event_id"])
            case "user_message":
                self.said.append(("user", said["text"]))
                await self._think()
            case "contextual_update":
                self.said += turns_in(said["text"])
            case "client_tool_result":
                if said.get("tool_call_id") not in self._results or not isinstance(said.get("result"), str):
                    raise Unfit("client_tool_result")
                self._results[said["tool_call_id"]] = said["result"]
                if None not in self._results.values():
                    await self._think()

    async def _on_audio(self, data: str) -> None:
        try:
            audio = b64decode(data, validate=True)
        except (TypeError, binascii.Error):
            raise Unfit("audio") from None
        seconds = self._line.duration_s(audio)
        self.audio_s += seconds
        self.longest_s = max(self.longest_s, seconds)
        if self.manner.scores:
            loud = any(byte != audio[0] for byte in audio)
            await self.send({"type": "vad_score", "vad_score_event": {"vad_score": 0.95 if loud else 0.02}})
        for sound in self._ear.feed(audio):
            await self._hear(sound)

    async def _hear(self, sound: Sound) -> None:
        if sound.kind == "voice" and self._answer is not None and self._answer.is_heard:
            await self._answer.interrupt()
        elif sound.kind == "words" and self.manner.scores:
            event = {"user_transcript": sound.text, "event_id": self.next_number()}
            await self.send({"type": "tentative_user_transcript", "tentative_user_transcription_event": event})
        elif sound.kind == "over" and sound.text:
            self.said.append(("user", sound.text))
            self._results.clear()
            event = {"user_transcript": sound.text, "event_id": self.next_number()}
            await self.send({"type": "user_transcript", "user_transcription_event": event})
            await self._think()

    async def _ping(self) -> None:
        try:
            while True:
                number = self.next_number()
                if not self.manner.stalls:
                    self._pings.append(number)
                await self.send({"type": "ping", "ping_event": {"event_id": number, "ping_ms": 20}})
                if len(self._pings) * self.manner.ping_s > PONG_S + self.manner.ping_s:
                    self._cloud.faults.append("no pong")
                    await self._socket.aclose(1002)
                await trio.sleep(self.manner.ping_s)
        except ConnectionClosed:
            pass

    # --- answers --------------------------------------------------------------------------------------------

    async def _think(self) -> None:
        manner = self.manner
        if manner.errors:
            await self.send({"type": "error", "error_event": manner.errors.popleft()})
        results = [result for result in self._results.values() if result is not None]
        self._results.clear()
        last = next((text for role, text in reversed(self.said) if role == "user"), "")
        exactly = EXACTLY.search(last)
        if exactly:
            await self._begin_answer([exactly[1]])
            return
        if manner.says is not None:
            await self._begin_answer(manner.says)
            return
        said = [turn for turn in self.said if not EXACTLY.search(turn[1])]
        thought = think(Shown(said, frozenset(), results))
        for name, arguments in thought.calls:
            call_id = f"tool_{self.next_number()}"
            self._results[call_id] = None
            call = {"tool_name": name, "tool_call_id": call_id, "parameters": orjson.loads(arguments)}
            await self.send({"type": "client_tool_call", "client_tool_call": {**call, "event_id": self.next_number()}})
        await self._begin_answer(thought.pieces)

    async def _begin_answer(self, pieces: Sequence[str]) -> None:
        if self._answer is not None:
            self._answer.stop()
        self._answer = Answer(self, "".join(pieces).strip())
        self._nursery.start_soon(self._answer.run)


class Answer:
    def __init__(self, session: Session, text: str) -> None:
        self._session = session
        self._manner = session.manner
        self._text = text
        self._number = 0
        self._began_s = 0.0
        self._sent_s = 0.0
        self._line = FORMATS[self._manner.speaks]
        self._place = len(session.said)
        self._stopped = trio.CancelScope()
        self._is_interrupted = False

    @property
    def is_heard(self) -> bool:
        """The caller is still hearing it, by the clock."""
        return not self._is_interrupted and trio.current_time() < self._began_s + self._sent_s

    async def run(self) -> None:
        session, manner = self._session, self._manner
        try:
            with self._stopped:
                await trio.sleep(manner.first_audio_s)
                session.said.append(("assistant", self._text))
                session.spoken.append(self._text)
                await self._tell()
                if not session.is_text:
                    await self._speak()
                if manner.completes:
                    await session.send({"type": "agent_response_complete"})
                if manner.ends_calls and "goodbye" in self._text:
                    await session.end()
        except ConnectionClosed:
            pass

    def stop(self) -> None:
        self._stopped.cancel()

    async def interrupt(self) -> None:
        session, heard_s = self._session, trio.current_time() - self._began_s
        self._is_interrupted = True
        self._stopped.cancel()
        older = self._number
        await session.send({"type": "interruption", "interruption_event": {"event_id": older, "reason": "user"}})
        heard = self._text[: int(heard_s * self._manner.chars_per_s)].strip()
        event = {"original_agent_response": self._text, "corrected_agent_response": heard}
        await session.send({"type": "agent_response_correction", "agent_response_correction_event": event})
        session.said = [
            (role, heard if text == self._text and role == "assistant" else text) for role, text in session.said
        ]
        for piece in self._pieces()[: self._manner.late_pieces]:
            await self._sound(piece, older)

    async def _tell(self) -> None:
        session, event = self._session, {"agent_response": self._text, "event_id": self._session.next_number()}
        if self._manner.parts or session.is_text:
            for kind, text in [("start", ""), *(("delta", word) for word in words_of(self._text)), ("stop", "")]:
                part = {"text": text, "type": kind, "event_id": session.next_number()}
                await session.send({"type": "agent_chat_response_part", "text_response_part": part})
        await session.send({"type": "agent_response", "agent_response_event": event})

    async def _speak(self) -> None:
        manner = self._manner
        self._began_s = trio.current_time()
        for piece in self._pieces():
            self._number = self._session.next_number()
            await self._sound(piece, self._number)
            self._sent_s += self._line.duration_s(piece)
            await trio.sleep(manner.piece_s / manner.speed)

    async def _sound(self, piece: bytes, number: int) -> None:
        event = {"audio_base_64": b64encode(piece).decode(), "event_id": number}
        await self._session.send({"type": "audio", "audio_event": event})

    def _pieces(self) -> list[bytes]:
        manner, line = self._manner, self._line
        audio = line.silence(manner.lead_silence_s) + speak(self._text, line, chars_per_s=manner.chars_per_s)
        size = max(1, round(manner.piece_s * 50)) * line.frame_bytes
        return [audio[at : at + size] for at in range(0, len(audio), size)]


def turns_in(text: str) -> list[tuple[str, str]]:
    """What a model reads out of the account of a conversation."""
    roles = {"Caller: ": "user", "You: ": "assistant"}
    turns: list[tuple[str, str]] = []
    for line in text.splitlines():
        prefix = next((prefix for prefix in roles if line.startswith(prefix)), "")
        turns.append((roles.get(prefix, "system"), line.removeprefix(prefix)))
    return turns
