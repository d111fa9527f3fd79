"""Whole calls on real adapters and fake clouds, two for each role, each behind a proxy with faults of its own; what the
caller hears of it, and when."""

from __future__ import annotations

import base64
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field, fields
from typing import Any, Generic, TypeVar

import trio
from trio.testing import memory_stream_pair

from adapters.models.anthropic import AnthropicConfig, AnthropicModelVendor
from adapters.models.openai_chat import OpenAiChatConfig, OpenAiChatModelVendor
from adapters.speech.hearing.deepgram import DeepgramConfig, DeepgramTranscriberVendor
from adapters.speech.hearing.speechmatics import SpeechmaticsConfig, SpeechmaticsTranscriberVendor
from adapters.speech.speaking.cartesia import CartesiaConfig, CartesiaSynthesizerVendor
from adapters.speech.speaking.elevenlabs import ElevenLabsConfig, ElevenLabsSynthesizerVendor, ElevenLabsWire
from engine.dialogue.recollection import recollect
from engine.events import (
    MULAW_8K,
    AudioFormat,
    CallInfo,
    Context,
    Message,
    Recollection,
    ReplyPart,
    SessionInfo,
    ToolCall,
    Usage,
)
from engine.observe.metrics import Metrics
from engine.observe.timeline import What
from engine.ports import CallControl, LanguageModel, Mode, Owner, Phrases, RawModel, Synthesizer, Transcriber, vendor_of
from engine.runtime.network import Network
from engine.settings import Limits
from engine.vendors.around import Vendoring
from engine.vendors.breaker import Breakers
from engine.vendors.hearing import open_transcriber
from engine.vendors.policy import Policy
from engine.vendors.speaking import open_synthesizer
from engine.vendors.thinking import open_model
from tests.fakes.clouds.anthropic_messages import AnthropicMessages
from tests.fakes.clouds.cartesia import Cartesia
from tests.fakes.clouds.deepgram_listen import DeepgramCloud
from tests.fakes.clouds.elevenlabs_speech import ElevenLabsSpeech
from tests.fakes.clouds.loopback import Cloud, dialled
from tests.fakes.clouds.openai_chat import OpenAiChat
from tests.fakes.clouds.speechmatics import SpeechmaticsCloud
from tests.fakes.clouds.thinking import KEY
from tests.fakes.fault_proxy import Faults, faulty
from tests.fakes.plain_speech import Utterance, frames_of, read, speak
from tests.fakes.samples import total
from tests.fakes.stage import Caller, Stage, stage

LINE = MULAW_8K
GREETING = "Hello, this is the desk."
BRISK = 100.0
"""Characters a second."""
NAMES = ("deepgram", "speechmatics", "cartesia", "elevenlabs", "openai", "anthropic")
REALTIME_NAMES = ("openai_realtime", "elevenlabs_agents")

C = TypeVar("C", bound=Cloud)
V = TypeVar("V")
Place = Callable[[Any, Callable[[Network], Any]], "Behind[Any, Any]"]
"""Puts a vendor's cloud behind a proxy, and makes the vendor that is connected with it."""


@dataclass
class Behind(Generic[C, V]):
    """A vendor, its cloud, and what goes wrong on the way there."""

    vendor: V
    cloud: C
    faults: Faults


class Agent:
    """Implements ``engine.ports.Agent`` and ``CountingAgent``, as the agents of the settings do."""

    pipeline = "custom"
    mode = Mode.PIPELINE
    name = "desk"
    counts_vendors = True

    def __init__(
        self, ears: Sequence[Any], voices: Sequence[Any], minds: Sequence[Any], around: Vendoring, *, has_clips: bool
    ) -> None:
        self.phrases = Phrases(GREETING)
        self.transcriber_vendor = ears[0].name
        self.synthesizer_vendor = voices[0].name
        self.model_vendor = minds[0].name
        self._ears, self._voices, self._minds = ears, voices, minds
        self._around = around
        self._has_clips = has_clips

    def open_transcriber(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Transcriber]:
        return open_transcriber(self._ears, call, owner, self._around)

    def open_synthesizer(self, call: CallInfo, owner: Owner) -> AbstractAsyncContextManager[Synthesizer]:
        return open_synthesizer(self._voices, call, owner, self._around)

    @asynccontextmanager
    async def open_model(
        self, session: SessionInfo, owner: Owner, control: CallControl
    ) -> AsyncIterator[LanguageModel]:
        async with open_model(self._minds, session, owner, self._around) as model:
            yield WithoutTools(model)

    async def recollect(self, messages: Sequence[Message], before: Recollection, session: SessionInfo) -> Recollection:
        return recollect(messages, before)

    def clip(self, text: str, format: AudioFormat) -> bytes | None:  # noqa: A002 - the port's word
        is_fixed = self._has_clips and text in self.phrases.all()
        return speak(text, format, chars_per_s=50) if is_fixed else None


