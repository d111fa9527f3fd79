"""Every recogniser behind the port: its fake cloud, its adapter, and what they need to talk to each other in a test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from adapters.speech.hearing.assemblyai import AssemblyAIConfig, AssemblyAITranscriberVendor
from adapters.speech.hearing.deepgram import DeepgramConfig, DeepgramTranscriberVendor
from adapters.speech.hearing.flux import FluxConfig, FluxTranscriberVendor
from adapters.speech.hearing.openai import OpenAITranscriberConfig, OpenAITranscriberVendor
from adapters.speech.hearing.scribe import ScribeConfig, ScribeTranscriberVendor
from adapters.speech.hearing.speechmatics import SpeechmaticsConfig, SpeechmaticsTranscriberVendor
from engine.events import (
    MULAW_8K,
    AudioFormat,
    CallInfo,
    Heard,
    SpeechStarted,
    SpeechStopped,
    TranscriberEvent,
    TurnLikelyOver,
    TurnOver,
    TurnResumed,
)
from engine.ports import Transcriber, TranscriberVendor
from engine.runtime.background import beside
from engine.runtime.ledger import Ledger
from engine.runtime.network import Network
from tests.fakes.clouds.assemblyai import AssemblyAICloud
from tests.fakes.clouds.deepgram_listen import DeepgramCloud
from tests.fakes.clouds.flux import FluxCloud
from tests.fakes.clouds.loopback import dialled
from tests.fakes.clouds.openai_transcription import TranscriptionCloud
from tests.fakes.clouds.scribe import ScribeCloud
from tests.fakes.clouds.speechmatics import SpeechmaticsCloud


@dataclass(frozen=True, slots=True)
class Kind:
    """One vendor."""

    name: str
    cloud: Callable[[], Any]
    make: Callable[[str, str, Network], TranscriberVendor]
    """From a key, the scheme and host of the cloud, and a network."""
    onset_slack_s: float = 0.07
    """How far ``SpeechStarted.at_s`` may be from the first sound."""

    def vendor(self, network: Network, key: str = "k", host: str = "cloud") -> TranscriberVendor:
        return self.make(key, host, network)


def _speechmatics(key: str, host: str, network: Network) -> TranscriberVendor:
    return SpeechmaticsTranscriberVendor(SpeechmaticsConfig(key, url=f"ws://{host}/v2"), network)


def _deepgram(key: str, host: str, network: Network) -> TranscriberVendor:
    return DeepgramTranscriberVendor(DeepgramConfig(key, url=f"ws://{host}/v1/listen"), network)


def _flux(key: str, host: str, network: Network) -> TranscriberVendor:
    return FluxTranscriberVendor(FluxConfig(key, url=f"ws://{host}/v2/listen"), network)


def _scribe(key: str, host: str, network: Network) -> TranscriberVendor:
    return ScribeTranscriberVendor(ScribeConfig(key, url=f"ws://{host}/v1/speech-to-text/realtime"), network)


def _assemblyai(key: str, host: str, network: Network) -> TranscriberVendor:
    return AssemblyAITranscriberVendor(AssemblyAIConfig(key, url=f"ws://{host}/v3/ws"), network)


def _openai(key: str, host: str, network: Network) -> TranscriberVendor:
    return OpenAITranscriberVendor(OpenAITranscriberConfig(key, url=f"http://{host}/v1"), network)


SOCKETS = (
    Kind("speechmatics", SpeechmaticsCloud, _speechmatics),
    Kind("deepgram", DeepgramCloud, _deepgram),
    Kind("flux", FluxCloud, _flux, onset_slack_s=0.35),
    Kind("scribe", ScribeCloud, _scribe, onset_slack_s=0.35),
    Kind("assemblyai", AssemblyAICloud, _assemblyai),
)
EARS = (*SOCKETS, Kind("openai", TranscriptionCloud, _openai))


class NoBook:
    """What ledgers report goes nowhere."""

    def opened(self, *_: object) -> None: ...

    def closed(self, *_: object) -> None: ...

    def leaked(self, *_: object) -> None:
        raise AssertionError("leaked")


def call_over(line: AudioFormat = MULAW_8K) -> CallInfo:
    return CallInfo("twilio", "c1", "s1", line, "desk")


@asynccontextmanager
async def listening(
    kind: Kind, cloud: Any, nursery: trio.Nursery, line: AudioFormat = MULAW_8K, *, key: str = "k"
) -> AsyncIterator[Transcriber]:
    """The adapter, connected to this cloud on the virtual clock."""
    vendor = kind.vendor(dialled(cloud, nursery), key)
    async with vendor.open(call_over(line), Ledger("c1", NoBook())) as ear:
        yield ear


Said = list[tuple[float, TranscriberEvent]]


async def hear(ear: Transcriber, audio: bytes, line: AudioFormat = MULAW_8K, *, for_s: float = 0.0) -> Said:
    """Speak in real time and write down what is heard, and when, until the audio has been said and ``for_s`` more."""
    heard: Said = []

    async def speak() -> None:
        for at in range(0, len(audio), line.frame_bytes):
            ear.send(audio[at : at + line.frame_bytes])
            await trio.sleep(0.02)

    async with beside(speak):
        with trio.move_on_after(line.duration_s(audio) + for_s):
            while True:
                event = await ear.receive()
                heard.append((trio.current_time(), event))
    return heard


def finals(said: Said) -> list[str]:
    return [event.text for _, event in said if isinstance(event, Heard) and event.is_final]


def check(said: Said, *, decides_turns: bool, is_whole: bool = True) -> None:
    """What the port promises of the order and the times of its events."""
    is_open = is_likely_over = False
    started_s = 0.0
    for now_s, event in said:
        match event:
            case SpeechStarted(at_s):
                assert not is_open
                is_open, started_s = True, at_s
                assert at_s <= now_s + 1e-6
            case SpeechStopped(at_s):
                assert is_open
                assert started_s - 1e-6 <= at_s <= now_s + 1e-6
            case Heard(text, is_final):
                assert is_open
                assert text or is_final
                is_open = not is_final
            case TurnLikelyOver():
                assert is_open
                assert not is_likely_over
                is_likely_over = True
            case TurnResumed():
                assert is_open
                assert is_likely_over
                is_likely_over = False
            case TurnOver():
                assert not is_open
                assert decides_turns
                is_likely_over = False
    if is_whole:
        assert not is_open
        assert not is_likely_over
