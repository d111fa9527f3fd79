"""Every speech-to-speech model behind the port: its fake cloud, its adapter, and a call to try them in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from adapters.realtime.elevenlabs.config import ElevenLabsAgentsConfig
from adapters.realtime.elevenlabs.vendor import ElevenLabsAgentsVendor
from adapters.realtime.openai.config import OpenAIRealtimeConfig
from adapters.realtime.openai.vendor import OpenAIRealtimeVendor
from engine.events import (
    MULAW_8K,
    PCM16_8K,
    PCM16_16K,
    PCM16_24K,
    AudioFormat,
    CallInfo,
    Context,
    Heard,
    Message,
    Modality,
    RealtimeEvent,
    ReplyAudio,
    ReplyOver,
    ReplyStarted,
    ReplyText,
    SessionInfo,
    SpeechStarted,
    SpeechStopped,
    ToolSpec,
)
from engine.ports import RealtimeModel, RealtimeVendor
from engine.runtime.background import beside
from engine.runtime.ledger import Ledger
from engine.runtime.network import Network
from tests.contract.ears import NoBook
from tests.fakes.clouds.elevenlabs_agents import ElevenLabsAgentsCloud
from tests.fakes.clouds.loopback import dialled
from tests.fakes.clouds.openai_realtime import OpenAIRealtimeCloud
from tests.fakes.plain_speech import words

WEATHER = ToolSpec("weather", "How it is")
NEW = Context((), instructions="Be of help.", tools=(WEATHER,))
SESSION = SessionInfo("s1", "desk", Modality.VOICE, call_id="CA1")
LINES = (MULAW_8K, PCM16_8K, PCM16_16K, PCM16_24K)


def _openai(key: str, network: Network) -> RealtimeVendor:
    return OpenAIRealtimeVendor(OpenAIRealtimeConfig(key, model="m", url="ws://cloud/v1/realtime"), network)


def _elevenlabs(key: str, network: Network) -> RealtimeVendor:
    config = ElevenLabsAgentsConfig(key, agent="agent_1", url="ws://cloud/v1/convai/conversation")
    return ElevenLabsAgentsVendor(config, network)


def _openai_cloud(line: AudioFormat) -> Any:
    return OpenAIRealtimeCloud()


def _elevenlabs_cloud(line: AudioFormat) -> Any:
    cloud = ElevenLabsAgentsCloud()
    cloud.manner.scores = True
    if line != MULAW_8K:
        cloud.manner.hears = cloud.manner.speaks = f"pcm_{line.rate_hz}"
    return cloud


@dataclass(frozen=True)
class Kind:
    """One vendor."""

    name: str
    make_cloud: Callable[[AudioFormat], Any]
    """That speaks the line's format, if it can."""
    make: Callable[[str, Network], RealtimeVendor]
    lines: tuple[AudioFormat, ...]
    """Formats that it takes as they are: only they carry plain speech."""
    error: dict[str, Any]
    """That leaves the session open."""

    def __str__(self) -> str:
        return self.name


OPENAI = Kind(
    "openai",
    _openai_cloud,
    _openai,
    (MULAW_8K, PCM16_24K),
    {"type": "server_error", "code": "hiccup", "message": "sorry", "event_id": None},
)
ELEVENLABS = Kind(
    "elevenlabs",
    _elevenlabs_cloud,
    _elevenlabs,
    LINES,
    {"code": 1011, "message": "sorry", "error_type": "hiccup"},
)
KINDS = (OPENAI, ELEVENLABS)


@dataclass
class Rig:
    """One call with one model."""

    cloud: Any
    model: RealtimeModel
    line: AudioFormat
    events: list[tuple[float, RealtimeEvent]] = field(default_factory=list)
    """All that came, and when."""

    @property
    def audio(self) -> bytes:
        return b"".join(event.audio for _, event in self.events if isinstance(event, ReplyAudio))

    @property
    def words(self) -> str:
        """What was heard of the model, in plain speech."""
        return words(self.audio, self.line)

    @property
    def texts(self) -> str:
        """What it says it said."""
        return "".join(event.text for _, event in self.events if isinstance(event, ReplyText))

    @property
    def heard(self) -> list[str]:
        """The caller's words."""
        return [event.text for _, event in self.events if isinstance(event, Heard) and event.is_final]

    def of(self, kind: type) -> list[Any]:
        return [event for _, event in self.events if isinstance(event, kind)]

    async def listen(self, for_s: float, until: Callable[[RealtimeEvent], bool] = lambda _: False) -> bool:
        """Take what comes, for so long or until something has come. Returns whether it has."""
        with trio.move_on_after(for_s):
            while True:
                event = await self.model.receive()
                self.events.append((trio.current_time(), event))
                if until(event):
                    return True
        return False

    async def say(self, audio: bytes, *, for_s: float = 0.0) -> None:
        """Speak in real time, and listen until ``for_s`` after."""

        async def speak() -> None:
            for at in range(0, len(audio), self.line.frame_bytes):
                self.model.send(audio[at : at + self.line.frame_bytes])
                await trio.sleep(0.02)

        async with beside(speak):
            await self.listen(self.line.duration_s(audio) + for_s)

    async def gone(self) -> bool:
        """Nothing is open at the other end, soon."""
        await trio.sleep(1.0)
        return (self.cloud.sockets_open, self.cloud.requests_open) == (0, 0)


@asynccontextmanager
async def talking(
    kind: Kind,
    cloud: Any,
    nursery: Any,
    line: AudioFormat = MULAW_8K,
    *,
    key: str = "k",
    context: Context = NEW,
) -> AsyncIterator[Rig]:
    """The adapter, connected to this cloud on the virtual clock."""
    vendor = kind.make(key, dialled(cloud, nursery))
    call = CallInfo("twilio", "CA1", "MZ1", line, "desk")
    async with vendor.open(call, SESSION, context, Ledger("CA1", NoBook())) as model:
        yield Rig(cloud, model, line)


def went_on(*messages: Message) -> Context:
    """A session in which this was said before."""
    return Context(messages, instructions="Be of help.", tools=(WEATHER,))


def check(events: list[tuple[float, RealtimeEvent]], line: AudioFormat, *, is_whole: bool = True) -> None:
    """What the port promises of order and shape."""
    owed = 0
    is_speaking = False
    open_replies: set[str] = set()
    begun: set[str] = set()
    for now_s, event in events:
        match event:
            case SpeechStarted(at_s):
                assert not is_speaking
                assert at_s <= now_s + 1e-6
                is_speaking, owed = True, owed + 1
            case SpeechStopped(at_s):
                assert is_speaking
                assert at_s <= now_s + 1e-6
                is_speaking = False
            case Heard(_, is_final):
                assert owed > 0
                owed -= is_final
            case ReplyStarted(reply_id):
                assert reply_id not in begun
                begun.add(reply_id)
                open_replies.add(reply_id)
            case ReplyAudio(reply_id, audio):
                assert reply_id in open_replies
                assert audio
                assert len(audio) % line.frame_bytes == 0
            case ReplyText(reply_id, text):
                assert reply_id in open_replies
                assert text
            case ReplyOver(reply_id, _):
                assert reply_id in open_replies
                open_replies.discard(reply_id)
    if is_whole:
        assert owed == 0
        assert not open_replies