class WithoutTools:
    def __init__(self, inner: RawModel) -> None:
        self._inner = inner

    @property
    def is_closed(self) -> bool:
        return self._inner.is_closed

    @property
    def vendor(self) -> str:
        return vendor_of(self._inner, "")

    @asynccontextmanager
    async def open_reply(self, context: Context) -> AsyncIterator[trio.abc.ReceiveChannel[ReplyPart]]:
        async with self._inner.open_reply(context) as parts:
            yield _Parts(parts)


class _Parts(trio.abc.ReceiveChannel[ReplyPart]):
    def __init__(self, inner: trio.abc.ReceiveChannel[Any]) -> None:
        self._inner = inner

    async def receive(self) -> ReplyPart:
        part = await self._inner.receive()
        assert not isinstance(part, ToolCall | Usage)
        return part  # type: ignore[no-any-return]  # of a channel of parts

    async def aclose(self) -> None:
        await self._inner.aclose()


@dataclass(eq=False)
class Witness(Caller):
    """A caller who writes down what is heard, and when."""

    audio: list[tuple[float, bytes]] = field(default_factory=list)
    spoke_until_s: float = 0.0
    is_quiet: bool = True
    """Between what is said, a frame a second stands for fifty."""

    async def say(self, text: str, *, chars_per_s: float = 25.0, pause_s: float = 0.7) -> None:
        """``pause_s``: of silence behind it, as a recogniser wants it."""
        self.is_quiet = False
        for frame in frames_of(speak(text, LINE, chars_per_s=chars_per_s), LINE):
            await self.frames(payload=base64.b64encode(frame).decode())
        self.spoke_until_s = trio.current_time()
        await self.frames(round(pause_s / 0.02))
        self.is_quiet = True

    async def stay_on_the_line(self) -> None:
        with suppress(trio.BrokenResourceError):
            while True:
                if self.is_quiet:
                    await self.frames()
                await trio.sleep(0.48)

    def _take(self, message: dict[str, Any], nursery: trio.Nursery) -> None:
        if message["event"] == "media":
            begins_s = max(self._plays_until_s, trio.current_time())
            self.audio.append((begins_s, base64.b64decode(message["media"]["payload"])))
        elif message["event"] == "clear":
            now = trio.current_time()
            self.audio = [(at_s, audio) for at_s, audio in self.audio if at_s < now]
        super()._take(message, nursery)

    @property
    def queued_s(self) -> float:
        """Of what was sent, not heard yet."""
        return max(0.0, self._plays_until_s - trio.current_time())

    @property
    def words(self) -> list[str]:
        """Every utterance that was sent to the ear."""
        heard = read(b"".join(audio for _, audio in self.audio), LINE)
        return [each.text if not each.lost else f"{each.text}({each.lost} lost)" for each in heard]

    def silence_s(self) -> float:
        """From the caller's last word to the next sound of the agent."""
        return min((at_s for at_s, _ in self.audio if at_s >= self.spoke_until_s), default=1e9) - self.spoke_until_s

    def answer(self, since_s: float | None = None) -> str:
        """What was heard since the caller's last word."""
        return " ".join(each.text.strip() for each in self.answered(since_s))

    def answered(self, since_s: float | None = None) -> list[Utterance]:
        """The same, piece by piece."""
        since_s = self.spoke_until_s if since_s is None else since_s
        return read(b"".join(audio for at_s, audio in self.audio if at_s >= since_s), LINE)


@dataclass
class World:
    """A stage, its vendors, and the way there."""

    on: Stage
    around: Vendoring
    ears: Sequence[Behind[Any, Any]] = ()
    voices: Sequence[Behind[Any, Any]] = ()
    minds: Sequence[Behind[Any, Any]] = ()
    souls: Sequence[Behind[Any, Any]] = ()
    """Speech to speech."""
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @asynccontextmanager
    async def call(self, *, wait_s: float = 2.0) -> AsyncIterator[Witness]:
        """A call, when its greeting has been heard; it hangs up at the end of the block."""
        number = next(self.numbers)
        call_id = f"CA{number:032x}"
        async with self.on.socket() as socket, trio.open_nursery() as nursery:
            caller = Witness(socket, call_id, f"MZ{number:032x}")
            nursery.start_soon(caller.listen)
            caller.spoke_until_s = trio.current_time()
            await caller.start(await self.on.token(call_id, caller=f"+1555010{number:04d}"))
            nursery.start_soon(caller.stay_on_the_line)
            await trio.sleep(wait_s)
            yield caller
            if not caller.gone.is_set():
                with suppress(trio.BrokenResourceError):
                    await caller.hang_up()
            with trio.fail_after(5):
                while not self._is_released(call_id):  # noqa: ASYNC110 - seen from outside
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

    def _is_released(self, call_id: str) -> bool:
        return any(moment.call_id == call_id and moment.what is What.CALL_RELEASED for moment in self.on.moments)

    def value(self, name: str, **labels: str) -> float:
        return self.on.value(name, **labels)

    def requests(self, vendor: str) -> dict[str, int]:
        roles = (("stt", self.ears), ("tts", self.voices), ("llm", self.minds), ("realtime", self.souls))
        kind = next(k for k, of in roles if vendor in [behind.vendor.name for behind in of])
        counted = {
            status: int(self.value("vendor_requests_total", vendor=vendor, kind=kind, status=status))
            for status in ("ok", "error", "timeout", "cancelled")
        }
        return {status: count for status, count in counted.items() if count}

    @property
    def behinds(self) -> list[Behind[Any, Any]]:
        return [*self.ears, *self.voices, *self.minds, *self.souls]

    async def at_rest(self) -> None:
        """Nothing is left of any call, at either end."""
        await trio.sleep(3)
        registry = self.on.metrics.registry
        assert total(registry, "resources_open") == 0
        assert total(registry, "resources_leaked_total") == 0
        assert total(registry, "resources_opened_total") == total(registry, "resources_closed_total")
        for behind in self.behinds:
            assert behind.cloud.sockets_open == 0, behind.vendor.name
            # A fake that hangs does not look whether anybody is there; its way is closed, as is seen below.
            assert is_hanging(behind.cloud) or behind.cloud.requests_open == 0, behind.vendor.name
            assert behind.faults.open == 0, behind.vendor.name
        assert not self.on.escaped


