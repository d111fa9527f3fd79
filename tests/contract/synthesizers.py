"""Every synthesizer with its fake, for the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
import trio.testing

from adapters.speech.speaking.aura import AuraConfig, AuraSynthesizerVendor
from adapters.speech.speaking.cartesia import CartesiaConfig, CartesiaSynthesizerVendor
from adapters.speech.speaking.elevenlabs import ElevenLabsConfig, ElevenLabsSynthesizerVendor, ElevenLabsWire
from adapters.speech.speaking.openai import OpenAISpeechConfig, OpenAISynthesizerVendor
from adapters.speech.speaking.speechmatics import SpeechmaticsSpeechConfig, SpeechmaticsSynthesizerVendor
from engine.events import MULAW_8K, PCM16_8K, PCM16_16K, PCM16_24K, AudioFormat, CallInfo
from engine.ports import Synthesizer, SynthesizerVendor
from engine.runtime.ledger import Ledger
from engine.runtime.network import Network
from tests.fakes.clouds.aura import Aura
from tests.fakes.clouds.cartesia import Cartesia
from tests.fakes.clouds.elevenlabs_speech import ElevenLabsSpeech
from tests.fakes.clouds.loopback import Cloud, dialled
from tests.fakes.clouds.openai_speech import OpenAISpeech
from tests.fakes.clouds.speechmatics_speech import SpeechmaticsSpeech
from tests.fakes.clouds.voicebox import SpeechCloud


@dataclass(frozen=True)
class Kind:
    name: str
    cloud: Callable[[], SpeechCloud]
    vendor: Callable[[Network, str, str], SynthesizerVendor]
    """Of a network, a host and a key."""
    lines: tuple[AudioFormat, ...]
    """Formats that the vendor speaks itself: only they carry plain speech."""
    is_socket: bool

    @property
    def line(self) -> AudioFormat:
        return self.lines[0]

    def __str__(self) -> str:
        return self.name


def _elevenlabs(wire: ElevenLabsWire) -> Callable[[Network, str, str], SynthesizerVendor]:
    return lambda network, host, key: ElevenLabsSynthesizerVendor(
        ElevenLabsConfig(key, voice="v", model="m", url=f"http://{host}", wire=wire), network
    )


ALL_LINES = (MULAW_8K, PCM16_8K, PCM16_16K, PCM16_24K)
KINDS = (
    Kind("elevenlabs stream-input", ElevenLabsSpeech, _elevenlabs(ElevenLabsWire.SOCKETS), ALL_LINES, True),
    Kind("elevenlabs multi-stream-input", ElevenLabsSpeech, _elevenlabs(ElevenLabsWire.CONTEXTS), ALL_LINES, True),
    Kind("elevenlabs stream", ElevenLabsSpeech, _elevenlabs(ElevenLabsWire.HTTP), ALL_LINES, False),
    Kind(
        "cartesia",
        Cartesia,
        lambda network, host, key: CartesiaSynthesizerVendor(
            CartesiaConfig(key, voice="v", model="m", url=f"ws://{host}/tts/websocket"), network
        ),
        ALL_LINES,
        True,
    ),
    Kind(
        "aura",
        Aura,
        lambda network, host, key: AuraSynthesizerVendor(
            AuraConfig(key, model="aura-x", url=f"ws://{host}/v1/speak"), network
        ),
        ALL_LINES,
        True,
    ),
    Kind(
        "speechmatics",
        SpeechmaticsSpeech,
        lambda network, host, key: SpeechmaticsSynthesizerVendor(
            SpeechmaticsSpeechConfig(key, url=f"http://{host}"), network
        ),
        (PCM16_16K,),
        False,
    ),
    Kind(
        "openai",
        OpenAISpeech,
        lambda network, host, key: OpenAISynthesizerVendor(
            OpenAISpeechConfig(key, model="m", voice="v", url=f"http://{host}/v1"), network
        ),
        (PCM16_24K,),
        False,
    ),
)


class Book:
    """What the ledger says, kept for looking."""

    def __init__(self) -> None:
        self.leaks = 0

    def opened(self, *_: object) -> None: ...

    def closed(self, *_: object) -> None: ...

    def leaked(self, *_: object) -> None:
        self.leaks += 1


@dataclass
class Bench:
    """One vendor, its cloud, and a call that may have a synthesizer of it."""

    kind: Kind
    network: Network
    cloud: SpeechCloud
    line: AudioFormat
    host: str = "cloud"
    book: Book = field(default_factory=Book)
    opened: list[Synthesizer] = field(default_factory=list)

    @asynccontextmanager
    async def synthesizer(self, key: str = "k") -> AsyncIterator[Synthesizer]:
        call = CallInfo("twilio", "CA1", "MZ1", self.line, "desk")
        ledger = Ledger("CA1", self.book)
        try:
            async with self.kind.vendor(self.network, self.host, key).open(call, ledger) as synthesizer:
                self.opened.append(synthesizer)
                yield synthesizer
        finally:
            assert not ledger.entries
            assert self.book.leaks == 0

    async def all_closed(self) -> None:
        """Both ends: nothing is open any more a second later."""
        await trio.sleep(1.5)
        assert all(synthesizer.is_closed for synthesizer in self.opened)
        assert (self.cloud.sockets_open, self.cloud.requests_open) == (0, 0)


@asynccontextmanager
async def bench_of(
    kind: Kind, line: AudioFormat | None = None, network: Callable[[SpeechCloud, trio.Nursery], Network] = dialled
) -> AsyncIterator[Bench]:
    """On memory streams. The cloud's faults are the test's."""
    cloud = kind.cloud()
    async with trio.open_nursery() as nursery:
        yield Bench(kind, network(cloud, nursery), cloud, line or kind.line)
        nursery.cancel_scope.cancel()
    assert cloud.faults == []


def kind_named(name: str) -> Kind:
    return next(kind for kind in KINDS if kind.name == name)


def in_lockstep(cloud: Cloud, nursery: trio.Nursery) -> Network:
    """As ``dialled``, with no room on the way to us: what is not read cannot be sent either."""

    def pair() -> tuple[trio.abc.Stream, trio.abc.Stream]:
        near_send, far_receive = trio.testing.memory_stream_one_way_pair()
        far_send, near_receive = trio.testing.lockstep_stream_one_way_pair()
        return trio.StapledStream(near_send, near_receive), trio.StapledStream(far_send, far_receive)

    return dialled(cloud, nursery, pair)


async def heard(synthesizer: Synthesizer, text: str) -> bytes:
    """All of a speech."""
    async with synthesizer.open_speech(text) as speech:
        return b"".join([piece async for piece in speech])