@asynccontextmanager
async def world(
    *, seconds: bool = True, has_clips: bool = True, pair: Any = memory_stream_pair, **limits: Any
) -> AsyncIterator[World]:
    """``seconds``: each role has a second vendor. Left, nothing may be open."""
    async with ground(pair, **limits) as (around, behind):
        ears = [behind(DeepgramCloud(), _deepgram), behind(SpeechmaticsCloud(), _speechmatics)]
        voices = [behind(Cartesia(), _cartesia), behind(ElevenLabsSpeech(), _elevenlabs)]
        minds = two_minds(behind)
        for each in voices:
            each.cloud.voicebox.chars_per_s = 50.0
        count = 2 if seconds else 1
        agent = Agent(
            [each.vendor for each in ears[:count]],
            [each.vendor for each in voices[:count]],
            [each.vendor for each in minds[:count]],
            around,
            has_clips=has_clips,
        )
        async with stage(agent, metrics=around.metrics, **{"silence_s": 1000.0, **limits}) as on:
            made = World(on, around, ears, voices, minds)
            yield made
            await made.at_rest()


@asynccontextmanager
async def ground(pair: Any = memory_stream_pair, **limits: Any) -> AsyncIterator[tuple[Vendoring, Place]]:
    """What a world stands on. Left, the clouds are gone."""
    names = (*NAMES, *REALTIME_NAMES)
    metrics = Metrics(("twilio",), ("custom",), ("memory",), names, actors=("registry",), routes=("/",))
    known = {each.name for each in fields(Limits)}
    policy = Policy.of(Limits(**{name: value for name, value in limits.items() if name in known}))
    async with trio.open_nursery() as nursery:

        def behind(cloud: Any, make: Callable[[Network], Any]) -> Behind[Any, Any]:
            faults = Faults()
            return Behind(make(dialled(cloud, nursery, faulty(faults, nursery, pair))), cloud, faults)

        yield Vendoring(metrics, Breakers(metrics), policy), behind
        nursery.cancel_scope.cancel()


def two_minds(behind: Place) -> list[Behind[Any, Any]]:
    return [behind(OpenAiChat(), _openai), behind(AnthropicMessages(), _anthropic)]


def is_hanging(cloud: Any) -> bool:
    manner = getattr(cloud, "manner", None)
    return manner is not None and (getattr(manner, "hangs", False) or manner.is_silent)


def _deepgram(network: Network) -> DeepgramTranscriberVendor:
    return DeepgramTranscriberVendor(DeepgramConfig("k", url="ws://a/v1/listen"), network)


def _speechmatics(network: Network) -> SpeechmaticsTranscriberVendor:
    return SpeechmaticsTranscriberVendor(SpeechmaticsConfig("k", url="ws://b/v2"), network)


def _cartesia(network: Network) -> CartesiaSynthesizerVendor:
    config = CartesiaConfig("k", voice="v", model="m", url="ws://c/tts/websocket")
    return CartesiaSynthesizerVendor(config, network)


def _elevenlabs(network: Network) -> ElevenLabsSynthesizerVendor:
    config = ElevenLabsConfig("k", voice="v", model="m", url="http://d", wire=ElevenLabsWire.SOCKETS)
    return ElevenLabsSynthesizerVendor(config, network)


def _openai(network: Network) -> OpenAiChatModelVendor:
    return OpenAiChatModelVendor(OpenAiChatConfig(key=KEY, model="m", url="http://e/v1"), network)


def _anthropic(network: Network) -> AnthropicModelVendor:
    return AnthropicModelVendor(AnthropicConfig(key=KEY, model="m", url="http://f"), network)
